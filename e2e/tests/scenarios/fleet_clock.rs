//! A fleet whose operator's wall clock is put forward and back.

use std::sync::atomic::Ordering;

use headwater_e2e::Clock;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::fleet_bed::{Fleet, PATIENCE};
use crate::harness::{OLD, SOON, eventually, holds};

const HOUR: i64 = 3600;

/// Waits until a lease shows that its holder goes by a clock which is so wrong: one that is linked statically would not.
fn goes_by(fleet: &Fleet<'_>, wrong_by: i64) {
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/headwater", fleet.tenant.namespace);
    eventually("the operator goes by its clock", SOON, || {
        let renewed = fleet.tenant.hub.must_get(&lease)["spec"]["renewTime"].clone();
        let seen: Timestamp = renewed.as_str().unwrap().parse().unwrap();
        let expected = Timestamp::now() + SignedDuration::from_secs(wrong_by);
        holds(seen.duration_since(expected).abs() < SignedDuration::from_mins(10), renewed)
    });
}

/// Waits until the fleet was planned anew. A change of its spec is the only thing that always shows.
fn planned_anew(fleet: &Fleet<'_>, interval: &str) -> Value {
    fleet.patch(&json!({"spec": {"interval": interval}}));
    let generation = fleet.tenant.hub.must_get(&fleet.path())["metadata"]["generation"].clone();
    fleet.until("planned anew", |status| status["observedGeneration"] == generation)
}

/// In the middle of a soak of an hour the clock goes back by an hour, and forward by half of one: the soak ends when it was to end, and nothing
/// moves before. Forward by a whole one: that is an hour like any other, and the next stage begins. And by more: who is on the way has had
/// its time, which stops the fleet. With the right time again a word goes on, and all complete.
#[test]
fn a_clock_that_jumps() {
    let clock = Clock::start().unwrap();
    let fleet = Fleet::without_operator("fleet-clock", 2, &json!({}));
    let env = clock.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (*key, value.as_str())).collect();
    fleet.tenant.start_in(&[], &env);
    fleet.join(0, "canary");
    fleet.join(1, "rest");
    let selector = json!({"matchLabels": {"ring": "canary"}});
    let stages = json!([{"name": "canary", "selector": selector, "soak": "1h"}, {"name": "rest"}]);
    fleet.create(OLD, &stages, &json!({}));
    let soak = |status: &Value| {
        let canary = &status["stages"][0];
        (status["phase"].clone(), canary["soakSince"].clone(), canary["soakUntil"].clone())
    };
    let before = soak(&fleet.phase("Soaking"));
    let first = format!("m0 {OLD}");
    clock.is_wrong_by(-HOUR).unwrap();
    goes_by(&fleet, -HOUR);
    for (wrong_by, interval) in [(-HOUR, "31s"), (HOUR / 2, "32s")] {
        clock.is_wrong_by(wrong_by).unwrap();
        fleet.tenant.poke("m0");
        assert_eq!(soak(&planned_anew(&fleet, interval)), before, "the clock is wrong by {wrong_by} s");
        assert_eq!(fleet.admissions(), [first.as_str()]);
    }

    let next = &fleet.members[1];
    next.slow.store(true, Ordering::Relaxed);
    clock.is_wrong_by(HOUR + 60).unwrap();
    planned_anew(&fleet, "33s");
    eventually("the next stage begins", PATIENCE, || holds(next.version().as_deref() == Some(OLD), next.version()));
    assert_eq!(fleet.admissions(), [first.clone(), format!("m1 {OLD}")]);
    clock.is_wrong_by(3 * HOUR).unwrap();
    fleet.tenant.poke("m1");
    let message = fleet.phase("Stopped")["message"].clone();
    assert!(message.as_str().unwrap().contains("1 of 1 in stage rest failed, maxFailures is 0: m1 "), "{message}");

    clock.is_wrong_by(0).unwrap();
    next.slow.store(false, Ordering::Relaxed);
    assert_eq!(fleet.status()["phase"], "Stopped", "only a word goes on");
    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/retry": "1"}}}));
    let status = fleet.reaches("Complete", OLD);
    assert_eq!(status["progress"], "2/2", "{status:#}");
    assert_eq!(fleet.versions(), [OLD, OLD]);
}
