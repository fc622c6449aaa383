//! Reads `bundle.yaml`, and checks what a schema cannot: that its parts fit together.

use std::collections::{BTreeMap, BTreeSet};

use semver::{Version, VersionReq};
use serde_json::Value;

use super::bundle::BundleError;
use super::kinds::ServedKind;
use super::text::{cut, list, nearest};
use super::{schema, yaml};
use crate::api::bundle::{
    Component, FORMAT_PREFIX, FORMAT_VERSION, KubernetesRange, Manifest, UpgradePath, json_schema,
};

/// Reads and checks `bundle.yaml` as far as that is possible without the other files.
pub(super) fn read(path: &str, text: &str) -> Result<(Manifest, Version), BundleError> {
    let value = yaml::parse_one(path, text)?;
    let format = value.get("formatVersion").and_then(Value::as_str).unwrap_or_default();
    if format != FORMAT_VERSION {
        let newer = format.strip_prefix(FORMAT_PREFIX).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
        let format = cut(format, 60);
        return Err(if newer { BundleError::NewerFormat(format) } else { BundleError::UnknownFormat(format) });
    }
    let refuse = |problem: String| BundleError::Manifest(cut(&problem, 480));
    schema::check(&json_schema(), &value).map_err(refuse)?;
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
    let Ok(version) = Version::parse(&manifest.version) else {
        return Err(refuse(wrong("version", &manifest.version, "a semantic version such as 2.9.4 or 2.9.4+1")));
    };
    check_kubernetes(&manifest.kubernetes).map_err(refuse)?;
    check_upgrade(&manifest.upgrade, &version).map_err(refuse)?;
    check_components(&manifest.components).map_err(refuse)?;
    check_rollout(&manifest).map_err(refuse)?;
    Ok((manifest, version))
}

fn wrong(field: &str, found: &str, allowed: &str) -> String {
    format!("{field} is {:?}; it has to be {allowed}", cut(found, 80))
}

fn check_kubernetes(range: &KubernetesRange) -> Result<(), String> {
    let minor = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let (refused, minimum, maximum) = (minor(&range.refused_below), minor(&range.minimum), minor(&range.maximum));
    if [refused, minimum, maximum].contains(&None) || refused > minimum || minimum > maximum {
        let found =
            format!("refusedBelow {}, minimum {}, maximum {}", range.refused_below, range.minimum, range.maximum);
        return Err(wrong("kubernetes", &found, "three versions such as \"1.33\", in this order of age"));
    }
    Ok(())
}

/// Every way leads upwards, and ends where one step is enough.
fn check_upgrade(upgrade: &UpgradePath, version: &Version) -> Result<(), String> {
    let range = |field: &str, text: &str| {
        VersionReq::parse(text)
            .map_err(|_| wrong(field, text, "a range of versions such as >=2.7.0 or \">=2.3.0, <2.7.0\""))
    };
    let direct = range("upgrade.from", &upgrade.from)?;
    for (i, detour) in upgrade.via.iter().enumerate() {
        range(&format!("upgrade.via[{i}].from"), &detour.from)?;
        let field = format!("upgrade.via[{i}].through");
        let through: Option<Vec<Version>> = detour.through.iter().map(|v| Version::parse(v).ok()).collect();
        let through =
            through.ok_or_else(|| wrong(&field, &list(&detour.through), "versions of bundles such as 2.7.5"))?;
        if !through.iter().chain([version]).is_sorted_by(|a, b| a < b) {
            return Err(wrong(&field, &list(&detour.through), &format!("in order of age, and below {version}")));
        }
        if through.last().is_none_or(|last| !direct.matches(last)) {
            let allowed = format!("versions of which the last is in upgrade.from, {}", upgrade.from);
            return Err(wrong(&field, &list(&detour.through), &allowed));
        }
    }
    Ok(())
}

