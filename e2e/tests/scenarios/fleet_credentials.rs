//! A fleet whose clusters get other credentials, lose theirs, or are mixed up, while they are on their way.

use std::sync::atomic::Ordering;

use headwater_e2e::{Fault, Line, Write};
use serde_json::{Value, json};

use crate::fleet_bed::{Fleet, PATIENCE};
use crate::fleet_rules::{artifact, push};
use crate::harness::{NEW, OLD, OPERATOR, SOON, Site, TOKENS, eventually, holds};

/// What a cluster that cannot be reached is to its fleet is known when its time is over.
const OVER: &str = "10s";
const AMPLE: &str = "10m";

fn first_and_rest(deadline: &str, unreachable: &str) -> Value {
    let selector = json!({"matchLabels": {"ring": "first"}});
    json!([
        {"name": "first", "selector": selector, "concurrency": 2, "progressDeadline": deadline, "unreachable": unreachable},
        {"name": "rest", "approval": "Required"},
    ])
}

/// Changes stages; clusters that are on their way are judged by the new ones at once.
fn judge_by(fleet: &Fleet<'_>, stages: &Value) {
    fleet.patch(&json!({"spec": {"stages": stages}}));
}

/// Waits until these clusters have been changed, and are not healthy yet.
fn are_at_it(fleet: &Fleet<'_>, members: &[usize], version: &str) {
    eventually("they are in the middle", PATIENCE, || {
        let versions = fleet.versions();
        holds(members.iter().all(|member| versions[*member] == version), versions)
    });
}

/// Of two clusters on their way one gets new credentials, and its old ones are revoked: it goes on, and nothing failed. Those of the other
/// are revoked and not replaced: when its time is over it is deferred or failed, as the fleet has it, and nobody else stops.
/// With new ones it is done too. Then a cluster vanishes on its way, and its instance is deleted: its place is free at once, the
/// rollout completes without it, and a word lets go of it.
#[test]
fn credentials_change_during_a_rollout() {
    const REPOSITORY: &str = "fleet-credentials/flux";
    let fleet = Fleet::without_operator("fleet-credentials", 3, &artifact(REPOSITORY));
    fleet.run();
    fleet.join(0, "first");
    fleet.join_as(1, "first", &json!({"deletionPolicy": "Uninstall"}));
    fleet.join(2, "rest");
    fleet.create(OLD, &first_and_rest(AMPLE, "Defer"), &json!({"approved": OLD}));
    fleet.reaches("Complete", OLD);
    let [rotated, revoked] = [0, 1].map(|member: usize| &fleet.members[member]);
    let are_slow = |slow: bool| [rotated, revoked].map(|member| member.slow.store(slow, Ordering::Relaxed));

    are_slow(true);
    fleet.target(NEW);
    are_at_it(&fleet, &[0, 1], NEW);
    fleet.connect(0, OPERATOR, TOKENS[1]);
    std::thread::scope(|scope| {
        for member in [rotated, revoked] {
            scope.spawn(move || member.site.revoke_token(TOKENS[0]).unwrap());
        }
    });
    let said = fleet.tenant.wait("m1", "Reachable", SOON, |c| c.reason == "AuthFailed");
    assert_eq!(said.status, "False");
    rotated.slow.store(false, Ordering::Relaxed);
    let status = fleet.until("who has new credentials is done", |status| status["counts"]["done"] == 1);
    assert_eq!((&status["counts"]["updating"], &status["counts"]["failed"]), (&json!(1), &json!(0)), "{status:#}");

    judge_by(&fleet, &first_and_rest(OVER, "Defer"));
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert_eq!((&status["counts"]["deferred"], &status["counts"]["failed"]), (&json!(1), &json!(0)), "{status:#}");
    let (state, reason) = fleet.reason(1);
    assert_eq!(state, "Deferred");
    assert!(reason.starts_with("is deferred: it was admitted, cannot be reached since"), "{reason}");
    judge_by(&fleet, &first_and_rest(OVER, "Fail"));
    let status = fleet.reaches("Stopped", NEW);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("1 of 2 in stage first failed, maxFailures is 0: m1 was admitted and cannot be"),
        "{message}"
    );
    fleet.patch(&json!({"spec": {"stages": first_and_rest(AMPLE, "Defer"), "approved": NEW}}));
    fleet.until("the last stage is through without it", |status| status["counts"]["done"] == 2);
    assert_eq!(fleet.members[2].version().as_deref(), Some(NEW));
    revoked.slow.store(false, Ordering::Relaxed);
    fleet.connect(1, OPERATOR, TOKENS[1]);
    fleet.until("new credentials bring it back", |s| s["progress"] == "3/3" && s["phase"] == "Complete");
    let mut admitted = fleet.admissions();
    admitted.sort();
    assert_eq!(admitted, [format!("m0 {NEW}"), format!("m1 {NEW}"), format!("m2 {NEW}")], "each of them once");

    push("2.9.100", REPOSITORY, ">=2.7.0");
    are_slow(true);
    fleet.patch(&json!({"spec": {"approved": "2.9.100"}}));
    fleet.target("2.9.100");
    are_at_it(&fleet, &[0, 1], "2.9.100");
    revoked.line.becomes(Line::Refused);
    fleet.tenant.delete("m1");
    rotated.slow.store(false, Ordering::Relaxed);
    let status = fleet.reaches("Complete", "2.9.100");
    assert_eq!((&status["progress"], &status["counts"]["failed"]), (&json!("2/2"), &json!(0)), "{status:#}");
    let waiting = fleet.tenant.fails("m1", "ClusterUnreachable").message;
    let uid = fleet.tenant.status("m1")["cluster"]["uid"].as_str().unwrap().to_owned();
    assert!(waiting.ends_with(&format!("headwater.dev/abandon={uid}")), "{waiting}");
    fleet.tenant.patch("m1", &json!({"metadata": {"annotations": {"headwater.dev/abandon": uid}}}));
    fleet.tenant.gone("m1", SOON);
    assert_eq!(fleet.status()["phase"], "Complete");
    assert!(revoked.site.inventory().is_some(), "what runs there is left behind");
}

