//! Whole rollouts of made-up fleets.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::api::{FluxFleet, FluxInstance, Phase};

fn fleet() -> FluxFleet {
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "prod", "namespace": "n", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"env": "prod"}},
            "distribution": {"version": "2.9.x"},
            "defaults": {"maxFailures": "10%"},
            "stages": [
                {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "1h", "maxFailures": 1},
                {"name": "early", "selector": {"matchLabels": {"ring": "early"}}, "concurrency": "25%", "soak": "24h"},
                {"name": "rest", "approval": "Required", "windows": [{"cron": "0 22 * * 1-4", "duration": "6h", "timeZone": "Europe/London"}]},
            ],
        },
    }))
    .unwrap()
}

fn assumed(clusters: usize) -> Assumptions {
    Assumptions {
        clusters: Clusters::MadeUp(clusters),
        fail: 0,
        unreachable: 0,
        refuse: 0,
        takes: SignedDuration::from_mins(3),
        approve_after: Some(SignedDuration::from_hours(2)),
        start: "2026-06-01T09:00:00Z".parse::<Timestamp>().unwrap(),
        seed: 7,
    }
}

#[test]
fn a_rollout_without_trouble_takes_its_soaks_approval_and_window() {
    let report = simulate(&fleet(), &assumed(30)).unwrap();
    assert_eq!((report.phase, report.counts.done, report.counts.total), (Phase::Complete, 30, 30), "{report:#?}");
    let told: Vec<String> = report
        .timeline
        .iter()
        .map(|e| format!("{} {} {}", e.at, e.stage.as_deref().unwrap_or("-"), e.what.split(':').next().unwrap()))
        .collect();
    insta::assert_yaml_snapshot!(told);
}

#[test]
fn the_same_seed_gives_the_same_rollout_and_another_one_does_not() {
    let troubled = |seed| {
        let assumed = Assumptions { fail: 50_000, unreachable: 100_000, seed, ..assumed(200) };
        serde_json::to_string(&simulate(&fleet(), &assumed).unwrap()).unwrap()
    };
    assert_eq!(troubled(1), troubled(1));
    assert_ne!(troubled(1), troubled(2));
}

#[test]
fn a_bad_bundle_stops_in_the_canary_and_goes_back() {
    let mut fleet = fleet();
    fleet.spec.on_failure = crate::api::FleetOnFailure::Rollback;
    let report = simulate(&fleet, &Assumptions { fail: 1_000_000, ..assumed(300) }).unwrap();
    assert_eq!(report.phase, Phase::RolledBack, "{report:#?}");
    assert!(report.stages.iter().filter(|stage| stage.name != "canary").all(|stage| stage.began.is_none()));
}

#[test]
fn unreachable_clusters_are_deferred_and_catch_up() {
    let report = simulate(&fleet(), &Assumptions { unreachable: 200_000, ..assumed(200) }).unwrap();
    assert_eq!((report.phase, report.counts.done), (Phase::Complete, 200), "{report:#?}");
    assert!(report.timeline.iter().any(|entry| entry.counts.deferred > 0));
}

#[test]
fn never_more_than_the_limit_are_on_their_way_whatever_the_size() {
    let mut fleet = fleet();
    fleet.spec.stages = serde_json::from_value(json!([{"name": "all", "concurrency": "100%"}])).unwrap();
    let report = simulate(&fleet, &assumed(500)).unwrap();
    assert_eq!((report.phase, report.peak), (Phase::Complete, 64));
}

#[test]
fn a_stage_that_cannot_have_clusters_is_named() {
    let mut fleet = fleet();
    fleet.spec.stages[0].selector = serde_json::from_value(json!({"matchLabels": {"env": "test"}})).unwrap();
    let report = simulate(&fleet, &assumed(30)).unwrap();
    assert!(report.notes[1].starts_with("no cluster can be in stage canary"), "{:?}", report.notes);
    assert_eq!(report.phase, Phase::Complete);
}

/// Instances as `kubectl get -o yaml` has them.
fn instance(name: &str, ring: &str, spec: &serde_json::Value, runs: &str, reachable: &str) -> FluxInstance {
    let mut instance = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
        "metadata": {"name": name, "namespace": "n", "labels": {"env": "prod", "ring": ring}},
        "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
        "status": {
            "applied": {"version": runs, "digest": format!("sha256:{runs}"), "config": "c", "at": "2026-05-01T00:00:00Z"},
            "conditions": [{"type": "Reachable", "status": reachable, "reason": "R", "message": "", "lastTransitionTime": "2026-05-01T00:00:00Z"}],
        },
    });
    json_patch::merge(&mut instance["spec"], spec);
    serde_json::from_value(instance).unwrap()
}

#[test]
fn real_clusters_are_moved_as_their_instances_say() {
    let clusters = vec![
        instance("us-1", "early", &json!({}), "2.8.8", "True"),
        instance("eu-1", "canary", &json!({}), "2.8.8", "True"),
        instance("eu-2", "none", &json!({}), "2.8.8", "True"),
        instance("lost", "none", &json!({}), "2.8.8", "False"),
        instance("paused", "none", &json!({"suspend": true}), "2.8.8", "True"),
        instance("pinned", "none", &json!({"distribution": {"version": "2.8.x"}}), "2.8.8", "True"),
        instance("ahead", "none", &json!({}), "2.9.4", "True"),
        instance("own", "none", &json!({"admission": "Self"}), "2.8.8", "True"),
    ];
    let real = |clusters| Assumptions { clusters: Clusters::Real(clusters), ..assumed(0) };
    let report = simulate(&fleet(), &real(clusters.clone())).unwrap();
    // 2.9.x means at least what runs somewhere already.
    assert_eq!((report.phase, report.target.as_str()), (Phase::Complete, "2.9.4"), "{report:#?}");
    let counts = &report.counts;
    assert_eq!((counts.done, counts.deferred, counts.left_out, counts.ungoverned), (4, 1, 2, 1), "{report:#?}");
    let totals: Vec<(&str, i64)> =
        report.stages.iter().map(|stage| (stage.name.as_str(), stage.counts.total)).collect();
    assert_eq!(totals, [("canary", 1), ("early", 1), ("rest", 5)]);
    assert_eq!(report.notes, ["1 clusters cannot be reached at present, and do not come back in this simulation"]);

    // The order of the file is none of the rollout.
    let told = |clusters| serde_json::to_string(&simulate(&fleet(), &real(clusters)).unwrap()).unwrap();
    assert_eq!(told(clusters.clone()), told(clusters.iter().rev().cloned().collect()));
    let twice = real([clusters.clone(), clusters].concat());
    assert!(simulate(&fleet(), &twice).unwrap_err().starts_with("there are two FluxInstances"));
}

#[test]
fn a_real_target_is_taken_from_the_status_of_the_fleet() {
    let mut fleet = fleet();
    let digest = format!("sha256:{}", "a".repeat(64));
    let target = json!({"target": {"version": "2.9.5", "digest": digest, "since": "2026-05-01T00:00:00Z"}});
    fleet.status = Some(serde_json::from_value(target).unwrap());
    let report = simulate(&fleet, &assumed(30)).unwrap();
    assert_eq!((report.target.as_str(), report.notes.len()), ("2.9.5", 0), "{:?}", report.notes);
    fleet.spec.distribution.version = "2.10.x".to_owned();
    let report = simulate(&fleet, &assumed(30)).unwrap();
    assert_eq!(report.notes, ["2.10.0 stands for what 2.10.x will mean: no registry was asked"]);
}
