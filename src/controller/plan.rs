//! Step 4, no client: the plan itself is made by [`crate::plan::plan`]. Here is the same pipeline up to that point for the
//! command line, so that what `headwater diff` prints is what the operator executes.

use kube::Client;
use tokio::sync::mpsc;

use super::{Ctx, Memory, StepError, observe, owner_of, resolve};
use crate::api::FluxInstance;
use crate::bundle::Bundles;
use crate::cluster::Cluster;
use crate::plan::{DesiredSet, Plan};
use crate::telemetry::Metrics;

/// What would be done, and on which cluster.
pub struct Preview {
    /// The cluster.
    pub cluster: Cluster,
    /// The objects wanted.
    pub desired: std::sync::Arc<DesiredSet>,
    /// The plan.
    pub plan: Plan,
}

impl Ctx {
    /// A context with nothing in it yet.
    pub fn new(
        hub: Client,
        namespace: String,
        metrics: Metrics,
        trigger: mpsc::Sender<super::ObjectRef<super::Guarded>>,
    ) -> Self {
        Self {
            clusters: super::Clusters::new(hub.clone(), namespace.clone()),
            hub,
            namespace,
            bundles: Bundles::default(),
            rendered: super::render::Rendered::default(),
            metrics,
            trigger,
            memories: std::sync::Mutex::default(),
        }
    }
}

/// Observes, resolves, renders and plans; writes nothing.
pub async fn preview(hub: Client, instance: &FluxInstance, namespace: &str) -> Result<Preview, StepError> {
    let (trigger, _) = mpsc::channel(1);
    let ctx = Ctx::new(hub, namespace.to_owned(), Metrics::default(), trigger);
    let mut memory = Memory::default();
    resolve::interval(instance)?;
    let cluster = observe::connect(&ctx, instance, &mut memory).await?;
    let owner = owner_of(instance);
    let store = observe::inventory(&cluster, &owner, &mut memory).await?;
    let observed = observe::live(&cluster, &store, None).await?;
    let resolved = resolve::resolve(&ctx, instance).await?;
    resolve::check_kubernetes(&resolved, &cluster.version)?;
    let desired = ctx.rendered.get(&resolved, &instance.spec)?;
    let plan = crate::plan::plan(&owner, &desired, &observed);
    Ok(Preview { cluster, desired, plan })
}
