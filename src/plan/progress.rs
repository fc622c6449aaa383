//! A change as people follow it: the steps of a plan under names, and how far they are. What is left is told by the newest
//! plan, so it is right also after the operator was killed; what was done is told by the status before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Plan, Stage, Step};
use crate::api::{PlanStep, StepState};

/// The last step of every change: everything is applied, is it healthy?
pub const HEALTH: &str = "health";

/// Names of what is left to do from this step of the plan on, each once, in order.
pub fn remaining(plan: &Plan, from: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut controllers: Vec<&str> = Vec::new();
    let flush = |controllers: &mut Vec<&str>, names: &mut Vec<String>| {
        if !controllers.is_empty() {
            names.push(format!("controllers: {}", controllers.join(", ")));
            controllers.clear();
        }
    };
    for step in plan.steps.iter().skip(from) {
        if let (Stage::Workloads, Step::Apply { object, .. }) = (step.stage(), step) {
            controllers.push(&object.key.name);
            continue;
        }
        flush(&mut controllers, &mut names);
        let name = match step {
            Step::Await { keys, .. } => {
                let keys: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
                format!("healthy: {}", keys.join(", "))
            }
            step => match step.stage() {
                Stage::Migration => "migrate stored objects",
                Stage::Definitions => "CRDs and cluster roles",
                Stage::Resources => "accounts, services and policies",
                Stage::Workloads => "controllers",
                Stage::CustomResources => "sync",
                Stage::Sweep => "migrate to the new versions",
                Stage::Prune => "prune",
            }
            .to_owned(),
        };
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    flush(&mut controllers, &mut names);
    names.push(HEALTH.to_owned());
    names
}

/// How the first of the remaining steps stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Under way, with what it waits for.
    Running(Option<&'a str>),
    /// It failed; why.
    Failed(&'a str),
}

/// The steps after a pass: those before that are no longer left are done.
pub fn advance(before: &[PlanStep], remaining: &[String], standing: Standing<'_>, now: &Time) -> Vec<PlanStep> {
    let done = before.iter().filter(|step| !remaining.contains(&step.name)).map(|step| PlanStep {
        state: StepState::Done,
        since: step.since.clone().or_else(|| Some(now.clone())),
        message: None,
        name: step.name.clone(),
    });
    let left = remaining.iter().enumerate().map(|(i, name)| {
        let known = before.iter().find(|step| step.name == *name);
        let began = || known.and_then(|step| step.since.clone()).or_else(|| Some(now.clone()));
        match (i, standing) {
            (0, Standing::Running(message)) => PlanStep {
                name: name.clone(),
                state: StepState::Running,
                since: began(),
                message: message.map(str::to_owned),
            },
            (0, Standing::Failed(why)) => {
                PlanStep { name: name.clone(), state: StepState::Failed, since: began(), message: Some(why.to_owned()) }
            }
            _ => PlanStep { name: name.clone(), state: StepState::Pending, since: None, message: None },
        }
    });
    done.chain(left).collect()
}

/// All steps are done.
pub fn complete(before: &[PlanStep], now: &Time) -> Vec<PlanStep> {
    advance(before, &[], Standing::Running(None), now)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn what_is_no_longer_left_is_done_and_clocks_go_on() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let seen = |steps: &[PlanStep]| {
            let text =
                |s: &PlanStep| format!("{} {:?} {:?}", s.name, s.state, s.since.as_ref().map(|t| t.0.as_second()));
            steps.iter().map(text).collect::<Vec<_>>()
        };
        let first = advance(&[], &names(&["a", "b", HEALTH]), Standing::Running(None), &at(1));
        assert_eq!(seen(&first), ["a Running Some(1)", "b Pending None", "health Pending None"]);
        let second = advance(&first, &names(&["b", HEALTH]), Standing::Running(Some("x")), &at(5));
        assert_eq!(seen(&second), ["a Done Some(1)", "b Running Some(5)", "health Pending None"]);
        let third = advance(&second, &names(&["b", HEALTH]), Standing::Failed("too late"), &at(9));
        assert_eq!(seen(&third), ["a Done Some(1)", "b Failed Some(5)", "health Pending None"]);
        assert_eq!(seen(&complete(&second, &at(9))), ["a Done Some(1)", "b Done Some(5)", "health Done Some(9)"]);
    }
}
