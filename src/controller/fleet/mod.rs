//! The pass over a `FluxFleet`: `resolve → plan → write the status → admit → tell`. What moves is decided in [`crate::fleet`].
//!
//! The status goes first: it holds why something is admitted, so that an operator that is killed between the two goes on with the same
//! decision. Every write names the version that was looked at; one that came too late is refused by the API server, and planned anew.

mod admit;
mod discover;
mod news;
mod notify;
mod unplanned;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{Selector, SelectorExt};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

pub(super) use self::discover::Secrets;
pub(super) use self::notify::Notifier;
pub(super) use self::unplanned::watch_unplanned;
use super::events::{Word, about, unreadable};
use super::{Ctx, Guarded, GuardedFleet, StepError, report, resolve, version_of};
use crate::api::condition::{self, Verdict};
use crate::api::{Admission, FluxFleet, FluxFleetStatus, FluxInstance, Pinned, REQUESTED_AT, StageState};
use crate::cluster::{ClusterError, with_deadline};
use crate::fleet::{FleetPlan, Input, Other, Question, plan};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(60);
/// Somebody else wrote in between: the watch tells of it in a moment.
const OVERTAKEN: Duration = Duration::from_millis(200);

/// What passes over fleets share.
pub(super) struct FleetCtx {
    pub(super) ctx: Arc<Ctx>,
    /// All instances of the namespace, whoever looks after them.
    pub(super) instances: Store<Guarded>,
    /// Where clusters are discovered.
    pub(super) secrets: Secrets,
    /// Whom to tell.
    pub(super) notifier: Notifier,
    /// Since when this process leads: time in which nobody looked at the clusters is no delay of theirs.
    since: Timestamp,
    memories: std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>>,
}

impl FleetCtx {
    pub(super) fn new(ctx: Arc<Ctx>, instances: Store<Guarded>, secrets: Secrets, notifier: Notifier) -> Self {
        Self { ctx, instances, secrets, notifier, since: Timestamp::now(), memories: std::sync::Mutex::default() }
    }

    fn memory(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        if !memories.contains_key(uid) {
            // Fleets have no finalizer: nobody is told when one is gone.
            let fleets = self.ctx.fleets.state();
            memories.retain(|known, _| fleets.iter().any(|fleet| fleet.meta().uid.as_ref() == Some(known)));
        }
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }
}

/// What is remembered of one fleet between passes. All of it may be lost.
#[derive(Default)]
struct Memory {
    /// The fleet after our own last write, which the watch may not have shown yet.
    fleet: Option<FluxFleet>,
    /// Instances after our own writes, by UID: what is planned next must not be planned from before these.
    written: HashMap<String, FluxInstance>,
    /// Names of instances of which we do not know whether our write arrived.
    uncertain: HashSet<String>,
    /// Names of clusters that were done, for what is counted; none before the first plan.
    done: Option<HashSet<String>>,
    /// Up to where the story was told, while it is not known whether a later status was written.
    told: Option<FluxFleetStatus>,
    /// What was done, to be told with the next status.
    words: Vec<Word>,
    failures: u32,
}

impl Memory {
    fn backoff(&mut self) -> Action {
        let pause = (BACKOFF_FIRST * 2_u32.saturating_pow(self.failures.min(10))).min(BACKOFF_LAST);
        self.failures = self.failures.saturating_add(1);
        Action::requeue(pause)
    }
}

/// One pass over one fleet.
pub(super) async fn reconcile(
    object: Arc<GuardedFleet>,
    fleets: Arc<FleetCtx>,
) -> Result<Action, std::convert::Infallible> {
    let fleet = match &object.0 {
        Ok(fleet) => fleet,
        Err(invalid) => return Ok(malformed(&fleets.ctx, invalid).await),
    };
    let uid = fleet.uid().unwrap_or_default();
    if fleet.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let memory = fleets.memory(&uid);
    let mut memory = memory.lock().await;
    let known = memory.fleet.take().filter(|known| version_of(known) > version_of(fleet));
    let fleet = known.unwrap_or_else(|| fleet.clone());
    Ok(pass(&fleets, fleet, &mut memory).await)
}

