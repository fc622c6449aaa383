//! tofu-controller in the bundles: what is rendered for it is what its Helm chart renders, and what it changes in the objects
//! of Flux is known to the letter.
//!
//! Test code: may read files.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::comparison::{Comparison, Selection, by_name, load, upstream_folder};
use super::testing::{bundle, defaults, root, versions};
use super::*;

const TOFU: &str = "tofu-controller";

/// `tofu` is `spec.tofu`, or null.
fn rendered(bundle: &Bundle, names: &[&str], tofu: Value) -> BTreeMap<String, Value> {
    let tofu = serde_json::from_value(tofu).unwrap();
    let components = Some(names.iter().map(|name| (*name).to_owned()).collect());
    by_name(render(bundle, &Settings { components, tofu, ..defaults() }).unwrap())
}

/// Only what tofu-controller adds. The chart installs the package of AWS modules by default.
pub(super) fn compare(comparison: &mut Comparison, bundle: &Bundle) {
    let manifest = bundle.manifest();
    let Some(component) = manifest.components.iter().find(|c| c.name == TOFU) else {
        panic!("{} has no {TOFU}", title(bundle));
    };
    let Some(folder) = upstream_folder(&format!("tofu-controller/{}", component.tag)) else {
        return;
    };
    let mut names: Vec<&str> = manifest.components.iter().filter(|c| c.default).map(|c| c.name.as_str()).collect();
    let without = rendered(bundle, &names, Value::Null);
    names.push(TOFU);
    let mut ours = rendered(bundle, &names, json!({"awsPackage": true}));
    ours.retain(|name, _| !without.contains_key(name));

    let mut upstream = load(&folder, "chart-default-render.yaml");
    for crd in &component.crds {
        let (plural, group) = crd.name.split_once('.').unwrap();
        upstream.extend(load(&folder, &format!("crds/{group}_{plural}.yaml")));
    }
    let upstream = by_name(upstream.into_iter().map(|value| Object::try_from(value).unwrap()).collect());
    comparison.compare(&format!("{TOFU} {} with {}", component.tag, title(bundle)), Selection::Tofu, &upstream, &ours);
}

/// Which fields differ, as JSON pointers of the changed values.
fn changes(before: &Value, after: &Value) -> Vec<String> {
    serde_json::to_value(json_patch::diff(before, after))
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            format!("{} {} {}", change["op"].as_str().unwrap(), change["path"].as_str().unwrap(), change["value"])
        })
        .collect()
}

#[test]
fn flux_knows_terraform_objects_where_tofu_controller_is_installed() {
    for version in versions() {
        let bundle = bundle(&version);
        let flux = ["source-controller", "notification-controller"];
        let before = rendered(&bundle, &flux, Value::Null);
        let after = rendered(&bundle, &[&flux[..], &[TOFU]].concat(), Value::Null);
        let changed: BTreeMap<&str, Vec<String>> = before
            .iter()
            .filter(|(name, value)| &after[*name] != *value)
            .map(|(name, value)| (name.as_str(), changes(value, &after[name])))
            .collect();
        let alerts = "CustomResourceDefinition alerts.notification.toolkit.fluxcd.io";
        let receivers = "CustomResourceDefinition receivers.notification.toolkit.fluxcd.io";
        let role = "ClusterRole crd-controller-flux-system";
        assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [role, alerts, receivers], "{version}");
        for name in [alerts, receivers] {
            let versions = after[name]["spec"]["versions"].as_array().unwrap();
            assert_eq!(changed[name].len(), versions.len(), "every version admits it: {:?}", changed[name]);
            for change in &changed[name] {
                assert!(change.starts_with("add /spec/versions/") && change.ends_with(" \"Terraform\""), "{change}");
                assert!(change.contains("/items/properties/kind/enum/"), "{change}");
            }
        }
        let rules = after[role]["rules"].as_array().unwrap();
        let ours = json!({"apiGroups": ["infra.contrib.fluxcd.io"], "resources": ["*"], "verbs": ["*"]});
        let others: Vec<&Value> = rules.iter().filter(|rule| **rule != ours).collect();
        assert_eq!(others, before[role]["rules"].as_array().unwrap().iter().collect::<Vec<_>>());
        assert_eq!(rules.len(), others.len() + 1);
    }
}

#[test]
fn events_and_names_follow_the_settings() {
    let bundle = bundle("2.9.4");
    let args = |names: &[&str], domain: &str| -> Vec<String> {
        let components = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let cluster = api::Cluster { domain: domain.to_owned(), ..api::Cluster::default() };
        let settings = Settings { namespace: "team".to_owned(), components, cluster, ..Settings::default() };
        let objects = by_name(render(&bundle, &settings).unwrap());
        let containers = objects["Deployment team/tofu-controller"]["spec"]["template"]["spec"]["containers"].clone();
        serde_json::from_value(containers[0]["args"].clone()).unwrap()
    };
    let all = args(&["source-controller", "notification-controller", TOFU], "corp.example");
    assert!(
        all.contains(&"--events-addr=http://notification-controller.team.svc.corp.example./".to_owned()),
        "{all:?}"
    );
    assert!(all.contains(&"--cluster-domain=corp.example".to_owned()), "{all:?}");
    let two = args(&["source-controller", TOFU], "cluster.local");
    assert!(two.contains(&"--events-addr=".to_owned()), "nobody receives events: {two:?}");

    let component = bundle.manifest().components.iter().find(|c| c.name == TOFU).unwrap();
    for arg in &all {
        let flag = arg.trim_start_matches("--").split('=').next().unwrap();
        assert!(component.flags.contains_key(flag), "{arg}: {TOFU} does not know this flag");
    }
}

