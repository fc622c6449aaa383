//! Servers that refuse, answer late or not at all, and workloads that do not come up.

use std::time::{Duration, Instant};

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, OBJECTS, SOON, Site, Tenant, eventually, holds, in_flux, shared_hub, spec};

/// An object that the server refuses: said with the server's words, nothing of later stages is written and nothing pruned,
/// what was applied is recorded; correcting the spec is all it takes.
#[test]
fn refused_object_stops_what_comes_later() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "refused");
    let bad = json!({"patches": [{
        "target": {"kind": "Service", "name": "webhook-receiver"},
        "patch": "[{op: replace, path: /spec/ports/0/port, value: 99999}]",
    }]});
    let mut spec = tenant.remote("a", &target, NEW);
    spec["kustomize"] = bad.clone();
    tenant.create("a", &spec);
    let expected = "Service flux-system/webhook-receiver: Service \"webhook-receiver\" is invalid: spec.ports[0].port: \
                    Invalid value: 99999: must be between 1 and 65535, inclusive";
    assert_eq!(tenant.fails("a", "ReconciliationFailed").message, expected);
    assert_eq!(tenant.condition("a", "Stalled").unwrap().message, expected);
    assert_eq!(tenant.condition("a", "Reachable").unwrap().status, "True");
    assert_eq!(tenant.event("a", "ReconciliationFailed"), expected);
    let deployments = target.must_get("/apis/apps/v1/namespaces/flux-system/deployments");
    assert_eq!(deployments["items"], json!([]), "a later stage");
    let inventory = target.inventory().unwrap();
    let entries = inventory["entries"].as_array().unwrap();
    assert_eq!(entries.len(), OBJECTS, "everything intended is recorded");
    let known = entries.iter().filter(|e| e["uid"].is_string()).count();
    assert_eq!(known, OBJECTS - 5, "all but the four Deployments and the refused Service are applied");

    tenant.patch("a", &json!({"spec": {"kustomize": null}}));
    tenant.ready("a");
    assert_eq!(target.inventory_uids().len(), OBJECTS);

    // Refused while a component is to go: it stays until the rest is right.
    let fewer = ["source-controller", "kustomize-controller", "notification-controller"];
    let upgrade = json!({"preflight": {"invalid": "Off"}});
    tenant.patch("a", &json!({"spec": {"kustomize": bad, "components": fewer, "upgrade": upgrade}}));
    tenant.fails("a", "ReconciliationFailed");
    assert!(target.get(&in_flux("deployments", "helm-controller")).is_some(), "nothing is pruned");
    tenant.patch("a", &json!({"spec": {"kustomize": null}}));
    tenant.confirm("a");
    tenant.ready("a");
    eventually("it is pruned", SOON, || {
        holds(target.get(&in_flux("deployments", "helm-controller")).is_none(), "it is there")
    });
}

/// A cluster that refuses connections, then one that accepts them and never answers: it is said, the others go on as if
/// nothing were, and when it is back it recovers by itself.
#[test]
fn unreachable_cluster_beside_a_healthy_one() {
    let targets = Site::start_many(Kind::Plain, 3);
    let [sick, healthy, fresh] = targets.as_slice() else { unreachable!() };
    let tenant = Tenant::new(shared_hub(), "beside");
    tenant.installed("sick", sick, NEW);
    tenant.installed("healthy", healthy, NEW);
    let deployment = in_flux("deployments", "source-controller");

    sick.stop_api();
    tenant.patch("sick", &json!({"metadata": {"annotations": {"look": "again"}}}));
    let said = tenant.wait("sick", "Reachable", SOON, |c| c.status == "False");
    assert_eq!(said.reason, "ClusterUnreachable");
    assert!(said.message.starts_with("cannot reach the API server: "), "{}", said.message);
    // Whoever asks at the moment at which it ends is cut off; what is said first stays for as long as it does not answer.
    let says = |text: &str| said.message.to_lowercase().contains(text);
    assert!(says("connection refused") || says("connection reset"), "{}", said.message);
    assert_eq!(tenant.condition("sick", "Ready").unwrap().status, "False");
    assert_eq!(tenant.condition("sick", "ControllersReady").unwrap().status, "Unknown");
    assert_eq!(tenant.status("sick")["applied"]["version"], NEW, "what was installed last is still said");
    healthy.delete(&deployment);
    eventually("drift beside it is repaired", 8, || holds(healthy.get(&deployment).is_some(), "it is not"));
    sick.start_api().unwrap();
    tenant.ready("sick");
    assert_eq!(tenant.condition("sick", "Reachable").unwrap().status, "True");

    sick.pause().unwrap();
    tenant.patch("sick", &json!({"metadata": {"annotations": {"look": "once more"}}}));
    let begun = Instant::now();
    let spec = tenant.remote("fresh", fresh, NEW);
    tenant.create("fresh", &spec);
    tenant.ready("fresh");
    assert!(begun.elapsed() < Duration::from_secs(15), "nobody waits for the deadline of another");
    healthy.delete(&deployment);
    eventually("drift beside it is repaired", 8, || holds(healthy.get(&deployment).is_some(), "it is not"));
    let said = tenant.wait("sick", "Reachable", 60, |c| c.status == "False");
    assert_eq!(said.message, "no answer from the API server within 15 s");
    sick.resume().unwrap();
    tenant.wait("sick", "Ready", 60, |c| c.status == "True");
}

