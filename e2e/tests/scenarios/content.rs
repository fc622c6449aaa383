//! What is in the bundles of this repository, held against real API servers and real controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use headwater::api::{Cluster, ClusterSize};
use headwater::render::{Bundle, Object, Settings, render, source};
use headwater_e2e::Kind;
use headwater_e2e::tools::{Module, ensure};
use serde_json::json;

use crate::harness::{NEW, Site, in_repository};

fn bundles() -> Vec<Bundle> {
    let files = headwater::bundle::read_folder(in_repository("bundles/flux").as_ref()).unwrap();
    let versions = headwater::bundle::versions(&files).into_iter();
    versions.map(|v| Bundle::parse(&source::compose(&files, &v.to_string()).unwrap()).unwrap()).collect()
}

/// Every object that any combination of components, of any version and size, is made of: each once, however many have it.
fn all_objects(bundle: &Bundle) -> BTreeMap<Vec<u8>, Object> {
    let names: Vec<String> = bundle.manifest().components.iter().map(|c| c.name.clone()).collect();
    let mut found = BTreeMap::new();
    let mut allowed = 0;
    let mut collect = |settings: &Settings| {
        let Ok(objects) = render(bundle, settings) else { return };
        allowed += 1;
        found.extend(objects.into_iter().map(|object| (object.to_bytes(), object)));
    };
    for bits in 1_u32..1 << names.len() {
        let chosen = names.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, name)| name.clone());
        let components = Some(chosen.collect());
        collect(&Settings { namespace: "flux-system".to_owned(), components, ..Settings::default() });
    }
    for size in [ClusterSize::Small, ClusterSize::Medium, ClusterSize::Large] {
        let cluster = Cluster { size: Some(size), ..Cluster::default() };
        let components = Some(names.clone());
        collect(&Settings { namespace: "flux-system".to_owned(), components, cluster, ..Settings::default() });
    }
    assert!(allowed > 50, "{allowed}");
    found
}

/// A real API server takes everything that any allowed combination of components consists of, without a field it does not know.
#[test]
fn api_server_takes_every_object_of_every_combination() {
    let site = Site::start(Kind::Plain);
    site.create("/api/v1/namespaces", &json!({"metadata": {"name": "flux-system"}}));
    let mut refused = Vec::new();
    for bundle in bundles() {
        let version = &bundle.manifest().version;
        let objects = all_objects(&bundle);
        for object in objects.values() {
            let kind = bundle.kind_of(object).unwrap();
            let key = object.key();
            let root =
                if kind.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", kind.api_version()) };
            let inside = key.namespace.as_ref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
            let path = format!(
                "{root}{inside}/{}/{}?fieldManager=test&force=true&dryRun=All&fieldValidation=Strict",
                kind.plural, key.name
            );
            if let Err(error) = site.request("PATCH", &path, Some(("application/apply-patch+yaml", object.value()))) {
                refused.push(format!("{version} {key}: {error:?}"));
            }
        }
        println!("{version}: {} objects", objects.len());
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// The flags that the newest bundle lists, with their defaults, are those that the real controllers say they have; they know every
/// gate it lists, and refuse to start with one they do not know.
#[test]
fn controllers_know_the_flags_and_gates_that_the_bundle_lists() {
    let tools =
        ensure(&[Module::SourceController, Module::KustomizeController, Module::NotificationController]).unwrap();
    let bundles = bundles();
    let newest = bundles.iter().find(|b| b.manifest().version == NEW).unwrap();
    for name in ["source-controller", "kustomize-controller", "notification-controller"] {
        let program = tools.path(name).unwrap();
        let said = |argument: &str| {
            let output = Command::new(&program).arg(argument).env_clear().output().unwrap();
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
        };
        let component = newest.manifest().components.iter().find(|c| c.name == name).unwrap();
        let flags: BTreeMap<String, String> = said("--help").lines().filter_map(flag).collect();
        let listed: BTreeMap<String, String> = component.flags.clone();
        let (real, ours): (BTreeSet<_>, BTreeSet<_>) = (flags.iter().collect(), listed.iter().collect());
        assert_eq!(ours.difference(&real).collect::<Vec<_>>(), Vec::<&(_, _)>::new(), "{name} does not have these");
        assert_eq!(real.difference(&ours).collect::<Vec<_>>(), Vec::<&(_, _)>::new(), "{name} has these too");

        let gates: Vec<String> = component.feature_gates.iter().map(|(gate, on)| format!("{gate}={on}")).collect();
        let loaded = said(&format!("--feature-gates={}", gates.join(",")));
        assert!(loaded.contains("loading feature gate") && !loaded.contains("not supported"), "{name}: {loaded}");
        let unknown = said("--feature-gates=NoSuchGate=true");
        assert!(unknown.contains("feature-gate 'NoSuchGate' not supported"), "{name}: {unknown}");
    }
}

/// A line of a controller's help: `--concurrent int   What it is. (default 2)`. What it leaves out is the zero of the type.
fn flag(line: &str) -> Option<(String, String)> {
    let (usage, text) = line.trim_start().strip_prefix("--")?.split_once("   ").unwrap_or((line.trim_start(), ""));
    let (name, kind) = usage.split_once(' ').unwrap_or((usage, "bool"));
    let default =
        text.trim_end().strip_suffix(')').and_then(|text| text.rsplit_once("(default ")).map(|(_, value)| value);
    let zero = match kind {
        "bool" => "false",
        "int" => "0",
        _ => "",
    };
    Some((name.trim_start_matches('-').to_owned(), default.unwrap_or(zero).trim_matches('"').to_owned()))
}
