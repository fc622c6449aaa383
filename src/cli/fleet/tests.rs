//! A fleet and its clusters, for the tests of the commands.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{FluxFleet, FluxInstance};
use crate::fleet::Input;

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A fleet in the middle of its second stage.
pub(super) fn fleet() -> FluxFleet {
    let finding = json!({
        "clusters": 3, "example": "eu-4", "severity": "Warn", "rule": "quota", "object": "ResourceQuota flux-system/small",
        "message": "leaves 100m of CPU, 400m are wanted", "remedy": "raise it",
    });
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "prod", "namespace": "headwater-system", "generation": 7},
        "spec": {
            "selector": {"matchLabels": {"env": "prod"}},
            "distribution": {"version": "2.9.x"},
            "stages": [
                {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "1h"},
                {"name": "early", "selector": {"matchLabels": {"ring": "early"}}, "concurrency": "25%", "soak": "1h"},
                {
                    "name": "rest", "approval": "Required",
                    "windows": [{"cron": "0 22 * * 1-4", "duration": "6h", "timeZone": "Europe/London"}],
                },
            ],
            "defaults": {"progressDeadline": "10m"},
        },
        "status": {
            "observedGeneration": 7, "phase": "Updating",
            "message": "15 of 93 on 2.9.4; stage early: 8 on their way to 2.9.4 (sha256:new), 20 wait",
            "target": {"version": "2.9.4", "digest": "sha256:new", "since": "2026-07-01T10:00:00Z"},
            "counts": {"total": 93, "done": 15, "updating": 8, "failed": 0, "deferred": 2, "waiting": 68, "unassigned": 1},
            "stages": [
                {"name": "canary", "state": "Done", "counts": {"total": 3, "done": 3}},
                {
                    "name": "early", "state": "Updating", "counts": {"total": 40, "done": 10, "updating": 8, "deferred": 2, "waiting": 20},
                    "message": "8 on their way to 2.9.4 (sha256:new), 20 wait", "findings": [finding],
                },
                {"name": "rest", "state": "Pending", "counts": {"total": 50, "done": 2, "waiting": 48}},
            ],
            "notReady": [
                {"name": "lost", "state": "Unassigned", "reason": "is in no stage"},
                {"name": "eu-4", "stage": "early", "state": "Deferred", "reason": "is deferred: it cannot be reached since 2026-06-30T10:00:00Z, and moves when it is back"},
            ],
            "more": 77,
            "history": [
                {"version": "2.9.4", "digest": "sha256:new", "outcome": "Progressing", "started": "2026-07-01T10:00:00Z"},
                {
                    "version": "2.8.8", "digest": "sha256:old", "outcome": "Succeeded",
                    "started": "2026-06-01T10:00:00Z", "finished": "2026-06-03T12:30:00Z",
                },
            ],
        },
    }))
    .unwrap()
}

/// An instance that passed its preflight for the target, changed by a word or two.
pub(super) fn instance(name: &str, ring: &str, status: &Value) -> FluxInstance {
    let since = "2026-06-01T00:00:00Z";
    let old = json!({"version": "2.8.8", "digest": "sha256:old", "config": "c", "at": since});
    let reachable =
        json!({"type": "Reachable", "status": "True", "reason": "x", "message": "x", "lastTransitionTime": since});
    let mut made = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
        "metadata": {"name": name, "namespace": "headwater-system", "generation": 1, "labels": {"env": "prod", "ring": ring}},
        "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
        "status": {
            "observedDigest": "sha256:old", "applied": old, "lastGood": old, "conditions": [reachable],
            "preflight": {"digest": "sha256:new", "generation": 1, "config": "c"},
            "history": [{
                "version": "2.8.8", "digest": "sha256:old", "config": "c", "outcome": "Succeeded", "started": since, "finished": since,
            }],
        },
    });
    for (key, value) in status.as_object().into_iter().flatten() {
        made["status"][key] = value.clone();
    }
    serde_json::from_value(made).unwrap()
}

pub(super) fn instances() -> Vec<FluxInstance> {
    let new = json!({"version": "2.9.4", "digest": "sha256:new", "config": "c", "at": "2026-07-01T11:00:00Z"});
    let done = json!({"observedDigest": "sha256:new", "applied": new, "lastGood": new});
    let mut all = vec![instance("canary", "canary", &done)];
    all.extend((1..=8).map(|n| instance(&format!("early-{n}"), "early", &json!({}))));
    all.extend((1..=7).map(|n| instance(&format!("rest-{n}"), "rest", &json!({}))));
    let away = json!([{"type": "Reachable", "status": "False", "reason": "x", "message": "x", "lastTransitionTime": "2026-06-30T00:00:00Z"}]);
    all.push(instance("away", "early", &json!({"conditions": away})));
    all
}

/// What is planned from at noon.
pub(super) fn input<'a>(fleet: &'a FluxFleet, instances: &'a [&'a FluxInstance]) -> Input<'a> {
    Input {
        fleet,
        resolved: None,
        instances,
        others: &[],
        now: at("2026-07-01T12:00:00Z"),
        since: Timestamp::UNIX_EPOCH,
    }
}
