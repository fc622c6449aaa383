//! What an upgrade from one bundle to another means. Pure; `headwater bundle diff` prints it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::crd_safety::{self, Finding, Severity};
use super::fields::{FieldChange, changes};
use super::permissions::{self, Permissions};
use super::upgrade::{Way, way};
use crate::api::bundle::{Component, KubernetesRange};
use crate::render::{Bundle, ImageUse, Object, ObjectKey, RenderError, Settings, images, render};

/// What a bundle calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Version of the software in it.
    pub app_version: String,
}

/// Something that came (`old` is missing), went (`new` is missing) or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// The component it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// What it is called.
    pub name: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<T>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<T>,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Fields of it change.
    Changed,
}

/// An object that is not the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObjectChange {
    /// What becomes of it.
    pub action: Action,
    /// Which.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// What changes in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// Everything that is not the same in two bundles.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The bundle to start from.
    pub old: Side,
    /// The bundle to go to.
    pub new: Side,
    /// The way from one to the other.
    pub upgrade: Way,
    /// Reasons why what works now may not work afterwards, a sentence each.
    pub breaking: Vec<String>,
    /// What may mean something else than before, a sentence each.
    pub look_at: Vec<String>,
    /// Kubernetes versions: `refusedBelow`, `minimum`, `maximum`.
    pub kubernetes: Vec<Change<String>>,
    /// Components; the value tells whether a component is installed by default.
    pub components: Vec<Change<bool>>,
    /// Images, with all that is known of them.
    pub images: Vec<Change<String>>,
    /// What is granted.
    pub permissions: Permissions,
    /// Feature gates of components that are in both, with their defaults.
    pub feature_gates: Vec<Change<bool>>,
    /// Flags of components that are in both, with their defaults.
    pub flags: Vec<Change<String>>,
    /// CRDs, the worst first.
    pub crds: Vec<Finding>,
    /// Objects, rendered with all components.
    pub objects: Vec<ObjectChange>,
}

/// Compares two bundles. Both are rendered with the same settings, but with all components each has.
pub fn compare(old: &Bundle, new: &Bundle, settings: &Settings) -> Result<Comparison, RenderError> {
    let (before, after) = (Rendered::of(old, settings)?, Rendered::of(new, settings)?);
    let (was, is) = (old.manifest(), new.manifest());
    let mut comparison = Comparison {
        old: side(old),
        new: side(new),
        upgrade: way(old.version(), new),
        breaking: Vec::new(),
        look_at: Vec::new(),
        kubernetes: differences(None, &range(&was.kubernetes), &range(&is.kubernetes)),
        components: differences(None, &defaults(&was.components), &defaults(&is.components)),
        images: image_changes(&before.images, &after.images),
        permissions: permissions::compare(&before.objects, &after.objects),
        feature_gates: per_component(&was.components, &is.components, |c| c.feature_gates.clone()),
        flags: per_component(&was.components, &is.components, |c| c.flags.clone()),
        crds: crd_safety::compare_all(&crds(old), &crds(new)),
        objects: object_changes(&before.objects, &after.objects),
    };
    comparison.breaking = breaking(&comparison);
    comparison.look_at = look_at(&comparison);
    Ok(comparison)
}

struct Rendered {
    objects: Vec<Object>,
    images: Vec<ImageUse>,
}

impl Rendered {
    fn of(bundle: &Bundle, settings: &Settings) -> Result<Self, RenderError> {
        let components = bundle.manifest().components.iter().map(|c| c.name.clone()).collect();
        let settings = Settings { components: Some(components), ..settings.clone() };
        Ok(Self { objects: render(bundle, &settings)?, images: images(bundle, &settings)? })
    }
}

fn side(bundle: &Bundle) -> Side {
    let manifest = bundle.manifest();
    Side { name: manifest.name.clone(), version: manifest.version.clone(), app_version: manifest.app_version.clone() }
}

fn range(range: &KubernetesRange) -> BTreeMap<String, String> {
    [("refusedBelow", &range.refused_below), ("minimum", &range.minimum), ("maximum", &range.maximum)]
        .map(|(name, version)| (name.to_owned(), version.clone()))
        .into()
}

fn defaults(components: &[Component]) -> BTreeMap<String, bool> {
    components.iter().map(|c| (c.name.clone(), c.default)).collect()
}

fn crds(bundle: &Bundle) -> BTreeMap<String, Value> {
    bundle.crds().map(|crd| (crd.key().name.clone(), crd.into_value())).collect()
}

