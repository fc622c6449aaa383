//! The reconcile pipelines: `observe → resolve → render → plan → execute → assess → report`, one file a step; `remove` is
//! the other way round. Steps that decide have no client, steps that have a client do not decide.

mod admission;
mod assess;
mod claims;
mod clusters;
mod drift;
mod error;
mod events;
mod execute;
mod fleet;
mod leader;
mod observe;
mod operator;
mod plan;
mod preflight;
mod probe;
mod remove;
mod render;
mod report;
mod resolve;
mod revisions;
mod roster;
mod secrets;
mod survey;
mod written;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use crate::api::condition::Verdict;
use crate::api::{FLUX_NAMESPACE, FluxFleet, FluxInstance, FluxInstanceStatus, StepState};
use crate::bundle::{Bundles, Provenance};
use crate::cluster::{Cluster, InventoryStore, Mirror};
use crate::plan::goal::{Goal, heed};
use crate::plan::{BundleRef, Owner, Plan};
use crate::render::ObjectKey;
use crate::telemetry::Metrics;

pub use clusters::Clusters;
pub use error::StepError;
pub use operator::{Candidacy, Options, run};
pub use plan::preview;
pub use preflight::{Checked, Checker};

/// What the watch yields: one malformed object must not stop the others.
pub type Guarded = DeserializeGuard<FluxInstance>;

/// The same of fleets.
pub type GuardedFleet = DeserializeGuard<FluxFleet>;

/// A pass that has to wait for a connection is woken when there is one; this is for the case that all else fails.
const CONNECTING: Duration = Duration::from_secs(60);

/// On every instance until its removal is done.
pub const FINALIZER: &str = "headwater.dev/finalizer";

/// What passes share.
pub struct Ctx {
    /// Client of the cluster the operator works from.
    pub hub: Client,
    /// Namespace of the instances and their Secrets.
    pub namespace: String,
    /// Connections.
    pub clusters: Clusters,
    /// Bundles.
    pub bundles: Bundles,
    /// Rendered sets.
    pub rendered: render::Rendered,
    /// What is known of pairs of CRDs.
    pub compared: preflight::Compared,
    /// Counters.
    pub metrics: Metrics,
    /// Instances that were refused because of others.
    pub claims: claims::Claims,
    /// The fleets of the namespace.
    pub fleets: Store<GuardedFleet>,
    /// Asks for a pass.
    pub trigger: mpsc::Sender<ObjectRef<Guarded>>,
    roster: std::sync::Mutex<roster::Roster>,
    memories: std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>>,
}

/// What is remembered of one instance between passes. All of it may be lost: it saves requests, no decision needs it.
#[derive(Default)]
pub struct Memory {
    epoch: Option<u64>,
    mirror: Option<Mirror>,
    look: Option<observe::Look>,
    inventory: Option<InventoryStore>,
    judgements: assess::Judgements,
    /// Our finalizer is on the instance, though the watch may not have shown it yet.
    has_finalizer: bool,
    /// Our own last write to the instance.
    written: written::Written,
    failures: u32,
    /// What others changed lately.
    drifts: crate::plan::drift::Drifts,
    /// What a removal waits for because of others.
    held: Option<remove::Held>,
    /// How often a removal had to wait.
    waits: u32,
    /// Until then the API server wants to be left alone, whatever its watches tell.
    patience: Option<Instant>,
    /// What was last said to be kept on purpose.
    kept: Vec<ObjectKey>,
}

impl Memory {
    fn forget_cluster(&mut self) {
        self.mirror = None;
        self.look = None;
        self.inventory = None;
        self.judgements.clear();
    }
}

