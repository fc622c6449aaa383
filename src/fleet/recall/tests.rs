//! Fleets that have lost their status: nothing moves by accident.

use serde_json::json;

use super::super::simulate::Fault;
use super::super::world::{NOBODY, World, at, one_stage, pinned, ring};
use crate::api::{FleetOnFailure, Phase, RETRY, ROLLBACK};

/// The status of the fleet is gone; the clusters are as they were.
fn forget(world: &mut World) {
    world.fleet.status = None;
    world.second += 10;
}

/// Those of the clusters as well, which find out what runs.
fn forget_all(world: &mut World) {
    forget(world);
    let now = at(world.second);
    for cluster in &mut world.clusters {
        cluster.forget(now);
    }
}

fn message(world: &World) -> &str {
    world.status().message.as_deref().unwrap()
}

#[test]
fn a_fleet_that_was_taken_back_stays_stopped_without_its_status() {
    let mut world = one_stage(json!({"concurrency": 3}), &["a", "a", "a"]);
    world.fleet.spec.on_failure = FleetOnFailure::Rollback;
    world.settle();
    world.succeed(&["a-0"]);
    assert_eq!(world.fail("a-1"), ["a-0=2.8.8", "a-1=2.8.8"]);
    world.succeed(&["a-0", "a-1"]);
    world.succeed(&["a-2"]);
    world.succeed(&["a-2"]);
    assert_eq!(world.phase(), Phase::RolledBack);
    forget(&mut world);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(30 * 86_400), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
    let why = "the status of this fleet was lost; 3 clusters (a-0 for one) had been taken back";
    assert!(message(&world).contains(why), "{}", message(&world));
    assert!(message(&world).contains("`headwater fleet resume prod`, goes on"), "{}", message(&world));
    world.word(RETRY, "1");
    assert_eq!(world.settle().len(), 3);
}

/// Who had been taken back is enough; who has not been yet is not taken back because of it.
#[test]
fn a_fleet_that_was_going_back_stops_without_its_status() {
    let mut world = one_stage(json!({"concurrency": 1}), &["a", "a"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.succeed(&["a-1"]);
    world.word(ROLLBACK, "1");
    assert_eq!(world.settle(), ["a-0=2.8.8"]);
    forget(&mut world);
    assert_eq!(world.succeed(&["a-0"]), NOBODY);
    assert_eq!((world.phase(), world.reason("a-1")), (Phase::Stopped, "Done".to_owned()));
    world.word(ROLLBACK, "2");
    assert_eq!(world.settle(), ["a-1=2.8.8"]);
}

/// Whether somebody had said to go on all the same is not known: nobody is taken back because of it.
#[test]
fn too_many_failures_stop_a_fleet_without_its_status_and_take_nobody_back() {
    for fault in [Fault::Back, Fault::Stay, Fault::Stall] {
        let mut world = one_stage(json!({"concurrency": 1}), &["a", "a", "a"]);
        world.settle();
        world.succeed(&["a-0"]);
        let now = at(world.second);
        world.of("a-1").fail(fault, now);
        world.settle();
        assert_eq!(world.phase(), Phase::Stopped, "{fault:?}");
        world.fleet.spec.on_failure = FleetOnFailure::Rollback;
        forget(&mut world);
        assert_eq!(world.settle(), NOBODY, "{fault:?}");
        assert_eq!(world.pass(86_400), NOBODY, "{fault:?}");
        assert_eq!(world.phase(), Phase::Stopped, "{fault:?}");
        assert!(message(&world).contains("1 of 3 in stage all failed"), "{}", message(&world));
    }
}

/// Clusters that were moved and fell ill count after the loss as before it.
#[test]
fn who_fell_ill_in_a_soak_is_still_a_reason_to_stop_without_the_status() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h"}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "b"]);
    world.settle();
    world.pass(60);
    world.succeed(&["a-0"]);
    let now = at(world.second);
    world.of("a-0").feel(false, now);
    world.pass(300);
    assert_eq!(world.phase(), Phase::Stopped);
    forget(&mut world);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
    // It has got well in the meantime: then nothing stands in the way, but the whole soak.
    forget(&mut world);
    let now = at(world.second);
    world.of("a-0").feel(true, now);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Soaking);
    assert_eq!(world.pass(3599), NOBODY);
    assert_eq!(world.pass(1), ["b-1=2.9.4"]);
}

