//! The bundles in `bundles/` against the real thing: what we render with default settings is what
//! `flux install --export` and the chart of tofu-controller give, but for the differences listed in
//! `bundles/flux/differences.yaml`.
//!
//! The upstream files are not part of the repository; without them (`../shared/upstream`) the comparison says
//! that it was skipped.
//!
//! Test code: may read files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::comparison::{Comparison, Selection, by_name, load, upstream_folder};
use super::testing::{FLUX, bundle, defaults, read_folder, sources, versions};
use super::*;

/// `flux install --export` of some components, put together from the export of all components and the files of the single
/// controllers, which hold the CRDs.
fn upstream(folder: &Path, bundle: &Bundle, selection: Selection) -> BTreeMap<String, Value> {
    let manifest = bundle.manifest();
    let selected: Vec<&str> = manifest
        .components
        .iter()
        .filter(|c| c.default || (selection == Selection::All && FLUX.contains(&c.name.as_str())))
        .map(|c| c.name.as_str())
        .collect();
    let mut objects: Vec<Value> = load(folder, "gotk-components.no-crds.yaml");
    objects.retain(|object| {
        let component = object["metadata"]["labels"]["app.kubernetes.io/component"].as_str();
        component.is_none_or(|name| selected.contains(&name))
    });
    for name in selected {
        for mut crd in load(folder, &format!("{name}.yaml")) {
            if crd["kind"] == "CustomResourceDefinition" {
                crd["metadata"]["labels"]["app.kubernetes.io/instance"] = "flux-system".into();
                crd["metadata"]["labels"]["app.kubernetes.io/version"] = manifest.app_version.clone().into();
                objects.push(crd);
            }
        }
    }
    by_name(objects.into_iter().map(|value| Object::try_from(value).unwrap()).collect())
}

#[test]
fn what_is_rendered_is_what_upstream_gives() {
    let mut comparison = Comparison::new("bundles/flux/differences.yaml");
    for version in versions() {
        let bundle = bundle(&version);
        conformance_tofu::compare(&mut comparison, &bundle);
        let Some(folder) = upstream_folder(&format!("flux/v{version}")) else { continue };
        for (selection, components, count) in [(Selection::Default, None, 32), (Selection::All, Some(FLUX), 43)] {
            let components = components.map(|names| names.map(str::to_owned).to_vec());
            let ours = by_name(render(&bundle, &Settings { components, ..defaults() }).unwrap());
            assert_eq!(ours.len(), count);
            let title = format!("Flux {version}, {selection:?}");
            comparison.compare(&title, selection, &upstream(&folder, &bundle, selection), &ours);
        }
    }
    comparison.finish();
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
