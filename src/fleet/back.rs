//! Away from a target: every cluster that was moved goes back to what was good on it, stage by stage.

#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, State, way_back};
use super::reason::Waiting;
use super::{Draft, MAX_IN_FLIGHT, of_stage};
use crate::api::{FleetHeld, FleetOutcome, Pinned, StageState};

/// Admits ways back. Neither soak, window nor approval is waited for; budgets are kept, and a cluster that fails to go back counts.
pub(super) fn walk<'a>(draft: &mut Draft<'a, '_>, members: &mut [Member<'a>], held: &FleetHeld) {
    forget(draft, held);
    let mut moving = members.iter().filter(|m| matches!(m.state, State::Moving { .. })).count();
    let mut is_turn = true;
    for stage in 0..draft.rules.stages.len() {
        let rules = &draft.rules.stages[stage];
        let range = of_stage(members, stage);
        let members = &mut members[range];
        let total = members.iter().filter(|member| member.state.is_governed()).count();
        let failed = members.iter().filter(|member| has_not_gone_back(member, held)).count();
        let is_over = failed > rules.budget(total);
        let under_way = members.iter().filter(|member| matches!(member.state, State::Moving { .. })).count();
        let mut room = rules.slots(total).saturating_sub(under_way).min(MAX_IN_FLIGHT.saturating_sub(moving));
        let waiting = if draft.fleet.spec.suspend {
            Some(Waiting::Suspended)
        } else if is_over {
            Some(Waiting::Stopped)
        } else {
            (!is_turn).then_some(Waiting::Turn)
        };
        for member in members.iter_mut() {
            if !matches!(member.state, State::Waiting(_)) {
                continue;
            }
            let waiting = waiting.or((room == 0).then(|| Waiting::Slot(rules.slots(total))));
            match (waiting, way_back(member.instance, &held.digest)) {
                (None, Some(back)) => {
                    let places = usize::from(draft.admit(member, &back, Some(held)));
                    room -= places;
                    moving += places;
                }
                (waiting, _) => member.state = State::Waiting(waiting.unwrap_or(Waiting::Stopped)),
            }
        }
        let is_left = |member: &&Member<'_>| matches!(member.state, State::Moving { .. } | State::Waiting(_));
        let left = members.iter().filter(is_left).count();
        let status = &mut draft.status.stages[stage];
        (status.state, status.message) = if is_over {
            is_turn = false;
            (
                StageState::Blocked,
                Some(format!("{failed} of {total} could not go back, maxFailures is {}", rules.max_failures)),
            )
        } else if left > 0 {
            is_turn = false;
            (StageState::Updating, Some(format!("{left} have to go back from {}", held.version)))
        } else {
            (StageState::Pending, None)
        };
    }
    if is_turn
        && let Some(entry) = draft.status.history.first_mut().filter(|entry| entry.outcome == FleetOutcome::Stopped)
    {
        entry.outcome = FleetOutcome::RolledBack;
        entry.finished = Some(Time(draft.now));
    }
}

/// Whether a cluster was admitted to its way back, and failed. One that failed at the target is no news.
fn has_not_gone_back(member: &Member<'_>, held: &FleetHeld) -> bool {
    let admitted = member.instance.status.as_ref().and_then(|s| s.admitted.as_ref());
    matches!(member.state, State::Failed(_)) && admitted.is_some_and(|a| a.digest != held.digest)
}

/// Nobody installs the target any more because his stage was through with it.
fn forget(draft: &mut Draft<'_, '_>, held: &FleetHeld) {
    let good = draft
        .status
        .history
        .iter()
        .find(|entry| entry.outcome == FleetOutcome::Succeeded && entry.digest != held.digest);
    let good = good.map(|entry| Pinned::of(&entry.version, &entry.digest));
    for stage in &mut draft.status.stages {
        if stage.is_through(&held.digest) {
            stage.current.clone_from(&good);
        }
        stage.forget_instants();
    }
}
