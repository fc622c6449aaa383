//! A bundle, read and checked as a whole before anything of it is used.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kinds::{self, Kind, ServedKind};
use super::manifest;
use super::object::Object;
use super::source::{is_yaml, text as utf8};
use super::template::Templates;
use super::text::cut;
use super::yaml::{self, YamlError};
use crate::api::bundle::{FORMAT_VERSION, Manifest};

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
    /// As JSON: a tree of values is many times as large, and only one that renders needs it.
    crds: BTreeMap<String, Box<[u8]>>,
    kinds: Vec<ServedKind>,
    pub(super) templates: Templates,
}

impl Bundle {
    /// Reads a bundle from the files of its archive (path to content).
    pub fn parse(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, BundleError> {
        let mut manifest = None;
        let mut crds = BTreeMap::new();
        let mut kinds = BTreeMap::new();
        let mut origins: BTreeMap<String, &String> = BTreeMap::new();
        let mut templates = BTreeMap::new();
        for (path, bytes) in files {
            match path.split('/').collect::<Vec<_>>()[..] {
                ["bundle.yaml"] => manifest = Some(manifest::read(path, &utf8(path, bytes)?)?),
                ["crds", name] if is_yaml(name) => {
                    for document in yaml::parse(path, &utf8(path, bytes)?)? {
                        let crd = read_crd(path, document)?;
                        let name = crd.key().name.clone();
                        if let Some(first) = origins.insert(name.clone(), path) {
                            let problem =
                                format!("defines {name}, which {first} defines already; remove one of the two");
                            return Err(BundleError::Crd { file: path.clone(), problem });
                        }
                        let served = ServedKind::from_crd(&crd).map_err(|field| BundleError::Crd {
                            file: path.clone(),
                            problem: format!("{name} has no {field}; take the CRD as controller-gen writes it"),
                        })?;
                        kinds.insert(name.clone(), served);
                        crds.insert(name, crd.to_bytes().into());
                    }
                }
                ["templates", name] if is_yaml(name) => {
                    templates.insert(name.to_owned(), utf8(path, bytes)?);
                }
                _ => return Err(BundleError::UnknownFile(path.clone())),
            }
        }
        let (manifest, version) = manifest.ok_or(BundleError::NoManifest)?;
        let kinds: Vec<ServedKind> = kinds.into_values().collect();
        manifest::check_crds(&manifest.components, &kinds, &origins)?;
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
    pub fn crds(&self) -> impl Iterator<Item = Object> {
        self.crds.values().filter_map(|bytes| read_back(bytes))
    }

    pub(super) fn crd(&self, name: &str) -> Option<Object> {
        self.crds.get(name).and_then(|bytes| read_back(bytes))
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

/// What was written by [`Object::to_bytes`].
fn read_back(bytes: &[u8]) -> Option<Object> {
    Object::try_from(serde_json::from_slice::<Value>(bytes).ok()?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle of things that have nothing to do with Flux: the format does not know what it carries.
    fn tiny() -> BTreeMap<String, Vec<u8>> {
        [
            (
                "bundle.yaml",
                "formatVersion: headwater.dev/bundle/v1\nname: tiny\nversion: 1.2.3\nappVersion: v1.2.3\n\
                 kubernetes: {refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}\nupgrade: {from: '>=1.0.0'}\n\
                 components:\n- {name: web, registry: r.example, image: web, tag: v1, default: true, crds: [{name: sites.example.org, served: [v1], stored: v1}]}\n\
                 - {name: extra, registry: r.example, image: extra, tag: v2, requires: [web]}\n",
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

    fn assert_said<const N: usize>(errors: [(String, &str); N]) {
        for (error, expected) in errors {
            assert!(error.contains(expected), "{error}\n  should say\n{expected}");
            assert!(error.chars().count() <= 512, "{error}");
        }
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
        assert_said([
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
                "components[1].tga is not a field; allowed are: crds, default, digest, featureGates, finalizers, flags, image, images, name, profiles, registry, requires",
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
                "components[0].crds[0].name is \"site.example.org\", which is not in crds/; there is: sites.example.org",
            ),
            (
                edited(manifest, ", crds: [{name: sites.example.org, served: [v1], stored: v1}]", ""),
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
        ]);
        let mut files = tiny();
        files.remove(manifest);
        assert!(matches!(Bundle::parse(&files), Err(BundleError::NoManifest)));
    }
    #[test]
    fn parts_that_do_not_fit_together_are_named() {
        let manifest = "bundle.yaml";
        assert_said([
            (
                edited(manifest, "image: extra", "image: web"),
                "components[1].image is \"web\", as of an image of web before it; names of images have to be unique",
            ),
            (
                edited(manifest, "served: [v1]", "served: [v1, v1beta1]"),
                "components[0].crds[0].name is \"sites.example.org\", of which it says that v1, v1beta1 is served and v1 stored; \
                 in crds/sites.yaml v1 is served and v1 stored",
            ),
            (
                edited(
                    manifest,
                    "name: extra",
                    "flags: {concurrent: '4'}, profiles: {large: {flags: {concurent: '9'}}}, name: extra",
                ),
                "components[1].profiles.large sets the flag \"concurent\", which is not in components[1].flags; did you mean concurrent?",
            ),
            (
                edited(manifest, "name: extra", "featureGates: {A: 'true'}, name: extra"),
                "components[1].featureGates.A is of type string; it has to be of type boolean",
            ),
            (
                edited(manifest, "name: extra", "profiles: {tiny: {}}, name: extra"),
                "components[1].profiles.tiny is not a field; allowed are: small, medium, large",
            ),
            (
                edited(manifest, "'>=1.0.0'", "'newer'"),
                "upgrade.from is \"newer\"; it has to be a range of versions such as >=2.7.0",
            ),
            (
                edited(manifest, "'>=1.0.0'", "'>=1.0.0', via: [{from: '<1.0.0', through: [1.0.0, 1.x]}]"),
                "upgrade.via[0].through is \"1.0.0, 1.x\"; it has to be versions of bundles such as 2.7.5",
            ),
            (
                edited(manifest, "'>=1.0.0'", "'>=1.0.0', via: [{from: '<1.0.0', through: [1.2.3]}]"),
                "upgrade.via[0].through is \"1.2.3\"; it has to be in order of age, and below 1.2.3",
            ),
            (
                edited(manifest, "'>=1.0.0'", "'>=1.0.0', via: [{from: '<0.5.0', through: [0.9.0]}]"),
                "upgrade.via[0].through is \"0.9.0\"; it has to be versions of which the last is in upgrade.from, >=1.0.0",
            ),
            (
                edited(manifest, "components:", "rollout: [{components: [web, webb], reason: x}]\ncomponents:"),
                "rollout[0].components[1] is \"webb\", which is no component; there is: extra, web",
            ),
            (
                edited(manifest, "components:", "rollout: [{components: [web, web], reason: x}]\ncomponents:"),
                "rollout[0].components[1] is \"web\", which is there already",
            ),
        ]);
    }
}
