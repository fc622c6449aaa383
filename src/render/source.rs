//! Puts the files of a bundle together from the folder of its sources, where what all versions
//! share is written once. `bundles/README.md` describes the folder.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kinds::ServedKind;
use super::object::Object;
use super::text::list;
use super::yaml::{self, YamlError};

/// Why a folder of sources gives no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// There is no such version.
    #[error("{version}/version.yaml does not exist; there is: {known}")]
    NoSuchVersion {
        /// What was asked for.
        version: String,
        /// What there is.
        known: String,
    },
    /// `version.yaml` speaks of another version than its folder.
    #[error("{folder}/version.yaml: version is {found}; it has to be {folder}, as the folder")]
    WrongVersion {
        /// Name of the folder.
        folder: String,
        /// What the file says.
        found: String,
    },
    /// A file that has no meaning.
    #[error(
        "{0} has no place in the sources of a bundle; allowed are bundle.yaml, differences.yaml, templates/NAME.yaml and \
         VERSION/ with version.yaml, crds.txt, go.sum, crds/NAME.yaml and templates/NAME.yaml"
    )]
    UnknownFile(String),
    /// A component without a name.
    #[error("{0}: every entry of components needs a name, and no two the same")]
    Components(String),
    /// A CRD of which the sources have only the name.
    #[error(
        "{crd} is not in {version}/crds/; generate it with bundles/generate-crds.sh, or correct its name in components[].crds"
    )]
    NoCrd {
        /// The version.
        version: String,
        /// Name of the CRD.
        crd: String,
    },
    /// A file that is no text or no YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// Puts together the files of the bundle `version` from all `files` of its source folder (relative path to
/// content): `VERSION/version.yaml` laid over `bundle.yaml`, with `VERSION/crds/` and `templates/`; a template
/// in `VERSION/templates/` takes the place of a shared one.
pub fn compose(files: &BTreeMap<String, Vec<u8>>, version: &str) -> Result<BTreeMap<String, Vec<u8>>, ComposeError> {
    if let Some(stray) = files.keys().find(|path| !is_known(path)) {
        return Err(ComposeError::UnknownFile(stray.clone()));
    }
    let own_path = format!("{version}/version.yaml");
    let Some(own) = files.get(&own_path) else {
        let known = list(files.keys().filter_map(|path| path.strip_suffix("/version.yaml")));
        return Err(ComposeError::NoSuchVersion { version: version.to_owned(), known });
    };
    let own = read(&own_path, own)?;
    let found = own["version"].as_str().unwrap_or("missing");
    if found != version {
        return Err(ComposeError::WrongVersion { folder: version.to_owned(), found: found.to_owned() });
    }
    let shared = files.get("bundle.yaml").map_or(Ok(Value::Null), |bytes| read("bundle.yaml", bytes))?;
    let mut manifest = overlay(shared, own, &own_path)?;

    let mut bundle = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("templates/")) {
        bundle.insert(path.clone(), bytes.clone());
    }
    for (path, bytes) in files {
        if let Some(path) = path.strip_prefix(version).and_then(|p| p.strip_prefix('/'))
            && (path.starts_with("crds/") || path.starts_with("templates/"))
        {
            bundle.insert(path.to_owned(), bytes.clone());
        }
    }
    fill_in_versions(&mut manifest, version, &bundle)?;
    bundle.insert("bundle.yaml".to_owned(), yaml::emit(&manifest)?.into_bytes());
    Ok(bundle)
}

