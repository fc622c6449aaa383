//! What a plan says: counts, phase, message, conditions, and the clusters that are not done.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, State};
use super::{Draft, of_stage};
use crate::api::condition::{self, Verdict};
use crate::api::{
    Counts, Enforcement, FleetHeld, FluxFleetStatus, NotReady, Phase, PreflightFinding, StageFinding, StageState,
};

/// Entries of `status.notReady`: a status of ten thousand clusters has to stay small enough to be stored.
const NOT_READY: usize = 30;
/// Findings told of a stage.
const FINDINGS: usize = 10;

/// Counts clusters by state.
fn count(members: &[Member<'_>]) -> Counts {
    let mut counts = Counts::default();
    for member in members {
        counts.total += i64::from(member.state.is_governed());
        let slot = match &member.state {
            State::Done { .. } | State::Wavering { .. } => &mut counts.done,
            State::Moving { .. } => &mut counts.updating,
            State::Failed(_) => &mut counts.failed,
            State::Deferred(_) => &mut counts.deferred,
            State::Excluded(_) | State::Suspended | State::Skipped => &mut counts.left_out,
            State::Conflict(_) => &mut counts.conflicts,
            State::Ungoverned => &mut counts.ungoverned,
            State::Unassigned => &mut counts.unassigned,
            State::Unknown | State::Unchecked | State::Waiting(_) => &mut counts.waiting,
        };
        *slot += 1;
    }
    counts
}

/// Writes everything that follows from the states of members and stages.
pub(super) fn report(draft: &mut Draft<'_, '_>, members: &[Member<'_>]) {
    let now = Time(draft.now);
    let generation = draft.fleet.metadata.generation;
    let name = draft.fleet.metadata.name.clone().unwrap_or_default();
    let is_suspended = draft.fleet.spec.suspend;
    let status = &mut draft.status;
    status.counts = count(members);
    status.progress = Some(format!("{}/{}", status.counts.done, status.counts.total));
    for (place, stage) in status.stages.iter_mut().enumerate() {
        let members = &members[of_stage(members, place)];
        stage.counts = count(members);
        stage.findings = findings(members, status.target.as_ref().map(|t| t.digest.as_str()));
    }
    let mut left: Vec<&Member<'_>> = members.iter().filter(|m| !matches!(m.state, State::Done { .. })).collect();
    left.sort_by_key(|member| (member.state.urgency(), member.name));
    status.more = i64::try_from(left.len().saturating_sub(NOT_READY)).unwrap_or(i64::MAX);
    status.not_ready = left.iter().take(NOT_READY).map(|member| not_ready(member, status)).collect();

    let (phase, message) = phase(status, &name, is_suspended);
    status.phase = Some(phase);
    status.message = Some(condition::cut(message.clone()));
    conditions(status, phase, &message, generation, &now);
}

fn not_ready(member: &Member<'_>, status: &FluxFleetStatus) -> NotReady {
    NotReady {
        name: member.name.to_owned(),
        stage: member.stage.and_then(|stage| status.stages.get(stage)).map(|stage| stage.name.clone()),
        state: member.state.word().to_owned(),
        reason: condition::cut_to(member.state.to_string(), 256),
    }
}

/// Severity, rule, object and message: what makes findings of several clusters one.
type Same<'f> = (&'f str, &'f str, Option<&'f str>, &'f str);

/// What the preflights for the target found, the same on several clusters said once, what is most severe and most frequent first.
fn findings(members: &[Member<'_>], target: Option<&str>) -> Vec<StageFinding> {
    let mut found: BTreeMap<Same<'_>, (i64, &str, &PreflightFinding)> = BTreeMap::new();
    for member in members.iter().filter(|m| !matches!(m.state, State::Done { .. })) {
        let preflight = member.instance.status.as_ref().and_then(|s| s.preflight.as_ref());
        let Some(preflight) = preflight.filter(|p| Some(p.digest.as_str()) == target) else { continue };
        for finding in &preflight.findings {
            let severity = if finding.severity == Enforcement::Error { "0" } else { "1" };
            let key = (severity, finding.rule.as_str(), finding.object.as_deref(), finding.message.as_str());
            found.entry(key).or_insert((0, member.name, finding)).0 += 1;
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|(clusters, _, finding)| (finding.severity, -clusters));
    found
        .into_iter()
        .take(FINDINGS)
        .map(|(clusters, example, finding)| StageFinding {
            clusters,
            example: example.to_owned(),
            finding: finding.clone(),
        })
        .collect()
}

/// Where the whole rollout stands, and the sentence about it.
fn phase(status: &FluxFleetStatus, name: &str, is_suspended: bool) -> (Phase, String) {
    let Some(target) = &status.target else {
        return (Phase::Pending, "the target has not been found yet".to_owned());
    };
    let counts = &status.counts;
    let standing = format!("{} of {} on {}", counts.done, counts.total, target.version);
    if let Some(held) = &status.held {
        return held_phase(status, held, name);
    }
    if is_suspended {
        return (Phase::Suspended, format!("{standing}; spec.suspend holds the rest"));
    }
    let active = status.stages.iter().find(|stage| !stage.lets_by());
    let Some(stage) = active else {
        if !status.stages.iter().any(|stage| stage.is_through(&target.digest)) {
            return (Phase::Pending, "no stage has an instance yet".to_owned());
        }
        let rest = [
            (counts.failed, "failed"),
            (counts.deferred, "deferred"),
            (counts.left_out, "left out"),
            (counts.unassigned, "in no stage"),
            (counts.conflicts, "in conflict"),
        ];
        let rest: Vec<String> = rest.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let rest = if rest.is_empty() { String::new() } else { format!("; {}", rest.join(", ")) };
        let phase = if counts.updating + counts.waiting > 0 { Phase::Updating } else { Phase::Complete };
        return (phase, format!("{standing}{rest}"));
    };
    let phase = match stage.state {
        StageState::Preflight => Phase::Preflight,
        StageState::PreflightFailed => Phase::PreflightFailed,
        StageState::AwaitingApproval => Phase::AwaitingApproval,
        StageState::AwaitingWindow => Phase::AwaitingWindow,
        StageState::Soaking => Phase::Soaking,
        StageState::Blocked => Phase::Blocked,
        StageState::Stopped => Phase::Pending,
        StageState::Updating | StageState::Pending | StageState::Empty | StageState::Done => Phase::Updating,
    };
    let what = stage.message.as_deref().unwrap_or_default();
    (phase, format!("{standing}; stage {}: {what}", stage.name))
}

fn held_phase(status: &FluxFleetStatus, held: &FleetHeld, name: &str) -> (Phase, String) {
    let how = format!("another target or spec, or `headwater fleet resume {name}`, goes on");
    if !held.rollback {
        return (Phase::Stopped, format!("stopped at {}: {}; {how}", held.version, held.message));
    }
    let stuck = status.stages.iter().find(|stage| stage.state == StageState::Blocked);
    if let Some(stage) = stuck {
        let why = stage.message.as_deref().unwrap_or_default();
        return (
            Phase::Stopped,
            format!("stopped going back from {}: stage {}: {why}; {how}", held.version, stage.name),
        );
    }
    if status.stages.iter().any(|stage| stage.state == StageState::Updating) {
        return (Phase::RollingBack, format!("going back from {}: {}", held.version, held.message));
    }
    (Phase::RolledBack, format!("back from {}: {}; {how}", held.version, held.message))
}

fn conditions(status: &mut FluxFleetStatus, phase: Phase, message: &str, generation: Option<i64>, now: &Time) {
    let reason = word(phase);
    let mut say = |type_, verdict| condition::set(&mut status.conditions, type_, verdict, generation, now);
    let is_complete = phase == Phase::Complete;
    let is_stalled = matches!(phase, Phase::Stopped | Phase::RolledBack | Phase::Blocked | Phase::PreflightFailed);
    let is_moving = !is_complete && !is_stalled && phase != Phase::Suspended;
    say(condition::READY, if is_complete { Verdict::yes(reason, message) } else { Verdict::no(reason, message) });
    say(
        condition::RECONCILING,
        if is_moving { Verdict::yes(reason, message) } else { Verdict::no(reason, "nothing to do") },
    );
    say(
        condition::STALLED,
        if is_stalled { Verdict::yes(reason, message) } else { Verdict::no(reason, "nothing stands in the way") },
    );
}

/// As the field's own name is written.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Preflight => "Preflight",
        Phase::PreflightFailed => "PreflightFailed",
        Phase::AwaitingApproval => "AwaitingApproval",
        Phase::AwaitingWindow => "AwaitingWindow",
        Phase::Updating => "Updating",
        Phase::Soaking => "Soaking",
        Phase::Blocked => "Blocked",
        Phase::Suspended => "Suspended",
        Phase::Stopped => "Stopped",
        Phase::RollingBack => "RollingBack",
        Phase::RolledBack => "RolledBack",
        Phase::Complete => "Complete",
    }
}
