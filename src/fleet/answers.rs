//! Test code: may read files.
//! One test for each question that a fleet has to have an answer to. Every plan in them is linted.

use serde_json::json;

use super::world::{NOBODY, World, at, one_stage, pinned, ring};
use super::*;
use crate::api::{FleetOnFailure, FleetOutcome, Phase, RETRY, ROLLBACK, SKIP, StageState};

#[test]
fn of_two_stages_the_first_that_selects_a_cluster_takes_it() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two", "selector": ring("a")}]);
    let mut world = World::new(stages, &["a"]);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    let totals: Vec<i64> = world.status().stages.iter().map(|stage| stage.counts.total).collect();
    assert_eq!(totals, [1, 0]);
}

#[test]
fn a_cluster_in_no_stage_is_held_and_counted_and_the_rest_goes_on() {
    let mut world = World::new(json!([{"name": "one", "selector": ring("a")}]), &["a", "b"]);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    assert_eq!((world.status().counts.unassigned, world.reason("b-1").as_str()), (1, "Unassigned: is in no stage"));
}

#[test]
fn a_cluster_of_two_fleets_is_moved_by_neither() {
    let mut world = one_stage(json!({}), &["a", "b"]);
    let selector = serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>(ring("a"));
    world.others.push(Other { name: "other".to_owned(), selector: selector.unwrap().try_into().unwrap() });
    assert_eq!(world.settle(), ["b-1=2.9.4"]);
    assert_eq!(world.status().counts.conflicts, 1);
    assert!(world.reason("a-0").contains("selected by other too"), "{}", world.reason("a-0"));
}

#[test]
fn a_cluster_whose_range_excludes_the_target_is_left_out_and_takes_no_place() {
    let mut world = one_stage(json!({"concurrency": 1}), &["a", "a"]);
    world.edit("a-0", |instance| instance.spec.distribution.version = "2.8.x".to_owned());
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    world.succeed(&["a-1"]);
    assert_eq!((world.phase(), world.status().counts.left_out, world.status().counts.failed), (Phase::Complete, 1, 0));
}

#[test]
fn a_cluster_with_a_self_admission_is_reported_and_left_alone() {
    let mut world = one_stage(json!({}), &["a", "a"]);
    world.edit("a-0", |instance| instance.spec.admission = Admission::Own);
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    assert_eq!(world.status().counts.ungoverned, 1);
}

/// An update, not a first installation: what was said of the old bundle says nothing of the new one.
#[test]
fn old_words_of_health_do_not_count() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "b"]);
    world.look();
    let conditions = &world.of("a-0").instance.status.clone().unwrap().conditions;
    let ready = crate::api::condition::find(conditions, "ControllersReady").unwrap();
    assert_eq!(ready.status, "True");
    // Admitted, and not looked at since.
    world.plan();
    world.look();
    assert_eq!(world.plan(), ["a-0=2.9.4"]);
    assert_eq!(world.plan(), NOBODY);
    assert_eq!(world.status().counts.done, 0);
    world.settle();
    assert_eq!((world.status().counts.done, world.succeed(&["a-0"])), (0, vec!["b-1=2.9.4".to_owned()]));
}

#[test]
fn a_cluster_that_is_suspended_while_it_moves_gives_its_place_to_another() {
    let mut world = one_stage(json!({"concurrency": 1}), &["a", "a"]);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    world.edit("a-0", |instance| instance.spec.suspend = true);
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    world.succeed(&["a-1"]);
    assert_eq!(world.phase(), Phase::Complete);
    // A week later its time begins anew.
    world.second += 7 * 86_400;
    world.edit("a-0", |instance| instance.spec.suspend = false);
    world.plan();
    assert_eq!((world.phase(), world.status().counts.updating), (Phase::Updating, 1));
    world.pass(599);
    assert_eq!(world.status().counts.updating, 1);
    world.succeed(&["a-0"]);
    assert_eq!((world.phase(), world.status().counts.done), (Phase::Complete, 2));
}

