//! `headwater fleet`: look at rollouts, and say words to them.

mod estimate;
mod explain;
mod plan;
mod preflight;
mod simulate;
mod status;
#[cfg(test)]
mod tests;
mod watch;
mod words;
mod world;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::found::{Found, find};
use crate::api::FluxFleet;

#[derive(Subcommand)]
pub(super) enum FleetCommand {
    /// Show where a rollout stands: its stages, what they wait for and when they will probably end, and the clusters that are not done
    Status(status::StatusArgs),
    /// Show what would be admitted next, and why not more: nothing is written
    Plan(plan::PlanArgs),
    /// Say why a cluster is not on the target, and what to do about it
    Explain(explain::ExplainArgs),
    /// Show the targets of the past
    History(status::HistoryArgs),
    /// Look at the clusters of a stage as each of them is looked at before it moves: nothing is written. Exits with 0 when nothing stops any of them, 1 when something does
    Preflight(preflight::PreflightArgs),
    /// Play a rollout, with made-up clusters or real ones: what would happen, and how long it would take. No cluster and no registry is asked
    Simulate(simulate::SimulateArgs),
    /// Let the stages go that wait for an approval of the target
    Approve(words::TargetArgs),
    /// Let the target wait for no soak and no window; health, budgets and approvals are as ever
    Emergency(words::TargetArgs),
    /// Admit nothing more until `resume`; clusters that were admitted finish
    Pause(Named),
    /// Go on after `pause`, and with a target that was held: its failed clusters are tried again
    Resume(Named),
    /// Leave a cluster out of the current target
    Skip(words::SkipArgs),
    /// Take every cluster that was moved to the target back to what was good on it
    Rollback(words::RollbackArgs),
}

/// A fleet.
#[derive(Args)]
pub(in crate::cli) struct Named {
    /// Name of the `FluxFleet`
    name: String,
    /// Namespace of the `FluxFleet` [default: that of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
}

impl Named {
    async fn find(&self) -> anyhow::Result<Found<FluxFleet>> {
        find(&self.name, self.namespace.as_ref()).await
    }
}

pub(super) async fn run(command: FleetCommand) -> anyhow::Result<ExitCode> {
    match command {
        FleetCommand::Status(args) if args.watch => watch::watch(args.fleet.find().await?).await?,
        FleetCommand::Status(args) => status::status(args).await?,
        FleetCommand::Plan(args) => plan::run(args).await?,
        FleetCommand::Explain(args) => explain::run(args).await?,
        FleetCommand::History(args) => status::history(args).await?,
        FleetCommand::Preflight(args) => return Box::pin(preflight::run(args)).await,
        FleetCommand::Simulate(args) => simulate::run(&args)?,
        FleetCommand::Approve(args) => words::approve(args).await?,
        FleetCommand::Emergency(args) => words::emergency(args).await?,
        FleetCommand::Pause(args) => words::pause(args).await?,
        FleetCommand::Resume(args) => words::resume(args).await?,
        FleetCommand::Skip(args) => words::skip(args).await?,
        FleetCommand::Rollback(args) => words::rollback(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