#[test]
fn tofu_settings_reach_the_objects() {
    let bundle = bundle("2.9.4");
    let names = ["source-controller", TOFU];
    let plain = rendered(&bundle, &names, Value::Null);
    assert_eq!(plain, rendered(&bundle, &names, json!({})), "what is left out is not needed");

    let wanted = json!({
        "allowedNamespaces": ["team-a", "flux-system"],
        "runner": {"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/tofu"}}},
        "branchPlanner": true,
        "awsPackage": true,
    });
    let objects = rendered(&bundle, &names, wanted);
    let new: BTreeSet<&String> = objects.keys().filter(|name| !plain.contains_key(*name)).collect();
    let expected = ["Deployment flux-system/tofu-controller-branch-planner", "OCIRepository flux-system/aws-package"]
        .map(str::to_owned);
    assert_eq!(new, expected.iter().collect());
    let account = &objects["ServiceAccount flux-system/tf-runner"];
    assert_eq!(account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"], "arn:aws:iam::1:role/tofu");
    let bound: Vec<&Value> = objects["ClusterRoleBinding tf-runner-rolebinding"]["subjects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| &subject["namespace"])
        .collect();
    assert_eq!(bound, ["flux-system", "team-a"]);
    let planner = &objects["Deployment flux-system/tofu-controller-branch-planner"]["spec"]["template"]["spec"];
    let container = &planner["containers"][0];
    assert_eq!(container["image"], "ghcr.io/flux-iac/branch-planner:v0.16.5");
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&json!("--allowed-namespaces=flux-system,team-a")), "{args:?}");
    let rules = objects["ClusterRole tofu-manager-role"]["rules"].to_string();
    assert!(rules.contains("gitrepositories") && rules.contains(r#""watch","create","delete""#), "{rules}");

    let images = BTreeMap::from([("tf-runner".to_owned(), "mirror.example/runner:v1".to_owned())]);
    let components = Some(names.iter().map(|name| (*name).to_owned()).collect());
    let mapped = by_name(render(&bundle, &Settings { components, images, ..defaults() }).unwrap());
    let container = &mapped["Deployment flux-system/tofu-controller"]["spec"]["template"]["spec"]["containers"][0];
    let env = container["env"].as_array().unwrap().iter().find(|e| e["name"] == "RUNNER_POD_IMAGE").unwrap();
    assert_eq!(env["value"], "mirror.example/runner:v1");
    assert_eq!(container["image"], "ghcr.io/flux-iac/tofu-controller:v0.16.5");
}

#[test]
fn tofu_settings_without_the_component_are_a_mistake() {
    let settings = Settings { tofu: Some(api::Tofu::default()), ..defaults() };
    let error = render(&bundle("2.9.4"), &settings).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "spec.tofu is set, but tofu-controller is not installed; add it to spec.components, or remove spec.tofu"
        ),
        "{error}"
    );
}

/// `flux uninstall` deletes every CRD that is part of flux, and Terraform objects may hold cloud resources.
#[test]
fn nothing_of_tofu_controller_is_part_of_flux() {
    let bundle = bundle("2.9.4");
    let flux = rendered(&bundle, &["source-controller"], Value::Null);
    let all = rendered(&bundle, &["source-controller", TOFU], json!({"branchPlanner": true, "awsPackage": true}));
    let added: Vec<(&String, &Value)> = all.iter().filter(|(name, _)| !flux.contains_key(*name)).collect();
    assert!(added.len() > 10);
    for (name, object) in added {
        assert_eq!(object["metadata"]["labels"].get("app.kubernetes.io/part-of"), None, "{name}");
    }
}

#[test]
fn the_example_in_the_documentation_works() {
    let text = std::fs::read_to_string(root().join("docs/tofu.md")).unwrap();
    let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let spec = yaml::parse_one("docs/tofu.md", example).unwrap()["spec"].clone();
    let part = |pointer: &str| spec.pointer(pointer).unwrap().clone();
    let settings = Settings {
        components: serde_json::from_value(part("/components")).unwrap(),
        images: serde_json::from_value(part("/distribution/images")).unwrap(),
        tofu: serde_json::from_value(part("/tofu")).unwrap(),
        ..defaults()
    };
    let written = serde_json::to_value(&settings.tofu).unwrap();
    assert_eq!(written, part("/tofu"), "the example shows every field, and none that there is not");
    let objects = by_name(render(&bundle("2.9.4"), &settings).unwrap());
    assert!(objects["Deployment flux-system/tofu-controller"].to_string().contains("registry.example/tools/tf-runner"));
}