async fn pass(fleets: &FleetCtx, fleet: FluxFleet, memory: &mut Memory) -> Action {
    let ctx = &fleets.ctx;
    let name = fleet.name_any();
    if let Err(error) = admit::find_out(ctx, memory).await {
        tracing::warn!(fleet = %name, %error, "instances could not be read");
        return memory.backoff();
    }
    let mut discovered = discover::run(fleets, &fleet, Timestamp::now()).await;
    memory.words.append(&mut discovered.words);
    let (is_unfinished, doomed) = (discovered.is_unfinished, std::mem::take(&mut discovered.doomed));
    let look_again = discovered.recheck;
    let resolved = target(ctx, &fleet).await;
    if let Err(error) = &resolved {
        tracing::warn!(fleet = %name, reason = error.reason(), %error, "target could not be resolved");
    }
    let seen = fleets.instances.state();
    let unseen = unseen(&seen, std::mem::take(&mut memory.written));
    let instances = newest(&seen, &unseen);
    let others = others(ctx, &fleet);
    let now = Timestamp::now();
    let target = resolved.as_ref().ok();
    let planned = plan(&Input {
        fleet: &fleet,
        resolved: target,
        instances: &instances,
        others: &others,
        now,
        since: fleets.since,
    });
    let (mut status, plan) = match planned {
        Ok(plan) => (plan.status.clone(), Some(plan)),
        Err(text) => (invalid(&fleet, &text, now), None),
    };
    say_resolved(&mut status, &fleet, resolved.as_ref().err(), now);
    if let Some(requested) = fleet.annotations().get(REQUESTED_AT) {
        status.last_handled_reconcile_at = Some(requested.clone());
    }

    let told = memory.told.take();
    let before = told.as_ref().or(fleet.status.as_ref());
    let mut words = news::news(before, &status, &name);
    words.extend(discover::say(&mut status, before, discovered, &fleet, now));
    let written = match write(ctx, &fleet, &status).await {
        Ok(written) => written,
        Err(error) => {
            memory.written = unseen;
            let is_refused = matches!(error, ClusterError::Conflict(_));
            // What may be written and was never answered is not news any more to who looks at it next.
            memory.told =
                if is_refused { told } else { told.or_else(|| Some(fleet.status.clone().unwrap_or_default())) };
            if is_refused {
                return Action::requeue(OVERTAKEN);
            }
            tracing::warn!(fleet = %name, %error, "status could not be written");
            return memory.backoff();
        }
    };
    memory.fleet = written;
    words.splice(..0, memory.words.drain(..));
    let Some(plan) = plan else {
        memory.written = unseen;
        about(ctx, &fleet.object_ref(&()), words).await;
        return Action::await_change();
    };
    let outcome = admit::admit(ctx, &plan, memory).await;
    words.extend(discover::delete(fleets, doomed).await);
    fleets.notifier.tell(&fleet, &status, &words);
    about(ctx, &fleet.object_ref(&()), words).await;
    count(ctx, &name, &plan, memory);
    let recheck = plan.recheck;
    for (uid, ours) in unseen {
        memory.written.entry(uid).or_insert(ours);
    }
    match outcome {
        admit::Outcome::Written => memory.failures = 0,
        admit::Outcome::Overtaken => return Action::requeue(OVERTAKEN),
        admit::Outcome::Failed => return memory.backoff(),
    }
    if is_unfinished || resolved.as_ref().is_err_and(StepError::is_transient) {
        return memory.backoff();
    }
    let interval = fleet.spec.interval.get().unwrap_or(BACKOFF_LAST);
    let rechecks = [recheck, look_again].into_iter().flatten().map(SignedDuration::unsigned_abs);
    Action::requeue(rechecks.fold(interval, Duration::min))
}

/// What the version of a fleet means now.
async fn target(ctx: &Ctx, fleet: &FluxFleet) -> Result<Pinned, StepError> {
    let interval = fleet.spec.interval.get().map_err(|e| StepError::Spec(format!("spec.interval: {e}")))?;
    let handled = fleet.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
    let max_age = resolve::max_age(interval, fleet.annotations(), handled);
    let resolved = resolve::bundle(ctx, &fleet.spec.distribution, max_age, resolve::PATIENCE).await?;
    Ok(Pinned { version: resolved.reference.version, digest: resolved.reference.digest })
}

/// Our own writes that the watch has not shown yet, by UID. What it has shown since is forgotten.
fn unseen(seen: &[Arc<Guarded>], mut written: HashMap<String, FluxInstance>) -> HashMap<String, FluxInstance> {
    if written.is_empty() {
        return written;
    }
    let versions: HashMap<&str, u64> =
        seen.iter().filter_map(|i| Some((i.meta().uid.as_deref()?, version_of(i.as_ref())))).collect();
    // One that is not there any more needs no admission either.
    written.retain(|uid, ours| versions.get(uid.as_str()).is_some_and(|seen| version_of(ours) > *seen));
    written
}

