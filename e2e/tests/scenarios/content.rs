//! What is in the bundles of this repository, held against the real controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use headwater::render::{Bundle, source};
use headwater_e2e::tools::{Module, ensure};

use crate::harness::{NEW, in_repository};

fn bundles() -> Vec<Bundle> {
    let files = headwater::bundle::read_folder(in_repository("bundles/flux").as_ref()).unwrap();
    let versions = headwater::bundle::versions(&files).into_iter();
    versions.map(|v| Bundle::parse(&source::compose(&files, &v.to_string()).unwrap()).unwrap()).collect()
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
