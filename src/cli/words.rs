//! `headwater retry`, `rollback` and `confirm`: words of users to the operator, given as annotations of an instance.

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::ui;
use crate::api::{CONFIRM, FluxInstance, RETRY, ROLLBACK, condition};
use crate::cluster::{ClusterError, Gate, connect, hub_config, with_deadline};
use crate::plan::goal;

#[derive(Args)]
pub(super) struct RetryArgs {
    /// Name of the `FluxInstance`
    name: String,
    /// Namespace of the `FluxInstance` [default: that of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
}

#[derive(Args)]
pub(super) struct RollbackArgs {
    /// Name of the `FluxInstance`
    name: String,
    /// Digest of the bundle to go back to, one of the good ones in `status.history` [default: the newest good one that does not run now]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Namespace of the `FluxInstance` [default: that of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
}

#[derive(Args)]
pub(super) struct ConfirmArgs {
    /// Name of the `FluxInstance`
    name: String,
    /// Digest of the deletions, as the `Ready` condition and `headwater diff` say it
    #[arg(long, value_name = "DIGEST")]
    plan: String,
    /// Namespace of the `FluxInstance` [default: that of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
}

/// An instance on the hub.
pub(super) struct Found {
    /// Client of the hub.
    pub(super) hub: Client,
    /// Its namespace.
    pub(super) namespace: String,
    /// The instance.
    pub(super) instance: FluxInstance,
}

/// Finds an instance by name.
pub(super) async fn find(name: &str, namespace: Option<&String>) -> anyhow::Result<Found> {
    let config = hub_config().await?;
    let namespace = namespace.cloned().unwrap_or_else(|| config.default_namespace.clone());
    let hub = connect(&config, &Gate::open())?;
    let api = Api::<FluxInstance>::namespaced(hub.clone(), &namespace);
    match with_deadline(api.get(name)).await {
        Ok(instance) => Ok(Found { hub, namespace, instance }),
        Err(ClusterError::NotFound(_)) => {
            let all = with_deadline(api.list(&kube::api::ListParams::default().limit(20))).await?;
            let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            bail!(
                "there is no FluxInstance {name} in namespace {namespace} (found: {names}); --namespace names another one"
            )
        }
        Err(error) => Err(error).context("the hub"),
    }
}

impl Found {
    async fn say(&self, annotation: &str, word: &str) -> anyhow::Result<()> {
        let api = Api::<FluxInstance>::namespaced(self.hub.clone(), &self.namespace);
        let patch = json!({"metadata": {"uid": self.instance.uid(), "annotations": {annotation: word}}});
        let name = self.instance.name_any();
        with_deadline(api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        Ok(())
    }

    fn follow(&self) {
        let (name, namespace) = (self.instance.name_any(), &self.namespace);
        ui::out(format!("follow it with: kubectl get fluxinstance {name} -n {namespace} --watch"));
    }
}

/// A word that was not said before.
fn token() -> String {
    Timestamp::now().to_string()
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<()> {
    let found = find(&args.name, args.namespace.as_ref()).await?;
    let Some(held) = found.instance.status.as_ref().and_then(|s| s.held.as_ref()) else {
        bail!("{} holds nothing: there is nothing to try again", args.name);
    };
    found.say(RETRY, &token()).await?;
    ui::out(format!("{} is tried again on {}; it had failed: {}", held.version, args.name, held.message));
    found.follow();
    Ok(())
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let found = find(&args.name, args.namespace.as_ref()).await?;
    let status = found.instance.status.clone().unwrap_or_default();
    let back = match goal::revision(&status, args.to.as_deref()) {
        Ok(back) => back,
        Err(why) => bail!("{} cannot go back: {why}", args.name),
    };
    let from = status.attempted.as_ref().map_or("nothing", |r| r.version.as_str());
    found.say(ROLLBACK, &format!("{}={}", token(), back.digest)).await?;
    ui::out(format!(
        "{} goes back from {from} to {} ({}) and the spec it ran with; CRDs stay as they are. {from} is held until spec or bundle change, or `headwater retry {}`",
        args.name, back.version, back.digest, args.name
    ));
    found.follow();
    Ok(())
}

pub(super) async fn confirm(args: ConfirmArgs) -> anyhow::Result<()> {
    let found = find(&args.name, args.namespace.as_ref()).await?;
    let conditions = found.instance.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = condition::find(conditions, condition::READY);
    match ready.filter(|ready| ready.reason == "PruneBlocked") {
        None => bail!("nothing waits for a word on {}: its Ready condition is not PruneBlocked", args.name),
        Some(ready) if !ready.message.split([' ', '`']).any(|word| word == args.plan) => {
            bail!("{} waits for another word, not for {}: {}", args.name, args.plan, ready.message)
        }
        Some(_) => {}
    }
    found.say(CONFIRM, &args.plan).await?;
    ui::out(format!("confirmed: {} deletes what {} names, and nothing else", args.name, args.plan));
    found.follow();
    Ok(())
}
