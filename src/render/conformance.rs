//! The bundles in `bundles/` against the real thing: what we render with default settings is what
//! `flux install --export` gives, but for the differences listed in `bundles/flux/differences.yaml`.
//!
//! The upstream files are not part of the repository; without them (`../shared/upstream`) the comparison says
//! that it was skipped.
//!
//! Test code: may read files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::testing::{FLUX, bundle, defaults, read_folder, root, sources, versions};
use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    /// The selection of components it is for; unset means all.
    #[serde(default)]
    selection: Option<Selection>,
    object: String,
    path: String,
    kind: String,
    r#type: String,
    reason: String,
}

/// Selections that are compared with upstream.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Selection {
    Default,
    All,
}

struct Difference {
    object: String,
    path: Vec<String>,
    kind: &'static str,
    value: Value,
}

impl Allowed {
    fn covers(&self, selection: Selection, difference: &Difference) -> bool {
        let object = self
            .object
            .strip_suffix('*')
            .map_or_else(|| self.object == difference.object, |prefix| difference.object.starts_with(prefix));
        let right_type = match self.r#type.as_str() {
            "string" => difference.value.is_string(),
            "list" => difference.value.is_array(),
            "map" => difference.value.is_object(),
            other => panic!("differences.yaml: type {other} is not one of string, list, map"),
        };
        let pattern: Vec<&str> = self.path.split('.').collect();
        let selected = self.selection.is_none_or(|own| own == selection);
        selected && object && right_type && self.kind == difference.kind && path_matches(&pattern, &difference.path)
    }
}

fn path_matches(pattern: &[&str], path: &[String]) -> bool {
    match (pattern.first(), path.first()) {
        (None, None) => true,
        (Some(&"**"), _) => {
            path_matches(&pattern[1..], path) || (!path.is_empty() && path_matches(pattern, &path[1..]))
        }
        (Some(&part), Some(field)) => (part == "*" || part == field) && path_matches(&pattern[1..], &path[1..]),
        _ => false,
    }
}

fn differences(object: &str, path: &[String], upstream: &Value, ours: &Value, found: &mut Vec<Difference>) {
    let mut add = |path: Vec<String>, kind, value: &Value| {
        found.push(Difference { object: object.to_owned(), path, kind, value: value.clone() });
    };
    let at = |part: String| path.iter().cloned().chain([part]).collect::<Vec<_>>();
    match (upstream, ours) {
        (Value::Object(a), Value::Object(b)) => {
            b.iter()
                .filter(|(name, _)| !a.contains_key(*name))
                .for_each(|(name, value)| add(at(name.clone()), "extra", value));
            for (name, value) in a {
                match b.get(name) {
                    None => found.push(Difference {
                        object: object.to_owned(),
                        path: at(name.clone()),
                        kind: "missing",
                        value: value.clone(),
                    }),
                    Some(other) => differences(object, &at(name.clone()), value, other, found),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                match (a.get(i), b.get(i)) {
                    (Some(x), Some(y)) => differences(object, &at(i.to_string()), x, y, found),
                    (Some(x), None) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "missing",
                        value: x.clone(),
                    }),
                    (None, Some(y)) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "extra",
                        value: y.clone(),
                    }),
                    (None, None) => {}
                }
            }
        }
        (a, b) if a != b => add(path.to_vec(), "changed", b),
        _ => {}
    }
}

/// `flux install --export` of some components, put together from the export of all components and the files of the single
/// controllers, which hold the CRDs.
fn upstream(folder: &Path, bundle: &Bundle, selection: Selection) -> BTreeMap<String, Value> {
    let manifest = bundle.manifest();
    let load = |name: String| yaml::parse(&name, &fs::read_to_string(folder.join(&name)).unwrap()).unwrap();
    let selected: Vec<&str> = manifest
        .components
        .iter()
        .filter(|c| c.default || selection == Selection::All)
        .map(|c| c.name.as_str())
        .collect();
    let mut objects: Vec<Value> = load("gotk-components.no-crds.yaml".to_owned());
    objects.retain(|object| {
        let component = object["metadata"]["labels"]["app.kubernetes.io/component"].as_str();
        component.is_none_or(|name| selected.contains(&name))
    });
    for name in selected {
        for mut crd in load(format!("{name}.yaml")) {
            if crd["kind"] == "CustomResourceDefinition" {
                crd["metadata"]["labels"]["app.kubernetes.io/instance"] = "flux-system".into();
                crd["metadata"]["labels"]["app.kubernetes.io/version"] = manifest.app_version.clone().into();
                objects.push(crd);
            }
        }
    }
    let keyed = objects.into_iter().map(|value| (Object::try_from(value.clone()).unwrap().key().to_string(), value));
    keyed.collect()
}

