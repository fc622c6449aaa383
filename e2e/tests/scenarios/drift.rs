//! What others change is changed back, and what is theirs is left to them.

use std::time::Duration;

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, Site, Tenant, cluster_role, crd, eventually, holds, in_flux, shared_hub, spec};

/// Longest time a repair may take: it starts with a watch, not with the interval of ten minutes.
const REPAIR: u64 = 8;

/// On the hub every kind is watched: whatever is deleted or changed is repaired within seconds, with an event.
#[test]
fn drift_on_the_hub_is_repaired_within_seconds() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    tenant.create("flux", &spec(NEW));
    tenant.ready("flux");

    let deployment = in_flux("deployments", "source-controller");
    let old = hub.uid(&deployment);
    hub.delete(&deployment);
    eventually("a deleted Deployment is back", REPAIR, || {
        let uid = hub.uid(&deployment);
        holds(uid.is_some() && uid != old, uid)
    });
    let note = tenant.event("flux", "DriftCorrected");
    assert_eq!(note, "repaired: Deployment flux-system/source-controller was missing");

    let scaled = in_flux("deployments", "kustomize-controller");
    hub.merge(&scaled, &json!({"spec": {"replicas": 3}}));
    eventually("a scaled Deployment is scaled back", REPAIR, || {
        let replicas = hub.must_get(&scaled)["spec"]["replicas"].clone();
        holds(replicas == 1, replicas)
    });
    let role = cluster_role("crd-controller-flux-system");
    hub.merge(&role, &json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "mine"}}}));
    eventually("a label of a ClusterRole is put back", REPAIR, || {
        let label = hub.must_get(&role)["metadata"]["labels"]["app.kubernetes.io/part-of"].clone();
        holds(label == "flux", label)
    });
    let service = in_flux("services", "webhook-receiver");
    hub.delete(&service);
    eventually("a deleted Service is back", REPAIR, || holds(hub.get(&service).is_some(), "it is not"));
    let definition = crd("buckets.source.toolkit.fluxcd.io");
    hub.merge(&definition, &json!({"metadata": {"labels": {"app.kubernetes.io/part-of": null}}}));
    eventually("a label removed from a CRD is back", REPAIR, || {
        let labels = hub.must_get(&definition)["metadata"]["labels"].clone();
        holds(labels["app.kubernetes.io/part-of"] == "flux", labels)
    });
    // The label by which we find our own objects is no exception.
    let service = in_flux("services", "source-controller");
    let uid = hub.uid(&service);
    hub.merge(&service, &json!({"metadata": {"labels": {"headwater.dev/installation": null}}}));
    eventually("our own label is back", REPAIR, || {
        let labels = hub.must_get(&service)["metadata"]["labels"].clone();
        holds(labels["headwater.dev/installation"] == "flux-system", labels)
    });
    assert_eq!(hub.uid(&service), uid);

    eventually("the inventory knows the new incarnations", REPAIR, || {
        let ready = tenant.condition("flux", "Ready");
        let stored = hub.inventory().unwrap().to_string();
        holds(stored.contains(&hub.uid(&deployment).unwrap()) && ready.is_some_and(|r| r.status == "True"), stored)
    });
    hub.inventory_uids();
}

/// Labels, annotations and fields that are not ours are left alone.
#[test]
fn what_is_not_ours_is_left_alone() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    tenant.create("flux", &spec(NEW));
    tenant.ready("flux");
    tenant.poke("flux");

    let mark = hub.audit_mark();
    let deployment = in_flux("deployments", "source-controller");
    let theirs = json!({
        "metadata": {"labels": {"team": "platform"}, "annotations": {"owner": "me"}},
        "spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "today"}}}},
    });
    hub.merge(&deployment, &theirs);
    hub.merge(&crd("buckets.source.toolkit.fluxcd.io"), &json!({"metadata": {"labels": {"team": "platform"}}}));
    hub.create("/api/v1/namespaces/flux-system/configmaps", &json!({"metadata": {"name": "theirs"}}));
    std::thread::sleep(Duration::from_secs(3));
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
    let live = hub.must_get(&deployment);
    assert_eq!(live["metadata"]["labels"]["team"], "platform");
    assert_eq!(live["metadata"]["annotations"]["owner"], "me");
    assert_eq!(live["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"], "today");
}

/// On a remote cluster what breaks an installation at once is watched, and the rest is found by the next pass.
#[test]
fn drift_on_a_remote_cluster() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "drift");
    tenant.installed("a", &target, NEW);

    let deployment = in_flux("deployments", "helm-controller");
    target.delete(&deployment);
    eventually("a deleted Deployment is back", REPAIR, || holds(target.get(&deployment).is_some(), "it is not"));
    let definition = crd("buckets.source.toolkit.fluxcd.io");
    target.merge(&definition, &json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}}));
    eventually("a label of a CRD is put back", REPAIR, || {
        let label = target.must_get(&definition)["metadata"]["labels"]["app.kubernetes.io/part-of"].clone();
        holds(label == "flux", label)
    });
    let service = in_flux("services", "webhook-receiver");
    target.delete(&service);
    tenant.poke("a");
    eventually("a deleted Service is back after a pass", REPAIR, || holds(target.get(&service).is_some(), "it is not"));
    eventually("events tell of all three", REPAIR, || {
        let events: String =
            tenant.events("a").into_iter().filter(|(r, _)| r == "DriftCorrected").map(|(_, n)| n).collect();
        let all = [
            "helm-controller was missing",
            "buckets.source.toolkit.fluxcd.io was changed by somebody else",
            "webhook-receiver was missing",
        ];
        holds(all.iter().all(|text| events.contains(text)), events)
    });
}