/// Names are unique, requirements exist, and profiles set only flags that there are.
fn check_components(components: &[Component]) -> Result<(), String> {
    let names: BTreeSet<&str> = components.iter().map(|c| c.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut images: BTreeMap<&str, &str> = BTreeMap::new();
    for (i, component) in components.iter().enumerate() {
        let name = &component.name;
        if !seen.insert(name) {
            return Err(format!(
                "components[{i}].name is {name:?}, as of a component before it; names have to be unique"
            ));
        }
        for (j, required) in component.requires.iter().enumerate() {
            if !names.contains(required.as_str()) {
                return Err(format!(
                    "components[{i}].requires[{j}] is {required:?}, which is no component; there is: {}",
                    list(&names)
                ));
            }
        }
        let further = component.images.iter().enumerate().map(|(j, image)| (format!("images[{j}].name"), &image.name));
        for (field, image) in [("image".to_owned(), &component.image)].into_iter().chain(further) {
            if let Some(owner) = images.insert(image, name) {
                return Err(format!(
                    "components[{i}].{field} is {image:?}, as of an image of {owner} before it; names of images have to be unique"
                ));
            }
        }
        for (size, profile) in &component.profiles {
            if let Some(flag) = profile.flags.keys().find(|flag| !component.flags.contains_key(*flag)) {
                let near = nearest(flag, component.flags.keys().cloned());
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                let size = serde_json::to_value(size).unwrap_or_default();
                return Err(format!(
                    "components[{i}].profiles.{} sets the flag {flag:?}, which is not in components[{i}].flags{hint}",
                    size.as_str().unwrap_or_default()
                ));
            }
        }
    }
    Ok(())
}

fn check_rollout(manifest: &Manifest) -> Result<(), String> {
    let names: BTreeSet<&String> = manifest.components.iter().map(|c| &c.name).collect();
    let mut seen = BTreeSet::new();
    for (i, step) in manifest.rollout.iter().enumerate() {
        for (j, name) in step.components.iter().enumerate() {
            let field = format!("rollout[{i}].components[{j}]");
            if !names.contains(name) {
                return Err(format!("{field} is {name:?}, which is no component; there is: {}", list(names)));
            }
            if !seen.insert(name) {
                return Err(format!("{field} is {name:?}, which is there already; a component is rolled out once"));
            }
        }
    }
    Ok(())
}

/// Every CRD is there, belongs to exactly one component, and has the versions the manifest says. `files` tells which
/// file each is in.
pub(super) fn check_crds(
    components: &[Component],
    kinds: &[ServedKind],
    files: &BTreeMap<String, &String>,
) -> Result<(), BundleError> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (i, component) in components.iter().enumerate() {
        for (j, crd) in component.crds.iter().enumerate() {
            let refuse = |problem: String| {
                Err(BundleError::Manifest(cut(
                    &format!("components[{i}].crds[{j}].name is {:?}, {problem}", crd.name),
                    480,
                )))
            };
            let Some(kind) = kinds.iter().find(|kind| kind.crd == crd.name) else {
                return refuse(format!("which is not in crds/; there is: {}", list(files.keys())));
            };
            if let Some(owner) = owners.insert(&crd.name, &component.name) {
                return refuse(format!("which {owner} has already; a CRD belongs to one component"));
            }
            let found = kind.crd_versions();
            if &found != crd {
                return refuse(format!(
                    "of which it says that {} is served and {} stored; in {} {} is served and {} stored: correct the one that is wrong",
                    list(&crd.served),
                    crd.stored,
                    files[&crd.name],
                    list(&found.served),
                    found.stored
                ));
            }
        }
    }
    match files.iter().find(|(name, _)| !owners.contains_key(name.as_str())) {
        Some((name, file)) => Err(BundleError::Crd {
            file: (*file).clone(),
            problem: format!(
                "{name} belongs to no component; name it in components[].crds of bundle.yaml, or remove it"
            ),
        }),
        None => Ok(()),
    }
}