/// What a pass found out and did, as far as it came.
#[derive(Default)]
pub struct Run {
    /// The status with which the pass began: what is stored, with new words of users followed.
    status: FluxInstanceStatus,
    /// Why a word could not be followed.
    refused: Option<String>,
    goal: Goal,
    /// Digest of the bundle that the instance is to have, whatever becomes of it.
    target: Option<String>,
    /// More is allowed after that time.
    wake: Option<Duration>,
    /// What is to be said about its fleet.
    admission: Option<Verdict>,
    /// What was found out about the bundle that its fleet is about to admit.
    candidate: Option<preflight::Outcome>,
    /// Digest of that bundle.
    asked: Option<String>,
    cluster: Option<Cluster>,
    bundle: Option<BundleRef>,
    provenance: Option<Provenance>,
    config: Option<String>,
    preflight: Option<preflight::Outcome>,
    plan: Option<Plan>,
    /// Everything of `config` is on the cluster.
    applied: bool,
    executed: execute::Executed,
    assessment: Option<assess::Assessment>,
    /// What was asked to reconcile and has not answered yet.
    silent: Option<ObjectKey>,
    objects: Option<usize>,
    /// What others changed.
    drift: crate::plan::drift::News,
    /// Instances that want the same installation.
    claimants: Vec<String>,
}

impl Run {
    /// With what the instance says.
    fn begin(instance: &FluxInstance) -> Self {
        let status = instance.status.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        let heeded = heed(&status, instance.annotations(), instance.metadata.generation, &now);
        Self { status: heeded.status, refused: heeded.refused, ..Self::default() }
    }

    /// What the probe of an upgrade under way asks with, if there is to be one.
    fn probe_token(&self, instance: &FluxInstance, cluster: &Cluster) -> Option<String> {
        let wanted = instance.spec.upgrade.probe.unwrap_or(cluster.is_hub) && instance.spec.wait;
        let plan = self.status.plan.as_ref().filter(|plan| Some(&plan.config) == self.config.as_ref())?;
        let is_upgrade = plan.from.as_ref().is_some_and(|from| *from != plan.version);
        let is_over = plan.steps.iter().all(|step| step.state == StepState::Done);
        let attempted = self.status.attempted.as_ref()?;
        (wanted && is_upgrade && !is_over && self.goal == Goal::Target).then(|| attempted.at.0.to_string())
    }

    /// Going back is not possible: what has failed is left as it is.
    fn refuse_rollback(&mut self, why: String) {
        self.goal = Goal::Stay;
        if let Some(held) = &mut self.status.held {
            held.back = None;
            held.refused = Some(why.clone());
        }
        self.refused = Some(why);
    }
}

