//! Step 4, no client: the plan itself is made by [`crate::plan::plan`]. Here the steps up to it are joined, once for the
//! operator and the command line, so that what `headwater diff` prints is what the operator executes.

use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;

use super::{Ctx, Memory, Run, StepError, observe, owner_of, resolve};
use crate::api::FluxInstance;
use crate::bundle::{Bundles, Demands};
use crate::cluster::{Cluster, InventoryStore};
use crate::plan::{DesiredSet, Observed, Owner, Plan};
use crate::telemetry::Metrics;

/// What would be done, and on which cluster.
pub struct Preview {
    /// The cluster.
    pub cluster: Cluster,
    /// The objects wanted.
    pub desired: Arc<DesiredSet>,
    /// The plan.
    pub plan: Plan,
}

impl Ctx {
    /// A context with nothing in it yet.
    pub fn new(
        hub: Client,
        namespace: String,
        demands: Demands,
        metrics: Metrics,
        trigger: mpsc::Sender<super::ObjectRef<super::Guarded>>,
    ) -> Self {
        Self {
            clusters: super::Clusters::new(hub.clone(), namespace.clone()),
            hub,
            namespace,
            bundles: Bundles::new(demands),
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
    let ctx = Ctx::new(hub, namespace.to_owned(), Demands::default(), Metrics::default(), trigger);
    resolve::interval(instance)?;
    let (mut memory, mut run) = (Memory::default(), Run::default());
    let prepared = prepare(&ctx, instance, &owner_of(instance), &mut memory, &mut run).await?;
    Ok(Preview { cluster: prepared.cluster, desired: prepared.desired, plan: prepared.plan })
}

/// All that execution takes.
pub(super) struct Prepared {
    pub(super) cluster: Cluster,
    pub(super) store: InventoryStore,
    pub(super) observed: Observed,
    pub(super) desired: Arc<DesiredSet>,
    pub(super) plan: Plan,
}

/// Steps 1 to 4, for the operator and for `headwater diff`; `run` learns what was found out, also when a step fails.
pub(super) async fn prepare(
    ctx: &Ctx,
    instance: &FluxInstance,
    owner: &Owner,
    memory: &mut Memory,
    run: &mut Run,
) -> Result<Prepared, StepError> {
    let cluster = observe::connect(ctx, instance, memory).await?;
    run.cluster = Some(cluster.clone());
    let store = observe::inventory(&cluster, owner, memory).await?;
    let observed = observe::live(&cluster, &store, memory.mirror.as_ref()).await?;

    let resolved = resolve::resolve(ctx, instance).await?;
    run.provenance = Some(resolved.provenance.clone());
    resolve::check_kubernetes(&resolved, &cluster.version)?;
    let desired = ctx.rendered.get(&resolved, &instance.spec)?;
    run.bundle = Some(desired.bundle.clone());
    run.config = Some(desired.config.clone());

    let plan = crate::plan::plan(owner, &desired, &observed);
    Ok(Prepared { cluster, store, observed, desired, plan })
}
