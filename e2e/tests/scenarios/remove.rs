//! What deleting an instance does to its cluster, and who may take over.

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, OBJECTS, SOON, Site, Tenant, crd, eventually, holds, in_flux, shared_hub};

/// Orphan is the default: everything stays as it is, without our marks, and another instance takes it over without recreating
/// anything. As long as an installation has an owner, a second one is refused and told whose it is.
#[test]
fn orphaned_installation_can_be_taken_over() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "orphan");
    tenant.installed("first", &target, NEW);
    let before = target.inventory_uids();

    let mark = target.audit_mark();
    let spec = tenant.remote("second", &target, NEW);
    tenant.create("second", &spec);
    let refused = tenant.fails("second", "NamespaceClaimed");
    assert_eq!(
        refused.message,
        "namespace flux-system of this cluster belongs to FluxInstance orphan/first; delete that one with deletionPolicy \
         Orphan to hand it over"
    );
    assert_eq!(target.written_texts(mark), Vec::<String>::new());

    tenant.delete("first");
    tenant.gone("first", SOON);
    let written = target.written_texts(mark);
    assert_eq!(written.len(), OBJECTS + 1, "{written:#?}");
    assert_eq!(written.last().unwrap(), "delete configmaps flux-system/headwater-inventory");
    assert!(target.inventory().is_none());

    tenant.poke("second");
    tenant.ready("second");
    assert_eq!(target.inventory_uids(), before, "nothing is recreated");
    assert_eq!(target.inventory().unwrap()["owner"]["name"], "second");

    // An instance that is deleted without ever having owned anything takes nothing away.
    let spec = tenant.remote("third", &target, NEW);
    tenant.create("third", &spec);
    tenant.patch("third", &json!({"spec": {"deletionPolicy": "Uninstall"}}));
    tenant.fails("third", "NamespaceClaimed");
    tenant.delete("third");
    tenant.gone("third", SOON);
    assert_eq!(target.inventory_uids(), before);
}

const ALERTS: &str = "/apis/notification.toolkit.fluxcd.io/v1beta3/namespaces/default/alerts";

/// Uninstall waits, and says so, while the cluster cannot be reached; then everything goes, the namespace last. A CRD of
/// which objects live stays, with these objects, and is said to.
#[test]
fn uninstall_removes_everything_but_what_lives() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "uninstall");
    let mut spec = tenant.remote("a", &target, NEW);
    spec["deletionPolicy"] = json!("Uninstall");
    spec["wait"] = json!(true);
    tenant.create("a", &spec);
    tenant.ready("a");
    let others = "/api/v1/namespaces/default/configmaps";
    target.create(others, &json!({"metadata": {"name": "mine"}}));

    let mark = target.audit_mark();
    target.stop_api();
    tenant.delete("a");
    let waiting = tenant.wait("a", "Ready", SOON, |c| c.reason == "ClusterUnreachable");
    assert_eq!(waiting.status, "False");
    assert!(waiting.message.starts_with("cannot reach the API server: "), "{}", waiting.message);
    assert!(
        waiting.message.ends_with(
            "Nothing is forgotten: removal goes on when this is solved; set deletionPolicy to Orphan to leave the cluster as it is"
        ),
        "{}",
        waiting.message
    );
    assert_eq!(tenant.condition("a", "Reachable").unwrap().status, "False");
    target.start_api().unwrap();
    tenant.gone("a", 90);
    assert!(target.get("/api/v1/namespaces/flux-system").is_none());
    let left =
        |path: &str| target.must_get(&format!("{path}?labelSelector=headwater.dev%2Finstallation"))["items"].clone();
    for path in [
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "/apis/apps/v1/deployments",
    ] {
        assert_eq!(left(path), json!([]), "{path}");
    }
    assert!(target.get(&format!("{others}/mine")).is_some());
    let deletions: Vec<String> = target.written_texts(mark).into_iter().filter(|w| w.starts_with("delete")).collect();
    let place = |wanted: &str| {
        deletions.iter().position(|d| d.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {deletions:#?}"))
    };
    assert!(place("delete deployments") < place("delete services"), "{deletions:#?}");
    assert!(place("delete services") < place("delete customresourcedefinitions"), "{deletions:#?}");
    assert!(place("delete customresourcedefinitions") < place("delete namespaces"), "{deletions:#?}");

    // Once more, with an object that lives.
    tenant.create("b", &spec);
    tenant.ready("b");
    assert_eq!(target.inventory_uids().len(), OBJECTS);
    let alert = json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert", "metadata": {"name": "mine"},
        "spec": {"providerRef": {"name": "p"}, "eventSources": [{"kind": "GitRepository", "name": "*"}]},
    });
    target.create(ALERTS, &alert);
    tenant.delete("b");
    tenant.gone("b", 90);
    assert!(target.get(&crd("alerts.notification.toolkit.fluxcd.io")).is_some());
    assert!(target.get(&format!("{ALERTS}/mine")).is_some());
    assert!(target.get(&crd("buckets.source.toolkit.fluxcd.io")).is_none());
    assert!(target.get(&in_flux("deployments", "source-controller")).is_none());
    let kept = tenant.event("b", "Kept");
    assert!(
        kept.starts_with(
            "CustomResourceDefinition alerts.notification.toolkit.fluxcd.io was not deleted: objects of this CRD exist"
        ),
        "{kept}"
    );
    eventually("only the kept CRD is left", SOON, || {
        let left = left("/apis/apiextensions.k8s.io/v1/customresourcedefinitions");
        holds(left.as_array().unwrap().len() == 1, left.to_string())
    });
}

/// An instance that never reached its cluster can be deleted: Orphan needs nobody's consent.
#[test]
fn orphan_never_hangs_on_a_cluster_that_is_gone() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "forgotten");
    let mut spec = tenant.remote("never", &target, NEW);
    spec["kubeConfig"]["secretRef"]["name"] = json!("no-such-secret");
    tenant.create("never", &spec);
    tenant.fails("never", "SecretFailed");
    tenant.delete("never");
    tenant.gone("never", SOON);
    tenant.installed("lost", &target, NEW);
    drop(target);
    tenant.delete("lost");
    tenant.gone("lost", SOON);
}