#[test]
fn a_soak_begins_anew_without_the_status() {
    let mut world = World::soaking();
    assert_eq!(world.pass(3000), NOBODY);
    forget(&mut world);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(3599), NOBODY);
    assert_eq!(world.phase(), Phase::Soaking);
    assert_eq!(world.pass(1), ["b-1=2.9.4"]);
}

/// By version or by digest: a word that was said before the loss is not followed after it.
#[test]
fn approval_and_emergency_are_asked_for_anew_without_the_status() {
    for (before, after) in [("2.9.4", "sha256:2.9.4"), ("sha256:2.9.4", "2.9.4")] {
        let stages = json!([
            {"name": "one", "selector": ring("a"), "soak": "1h"},
            {"name": "two", "approval": "Required", "concurrency": 1},
        ]);
        let mut world = World::new(stages, &["a", "b", "b"]);
        world.fleet.spec.approved = Some(before.to_owned());
        world.fleet.spec.emergency = Some(before.to_owned());
        world.settle();
        assert_eq!(world.succeed(&["a-0"]), ["b-1=2.9.4"]);
        forget(&mut world);
        assert_eq!(world.succeed(&["b-1"]), NOBODY);
        assert_eq!(world.phase(), Phase::Soaking, "{before}");
        assert_eq!(world.pass(3600), NOBODY);
        assert_eq!(world.phase(), Phase::AwaitingApproval, "{before}");
        assert!(message(&world).contains("was said before the status of this fleet was lost"), "{}", message(&world));
        world.fleet.spec.approved = Some(after.to_owned());
        assert_eq!(world.settle(), ["b-2=2.9.4"], "{after}");
    }
}

/// A new fleet has lost nothing: what its manifest says is meant.
#[test]
fn words_in_the_manifest_of_a_new_fleet_count() {
    let mut world = one_stage(json!({"approval": "Required"}), &["a"]);
    world.fleet.spec.approved = Some("sha256:2.9.4".to_owned());
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
}

/// A word of last year to go back was about another target, a word to try again about another failure.
#[test]
fn annotations_that_were_heeded_are_not_heeded_again_without_the_status() {
    let mut world = one_stage(json!({}), &["a", "a"]);
    world.settle();
    world.fail("a-0");
    world.word(RETRY, "1");
    world.second += 10;
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    world.pass(10);
    world.fail("a-0");
    assert_eq!(world.phase(), Phase::Stopped);
    forget(&mut world);
    assert_eq!(world.settle(), NOBODY, "nothing is tried again");
    assert_eq!(world.phase(), Phase::Stopped);

    let mut world = one_stage(json!({}), &["a"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.word(ROLLBACK, "1");
    assert_eq!(world.settle(), ["a-0=2.8.8"]);
    world.succeed(&["a-0"]);
    world.target = pinned("2.9.5");
    assert_eq!(world.settle(), ["a-0=2.9.5"]);
    world.succeed(&["a-0"]);
    forget(&mut world);
    assert_eq!(world.settle(), NOBODY, "nobody is taken back");
    assert_eq!(world.phase(), Phase::Stopped);
    assert!(message(&world).contains("asks it to go back from a target that it does not know"), "{}", message(&world));
    world.word(RETRY, "1");
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Complete);
}

/// A hub that was restored without any status: what had been given up is written nowhere.
#[test]
fn a_fleet_whose_clusters_have_lost_their_statuses_too_asks_first() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "b"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.fail("b-1");
    forget_all(&mut world);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(86_400), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
    let why = "the statuses of 1 clusters (b-1 for one) were lost";
    assert!(message(&world).contains(why), "{}", message(&world));
    world.word(RETRY, "1");
    assert_eq!(world.settle(), ["b-1=2.9.4"]);
}

/// Where all are on the target, nothing could move, and nothing is asked.
#[test]
fn a_fleet_that_was_complete_is_so_again_without_any_status() {
    let mut world = one_stage(json!({}), &["a", "a"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.succeed(&["a-1"]);
    forget_all(&mut world);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Complete);
}

/// One cluster whose instance was made anew is a new cluster, and stops nobody.
#[test]
fn an_instance_that_lost_its_status_stops_no_fleet_that_has_its_own() {
    let mut world = one_stage(json!({"maxFailures": 1}), &["a", "a"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.fail("a-1");
    let now = at(world.second);
    world.of("a-1").forget(now);
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
}
