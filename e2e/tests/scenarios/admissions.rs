//! The operator is killed while it admits. Named so that it begins first: no other scenario takes longer.

use std::collections::BTreeSet;

use headwater_e2e::{Fault, Phase};
use jiff::Timestamp;
use serde_json::json;

use crate::fleet_bed::{Fleet, PATIENCE, instant, is_of_fleet, of};
use crate::harness::{NEW, OLD, eventually};

/// Starts the operator again and again, and kills it at the next write of the fleet each time: before it, before its answer, after its
/// answer, in turn. Ends when it has come this far without another one.
fn killed_until(fleet: &Fleet<'_>, phase: &str) -> usize {
    for (kills, moment) in [Phase::Before, Phase::Committed, Phase::Answered].into_iter().cycle().enumerate() {
        fleet.faults.aim(is_of_fleet, Fault::Kill(moment));
        fleet.run();
        let is_over = eventually(&format!("the next write, or {phase}"), PATIENCE, || {
            let status = fleet.status();
            match fleet.faults.struck() {
                Some(_) => Ok(false),
                None if status["phase"] == phase && status["target"]["version"] == NEW => Ok(true),
                None => Err(format!("{status:#}")),
            }
        });
        if is_over {
            return kills;
        }
        fleet.tenant.kill();
    }
    unreachable!("the moments come round again")
}

/// The operator is killed at every write of a fleet, forth and back: each cluster is admitted once each way, one at a time, stage by
/// stage; the soak begins once, and is neither begun anew nor cut short.
#[test]
fn killed_at_every_write_of_a_fleet() {
    let fleet = Fleet::start("fleet-killed", &["canary", "rest", "rest"], &json!({}));
    let stages = json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "4s"},
        {"name": "rest", "concurrency": 1},
    ]);
    fleet.create(OLD, &stages, &json!({}));
    fleet.reaches("Complete", OLD);
    fleet.tenant.kill();

    fleet.target(NEW);
    let kills = killed_until(&fleet, "Complete");
    assert!(kills >= 10, "{kills}");
    assert_eq!(fleet.versions(), [NEW; 3]);
    assert_eq!(fleet.admissions(), [of(0, NEW), of(1, NEW), of(2, NEW)]);
    assert_eq!(fleet.under_way(), [["m0"], ["m1"], ["m2"]]);
    let writes = fleet.faults.writes();
    let canary = |field: &str| -> BTreeSet<String> {
        let committed = writes.iter().filter(|w| w.committed() && w.path.contains("/fluxfleets/"));
        let stages = committed.filter_map(|w| w.body["status"]["stages"].as_array()?.first().cloned());
        stages.filter_map(|stage| stage[field].as_str().map(str::to_owned)).collect()
    };
    let (since, until) = (canary("soakSince"), canary("soakUntil"));
    assert_eq!((since.len(), until.len()), (1, 1), "{since:?} {until:?}");
    let until: Timestamp = until.first().unwrap().parse().unwrap();
    let next = instant(&fleet.admitted()[1].1["at"]);
    assert!(next >= until, "{next} is before {until}");
    assert_eq!(fleet.status()["history"][0]["outcome"], "Succeeded");

    fleet.tenant.kill();
    fleet.faults.clear();
    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/rollback": "1"}}}));
    let kills = killed_until(&fleet, "RolledBack");
    assert!(kills >= 6, "{kills}");
    assert_eq!(fleet.versions(), [OLD; 3]);
    let back = |member: usize| format!("m{member} back to {OLD}");
    assert_eq!(fleet.admissions(), [back(0), back(1), back(2)]);
    assert_eq!(fleet.under_way(), [["m0"], ["m1"], ["m2"]]);
    assert_eq!(fleet.status()["history"][0]["outcome"], "RolledBack");
}