/// Sources need not repeat which versions a CRD serves and stores; the bundle says it. What they do say is kept, and held
/// against the CRD when the bundle is read.
fn fill_in_versions(
    manifest: &mut Value,
    version: &str,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), ComposeError> {
    let mut found = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("crds/")) {
        let crds = yaml::parse(path, &text(path, bytes)?)?.into_iter().filter_map(|crd| Object::try_from(crd).ok());
        // What is wrong with a CRD is said when the bundle is read.
        for versions in crds.filter_map(|crd| Some(ServedKind::from_crd(&crd).ok()?.crd_versions())) {
            found.insert(versions.name, (versions.served, versions.stored));
        }
    }
    let entries = manifest["components"].as_array_mut().into_iter().flatten();
    for crd in entries.filter_map(|component| component.get_mut("crds")?.as_array_mut()).flatten() {
        // An entry without a name is refused when the bundle is read.
        let Some(entry) = crd.as_object_mut() else { continue };
        let Some(name) = entry.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
        if entry.contains_key("served") && entry.contains_key("stored") {
            continue;
        }
        let Some((served, stored)) = found.get(&name).cloned() else {
            return Err(ComposeError::NoCrd { version: version.to_owned(), crd: name });
        };
        entry.entry("served").or_insert_with(|| served.into());
        entry.entry("stored").or_insert_with(|| stored.into());
    }
    Ok(())
}

fn is_known(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["bundle.yaml" | "differences.yaml"] | [_, "version.yaml" | "crds.txt" | "go.sum"] => true,
        ["templates", name] | [_, "crds" | "templates", name] => is_yaml(name),
        _ => false,
    }
}

/// File names of a bundle end in `.yaml`, in lower case: they are the same on every file system.
pub(super) fn is_yaml(name: &str) -> bool {
    name.strip_suffix(".yaml").is_some_and(|stem| !stem.is_empty())
}

fn read(path: &str, bytes: &[u8]) -> Result<Value, YamlError> {
    yaml::parse_one(path, &text(path, bytes)?)
}

/// The text of a file.
pub(super) fn text(path: &str, bytes: &[u8]) -> Result<String, YamlError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| YamlError {
        file: path.to_owned(),
        line: 0,
        column: 0,
        message: "is not UTF-8 text".to_owned(),
    })
}

