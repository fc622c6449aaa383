//! A fleet with clusters that answer, and cannot be used all the same.

use headwater_e2e::{Fault, Line, Write};
use serde_json::json;

use crate::fleet_bed::Fleet;
use crate::harness::{NEW, OLD, TOKENS};

/// Balancers answer with 503 for API servers that are gone: for one from the start, for one in the middle of its upgrade. Both are
/// deferred, spend no budget and hold nothing up, and catch up when they are back.
#[test]
fn clusters_behind_balancers_without_backends_are_deferred() {
    let fleet = Fleet::start("fleet-balancers", &["canary", "", "rest", "rest"], &json!({}));
    fleet.members[1].line.becomes(Line::Failing);
    fleet.join(1, "canary");
    let stages = json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}},
        {"name": "rest", "concurrency": 1, "progressDeadline": "20s"},
    ]);
    fleet.create(OLD, &stages, &json!({}));
    let status = fleet.reaches("Complete", OLD);
    assert_eq!((&status["progress"], &status["counts"]["deferred"]), (&json!("3/4"), &json!(1)), "{status:#}");
    assert_eq!(fleet.reason(1).0, "Deferred");

    let sick = &fleet.members[2];
    sick.slow.store(true, std::sync::atomic::Ordering::Relaxed);
    fleet.target(NEW);
    fleet.until("it is on its way", |status| status["phase"] == "Updating" && fleet.admissions().len() == 2);
    fleet.tenant.wait("m2", "Reconciling", crate::fleet_bed::PATIENCE, |c| c.status == "True");
    sick.line.becomes(Line::Failing);
    fleet.tenant.poke("m2");
    let status = fleet.reaches("Complete", NEW);
    assert_eq!((&status["progress"], &status["counts"]["deferred"]), (&json!("2/4"), &json!(2)), "{status:#}");
    assert_eq!((&status["counts"]["failed"], fleet.reason(2).0.as_str()), (&json!(0), "Deferred"), "{status:#}");
    assert_eq!(fleet.members[3].version().as_deref(), Some(NEW));

    sick.slow.store(false, std::sync::atomic::Ordering::Relaxed);
    for back in [1, 2] {
        fleet.members[back].line.becomes(Line::Open);
        fleet.connect(back, "wake", TOKENS[0]);
    }
    fleet.until("both catch up", |status| status["progress"] == "4/4" && status["phase"] == "Complete");
    assert_eq!(fleet.versions(), [NEW; 4]);
}

/// The answer to the write that stops a fleet is lost: that it stopped is told all the same, and once.
#[test]
fn a_stop_whose_answer_is_lost_is_told() {
    let fleet = Fleet::start("fleet-untold", &["all"], &json!({}));
    fleet.create(OLD, &json!([{"name": "all"}]), &json!({}));
    fleet.reaches("Complete", OLD);
    fleet.members[0].broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let stops = |write: &Write| write.path.contains("/fluxfleets/") && write.body["status"]["held"]["at"].is_string();
    fleet.faults.aim(stops, Fault::Reset);
    fleet.target(NEW);
    fleet.reaches("Stopped", NEW);
    assert!(fleet.faults.struck().is_some());
    fleet.tenant.event("prod", "Stopped");
    fleet.tenant.poke("m0");
    let told = fleet.tenant.events("prod").into_iter().filter(|(reason, _)| reason == "Stopped").count();
    assert_eq!(told, 1);
}