#[test]
fn an_unreachable_cluster_is_deferred_blocks_nobody_and_catches_up() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "a", "b"]);
    world.of("a-0").is_away = true;
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    assert!(world.reason("a-0").starts_with("Deferred: is deferred"), "{}", world.reason("a-0"));
    assert_eq!(world.succeed(&["a-1"]), ["b-2=2.9.4"]);
    world.succeed(&["b-2"]);
    assert_eq!((world.phase(), world.status().counts.deferred), (Phase::Complete, 1));
    assert_eq!(world.away("a-0", false), ["a-0=2.9.4"]);
}

#[test]
fn a_cluster_that_goes_away_after_its_admission_frees_its_place_and_counts_as_the_stage_says() {
    for (unreachable, failed, deferred, phase) in [("Defer", 0, 1, Phase::Updating), ("Fail", 1, 0, Phase::Stopped)] {
        let mut world = one_stage(json!({"concurrency": 1, "unreachable": unreachable}), &["a", "a"]);
        assert_eq!(world.settle(), ["a-0=2.9.4"]);
        assert_eq!(world.away("a-0", true), NOBODY, "it has its time");
        let next = world.pass(600);
        let counts = world.status().counts;
        assert_eq!((counts.failed, counts.deferred, world.phase()), (failed, deferred, phase), "{unreachable}");
        assert_eq!(next.is_empty(), failed == 1, "{unreachable} {next:?}");
    }
}

#[test]
fn a_stage_that_cannot_be_reached_at_all_lets_nobody_pass() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "a", "b"]);
    world.of("a-0").is_away = true;
    world.of("a-1").is_away = true;
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(30 * 86_400), NOBODY);
    assert_eq!(world.phase(), Phase::Blocked);
    assert_eq!(world.away("a-1", false), ["a-1=2.9.4"]);
}

#[test]
fn who_joins_installs_what_its_stage_is_through_with() {
    let one = json!({"name": "one", "selector": ring("a"), "concurrency": 2});
    let mut world = World::new(json!([one, {"name": "two", "approval": "Required"}]), &["a", "b"]);
    world.fleet.spec.approved = Some("2.9.4".to_owned());
    world.settle();
    world.succeed(&["a-0"]);
    world.succeed(&["b-1"]);
    assert_eq!(world.phase(), Phase::Complete);
    world.target = pinned("2.9.5");
    assert_eq!(world.settle(), ["a-0=2.9.5"]);
    world.join("b", None);
    world.join("a", None);
    // No jump over the canary; and not what is under way there, either.
    let mut joined = world.settle();
    joined.sort();
    assert_eq!(joined, ["a-3=2.9.4", "b-2=2.9.4"]);
    world.clusters.retain(|c| c.instance.metadata.name.as_deref() != Some("a-0"));
    assert_eq!(world.settle(), NOBODY, "who left is not waited for, and who joined finishes first");
    assert_eq!(world.succeed(&["a-3"]), ["a-3=2.9.5"]);
}

#[test]
fn who_changes_stages_is_never_moved_to_something_older() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h"}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "a", "b"]);
    world.settle();
    world.pass(1);
    world.succeed(&["a-0"]);
    world.edit("a-0", |i| i.metadata.labels = Some([("ring".to_owned(), "b".to_owned())].into()));
    world.pass(1);
    assert_eq!((world.reason("a-0"), world.status().stages[1].counts.done), ("Done".to_owned(), 1));
    assert!(world.reason("b-2").starts_with("Waiting: waits for the stages before"), "{}", world.reason("b-2"));
}

