//! Wiring: what is watched, what starts a pass, and how it all ends.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{PredicateConfig, WatchStreamExt, watcher};
use kube::{Api, CustomResourceExt, Resource, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{Ctx, Guarded, reconcile};
use crate::api::{FluxInstance, TrustedRootKind};
use crate::bundle::Demands;
use crate::cluster::{connect, hub_config, with_deadline};
use crate::telemetry::{Health, Metrics, serve};

/// Passes at the same time. A pass waits for networks nearly all the time; unreachable clusters hold one for seconds.
const CONCURRENCY: u16 = 64;
/// Watches are opened anew before load balancers drop idle connections.
const WATCH_SECONDS: u32 = 200;

/// What `headwater operator` was started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace whose instances are managed; unset: the pod's own, or that of the kubeconfig.
    pub namespace: Option<String>,
    /// Where `/metrics` is served.
    pub metrics_addr: SocketAddr,
    /// Where `/livez` and `/readyz` are served.
    pub health_addr: SocketAddr,
    /// What is demanded of all bundles.
    pub demands: Demands,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let health = Health::default();
    let metrics = Metrics::default();
    let servers = serve(options.health_addr, options.metrics_addr, health.clone(), metrics.clone()).await?;

    let config = hub_config().await?;
    let namespace = options.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let hub = connect(&config)?;
    let stop = stop_signal()?;
    tokio::select! {
        () = stopped(stop.clone()) => return Ok(()),
        () = wait_for_crd(&hub, &health) => {}
    }

    let (trigger, mut triggered) = mpsc::channel::<ObjectRef<Guarded>>(1024);
    let ctx = Arc::new(Ctx::new(hub.clone(), namespace.clone(), options.demands, metrics, trigger));

    let (reader, writer) = reflector::store::<Guarded>();
    let config = || watcher::Config::default().timeout(WATCH_SECONDS);
    let ready = health.clone();
    let instances = watcher(Api::<Guarded>::namespaced(hub.clone(), &namespace), config())
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| ready.set("instances", event.is_ok()))
        .touched_objects()
        .predicate_filter(what_matters, PredicateConfig::default());

    let secrets_ctx = Arc::clone(&ctx);
    let named = reader.clone();
    let secrets = watcher(Api::<PartialObjectMeta<Secret>>::namespaced(hub, &namespace), config())
        .default_backoff()
        .applied_objects()
        .filter_map(move |secret| {
            let ctx = Arc::clone(&secrets_ctx);
            async move {
                if let Ok(secret) = &secret {
                    ctx.clusters.doubt(&secret.name_any(), false).await;
                }
                Some(secret)
            }
        });
    let triggers = futures::stream::poll_fn(move |cx| triggered.poll_recv(cx));

    tracing::info!(%namespace, version = env!("CARGO_PKG_VERSION"), "operator started");
    Controller::for_stream(instances, reader)
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
        .run(reconcile, |_, never, _| match *never {}, Arc::clone(&ctx))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
        })
        .await;
    servers.abort();
    tracing::info!("operator stopped");
    Ok(())
}

/// Becomes true at SIGTERM (Kubernetes) or SIGINT (a terminal).
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: passes under way are finished first");
        let _ = sender.send(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the task above is gone, and with it the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Our own status writes change none of these.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a predicate")]
fn what_matters(instance: &Guarded) -> Option<u64> {
    let metadata = instance.meta();
    let mut hasher = std::hash::DefaultHasher::new();
    (&metadata.generation, &metadata.annotations, &metadata.finalizers, &metadata.deletion_timestamp.is_some())
        .hash(&mut hasher);
    Some(hasher.finish())
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

/// Waiting for our CRD is a state, not a reason to exit: operator and CRDs may be applied in any order.
async fn wait_for_crd(hub: &kube::Client, health: &Health) {
    let crds = Api::<CustomResourceDefinition>::all(hub.clone());
    let name = FluxInstance::crd_name();
    let mut pause = std::time::Duration::from_millis(250);
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
        pause = (pause * 2).min(std::time::Duration::from_secs(10));
    }
}
