//! `headwater fleet explain`: why a cluster is not on the target, and what to do about it.

use anyhow::bail;
use clap::Args;
use kube::ResourceExt;
use serde_json::json;

use super::Named;
use super::plan::{admission, stage_of};
use super::world::{World, lag, target};
use crate::api::{FluxFleet, FluxInstance};
use crate::cli::{Output, ui};
use crate::fleet::{Exclusion, Failure, FleetPlan, Member, State, Waiting};

#[derive(Args)]
pub(in crate::cli) struct ExplainArgs {
    #[command(flatten)]
    fleet: Named,
    /// Name of the `FluxInstance`
    cluster: String,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let world = World::look(&args.fleet).await?;
    let fleet = &world.found.object;
    target(fleet)?;
    let members = world.members();
    let plan = world.plan(fleet, &members)?;
    let Some(member) = plan.members.iter().find(|member| member.name == args.cluster) else {
        let instance = world.found.beside::<FluxInstance>(&args.cluster).await?;
        bail!("{}", stranger(fleet, &instance.object));
    };
    let (sentence, advice) = explain(fleet, &plan, member);
    if args.output != Output::Table {
        let value = json!({
            "name": member.name, "stage": stage_of(fleet, member), "state": member.state.word(),
            "sentence": sentence, "advice": advice,
        });
        return ui::value(&value, args.output);
    }
    ui::out(sentence);
    if let Some(advice) = advice {
        ui::out(format!("    -> {advice}"));
    }
    if let Some(lag) = lag(fleet) {
        ui::talk(format!("note: {lag}"));
    }
    Ok(())
}

/// About an instance that is there, and is no member.
fn stranger(fleet: &FluxFleet, instance: &FluxInstance) -> String {
    let (name, instance_name) = (fleet.name_any(), instance.name_any());
    if instance.metadata.deletion_timestamp.is_some() {
        return format!("{instance_name} is being deleted: no fleet moves it any more");
    }
    let labels = instance.labels().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    let selector = serde_json::to_string(&fleet.spec.selector).unwrap_or_default();
    format!(
        "{name} does not select {instance_name} (its labels: {labels}): spec.selector of {name} is {selector}; give it labels that match, or look at the fleet that selects it"
    )
}

/// One sentence, and what to do.
fn explain(fleet: &FluxFleet, plan: &FleetPlan<'_>, member: &Member<'_>) -> (String, Option<String>) {
    let name = fleet.name_any();
    let version = plan.status.target.as_ref().map_or("the target", |target| target.version.as_str());
    let place = stage_of(fleet, member).map(|stage| format!(" (stage {stage})")).unwrap_or_default();
    let whole = |text: String| format!("{}{place}, whose fleet goes to {version}, {text}", member.name);
    if let Some(admitted) = admission(plan, member) {
        let back = if admitted.rollback { " back" } else { "" };
        return (whole(format!("may move{back} now: it is admitted as soon as the operator looks")), None);
    }
    (whole(member.state.to_string()), advice(&member.state, member.name, &name))
}