#[test]
fn another_target_begins_with_the_first_stage_when_what_moves_has_finished_and_approvals_lapse() {
    let stages =
        json!([{"name": "one", "selector": ring("a")}, {"name": "two", "approval": "Required", "concurrency": 1}]);
    let mut world = World::new(stages, &["a", "b", "b"]);
    world.fleet.spec.approved = Some("2.9.4".to_owned());
    world.settle();
    assert_eq!(world.succeed(&["a-0"]), ["b-1=2.9.4"]);
    world.target = pinned("2.9.5");
    assert_eq!(world.settle(), ["a-0=2.9.5"]);
    assert!(world.reason("b-1").starts_with("Updating"), "{}", world.reason("b-1"));
    world.succeed(&["b-1"]);
    assert_eq!(world.succeed(&["a-0"]), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingApproval);
    assert_eq!(world.status().history[1].outcome, FleetOutcome::Superseded);
    world.fleet.spec.approved = Some("sha256:2.9.5".to_owned());
    assert_eq!(world.settle(), ["b-1=2.9.5"]);
}

#[test]
fn a_version_is_approved_for_the_bytes_it_had() {
    let mut world = one_stage(json!({"approval": "Required"}), &["a"]);
    world.fleet.spec.approved = Some("2.9.4".to_owned());
    world.fleet.spec.suspend = true;
    world.settle();
    world.target.digest = "sha256:moved".to_owned();
    world.fleet.spec.suspend = false;
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingApproval);
    world.fleet.spec.approved = Some("sha256:moved".to_owned());
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
}

#[test]
fn approval_is_asked_for_when_the_whole_stage_passes_its_preflight() {
    let mut world = one_stage(json!({"approval": "Required"}), &["a", "a"]);
    let now = at(0);
    world.look();
    world.plan();
    let target = world.target.clone();
    world.of("a-0").pass(Some(&target), None, now);
    world.plan();
    assert_eq!(world.phase(), Phase::Preflight);
    world.of("a-1").pass(Some(&target), Some("a right is missing"), now);
    world.plan();
    assert_eq!(world.phase(), Phase::PreflightFailed);
    assert_eq!(world.status().stages[0].findings[0].finding.message, "a right is missing");
    world.of("a-1").pass(Some(&target), None, now);
    world.plan();
    assert_eq!(world.phase(), Phase::AwaitingApproval);
}

#[test]
fn a_soak_is_neither_reset_by_who_falls_ill_nor_shortened_by_clocks_and_restarts() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h", "maxFailures": 1}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "a", "b"]);
    world.fleet.spec.stages[0].concurrency = Some(crate::api::Concurrency(crate::api::Share::Number(2)));
    world.settle();
    world.pass(60);
    world.succeed(&["a-0", "a-1"]);
    assert_eq!(world.phase(), Phase::Soaking);
    let now = at(world.second);
    world.of("a-0").feel(false, now);
    // Its time is five minutes; then it spends the budget of one, and the soak goes on.
    assert_eq!(world.pass(300), NOBODY);
    assert_eq!(world.status().counts.failed, 1);
    world.second -= 100;
    world.settle();
    world.second += 100;
    assert_eq!(world.pass(3299), NOBODY);
    assert_eq!(world.pass(1), ["b-2=2.9.4"]);
}

