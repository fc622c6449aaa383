//! A change that fails: what ran before runs again, or stays as it is, and nothing is tried twice.

use std::time::Duration;

use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, Site, Tenant, crd, eventually, headwater, holds, in_flux, spec, world};

const PATIENCE: u64 = 60;

fn versions(status: &Value) -> Vec<String> {
    let text = |h: &Value| format!("{} {}", h["version"].as_str().unwrap(), h["outcome"].as_str().unwrap());
    status["history"].as_array().unwrap().iter().map(text).collect()
}

fn steps(status: &Value) -> Vec<String> {
    let text = |s: &Value| format!("{}: {}", s["state"].as_str().unwrap(), s["name"].as_str().unwrap());
    status["plan"]["steps"].as_array().unwrap().iter().map(text).collect()
}

fn image(site: &Site, controller: &str) -> String {
    let deployment = site.must_get(&in_flux("deployments", controller));
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}

/// A tenant of its own hub with Flux on it, healthy at the old version.
fn installed(hub: &Site) -> Tenant<'_> {
    let tenant = Tenant::new(hub, "headwater-system");
    let mut wanted = spec(OLD);
    wanted["wait"] = json!(true);
    wanted["timeout"] = json!("6s");
    tenant.create("flux", &wanted);
    tenant.ready("flux");
    tenant
}

/// The new version comes with images that cannot be pulled. The first controller does not become healthy, so the others are
/// not even touched; what was good, the spec values it ran with included, comes back by itself, CRDs stay the newer ones,
/// and the failed target is left alone until somebody says otherwise.
#[test]
fn a_failed_upgrade_goes_back_by_itself_and_is_held() {
    let hub = Site::hub(Kind::Full);
    let tenant = installed(&hub);
    let before = hub.inventory_uids();
    let old_image = image(&hub, "source-controller");
    let broken = json!({"spec": {"distribution": {"version": NEW, "registry": "registry.example/pull-fails"}}});
    tenant.patch("flux", &broken);
    let back = tenant.wait("flux", "Ready", PATIENCE, |c| c.reason == "RolledBack");
    assert!(
        back.message.starts_with(&format!("{NEW} failed: not healthy within 6s: Deployment flux-system/")),
        "{}",
        back.message
    );
    assert!(
        back.message.ends_with(&format!(
            "Back on {OLD}. It is not tried again until spec or bundle change, or `headwater retry flux`"
        )),
        "{}",
        back.message
    );
    assert_eq!(tenant.condition("flux", "Stalled").unwrap().status, "True");
    assert_eq!(tenant.condition("flux", "ControllersReady").unwrap().status, "True");
    let status = tenant.status("flux");
    assert_eq!(versions(&status), [format!("{OLD} Succeeded"), format!("{NEW} Failed"), format!("{OLD} Succeeded")]);
    assert_eq!(status["lastGood"]["version"], OLD);
    assert_eq!(status["held"]["digest"], world().digests[NEW].as_str());
    assert_eq!(image(&hub, "source-controller"), old_image);
    assert_eq!(hub.inventory_uids(), before, "nothing was recreated");
    let receivers = hub.must_get(&crd("receivers.notification.toolkit.fluxcd.io"));
    assert_eq!(receivers["metadata"]["labels"]["app.kubernetes.io/version"], "v2.9.4", "CRDs never go back");
    assert_eq!(receivers["status"]["storedVersions"], json!(["v1"]));

    // Nothing is tried again, whatever happens around it.
    let mark = hub.audit_mark();
    tenant.poke("flux");
    tenant.stop();
    tenant.start();
    tenant.poke("flux");
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());

    // A word, and it is tried again: it fails the same way and goes back the same way.
    let kubeconfig = tenant.kubeconfig();
    let env = [("KUBECONFIG", kubeconfig.as_str())];
    let retried = headwater(&["retry", "flux", "-n", "headwater-system"], &env);
    assert_eq!(retried.code, 0, "{retried:?}");
    assert!(
        retried.stdout.starts_with(&format!("{NEW} is tried again on flux; it had failed: ")),
        "{}",
        retried.stdout
    );
    eventually("it is tried again", PATIENCE, || {
        let history = versions(&tenant.status("flux"));
        holds(history.len() == 5 && history[0] == format!("{OLD} Succeeded"), history)
    });

    // Another spec is another target.
    tenant.patch("flux", &json!({"spec": {"distribution": {"registry": "ghcr.io/fluxcd"}}}));
    tenant.wait("flux", "Ready", PATIENCE, |c| c.status == "True" && c.message.contains(NEW));
    let status = tenant.status("flux");
    assert!(status["held"].is_null());
    let done = steps(&status);
    assert!(done.iter().all(|s| s.starts_with("Done: ")), "{done:#?}");
    assert_eq!(done.last().unwrap(), "Done: health");
    assert!(done.iter().any(|s| s == "Done: healthy: notification-controller, source-controller"), "{done:#?}");
    assert_eq!(hub.inventory_uids(), before);
    let nothing = headwater(&["retry", "flux", "-n", "headwater-system"], &env);
    assert_eq!(
        (nothing.code, nothing.stderr.as_str()),
        (2, "error: flux holds nothing: there is nothing to try again\n")
    );

    // And a word to go back, by hand.
    let unknown = headwater(&["rollback", "flux", "-n", "headwater-system", "--to", "sha256:0"], &env);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(
        unknown.stderr.starts_with("error: flux cannot go back: sha256:0 is not among the good revisions"),
        "{}",
        unknown.stderr
    );
    let rolled = headwater(&["rollback", "flux", "-n", "headwater-system"], &env);
    assert_eq!(rolled.code, 0, "{rolled:?}");
    let back = tenant.wait("flux", "Ready", PATIENCE, |c| c.reason == "RolledBack");
    assert!(
        back.message.starts_with(&format!("{NEW} failed: it was asked to go back. Back on {OLD}.")),
        "{}",
        back.message
    );
    assert_eq!(image(&hub, "source-controller"), old_image);
    assert_eq!(hub.inventory_uids(), before);
}

