//! Step 4, no client: the plan itself is made by [`crate::plan::plan`]. Here the steps up to it are joined, once for the
//! operator and the command line, so that what `headwater diff` prints is what the operator executes.

use std::sync::Arc;

use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;

use super::roster::Roster;
use super::{Ctx, Memory, Run, StepError, admission, drift, observe, owner_of, resolve, revisions, survey};
use crate::api::{CONFIRM, FluxInstance, FluxInstanceStatus, Revision};
use crate::bundle::{Bundles, Demands, Resolved};
use crate::cluster::{Cluster, Gate, InventoryStore};
use crate::plan::goal::{Goal, goal};
use crate::plan::migration::{self, Detour, NoWay};
use crate::plan::{
    BundleRef, DesiredSet, Inventory, Observed, Owner, Plan, Policy, Survey, replace, rollout, takeover, upgrade,
};
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

/// The cluster that an operator or a command works from.
pub(super) struct Hub {
    pub(super) client: Client,
    /// Namespace of instances, fleets and Secrets.
    pub(super) namespace: String,
    /// Writes go through only while it is open.
    pub(super) gate: Gate,
}

impl Ctx {
    /// A context with nothing in it yet.
    pub(super) fn new(
        hub: Hub,
        roster: Roster,
        demands: Demands,
        metrics: Metrics,
        fleets: Store<super::GuardedFleet>,
        trigger: mpsc::Sender<super::ObjectRef<super::Guarded>>,
    ) -> Self {
        let Hub { client, namespace, gate } = hub;
        Self {
            clusters: super::Clusters::new(client.clone(), namespace.clone(), gate),
            hub: client,
            namespace,
            bundles: Bundles::new(demands),
            rendered: super::render::Rendered::default(),
            compared: super::preflight::Compared::default(),
            metrics,
            claims: super::claims::Claims::default(),
            fleets,
            trigger,
            roster: std::sync::Mutex::new(roster),
            memories: std::sync::Mutex::default(),
        }
    }

    /// One for a single look from the command line.
    pub(super) fn aside(hub: Client, namespace: &str) -> Self {
        let (trigger, _) = mpsc::channel(1);
        let hub = Hub { client: hub, namespace: namespace.to_owned(), gate: Gate::open() };
        let (fleets, _) = kube::runtime::reflector::store();
        Self::new(hub, Roster::default(), Demands::default(), Metrics::default(), fleets, trigger)
    }
}

/// Observes, resolves, renders and plans; writes nothing.
pub async fn preview(hub: Client, instance: &FluxInstance, namespace: &str) -> Result<Preview, StepError> {
    let ctx = Ctx::aside(hub, namespace);
    resolve::interval(instance)?;
    let (mut memory, mut run) = (Memory::default(), Run::begin(instance));
    ctx.clusters.connect(instance).await;
    let prepared = Box::pin(prepare(&ctx, instance, &owner_of(instance), &mut memory, &mut run)).await?;
    prepared.no_way.map_or(Ok(()), Err)?;
    Ok(Preview { cluster: prepared.cluster, desired: prepared.desired, plan: prepared.plan })
}

/// All that execution takes.
pub(super) struct Prepared {
    pub(super) cluster: Cluster,
    pub(super) store: InventoryStore,
    pub(super) observed: Observed,
    pub(super) resolved: Resolved,
    pub(super) desired: Arc<DesiredSet>,
    pub(super) plan: Plan,
    /// The look before a change; none when nothing changes.
    pub(super) survey: Option<Survey>,
    /// Stored objects have no way to the versions of the bundle: the plan must not be executed.
    pub(super) no_way: Option<NoWay>,
}

impl Prepared {
    /// Whether there is nothing to write.
    pub(super) fn is_settled(&self) -> bool {
        is_settled(&self.plan, &self.store.inventory)
    }
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
    let (mut store, mut observed) = observe::look(&cluster, owner, memory, instance, false).await?;

    let instance = &admission::admit(instance, store.inventory.bundle.as_ref(), run)?;
    let target = resolve::resolve(ctx, instance).await?;
    run.target = Some(target.reference.digest.clone());
    run.goal = goal(&mut run.status, &target.reference.digest, instance.metadata.generation);
    let (instance, resolved) = match &run.goal {
        Goal::Target | Goal::Stay => (instance.clone(), target),
        Goal::Back(revision) => match Box::pin(back(ctx, instance, revision)).await? {
            Ok(found) => found,
            Err(why) => {
                run.refuse_rollback(why);
                (instance.clone(), target)
            }
        },
    };
    run.provenance = Some(resolved.provenance.clone());
    if run.goal == Goal::Target {
        check_direction(&instance, &run.status, &observed.inventory, &resolved.reference)?;
    }
    let desired = ctx.rendered.get(&resolved, &instance.spec)?;
    run.bundle = Some(desired.bundle.clone());
    run.config = Some(desired.config.clone());

