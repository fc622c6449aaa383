//! Where a fleet goes: its target, what users said about it, and whether it is held.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Input;
use super::recall::{is_first, recall};
use crate::api::{
    Bound, FleetHeld, FleetHistoryEntry, FleetOutcome, FluxFleet, FluxFleetSpec, FluxFleetStatus, Pinned, RETRY,
    ROLLBACK, Target,
};
use crate::render::digest;

/// Entries of `status.history`.
const HISTORY: usize = 10;

/// The status with which a plan begins: the old one, with a new target and new words in it.
pub(super) fn begin(input: &Input<'_>, now: &Time) -> FluxFleetStatus {
    let (fleet, resolved) = (input.fleet, input.resolved);
    let mut status = fleet.status.clone().unwrap_or_default();
    status.observed_generation = fleet.metadata.generation;
    if let Some(resolved) =
        resolved.filter(|resolved| status.target.as_ref().is_none_or(|t| t.digest != resolved.digest))
    {
        supersede(&mut status, resolved, &essence(&fleet.spec), now);
    }
    let Some(target) = status.target.clone() else { return status };
    if is_first(fleet) {
        recall(&mut status, &target, input, now);
    }
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

/// Another target: all stages begin anew, and what was said about the old one is void. Unless the spec is the same, and it is only the
/// repository that shows something else: when that shows again what was given up, it is still given up.
fn supersede(status: &mut FluxFleetStatus, to: &Pinned, spec: &str, now: &Time) {
    close(status, FleetOutcome::Superseded, now);
    if let Some(entry) = status.history.first_mut() {
        entry.held = status.held.take().filter(|held| held.spec == spec);
    }
    let known = status.history.iter().find(|entry| entry.digest == to.digest);
    let held = known.and_then(|entry| entry.held.clone()).filter(|held| held.spec == spec);
    let (version, digest) = (to.version.clone(), to.digest.clone());
    status.target = Some(Target { version: version.clone(), digest: digest.clone(), since: now.clone() });
    let outcome = if held.is_some() { FleetOutcome::Stopped } else { FleetOutcome::Progressing };
    let entry = FleetHistoryEntry { version, digest, outcome, started: now.clone(), finished: None, held: None };
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
    status.held = held;
    status.resumed = None;
    for stage in &mut status.stages {
        stage.forget_instants();
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
///
/// It is stored, and a release that computes it otherwise ends every hold there is: a field that is added later must not be serialized
/// while it has its default.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds outlive the release that made them.
    #[test]
    fn digest_of_a_spec_is_the_same_in_every_release() {
        let spec = |json| serde_json::from_value::<FluxFleetSpec>(json).unwrap();
        let small =
            serde_json::json!({"selector": {}, "distribution": {"version": "2.x"}, "stages": [{"name": "all"}]});
        assert_eq!(
            essence(&spec(small.clone())),
            "sha256:1cf36da1c5df3ca83295db4a92c8a93474dc826a3a2108bcb2ce177df3d1ca4c"
        );
        let mut same = small.clone();
        same["suspend"] = true.into();
        same["approved"] = "2.9.4".into();
        same["emergency"] = "2.9.4".into();
        same["discover"] =
            serde_json::json!({"clusterAPI": {}, "template": {"spec": {"distribution": {"version": "2.x"}}}});
        assert_eq!(essence(&spec(same)), essence(&spec(small)));
        let full = serde_json::json!({
            "selector": {"matchLabels": {"team": "a"}},
            "distribution": {"version": "2.9.x", "artifact": "oci://registry.example/flux", "verify": {"provider": "cosign", "secretRef": {"name": "k"}}},
            "defaults": {"concurrency": "10%", "maxFailures": 1, "progressDeadline": "20m", "unreachable": "Fail"},
            "onFailure": "Rollback",
            "interval": "5m",
            "stages": [
                {"name": "one", "selector": {"matchLabels": {"ring": "a"}}, "concurrency": 2, "maxFailures": "5%", "progressDeadline": "5m",
                 "unreachable": "Defer", "soak": "1h", "approval": "Required",
                 "windows": [{"kind": "Deny", "cron": "0 9 * * *", "duration": "2h", "timeZone": "Europe/Berlin"}]},
                {"name": "two"},
            ],
        });
        assert_eq!(essence(&spec(full)), "sha256:35766d08e8ea7342610227297d642a5271d8072118677799a2bec055539cc3db");
    }
}