#[test]
fn what_is_rendered_is_what_flux_install_gives() {
    let allowed = fs::read_to_string(root().join("bundles/flux/differences.yaml")).unwrap();
    let allowed: Vec<Allowed> = serde_json::from_value(yaml::parse_one("differences.yaml", &allowed).unwrap()).unwrap();
    assert!(allowed.iter().all(|row| !row.reason.is_empty()));
    let mut used = vec![false; allowed.len()];
    let mut compared = 0;
    for version in versions() {
        let folder = root().join("../shared/upstream/flux").join(format!("v{version}"));
        if !folder.exists() {
            println!("skipped: no upstream manifests of Flux {version} beside the repository");
            continue;
        }
        compared += 1;
        let bundle = bundle(&version);
        for (selection, components, count) in [(Selection::Default, None, 32), (Selection::All, Some(FLUX), 43)] {
            let components = components.map(|names| names.map(str::to_owned).to_vec());
            let ours = render(&bundle, &Settings { components, ..defaults() }).unwrap();
            let ours: BTreeMap<String, Value> =
                ours.into_iter().map(|o| (o.key().to_string(), o.into_value())).collect();
            let upstream = upstream(&folder, &bundle, selection);
            assert_eq!(ours.keys().collect::<Vec<_>>(), upstream.keys().collect::<Vec<_>>(), "{version}");
            assert_eq!(ours.len(), count);
            let mut found = Vec::new();
            for (name, value) in &upstream {
                differences(name, &[], value, &ours[name], &mut found);
            }
            let mut unknown = Vec::new();
            for difference in &found {
                let rows: Vec<usize> =
                    (0..allowed.len()).filter(|i| allowed[*i].covers(selection, difference)).collect();
                for i in &rows {
                    used[*i] = true;
                }
                if rows.is_empty() {
                    let Difference { object, path, kind, value } = difference;
                    unknown.push(format!("{object}: {} is {kind}: {value}", path.join(".")));
                }
            }
            assert!(unknown.is_empty(), "Flux {version}: {} differences:\n{}", unknown.len(), unknown.join("\n"));
            println!("Flux {version}, {selection:?}: {} objects, {} differences, all allowed", ours.len(), found.len());
        }
    }
    for (row, used) in allowed.iter().zip(used) {
        assert!(
            used || compared < 2,
            "differences.yaml: the row {} {} matches nothing; remove it",
            row.object,
            row.path
        );
    }
}

/// The published form of a bundle has the descriptions of all fields, so that `kubectl explain` works; nothing else may differ from what
/// is in the repository and tested. `make check-bundles` generates it and names its folder.
#[test]
fn descriptions_are_all_that_published_bundles_add() {
    let Some(folder) = std::env::var_os("HEADWATER_DESCRIBED") else {
        println!("skipped: HEADWATER_DESCRIBED names no folder; `make check-bundles` does");
        return;
    };
    let described = read_folder(&Path::new(&folder).join("flux"));
    for version in versions() {
        let ours = source::compose(&sources(), &version).unwrap();
        let theirs = source::compose(&described, &version).unwrap();
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{version}");
        for (path, bytes) in &ours {
            if !path.starts_with("crds/") {
                assert_eq!(bytes, &theirs[path], "{version} {path}");
                continue;
            }
            let read = |bytes: &[u8]| yaml::parse_one(path, std::str::from_utf8(bytes).unwrap()).unwrap();
            let mut published = read(&theirs[path]);
            let removed = remove_descriptions(&mut published);
            assert_eq!(read(bytes), published, "{version} {path}");
            assert!(removed > 10, "{version} {path}: {removed} descriptions");
        }
        assert!(Bundle::parse(&theirs).is_ok());
        let size = crate::bundle::pack(&theirs).unwrap().bytes.len();
        assert!(size <= 200_000, "Flux {version} with descriptions has {size} bytes");
    }
}

/// Counts what it removes. A property that is called "description" is a map and stays.
fn remove_descriptions(value: &mut Value) -> usize {
    match value {
        Value::Object(fields) => {
            let own = fields.get("description").is_some_and(Value::is_string);
            if own {
                fields.remove("description");
            }
            usize::from(own) + fields.values_mut().map(remove_descriptions).sum::<usize>()
        }
        Value::Array(items) => items.iter_mut().map(remove_descriptions).sum(),
        _ => 0,
    }
}
