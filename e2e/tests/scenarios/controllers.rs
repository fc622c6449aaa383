//! What Headwater does to Flux while its real controllers run. Named so that it begins early: it has to see that nothing happens for a while.

use std::time::Duration;

use headwater::registry::{Access, Address, Repository};
use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, OLD, Site, Tenant, block_on, eventually, holds, spec, world};

const REPOSITORY: &str = "rollback/manifests";

/// The real controllers: an upgrade with a flag that the new kustomize-controller does not know, so that it exits. What ran before
/// runs again, the cluster's sync is Ready again and goes on, and for two minutes nobody writes anything.
#[test]
fn sync_survives_a_controller_that_exits() {
    let push = |value: &str| {
        let manifest = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: synced, namespace: default}}, data: {{is: \"{value}\"}}}}\n"
        );
        let files = [("configmap.yaml".to_owned(), manifest.into_bytes())].into();
        let archive = headwater::bundle::pack(&files).unwrap();
        let access = Access { insecure: true, ..Access::default() };
        let repository = Repository::new(&Address::parse(&world().repository(REPOSITORY)).unwrap(), &access).unwrap();
        block_on(headwater::bundle::push(&repository, "latest", &archive)).unwrap();
    };
    push("one");
    let hub = Site::hub(Kind::Flux);
    let tenant = Tenant::new(&hub, "headwater-system");
    let mut wanted = spec(OLD);
    wanted["wait"] = json!(true);
    wanted["components"] = json!(["source-controller", "kustomize-controller", "notification-controller"]);
    wanted["sync"] = json!({
        "kind": "OCIRepository", "url": world().repository(REPOSITORY), "ref": "latest", "insecure": true, "interval": "30s",
    });
    tenant.create("flux", &wanted);
    tenant.wait("flux", "Ready", 90, |c| c.status == "True");
    tenant.wait("flux", "SyncReady", 90, |c| c.status == "True");

    let flag = json!([{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--no-such-flag"}]);
    tenant.patch(
        "flux",
        &json!({"spec": {
            "distribution": {"version": NEW}, "timeout": "20s",
            // What is known beforehand to be wrong would not even be begun.
            "upgrade": {"preflight": {"flags": "Off"}},
            "kustomize": {"patches": [{"target": {"kind": "Deployment", "name": "kustomize-controller"}, "patch": flag.to_string()}]},
        }}),
    );
    let back = tenant.wait("flux", "Ready", 150, |c| c.reason == "RolledBack");
    assert!(back.message.contains("Deployment flux-system/kustomize-controller"), "{}", back.message);
    tenant.wait("flux", "SyncReady", 90, |c| c.status == "True");
    push("two");
    eventually("the sync goes on", 90, || {
        let synced = hub.must_get("/api/v1/namespaces/default/configmaps/synced")["data"]["is"].clone();
        holds(synced == "two", synced)
    });
    let asked = |kind: &str, group: &str| {
        let path = format!("/apis/{group}/v1/namespaces/flux-system/{kind}/flux-system");
        hub.must_get(&path)["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].clone()
    };
    assert!(asked("ocirepositories", "source.toolkit.fluxcd.io").is_null(), "the probe comes after health");
    let (mark, passes) = (hub.audit_mark(), tenant.passes("flux"));
    std::thread::sleep(Duration::from_secs(120));
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());
    let passes = tenant.passes("flux") - passes;
    assert!(passes < 30, "{passes} passes in two quiet minutes");

    // Without the flag it goes through; that is good only when source and Kustomization have answered.
    tenant.patch("flux", &json!({"spec": {"kustomize": null, "timeout": "2m"}}));
    tenant.wait("flux", "Ready", 150, |c| c.status == "True" && c.message.contains(NEW));
    for (kind, group) in
        [("ocirepositories", "source.toolkit.fluxcd.io"), ("kustomizations", "kustomize.toolkit.fluxcd.io")]
    {
        assert!(asked(kind, group).is_string(), "{kind} was asked to reconcile");
    }
    tenant.wait("flux", "SyncReady", 90, |c| c.status == "True");
}
