//! What a fleet still knows that has no status: it is new, or its status was lost. Its clusters tell, and that is enough to move nothing
//! by accident: what was given up stays so, and what was waited for or approved is waited for and asked for again.

#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, State};
use super::{Draft, Input, target};
use crate::api::{Admitted, Bound, FluxFleet, FluxFleetStatus, FluxInstance, HandledWords, RETRY, ROLLBACK, Target};

/// Completes the first status that has a target.
pub(super) fn recall(status: &mut FluxFleetStatus, target: &Target, input: &Input<'_>, now: &Time) {
    let fleet = input.fleet;
    let word = |name: &str| fleet.metadata.annotations.as_ref()?.get(name).cloned();
    // Said of what nobody knows any more: neither tried again nor taken back because of it.
    status.handled = HandledWords { retry: word(RETRY), rollback: word(ROLLBACK) };
    let name = fleet.metadata.name.as_deref().unwrap_or_default();
    let led: Vec<(&FluxInstance, &Admitted)> = led(input.instances, name).collect();
    if !led.is_empty() {
        status.approved = fleet.spec.approved.as_ref().map(|word| Bound::to_nothing(word));
        status.emergency = fleet.spec.emergency.as_ref().map(|word| Bound::to_nothing(word));
    }
    // Since the first of them was admitted to it: what has become of them since counts.
    let moved = led.iter().filter(|(_, admitted)| admitted.digest == target.digest);
    if let (Some(since), Some(target)) = (moved.map(|(_, admitted)| &admitted.at).min(), &mut status.target) {
        target.since = since.min(now).clone();
    }
    let back: Vec<_> = led.iter().filter(|(_, admitted)| admitted.from.as_ref() == Some(&target.digest)).collect();
    let why = if let [(first, _), ..] = back.as_slice() {
        let first = first.metadata.name.as_deref().unwrap_or_default();
        format!("the status of this fleet was lost; {} clusters ({first} for one) had been taken back", back.len())
    } else if status.handled.rollback.is_some() {
        format!("its annotation {ROLLBACK} asks it to go back from a target that it does not know any more")
    } else {
        return;
    };
    target::hold(status, fleet, target, why, false, now);
}

/// Whether a fleet has no target yet: there was no plan before this one, or nobody knows of it.
pub(super) fn is_first(fleet: &FluxFleet) -> bool {
    fleet.status.as_ref().is_none_or(|status| status.target.is_none())
}

/// The instances that a fleet of this name has led, with its last word to each.
fn led<'a>(instances: &[&'a FluxInstance], name: &str) -> impl Iterator<Item = (&'a FluxInstance, &'a Admitted)> {
    let admitted = |instance: &'a FluxInstance| Some((instance, instance.status.as_ref()?.admitted.as_ref()?));
    instances.iter().filter_map(move |instance| admitted(instance)).filter(move |(_, admitted)| admitted.by == name)
}

/// Stops a fleet that has led nobody, as far as is known, when clusters have lost their statuses too: whether the target had been given
/// up is written nowhere then.
pub(super) fn stop_if_nothing_is_known(
    draft: &mut Draft<'_, '_>,
    input: &Input<'_>,
    members: &[Member<'_>],
    target: &Target,
) {
    let name = draft.fleet.metadata.name.as_deref().unwrap_or_default();
    let is_known = draft.status.held.is_some() || draft.status.resumed.is_some();
    if is_known || led(input.instances, name).next().is_some() {
        return;
    }
    let may_move = |state: &State| {
        matches!(
            state,
            State::Waiting(_) | State::Unchecked | State::Deferred(_) | State::Failed(_) | State::Moving { .. }
        )
    };
    let is_lost = |m: &&Member<'_>| may_move(&m.state) && has_lost(m.instance);
    let lost: Vec<&str> = members.iter().filter(is_lost).map(|member| member.name).collect();
    let Some(first) = lost.first() else { return };
    let why = format!(
        "the statuses of {} clusters ({first} for one) were lost, and this fleet knows of no rollout before: whether they had been taken back is not known",
        lost.len()
    );
    target::hold(&mut draft.status, draft.fleet, target, why, false, &Time(draft.now));
}

/// Whether an instance knows what runs, and not how it came there: it was found in place.
fn has_lost(instance: &FluxInstance) -> bool {
    let Some(status) = &instance.status else { return false };
    status.applied.is_some() && status.history.is_empty() && status.admitted.is_none()
}