/// A JSON merge patch, but for `components`: the version says which there are and in which order, and each entry is laid over
/// the shared one of the same name. Fields whose name starts with `x-` are left out.
fn overlay(mut shared: Value, mut own: Value, own_path: &str) -> Result<Value, ComposeError> {
    let take = |value: &mut Value, path: &str| -> Result<Vec<(String, Value)>, ComposeError> {
        let Some(components) = value.as_object_mut().and_then(|map| map.remove("components")) else {
            return Ok(Vec::new());
        };
        let refuse = || ComposeError::Components(path.to_owned());
        let Value::Array(components) = components else { return Err(refuse()) };
        let entries: Option<Vec<_>> =
            components.into_iter().map(|c| Some((c["name"].as_str()?.to_owned(), c))).collect();
        let entries = entries.ok_or_else(refuse)?;
        let names: BTreeSet<&String> = entries.iter().map(|(name, _)| name).collect();
        if names.len() == entries.len() { Ok(entries) } else { Err(refuse()) }
    };
    let shared_components: BTreeMap<String, Value> = take(&mut shared, "bundle.yaml")?.into_iter().collect();
    let components = take(&mut own, own_path)?
        .into_iter()
        .map(|(name, own)| {
            let mut merged = shared_components.get(&name).cloned().unwrap_or(Value::Null);
            json_patch::merge(&mut merged, &own);
            merged
        })
        .collect();
    json_patch::merge(&mut shared, &own);
    if let Value::Object(manifest) = &mut shared {
        // There only for other places of the file to refer to.
        manifest.retain(|name, _| !name.starts_with("x-"));
        manifest.insert("components".to_owned(), Value::Array(components));
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        entries.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_version_is_laid_over_what_is_shared() {
        let sources = files(&[
            ("bundle.yaml", "values: {a: 1, b: 2}\ncomponents: [{name: x, values: {p: 1, q: 2}}, {name: unused}]\n"),
            ("templates/a.yaml", "shared"),
            ("templates/b.yaml", "shared"),
            ("differences.yaml", ""),
            (
                "1.0.0/version.yaml",
                "version: 1.0.0\nvalues: {b: 3}\ncomponents: [{name: new}, {name: x, tag: t, values: {q: 3}}]\n",
            ),
            ("1.0.0/crds/c.yaml", "crd"),
            ("1.0.0/templates/b.yaml", "own"),
            ("2.0.0/version.yaml", "version: 2.0.0\n"),
            ("2.0.0/crds/d.yaml", "other"),
        ]);
        let bundle = compose(&sources, "1.0.0").unwrap();
        assert_eq!(
            bundle.keys().collect::<Vec<_>>(),
            ["bundle.yaml", "crds/c.yaml", "templates/a.yaml", "templates/b.yaml"]
        );
        assert_eq!(bundle["templates/b.yaml"], b"own");
        assert_eq!(
            read("bundle.yaml", &bundle["bundle.yaml"]).unwrap(),
            serde_json::json!({
                "version": "1.0.0",
                "values": {"a": 1, "b": 3},
                "components": [{"name": "new"}, {"name": "x", "tag": "t", "values": {"p": 1, "q": 3}}],
            })
        );
        assert_eq!(bundle, compose(&sources, "1.0.0").unwrap());
    }

    #[test]
    fn versions_of_crds_are_filled_in_and_anchors_left_out() {
        let crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: as.b.c}\nspec: {group: b.c, \
                   scope: Cluster, names: {kind: A, plural: as}, versions: [{name: v2, served: true, storage: true}, \
                   {name: v1, served: true, storage: false}, {name: v0, served: false, storage: false}]}\n";
        let with = |entry: &str| {
            let shared = format!(
                "x-flags: &flags {{a: '1'}}\ncomponents: [{{name: x, flags: {{<<: *flags, b: ''}}, crds: [{entry}]}}]\n"
            );
            let own = ("1.0.0/version.yaml", "version: 1.0.0\ncomponents: [{name: x}]\n");
            let bundle =
                compose(&files(&[("bundle.yaml", &shared), own, ("1.0.0/crds/a.yaml", crd)]), "1.0.0").unwrap();
            read("bundle.yaml", &bundle["bundle.yaml"]).unwrap()
        };
        let crd = serde_json::json!({"name": "as.b.c", "served": ["v1", "v2"], "stored": "v2"});
        let component = serde_json::json!({"name": "x", "flags": {"a": "1", "b": ""}, "crds": [crd]});
        let expected = serde_json::json!({"version": "1.0.0", "components": [component]});
        assert_eq!(with("{name: as.b.c}"), expected);
        assert_eq!(with("{name: as.b.c, served: [v9], stored: v9}")["components"][0]["crds"][0]["stored"], "v9");
    }

    #[test]
    fn mistakes_are_named() {
        let error = |entries: &[(&str, &str)]| compose(&files(entries), "1.0.0").unwrap_err().to_string();
        assert_eq!(error(&[("2.0.0/version.yaml", "")]), "1.0.0/version.yaml does not exist; there is: 2.0.0");
        assert_eq!(
            error(&[("1.0.0/version.yaml", "version: 1.0.1")]),
            "1.0.0/version.yaml: version is 1.0.1; it has to be 1.0.0, as the folder"
        );
        assert_eq!(
            error(&[("1.0.0/version.yaml", "version: 1.0.0\ncomponents: [{name: x, crds: [{name: as.b.c}]}]")]),
            "as.b.c is not in 1.0.0/crds/; generate it with bundles/generate-crds.sh, or correct its name in components[].crds"
        );
        assert!(error(&[("template/a.yaml", "")]).starts_with("template/a.yaml has no place"));
        assert!(error(&[("1.0.0/version.yaml", "version: 1.0.0\ncomponents: [{tag: x}]")]).contains("needs a name"));
    }
}
