//! Plans by table: small fleets whose instances are put into a state, planned, and looked at.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::api::{FluxInstanceStatus, Phase, PreflightStatus, Revision};

const OLD: &str = "sha256:old";
const NEW: &str = "sha256:new";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn fleet(stages: serde_json::Value) -> FluxFleet {
    let mut fleet = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "prod", "namespace": "n", "generation": 1},
        "spec": {"selector": {}, "distribution": {"version": "2.x"}},
    });
    fleet["spec"]["stages"] = stages;
    serde_json::from_value(fleet).unwrap()
}

fn revision(version: &str, digest: &str) -> Revision {
    Revision { version: version.into(), digest: digest.into(), config: format!("c-{digest}"), at: Time(at(-100)) }
}

/// An instance that runs the old bundle, was looked at, and passed the preflight for the new one.
fn instance(name: &str, ring: &str) -> FluxInstance {
    let mut instance: FluxInstance = serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
        "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 1, "resourceVersion": "1", "labels": {"ring": ring}},
        "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
    }))
    .unwrap();
    let mut status = FluxInstanceStatus {
        observed_digest: Some(OLD.into()),
        attempted: Some(revision("2.8.8", OLD)),
        applied: Some(revision("2.8.8", OLD)),
        last_good: Some(revision("2.8.8", OLD)),
        history: serde_json::from_value(json!([{
            "version": "2.8.8", "digest": OLD, "config": "c", "outcome": "Succeeded", "started": "2026-01-01T00:00:00Z"
        }]))
        .unwrap(),
        preflight: Some(PreflightStatus {
            digest: NEW.into(),
            generation: Some(1),
            config: "c".into(),
            findings: vec![],
            more: 0,
        }),
        ..FluxInstanceStatus::default()
    };
    let verdict = crate::api::condition::Verdict::yes("x", "x");
    crate::api::condition::set(&mut status.conditions, "Reachable", verdict, Some(1), &Time(at(-100)));
    instance.status = Some(status);
    instance
}

fn done(instance: &mut FluxInstance) {
    let status = instance.status.as_mut().unwrap();
    status.observed_digest = Some(NEW.into());
    status.attempted = Some(revision("2.9.4", NEW));
    status.applied = Some(revision("2.9.4", NEW));
    status.last_good = Some(revision("2.9.4", NEW));
}

fn back(instance: &mut FluxInstance) {
    let status = instance.status.as_mut().unwrap();
    assert!(status.admitted.as_ref().is_some_and(|a| a.rollback && a.digest == OLD), "{status:?}");
    status.observed_digest = Some(OLD.into());
    status.attempted = Some(revision("2.8.8", OLD));
    status.applied = Some(revision("2.8.8", OLD));
    status.last_good = Some(revision("2.8.8", OLD));
}

/// Plans, checks that planning again changes nothing, writes what was planned, and returns who was admitted.
fn step(fleet: &mut FluxFleet, instances: &mut [FluxInstance], now: Timestamp) -> Vec<String> {
    step_to(&Pinned { version: "2.9.4".into(), digest: NEW.into() }, fleet, instances, now)
}

fn step_to(target: &Pinned, fleet: &mut FluxFleet, instances: &mut [FluxInstance], now: Timestamp) -> Vec<String> {
    let made = |fleet: &FluxFleet, instances: &[FluxInstance]| {
        let instances: Vec<&FluxInstance> = instances.iter().collect();
        let input = Input { fleet, resolved: Some(target), instances: &instances, others: &[], now, since: at(0) };
        let plan = plan(&input).unwrap();
        lint::check(&input, &plan);
        let moves: Vec<(String, Admitted)> =
            plan.admissions.iter().map(|m| (m.instance.metadata.name.clone().unwrap(), m.admitted.clone())).collect();
        (moves, plan.status)
    };
    let (moves, status) = made(fleet, instances);
    fleet.status = Some(status.clone());
    for (name, admitted) in &moves {
        let instance = instances.iter_mut().find(|i| i.metadata.name.as_ref() == Some(name)).unwrap();
        instance.status.as_mut().unwrap().admitted = Some(admitted.clone());
    }
    let (again, same) = made(fleet, instances);
    assert_eq!((again, same), (vec![], status), "planning twice changes something");
    moves.into_iter().map(|(name, _)| name).collect()
}

fn phase(fleet: &FluxFleet) -> Phase {
    fleet.status.as_ref().unwrap().phase.unwrap()
}

