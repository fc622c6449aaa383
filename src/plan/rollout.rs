//! In which order running controllers are replaced: as the bundle says, and each group only when those before are healthy.

use std::sync::Arc;

use super::{Desired, DesiredSet, Observed, Plan, Stage, Step, Survey, stage_of};
use crate::api::bundle::RolloutStep;
use crate::render::ObjectKey;

/// Puts controllers into the bundle's order and waits between its groups. What is installed for the first time depends on nothing
/// that runs, so it comes all at once.
pub fn order(
    mut plan: Plan,
    desired: &DesiredSet,
    observed: &Observed,
    survey: &Survey,
    rollout: &[RolloutStep],
) -> Plan {
    let group = |object: &Desired| {
        let named = |step: &RolloutStep| object.component.as_ref().is_some_and(|name| step.components.contains(name));
        rollout.iter().position(named).unwrap_or(rollout.len())
    };
    let workloads: Vec<&Arc<Desired>> =
        desired.objects.iter().filter(|object| stage_of(&object.kind) == Stage::Workloads).collect();
    let is_running = |key: &ObjectKey| observed.live.contains_key(key) || survey.foreign.contains_key(key);
    if !workloads.iter().any(|object| is_running(&object.key)) {
        return plan;
    }
    let keys = |before: usize| -> Vec<ObjectKey> {
        workloads.iter().filter(|object| group(object) < before).map(|object| object.key.clone()).collect()
    };

    let mut ordered = Vec::with_capacity(plan.steps.len());
    let (mut controllers, rest): (Vec<Step>, Vec<Step>) =
        plan.steps.into_iter().partition(|step| step.stage() == Stage::Workloads);
    let group_of = |step: &Step| match step {
        Step::Apply { object, .. } => group(object),
        _ => rollout.len(),
    };
    controllers.sort_by_key(group_of);
    let mut last = 0;
    for step in controllers {
        let this = group_of(&step);
        let before = keys(this);
        if this > last && !before.is_empty() {
            ordered.push(Step::Await { stage: Stage::Workloads, keys: before });
        }
        last = this;
        ordered.push(step);
    }
    if rest.iter().any(|step| step.stage() == Stage::Sweep) {
        ordered.push(Step::Await { stage: Stage::Sweep, keys: keys(usize::MAX) });
    }
    ordered.extend(rest);
    // Stable: within a stage the order stays, and waiting comes before what it is for.
    ordered.sort_by_key(Step::stage);
    plan.steps = ordered;
    plan
}
