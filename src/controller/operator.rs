//! Wiring: what is watched, what starts a pass, and how it all ends.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{PredicateConfig, WatchStreamExt, watcher};
use kube::{Api, CustomResourceExt, Resource, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::clusters::keep;
use super::fleet::{self, FleetCtx, Notifier};
use super::leader::Campaign;
use super::plan::Hub;
use super::roster::Roster;
use super::{Ctx, Guarded, GuardedFleet, reconcile};
use crate::api::{FluxFleet, FluxInstance, TrustedRootKind};
use crate::bundle::Demands;
use crate::cluster::{Gate, LeaseStore, connect, hub_config, with_deadline};
use crate::plan::election::{Election, Terms};
use crate::telemetry::{Health, Metrics, serve};

/// Passes at the same time. A pass waits for networks nearly all the time; unreachable clusters hold one for seconds.
const CONCURRENCY: u16 = 64;
/// Passes over fleets at the same time.
const FLEETS: u16 = 8;
/// Changes of instances come in bursts: one plan for all of them. As long as that, and no longer, however many follow.
const BURST: Duration = Duration::from_millis(100);
/// Watches are opened anew before load balancers drop idle connections.
const WATCH_SECONDS: u32 = 200;

/// Longest wait for passes under way at SIGTERM: longer than the deadline of any call, shorter than Kubernetes waits for us.
const DRAIN: Duration = Duration::from_secs(20);
/// Name of the Lease of operators without a shard, and the beginning of that of others.
const LEASE: &str = "headwater";

/// What `headwater operator` was started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace whose instances are managed; unset: the pod's own, or that of the kubeconfig.
    pub namespace: Option<String>,
    /// Where `/metrics` is served.
    pub metrics_addr: SocketAddr,
    /// Where Flux's notification-controller takes events.
    pub events_addr: Option<http::Uri>,
    /// Where `/livez` and `/readyz` are served.
    pub health_addr: SocketAddr,
    /// What is demanded of all bundles.
    pub demands: Demands,
    /// How to find out who leads; unset: this is the only operator.
    pub candidacy: Option<Candidacy>,
    /// The shard whose instances are managed; unset: those without one.
    pub shard: Option<String>,
}

/// With what an operator goes into an election.
#[derive(Debug, Clone)]
pub struct Candidacy {
    /// Unique among all operators that run at the same time, and the same again after a restart in the same pod.
    pub identity: String,
    /// How long everything takes.
    pub terms: Terms,
}