#[test]
fn too_many_that_fall_ill_in_a_soak_stop_the_fleet() {
    let mut world = World::soaking();
    let now = at(world.second);
    world.of("a-0").feel(false, now);
    assert_eq!(world.pass(300), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
}

#[test]
fn an_emergency_waits_for_no_soak_and_no_window_but_for_approvals() {
    let window = json!([{"cron": "0 0 1 1 *", "duration": "1h"}]);
    let stages = json!([
        {"name": "one", "selector": ring("a"), "soak": "24h"},
        {"name": "two", "selector": ring("b"), "windows": window},
        {"name": "three", "approval": "Required"},
    ]);
    let mut world = World::new(stages, &["a", "b", "c"]);
    world.settle();
    assert_eq!(world.succeed(&["a-0"]), NOBODY);
    world.fleet.spec.emergency = Some("2.9.3".to_owned());
    assert_eq!(world.settle(), NOBODY, "that is about something else");
    world.fleet.spec.emergency = Some("2.9.4".to_owned());
    assert_eq!(world.settle(), ["b-1=2.9.4"]);
    assert_eq!(world.succeed(&["b-1"]), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingApproval);
}

#[test]
fn who_failed_at_an_older_target_moves_on_with_the_next_one() {
    let mut world = one_stage(json!({"maxFailures": 1}), &["a", "a"]);
    world.settle();
    assert_eq!(world.fail("a-0"), ["a-1=2.9.4"]);
    world.succeed(&["a-1"]);
    world.target = pinned("2.9.5");
    assert_eq!(world.settle(), ["a-0=2.9.5"]);
}

#[test]
fn over_budget_nobody_is_admitted_anywhere_and_what_moves_finishes() {
    let mut world = one_stage(json!({"concurrency": 2, "maxFailures": 1}), &["a", "a", "a", "a", "a"]);
    assert_eq!(world.settle(), ["a-0=2.9.4", "a-1=2.9.4"]);
    assert_eq!(world.fail("a-0"), ["a-2=2.9.4"]);
    assert_eq!(world.fail("a-1"), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
    assert_eq!(world.succeed(&["a-2"]), NOBODY);
    assert_eq!((world.reason("a-2"), world.status().counts.done), ("Done".to_owned(), 1));
    // A word goes on, and the failed are tried again.
    world.second += 10;
    world.word(RETRY, "1");
    assert_eq!(world.settle(), ["a-0=2.9.4", "a-1=2.9.4"]);
}

#[test]
fn a_rollback_takes_back_what_was_moved_and_holds_the_target_until_the_spec_changes() {
    let mut world = one_stage(json!({"concurrency": 3}), &["a", "a", "a"]);
    world.fleet.spec.on_failure = FleetOnFailure::Rollback;
    assert_eq!(world.settle().len(), 3);
    world.succeed(&["a-0"]);
    assert_eq!(world.fail("a-1"), ["a-0=2.8.8", "a-1=2.8.8"]);
    world.succeed(&["a-0"]);
    assert_eq!(world.phase(), Phase::RollingBack);
    // What is on its way ends first.
    assert_eq!(world.succeed(&["a-2"]), ["a-2=2.8.8"]);
    world.succeed(&["a-2"]);
    assert_eq!(world.phase(), Phase::RolledBack);
    assert_eq!(world.pass(30 * 86_400), NOBODY);
    world.fleet.spec.defaults.progress_deadline = crate::api::ProgressDeadline("20m".to_owned());
    world.second += 1;
    assert!(!world.settle().is_empty(), "another spec is another try");
}

#[test]
fn a_rollback_by_hand_is_not_promoted_again_by_itself_and_leaves_who_was_not_moved() {
    let mut world = one_stage(json!({"concurrency": "100%"}), &["a", "a"]);
    world.join("a", Some("2.9.4"));
    world.settle();
    world.succeed(&["a-0", "a-1"]);
    assert_eq!((world.phase(), world.status().counts.done), (Phase::Complete, 3));
    world.second += 60;
    world.word(ROLLBACK, "1");
    assert_eq!(world.settle(), ["a-0=2.8.8", "a-1=2.8.8"]);
    world.succeed(&["a-0", "a-1"]);
    assert_eq!(world.phase(), Phase::RolledBack);
    assert_eq!(world.status().history[0].outcome, FleetOutcome::RolledBack);
    assert_eq!(world.pass(365 * 86_400), NOBODY);
    assert!(world.reason("a-2").starts_with("Excluded: was not moved"), "{}", world.reason("a-2"));
}

#[test]
fn windows_of_stage_and_owner_have_both_to_be_open_and_who_was_admitted_finishes() {
    // Second 0 is 08:00 UTC.
    let mut world = one_stage(json!({"windows": [{"cron": "0 9 * * *", "duration": "2h"}]}), &["a"]);
    let own = json!([{"cron": "0 10 * * *", "duration": "4h"}]);
    world.edit("a-0", |instance| instance.spec.upgrade.windows = serde_json::from_value(own).unwrap());
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingWindow);
    assert_eq!(world.pass(3600), NOBODY);
    assert!(world.reason("a-0").starts_with("Waiting: waits for its own window"), "{}", world.reason("a-0"));
    assert_eq!(world.pass(3600), ["a-0=2.9.4"]);
    assert_eq!(world.pass(7 * 86_400), NOBODY);
}

#[test]
fn who_skips_the_target_is_left_out_even_when_it_failed() {
    let mut world = one_stage(json!({}), &["a", "a"]);
    world.edit("a-0", |i| i.metadata.annotations = Some([(SKIP.to_owned(), "2.9.4".to_owned())].into()));
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    assert_eq!(world.reason("a-0"), "Skipped: skips this target (headwater.dev/skip)");
    world.fail("a-1");
    assert_eq!(world.phase(), Phase::Stopped);
    world.of("a-1").instance.metadata.annotations = Some([(SKIP.to_owned(), "2.9.4".to_owned())].into());
    world.settle();
    assert_eq!((world.status().counts.failed, world.status().counts.left_out), (0, 2));
}

#[test]
fn who_is_not_selected_or_on_its_way_out_is_neither_counted_nor_moved() {
    let mut world = one_stage(json!({}), &["a", "b"]);
    world.fleet.spec.selector = serde_json::from_value(ring("a")).unwrap();
    let gone = Some(Time(at(0)));
    world.edit("a-0", |instance| instance.metadata.deletion_timestamp = gone);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.status().counts.total, 0);
}