/// All instances, each in the newest state that is known of it. One that cannot be read is not moved; it says so itself.
fn newest<'a>(seen: &'a [Arc<Guarded>], unseen: &'a HashMap<String, FluxInstance>) -> Vec<&'a FluxInstance> {
    let readable = seen.iter().filter_map(|instance| instance.0.as_ref().ok());
    let newest = |seen: &'a FluxInstance| seen.metadata.uid.as_ref().and_then(|uid| unseen.get(uid)).unwrap_or(seen);
    readable.map(newest).collect()
}

fn others(ctx: &Ctx, fleet: &FluxFleet) -> Vec<Other> {
    let other = |other: &FluxFleet| {
        let selector = other.spec.selector.clone().try_into().ok()?;
        (other.uid() != fleet.uid()).then(|| Other { name: other.name_any(), selector })
    };
    let mut others: Vec<_> = readable(&ctx.fleets.state()).filter_map(other).collect();
    // What is said must not change from one look to the next.
    others.sort_by(|one, other| one.name.cmp(&other.name));
    others
}

/// Those fleets that can be read; the others say so themselves.
pub(super) fn readable(fleets: &[Arc<GuardedFleet>]) -> impl Iterator<Item = &FluxFleet> {
    fleets.iter().filter_map(|fleet| fleet.0.as_ref().ok())
}

/// The old status, with what is wrong with the spec.
fn invalid(fleet: &FluxFleet, text: &str, now: Timestamp) -> FluxFleetStatus {
    let (generation, now) = (fleet.metadata.generation, Time(now));
    let mut status = fleet.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    status.message = Some(condition::cut(format!("nothing moves: {text}")));
    let conditions = &mut status.conditions;
    condition::set(conditions, condition::READY, Verdict::no("InvalidSpec", text), generation, &now);
    condition::set(
        conditions,
        condition::RECONCILING,
        Verdict::no("InvalidSpec", "waiting for a change"),
        generation,
        &now,
    );
    condition::set(conditions, condition::STALLED, Verdict::yes("InvalidSpec", text), generation, &now);
    status
}

fn say_resolved(status: &mut FluxFleetStatus, fleet: &FluxFleet, error: Option<&StepError>, now: Timestamp) {
    let verdict = match error {
        None => Verdict::yes("Resolved", format!("{} was found", fleet.spec.distribution.version)),
        Some(error) => {
            if status.target.is_none() {
                status.message = Some(condition::cut(error.to_string()));
            }
            Verdict::no(error.reason(), error.to_string())
        }
    };
    condition::set(&mut status.conditions, condition::RESOLVED, verdict, fleet.metadata.generation, &Time(now));
}

/// Writes the status if it differs from what is stored, on top of what was looked at and of nothing else.
async fn write(ctx: &Ctx, fleet: &FluxFleet, status: &FluxFleetStatus) -> Result<Option<FluxFleet>, ClusterError> {
    let old = fleet.status.as_ref().map_or_else(|| json!({}), |status| json!({"status": status}));
    let mut change = report::merge_patch(&old, &json!({"status": status}));
    if change == json!({}) {
        return Ok(None);
    }
    change["metadata"] = json!({"uid": fleet.uid(), "resourceVersion": fleet.resource_version()});
    let api = Api::<FluxFleet>::namespaced(ctx.hub.clone(), &ctx.namespace);
    let name = fleet.name_any();
    let params = PatchParams::default();
    with_deadline(api.patch_status(&name, &params, &Patch::Merge(change))).await.map(Some)
}

/// Counts what became of clusters since the last plan.
fn count(ctx: &Ctx, name: &str, plan: &FleetPlan<'_>, memory: &mut Memory) {
    let done: HashSet<String> = plan
        .members
        .iter()
        .filter(|member| matches!(member.state, crate::fleet::State::Done { .. }))
        .map(|member| member.name.to_owned())
        .collect();
    if let (Some(before), Some(target)) = (&memory.done, &plan.status.target) {
        for member in plan.members.iter().filter(|m| done.contains(m.name) && !before.contains(m.name)) {
            let good = member.instance.status.as_ref().and_then(|s| s.last_good.as_ref());
            if let Some(good) = good.filter(|good| good.digest == target.digest) {
                ctx.metrics.cluster_done(name, good.at.0.duration_since(target.since.0).unsigned_abs());
            }
        }
    }
    memory.done = Some(done);
    ctx.metrics.fleet(name, &plan.status, plan.oldest_deferred());
}

