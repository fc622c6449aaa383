//! A fleet whose clusters vanish, refuse, or turn out to be others, and whose operators are killed or stand still.

use headwater_e2e::{Fault, Line};
use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fleet_bed::{Fleet, PATIENCE, instant, is_admission, of};
use crate::harness::{NEW, OLD, RIVAL, SOON, TOKENS, Tenant, eventually, holds, shared_hub};

/// A cluster that refuses connections from the start is deferred: its stage and those after it are reached. One that falls silent in the
/// middle of its upgrade gives its place to the next when its time is over. A cluster that joins meanwhile gets what its stage is
/// through with, and not the target; one that leaves is left alone. Both that were away catch up when they are back.
#[test]
fn clusters_that_vanish_join_or_leave_do_not_hold_up_the_rest() {
    let fleet = Fleet::start("fleet-vanish", &["canary", "", "early", "rest", "rest", ""], &json!({}));
    fleet.members[1].line.becomes(Line::Refused);
    fleet.join(1, "early");
    let stages = json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}},
        {"name": "early", "selector": {"matchLabels": {"ring": "early"}}},
        {"name": "rest", "concurrency": 1, "approval": "Required", "progressDeadline": "40s"},
    ]);
    fleet.create(OLD, &stages, &json!({"approved": OLD}));
    let status = fleet.reaches("Complete", OLD);
    assert_eq!((&status["progress"], &status["counts"]["deferred"]), (&json!("4/5"), &json!(1)), "{status:#}");
    assert!(status["message"].as_str().unwrap().contains("1 deferred"), "{status:#}");
    let (state, reason) = fleet.reason(1);
    assert_eq!(state, "Deferred");
    assert!(reason.starts_with("is deferred: it cannot be reached since"), "{reason}");

    fleet.target(NEW);
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert_eq!(status["stages"][1]["state"], "Done", "one deferred does not hold up its stage");
    fleet.join(5, "rest");
    eventually("who joins gets what its stage has", PATIENCE, || {
        let version = fleet.members[5].version();
        holds(version.as_deref() == Some(OLD), version)
    });
    fleet.until("who joined waits like the rest", |s| s["phase"] == "AwaitingApproval" && s["counts"]["waiting"] == 3);
    assert_eq!(fleet.versions(), [NEW, "-", NEW, OLD, OLD, OLD]);

    let silent = &fleet.members[3];
    silent.faults.arm(4, Fault::Silence);
    fleet.patch(&json!({"spec": {"approved": NEW}}));
    eventually("a write without an answer", SOON, || silent.faults.struck().ok_or_else(|| "none".to_owned()));
    silent.line.becomes(Line::Silent);
    let status = fleet.until("it takes the only place", |s| s["counts"]["updating"] == 1 && s["phase"] == "Updating");
    assert_eq!(status["counts"]["waiting"], 2, "{status:#}");
    assert_eq!(fleet.reason(4), ("Waiting".to_owned(), "waits for a place: 1 at once".to_owned()));
    fleet.label(4, &Value::Null);
    fleet.tenant.wait("m4", "Admitted", PATIENCE, |c| c.reason == "NoFleet");

    let status = fleet.reaches("Complete", NEW);
    assert_eq!((&status["progress"], &status["counts"]["deferred"]), (&json!("3/5"), &json!(2)), "{status:#}");
    let (state, reason) = fleet.reason(3);
    assert_eq!(state, "Deferred");
    assert!(reason.starts_with("is deferred: it was admitted, cannot be reached since"), "{reason}");
    assert_eq!(fleet.members[4].version().as_deref(), Some(OLD), "who left is left alone");

    // Who is back goes on, and who was never installed gets the target at once: its stage is through with it.
    silent.line.becomes(Line::Open);
    fleet.members[1].line.becomes(Line::Open);
    for back in [1, 3] {
        fleet.connect(back, "wake", TOKENS[0]);
    }
    fleet.until("both catch up", |status| status["progress"] == "5/5" && status["phase"] == "Complete");
    assert_eq!(fleet.versions(), [NEW, NEW, NEW, NEW, OLD, NEW]);
    let (sick, next) = (of(3, NEW), of(5, NEW));
    assert_eq!(fleet.admissions(), [of(0, NEW), of(2, NEW), of(5, OLD), sick, next, of(1, NEW)]);
    let at: Vec<Timestamp> = fleet.admitted().iter().map(|(_, admitted)| instant(&admitted["at"])).collect();
    assert!(at[4].duration_since(at[3]) >= SignedDuration::from_secs(20), "{at:?}");
    assert_eq!(fleet.status()["history"][0]["outcome"], "Succeeded");
}

/// The leader stands still with an admission on its way. Another one takes over and completes the rollout; what arrives late is refused, and
/// who goes on writes nothing any more: no cluster is admitted twice.
#[test]
fn an_admission_of_an_old_leader_comes_too_late() {
    let fleet = Fleet::without_operator("fleet-pair", 2, &json!({}));
    let duration = ["--lease-duration", "6", "--identity"];
    let first = &fleet.tenant;
    first.start_with(&[&duration[..], &["first"]].concat());
    fleet.faults.victim(first.pid());
    let (user, token) = RIVAL;
    let second = Tenant::without_operator(shared_hub(), &first.namespace, &fleet.hub.kubeconfig(user, token));
    second.start_with(&[&duration[..], &["second"]].concat());
    fleet.join(0, "all");
    fleet.join(1, "all");
    fleet.create(OLD, &json!([{"name": "all", "concurrency": 1}]), &json!({}));
    fleet.reaches("Complete", OLD);

    fleet.faults.aim(is_admission, Fault::Late);
    fleet.target(NEW);
    eventually("the leader stands still", SOON, || fleet.faults.struck().ok_or_else(|| "it goes on".to_owned()));
    fleet.reaches("Complete", NEW);
    assert_eq!(fleet.admissions(), [of(0, NEW), of(1, NEW)]);
    fleet.faults.let_go();
    let late = eventually("it arrives", SOON, || {
        let writes = fleet.faults.writes();
        let code = writes.iter().find(|write| is_admission(write)).map_or(0, |write| write.code);
        if code == 0 { Err(format!("{writes:?}")) } else { Ok(code) }
    });
    assert_eq!(late, 409);
    let mark = fleet.faults.count();
    first.signal(Signal::SIGCONT);
    let how = first.ended();
    assert!(how.contains("exit status: 2"), "{how}");
    second.poke("m0");
    assert_eq!(fleet.admissions(), [of(0, NEW), of(1, NEW)]);
    let poked = |w: &&headwater_e2e::Write| w.path.contains("/fluxfleets/") || is_admission(w);
    assert_eq!(fleet.faults.writes()[mark..].iter().filter(poked).count(), 0, "nothing is left to say");
}
