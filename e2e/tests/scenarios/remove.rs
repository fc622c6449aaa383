//! What deleting an instance does to its cluster, and who may take over.

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, OBJECTS, OPERATOR, SOON, Site, Tenant, crd, eventually, holds, in_flux, shared_hub};

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
    // The owner says so too, and is no less ready for it.
    let claimed = tenant.wait("first", "Claimed", SOON, |c| c.status == "True");
    assert_eq!(
        claimed.message,
        "FluxInstance orphan/second wants this namespace of this cluster too, and is refused; delete it, or point it to \
         another cluster"
    );
    assert_eq!(tenant.event("first", "NamespaceClaimed"), claimed.message);
    assert_eq!(tenant.condition("first", "Ready").unwrap().status, "True");

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
    tenant.wait("second", "Claimed", SOON, |c| c.status == "True");
    tenant.delete("third");
    tenant.gone("third", SOON);
    eventually("nobody else wants it any more", SOON, || {
        let claimed = tenant.condition("second", "Claimed");
        holds(claimed.is_none(), claimed)
    });
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
        waiting.message.ends_with(&format!(
            "Nothing is forgotten: removal goes on when this is solved. To let go of a cluster that is gone for ever, \
                 annotate the instance with headwater.dev/abandon={}",
            tenant.status("a")["cluster"]["uid"].as_str().unwrap()
        )),
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
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert",
        "metadata": {"name": "mine", "finalizers": ["finalizers.fluxcd.io", "example.com/theirs"]},
        "spec": {"providerRef": {"name": "p"}, "eventSources": [{"kind": "GitRepository", "name": "*"}]},
    });
    target.create(ALERTS, &alert);
    tenant.delete("b");
    tenant.gone("b", 90);
    assert!(target.get(&crd("alerts.notification.toolkit.fluxcd.io")).is_some());
    let alert = target.must_get(&format!("{ALERTS}/mine"));
    assert_eq!(alert["metadata"]["finalizers"], json!(["example.com/theirs"]), "whoever deletes it later can");
    assert!(alert["metadata"]["deletionTimestamp"].is_null());
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

const CUSTOM: &[(&str, &str, &str, &str)] = &[
    ("source.toolkit.fluxcd.io/v1", "gitrepositories", "GitRepository", "finalizers.fluxcd.io"),
    ("kustomize.toolkit.fluxcd.io/v1", "kustomizations", "Kustomization", "finalizers.fluxcd.io"),
    ("infra.contrib.fluxcd.io/v1alpha2", "terraforms", "Terraform", "finalizers.tf.contrib.fluxcd.io"),
    ("infra.contrib.fluxcd.io/v1alpha2", "terraforms", "Terraform", "tf.dependency.of.other"),
    ("notification.toolkit.fluxcd.io/v1beta3", "alerts", "Alert", "finalizers.fluxcd.io"),
];

/// Makes an object of each kind, each with a finalizer of its controller; returns their paths.
fn live_objects(target: &Site) -> Vec<String> {
    let one = |(index, (version, plural, kind, finalizer)): (usize, &(&str, &str, &str, &str))| {
        let collection = format!("/apis/{version}/namespaces/default/{plural}");
        let spec = match *kind {
            "GitRepository" => json!({"interval": "1m", "url": "https://example.com/x"}),
            "Alert" => json!({"providerRef": {"name": "p"}, "eventSources": [{"kind": "GitRepository", "name": "*"}]}),
            // Nobody serves the finalizers of a suspended one even while its controller runs.
            "Terraform" => json!({
                "interval": "1m", "suspend": true, "destroyResourcesOnDeletion": true, "path": "./",
                "sourceRef": {"kind": "GitRepository", "name": "x"},
            }),
            _ => json!({"interval": "1m", "prune": true, "sourceRef": {"kind": "GitRepository", "name": "x"}}),
        };
        let name = format!("live-{index}");
        target.create(
            &collection,
            &json!({
                "apiVersion": version, "kind": kind, "spec": spec,
                "metadata": {"name": name, "finalizers": [finalizer]},
            }),
        );
        format!("{collection}/{name}")
    };
    CUSTOM.iter().enumerate().map(one).collect()
}

