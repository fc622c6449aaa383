//! `headwater fleet plan`: the operator's own plan for now, printed instead of written.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::estimate::Rough;
use super::world::{World, lag, target};
use super::{Named, status};
use crate::api::{Admitted, FluxFleet};
use crate::cli::{Output, ui};
use crate::fleet::{FleetPlan, Member, State};

/// Names told of clusters that are in the same state for the same reason.
const NAMES: usize = 5;

#[derive(Args)]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    fleet: Named,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: PlanArgs) -> anyhow::Result<()> {
    let world = World::look(&args.fleet).await?;
    let fleet = &world.found.object;
    target(fleet)?;
    let members = world.members();
    let plan = world.plan(fleet, &members)?;
    if args.output == Output::Table {
        page(fleet, &plan, status::width()).into_iter().for_each(ui::out);
        return Ok(());
    }
    ui::value(&value(fleet, &plan), args.output)
}

/// What a member is admitted to by this very plan.
pub(super) fn admission<'p>(plan: &'p FleetPlan<'_>, member: &Member<'_>) -> Option<&'p Admitted> {
    let of = plan.admissions.iter().find(|admission| admission.instance.metadata.name.as_deref() == Some(member.name));
    of.map(|admission| &admission.admitted)
}

/// The name of a member's stage.
pub(super) fn stage_of<'f>(fleet: &'f FluxFleet, member: &Member<'_>) -> Option<&'f str> {
    member.stage.and_then(|stage| fleet.spec.stages.get(stage)).map(|stage| stage.name.as_str())
}

fn value(fleet: &FluxFleet, plan: &FleetPlan<'_>) -> Value {
    let clusters = plan.members.iter().map(|member| {
        json!({
            "name": member.name, "stage": stage_of(fleet, member), "state": member.state.word(),
            "reason": member.state.to_string(), "admittedNow": admission(plan, member).is_some(),
        })
    });
    let admissions = plan.admissions.iter().map(|admission| {
        let admitted = &admission.admitted;
        json!({
            "name": admission.instance.metadata.name, "version": admitted.version, "digest": admitted.digest,
            "rollback": admitted.rollback,
        })
    });
    json!({
        "admissions": admissions.collect::<Vec<_>>(),
        "clusters": clusters.collect::<Vec<_>>(),
        "status": plan.status,
        "recheckSeconds": plan.recheck.map(|recheck| recheck.as_secs()),
        "note": lag(fleet),
    })
}

/// So many names, and how many more there are.
fn names(all: &[&str]) -> String {
    let mut told = all.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMES {
        told = format!("{told} and {} more", all.len() - NAMES);
    }
    told
}

fn page(fleet: &FluxFleet, plan: &FleetPlan<'_>, width: Option<usize>) -> Vec<String> {
    let planned = FluxFleet { status: Some(plan.status.clone()), ..fleet.clone() };
    let mut lines = status::head(&planned, None);
    if plan.admissions.is_empty() {
        lines.push("next      nothing is admitted now".to_owned());
    }
    for admission in &plan.admissions {
        let name = admission.instance.metadata.name.as_deref().unwrap_or_default();
        let admitted = &admission.admitted;
        let back = if admitted.rollback { "back " } else { "" };
        lines.push(format!(
            "next      {name} is admitted {back}to {} ({})",
            admitted.version,
            ui::short(&admitted.digest)
        ));
    }
    let again = plan.recheck.map_or_else(
        || "when a cluster or the fleet changes".to_owned(),
        |recheck| format!("in {} at the latest, and when a cluster or the fleet changes", Rough(recheck)),
    );
    lines.push(format!("again     {again}"));

    // Each stage in its order, then what is in none; within it, what is the same is said once.
    let mut groups: BTreeMap<usize, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    let left = plan.members.iter().filter(|m| !matches!(m.state, State::Done { .. }) && admission(plan, m).is_none());
    for member in left {
        let group = groups.entry(member.stage.unwrap_or(usize::MAX)).or_default();
        group.entry(member.state.to_string()).or_default().push(member.name);
    }
    for (place, reasons) in groups {
        let stage = fleet.spec.stages.get(place).map_or("in no stage", |stage| stage.name.as_str());
        let planned = plan.status.stages.iter().find(|known| known.name == stage);
        let told = planned.map(|known| format!(" ({:?}, {})", known.state, status::counted(&known.counts)));
        lines.push(format!("\n{stage}{}", told.unwrap_or_default()));
        for (reason, of) in reasons {
            lines.push(format!("  {:>5}  {}: {}", of.len(), ui::short(&reason), names(&of)));
        }
    }
    lines.iter().flat_map(|line| ui::wrap(line, status::LABEL, width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FluxInstance;
    use crate::cli::fleet::tests::{fleet, input, instances};
    use crate::fleet::plan;

    #[test]
    fn a_plan_says_who_is_next_and_why_not_more() {
        let mut fleet = fleet();
        let canary = fleet.status.as_mut().unwrap().stages.iter_mut().find(|stage| stage.name == "canary").unwrap();
        canary.current = Some(crate::api::Pinned { version: "2.9.4".into(), digest: "sha256:new".into() });
        let instances = instances();
        let instances: Vec<&FluxInstance> = instances.iter().collect();
        let plan = plan(&input(&fleet, &instances)).unwrap();
        insta::assert_snapshot!(page(&fleet, &plan, None).join("\n"));
        let value = value(&fleet, &plan);
        assert_eq!(value["admissions"].as_array().unwrap().len(), 2, "{value}");
        assert_eq!(value["clusters"].as_array().unwrap().len(), 17, "{value}");
    }
}
