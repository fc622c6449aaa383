//! What others change is changed back, and what is theirs is left to them.

use std::time::Duration;

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, Site, Tenant, cluster_role, crd, eventually, headwater, holds, in_flux, shared_hub, spec};

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

/// On a remote cluster what breaks an installation at once is watched, and the rest is found by the next look.
#[test]
fn drift_on_a_remote_cluster() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "drift");
    tenant.installed("a", &target, NEW);

    let deployment = in_flux("deployments", "helm-controller");
    target.delete(&deployment);
    eventually("a deleted Deployment is back", REPAIR, || holds(target.get(&deployment).is_some(), "it is not"));
    let definition = crd("buckets.source.toolkit.fluxcd.io");
    let as_kubectl = format!("{definition}?fieldManager=kubectl-edit");
    target.merge(&as_kubectl, &json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}}));
    eventually("a label of a CRD is put back", REPAIR, || {
        let label = target.must_get(&definition)["metadata"]["labels"]["app.kubernetes.io/part-of"].clone();
        holds(label == "flux", label)
    });
    let service = in_flux("services", "webhook-receiver");
    target.delete(&service);
    tenant.poke("a");
    eventually("a deleted Service is back after a look", REPAIR, || holds(target.get(&service).is_some(), "it is not"));
    let repairs = || -> Vec<String> {
        tenant.events("a").into_iter().filter(|(r, _)| r == "DriftCorrected").map(|(_, note)| note).collect()
    };
    assert_eq!(repairs(), ["repaired: Deployment flux-system/helm-controller was missing"]);
    let (_, metrics) = tenant.page("/metrics").unwrap();
    for labels in [
        r#"kind="Deployment",manager="unknown""#,
        r#"kind="CustomResourceDefinition",manager="kubectl-edit""#,
        r#"kind="Service",manager="unknown""#,
    ] {
        let line = format!("headwater_drift_total{{instance=\"a\",{labels}}} 1");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    // What follows within a minute is one event.
    let second = eventually("a second event", 75, || repairs().get(1).cloned().ok_or_else(|| "only one".to_owned()));
    assert_eq!(
        second,
        "repaired: CustomResourceDefinition buckets.source.toolkit.fluxcd.io was changed by kubectl-edit; Service \
         flux-system/webhook-receiver was missing"
    );
}

/// Somebody who scales a Deployment again and again does not keep the operator busy, is named, and hinders no other repair.
#[test]
fn a_fight_is_damped() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    tenant.create("flux", &spec(NEW));
    tenant.ready("flux");
    let contested = in_flux("deployments", "helm-controller");
    let scale = || hub.merge(&format!("{contested}/scale?fieldManager=autoscaler"), &json!({"spec": {"replicas": 2}}));
    let replicas = || hub.must_get(&contested)["spec"]["replicas"].clone();
    for _ in 0..3 {
        scale();
        eventually("a scaled Deployment is scaled back", REPAIR, || holds(replicas() == 1, replicas()));
    }
    scale();
    let drifted = tenant.wait("flux", "Drifted", REPAIR, |c| c.reason == "DriftDamped");
    assert!(
        drifted
            .message
            .starts_with("Deployment flux-system/helm-controller is changed by autoscaler as often as it is repaired"),
        "{}",
        drifted.message
    );
    let mark = hub.audit_mark();
    let other = in_flux("deployments", "source-controller");
    hub.delete(&other);
    eventually("another Deployment is back", REPAIR, || holds(hub.get(&other).is_some(), "it is not"));
    tenant.poke("flux");
    assert_eq!(replicas(), 2);
    let wrote = hub.written_texts(mark);
    assert!(!wrote.iter().any(|w| w.contains("helm-controller")), "{wrote:?}");
    eventually("it is scaled back in the end", 45, || holds(replicas() == 1, replicas()));
    // The fight is not forgotten at once.
    assert_eq!(tenant.condition("flux", "Drifted").unwrap().reason, "DriftDamped");
}

/// `spec.drift`: what is only said, what is left to others as a whole, and what in part.
#[test]
fn drift_is_treated_as_the_spec_says() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    let mut spec = spec(NEW);
    spec["drift"] = json!({"mode": "Warn"});
    tenant.create("flux", &spec);
    tenant.ready("flux");
    tenant.poke("flux");
    let deployment = in_flux("deployments", "helm-controller");
    let scale = |replicas: u8| {
        hub.merge(&format!("{deployment}/scale?fieldManager=autoscaler"), &json!({"spec": {"replicas": replicas}}));
    };
    let replicas = || hub.must_get(&deployment)["spec"]["replicas"].clone();

    let mark = hub.audit_mark();
    scale(3);
    let drifted = tenant.wait("flux", "Drifted", REPAIR, |c| c.status == "True");
    assert_eq!(
        (drifted.reason.as_str(), drifted.message.as_str()),
        (
            "DriftFound",
            "Deployment flux-system/helm-controller was changed by autoscaler; it is left so, since spec.drift.mode is Warn"
        )
    );
    let text = "left: Deployment flux-system/helm-controller was changed by autoscaler";
    assert_eq!(tenant.event("flux", "DriftFound"), text);
    let file = tenant.file("instance.yaml", &tenant.object("flux", &spec).to_string());
    let diff = headwater(&["diff", "-f", &file], &[("KUBECONFIG", &tenant.kubeconfig())]);
    assert!(
        diff.stdout.contains("! Deployment flux-system/helm-controller was changed by autoscaler  (left so"),
        "{diff:?}"
    );
    let service = in_flux("services", "webhook-receiver");
    hub.delete(&service);
    tenant.wait("flux", "Drifted", REPAIR, |c| c.message.contains("(and 1 more)"));
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());

    tenant.patch("flux", &json!({"spec": {"drift": {"mode": "Ignore"}}}));
    eventually("nothing is said of it any more", REPAIR, || {
        let conditions = tenant.status("flux")["conditions"].to_string();
        holds(!conditions.contains("Drifted"), conditions)
    });
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());

    // One kind is left to others: the rest is repaired.
    tenant.patch("flux", &json!({"spec": {"drift": {"mode": "Correct", "ignore": ["Deployment"]}}}));
    eventually("the Service is back", REPAIR, || holds(hub.get(&service).is_some(), "it is not"));
    tenant.poke("flux");
    assert_eq!(replicas(), 3);

    // One field is left to others: the rest of the object is repaired.
    tenant.patch("flux", &json!({"spec": {"drift": {"ignore": ["/spec/replicas"]}}}));
    tenant.poke("flux");
    assert_eq!(replicas(), 3, "what somebody else has set stays");
    let mark = hub.audit_mark();
    scale(5);
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
    hub.merge(&deployment, &json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "mine"}}}));
    eventually("a label is put back", REPAIR, || {
        let label = hub.must_get(&deployment)["metadata"]["labels"]["app.kubernetes.io/part-of"].clone();
        holds(label == "flux", label)
    });
    assert_eq!(replicas(), 5);

    tenant.patch("flux", &json!({"spec": {"drift": {"ignore": ["/metadata/labels"]}}}));
    let refused = tenant.fails("flux", "InvalidSpec");
    assert!(refused.message.starts_with("spec.drift.ignore: /metadata/labels would take away"), "{}", refused.message);
}