/// Starts passes over the instances that a change of a fleet concerns: those that it is about to ask, and, when it came, went or has
/// another spec, all that it selects. Runs until the operator ends.
pub(super) async fn wake_members(ctx: Arc<Ctx>, instances: Store<Guarded>, mut changes: watch::Receiver<()>) {
    let mut before: HashMap<String, Head> = HashMap::new();
    while changes.changed().await.is_ok() {
        let fleets = ctx.fleets.state();
        let now: HashMap<String, Head> = readable(&fleets).map(|fleet| (fleet.name_any(), Head::of(fleet))).collect();
        let is_other = |fleet: &&FluxFleet| before.get(&fleet.name_any()) != now.get(&fleet.name_any());
        let generation = |heads: &HashMap<String, Head>, name: &str| heads.get(name).and_then(|head| head.generation);
        let others: Vec<Changed> = readable(&fleets)
            .filter(is_other)
            .filter_map(|fleet| {
                let name = fleet.name_any();
                Some(Changed {
                    selector: fleet.spec.selector.clone().try_into().ok()?,
                    has_new_spec: generation(&before, &name) != generation(&now, &name),
                    question: Question::of(fleet),
                })
            })
            .collect();
        let has_gone = before.keys().any(|name| !now.contains_key(name));
        if has_gone {
            ctx.metrics.forget_fleets();
        }
        for instance in instances.state() {
            let Ok(instance) = &instance.0 else { continue };
            if instance.spec.admission == Admission::Own {
                continue;
            }
            if has_gone || others.iter().any(|fleet| fleet.concerns(instance)) {
                let reference = ObjectRef::new(&instance.name_any()).within(&ctx.namespace);
                if ctx.trigger.send(reference).await.is_err() {
                    return;
                }
            }
        }
        before = now;
    }
}

/// A fleet that is not what it was.
struct Changed {
    selector: Selector,
    /// It has another spec, or is new: it concerns all that it selects.
    has_new_spec: bool,
    question: Option<Question>,
}

impl Changed {
    fn concerns(&self, instance: &FluxInstance) -> bool {
        let is_asked = || self.question.as_ref().is_some_and(|question| question.is_for(instance).is_some());
        self.selector.matches(instance.labels()) && (self.has_new_spec || is_asked())
    }
}

/// What of a fleet concerns its instances.
#[derive(PartialEq, Eq)]
struct Head {
    generation: Option<i64>,
    target: Option<String>,
    is_held: bool,
    /// The stages whose turn has come.
    stages: Vec<String>,
}

impl Head {
    fn of(fleet: &FluxFleet) -> Self {
        let nothing = FluxFleetStatus::default();
        let status = fleet.status.as_ref().unwrap_or(&nothing);
        let begun = status.stages.iter().filter(|stage| stage.state != StageState::Pending);
        Self {
            generation: fleet.metadata.generation,
            target: status.target.as_ref().map(|target| target.digest.clone()),
            is_held: status.held.is_some(),
            stages: begun.map(|stage| stage.name.clone()).collect(),
        }
    }
}

/// An object that does not even parse: said on the object itself, and nothing else stops.
async fn malformed(ctx: &Ctx, invalid: &InvalidObject) -> Action {
    let note = format!("the object cannot be read: {}; correct or delete it", invalid.error);
    tracing::warn!(fleet = ?invalid.metadata.name, error = %invalid.error, "malformed fleet");
    about(ctx, &unreadable::<FluxFleet>(invalid), vec![Word { warning: true, reason: "InvalidSpec", note }]).await;
    Action::await_change()
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};

    use super::*;
    use crate::cluster::Cluster;

    #[tokio::test]
    async fn fleets_that_are_gone_are_forgotten() {
        let (reader, mut writer) = reflector::store();
        let fleet = |name: &str| {
            let object = json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
                "metadata": {"name": name, "namespace": "n", "uid": name},
                "spec": {"selector": {}, "distribution": {"version": "2.x"}, "stages": [{"name": "all"}]},
            });
            serde_json::from_value::<GuardedFleet>(object).unwrap()
        };
        let ctx = Ctx { fleets: reader, ..Ctx::aside(Cluster::mute().client().clone(), "n") };
        let notifier = Notifier::start(None, ctx.metrics.clone());
        let fleets = FleetCtx::new(Arc::new(ctx), reflector::store().0, reflector::store().0, notifier);
        for name in ["stays", "goes"] {
            writer.apply_watcher_event(&watcher::Event::Apply(fleet(name)));
            fleets.memory(name).lock().await.failures = 7;
        }
        writer.apply_watcher_event(&watcher::Event::Delete(fleet("goes")));
        writer.apply_watcher_event(&watcher::Event::Apply(fleet("comes")));
        fleets.memory("comes");
        assert!(!fleets.memories.lock().unwrap().contains_key("goes"));
        assert_eq!(fleets.memory("stays").lock().await.failures, 7);
    }
}