fn is_of_deployments(write: &Write) -> bool {
    write.path.contains("/deployments/")
}

/// The Secret of a cluster is replaced by that of another one, in the middle of an upgrade: not one write goes to the wrong one. That is for
/// people to put right, so it counts as failed at once, and the fleet stops and says why. With the right Secret the cluster goes
/// on by itself, and after a word the fleet does.
#[test]
fn a_kubeconfig_is_swapped_during_a_rollout() {
    let fleet = Fleet::start("fleet-swapped", &["canary", "rest"], &json!({}));
    let selector = json!({"matchLabels": {"ring": "canary"}});
    fleet.create(OLD, &json!([{"name": "canary", "selector": selector}, {"name": "rest"}]), &json!({}));
    fleet.reaches("Complete", OLD);
    let (right, wrong) = (&fleet.members[0], &fleet.members[1]);

    // What is applied to the right one meanwhile must not make it done.
    right.slow.store(true, Ordering::Relaxed);
    right.faults.aim(is_of_deployments, Fault::Late);
    fleet.target(NEW);
    eventually("a write is on its way", PATIENCE, || right.faults.struck().ok_or_else(|| "none".to_owned()));
    let mark = wrong.site.audit_mark();
    fleet.tenant.secret("m0-kubeconfig", "value", &wrong.line.kubeconfig(OPERATOR, TOKENS[0]));
    right.faults.let_go();
    let said = fleet.tenant.fails("m0", "ClusterIdentityMismatch").message;
    let uid = |site: &Site| site.uid("/api/v1/namespaces/kube-system").unwrap();
    assert!(said.contains(&format!("is {}, was {}", uid(&wrong.site), uid(&right.site))), "{said}");
    let status = fleet.reaches("Stopped", NEW);
    let message = status["message"].as_str().unwrap();
    let why = "1 of 1 in stage canary failed, maxFailures is 0: m0 is stalled: the kubeconfig leads to another cluster";
    assert!(message.contains(why), "{message}");
    fleet.tenant.poke("m0");
    assert_eq!(wrong.site.written_texts(mark), Vec::<String>::new());

    right.slow.store(false, Ordering::Relaxed);
    fleet.connect(0, OPERATOR, TOKENS[0]);
    let status = fleet.until("with the right one it is done", |status| status["counts"]["done"] == 1);
    assert_eq!((&status["phase"], &status["counts"]["failed"]), (&json!("Stopped"), &json!(0)), "{status:#}");
    assert_eq!(fleet.admissions(), [format!("m0 {NEW}")], "nobody else without a word");
    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/retry": "1"}}}));
    fleet.reaches("Complete", NEW);
    assert_eq!(fleet.versions(), [NEW, NEW]);
    assert_eq!(fleet.admissions(), [format!("m0 {NEW}"), format!("m1 {NEW}")]);
}
