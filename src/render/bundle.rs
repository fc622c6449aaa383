//! A bundle, read and checked as a whole before anything of it is used.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kinds::{self, Kind, ServedKind};
use super::object::Object;
use super::source::{is_yaml, text as utf8};
use super::template::Templates;
use super::text::{cut, list};
use super::yaml::{self, YamlError};
use crate::api::bundle::{FORMAT_PREFIX, FORMAT_VERSION, Manifest, json_schema};

/// The template that gives labels and annotations for a CRD.
pub(super) const CRD_TEMPLATE: &str = "_crd.yaml";

/// Why files are not a bundle this operator can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A file that has no place in a bundle.
    #[error("{0} has no place in a bundle; allowed are bundle.yaml, crds/NAME.yaml and templates/NAME.yaml")]
    UnknownFile(String),
    /// `bundle.yaml` is missing.
    #[error("bundle.yaml is missing: this is not a bundle, or its files are below a folder instead of at the top")]
    NoManifest,
    /// A bundle of a later format.
    #[error(
        "bundle.yaml: formatVersion is {0}, which a newer operator reads; this one reads {FORMAT_VERSION}: upgrade the operator first"
    )]
    NewerFormat(String),
    /// A bundle of an unknown format.
    #[error("bundle.yaml: formatVersion is {0:?}; it has to be {FORMAT_VERSION}")]
    UnknownFormat(String),
    /// A field that is missing, unknown, or of the wrong type.
    #[error("bundle.yaml: {0}")]
    Manifest(String),
    /// A file of CRDs that cannot be used.
    #[error("{file}: {problem}")]
    Crd {
        /// The file.
        file: String,
        /// What is wrong and how to fix it.
        problem: String,
    },
    /// A template that cannot be used.
    #[error("{}", cut(.0, 500))]
    Template(String),
    /// A file that is no text or no YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// A bundle whose parts fit together.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    version: semver::Version,
    crds: BTreeMap<String, Object>,
    kinds: Vec<ServedKind>,
    pub(super) templates: Templates,
}

impl Bundle {
    /// Reads a bundle from the files of its archive (path to content).
    pub fn parse(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, BundleError> {
        let mut manifest = None;
        let mut crds = BTreeMap::new();
        let mut origins: BTreeMap<String, &String> = BTreeMap::new();
        let mut templates = BTreeMap::new();
        for (path, bytes) in files {
            match path.split('/').collect::<Vec<_>>()[..] {
                ["bundle.yaml"] => manifest = Some(read_manifest(path, &utf8(path, bytes)?)?),
                ["crds", name] if is_yaml(name) => {
                    for document in yaml::parse(path, &utf8(path, bytes)?)? {
                        let crd = read_crd(path, document)?;
                        let name = crd.key().name.clone();
                        if let Some(first) = origins.insert(name.clone(), path) {
                            let problem =
                                format!("defines {name}, which {first} defines already; remove one of the two");
                            return Err(BundleError::Crd { file: path.clone(), problem });
                        }
                        crds.insert(name, crd);
                    }
                }
                ["templates", name] if is_yaml(name) => {
                    templates.insert(name.to_owned(), utf8(path, bytes)?);
                }
                _ => return Err(BundleError::UnknownFile(path.clone())),
            }
        }
        let (manifest, version) = manifest.ok_or(BundleError::NoManifest)?;
        let mut kinds = Vec::new();
        for (name, crd) in &crds {
            let served = ServedKind::from_crd(crd).map_err(|field| BundleError::Crd {
                file: origins[name].clone(),
                problem: format!("{name} has no {field}; take the CRD as controller-gen writes it"),
            })?;
            kinds.push(served);
        }
        check_components(&manifest, &origins)?;
        let templates = Templates::parse(&templates).map_err(BundleError::Template)?;
        Ok(Self { manifest, version, crds, kinds, templates })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Version of the bundle.
    pub fn version(&self) -> &semver::Version {
        &self.version
    }

    /// CRDs of the bundle as they are in its files.
    pub fn crds(&self) -> impl Iterator<Item = &Object> {
        self.crds.values()
    }

    pub(super) fn crd(&self, name: &str) -> Option<&Object> {
        self.crds.get(name)
    }

    /// The kinds that the CRDs of the bundle define.
    pub fn served_kinds(&self) -> &[ServedKind] {
        &self.kinds
    }

    /// Finds a kind: one of Kubernetes, or one of this bundle in a version its CRD serves.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<Kind> {
        kinds::builtin(group, version, kind).or_else(|| {
            self.kinds.iter().find(|k| k.group == group && k.kind == kind).and_then(|k| k.in_version(version))
        })
    }

    /// The kind of an object, if it is known.
    pub fn kind_of(&self, object: &Object) -> Option<Kind> {
        self.kind(&object.key().group, object.version(), &object.key().kind)
    }
}

fn read_manifest(path: &str, text: &str) -> Result<(Manifest, semver::Version), BundleError> {
    let value = yaml::parse_one(path, text)?;
    let format = value.get("formatVersion").and_then(Value::as_str).unwrap_or_default();
    if format != FORMAT_VERSION {
        let newer = format.strip_prefix(FORMAT_PREFIX).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
        let format = cut(format, 60);
        return Err(if newer { BundleError::NewerFormat(format) } else { BundleError::UnknownFormat(format) });
    }
    let schema = json_schema();
    check_schema(&schema, &schema, &value, "").map_err(|problem| BundleError::Manifest(cut(&problem, 480)))?;
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|error| BundleError::Manifest(cut(&error.to_string(), 480)))?;
    let refuse = |field: &str, found: &str, allowed: &str| {
        Err(BundleError::Manifest(format!("{field} is {:?}; it has to be {allowed}", cut(found, 80))))
    };
    let Ok(version) = semver::Version::parse(&manifest.version) else {
        return refuse("version", &manifest.version, "a semantic version such as 2.9.4 or 2.9.4+1");
    };
    if semver::VersionReq::parse(&manifest.upgradable_from).is_err() {
        return refuse("upgradableFrom", &manifest.upgradable_from, "a range of versions such as >=2.7.0");
    }
    let range = &manifest.kubernetes;
    let minor = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let (refused, minimum, maximum) = (minor(&range.refused_below), minor(&range.minimum), minor(&range.maximum));
    if [refused, minimum, maximum].contains(&None) || refused > minimum || minimum > maximum {
        return refuse(
            "kubernetes",
            &format!("refusedBelow {}, minimum {}, maximum {}", range.refused_below, range.minimum, range.maximum),
            "three versions such as \"1.33\", in this order of age",
        );
    }
    Ok((manifest, version))
}

