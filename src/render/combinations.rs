//! Every combination of components of every version in `bundles/`: it is installed completely, or refused with the reason.
//!
//! Test code: may read files.

use std::collections::{BTreeMap, BTreeSet};

use super::testing::{FLUX, bundle, defaults, sources, versions};
use super::*;

/// What a component cannot be without, said once more here: a requirement that gets lost in a bundle is noticed.
const NEEDS: [(&str, &[&str]); 5] = [
    ("kustomize-controller", &["source-controller"]),
    ("helm-controller", &["source-controller"]),
    ("image-automation-controller", &["source-controller", "image-reflector-controller"]),
    ("source-watcher", &["source-controller"]),
    ("tofu-controller", &["source-controller"]),
];

/// Objects of a component beside its account and its Deployment: CRDs, and Services or what else it has.
const OWN: [(&str, usize, usize); 8] = [
    ("source-controller", 6, 1),
    ("kustomize-controller", 1, 0),
    ("helm-controller", 1, 0),
    ("notification-controller", 3, 2),
    ("image-reflector-controller", 2, 0),
    ("image-automation-controller", 1, 0),
    ("source-watcher", 1, 1),
    // The account of runners, three cluster roles and a role, and their bindings.
    ("tofu-controller", 1, 9),
];

/// Namespace, quota, three cluster roles, two bindings of such, three network policies.
const SHARED: usize = 10;

fn subsets() -> impl Iterator<Item = Vec<&'static str>> {
    (1_u32..1 << OWN.len()).map(|bits| {
        let chosen = OWN.iter().map(|row| &row.0).enumerate().filter(|(i, _)| bits & (1 << i) != 0);
        chosen.map(|(_, name)| *name).collect()
    })
}

fn with(components: &[&str]) -> Settings {
    Settings { components: Some(components.iter().map(|name| (*name).to_owned()).collect()), ..defaults() }
}

/// The sentence with which a combination is refused, if it is.
fn refusal(components: &[&str]) -> Option<String> {
    let needs: BTreeMap<&str, &[&str]> = NEEDS.into();
    components.iter().find_map(|name| {
        let missing = needs.get(name)?.iter().find(|needed| !components.contains(needed))?;
        Some(format!("spec.components: {name:?} needs {missing:?}; add it to spec.components"))
    })
}

#[test]
fn every_combination_is_installed_completely_or_refused_with_the_reason() {
    std::thread::scope(|scope| {
        for version in versions() {
            scope.spawn(move || try_all_combinations(&version));
        }
    });
}

fn try_all_combinations(version: &str) {
    let bundle = bundle(version);
    let mut allowed = 0;
    for components in subsets() {
        let rendered = render(&bundle, &with(&components));
        if let Some(sentence) = refusal(&components) {
            assert_eq!(rendered.unwrap_err().to_string(), sentence, "{version}");
            continue;
        }
        allowed += 1;
        let objects = rendered.unwrap();
        let named = |kind: &str| -> BTreeSet<&str> {
            objects.iter().filter(|o| o.key().kind == kind).map(|o| o.key().name.as_str()).collect()
        };
        let chosen: BTreeSet<&str> = components.iter().copied().collect();
        assert_eq!(named("Deployment"), chosen, "{version}");
        let runners = chosen.contains("tofu-controller").then_some("tf-runner");
        assert_eq!(named("ServiceAccount"), chosen.iter().copied().chain(runners).collect(), "{version}");
        let own = OWN.iter().filter(|row| chosen.contains(row.0)).map(|(_, crds, others)| 2 + crds + others);
        assert_eq!(objects.len(), SHARED + own.sum::<usize>(), "{version} {components:?}");
        assert_eq!(told_of_external_artifacts(&objects), readers(&chosen), "{version} {components:?}");
    }
    // With source-controller: 2 (kustomize) x 2 (helm) x 2 (notification) x 3 (images) x 2 (source-watcher) x 2 (tofu);
    // without it: 2 x 2, but for nothing at all.
    assert_eq!(allowed, 96 + 3, "{version}");
}

/// kustomize- and helm-controller read what source-watcher makes only when told to.
fn readers<'a>(chosen: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let reads = |name: &&&str| ["kustomize-controller", "helm-controller"].contains(*name);
    if chosen.contains("source-watcher") { chosen.iter().filter(reads).copied().collect() } else { BTreeSet::new() }
}

fn told_of_external_artifacts(objects: &[Object]) -> BTreeSet<&str> {
    let told = |object: &&Object| {
        let args = object.value().pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
        args.is_some_and(|args| args.iter().any(|arg| arg == "--feature-gates=ExternalArtifact=true"))
    };
    objects.iter().filter(told).map(|object| object.key().name.as_str()).collect()
}

/// Counts of `flux install --export`, by kind.
#[test]
fn the_usual_selections_have_as_many_objects_as_upstream() {
    let kinds = [
        "CustomResourceDefinition",
        "ServiceAccount",
        "Deployment",
        "Service",
        "ClusterRole",
        "ClusterRoleBinding",
        "NetworkPolicy",
        "ResourceQuota",
        "Namespace",
    ];
    let six: Vec<&str> = FLUX.into_iter().filter(|name| *name != "source-watcher").collect();
    for version in versions() {
        let bundle = bundle(&version);
        for (settings, counts) in [
            (defaults(), [11, 4, 4, 3, 3, 2, 3, 1, 1]),
            (with(&six), [14, 6, 6, 3, 3, 2, 3, 1, 1]),
            (with(&FLUX), [15, 7, 7, 4, 3, 2, 3, 1, 1]),
        ] {
            let objects = render(&bundle, &settings).unwrap();
            let found = kinds.map(|kind| objects.iter().filter(|o| o.key().kind == kind).count());
            assert_eq!(found, counts, "{version} {:?}", settings.components);
            assert_eq!(objects.len(), counts.iter().sum::<usize>(), "{version}");
        }
    }
}

