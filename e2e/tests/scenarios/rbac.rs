//! The operator under exactly the rights that `config/` and `headwater cluster kubeconfig` give.

use headwater_e2e::Kind;
use serde_json::json;

use crate::harness::{
    NEW, OBJECTS, OLD, SOON, Site, Tenant, eventually, headwater, holds, in_flux, in_repository, shared_hub, spec,
};

fn refused(site: &Site, kubeconfig: &str, args: &[&str]) {
    let answer = site.kubectl_as(std::path::Path::new(kubeconfig), &[&["auth", "can-i"], args].concat(), None);
    // `can-i` exits with 1 for no.
    assert!(answer.as_ref().map_or(true, |a| a.trim() == "no"), "{args:?}: {answer:?}");
}

/// On the hub: install, upgrade, drift and uninstall with what `config/` grants, which is not cluster-admin.
#[test]
fn hub_rights_are_enough_and_no_more() {
    let hub = Site::hub(Kind::Full);
    hub.kubectl_with(&["apply", "-f", "-"], "{apiVersion: v1, kind: Namespace, metadata: {name: headwater-system}}")
        .unwrap();
    let kustomization = in_repository("config/kustomization.yaml");
    if std::path::Path::new(&kustomization).exists() {
        hub.kubectl(&["apply", "-k", &in_repository("config")]).unwrap();
        // Its Deployment would be a second operator, if anybody ran it.
        hub.kubectl(&["delete", "deployments", "--all", "-n", "headwater-system", "--wait=false"]).unwrap();
    } else {
        for file in ["target.yaml", "hub.yaml"] {
            hub.kubectl(&["apply", "-f", &in_repository(&format!("config/rbac/{file}"))]).unwrap();
        }
    }
    let kubeconfig = hub.service_account("headwater-system", "headwater").unwrap();
    let tenant = Tenant::without_operator(&hub, "headwater-system", &kubeconfig);
    tenant.start();
    let mark = hub.audit_mark();
    let mut wanted = spec(OLD);
    wanted["wait"] = json!(true);
    wanted["deletionPolicy"] = json!("Uninstall");
    tenant.create("flux", &wanted);
    tenant.ready("flux");
    tenant.patch("flux", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.wait("flux", "Ready", SOON, |c| c.status == "True" && c.message.contains(NEW));
    assert_eq!(hub.inventory_uids().len(), OBJECTS);
    let deployment = in_flux("deployments", "source-controller");
    hub.delete(&deployment);
    eventually("drift is repaired", 10, || {
        let live = hub.get(&deployment);
        holds(live.is_some_and(|l| l["metadata"]["deletionTimestamp"].is_null()), "it is not")
    });
    tenant.ready("flux");

    let file = tenant.kubeconfig();
    refused(&hub, &file, &["*", "*"]);
    refused(&hub, &file, &["get", "secrets", "-n", "kube-system"]);
    refused(&hub, &file, &["get", "secrets", "-n", "flux-system"]);
    refused(&hub, &file, &["create", "secrets", "-n", "headwater-system"]);
    refused(&hub, &file, &["create", "pods", "-n", "kube-system"]);
    refused(&hub, &file, &["delete", "namespaces/kube-system"]);
    refused(&hub, &file, &["delete", "crd/fluxinstances.headwater.dev"]);
    refused(&hub, &file, &["update", "clusterroles/cluster-admin"]);
    // One by one: discovery may be told to delete the instance of a Secret that is gone.
    refused(&hub, &file, &["deletecollection", "fluxinstances.headwater.dev", "-n", "headwater-system"]);
    refused(&hub, &file, &["patch", "fluxfleets.headwater.dev", "-n", "headwater-system"]);
    refused(&hub, &file, &["delete", "fluxfleets.headwater.dev", "-n", "headwater-system"]);

    tenant.delete("flux");
    tenant.gone("flux", 90);
    assert!(hub.get(&deployment).is_none());
    let denied: Vec<String> = hub
        .settled(mark)
        .iter()
        .filter(|e| {
            e.user == "system:serviceaccount:headwater-system:headwater"
                && e.code == 403
                && !e.resource.starts_with("selfsubject")
        })
        .map(crate::harness::text_of)
        .collect();
    assert_eq!(denied, Vec::<String>::new(), "nothing the operator does is refused");
}

/// On a remote cluster: the Secret that `headwater cluster kubeconfig` prints is all it takes, and is not cluster-admin.
#[test]
fn remote_rights_are_enough_and_no_more() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "rights");
    let admin = target.kubeconfig_path().display().to_string();
    let made = headwater(&["cluster", "kubeconfig", "edge", "-n", "rights"], &[("KUBECONFIG", &admin)]);
    assert_eq!(made.code, 0, "{made:?}");
    tenant.hub.kubectl_with(&["apply", "-f", "-"], &made.stdout).unwrap();

    let mark = target.audit_mark();
    let mut wanted = spec(OLD);
    wanted["wait"] = json!(true);
    wanted["kubeConfig"] = json!({"secretRef": {"name": "edge-kubeconfig"}});
    wanted["deletionPolicy"] = json!("Uninstall");
    let defaults = ["source-controller", "kustomize-controller", "helm-controller", "notification-controller"];
    wanted["components"] = json!([&defaults[..], &["tofu-controller"]].concat());
    wanted["tofu"] = json!({"branchPlanner": true, "allowedNamespaces": ["team-a"]});
    tenant.create("edge", &wanted);
    tenant.ready("edge");
    tenant.patch("edge", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.wait("edge", "Ready", SOON, |c| c.status == "True" && c.message.contains(NEW));
    assert!(target.inventory_uids().contains_key("Deployment/tofu-controller-branch-planner"));

    let secret = tenant.hub.kubectl(&[
        "get",
        "secret",
        "edge-kubeconfig",
        "-n",
        "rights",
        "-o",
        "go-template={{.data.value | base64decode}}",
    ]);
    let file = tenant.file("edge.kubeconfig", &secret.unwrap());
    refused(&target, &file, &["*", "*"]);
    refused(&target, &file, &["get", "secrets", "-n", "kube-system"]);
    refused(&target, &file, &["get", "secrets", "-n", "flux-system"]);
    refused(&target, &file, &["create", "pods", "-n", "kube-system"]);
    refused(&target, &file, &["delete", "namespaces/kube-system"]);
    refused(&target, &file, &["update", "clusterroles/cluster-admin"]);
    refused(&target, &file, &["list", "nodes"]);

    // The namespace is older than the installation, so it stays, with what the operator needs to be able to come back.
    tenant.delete("edge");
    tenant.gone("edge", 90);
    assert!(target.get("/api/v1/namespaces/flux-system").is_some());
    assert!(target.get("/api/v1/namespaces/flux-system/serviceaccounts/headwater").is_some());
    assert!(target.get(&in_flux("deployments", "source-controller")).is_none());
    let user = "system:serviceaccount:flux-system:headwater";
    let denied: Vec<String> = target
        .settled(mark)
        .iter()
        .filter(|e| e.user == user && e.code == 403 && !e.resource.starts_with("selfsubject"))
        .map(crate::harness::text_of)
        .filter(|t| !t.contains("kube-system"))
        .collect();
    assert_eq!(denied, Vec::<String>::new(), "nothing the operator does is refused");
}