/// Hold leaves a failed change as it is and says so; it is good after all if it becomes healthy late.
#[test]
fn a_failed_change_can_be_left_as_it_is() {
    let hub = Site::hub(Kind::Full);
    let tenant = installed(&hub);
    let kustomize = image(&hub, "kustomize-controller");
    tenant.patch(
        "flux",
        &json!({"spec": {"upgrade": {"onFailure": "Hold"}, "distribution": {"version": NEW, "registry": "registry.example/pull-fails"}}}),
    );
    let held = tenant.wait("flux", "Ready", PATIENCE, |c| c.reason == "UpgradeFailed");
    assert!(held.message.contains("Left as it is (spec.upgrade.onFailure is Hold)"), "{}", held.message);
    assert!(image(&hub, "source-controller").starts_with("registry.example/pull-fails/"));
    assert_eq!(image(&hub, "kustomize-controller"), kustomize, "what comes later in the order was not touched");
    let mark = hub.audit_mark();
    tenant.poke("flux");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
    // Back to what was good is no downgrade.
    tenant.patch("flux", &json!({"spec": {"distribution": {"version": OLD, "registry": null}}}));
    tenant.ready("flux");
    assert_eq!(tenant.status("flux")["applied"]["version"], OLD);
}

/// A version goes down only when the spec says so; then CRDs and everything stored stay.
#[test]
fn a_downgrade_has_to_be_allowed() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    tenant.create("flux", &spec(NEW));
    tenant.ready("flux");
    let before = hub.inventory_uids();
    let mark = hub.audit_mark();
    tenant.patch("flux", &json!({"spec": {"distribution": {"version": OLD}}}));
    let refused = tenant.fails("flux", "DowngradeRefused");
    assert_eq!(
        refused.message,
        format!(
            "spec.distribution.version: {OLD} is older than the installed {NEW}; to go there all the same, set spec.upgrade.allowDowngrade: true (CRDs stay those of the newer version), or `headwater rollback` to what ran before"
        )
    );
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
    tenant.patch("flux", &json!({"spec": {"upgrade": {"allowDowngrade": true}}}));
    tenant.wait("flux", "Ready", PATIENCE, |c| c.status == "True" && c.message.contains(OLD));
    assert_eq!(hub.inventory_uids(), before);
    let writes = hub.written_texts(mark);
    assert!(writes.iter().all(|w| !w.contains("customresourcedefinitions")), "{writes:#?}");
    let mark = hub.audit_mark();
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
}