impl Ctx {
    fn memory(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Notes whether an instance was refused because of another one, which then looks again.
    fn claimed(&self, claimant: &Owner, owner: Option<&Owner>) {
        for owner in self.claims.record(claimant, owner) {
            // When there is no room, the next pass says it.
            let _ = self.trigger.try_send(ObjectRef::new(&owner.name).within(&owner.namespace));
        }
    }

    fn roster(&self) -> std::sync::MutexGuard<'_, roster::Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance was deleted, or moved to another shard.
    fn let_go(&self, gone: &roster::Gone) {
        self.forget(&gone.uid);
        self.metrics.forget(&gone.name);
        let owner = Owner { namespace: self.namespace.clone(), name: gone.name.clone(), uid: gone.uid.clone() };
        self.claimed(&owner, None);
    }

    fn forget(&self, uid: &str) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

fn owner_of(instance: &FluxInstance) -> Owner {
    Owner {
        namespace: instance.namespace().unwrap_or_default(),
        name: instance.name_any(),
        uid: instance.uid().unwrap_or_default(),
    }
}

/// The number that orders the states of one object.
fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// One pass over one instance.
pub async fn reconcile(object: Arc<Guarded>, ctx: Arc<Ctx>) -> Result<Action, std::convert::Infallible> {
    let instance = match &object.0 {
        Ok(instance) => instance.clone(),
        Err(invalid) => return Ok(report::malformed(&ctx, invalid).await),
    };
    let (name, uid) = (instance.name_any(), instance.uid().unwrap_or_default());
    // Of another shard: whatever asked for a pass over it, it is not ours.
    if ctx.roster().since(&name, &uid).is_none() {
        return Ok(Action::await_change());
    }
    let action = Box::pin(pass(&ctx, instance)).await;
    if ctx.roster().since(&name, &uid).is_none() {
        // It was let go of meanwhile, and this pass has taken up its watches again.
        ctx.let_go(&roster::Gone { name, uid });
        return Ok(Action::await_change());
    }
    Ok(action)
}

async fn pass(ctx: &Ctx, mut instance: FluxInstance) -> Action {
    let uid = instance.uid().unwrap_or_default();
    let memory = ctx.memory(&uid);
    let mut memory = memory.lock().await;
    if let Some(rest) = memory.patience.and_then(|until| until.checked_duration_since(Instant::now())) {
        return Action::requeue(rest);
    }
    memory.written.bring_up(&mut instance);
    let started = Instant::now();

    if instance.metadata.deletion_timestamp.is_some() {
        let gone = remove::remove(ctx, &instance, &mut memory).await;
        if matches!(gone, Err(StepError::Connecting)) {
            return Action::requeue(CONNECTING);
        }
        ctx.clusters.tell(&instance, memory.epoch, gone.as_ref().err());
        let action = report::removal(ctx, &instance, &mut memory, &gone).await;
        if matches!(gone, Ok(remove::Removal::Done)) {
            ctx.claimed(&owner_of(&instance), None);
            drop(memory);
            ctx.forget(&uid);
        }
        return action;
    }

    let mut run = Run::begin(&instance);
    let owner = owner_of(&instance);
    let fleets = ctx.fleets.state();
    let governing = admission::governing(&instance, &fleets);
    run.admission = admission::verdict(&instance, &governing);
    let candidate = admission::candidate(&instance, &governing);
    run.asked = candidate.as_ref().map(|candidate| candidate.digest.clone());
    let mut result = pipeline(ctx, &instance, &mut memory, &mut run).await;
    if matches!(result, Err(StepError::Connecting)) {
        return Action::requeue(CONNECTING);
    }
    if let Some(candidate) = candidate.filter(|candidate| preflight::is_due(&instance, &run, &result, candidate)) {
        match Box::pin(preflight::candidate(ctx, &instance, &mut memory, &candidate)).await {
            Ok(outcome) => run.candidate = Some(outcome),
            // It is woken when it is connected again.
            Err(StepError::Connecting) => {}
            Err(error) if result.is_ok() => result = Err(error),
            Err(_) => {}
        }
    }
    if run.cluster.is_some() {
        ctx.clusters.tell(&instance, memory.epoch, result.as_ref().err());
    }
    match &result {
        Err(StepError::Claimed { owner: other, .. }) => ctx.claimed(&owner, Some(other)),
        Ok(()) => ctx.claimed(&owner, None),
        // It came not so far as to know.
        Err(_) => {}
    }
    run.claimants = ctx.claims.on(&owner);
    if let Err(error) = &result
        && !matches!(error, StepError::AwaitingAdmission)
    {
        tracing::warn!(instance = %instance.name_any(), reason = error.reason(), %error, "pass failed");
        if ctx.clusters.wakes(&instance) {
            // Watches would go on asking.
            memory.forget_cluster();
        }
    }
    ctx.metrics.pass(&instance.name_any(), result.as_ref().err().map_or("ok", StepError::reason), started.elapsed());
    report::report(ctx, &instance, &mut memory, &run, result).await
}

async fn pipeline(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory, run: &mut Run) -> Result<(), StepError> {
    resolve::interval(instance)?;
    instance.spec.timeout.get().map_err(|e| StepError::Spec(format!("spec.timeout: {e}")))?;
    if instance.spec.suspend {
        return Ok(());
    }
    if !memory.has_finalizer && !instance.finalizers().iter().any(|f| f == FINALIZER) {
        report::add_finalizer(ctx, instance, memory).await?;
    }
    memory.has_finalizer = true;
    let owner = owner_of(instance);

    let prepared = plan::prepare(ctx, instance, &owner, memory, run).await?;
    let is_settled = prepared.is_settled();
    if !is_settled {
        observe::confirm(ctx, instance, memory, &prepared.cluster).await?;
    }
    let looked = preflight::before(ctx, instance, &prepared, run).await;
    if matches!(looked, Err(StepError::Preflight(_))) {
        // What stands in the way may be that somebody was faster, and then that is what is to be said.
        observe::inventory(&prepared.cluster, &owner, memory).await?;
    }
    looked?;
    let plan::Prepared { cluster, mut store, observed, desired, plan, .. } = prepared;
    let is_held = run.goal == Goal::Stay && !plan.is_empty();
    if is_held {
        run.plan = Some(plan);
        let inventory = store.inventory.clone();
        memory.inventory = Some(store);
        watch(ctx, &owner, &cluster, memory, &inventory);
        run.assessment = Some(assess::assess(&cluster, &inventory, &observed, memory).await?);
        return Ok(());
    }
    if !plan.is_empty() {
        tracing::info!(instance = %owner.name, version = %desired.bundle.version, digest = %desired.bundle.digest, plan = %plan.summary(), "executing plan");
        report::announce(ctx, instance, memory, run, &plan).await?;
    }
    let (executed, result) = execute::execute(&cluster, &plan, &mut store).await;
    run.drift = drift::account(ctx, &owner.name, memory, &plan, &executed);
    run.executed = executed;
    run.plan = Some(plan);
    let inventory = store.inventory.clone();
    memory.inventory = Some(store);
    watch(ctx, &owner, &cluster, memory, &inventory);
    run.objects = Some(inventory.entries.len());
    result?;
    run.applied = run.executed.waiting.is_none();
    let before = memory.look.take();
    // What was written is known from the answers, what was not has been seen: all is as the inventory says.
    let is_quiet = run.plan.as_ref().is_some_and(|plan| plan.drifted.is_empty() && plan.blocked.is_none());
    let is_as_recorded = run.applied && is_quiet && !cluster.is_hub;
    memory.look =
        memory.inventory.as_ref().filter(|_| is_as_recorded).map(|store| observe::Look::of(instance, store, before));

    let assessment = assess::assess(&cluster, &inventory, &observed, memory).await?;
    let is_healthy = run.applied && assessment.controllers.is_empty();
    run.assessment = Some(assessment);
    if let Some(token) = run.probe_token(instance, &cluster).filter(|_| is_healthy) {
        run.silent = probe::probe(&cluster, &inventory, &token).await?;
    }
    Ok(())
}

/// Keeps the mirror looking at every kind in the inventory: all of them on the hub; on a remote cluster two streams, for what
/// breaks an installation at once, and the rest is looked at by lists now and then.
fn watch(ctx: &Ctx, owner: &Owner, cluster: &Cluster, memory: &mut Memory, inventory: &crate::plan::Inventory) {
    let mut kinds = observe::kinds(inventory.entries.values());
    if cluster.is_hub {
        kinds.push(crate::render::Kind::config_map());
    } else {
        kinds.retain(observe::is_watched);
    }
    let mirror = memory.mirror.get_or_insert_with(|| {
        let (sender, mut receiver) = mpsc::channel::<()>(1);
        let trigger = ctx.trigger.clone();
        let reference = ObjectRef::<Guarded>::new(&owner.name).within(&owner.namespace);
        // Ends with the mirror, whose watches hold the senders.
        tokio::spawn(async move {
            while receiver.recv().await.is_some() {
                // A rollout comes as a burst of events: one pass for all of them.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if trigger.send(reference.clone()).await.is_err() {
                    return;
                }
            }
        });
        Mirror::new(sender)
    });
    mirror.watch(cluster, FLUX_NAMESPACE, kinds);
}