/// Runs until SIGTERM or SIGINT, or until the lead is lost, which is an error.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let health = Health::default();
    let metrics = Metrics::default();
    let Options { namespace, metrics_addr, events_addr, health_addr, demands, candidacy, shard } = options;
    health.set(if candidacy.is_some() { "lease" } else { "instances" }, false);
    let servers = serve(health_addr, metrics_addr, health.clone(), metrics.clone()).await?;

    let config = hub_config().await?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let gate = if candidacy.is_some() { Gate::closed() } else { Gate::open() };
    let hub = connect(&config, &gate)?;
    let (stopper, stop) = stop_signal()?;
    tokio::select! {
        () = stopped(stop.clone()) => return Ok(()),
        () = wait_for_crds(&hub, &health) => {}
    }

    let margin = candidacy.as_ref().map_or(DRAIN, |candidacy| candidacy.terms.margin());
    let mut campaign = None;
    if let Some(Candidacy { identity, terms }) = candidacy {
        let name = shard.as_ref().map_or_else(|| LEASE.to_owned(), |shard| format!("{LEASE}-{shard}"));
        // Its requests are what opens the gate.
        let lease = LeaseStore::new(connect(&config, &Gate::open())?, &namespace, name, terms.patience());
        let election = Election::new(identity, terms);
        let mut mine = Campaign::start(lease, election, gate.clone(), health.clone(), metrics.clone());
        let won = tokio::select! {
            () = stopped(stop.clone()) => false,
            won = mine.won() => won,
        };
        if !won {
            return mine.resign().await;
        }
        let over = mine.over();
        tokio::spawn(async move {
            over.await;
            stopper.send_replace(true);
        });
        campaign = Some(mine);
    }

    let (trigger, triggered) = mpsc::channel::<ObjectRef<Guarded>>(1024);
    let roster = Roster::new(shard.as_deref());
    let hub = Hub { client: hub, namespace: namespace.clone(), gate };
    let (fleets, fleet_writer) = reflector::store::<GuardedFleet>();
    let ctx = Arc::new(Ctx::new(hub, roster, demands, metrics, fleets, trigger));
    tracing::info!(%namespace, shard = shard.unwrap_or_default(), version = env!("CARGO_PKG_VERSION"), "operator started");
    let mut passes = tokio::spawn(manage(ctx, health, triggered, fleet_writer, events_addr, stop.clone()));
    let ended = tokio::select! {
        () = stopped(stop.clone()) => None,
        ended = &mut passes => Some(ended),
    };
    let is_lost = campaign.as_ref().is_some_and(Campaign::is_over);
    let bound = if is_lost { margin } else { DRAIN };
    let is_drained = match ended {
        Some(ended) => {
            ended.context("the task of all passes ended")?;
            anyhow::ensure!(*stop.borrow(), "the watch of the instances ended");
            true
        }
        None => tokio::time::timeout(bound, passes).await.is_ok(),
    };
    servers.abort();
    match campaign {
        Some(campaign) if is_drained || is_lost => campaign.resign().await?,
        Some(_) => tracing::warn!("passes under way have not ended in time: the lease is left to expire"),
        None => {}
    }
    tracing::info!("operator stopped");
    Ok(())
}

/// Watches, and passes over all instances, until it is stopped and no pass is under way.
async fn manage(
    ctx: Arc<Ctx>,
    health: Health,
    mut triggered: mpsc::Receiver<ObjectRef<Guarded>>,
    fleet_writer: Writer<GuardedFleet>,
    events_addr: Option<http::Uri>,
    stop: watch::Receiver<bool>,
) {
    health.set("fleets", false);
    let (reader, writer) = reflector::store::<Guarded>();
    let config = || watcher::Config::default().timeout(WATCH_SECONDS);
    // Every change of an instance has fleets planned anew; those of a fleet may concern its instances.
    let (instance_seen, instance_news) = watch::channel(());
    let secret_seen = instance_seen.clone();
    let (fleet_seen, fleet_news) = watch::channel(());
    let ready = health.clone();
    let selector = ctx.roster().selector();
    // One operator looks after all fleets: the one that sees the instances of all shards.
    let is_planner = selector.is_none();
    let (listening, matters) = (Arc::clone(&ctx), Arc::clone(&ctx));
    let instances = watcher(
        Api::<Guarded>::namespaced(ctx.hub.clone(), &ctx.namespace),
        watcher::Config { label_selector: selector, ..config() },
    )
    .default_backoff()
    .modify(forget_managers)
    .reflect(writer)
    .inspect(move |event| {
        ready.set("instances", event.is_ok());
        instance_seen.send_replace(());
    })
    .filter_map(move |event| {
        let event = match event {
            Ok(event) => {
                let (event, gone) = listening.roster().take(event);
                for gone in &gone {
                    listening.let_go(gone);
                }
                event.map(Ok)
            }
            Err(error) => Some(Err(error)),
        };
        async { event }
    })
    .touched_objects()
    .predicate_filter(move |instance: &Guarded| what_matters(&matters, instance), PredicateConfig::default());

    let named = reader.clone();
    let connections = tokio::spawn(keep(Arc::clone(&ctx), reader.clone()));
    let (known_secrets, secret_writer) = reflector::store();
    let secrets = watch_secrets(&ctx, config(), secret_writer, secret_seen);
    let triggers = futures::stream::poll_fn(move |cx| triggered.poll_recv(cx));

    let ready = health.clone();
    let fleets = watcher(Api::<GuardedFleet>::namespaced(ctx.hub.clone(), &ctx.namespace), config())
        .default_backoff()
        .reflect(fleet_writer)
        .inspect(move |event| {
            ready.set("fleets", event.is_ok());
            fleet_seen.send_replace(());
        })
        .touched_objects()
        .predicate_filter(what_matters_of_fleets, PredicateConfig::default());
    let notifier = Notifier::start(events_addr, ctx.metrics.clone());
    let fleet_ctx = Arc::new(FleetCtx::new(Arc::clone(&ctx), reader.clone(), known_secrets, notifier));
    let ended = stopped(stop.clone());
    let shard = Arc::clone(&ctx);
    let planning = async move {
        if is_planner {
            plan_fleets(fleets, fleet_ctx, instance_news, ended).await;
        } else {
            tokio::select! {
                () = fleets.for_each(|_| async {}) => {}
                () = fleet::watch_unplanned(shard) => {}
                () = ended => {}
            }
        }
    };
    let waking = tokio::spawn(fleet::wake_members(Arc::clone(&ctx), reader.clone(), fleet_news));

    let passes = Controller::for_stream(instances, reader)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches_stream(secrets, move |secret| {
            let name = secret.name_any();
            named
                .state()
                .into_iter()
                .filter(|instance| instance.0.as_ref().is_ok_and(|i| names_secret(i, &name)))
                .map(|instance| ObjectRef::from_obj(instance.as_ref()))
                .collect::<Vec<_>>()
        })
        .reconcile_on(triggers)
        .graceful_shutdown_on(stopped(stop))
        .run(reconcile, |_, never, _| match *never {}, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
        });
    tokio::join!(passes, planning);
    waking.abort();
    connections.abort();
}