#[test]
fn who_was_never_looked_at_is_not_admitted_from_a_race() {
    let mut world = one_stage(json!({}), &["a"]);
    assert_eq!(world.plan(), NOBODY);
    assert!(world.reason("a-0").starts_with("Unknown"), "{}", world.reason("a-0"));
}

#[test]
fn an_empty_stage_is_passed_at_once() {
    let stages =
        json!([{"name": "none", "selector": ring("x"), "soak": "24h", "approval": "Required"}, {"name": "two"}]);
    let mut world = World::new(stages, &["a"]);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    assert_eq!(world.status().stages[0].state, StageState::Empty);
}

/// Stages that were passed while nobody was there are not done with.
#[test]
fn a_fleet_that_is_there_before_its_instances_takes_them_in_order_and_asks() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h"}, {"name": "two", "approval": "Required"}]);
    let mut world = World::new(stages, &[]);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Pending);
    assert!(world.status().stages.iter().all(|stage| stage.state == StageState::Empty && stage.current.is_none()));
    for (ring, running) in [("b", Some("2.8.8")), ("b", None), ("a", Some("2.8.8"))] {
        world.join(ring, running);
    }
    assert_eq!(world.settle(), ["a-2=2.9.4"]);
    assert_eq!(world.succeed(&["a-2"]), NOBODY);
    assert_eq!(world.phase(), Phase::Soaking);
    assert_eq!(world.pass(3600), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingApproval);
}

/// Who gets a first cluster when all others are done tries the target on it, and holds up nobody who is done.
#[test]
fn a_stage_that_was_empty_is_gone_through_when_a_cluster_joins_it() {
    let stages = json!([{"name": "one", "selector": ring("a"), "approval": "Required"}, {"name": "two"}]);
    let mut world = World::new(stages, &["b"]);
    assert_eq!(world.settle(), ["b-0=2.9.4"]);
    world.succeed(&["b-0"]);
    assert_eq!((world.phase(), world.status().history[0].outcome), (Phase::Complete, FleetOutcome::Succeeded));
    // What happens to those that are done is no failure of the rollout, as before.
    world.join("a", Some("2.8.8"));
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::AwaitingApproval);
    world.fleet.spec.approved = Some("2.9.4".to_owned());
    assert_eq!(world.settle(), ["a-1=2.9.4"]);
    world.succeed(&["a-1"]);
    assert_eq!(world.phase(), Phase::Complete);
}

