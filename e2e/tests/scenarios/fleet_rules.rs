//! What a fleet asks before it moves clusters, and when it stops: health of now, approvals, budgets, preflights.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet_bed::{Fleet, PATIENCE};
use crate::harness::{NEW, OLD, eventually, holds, world};
use crate::unknown_bundle::Sources;

/// A bundle like the newest, which can be reached from there; returns its digest.
pub(crate) fn push(version: &str, repository: &str, from: &str) -> String {
    let mut sources = Sources::newest();
    sources.version(version);
    sources.edit("bundle.yaml", |manifest| manifest["upgrade"] = json!({ "from": from }));
    sources.push(version, repository)
}

pub(crate) fn artifact(repository: &str) -> Value {
    for version in [OLD, NEW] {
        world().push(version, repository);
    }
    json!({"distribution": {"artifact": world().repository(repository)}})
}

/// Conditions that a cluster has from before do not count: the next stage is not touched while the canary is slow. The approval of another
/// version releases nothing, nor does one that was given before the same version was built anew. And where the whole canary
/// cannot be reached, nothing is known of the target, and nobody else gets it, approved or not.
#[test]
fn nobody_moves_on_old_words() {
    const REPOSITORY: &str = "fleet-words/flux";
    let fleet = Fleet::start("fleet-words", &["canary", "rest"], &artifact(REPOSITORY));
    let stages = json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}},
        {"name": "rest", "approval": "Required"},
    ]);
    fleet.create(OLD, &stages, &json!({"approved": OLD}));
    fleet.reaches("Complete", OLD);
    assert_eq!(fleet.tenant.ready("m0").status, "True");

    let canary = &fleet.members[0];
    canary.slow.store(true, Ordering::Relaxed);
    fleet.target(NEW);
    eventually("the canary is at it", PATIENCE, || {
        let version = canary.version();
        holds(version.as_deref() == Some(NEW), version)
    });
    std::thread::sleep(Duration::from_secs(2));
    let status = fleet.status();
    assert_eq!(
        (&status["phase"], &status["stages"][1]["state"]),
        (&json!("Updating"), &json!("Pending")),
        "{status:#}"
    );
    assert_eq!(fleet.versions(), [NEW, OLD]);
    assert_eq!(fleet.admissions(), [format!("m0 {NEW}")]);
    canary.slow.store(false, Ordering::Relaxed);
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert_eq!(status["approved"]["word"], OLD, "an approval of {OLD} is none of {NEW}: {status:#}");
    let first = status["target"]["digest"].clone();

    // Approved, and held for another reason; meanwhile the same version is built anew.
    fleet.patch(&json!({"spec": {"approved": NEW, "suspend": true}}));
    let status = fleet.reaches("Suspended", NEW);
    assert_eq!(status["approved"], json!({"word": NEW, "digest": first}));
    let second = push(NEW, REPOSITORY, ">=2.7.0");
    fleet.tenant.stop();
    fleet.run();
    fleet.until("the new digest", |status| status["target"]["digest"] == second.as_str());
    fleet.patch(&json!({"spec": {"suspend": false}}));
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert!(status["message"].as_str().unwrap().contains(&second), "{status:#}");
    assert_eq!(fleet.tenant.status("m0")["lastGood"]["digest"], second.as_str());
    assert_eq!(fleet.versions(), [NEW, OLD]);
    fleet.patch(&json!({"spec": {"approved": second}}));
    fleet.reaches("Complete", NEW);
    assert_eq!(fleet.tenant.status("m1")["lastGood"]["digest"], second.as_str());

    push("2.9.100", REPOSITORY, ">=2.7.0");
    canary.line.becomes(headwater_e2e::Line::Refused);
    fleet.tenant.wait("m0", "Reachable", PATIENCE, |c| c.status == "False");
    fleet.patch(&json!({"spec": {"approved": "2.9.100"}}));
    fleet.target("2.9.100");
    let status = fleet.reaches("Blocked", "2.9.100");
    assert!(
        status["message"].as_str().unwrap().contains("none of 1 is on 2.9.100, and none can be moved"),
        "{status:#}"
    );
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(fleet.admissions(), [""; 0]);
    assert_eq!(fleet.status()["phase"], "Blocked");
    canary.line.becomes(headwater_e2e::Line::Open);
    fleet.reaches("Complete", "2.9.100");
    assert_eq!(fleet.admissions(), ["m0 2.9.100", "m1 2.9.100"]);
}