#[test]
fn what_a_bundle_does_not_have_cannot_be_installed() {
    // A bundle from before source-watcher.
    let mut files = source::compose(&sources(), "2.7.5").unwrap();
    let mut manifest = yaml::parse_one("bundle.yaml", std::str::from_utf8(&files["bundle.yaml"]).unwrap()).unwrap();
    manifest["version"] = "2.6.4".into();
    let without = |list: &mut Value| {
        let list = list.as_array_mut().unwrap();
        list.retain(|entry| entry != "source-watcher" && entry["name"] != "source-watcher");
    };
    without(&mut manifest["components"]);
    manifest["rollout"].as_array_mut().unwrap().iter_mut().for_each(|step| without(&mut step["components"]));
    files.insert("bundle.yaml".to_owned(), yaml::emit(&manifest).unwrap().into_bytes());
    files.retain(|path, _| !path.contains("artifactgenerators"));
    let old = Bundle::parse(&files).unwrap();
    assert_eq!(
        render(&old, &with(&["source-controller", "source-watcher"])).unwrap_err().to_string(),
        "spec.components[1]: \"source-watcher\" is not in bundle flux 2.6.4; it has: source-controller, kustomize-controller, \
         helm-controller, notification-controller, image-reflector-controller, image-automation-controller, tofu-controller; did you mean \
         source-controller?"
    );
    assert_eq!(
        render(&old, &with(&[])).unwrap_err().to_string(),
        "spec.components is empty; name at least one, or leave it out for the bundle's defaults"
    );
}

#[test]
fn sync_needs_the_kinds_it_is_made_of() {
    let bundle = bundle("2.9.4");
    let sync =
        serde_json::from_value(json!({"kind": "GitRepository", "url": "https://x.example", "ref": "main"})).unwrap();
    let settings = Settings { sync: Some(sync), ..with(&["source-controller"]) };
    assert_eq!(
        render(&bundle, &settings).unwrap_err().to_string(),
        "spec.components: Kustomization flux-system/flux-system needs \"kustomize-controller\", which brings its kind; add it to \
         spec.components"
    );
    let components = with(&["source-controller", "kustomize-controller"]).components;
    assert!(render(&bundle, &Settings { components, ..settings }).is_ok());
}

#[test]
fn every_flag_that_is_set_is_one_the_controller_knows() {
    use api::ClusterSize::{Large, Medium, Small};
    for version in versions() {
        let bundle = bundle(&version);
        for size in [None, Some(Small), Some(Medium), Some(Large)] {
            let cluster = api::Cluster { size, ..api::Cluster::default() };
            let all: Vec<&str> = bundle.manifest().components.iter().map(|c| c.name.as_str()).collect();
            let objects = render(&bundle, &Settings { cluster, ..with(&all) }).unwrap();
            for component in &bundle.manifest().components {
                let deployment =
                    objects.iter().find(|o| o.key().kind == "Deployment" && o.key().name == component.name);
                let args =
                    deployment.unwrap().value().pointer("/spec/template/spec/containers/0/args").unwrap().clone();
                let args: Vec<String> = serde_json::from_value(args).unwrap();
                let mut seen = BTreeSet::new();
                for arg in &args {
                    let (flag, value) = arg.strip_prefix("--").unwrap().split_once('=').unwrap_or((&arg[2..], ""));
                    assert!(component.flags.contains_key(flag), "{version} {}: {arg}", component.name);
                    assert!(seen.insert(flag), "{version} {}: {flag} is set twice", component.name);
                    if flag == "feature-gates" {
                        let gate = value.split_once('=').unwrap().0;
                        assert!(component.feature_gates.contains_key(gate), "{version} {}: {arg}", component.name);
                    }
                }
            }
        }
    }
}

#[test]
fn the_size_of_the_cluster_decides_on_flags_and_resources() {
    let bundle = bundle("2.9.4");
    let pod = |size: Option<api::ClusterSize>, name: &str| {
        let cluster = api::Cluster { size, ..api::Cluster::default() };
        let objects = render(&bundle, &Settings { cluster, ..with(&FLUX) }).unwrap();
        let deployment = objects.into_iter().find(|o| o.key().kind == "Deployment" && o.key().name == name).unwrap();
        let template = deployment.value()["spec"]["template"].clone();
        let container = template["spec"]["containers"][0].clone();
        (container["args"].to_string(), container["resources"].clone(), template["metadata"]["annotations"].to_string())
    };
    let (args, resources, annotations) = pod(None, "kustomize-controller");
    assert!(!args.contains("--concurrent") && !annotations.contains("safe-to-evict"), "{args} {annotations}");
    assert_eq!(
        resources,
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}})
    );

    let (args, resources, annotations) = pod(Some(api::ClusterSize::Large), "kustomize-controller");
    assert!(args.contains("\"--concurrent=20\",\"--requeue-dependency=5s\""), "{args}");
    assert_eq!(
        resources,
        json!({"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "3000m", "memory": "3Gi"}})
    );
    assert!(annotations.contains("\"cluster-autoscaler.kubernetes.io/safe-to-evict\":\"true\""), "{annotations}");

    let (_, resources, _) = pod(Some(api::ClusterSize::Small), "source-watcher");
    assert_eq!(
        resources,
        json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1000m", "memory": "512Mi"}})
    );
}