#[test]
fn a_stage_of_which_nobody_is_governed_lets_nobody_pass() {
    let mut world = World::new(json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]), &["a", "b"]);
    world.edit("a-0", |instance| instance.spec.admission = Admission::Own);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Blocked);
    let message = world.status().message.clone().unwrap();
    assert!(message.contains("1 instances are in it, and none that this fleet governs"), "{message}");
    world.edit("a-0", |instance| instance.spec.admission = Admission::Fleet);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
}

/// An owner who changes his spec every day must not hold up everybody behind.
#[test]
fn a_spec_that_changes_while_a_stage_is_watched_does_not_begin_the_soak_anew() {
    let mut world = World::soaking();
    world.pass(1800);
    let now = at(world.second);
    world.edit("a-0", |instance| {
        let status = instance.status.as_mut().unwrap();
        let mut entry = status.history[0].clone();
        assert_eq!(entry.digest, "sha256:2.9.4");
        (entry.config, entry.started, entry.finished) = ("another".to_owned(), Time(now), Some(Time(now)));
        status.history.insert(0, entry);
        status.last_good.as_mut().unwrap().at = Time(now);
    });
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(1800), ["b-1=2.9.4"]);
}

/// A mirror that lags shows an older version for a moment.
#[test]
fn what_was_given_up_stays_so_when_the_repository_shows_something_else_meanwhile() {
    for on_failure in [FleetOnFailure::Pause, FleetOnFailure::Rollback] {
        let mut world = one_stage(json!({"concurrency": 1}), &["a", "a"]);
        world.fleet.spec.on_failure = on_failure;
        assert_eq!(world.settle(), ["a-0=2.9.4"]);
        world.fail("a-0");
        world.succeed(&["a-0"]);
        let (phase, message) = (world.phase(), world.status().message.clone());
        assert!([Phase::Stopped, Phase::RolledBack].contains(&phase), "{phase:?}");
        world.target = pinned("2.9.3");
        world.pass(60);
        world.target = pinned("2.9.4");
        assert_eq!(world.pass(60), NOBODY);
        assert_eq!(world.succeed(&["a-0"]), NOBODY, "what it was on its way to");
        assert_eq!((world.phase(), &world.status().message), (phase, &message));
        // Somebody who says so is heard.
        world.word(RETRY, "1");
        assert_eq!(world.pass(60), ["a-0=2.9.4"]);
    }
}

#[test]
fn what_was_given_up_is_tried_again_when_the_spec_went_elsewhere_meanwhile() {
    let mut world = one_stage(json!({}), &["a"]);
    world.settle();
    world.fail("a-0");
    assert_eq!(world.phase(), Phase::Stopped);
    world.fleet.spec.distribution.version = "2.9.3".to_owned();
    world.target = pinned("2.9.3");
    world.pass(60);
    world.fleet.spec.distribution.version = "2.x".to_owned();
    world.target = pinned("2.9.4");
    world.pass(60);
    assert_ne!(world.phase(), Phase::Stopped);
}

#[test]
fn two_hundred_clusters_do_not_fall_upon_one_registry() {
    let mut world = one_stage(json!({"concurrency": "100%"}), &["a"; 200]);
    assert_eq!(world.settle().len(), MAX_IN_FLIGHT);
}

