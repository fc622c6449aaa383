//! What is worth an event: one per step of the rollout, not per cluster.

use super::Word;
use crate::api::{FluxFleetStatus, Phase, StageState, StageStatus};

/// What has become different between two statuses.
pub(super) fn news(old: Option<&FluxFleetStatus>, new: &FluxFleetStatus, name: &str) -> Vec<Word> {
    let nothing = FluxFleetStatus::default();
    let old = old.unwrap_or(&nothing);
    let Some(target) = &new.target else { return Vec::new() };
    let what = format!("{} ({})", target.version, target.digest);
    let mut words = Vec::new();
    let mut say = |warning, reason, note| words.push(Word { warning, reason, note });
    if old.target.as_ref().is_none_or(|before| before.digest != target.digest) {
        let from = old.target.as_ref().map_or_else(String::new, |before| format!(", was {}", before.version));
        say(false, "TargetChanged", format!("the target is {what}{from}"));
    }
    if new.held.is_none() {
        for stage in &new.stages {
            let before = old.stages.iter().find(|before| before.name == stage.name);
            let is_same_target = old.target.as_ref().is_some_and(|before| before.digest == target.digest);
            if let Some(word) = stage_news(before.filter(|_| is_same_target), stage, &what) {
                say(word.warning, word.reason, word.note);
            }
        }
    }
    if let Some(held) = new.held.as_ref().filter(|held| old.held.as_ref().is_none_or(|before| before.at != held.at)) {
        let how = if held.rollback { "clusters that were moved go back" } else { "nothing more is admitted" };
        say(true, "Stopped", format!("{}: {how}", held.message));
    }
    let message = new.message.clone().unwrap_or_default();
    match (old.phase, new.phase) {
        (before, now) if before == now => {}
        (_, Some(Phase::RolledBack)) => say(true, "RolledBack", message),
        (_, Some(Phase::Complete)) => say(false, "Complete", format!("{name}: {message}")),
        _ => {}
    }
    words
}

fn stage_news(before: Option<&StageStatus>, stage: &StageStatus, what: &str) -> Option<Word> {
    if before.map(|before| before.state) == Some(stage.state) {
        return None;
    }
    let message = stage.message.clone().unwrap_or_default();
    let (warning, reason, note) = match stage.state {
        StageState::Pending | StageState::Preflight | StageState::Empty | StageState::Stopped => return None,
        // A window or an approval in the middle of it is no new start.
        StageState::Updating
            if before
                .is_some_and(|b| matches!(b.state, StageState::Soaking | StageState::Done | StageState::Stopped)) =>
        {
            return None;
        }
        StageState::Updating => (false, "StageStarted", format!("{} clusters to {what}", stage.counts.total)),
        StageState::PreflightFailed => (true, "PreflightFailed", message),
        StageState::AwaitingApproval => (false, "ApprovalRequired", message),
        StageState::AwaitingWindow => (false, "AwaitingWindow", message),
        StageState::Soaking => (false, "StageSoaking", message),
        StageState::Blocked => (true, "StageBlocked", message),
        StageState::Done => (false, "StageDone", format!("{} of {} on {what}", stage.counts.done, stage.counts.total)),
    };
    Some(Word { warning, reason, note: format!("stage {}: {note}", stage.name) })
}
