//! Step 2, first half, no client: what the instance may install, and what its fleet is about to admit.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::fleet::readable;
use super::{GuardedFleet, Run, StepError};
use crate::api::condition::Verdict;
use crate::api::{Admission, FluxFleet, FluxInstance, Pinned};
use crate::fleet::{Allowed, allowed, asked, selecting};
use crate::plan::BundleRef;

/// The instance with the version it may have in place of the one it asks for. `running` is what the inventory says: a status
/// may be lost, and what runs then stays.
pub(super) fn admit(
    instance: &FluxInstance,
    running: Option<&BundleRef>,
    run: &mut Run,
) -> Result<FluxInstance, StepError> {
    let now = Timestamp::now();
    let allowed = allowed(instance, now).map_err(StepError::Spec)?;
    let mut admitted = instance.clone();
    let (bundle, rollback) = match (allowed, running) {
        (Allowed::Newest, _) => return Ok(admitted),
        (Allowed::Only { bundle, rollback, until }, _) => {
            run.wake = until.map(|until| until.duration_since(now).unsigned_abs());
            (bundle.digest, rollback)
        }
        (Allowed::AsItIs, Some(running)) => (running.digest.clone(), false),
        (Allowed::AsItIs, None) => return Err(StepError::AwaitingAdmission),
    };
    run.target = Some(bundle.clone());
    admitted.spec.distribution.version = bundle;
    admitted.spec.upgrade.allow_downgrade |= rollback;
    Ok(admitted)
}

/// The fleets that select an instance; none of one that admits itself, whatever they select.
pub(super) fn governing<'f>(instance: &FluxInstance, fleets: &'f [Arc<GuardedFleet>]) -> Vec<&'f FluxFleet> {
    match instance.spec.admission {
        Admission::Own => Vec::new(),
        Admission::Fleet => selecting(instance, readable(fleets)),
    }
}

/// What is to be said of an instance that waits for fleets; nothing of one that does not.
pub(super) fn verdict(instance: &FluxInstance, governing: &[&FluxFleet]) -> Option<Verdict> {
    if instance.spec.admission == Admission::Own {
        return None;
    }
    let mut names: Vec<String> = governing.iter().map(|fleet| fleet.name_any()).collect();
    // What is said must not change from one look to the next.
    names.sort();
    let admitted = instance.status.as_ref().and_then(|s| s.admitted.as_ref());
    let stays = "it stays as it is";
    Some(match (names.as_slice(), admitted) {
        ([], _) => Verdict::no("NoFleet", format!("no FluxFleet of this namespace selects this instance: {stays}")),
        ([_, _, ..], _) => {
            let names = names.join(", ");
            Verdict::no("Conflict", format!("FluxFleets {names} select this instance: none moves it, {stays}"))
        }
        ([fleet], Some(admitted)) => Verdict::yes(
            "Admitted",
            format!("FluxFleet {fleet} has admitted {} ({})", admitted.version, admitted.digest),
        ),
        ([fleet], None) => {
            let text = format!("FluxFleet {fleet} has admitted nothing yet: {stays}");
            Verdict::unknown("AwaitingAdmission", text)
        }
    })
}

/// The bundle that the one fleet of an instance is about to admit.
pub(super) fn candidate(instance: &FluxInstance, governing: &[&FluxFleet]) -> Option<Pinned> {
    match governing {
        [fleet] => asked(instance, fleet),
        _ => None,
    }
}