#[test]
fn a_hub_that_was_away_blames_nobody_for_it() {
    let mut world = one_stage(json!({}), &["a"]);
    world.settle();
    world.second += 86_400;
    let instances: Vec<&FluxInstance> = world.clusters.iter().map(|c| &c.instance).collect();
    let now = at(world.second);
    let input = Input { fleet: &world.fleet, resolved: None, instances: &instances, others: &[], now, since: now };
    let planned = plan(&input).unwrap();
    lint::check(&input, &planned);
    assert_eq!((planned.status.phase, planned.status.counts.updating), (Some(Phase::Updating), 1));
    let after = |minutes| Input { now: now.checked_add(SignedDuration::from_mins(minutes)).unwrap(), ..input };
    assert_eq!(plan(&after(10)).unwrap().status.phase, Some(Phase::Updating));
    assert_eq!(plan(&after(11)).unwrap().status.phase, Some(Phase::Stopped));
}

#[test]
fn who_ran_the_target_before_is_no_reason_to_stop_or_to_go_back() {
    let mut world = one_stage(json!({}), &["a"]);
    world.fleet.spec.on_failure = FleetOnFailure::Rollback;
    world.join("a", Some("2.9.4"));
    let now = at(0);
    world.look();
    world.of("a-1").feel(false, now);
    world.pass(3600);
    world.succeed(&["a-0"]);
    assert_eq!((world.phase(), world.status().counts.failed), (Phase::Complete, 1));
}

/// A deadline that is shorter than it takes to find out that a cluster cannot be reached: who falls silent is not late.
#[test]
fn a_cluster_that_falls_silent_is_deferred_however_short_its_deadline_is() {
    let mut world = one_stage(json!({"concurrency": 1, "progressDeadline": "10s"}), &["a", "a"]);
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    // Its time is over; its last pass has not come to an end, so that it seems to be there.
    assert_eq!(world.pass(40), NOBODY);
    assert_eq!((world.phase(), world.status().counts.updating), (Phase::Updating, 1));
    assert_eq!(world.away("a-0", true), ["a-1=2.9.4"]);
    assert_eq!((world.phase(), world.status().counts.deferred, world.status().counts.failed), (Phase::Updating, 1, 0));
    // One that can be reached all the time is late.
    assert_eq!(world.pass(69), NOBODY);
    assert_eq!(world.phase(), Phase::Updating);
    assert_eq!(world.pass(1), NOBODY);
    assert_eq!(
        (world.phase(), world.reason("a-1").as_str()),
        (Phase::Stopped, "Failed: is not done 10s after its admission")
    );
}

/// A cluster whose preflight never ends: it counts as the stage says of those that cannot be reached, and catches up when it has ended.
#[test]
fn a_preflight_that_never_ends_holds_up_nobody_for_ever() {
    for (unreachable, phase) in [("Defer", Phase::Complete), ("Fail", Phase::PreflightFailed)] {
        let mut world = one_stage(json!({"unreachable": unreachable, "approval": "Required"}), &["a", "a"]);
        world.fleet.spec.approved = Some("2.9.4".to_owned());
        world.of("a-1").is_blind = true;
        assert_eq!(world.settle(), NOBODY);
        assert_eq!(world.pass(599), NOBODY);
        assert_eq!(
            (world.phase(), world.reason("a-1").as_str()),
            (Phase::Preflight, "Preflight: is being looked at for this target")
        );
        let moved = world.pass(1);
        let is_deferred = phase == Phase::Complete;
        assert_eq!(moved.len(), usize::from(is_deferred), "{unreachable} {moved:?}");
        if is_deferred {
            assert!(world.reason("a-1").starts_with("Deferred: is deferred: since"), "{}", world.reason("a-1"));
            assert!(world.reason("a-1").contains("could not be looked at"), "{}", world.reason("a-1"));
            world.succeed(&["a-0"]);
        } else {
            let why = "Refused: was not moved, since it could not be looked at for this target within 10m";
            assert_eq!(world.reason("a-1"), why);
        }
        assert_eq!(world.phase(), phase);
        world.of("a-1").is_blind = false;
        let expected: &[&str] = if is_deferred { &["a-1=2.9.4"] } else { &["a-0=2.9.4"] };
        assert_eq!(world.settle(), expected, "{unreachable}");
    }
}

