//! A fleet on real API servers: clusters move in stages, and stop when they should.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use crate::fleet_bed::Members;
use crate::fleet_bed::{Fleet, PATIENCE};
use crate::harness::{NEW, OLD, eventually, holds, world};

pub(crate) fn rings() -> Value {
    json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "2s"},
        {"name": "rest", "concurrency": 1, "approval": "Required"},
    ])
}

/// A fleet installs, upgrades its canary, watches it, waits for an approval of this very target, and goes on one by one.
#[test]
fn stages_move_one_after_the_other() {
    let fleet = Fleet::start("fleet-stages", &["canary", "rest", "rest"], &json!({}));
    for member in 0..3 {
        fleet.tenant.wait(&format!("m{member}"), "Admitted", PATIENCE, |c| c.reason == "NoFleet");
    }
    assert_eq!(fleet.versions(), ["-", "-", "-"], "nothing is installed without a fleet's word");
    fleet.create(OLD, &rings(), &json!({"approved": OLD}));
    let status = fleet.reaches("Complete", OLD);
    assert_eq!(status["progress"], "3/3", "{status:#}");

    fleet.target(NEW);
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert_eq!(status["target"]["digest"], world().digests[NEW].as_str());
    assert_eq!(fleet.versions(), [NEW, OLD, OLD], "not before its stage");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(NEW) && message.contains(&world().digests[NEW]), "{message}");
    fleet.patch(&json!({"spec": {"approved": NEW}}));
    let status = fleet.reaches("Complete", NEW);
    assert_eq!(status["progress"], "3/3", "{status:#}");
    assert_eq!(fleet.versions(), [NEW, NEW, NEW]);
    assert_eq!(fleet.admissions(), [format!("m0 {NEW}"), format!("m1 {NEW}"), format!("m2 {NEW}")]);
    assert_eq!(fleet.under_way(), [["m0"], ["m1"], ["m2"]], "one at a time");
    let events: Vec<String> = fleet.tenant.events("prod").into_iter().map(|(reason, _)| reason).collect();
    for wanted in ["TargetChanged", "StageStarted", "StageSoaking", "StageDone", "ApprovalRequired", "Complete"] {
        assert!(events.contains(&wanted.to_owned()), "{wanted}: {events:?}");
    }
    // At rest nothing is written.
    fleet.tenant.poke("m0");
    let mark = fleet.faults.count();
    fleet.tenant.poke("m0");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.faults.writes()[mark..], []);

    // Deleting the fleet moves nothing.
    fleet.delete("prod");
    fleet.tenant.wait("m0", "Admitted", PATIENCE, |c| c.reason == "NoFleet");
    assert_eq!(fleet.versions(), [NEW, NEW, NEW]);
}

/// A cluster on which the target does not become healthy stops the fleet; every cluster that was moved goes back, the target is held, and a
/// word tries it again.
#[test]
fn too_many_failures_take_everything_back() {
    let fleet = Fleet::start("fleet-back", &["all"; 3], &json!({}));
    fleet.create(OLD, &json!([{"name": "all", "concurrency": 1}]), &json!({"onFailure": "Rollback"}));
    fleet.reaches("Complete", OLD);
    fleet.members[1].broken.store(true, Ordering::Relaxed);
    fleet.target(NEW);
    let status = fleet.reaches("RolledBack", NEW);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("1 of 3 in stage all failed, maxFailures is 0: m1"), "{message}");
    assert_eq!(status["history"][0]["outcome"], "RolledBack");
    assert_eq!(fleet.versions(), [OLD, OLD, OLD]);
    let forth = [format!("m0 {NEW}"), format!("m1 {NEW}")];
    let back = [format!("m0 back to {OLD}"), format!("m1 back to {OLD}")];
    assert_eq!(fleet.admissions(), [forth, back].concat(), "m2 was never moved");
    // Held, whatever else happens.
    let mark = fleet.admissions().len();
    fleet.tenant.poke("m0");
    fleet.tenant.stop();
    fleet.run();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.admissions()[mark..], [""; 0]);
    assert_eq!(fleet.status()["phase"], "RolledBack");

    // What was wrong is put right, and a word tries it again.
    fleet.members[1].broken.store(false, Ordering::Relaxed);
    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/retry": "1"}}}));
    let status = fleet.reaches("Complete", NEW);
    assert_eq!(status["progress"], "3/3");
    eventually("all on the new version", 5, || {
        let versions = fleet.versions();
        holds(versions == [NEW; 3], versions)
    });
}

/// Two fleets that select one instance both leave it alone, and say so; one that is in no stage is counted, and one whose own range
/// excludes the target is left out: neither holds up the rest.
#[test]
fn who_is_not_meant_is_said_and_left_alone() {
    let fleet = Fleet::start("fleet-meant", &["all", "none", ""], &json!({}));
    let narrow = json!({"distribution": {"version": "2.8.x"}});
    fleet.join_as(2, "all", &narrow);
    let stages = json!([{"name": "all", "selector": {"matchLabels": {"ring": "all"}}}]);
    fleet.create(OLD, &stages, &json!({}));
    let status = fleet.until("installed", |status| status["progress"] == "2/2" && status["phase"] == "Complete");
    assert_eq!(status["counts"]["unassigned"], 1, "{status:#}");
    assert_eq!(fleet.reason(1), ("Unassigned".to_owned(), "is in no stage".to_owned()));
    assert_eq!(fleet.versions(), [OLD, "-", OLD]);

    fleet.create_as("other", NEW, &stages, &json!({"selector": {"matchLabels": {"ring": "all"}}}));
    fleet.until("a conflict", |status| status["counts"]["conflicts"] == 2);
    fleet.target(NEW);
    fleet.until("a new target", |status| status["target"]["version"] == NEW);
    let said = fleet.tenant.wait("m0", "Admitted", PATIENCE, |c| c.reason == "Conflict").message;
    assert!(said.contains("FluxFleets other, prod select this instance: none moves it"), "{said}");
    std::thread::sleep(Duration::from_secs(2));
    for name in ["prod", "other"] {
        let status = fleet.status_of(name);
        assert_eq!((&status["counts"]["conflicts"], &status["phase"]), (&json!(2), &json!("Blocked")), "{status:#}");
    }
    assert_eq!(fleet.reason(0).0, "Conflict");
    assert_eq!(fleet.admissions(), [""; 0]);
    assert_eq!(fleet.versions(), [OLD, "-", OLD]);

    fleet.delete("other");
    let status = fleet.reaches("Complete", NEW);
    assert_eq!(status["counts"]["leftOut"], 1, "{status:#}");
    let (state, reason) = fleet.reason(2);
    assert_eq!(state, "Excluded");
    assert!(reason.contains("its own spec.distribution.version, \"2.8.x\", does not admit the target"), "{reason}");
    assert_eq!(fleet.versions(), [NEW, "-", OLD]);
    assert_eq!(fleet.admissions(), [format!("m0 {NEW}")]);
    // Out of the fleet and in again: nobody moves for that.
    fleet.label(0, &Value::Null);
    fleet.tenant.wait("m0", "Admitted", PATIENCE, |c| c.reason == "NoFleet");
    assert_eq!(fleet.versions(), [NEW, "-", OLD]);
    // In a stage at last: it installs.
    fleet.label(1, &json!("all"));
    fleet.until("it is installed", |s| s["counts"]["unassigned"] == 0 && s["counts"]["done"] == 1);
    assert_eq!(fleet.versions(), [NEW, NEW, OLD]);
}