/// Secrets that come, change or go, by name and labels: what is in one is read only by who needs it.
fn watch_secrets(
    ctx: &Arc<Ctx>,
    config: watcher::Config,
    writer: Writer<PartialObjectMeta<Secret>>,
    seen: watch::Sender<()>,
) -> impl futures::Stream<Item = Result<PartialObjectMeta<Secret>, watcher::Error>> + Send + 'static {
    let (fleets, connected) = (ctx.fleets.clone(), Arc::clone(ctx));
    watcher(Api::<PartialObjectMeta<Secret>>::namespaced(ctx.hub.clone(), &ctx.namespace), config)
        .default_backoff()
        .modify(|secret| {
            // `kubectl apply` leaves the content of a Secret in an annotation.
            secret.metadata.annotations = None;
            secret.metadata.managed_fields = None;
        })
        .reflect(writer)
        .inspect(move |_| {
            let discovers = |fleet: &GuardedFleet| fleet.0.as_ref().is_ok_and(|fleet| fleet.spec.discover.is_some());
            if fleets.find(discovers).is_some() {
                seen.send_replace(());
            }
        })
        .touched_objects()
        .inspect(move |secret| {
            if let Ok(secret) = secret {
                connected.clusters.secret(&secret.name_any(), secret.metadata.resource_version.as_deref());
            }
        })
}

/// Passes over fleets, from the moment that all instances are known: a stage of which none was seen yet would look empty, and be passed.
async fn plan_fleets(
    fleets: impl futures::Stream<Item = Result<GuardedFleet, watcher::Error>> + Send + 'static,
    ctx: Arc<FleetCtx>,
    changes: watch::Receiver<()>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let mut stop = Box::pin(stop).shared();
    tokio::select! {
        () = &mut stop => return,
        ready = ctx.instances.wait_until_ready() => if ready.is_err() { return },
    }
    let reader = ctx.ctx.fleets.clone();
    Controller::for_stream(fleets, reader)
        .with_config(controller::Config::default().concurrency(FLEETS))
        .reconcile_all_on(changed(changes))
        .graceful_shutdown_on(stop)
        .run(fleet::reconcile, |_, never, _| match *never {}, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "fleets");
            }
        })
        .await;
}

/// One item per burst of changes. Not kube's debounce: every change would put the plan off once more, a stop included.
fn changed(changes: watch::Receiver<()>) -> impl futures::Stream<Item = ()> + Send {
    futures::stream::unfold(changes, |mut changes| async move {
        changes.changed().await.ok()?;
        tokio::time::sleep(BURST).await;
        changes.mark_unchanged();
        Some(((), changes))
    })
}

