//! Where a fleet goes: its target, what users said about it, and whether it is held.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    Bound, FleetHeld, FleetHistoryEntry, FleetOutcome, FluxFleet, FluxFleetSpec, FluxFleetStatus, Pinned, RETRY,
    ROLLBACK, Target,
};
use crate::render::digest;

/// Entries of `status.history`.
const HISTORY: usize = 10;

/// The status with which a plan begins: the old one, with a new target and new words in it.
pub(super) fn begin(fleet: &FluxFleet, resolved: Option<&Pinned>, now: &Time) -> FluxFleetStatus {
    let mut status = fleet.status.clone().unwrap_or_default();
    status.observed_generation = fleet.metadata.generation;
    if let Some(resolved) =
        resolved.filter(|resolved| status.target.as_ref().is_none_or(|t| t.digest != resolved.digest))
    {
        supersede(&mut status, resolved, now);
    }
    let Some(target) = status.target.clone() else { return status };
    status.approved = bind(status.approved.take(), fleet.spec.approved.as_ref(), &target);
    status.emergency = bind(status.emergency.take(), fleet.spec.emergency.as_ref(), &target);
    // A spec whose target is not known yet, since its bundle is not there or not signed, is no word for the one that is held.
    let is_another = |held: &FleetHeld| held.digest != target.digest || held.spec != essence(&fleet.spec);
    if resolved.is_some() && status.held.as_ref().is_some_and(is_another) {
        release(&mut status, now);
    }
    heed(fleet, &mut status, &target, now);
    status
}

/// Another target: all stages begin anew, and what was said about the old one is void.
fn supersede(status: &mut FluxFleetStatus, to: &Pinned, now: &Time) {
    close(status, FleetOutcome::Superseded, now);
    let (version, digest) = (to.version.clone(), to.digest.clone());
    status.target = Some(Target { version: version.clone(), digest: digest.clone(), since: now.clone() });
    let entry =
        FleetHistoryEntry { version, digest, outcome: FleetOutcome::Progressing, started: now.clone(), finished: None };
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
    status.held = None;
    status.resumed = None;
    for stage in &mut status.stages {
        stage.soak_since = None;
        stage.soak_until = None;
    }
}

/// Ends the newest entry of the history, if it is under way.
pub(super) fn close(status: &mut FluxFleetStatus, outcome: FleetOutcome, now: &Time) {
    if let Some(entry) = status.history.first_mut().filter(|entry| entry.outcome == FleetOutcome::Progressing) {
        entry.outcome = outcome;
        entry.finished = Some(now.clone());
    }
}

/// A word of the spec means the first digest that it matched, for as long as it stays the same word.
fn bind(bound: Option<Bound>, word: Option<&String>, target: &Target) -> Option<Bound> {
    let word = word?;
    let matches = *word == target.version || *word == target.digest;
    bound
        .filter(|bound| bound.word == *word)
        .or_else(|| matches.then(|| Bound { word: word.clone(), digest: target.digest.clone() }))
}

/// Whether a word was bound to the target.
pub(super) fn is_bound(bound: Option<&Bound>, target: &Target) -> bool {
    bound.is_some_and(|bound| bound.digest == target.digest)
}

/// Digest of a spec without what only says when, and without what makes instances: such a change is not another try.
fn essence(spec: &FluxFleetSpec) -> String {
    let spec = FluxFleetSpec { approved: None, emergency: None, suspend: false, discover: None, ..spec.clone() };
    digest(serde_json::to_string(&spec).unwrap_or_default().as_bytes())
}

/// Stops at the target.
pub(super) fn hold(
    status: &mut FluxFleetStatus,
    fleet: &FluxFleet,
    target: &Target,
    message: String,
    rollback: bool,
    now: &Time,
) {
    close(status, FleetOutcome::Stopped, now);
    status.held = Some(FleetHeld {
        version: target.version.clone(),
        digest: target.digest.clone(),
        spec: essence(&fleet.spec),
        message,
        at: now.clone(),
        rollback,
    });
}

/// Goes on with the target: what has failed before does not count any more, and is tried again.
fn release(status: &mut FluxFleetStatus, now: &Time) {
    // Not before what it is to be after, should a clock have been put back.
    let held = status.held.take().map(|held| held.at);
    status.resumed = held.into_iter().chain([now.clone()]).max_by_key(|time| time.0);
    if let Some(entry) = status.history.first_mut() {
        entry.outcome = FleetOutcome::Progressing;
        entry.finished = None;
    }
}

/// Follows words that are new.
fn heed(fleet: &FluxFleet, status: &mut FluxFleetStatus, target: &Target, now: &Time) {
    let word = |name: &str| fleet.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)).cloned();
    let retry = word(RETRY);
    if retry.is_some() && retry != status.handled.retry {
        status.handled.retry = retry;
        release(status, now);
    }
    let rollback = word(ROLLBACK);
    if rollback.is_some() && rollback != status.handled.rollback {
        status.handled.rollback = rollback;
        if let Some(entry) = status.history.first_mut() {
            entry.outcome = FleetOutcome::Progressing;
        }
        hold(status, fleet, target, "it was asked to go back".to_owned(), true, now);
    }
}