fn differences<T: Clone + PartialEq>(
    component: Option<&str>,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Vec<Change<T>> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |name: &String| Change {
        component: component.map(str::to_owned),
        name: name.clone(),
        old: old.get(name).cloned(),
        new: new.get(name).cloned(),
    };
    names.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

/// For components that are in both: all of a new one is new, and nobody has set anything of it.
fn per_component<T: Clone + PartialEq>(
    old: &[Component],
    new: &[Component],
    settings: impl Fn(&Component) -> BTreeMap<String, T>,
) -> Vec<Change<T>> {
    let pairs = new.iter().filter_map(|is| Some((old.iter().find(|was| was.name == is.name)?, is)));
    pairs.flat_map(|(was, is)| differences(Some(&is.name), &settings(was), &settings(is))).collect()
}

fn image_changes(old: &[ImageUse], new: &[ImageUse]) -> Vec<Change<String>> {
    let by_name = |list: &[ImageUse]| -> BTreeMap<String, String> {
        list.iter().map(|image| (image.name.clone(), image.complete())).collect()
    };
    let owner = |name: &str| new.iter().chain(old).find(|image| image.name == name).map(|i| i.component.clone());
    let changes = differences(None, &by_name(old), &by_name(new));
    changes.into_iter().map(|change| Change { component: owner(&change.name), ..change }).collect()
}

fn object_changes(old: &[Object], new: &[Object]) -> Vec<ObjectChange> {
    let by_key = |list: &'_ [Object]| -> BTreeMap<ObjectKey, Value> {
        list.iter().map(|object| (object.key().clone(), object.value().clone())).collect()
    };
    let (was, is) = (by_key(old), by_key(new));
    let keys: BTreeSet<&ObjectKey> = was.keys().chain(is.keys()).collect();
    let change = |key: &ObjectKey| {
        let (action, fields) = match (was.get(key), is.get(key)) {
            (Some(was), Some(is)) => (Action::Changed, changes(was, is)),
            (Some(_), None) => (Action::Removed, Vec::new()),
            (None, _) => (Action::Added, Vec::new()),
        };
        ObjectChange { action, key: key.clone(), fields }
    };
    let changed = keys.into_iter().map(change);
    let mut changed: Vec<_> = changed.filter(|c| c.action != Action::Changed || !c.fields.is_empty()).collect();
    changed.sort_by(|a, b| (a.action, &a.key).cmp(&(b.action, &b.key)));
    changed
}

/// The one place that says what breaking means.
fn breaking(comparison: &Comparison) -> Vec<String> {
    let mut reasons = Vec::new();
    if comparison.old.name != comparison.new.name {
        reasons.push(format!("{} is another bundle than {}", comparison.new.name, comparison.old.name));
    }
    if !comparison.upgrade.is_open() {
        reasons.push(format!(
            "there is no way from {} to {}: {}",
            comparison.old.version,
            comparison.new.version,
            comparison.upgrade.to_string().trim_start_matches("none: ")
        ));
    }
    let refused = comparison.kubernetes.iter().filter(|change| change.name == "refusedBelow");
    reasons.extend(refused.filter_map(|change| match (&change.old, &change.new) {
        (Some(old), Some(new)) if minor(old) < minor(new) => {
            Some(format!("clusters older than Kubernetes {new} are refused; it was {old}"))
        }
        _ => None,
    }));
    reasons.extend(comparison.components.iter().filter_map(|change| match (change.old, change.new) {
        (Some(_), None) => Some(format!("component {} is gone: instances that name it are refused", change.name)),
        (Some(true), Some(false)) => Some(format!(
            "component {} is no longer installed by default: instances that name no components lose it",
            change.name
        )),
        _ => None,
    }));
    let removed = |what: &str, component: &Option<String>, name: &str| {
        let component = component.as_deref().unwrap_or_default();
        format!("{component} no longer knows the {what} {name}: it does not start where a patch sets it")
    };
    let gates = comparison.feature_gates.iter().filter(|change| change.new.is_none());
    reasons.extend(gates.map(|change| removed("feature gate", &change.component, &change.name)));
    let flags = comparison.flags.iter().filter(|change| change.new.is_none());
    reasons.extend(flags.map(|change| removed("flag", &change.component, &change.name)));
    let crds = comparison.crds.iter().filter(|finding| finding.severity == Severity::Breaking);
    reasons.extend(crds.map(ToString::to_string));
    reasons
}