/// What can be done about a state; nothing where waiting is all there is to do.
fn advice(state: &State, cluster: &str, fleet: &str) -> Option<String> {
    let retry = format!("correct the cause, then `headwater fleet resume {fleet}`");
    let leave = format!("`headwater fleet skip {fleet} {cluster}` leaves it out");
    let text = match state {
        State::Done { reachable: true }
        | State::Moving { .. }
        | State::Unknown
        | State::Unchecked
        | State::Excluded(Exclusion::Untouched) => return None,
        State::Done { reachable: false } | State::Deferred(_) => format!(
            "bring its API server or its credentials back (`kubectl describe fluxinstance {cluster}` says what is wrong); nothing waits for it meanwhile"
        ),
        State::Wavering { .. } | State::Failed(Failure::Regressed(_) | Failure::Unhealthy(_)) => {
            format!("look at its controllers: `kubectl describe fluxinstance {cluster}`")
        }
        State::Failed(Failure::Refused(_) | Failure::Unlooked(_)) => {
            format!("`headwater check {cluster}` lists findings and remedies; {leave}")
        }
        State::Failed(Failure::Held(_) | Failure::Stalled(_) | Failure::Late(_)) => {
            format!("{retry}, or move on with a corrected bundle; {leave}")
        }
        State::Failed(Failure::Unreachable(_)) => format!("bring it back; {leave}"),
        State::Failed(Failure::NoWayBack) => {
            "go forward with a corrected bundle: nothing was good on it before".to_owned()
        }
        State::Excluded(Exclusion::Range(_)) => "widen spec.distribution.version of the FluxInstance".to_owned(),
        State::Excluded(Exclusion::Newer(_)) => {
            "leave it, or set spec.upgrade.allowDowngrade of the FluxInstance".to_owned()
        }
        State::Suspended => "set spec.suspend of the FluxInstance to false".to_owned(),
        State::Skipped => format!("`headwater fleet skip {fleet} {cluster} --undo` takes it in again"),
        State::Conflict(_) => "change labels or selectors so that one fleet selects it".to_owned(),
        State::Ungoverned => "set spec.admission of the FluxInstance to Fleet".to_owned(),
        State::Unassigned => {
            "give it a label that a stage selects, or end the stages with one that has no selector".to_owned()
        }
        State::Waiting(waiting) => return waiting_for(*waiting, fleet),
    };
    Some(text)
}

fn waiting_for(waiting: Waiting, fleet: &str) -> Option<String> {
    match waiting {
        Waiting::Turn | Waiting::Preflight(_) | Waiting::Slot(_) => None,
        Waiting::PreflightFailed(_) => {
            Some(format!("`headwater fleet preflight {fleet}` lists findings and remedies; or skip those clusters"))
        }
        Waiting::Approval => Some(format!("`headwater fleet approve {fleet}`")),
        Waiting::StageWindow(_) | Waiting::OwnWindow(_) => {
            Some(format!("wait, or `headwater fleet emergency {fleet}` if it cannot wait"))
        }
        Waiting::Stopped | Waiting::OverBudget(_) => {
            Some(format!("`headwater fleet status {fleet}` says why, and what goes on"))
        }
        Waiting::Unresolved => Some("see the condition Resolved of the fleet".to_owned()),
        Waiting::Suspended => Some(format!("`headwater fleet resume {fleet}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fleet::tests::{fleet, input, instance, instances};
    use crate::fleet::plan;

    #[test]
    fn a_cluster_is_explained_in_one_sentence() {
        let mut fleet = fleet();
        let canary = fleet.status.as_mut().unwrap().stages.iter_mut().find(|stage| stage.name == "canary").unwrap();
        canary.current = Some(crate::api::Pinned { version: "2.9.4".into(), digest: "sha256:new".into() });
        let mut all = instances();
        let own = all.iter_mut().find(|instance| instance.name_any() == "rest-1").unwrap();
        own.spec.distribution.version = "2.8.x".into();
        let all: Vec<&FluxInstance> = all.iter().collect();
        let plan = plan(&input(&fleet, &all)).unwrap();
        let told = ["canary", "early-1", "early-3", "away", "rest-1", "rest-2"].map(|name| {
            let member = plan.members.iter().find(|member| member.name == name).unwrap();
            let (sentence, advice) = explain(&fleet, &plan, member);
            format!("{sentence}\n    -> {}", advice.as_deref().unwrap_or("-"))
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn a_cluster_of_another_fleet_is_told_apart() {
        let mut other = instance("other", "early", &json!({}));
        other.labels_mut().insert("env".into(), "test".into());
        let text = stranger(&fleet(), &other);
        assert!(text.starts_with("prod does not select other (its labels: env=test, ring=early): spec.selector of prod is {\"matchLabels\""), "{text}");
    }
}
