//! `headwater retry`, `rollback` and `confirm`: words of users to the operator, given as annotations of an instance.

use anyhow::bail;
use clap::Args;

use super::found::{find, token};
use super::ui;
use crate::api::{CONFIRM, FluxInstance, RETRY, ROLLBACK, condition};
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

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<()> {
    let found = find::<FluxInstance>(&args.name, args.namespace.as_ref()).await?;
    let Some(held) = found.object.status.as_ref().and_then(|s| s.held.as_ref()) else {
        bail!("{} holds nothing: there is nothing to try again", args.name);
    };
    found.say(RETRY, Some(&token())).await?;
    ui::out(format!("{} is tried again on {}; it had failed: {}", held.version, args.name, held.message));
    found.follow();
    Ok(())
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let found = find::<FluxInstance>(&args.name, args.namespace.as_ref()).await?;
    let status = found.object.status.clone().unwrap_or_default();
    let back = match goal::revision(&status, args.to.as_deref()) {
        Ok(back) => back,
        Err(why) => bail!("{} cannot go back: {why}", args.name),
    };
    let from = status.attempted.as_ref().map_or("nothing", |r| r.version.as_str());
    found.say(ROLLBACK, Some(&format!("{}={}", token(), back.digest))).await?;
    ui::out(format!(
        "{} goes back from {from} to {} ({}) and the spec it ran with; CRDs stay as they are. {from} is held until spec or bundle change, or `headwater retry {}`",
        args.name, back.version, back.digest, args.name
    ));
    found.follow();
    Ok(())
}

pub(super) async fn confirm(args: ConfirmArgs) -> anyhow::Result<()> {
    let found = find::<FluxInstance>(&args.name, args.namespace.as_ref()).await?;
    let conditions = found.object.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = condition::find(conditions, condition::READY);
    match ready.filter(|ready| ready.reason == "PruneBlocked") {
        None => bail!("nothing waits for a word on {}: its Ready condition is not PruneBlocked", args.name),
        Some(ready) if !ready.message.split([' ', '`']).any(|word| word == args.plan) => {
            bail!("{} waits for another word, not for {}: {}", args.name, args.plan, ready.message)
        }
        Some(_) => {}
    }
    found.say(CONFIRM, Some(&args.plan)).await?;
    ui::out(format!("confirmed: {} deletes what {} names, and nothing else", args.name, args.plan));
    found.follow();
    Ok(())
}