/// Defaults that nobody has set change under whoever relies on them.
fn look_at(comparison: &Comparison) -> Vec<String> {
    let owner = |component: &Option<String>| component.clone().unwrap_or_default();
    let gates = comparison.feature_gates.iter().filter_map(|change| {
        let (_, new) = change.old.zip(change.new)?;
        let state = if new { "on" } else { "off" };
        Some(format!("{}: the feature gate {} is now {state} by default", owner(&change.component), change.name))
    });
    let flags = comparison.flags.iter().filter_map(|change| {
        let (old, new) = change.old.as_ref().zip(change.new.as_ref())?;
        let component = owner(&change.component);
        Some(format!("{component}: the default of the flag {} changes from {old:?} to {new:?}", change.name))
    });
    let crds = comparison.crds.iter().filter(|finding| finding.severity == Severity::Warn);
    gates.chain(flags).chain(crds.map(ToString::to_string)).collect()
}

/// `1.33` as numbers; reading the bundle has made sure that it is such.
fn minor(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const OLD: &str = "
formatVersion: headwater.dev/bundle/v1
name: tiny
version: 1.2.3
appVersion: v1.2.3
kubernetes: {refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}
upgrade: {from: '*'}
components:
  - {name: web, registry: r.example, image: web, tag: v1, default: true, crds: [{name: sites.example.org, served: [v1, v1beta1], stored: v1}],
     featureGates: {Gone: false, Kept: true, Turned: false}, flags: {gone: '1', level: info}}
  - {name: jobs, registry: r.example, image: jobs, tag: v1, default: true}
  - {name: old, registry: r.example, image: old, tag: v1, flags: {a: b}}
";
    const NEW: &str = "
formatVersion: headwater.dev/bundle/v1
name: tiny
version: 2.0.0
appVersion: v2.0.0
kubernetes: {refusedBelow: '1.31', minimum: '1.31', maximum: '1.36'}
upgrade: {from: '>=1.3.0', via: [{from: '>=1.0.0, <1.3.0', through: [1.3.1]}]}
components:
  - {name: web, registry: m.example, image: web, tag: v2, default: true, crds: [{name: sites.example.org, served: [v1], stored: v1}],
     featureGates: {Kept: true, New: false, Turned: true}, flags: {level: '', new: '2'}, images: [{name: runner, tag: v7}]}
  - {name: jobs, registry: r.example, image: jobs, tag: v1}
  - {name: fresh, registry: r.example, image: fresh, tag: v1, flags: {a: b}}
";
    const TEMPLATE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {version: {{ bundle.version }}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: web}
rules: [RULES]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {containers: [CONTAINERS]}}}
";

    fn bundle(manifest: &str, crd_versions: &str, template: &str) -> Bundle {
        let crd = format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: sites.example.org}}\n\
             spec: {{group: example.org, scope: Cluster, names: {{kind: Site, plural: sites}}, versions: [{crd_versions}]}}\n"
        );
        let files = [("bundle.yaml", manifest), ("crds/sites.yaml", &crd), ("templates/all.yaml", template)]
            .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        Bundle::parse(&files.into()).unwrap()
    }

    pub(crate) fn settings() -> Settings {
        Settings { namespace: "flux-system".to_owned(), ..Settings::default() }
    }

    /// Two versions of a bundle with something of every kind between them.
    pub(crate) fn pair() -> (Bundle, Bundle) {
        let v1 = "{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}";
        let v1beta1 = "{name: v1beta1, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}";
        let old = TEMPLATE
            .replace("RULES", "{apiGroups: [''], resources: [pods], verbs: [get, watch]}")
            .replace("CONTAINERS", "{name: web, args: [--a, --b]}, {name: side, image: x}");
        let new = TEMPLATE
            .replace("RULES", "{apiGroups: [''], resources: [pods, secrets], verbs: [get]}")
            .replace("CONTAINERS", "{name: side, image: z}, {name: web, args: [--a, --c]}")
            + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
        (bundle(OLD, &format!("{v1}, {v1beta1}"), &old), bundle(NEW, v1, &new))
    }

    #[test]
    fn every_part_is_compared() {
        let (old, new) = pair();
        let comparison = compare(&old, &new, &settings()).unwrap();
        insta::assert_yaml_snapshot!(serde_json::to_value(&comparison).unwrap());
    }

    #[test]
    fn nothing_differs_from_itself() {
        let (old, _) = pair();
        let same = compare(&old, &old, &settings()).unwrap();
        assert_eq!((same.upgrade, same.breaking), (Way::Same, Vec::new()));
        assert_eq!((same.images, same.objects, same.crds), (Vec::new(), Vec::new(), Vec::new()));
        assert_eq!(same.permissions, Permissions::default());
    }

    #[test]
    fn there_is_no_way_back() {
        let (old, new) = pair();
        let back = compare(&new, &old, &settings()).unwrap();
        assert_eq!(back.breaking[0], "there is no way from 2.0.0 to 1.2.3: it is older than what is installed");
    }
}