fn read_crd(file: &str, document: Value) -> Result<Object, BundleError> {
    let problem = |problem: String| BundleError::Crd { file: file.to_owned(), problem };
    let object = Object::try_from(document).map_err(|error| problem(error.to_string()))?;
    let key = object.key();
    if key.group != "apiextensions.k8s.io" || object.version() != "v1" || key.kind != "CustomResourceDefinition" {
        return Err(problem(format!(
            "holds {key} of {}; crds/ may hold only CustomResourceDefinitions of apiextensions.k8s.io/v1, other objects \
             belong into templates/",
            object.api_version()
        )));
    }
    Ok(object)
}

/// Names are unique, requirements exist and every CRD belongs to exactly one component.
fn check_components(manifest: &Manifest, crds: &BTreeMap<String, &String>) -> Result<(), BundleError> {
    let refuse = |problem: String| Err(BundleError::Manifest(problem));
    let names: BTreeSet<&str> = manifest.components.iter().map(|c| c.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (i, component) in manifest.components.iter().enumerate() {
        let name = &component.name;
        if !seen.insert(name) {
            return refuse(format!(
                "components[{i}].name is {name:?}, as of a component before it; names have to be unique"
            ));
        }
        for (j, required) in component.requires.iter().enumerate() {
            if !names.contains(required.as_str()) {
                return refuse(format!(
                    "components[{i}].requires[{j}] is {required:?}, which is no component; there is: {}",
                    list(&names)
                ));
            }
        }
        for (j, crd) in component.crds.iter().enumerate() {
            if !crds.contains_key(crd) {
                return refuse(format!(
                    "components[{i}].crds[{j}] is {crd:?}, which is not in crds/; there is: {}",
                    list(crds.keys())
                ));
            }
            if let Some(owner) = owners.insert(crd, name) {
                return refuse(format!(
                    "components[{i}].crds[{j}] is {crd:?}, which {owner} has already; a CRD belongs to one component"
                ));
            }
        }
    }
    match crds.iter().find(|(name, _)| !owners.contains_key(name.as_str())) {
        Some((name, file)) => Err(BundleError::Crd {
            file: (*file).clone(),
            problem: format!(
                "{name} belongs to no component; name it in components[].crds of bundle.yaml, or remove it"
            ),
        }),
        None => Ok(()),
    }
}

/// Holds a value against the JSON Schema of the manifest, as far as that uses JSON Schema. Serde would refuse the same values,
/// but cannot tell where in the file they are.
fn check_schema(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    };
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let here = if path.is_empty() { "it" } else { path };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.contains(&found) {
        return Err(format!("{here} is of type {found}; it has to be of type {}", types.join(" or ")));
    }
    match value {
        Value::Object(fields) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
            for (name, value) in fields {
                match properties.get(name) {
                    Some(schema) => check_schema(root, schema, value, &at(name))?,
                    None => {
                        return Err(format!("{} is not a field; allowed are: {}", at(name), list(properties.keys())));
                    }
                }
            }
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if !fields.contains_key(name) {
                    return Err(format!("{} is missing", at(name)));
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    check_schema(root, schema, item, &format!("{path}[{i}]"))?;
                }
            }
            if items.is_empty() && schema.get("minItems").and_then(Value::as_u64).is_some_and(|min| min > 0) {
                return Err(format!("{here} is empty; at least one entry is needed"));
            }
        }
        Value::String(text) => {
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
                let matches = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
                if !matches {
                    return Err(format!("{here} is {:?}; it has to match {pattern}", cut(text, 80)));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle of things that have nothing to do with Flux: the format does not know what it carries.
    fn tiny() -> BTreeMap<String, Vec<u8>> {
        [
            (
                "bundle.yaml",
                "formatVersion: headwater.dev/bundle/v1\nname: tiny\nversion: 1.2.3\nappVersion: v1.2.3\n\
                 kubernetes: {refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}\nupgradableFrom: '>=1.0.0'\n\
                 components:\n- {name: web, image: web, tag: v1, default: true, crds: [sites.example.org]}\n\
                 - {name: extra, image: extra, tag: v2, requires: [web]}\n",
            ),
            (
                "crds/sites.yaml",
                "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: sites.example.org}\n\
                 spec: {group: example.org, scope: Cluster, names: {kind: Site, plural: sites}, versions: [\
                 {name: v1, served: true, storage: true}, {name: v1beta1, served: false, storage: false}]}\n",
            ),
            ("templates/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"),
        ]
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .into()
    }

    fn with(path: &str, text: &str) -> String {
        let mut files = tiny();
        files.insert(path.to_owned(), text.as_bytes().to_vec());
        Bundle::parse(&files).unwrap_err().to_string()
    }

    fn edited(path: &str, from: &str, to: &str) -> String {
        let text = String::from_utf8(tiny()[path].clone()).unwrap();
        assert!(text.contains(from), "{from}");
        with(path, &text.replace(from, to))
    }

    #[test]
    fn any_component_and_kind_is_possible() {
        let bundle = Bundle::parse(&tiny()).unwrap();
        let kinds = bundle.served_kinds();
        assert_eq!(kinds.len(), 1);
        assert_eq!(
            (kinds[0].kind.as_str(), kinds[0].namespaced, &kinds[0].versions[..]),
            ("Site", false, &["v1".to_owned()][..])
        );
        assert!(bundle.kind("example.org", "v1", "Site").is_some());
        assert!(bundle.kind("example.org", "v1beta1", "Site").is_none());
        assert!(bundle.kind("apps", "v1", "Deployment").is_some());
    }

    #[test]
    fn mistakes_are_named_with_place_and_remedy() {
        let manifest = "bundle.yaml";
        for (error, expected) in [
            (
                with("README.md", ""),
                "README.md has no place in a bundle; allowed are bundle.yaml, crds/NAME.yaml and templates/NAME.yaml",
            ),
            (
                edited(manifest, "bundle/v1", "bundle/v2"),
                "formatVersion is headwater.dev/bundle/v2, which a newer operator reads",
            ),
            (
                edited(manifest, "headwater.dev/bundle/v1", "x"),
                "formatVersion is \"x\"; it has to be headwater.dev/bundle/v1",
            ),
            (
                edited(manifest, "image: extra,", "image: extra, tga: x,"),
                "components[1].tga is not a field; allowed are: crds, default, digest, image, name, requires, tag, values",
            ),
            (edited(manifest, "image: extra, ", ""), "components[1].image is missing"),
            (edited(manifest, "tag: v1", "tag: 1"), "components[0].tag is of type number; it has to be of type string"),
            (edited(manifest, "name: web,", "name: Web,"), "components[0].name is \"Web\"; it has to match"),
            (
                edited(manifest, "version: 1.2.3", "version: 1.2.x"),
                "version is \"1.2.x\"; it has to be a semantic version",
            ),
            (edited(manifest, "'1.34'", "'1.20'"), "in this order of age"),
            (
                edited(manifest, "requires: [web]", "requires: [webb]"),
                "components[1].requires[0] is \"webb\", which is no component; there is: extra, web",
            ),
            (edited(manifest, "name: extra", "name: web"), "names have to be unique"),
            (
                edited(manifest, "sites.example.org", "site.example.org"),
                "components[0].crds[0] is \"site.example.org\", which is not in crds/; there is: sites.example.org",
            ),
            (
                edited(manifest, ", crds: [sites.example.org]", ""),
                "crds/sites.yaml: sites.example.org belongs to no component",
            ),
            (
                with("crds/b.yaml", std::str::from_utf8(&tiny()["crds/sites.yaml"]).unwrap()),
                "defines sites.example.org, which crds/b.yaml defines already",
            ),
            (edited("crds/sites.yaml", "CustomResourceDefinition", "ConfigMap"), "crds/ may hold only"),
            (edited("crds/sites.yaml", "storage: true", "storage: false"), "has no spec.versions[].storage"),
            (with("templates/b.yaml", "a: {{ x"), "templates/b.yaml:1:"),
            (with("templates/b.yaml", "a: b-{{ x }}"), "templates/b.yaml:1: {{ x }} stands beside other text"),
            (with(manifest, "a: 1\na: 2"), "bundle.yaml:2:1:"),
        ] {
            assert!(error.contains(expected), "{error}\n  should say\n{expected}");
            assert!(error.chars().count() <= 512, "{error}");
        }
        let mut files = tiny();
        files.remove(manifest);
        assert!(matches!(Bundle::parse(&files), Err(BundleError::NoManifest)));
    }
}