/// Who has never been looked at at all, since nobody looks after it, is no other case; and who stops the fleet gives it the time anew.
#[test]
fn a_cluster_that_nobody_looks_after_holds_up_nobody_for_ever() {
    let mut world = one_stage(json!({}), &["a", "a"]);
    world.of("a-1").is_alone = true;
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.pass(599), NOBODY);
    assert!(world.reason("a-1").starts_with("Unknown"), "{}", world.reason("a-1"));
    assert_eq!(world.pass(1), ["a-0=2.9.4"]);
    world.fail("a-0");
    assert_eq!(world.phase(), Phase::Stopped);
    world.second += 1;
    world.word(RETRY, "1");
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Preflight);
    assert_eq!(world.pass(600), ["a-0=2.9.4"]);
}

#[test]
fn a_stage_of_a_fleet_that_stands_still_says_so() {
    let mut world = World::soaking();
    let one = |world: &World| {
        let stage = &world.status().stages[0];
        (stage.state, stage.message.clone().unwrap_or_default())
    };
    assert_eq!(one(&world).0, StageState::Soaking);
    world.fleet.spec.suspend = true;
    assert_eq!(world.pass(7200), NOBODY);
    assert_eq!(one(&world), (StageState::Stopped, "1 done; the stage waits since the fleet is suspended".to_owned()));
    // Its soak has gone on meanwhile.
    world.fleet.spec.suspend = false;
    assert_eq!(world.settle(), ["b-1=2.9.4"]);

    let mut world = one_stage(json!({"concurrency": 1}), &["a", "a", "a"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.fail("a-1");
    let said = "1 done, 1 left, which waits since the fleet has stopped";
    assert_eq!((world.phase(), one(&world)), (Phase::Stopped, (StageState::Stopped, said.to_owned())));
}

/// What is read may be older than what was written: a stage that looks untouched again is no second start, and opens no other stage.
#[test]
fn a_cache_that_lags_by_a_write_opens_no_second_stage() {
    let stages = json!([{"name": "one", "selector": ring("a")}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "b"]);
    world.look();
    world.plan();
    world.look();
    let stale = world.of("a-0").instance.clone();
    assert_eq!(world.plan(), ["a-0=2.9.4"]);
    world.settle();
    let fresh = std::mem::replace(&mut world.of("a-0").instance, stale);
    // Admitted once more on top of what it was then, which its resourceVersion refuses; and nobody else.
    assert_eq!(world.plan(), ["a-0=2.9.4"]);
    world.of("a-0").instance = fresh;
    assert_eq!(world.succeed(&["a-0"]), ["b-1=2.9.4"]);
}

/// It may get well again before its time is over: the stage neither passes nor stops meanwhile.
#[test]
fn a_stage_with_a_cluster_that_wavers_does_not_pass() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1m"}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "b"]);
    world.settle();
    world.succeed(&["a-0"]);
    world.pass(30);
    let now = at(world.second);
    world.of("a-0").feel(false, now);
    assert_eq!(world.pass(60), NOBODY);
    assert!(world.reason("a-0").starts_with("Wavering"), "{}", world.reason("a-0"));
    let now = at(world.second);
    world.of("a-0").feel(true, now);
    assert_eq!(world.settle(), ["b-1=2.9.4"]);
}

/// What comes late to a stage that is watched is watched as long.
#[test]
fn who_comes_late_is_watched_as_long_as_the_others() {
    let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h"}, {"name": "two"}]);
    let mut world = World::new(stages, &["a", "a", "b"]);
    world.of("a-1").is_away = true;
    world.settle();
    world.succeed(&["a-0"]);
    assert_eq!(world.pass(3000), NOBODY);
    assert_eq!(world.away("a-1", false), ["a-1=2.9.4"]);
    assert_eq!(world.succeed(&["a-1"]), NOBODY);
    assert_eq!(world.pass(3599), NOBODY);
    assert_eq!(world.pass(1), ["b-2=2.9.4"]);
}
