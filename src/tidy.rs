//! Architecture invariants that a compiler does not check.

use std::collections::BTreeSet;
use std::path::Path;

use crate::bundle::{read_folder, versions};
use crate::render::{Bundle, source};

/// Folders that decide, and what they must not name: the client, the runtime, the file system, the clock.
const PURE: &[&str] = &["api", "render", "plan", "trust", "fleet"];
const FORBIDDEN: &[&str] = &[
    "kube::Client",
    "kube::client",
    "kube::Api",
    "kube::api::Api",
    "kube::runtime",
    "kube::config",
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "hyper",
    "rustls",
    "reqwest",
    "crate::cluster",
    "crate::bundle",
    "crate::registry",
    "crate::controller",
    "crate::cli",
    "crate::telemetry",
];

/// Goes over the lines of code below a folder that are no test and no comment. `name` tells what a line must not name.
fn check(folder: &Path, name: &dyn Fn(&str) -> Option<String>, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path, name, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests may read files; they are in files of their own or at the end.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if path.ends_with("tests.rs") || text.contains("//! Test code: may read files.") {
            continue;
        }
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            if let Some(name) = name(line) {
                found.push(format!("{}:{}: names {name}", path.display(), number + 1));
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn pure_folders_name_neither_client_nor_runtime_nor_files_nor_clock() {
    let forbidden = |line: &str| {
        let grouped =
            line.contains("kube::{") && ["Client", "Api", "runtime", "config"].iter().any(|n| line.contains(n));
        let named = FORBIDDEN.iter().find(|name| line.contains(*name)).copied();
        named.or(grouped.then_some("kube's client")).map(str::to_owned)
    };
    let mut found = Vec::new();
    for folder in PURE.iter().map(|f| root().join("src").join(f)).filter(|f| f.exists()) {
        check(&folder, &forbidden, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What a bundle holds is data: no code knows a component, an image, a CRD or a version of it.
#[test]
fn code_names_nothing_that_is_in_a_bundle() {
    let files = read_folder(&root().join("bundles/flux")).unwrap();
    let mut names = BTreeSet::new();
    for version in versions(&files) {
        let bundle = Bundle::parse(&source::compose(&files, &version.to_string()).unwrap()).unwrap();
        names.insert(format!("\"{version}\""));
        for component in &bundle.manifest().components {
            names.extend([component.name.clone(), component.image.clone()]);
            names.extend(component.images.iter().map(|image| image.name.clone()));
            names.extend(component.crds.iter().map(|crd| crd.name.clone()));
            names.extend(component.crds.iter().filter_map(|crd| Some(crd.name.split_once('.')?.1.to_owned())));
        }
    }
    assert!(names.len() > 20, "{names:?}");
    // Sentences may give examples.
    let given = |line: &str| names.iter().find(|name| !line.contains("such as") && line.contains(*name)).cloned();
    let mut found = Vec::new();
    check(&root().join("src"), &given, &mut found);
    // Names that other tools leave on what they install.
    found.retain(|found| !found.contains("src/plan/takeover/marks.rs:"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