    let policy = Policy {
        drift: instance.spec.drift.clone(),
        damped: drift::damped(memory),
        confirmed: instance.annotations().get(CONFIRM).cloned(),
    };
    let mut plan = crate::plan::plan(owner, &desired, &observed, &policy);
    if memory.look.is_some() && !is_settled(&plan, &store.inventory) {
        // What is remembered is no ground to act upon.
        (store, observed) = observe::look(&cluster, owner, memory, &instance, true).await?;
        plan = crate::plan::plan(owner, &desired, &observed, &policy);
    }
    let (mut surveyed, mut no_way) = (None, None);
    if is_change(&plan, &run.status) {
        let survey = survey::survey(&cluster, &desired, &plan).await?;
        plan = takeover::adopt(plan, &survey);
        if plan.keeps_definitions
            && let Some(why) = upgrade::unserved(&desired, &survey)
        {
            match &run.goal {
                Goal::Back(_) => run.refuse_rollback(why),
                Goal::Target | Goal::Stay => return Err(StepError::NotServed(why)),
            }
        }
        if observed.inventory.bundle.is_none()
            && let Some(installed) = survey.installed()
            && installed.cmp_precedence(resolved.bundle.version()).is_gt()
        {
            let wanted = desired.bundle.version.clone();
            return Err(StepError::TakeoverDowngrade { wanted, installed: installed.to_string() });
        }
        let detours = if migration::needs_detour(&plan, &desired, &survey) {
            Box::pin(detours(ctx, &instance, &resolved)).await?
        } else {
            Vec::new()
        };
        match migration::migrate(plan.clone(), &desired, &survey, &detours) {
            Ok(migrating) => plan = migrating,
            Err(error) => no_way = Some(error),
        }
        plan = replace::replace(plan, &survey);
        if instance.spec.wait && run.goal == Goal::Target {
            plan = rollout::order(plan, &desired, &observed, &survey, &resolved.bundle.manifest().rollout);
        }
        surveyed = Some(survey);
    }
    Ok(Prepared { cluster, store, observed, resolved, desired, plan, survey: surveyed, no_way })
}

fn is_settled(plan: &Plan, inventory: &Inventory) -> bool {
    plan.is_empty() && plan.intent == *inventory
}

/// Whether a plan leads to something that has not been applied completely yet, rather than repairing what has.
fn is_change(plan: &Plan, status: &FluxInstanceStatus) -> bool {
    let applied = status.applied.as_ref();
    let is_applied = |bundle: &BundleRef| applied.is_some_and(|r| r.digest == bundle.digest && r.config == plan.config);
    !plan.intent.sweep.is_empty() || (!plan.is_empty() && !plan.bundle.as_ref().is_some_and(is_applied))
}

/// The instance as it was when a revision was good, and that revision's bundle; the reason when they cannot be had any more.
async fn back(
    ctx: &Ctx,
    instance: &FluxInstance,
    revision: &Revision,
) -> Result<Result<(FluxInstance, Resolved), String>, StepError> {
    let Some(spec) = revisions::recall(ctx, instance, revision).await? else {
        let text = format!("the spec with which {} was good is not known any more", revision.version);
        return Ok(Err(text));
    };
    let then = FluxInstance { spec, ..instance.clone() };
    match resolve::resolve(ctx, &then).await {
        Ok(resolved) => Ok(Ok((then, resolved))),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Versions go down only when somebody says so.
fn check_direction(
    instance: &FluxInstance,
    status: &FluxInstanceStatus,
    inventory: &Inventory,
    wanted: &BundleRef,
) -> Result<(), StepError> {
    let good = status.last_good.as_ref().map(|r| BundleRef { version: r.version.clone(), digest: r.digest.clone() });
    // What was never good is not what the cluster runs on: going back from there is no downgrade.
    let Some(installed) = good.or_else(|| inventory.bundle.clone()) else { return Ok(()) };
    if wanted.is_older_than(&installed) && !instance.spec.upgrade.allow_downgrade {
        return Err(StepError::Downgrade { wanted: wanted.version.clone(), installed: installed.version });
    }
    Ok(())
}

/// The CRDs of all bundles that the wanted one names to go through, oldest first.
async fn detours(ctx: &Ctx, instance: &FluxInstance, resolved: &Resolved) -> Result<Vec<Detour>, StepError> {
    let via = resolved.bundle.manifest().upgrade.via.iter().flat_map(|detour| &detour.through);
    let mut versions: Vec<&String> = via.collect();
    versions.sort_by_key(|version| semver::Version::parse(version).ok());
    versions.dedup();
    let mut detours = Vec::new();
    for version in versions {
        let mut there = instance.clone();
        there.spec.distribution.version.clone_from(version);
        let between = resolve::resolve(ctx, &there).await?;
        detours.push(Detour { version: version.clone(), definitions: ctx.rendered.definitions(&between)? });
    }
    Ok(detours)
}
