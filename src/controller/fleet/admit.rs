//! Writes admissions, and finds out what became of those that were not answered.

use futures::{StreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{Ctx, Memory};
use crate::api::FluxInstance;
use crate::cluster::{ClusterError, with_deadline};
use crate::fleet::{FleetPlan, Move};

/// Writes to the hub at the same time.
const IN_FLIGHT: usize = 16;

/// What became of a plan's admissions.
pub(super) enum Outcome {
    /// All are written.
    Written,
    /// Some instance had changed meanwhile: to be planned anew.
    Overtaken,
    /// Of some it is not known.
    Failed,
}

/// Writes all admissions of a plan.
pub(super) async fn admit(ctx: &Ctx, plan: &FleetPlan<'_>, memory: &mut Memory) -> Outcome {
    // Owned: a borrowed future is not general enough for the stream.
    let bodies: Vec<_> = plan.admissions.iter().map(|planned| (planned.instance.name_any(), body(planned))).collect();
    let api = Api::<FluxInstance>::namespaced(ctx.hub.clone(), &ctx.namespace);
    let writes = stream::iter(bodies).map(|(name, body)| {
        let api = api.clone();
        async move {
            let params = PatchParams::default();
            let written = with_deadline(api.patch_status(&name, &params, &Patch::Merge(body))).await;
            (name, written)
        }
    });
    let results: Vec<_> = writes.buffer_unordered(IN_FLIGHT).collect().await;
    let mut outcome = Outcome::Written;
    for (name, written) in results {
        match written {
            Ok(instance) => {
                memory.written.insert(instance.uid().unwrap_or_default(), instance);
            }
            Err(ClusterError::Conflict(_) | ClusterError::NotFound(_)) => {
                if !matches!(outcome, Outcome::Failed) {
                    outcome = Outcome::Overtaken;
                }
            }
            Err(error) => {
                tracing::warn!(instance = %name, %error, "admission could not be written");
                memory.uncertain.insert(name);
                outcome = Outcome::Failed;
            }
        }
    }
    for planned in &plan.admissions {
        let (instance, admitted) = (planned.instance.name_any(), &planned.admitted);
        tracing::info!(%instance, version = %admitted.version, digest = %admitted.digest, rollback = admitted.rollback, "admitting");
    }
    outcome
}

/// Only on top of what the plan looked at.
fn body(planned: &Move<'_>) -> serde_json::Value {
    json!({
        "metadata": {"uid": planned.instance.uid(), "resourceVersion": planned.instance.resource_version()},
        "status": {"admitted": {
            // Merged into what is there: what is not said would stay.
            "rollback": planned.admitted.rollback.then_some(true),
            "from": planned.admitted.from,
            "version": planned.admitted.version,
            "digest": planned.admitted.digest,
            "by": planned.admitted.by,
            "at": planned.admitted.at,
        }},
    })
}

/// Looks at instances of which it is not known whether a write arrived: until that is known, nothing more is planned, since a place may
/// be taken that nobody sees.
pub(super) async fn find_out(ctx: &Ctx, memory: &mut Memory) -> Result<(), ClusterError> {
    let api = Api::<FluxInstance>::namespaced(ctx.hub.clone(), &ctx.namespace);
    for name in memory.uncertain.clone() {
        match with_deadline(api.get(&name)).await {
            Ok(instance) => {
                memory.written.insert(instance.uid().unwrap_or_default(), instance);
            }
            Err(ClusterError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        memory.uncertain.remove(&name);
    }
    Ok(())
}
