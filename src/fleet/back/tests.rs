//! Ways back: in order, with places and budgets, and nobody installs what was given up.

use serde_json::json;

use super::super::simulate::Fault;
use super::super::world::{NOBODY, World, at, pinned, ring};
use crate::api::{Phase, ROLLBACK};

/// All of `rings` are on 2.9.4, and are asked to go back.
fn asked(stages: serde_json::Value, rings: &[&str]) -> World {
    let mut world = World::new(stages, rings);
    let names: Vec<String> = world.clusters.iter().map(|c| c.instance.metadata.name.clone().unwrap()).collect();
    for _ in 0..rings.len() {
        world.settle();
        world.succeed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(world.phase(), Phase::Complete);
    world.second += 60;
    world.word(ROLLBACK, "1");
    world
}

#[test]
fn stages_go_back_one_after_the_other_one_place_at_a_time() {
    let stages = json!([{"name": "one", "selector": ring("a"), "concurrency": 1}, {"name": "two"}]);
    let mut world = asked(stages, &["a", "a", "b"]);
    assert_eq!(world.settle(), ["a-0=2.8.8"]);
    assert!(world.reason("b-2").starts_with("Waiting: waits for the stages before"), "{}", world.reason("b-2"));
    assert_eq!(world.succeed(&["a-0"]), ["a-1=2.8.8"]);
    assert_eq!((world.succeed(&["a-1"]), world.phase()), (vec!["b-2=2.8.8".to_owned()], Phase::RollingBack));
    world.succeed(&["b-2"]);
    assert_eq!(world.phase(), Phase::RolledBack);
}

#[test]
fn a_fleet_that_is_suspended_takes_nobody_back() {
    let mut world = asked(json!([{"name": "all"}]), &["a"]);
    world.fleet.spec.suspend = true;
    assert_eq!(world.settle(), NOBODY);
    world.fleet.spec.suspend = false;
    assert_eq!(world.settle(), ["a-0=2.8.8"]);
}

/// A cluster that cannot go back spends the budget of its stage, as one that cannot go forward does.
#[test]
fn too_many_that_cannot_go_back_stop_the_way_back() {
    let stages = json!([{"name": "one", "selector": ring("a"), "concurrency": 1}, {"name": "two"}]);
    let mut world = asked(stages, &["a", "a", "b"]);
    assert_eq!(world.settle(), ["a-0=2.8.8"]);
    let now = at(world.second);
    world.of("a-0").fail(Fault::Stall, now);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.phase(), Phase::Stopped);
    assert!(
        world.status().message.as_deref().unwrap().contains("1 of 2 could not go back"),
        "{:?}",
        world.status().message
    );
    assert!(world.reason("a-1").starts_with("Waiting: waits since the fleet has stopped"), "{}", world.reason("a-1"));
}

/// Who joins a stage that was through with what is given up now gets what was good before, if the fleet knows it.
#[test]
fn who_joins_after_a_rollback_does_not_get_what_was_given_up() {
    let mut world = World::new(json!([{"name": "all", "concurrency": "100%"}]), &["a"]);
    for version in ["2.9.4", "2.9.5"] {
        world.target = pinned(version);
        world.settle();
        world.pass(60);
        world.succeed(&["a-0"]);
    }
    world.word(ROLLBACK, "1");
    assert_eq!(world.settle(), ["a-0=2.9.4"]);
    world.succeed(&["a-0"]);
    assert_eq!(world.phase(), Phase::RolledBack);
    assert_eq!(world.status().stages[0].current, Some(pinned("2.9.4")));
    world.join("a", None);
    world.settle();
    let admitted = world.of("a-1").instance.status.as_ref().unwrap().admitted.clone();
    assert_ne!(admitted.map(|admitted| admitted.version).as_deref(), Some("2.9.5"));
}