/// An uninstall that may delete objects strands none of them, touches no finalizer while a controller runs, waits for those of
/// others and names them, and goes on where it was when the operator is killed.
#[test]
fn uninstall_with_live_objects() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "uninstall-live");
    let mut spec = tenant.remote("a", &target, NEW);
    spec["deletionPolicy"] = json!("Uninstall");
    spec["wait"] = json!(true);
    spec["upgrade"] = json!({"deleteCRDs": true});
    spec["components"] = json!([
        "source-controller",
        "kustomize-controller",
        "helm-controller",
        "notification-controller",
        "tofu-controller"
    ]);
    spec["sync"] = json!({"kind": "GitRepository", "url": "https://example.com/fleet", "ref": "refs/heads/main"});
    tenant.create("a", &spec);
    tenant.ready("a");
    let live = live_objects(&target);
    let alert = live.last().unwrap();
    target.merge(alert, &json!({"metadata": {"finalizers": ["finalizers.fluxcd.io", "example.com/hold"]}}));
    // What Flux made is no concern of ours.
    let workloads = "/api/v1/namespaces/default/configmaps";
    target.create(
        workloads,
        &json!({"metadata": {"name": "made-by-flux", "labels": {"kustomize.toolkit.fluxcd.io/name": "live-1"}}}),
    );

    let mark = target.audit_mark();
    tenant.delete("a");
    eventually("the removal begins", SOON, || {
        let written = target.written_texts(mark);
        holds(written.iter().any(|w| w.starts_with("delete deployments")), written)
    });
    tenant.kill();
    tenant.start();

    let held = "waiting for Alert default/live-4, which finalizer example.com/hold holds";
    let waiting = tenant.wait("a", "Ready", 60, |c| c.message.starts_with(held));
    assert_eq!((waiting.status.as_str(), waiting.reason.as_str()), ("Unknown", "Uninstalling"));
    eventually("the event that names it", 60, || {
        let events = tenant.events("a");
        holds(events.iter().any(|(reason, note)| reason == "FinalizerRemains" && note.starts_with(held)), events)
    });
    assert_eq!(target.must_get(alert)["metadata"]["finalizers"], json!(["example.com/hold"]));
    assert!(target.get("/api/v1/namespaces/flux-system").is_some());
    target.merge(alert, &json!({"metadata": {"finalizers": null}}));
    tenant.gone("a", 60);

    assert!(target.get("/api/v1/namespaces/flux-system").is_none());
    for path in &live {
        assert!(target.get(path).is_none(), "{path}");
    }
    assert!(target.get(&format!("{workloads}/made-by-flux")).is_some());
    let definitions = target.must_get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions");
    assert!(!definitions.to_string().contains(".fluxcd.io"), "CRDs are gone");

    let events = target.settled(mark);
    let place = |what: &str, wanted: &dyn Fn(&headwater_e2e::AuditEvent) -> bool| {
        events.iter().position(wanted).unwrap_or_else(|| panic!("{what}"))
    };
    let patched = |resource: &'static str| {
        move |e: &headwater_e2e::AuditEvent| e.user == OPERATOR && e.verb == "patch" && e.resource == resource
    };
    let last_pod = events
        .iter()
        .rposition(|e| e.verb == "delete" && e.resource == "pods" && e.namespace == "flux-system")
        .expect("pods were deleted");
    let terraform = place("a Terraform is released", &patched("terraforms"));
    let source = place("a source is released", &patched("gitrepositories"));
    let definition = place("a CRD is deleted", &|e| {
        e.user == OPERATOR && e.verb == "delete" && e.resource == "customresourcedefinitions"
    });
    assert!(last_pod < terraform, "finalizers are touched only when nobody is left who serves them");
    assert!(terraform < source && source < definition, "what depends on others comes before them");
    // Deleted is only what was installed: the objects of others went with their CRDs.
    let deleted: Vec<String> = target
        .written(mark)
        .iter()
        .filter(|e| e.verb == "delete" && e.namespace == "default")
        .map(crate::harness::text_of)
        .collect();
    assert_eq!(deleted, Vec::<String>::new());
}

/// A cluster that is gone for ever is let go of by a word that names it, also when its kubeconfig is gone first.
#[test]
fn a_lost_cluster_can_be_let_go_of() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "abandon");
    let mut spec = tenant.remote("lost", &target, NEW);
    spec["deletionPolicy"] = json!("Uninstall");
    tenant.create("lost", &spec);
    tenant.ready("lost");
    let uid = tenant.status("lost")["cluster"]["uid"].as_str().unwrap().to_owned();
    drop(target);
    tenant.kill();
    tenant.hub.delete("/api/v1/namespaces/abandon/secrets/lost-kubeconfig");
    tenant.start();
    tenant.delete("lost");
    let waiting = tenant.fails("lost", "SecretFailed");
    let hint = format!("annotate the instance with headwater.dev/abandon={uid}");
    assert!(waiting.message.ends_with(&hint), "{}", waiting.message);

    tenant.patch("lost", &json!({"metadata": {"annotations": {"headwater.dev/abandon": "yes"}}}));
    tenant.wait("lost", "Ready", SOON, |c| c.message.ends_with(&format!("{hint} (found: yes)")));
    tenant.patch("lost", &json!({"metadata": {"annotations": {"headwater.dev/abandon": uid}}}));
    tenant.gone("lost", SOON);
    assert_eq!(
        tenant.event("lost", "Abandoned"),
        format!("{OBJECTS} objects left behind on the cluster with UID {uid}: they run on, and nobody manages them")
    );
}