/// Fields that the API server does not let change: a Deployment and a Service are created anew, which the plan shows; an object
/// that cannot be, is refused and stays as it is.
#[test]
fn what_cannot_be_changed_is_created_anew_if_it_holds_nothing() {
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    tenant.create("flux", &spec(NEW));
    tenant.ready("flux");
    let before = hub.inventory_uids();
    let selector = json!([
        {"op": "add", "path": "/spec/selector/matchLabels/generation", "value": "two"},
        {"op": "add", "path": "/spec/template/metadata/labels/generation", "value": "two"},
    ]);
    let headless = json!([{"op": "add", "path": "/spec/clusterIP", "value": "None"}]);
    let mut wanted = spec(NEW);
    wanted["kustomize"] = json!({"patches": [
        {"target": {"kind": "Deployment", "name": "source-controller"}, "patch": selector.to_string()},
        {"target": {"kind": "Service", "name": "webhook-receiver"}, "patch": headless.to_string()},
    ]});
    let file = tenant.file("wanted.yaml", &tenant.object("flux", &wanted).to_string());
    let kubeconfig = tenant.kubeconfig();
    let shown = headwater(&["diff", "-f", &file], &[("KUBECONFIG", kubeconfig.as_str())]);
    for line in [
        "± Deployment flux-system/source-controller  (deleted and",
        "± Service flux-system/webhook-receiver  (deleted and",
    ] {
        assert!(shown.stdout.contains(line), "{}", shown.stdout);
    }
    tenant.patch("flux", &json!({"spec": {"kustomize": wanted["kustomize"]}}));
    eventually("both are other objects, and healthy", PATIENCE, || {
        let ready = tenant.condition("flux", "Ready");
        let service = hub.get(&in_flux("services", "webhook-receiver"));
        let is_headless = service.as_ref().is_some_and(|s| s["spec"]["clusterIP"] == "None");
        holds(is_headless && ready.is_some_and(|r| r.status == "True"), service)
    });
    let after = hub.inventory_uids();
    let changed: Vec<&String> = before.keys().filter(|key| before.get(*key) != after.get(*key)).collect();
    assert_eq!(changed, ["Deployment/source-controller", "Service/webhook-receiver"]);
    let mark = hub.audit_mark();
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
}

/// Going back is refused when the old controllers would ask for a version that nobody serves; the failed change stays.
#[test]
fn going_back_is_refused_when_a_version_is_no_longer_served() {
    let hub = Site::hub(Kind::Full);
    let tenant = installed(&hub);
    tenant.patch("flux", &json!({"spec": {"distribution": {"version": NEW}, "drift": {"mode": "Ignore"}}}));
    tenant.wait("flux", "Ready", PATIENCE, |c| c.status == "True" && c.message.contains(NEW));
    // A version of the future.
    let path = crd("receivers.notification.toolkit.fluxcd.io");
    let mut versions = hub.must_get(&path)["spec"]["versions"].as_array().unwrap().clone();
    let mut next = versions[0].clone();
    next["name"] = json!("v2");
    versions[0]["served"] = json!(false);
    versions[0]["storage"] = json!(false);
    versions.push(next);
    hub.merge(&path, &json!({"spec": {"versions": versions}}));
    let mark = hub.audit_mark();
    let kubeconfig = tenant.kubeconfig();
    let said = headwater(&["rollback", "flux", "-n", "headwater-system"], &[("KUBECONFIG", kubeconfig.as_str())]);
    assert_eq!(said.code, 0, "{said:?}");
    let refused = tenant.event("flux", "RollbackRefused");
    assert!(
        refused.contains(&format!(
            "the controllers of {OLD} use v1 of receivers.notification.toolkit.fluxcd.io, which the CRD on the cluster no longer serves (it serves v2)"
        )),
        "{refused}"
    );
    tenant.ready("flux");
    assert_eq!(tenant.status("flux")["applied"]["version"], NEW);
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
}