/// A rotated credential: the old one is refused and said to be, the Secret is replaced, and that is all it takes.
#[test]
fn kubeconfig_rotation() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "rotation");
    tenant.installed("a", &target, NEW);
    target.revoke_token(crate::harness::TOKENS[0]).unwrap();
    tenant.patch("a", &json!({"metadata": {"annotations": {"look": "again"}}}));
    let said = tenant.wait("a", "Reachable", SOON, |c| c.status == "False" && c.reason == "AuthFailed");
    assert_eq!(
        said.message,
        "the API server does not accept the credentials (401 Unauthorized): renew the token or client certificate"
    );
    assert_eq!(tenant.fails("a", "AuthFailed").message, said.message);

    let renewed = target.kubeconfig_with(crate::harness::OPERATOR, crate::harness::TOKENS[1]);
    tenant.secret("a-kubeconfig", "value", &renewed);
    tenant.wait("a", "Ready", 10, |c| c.status == "True");
    assert_eq!(tenant.condition("a", "Reachable").unwrap().status, "True");
    // The new connection watches too.
    let deployment = in_flux("deployments", "source-controller");
    target.delete(&deployment);
    eventually("drift is repaired", 8, || holds(target.get(&deployment).is_some(), "it is not"));
}

/// A Secret that suddenly leads to another cluster: refused by identity, nothing is written there, and it recovers when the
/// Secret is right again.
#[test]
fn kubeconfig_of_another_cluster_is_refused() {
    let targets = Site::start_many(Kind::Plain, 2);
    let tenant = Tenant::new(shared_hub(), "identity");
    tenant.installed("a", &targets[0], NEW);
    let mark = targets[1].audit_mark();
    tenant.secret("a-kubeconfig", "value", &targets[1].for_operator());
    let uid = |site: &Site| site.uid("/api/v1/namespaces/kube-system").unwrap();
    assert_eq!(
        tenant.fails("a", "ClusterIdentityMismatch").message,
        format!(
            "the kubeconfig leads to another cluster than before (UID of kube-system is {}, was {}); nothing was written. To \
             manage the other cluster, create a FluxInstance of its own",
            uid(&targets[1]),
            uid(&targets[0])
        )
    );
    tenant.poke("a");
    assert_eq!(targets[1].written_texts(mark), Vec::<String>::new());
    assert!(targets[1].get("/api/v1/namespaces/flux-system").is_none());
    tenant.secret("a-kubeconfig", "value", &targets[0].for_operator());
    tenant.ready("a");
}

/// Images that cannot be pulled: Ready waits, then says which Deployment it is; the right registry heals it.
#[test]
fn unhealthy_controllers_are_said() {
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    wanted["timeout"] = json!("5s");
    wanted["distribution"]["registry"] = json!("registry.example/pull-fails");
    tenant.create("flux", &wanted);
    let waiting = tenant.wait("flux", "Ready", SOON, |c| c.message.contains("Deployment"));
    assert_eq!((waiting.status.as_str(), waiting.reason.as_str()), ("Unknown", "Progressing"), "{waiting:?}");
    assert!(waiting.message.starts_with("waiting for Deployment flux-system/"), "{}", waiting.message);
    let failed = tenant.fails("flux", "HealthCheckFailed");
    assert!(failed.message.starts_with("not healthy within 5s: Deployment flux-system/"), "{}", failed.message);
    assert!(failed.message.ends_with("(and 3 more)"), "{}", failed.message);
    assert_eq!(tenant.condition("flux", "ControllersReady").unwrap().status, "False");
    let status = tenant.status("flux");
    assert_eq!(status["history"][0]["outcome"], "Failed");
    assert!(status["lastGood"].is_null());
    assert_eq!(status["applied"]["version"], NEW);
    let components = status["components"].as_array().unwrap();
    assert!(components.iter().all(|c| c["ready"] == false && c["image"].as_str().unwrap().contains("pull-fails")));

    tenant.patch("flux", &json!({"spec": {"distribution": {"registry": "ghcr.io/fluxcd"}}}));
    let ready = tenant.ready("flux");
    assert_eq!(ready.message, format!("Flux {NEW} is installed and healthy"));
    assert_eq!(tenant.status("flux")["history"][0]["outcome"], "Succeeded");
}
