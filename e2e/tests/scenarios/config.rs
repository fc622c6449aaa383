//! Everything in `config/`, as the README tells users to apply it.

use std::path::Path;

use headwater_e2e::Kind;
use headwater_e2e::tools::tool;
use serde_json::{Value, json};

use crate::harness::{SOON, Site, eventually, in_repository};

/// `kubectl apply`; a warning of the API server is an error.
fn apply(site: &Site, what: &str, path: &str) -> String {
    let args = ["apply", "--warnings-as-errors", what, path];
    site.kubectl(&args).unwrap_or_else(|e| panic!("kubectl {}: {e:#}", args.join(" ")))
}

/// The path of a folder of the repository as a kustomization elsewhere has to name it.
fn from(folder: &Path, path: &str) -> String {
    let up = "../".repeat(folder.canonicalize().unwrap().components().count() - 1);
    format!("{up}{}", in_repository(path).trim_start_matches('/'))
}

/// `kubectl apply -k config/`, every sample, shards, and monitoring for who has the Prometheus operator: a real API server takes all of it
/// and warns of nothing.
#[test]
fn everything_in_config_is_taken() {
    let hub = Site::start(Kind::Plain);
    let said = apply(&hub, "-k", &in_repository("config"));
    assert!(said.contains("deployment.apps/headwater created"), "{said}");
    eventually("our CRDs are served", SOON, || {
        hub.request("GET", "/apis/headwater.dev/v1alpha1/fluxfleets", None).map_err(|e| format!("{e:?}"))
    });

    // What the operator would have installed by now, with the kind that the sample's own patch adds.
    let bundle = in_repository("bundles/flux/2.9.4/crds");
    hub.kubectl(&["apply", "--server-side", "-f", &bundle]).unwrap();
    let sample = std::fs::read_to_string(in_repository("config/samples/notifications.yaml")).unwrap();
    let instance: Value =
        headwater::render::yaml::parse_one("sample", sample.split("\n---\n").next().unwrap()).unwrap();
    let own = &instance["spec"]["kustomize"]["patches"][0];
    let (name, change) = (own["target"]["name"].as_str().unwrap(), own["patch"].as_str().unwrap());
    hub.kubectl(&["patch", "crd", name, "--type", "json", "-p", change]).unwrap();
    let alerts = "/apis/notification.toolkit.fluxcd.io/v1beta3/namespaces/flux-system/alerts";
    let alert = json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert", "metadata": {"name": "probe"},
        "spec": {"providerRef": {"name": "x"}, "eventSources": [{"kind": "FluxFleet", "name": "*"}]},
    });
    eventually("the kind is known", SOON, || {
        let path = format!("{alerts}?dryRun=All");
        hub.request("POST", &path, Some(("application/json", &alert))).map_err(|e| format!("{e:?}"))
    });
    let said = apply(&hub, "-f", &in_repository("config/samples"));
    assert!(
        said.lines().count() >= 7 && said.contains("alert.notification.toolkit.fluxcd.io/fleets created"),
        "{said}"
    );
    let said = apply(&hub, "-k", &in_repository("config/samples/shard"));
    assert!(said.contains("deployment.apps/headwater-east created"), "{said}");

    let crds = ["podmonitors", "prometheusrules"];
    let files = crds.map(|crd| tool(&format!("monitoring.coreos.com_{crd}.yaml")).unwrap().display().to_string());
    hub.kubectl(&["apply", "--server-side", "-f", &files.join(",")]).unwrap();
    for crd in crds {
        eventually("CRDs of the Prometheus operator are served", SOON, || {
            let path = format!("/apis/monitoring.coreos.com/v1/{crd}");
            hub.request("GET", &path, None).map_err(|e| format!("{e:?}"))
        });
    }
    let own = tempfile::tempdir().unwrap();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [from(own.path(), "config")], "components": [from(own.path(), "config/monitoring")],
    });
    std::fs::write(own.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let said = apply(&hub, "-k", own.path().to_str().unwrap());
    for made in ["podmonitor.monitoring.coreos.com/headwater", "prometheusrule.monitoring.coreos.com/headwater"] {
        assert!(said.contains(&format!("{made} created")), "{said}");
    }
}
