//! What is installed really syncs: the real Flux controllers fetch an artifact and apply what is in it.

use headwater::registry::{Access, Address, Repository};
use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{NEW, SOON, Site, Tenant, block_on, eventually, holds, spec, world};

/// An `OCIRepository` and a `Kustomization` from `spec.sync` bring a ConfigMap to the cluster. A source that is broken is said,
/// and does not make the installation look broken.
#[test]
fn installed_flux_syncs() {
    let manifest =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: synced, namespace: default}, data: {by: flux}}\n";
    let files = [("configmap.yaml".to_owned(), manifest.as_bytes().to_vec())].into();
    let archive = headwater::bundle::pack(&files).unwrap();
    let url = world().repository("manifests");
    let access = Access { insecure: true, ..Access::default() };
    let repository = Repository::new(&Address::parse(&url).unwrap(), &access).unwrap();
    block_on(headwater::bundle::push(&repository, "latest", &archive)).unwrap();

    let hub = Site::hub(Kind::Flux);
    let tenant = Tenant::new(&hub, "headwater-system");
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    // Helm-controller is not among the processes of the test bed.
    wanted["components"] = json!(["source-controller", "kustomize-controller", "notification-controller"]);
    wanted["sync"] = json!({"kind": "OCIRepository", "url": url, "ref": "latest", "insecure": true, "interval": "30s"});
    tenant.create("flux", &wanted);
    tenant.wait("flux", "Ready", 90, |c| c.status == "True");
    tenant.wait("flux", "SyncReady", 60, |c| c.status == "True");
    assert_eq!(hub.must_get("/api/v1/namespaces/default/configmaps/synced")["data"]["by"], "flux");
    let kustomization = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/flux-system";
    let inventory = hub.must_get(kustomization)["status"]["inventory"].to_string();
    assert!(inventory.contains("default_synced__ConfigMap"), "{inventory}");

    // A bundle is an artifact as source-controller reads it.
    let source = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository", "metadata": {"name": "bundle"},
        "spec": {
            "interval": "1h", "url": world().repository("flux"), "ref": {"semver": "2.9.x"}, "insecure": true,
            "layerSelector": {"mediaType": headwater::bundle::LAYER_MEDIA_TYPE, "operation": "extract"},
        },
    });
    let collection = "/apis/source.toolkit.fluxcd.io/v1/namespaces/default/ocirepositories";
    hub.create(collection, &source);
    let revision = eventually("source-controller has read the bundle", SOON, || {
        let status = hub.must_get(&format!("{collection}/bundle"))["status"].clone();
        status["artifact"]["revision"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
    });
    assert_eq!(revision, format!("{NEW}@{}", world().digests[NEW]));

    // What Flux's controllers write into their objects is theirs: it is no drift.
    let mark = hub.audit_mark();
    tenant.poke("flux");
    assert_eq!(hub.written_texts(mark), Vec::<String>::new());

    tenant.patch("flux", &json!({"spec": {"sync": {"ref": "no-such-tag"}}}));
    let broken = tenant.wait("flux", "SyncReady", 60, |c| c.status == "False" && c.message.contains("no-such-tag"));
    assert_eq!(broken.reason, "NotSynced");
    assert!(broken.message.starts_with("OCIRepository flux-system/flux-system: "), "{}", broken.message);
    assert_eq!(tenant.condition("flux", "Ready").unwrap().status, "True");
    assert!(hub.get("/api/v1/namespaces/default/configmaps/synced").is_some(), "the last good state stays");

    tenant.patch("flux", &json!({"spec": {"sync": {"ref": "latest"}}}));
    tenant.wait("flux", "SyncReady", 60, |c| c.status == "True");

    // Without sync its objects go, and nothing that they brought.
    tenant.patch("flux", &json!({"spec": {"sync": null}}));
    eventually("the Kustomization is gone", SOON, || holds(hub.get(kustomization).is_none(), hub.get(kustomization)));
    assert!(hub.get("/api/v1/namespaces/default/configmaps/synced").is_some(), "what was synced stays");
    eventually("SyncReady is gone", SOON, || {
        let left = tenant.condition("flux", "SyncReady");
        holds(left.is_none(), left)
    });
}