/// One failure of four is within the budget, and the rest goes on; the second one stops: who is under way finishes, nobody else is
/// admitted. A word takes all back that were moved, and it stays so. The next target moves all, those that failed too.
#[test]
fn a_budget_is_spent_and_no_more() {
    const REPOSITORY: &str = "fleet-budget/flux";
    let fleet = Fleet::start("fleet-budget", &["all"; 4], &artifact(REPOSITORY));
    push("2.9.100", REPOSITORY, ">=2.7.0");
    fleet.create(OLD, &json!([{"name": "all", "concurrency": 2, "maxFailures": 1}]), &json!({}));
    fleet.reaches("Complete", OLD);
    let set = |member: usize, slow: bool, broken: bool| {
        fleet.members[member].broken.store(broken, Ordering::Relaxed);
        fleet.members[member].slow.store(slow, Ordering::Relaxed);
    };
    set(0, false, true);
    set(1, true, true);
    set(2, true, false);
    fleet.target(NEW);
    let status = fleet.until("one has failed, and the next is admitted", |status| {
        status["counts"]["failed"] == 1 && status["counts"]["updating"] == 2
    });
    assert_eq!(status["phase"], "Updating", "{status:#}");
    let admitted = [format!("m0 {NEW}"), format!("m1 {NEW}"), format!("m2 {NEW}")];
    let sorted = || {
        let mut all = fleet.admissions();
        all.sort();
        all
    };
    eventually("the third is admitted", PATIENCE, || holds(sorted() == admitted, sorted()));
    set(1, false, true);
    let status = fleet.reaches("Stopped", NEW);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("2 of 4 in stage all failed, maxFailures is 1: m0 failed: "), "{message}");
    assert_eq!(status["history"][0]["outcome"], "Stopped");
    assert_eq!(status["counts"]["updating"], 1, "{status:#}");
    set(2, false, false);
    fleet.until("who was under way finishes", |s| s["counts"]["done"] == 1 && s["counts"]["updating"] == 0);
    eventually("those that failed are back by themselves", PATIENCE, || {
        let versions = fleet.versions();
        holds(versions == [OLD, OLD, NEW, OLD], versions)
    });
    assert_eq!(fleet.reason(3), ("Waiting".to_owned(), "waits since the fleet has stopped".to_owned()));
    assert_eq!(sorted(), admitted);

    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/rollback": "1"}}}));
    fleet.reaches("RolledBack", NEW);
    assert_eq!(fleet.versions(), [OLD; 4]);
    let back = [0, 1, 2].map(|member| format!("m{member} back to {OLD}"));
    let mut all = [admitted, back].concat();
    all.sort();
    assert_eq!(sorted(), all);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.status()["phase"], "RolledBack", "it is not promoted again");
    assert_eq!(fleet.admissions().len(), all.len());

    fleet.target("2.9.100");
    let status = fleet.reaches("Complete", "2.9.100");
    assert_eq!(status["progress"], "4/4", "{status:#}");
    assert_eq!(fleet.versions(), ["2.9.100"; 4]);
}

/// Approval is asked for only when the preflights of the whole stage pass: until then nothing moves, and what was found is summed up on
/// the fleet.
#[test]
fn preflights_come_before_the_question() {
    let more = json!({"components": ["source-controller", "kustomize-controller", "notification-controller"]});
    let fleet = Fleet::start("fleet-preflight", &["all", "all"], &more);
    fleet.create(OLD, &json!([{"name": "all", "approval": "Required"}]), &json!({"approved": OLD}));
    fleet.reaches("Complete", OLD);
    let site = &fleet.members[1].site;
    let path = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/default/kustomizations";
    let spec = json!({"interval": "1m", "prune": true, "sourceRef": {"kind": "GitRepository", "name": "x"}});
    site.create(
        path,
        &json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": {"name": "apps"}, "spec": spec}),
    );
    let inventory = |entries: Value| {
        site.merge(&format!("{path}/apps/status"), &json!({"status": {"inventory": {"entries": entries}}}));
    };
    inventory(json!([{"id": "default_one_notification.toolkit.fluxcd.io_Alert", "v": "v1beta2"}]));

    fleet.target(NEW);
    let status = fleet.reaches("PreflightFailed", NEW);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("refuses 1 of 2, maxFailures is 0"), "{message}");
    let found = &status["stages"][0]["findings"][0];
    assert_eq!(
        (&found["clusters"], &found["example"], &found["rule"], &found["severity"]),
        (&json!(1), &json!("m1"), &json!("servedVersions"), &json!("Error")),
        "{found:#}"
    );
    let (state, reason) = fleet.reason(1);
    assert_eq!(state, "Refused");
    assert!(reason.contains("servedVersions: Kustomization default/apps"), "{reason}");
    fleet.tenant.event("prod", "PreflightFailed");
    assert_eq!(fleet.tenant.condition("m1", "Ready").unwrap().status, "True", "what runs there is as good as before");
    assert_eq!(fleet.admissions(), [""; 0]);
    assert_eq!(fleet.versions(), [OLD, OLD]);

    inventory(json!([]));
    fleet.tenant.poke("m1");
    let status = fleet.reaches("AwaitingApproval", NEW);
    assert!(status["message"].as_str().unwrap().contains(&format!("all 2 are ready for {NEW}")), "{status:#}");
    assert_eq!(fleet.admissions(), [""; 0]);
    fleet.patch(&json!({"spec": {"approved": NEW}}));
    fleet.reaches("Complete", NEW);
    assert_eq!(fleet.versions(), [NEW, NEW]);
}