#[test]
fn stages_go_one_after_the_other() {
    let mut fleet = fleet(json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "1m"},
        {"name": "rest", "concurrency": 1, "approval": "Required"},
    ]));
    let mut all = [instance("a", "canary"), instance("b", "x"), instance("c", "x")];
    assert_eq!(step(&mut fleet, &mut all, at(0)), ["a"]);
    assert_eq!(step(&mut fleet, &mut all, at(1)), [""; 0]);
    done(&mut all[0]);
    assert_eq!(step(&mut fleet, &mut all, at(10)), [""; 0]);
    assert_eq!(phase(&fleet), Phase::Soaking);
    assert_eq!(step(&mut fleet, &mut all, at(69)), [""; 0]);
    assert_eq!(step(&mut fleet, &mut all, at(70)), [""; 0]);
    assert_eq!(phase(&fleet), Phase::AwaitingApproval);
    fleet.spec.approved = Some("2.9.4".into());
    assert_eq!(step(&mut fleet, &mut all, at(80)), ["b"]);
    done(&mut all[1]);
    assert_eq!(step(&mut fleet, &mut all, at(90)), ["c"]);
    done(&mut all[2]);
    step(&mut fleet, &mut all, at(100));
    assert_eq!(phase(&fleet), Phase::Complete);
    insta::assert_yaml_snapshot!(fleet.status);
}

#[test]
fn too_many_failures_stop_everything_and_go_back() {
    let mut fleet = fleet(json!([{"name": "all", "concurrency": 2}]));
    fleet.spec.on_failure = crate::api::FleetOnFailure::Rollback;
    let mut all = [instance("a", "x"), instance("b", "x"), instance("c", "x")];
    assert_eq!(step(&mut fleet, &mut all, at(0)), ["a", "b"]);
    done(&mut all[0]);
    assert_eq!(step(&mut fleet, &mut all, at(599)), ["c"]);
    // What b says is of the new one, though nothing of it is done.
    all[1].status.as_mut().unwrap().observed_digest = Some(NEW.into());
    // b had ten minutes, and one more in case that it cannot be reached. What is on its way finishes before it goes back.
    assert_eq!(step(&mut fleet, &mut all, at(659)), [""; 0]);
    assert_eq!(step(&mut fleet, &mut all, at(660)), ["a"]);
    assert_eq!(phase(&fleet), Phase::RollingBack);
    done(&mut all[2]);
    back(&mut all[0]);
    assert_eq!(step(&mut fleet, &mut all, at(670)), ["b", "c"]);
    back(&mut all[1]);
    back(&mut all[2]);
    assert_eq!(step(&mut fleet, &mut all, at(680)), [""; 0]);
    assert_eq!(phase(&fleet), Phase::RolledBack);
    // A word goes on: the same target once more.
    fleet.metadata.annotations = Some([(crate::api::RETRY.to_owned(), "1".to_owned())].into());
    assert_eq!(step(&mut fleet, &mut all, at(690)), ["a", "b"]);
    assert_eq!(phase(&fleet), Phase::Updating);
}

#[test]
fn what_is_held_stays_so_until_the_new_target_is_known() {
    let mut fleet = fleet(json!([{"name": "all", "concurrency": 1}]));
    let mut all = [instance("a", "x"), instance("b", "x")];
    assert_eq!(step(&mut fleet, &mut all, at(0)), ["a"]);
    assert_eq!(step(&mut fleet, &mut all, at(660)), [""; 0]);
    assert_eq!(phase(&fleet), Phase::Stopped);
    fleet.spec.distribution.version = "2.9.5".into();
    let instances: Vec<&FluxInstance> = all.iter().collect();
    let unknown = Input {
        fleet: &fleet,
        resolved: None,
        instances: &instances,
        others: &[],
        since: Timestamp::UNIX_EPOCH,
        now: at(661),
    };
    let planned = plan(&unknown).unwrap();
    assert_eq!(planned.admissions, []);
    assert_eq!(planned.status.phase, Some(Phase::Stopped));
    // The same bundle after all: that is another try.
    assert_eq!(step(&mut fleet, &mut all, at(662)), ["a"]);
}

#[test]
fn a_target_that_is_not_wanted_any_more_goes_no_further() {
    let mut fleet = fleet(json!([{"name": "all", "concurrency": 1}]));
    let mut all = [instance("a", "x"), instance("b", "x")];
    assert_eq!(step(&mut fleet, &mut all, at(0)), ["a"]);
    done(&mut all[0]);
    let unresolved = |fleet: &FluxFleet, all: &[FluxInstance]| {
        let instances: Vec<&FluxInstance> = all.iter().collect();
        let input = Input {
            fleet,
            resolved: None,
            instances: &instances,
            others: &[],
            since: Timestamp::UNIX_EPOCH,
            now: at(9),
        };
        plan(&input).unwrap().admissions.len()
    };
    // A registry that is down does not stop what is known.
    assert_eq!(unresolved(&fleet, &all), 1);
    fleet.spec.distribution.version = "2.9.5".into();
    assert_eq!(unresolved(&fleet, &all), 0);
}