/// Becomes true at SIGTERM (Kubernetes) or SIGINT (a terminal).
fn stop_signal() -> anyhow::Result<(watch::Sender<bool>, watch::Receiver<bool>)> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    let stopper = sender.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: passes under way are finished first");
        sender.send_replace(true);
    });
    Ok((stopper, receiver))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the task above is gone, and with it the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Our own status writes change none of these; a fleet's word in the status does.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a predicate")]
fn what_matters(ctx: &Ctx, instance: &Guarded) -> Option<u64> {
    let metadata = instance.meta();
    let mut hasher = std::hash::DefaultHasher::new();
    // One that was moved to another shard and back is new to us.
    ctx.roster().since(&instance.name_any(), &instance.uid().unwrap_or_default()).hash(&mut hasher);
    (&metadata.generation, &metadata.annotations, &metadata.finalizers, &metadata.deletion_timestamp.is_some())
        .hash(&mut hasher);
    // Which fleet it belongs to.
    metadata.labels.hash(&mut hasher);
    let admitted = instance.0.as_ref().ok().and_then(|i| i.status.as_ref()?.admitted.as_ref());
    admitted.map(|admitted| (&admitted.digest, admitted.at.0, admitted.rollback)).hash(&mut hasher);
    Some(hasher.finish())
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a predicate")]
fn what_matters_of_fleets(fleet: &GuardedFleet) -> Option<u64> {
    let metadata = fleet.meta();
    let mut hasher = std::hash::DefaultHasher::new();
    (&metadata.generation, &metadata.annotations, &metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Who owns which field of an instance is nothing that a pass asks for, and larger than the rest of it.
fn forget_managers(instance: &mut Guarded) {
    instance.meta_mut().managed_fields = None;
}

fn names_secret(instance: &FluxInstance, name: &str) -> bool {
    let distribution = &instance.spec.distribution;
    let verify = distribution.verify.as_ref();
    let root = verify.and_then(|v| v.trusted_root_ref.as_ref()).filter(|r| r.kind == TrustedRootKind::Secret);
    let references = [
        &distribution.artifact_pull_secret,
        &distribution.cert_secret_ref,
        &distribution.proxy_secret_ref,
        verify.map_or(&None, |v| &v.secret_ref),
    ];
    references
        .into_iter()
        .flatten()
        .map(|reference| &reference.name)
        .chain(instance.spec.kube_config.as_ref().map(|k| &k.secret_ref.name))
        .chain(root.map(|r| &r.name))
        .any(|named| named == name)
}

async fn wait_for_crds(hub: &kube::Client, health: &Health) {
    wait_for_crd(hub, health, FluxInstance::crd_name()).await;
    wait_for_crd(hub, health, FluxFleet::crd_name()).await;
}

/// Waiting for our CRD is a state, not a reason to exit: operator and CRDs may be applied in any order.
async fn wait_for_crd(hub: &kube::Client, health: &Health, name: &str) {
    let crds = Api::<CustomResourceDefinition>::all(hub.clone());
    let mut pause = Duration::from_millis(250);
    loop {
        match with_deadline(crds.get_metadata_opt(name)).await {
            Ok(Some(_)) => {
                health.set("crd", true);
                return;
            }
            Ok(None) => tracing::warn!(crd = name, "waiting for the CRD; apply crds/ to the hub"),
            Err(error) => tracing::warn!(%error, "waiting for the hub's API server"),
        }
        health.set("crd", false);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_that_never_end_put_no_plan_off() {
        let (sender, receiver) = watch::channel(());
        let mut plans = Box::pin(changed(receiver));
        let busy = tokio::spawn(async move {
            loop {
                sender.send_replace(());
                tokio::time::sleep(BURST / 10).await;
            }
        });
        for _ in 0..3 {
            let plan = tokio::time::timeout(BURST * 100, plans.next()).await;
            assert_eq!(plan, Ok(Some(())), "put off for ever");
        }
        busy.abort();
    }
}
