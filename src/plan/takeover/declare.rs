//! The `FluxInstance` that keeps a cluster as it is: what typed fields can say is said by them, everything else by patches.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::{
    Cluster, ClusterSize, ComponentName, FluxInstanceSpec, ImageReference, Interval, Kustomize, Patch, Sync, SyncKind,
};
use crate::render::patches::merge_key;
use crate::render::{Bundle, ImageUse, Object, RenderError, Settings, images, render};

/// What is looked at of a cluster, apart from what is compared object by object.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// Deployments in the namespace of the installation.
    pub deployments: Vec<Value>,
    /// The Kustomization that Flux starts from, and its source.
    pub root: Option<(Value, Value)>,
    /// Network policies are there.
    pub network_policies: bool,
}

/// What typed fields of a spec can say of a cluster that runs a bundle.
///
/// # Errors
/// When the bundle cannot be rendered at all.
pub fn declare(bundle: &Bundle, sight: &Sight, version: &str, exact: bool) -> Result<FluxInstanceSpec, RenderError> {
    let mut spec = empty(version);
    let live: BTreeMap<&str, &Value> =
        sight.deployments.iter().filter_map(|d| Some((d["metadata"]["name"].as_str()?, d))).collect();
    let all = bundle.manifest().components.iter();
    let there: Vec<_> = all.filter(|component| live.contains_key(component.name.as_str())).collect();
    spec.components = Some(there.iter().map(|component| ComponentName(component.name.clone())).collect());
    spec.cluster.network_policy = sight.network_policies;
    let containers = || live.values().flat_map(|deployment| containers(deployment));
    if let Some(domain) = containers().flat_map(|c| texts(&c["args"])).find_map(domain) {
        domain.clone_into(&mut spec.cluster.domain);
    }
    spec.sync = sight.root.as_ref().and_then(|(kustomization, source)| sync(kustomization, source));

    let settings = settings(&spec);
    let known = images(bundle, &settings)?;
    let found = known.iter().filter_map(|image| {
        let mut references = containers().filter_map(|c| c["image"].as_str());
        Some((image, Reference::of(references.find(|r| Reference::of(r).name() == image.name)?)))
    });
    let found: Vec<(&ImageUse, Reference<'_>)> = found.collect();
    let mut places: Vec<&str> = found.iter().map(|(_, live)| live.place()).collect();
    places.dedup();
    let is_elsewhere = found.iter().any(|(image, live)| live.repository != image.repository);
    if let ([place], true) = (places.as_slice(), is_elsewhere) {
        spec.distribution.registry = Some((*place).to_owned());
    }
    let is_pinned =
        |(image, live): &(&ImageUse, Reference<'_>)| live.digest.is_some() && live.digest == image.digest.as_deref();
    spec.distribution.pin_images = exact && !found.is_empty() && found.iter().all(is_pinned);
    for (image, live) in &found {
        let moved = spec.distribution.registry.is_none() && live.repository != image.repository;
        let is_other = exact
            && (live.tag.is_some_and(|tag| tag != image.tag)
                || (live.digest.is_some() && !spec.distribution.pin_images));
        if moved || is_other {
            let tag = live.tag.filter(|_| exact).map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = live.digest.filter(|_| exact).map(|digest| format!("@{digest}")).unwrap_or_default();
            let written = ImageReference(format!("{}{tag}{digest}", live.repository));
            spec.distribution.images.insert(image.name.clone(), written);
        }
    }
    spec.cluster.size = size(bundle, &spec, &live)?;
    Ok(spec)
}

/// What a bundle's templates get to see of a spec, as far as a spec made here can say anything.
pub fn settings(spec: &FluxInstanceSpec) -> Settings {
    Settings {
        namespace: crate::api::FLUX_NAMESPACE.to_owned(),
        components: spec.components.as_ref().map(|c| c.iter().map(|name| name.0.clone()).collect()),
        registry: spec.distribution.registry.clone(),
        images: spec.distribution.images.iter().map(|(name, image)| (name.clone(), image.0.clone())).collect(),
        pin_images: spec.distribution.pin_images,
        cluster: spec.cluster.clone(),
        sync: spec.sync.clone(),
        patches: spec.kustomize.as_ref().map(|k| k.patches.clone()).unwrap_or_default(),
        ..Settings::default()
    }
}

fn empty(version: &str) -> FluxInstanceSpec {
    // All else has defaults.
    let spec = serde_json::from_value(json!({"distribution": {"version": version}}));
    spec.unwrap_or_else(|_| unreachable!("version is the only field without default"))
}

/// The size with which what is rendered comes nearest to what runs.
fn size(
    bundle: &Bundle,
    spec: &FluxInstanceSpec,
    live: &BTreeMap<&str, &Value>,
) -> Result<Option<ClusterSize>, RenderError> {
    let mut best = (usize::MAX, None);
    for size in [None, Some(ClusterSize::Small), Some(ClusterSize::Medium), Some(ClusterSize::Large)] {
        let cluster = Cluster { size, ..spec.cluster.clone() };
        let objects = render(bundle, &Settings { cluster, ..settings(spec) })?;
        let differences = objects.iter().filter(|object| object.key().kind == "Deployment").map(|object| {
            let Some(live) = live.get(object.key().name.as_str()) else { return 0 };
            let of = |deployment: &Value| -> Vec<Value> {
                containers(deployment).map(|c| json!([sorted(&c["args"]), c["resources"]])).collect()
            };
            super::super::fields::changes(&of(object.value()).into(), &of(live).into()).len()
        });
        let differences = differences.sum();
        if differences < best.0 {
            best = (differences, size);
        }
    }
    Ok(best.1)
}

fn sorted(list: &Value) -> Vec<&str> {
    let mut texts: Vec<&str> = texts(list).collect();
    texts.sort_unstable();
    texts
}

fn containers(deployment: &Value) -> impl Iterator<Item = &Value> {
    super::list(&deployment["spec"]["template"]["spec"]["containers"]).iter()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    super::list(list).iter().filter_map(Value::as_str)
}

/// The domain in an address of a Service: `http://NAME.$(NAMESPACE).svc.DOMAIN./`
fn domain(argument: &str) -> Option<&str> {
    let (_, rest) = argument.split_once(".svc.")?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.')).unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.')).filter(|domain| !domain.is_empty())
}

/// `HOST[:PORT]/PATH[:TAG][@DIGEST]`
#[derive(Debug, Clone, Copy)]
struct Reference<'a> {
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    fn of(text: &'a str) -> Self {
        let (text, digest) = text.split_once('@').map_or((text, None), |(text, digest)| (text, Some(digest)));
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (text, None),
        };
        Self { repository, tag, digest }
    }

    fn name(&self) -> &'a str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }

    fn place(&self) -> &'a str {
        self.repository.rsplit_once('/').map_or("", |(place, _)| place)
    }
}

/// The source and Kustomization as `spec.sync`; none when the source is of a kind that it does not know.
fn sync(kustomization: &Value, source: &Value) -> Option<Sync> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (spec, from) = (&kustomization["spec"], &source["spec"]);
    let kind: SyncKind = serde_json::from_value(source["kind"].clone()).ok()?;
    let reference = &from["ref"];
    let (url, reference) = match kind {
        SyncKind::Bucket => (text(&from["endpoint"])?, text(&from["bucketName"])?),
        SyncKind::OCIRepository => {
            (text(&from["url"])?, text(&reference["tag"]).unwrap_or_else(|| "latest".to_owned()))
        }
        SyncKind::GitRepository => {
            let named = |field: &str, below: &str| text(&reference[field]).map(|name| format!("refs/{below}/{name}"));
            let name = text(&reference["name"]).or_else(|| named("branch", "heads")).or_else(|| named("tag", "tags"));
            (text(&from["url"])?, name.unwrap_or_else(|| "refs/heads/master".to_owned()))
        }
    };
    let name = text(&kustomization["metadata"]["name"]).filter(|name| name != crate::api::FLUX_NAMESPACE);
    let interval = Interval(text(&from["interval"])?);
    Some(Sync {
        kind,
        name,
        url,
        r#ref: reference,
        path: text(&spec["path"]).unwrap_or_else(|| "./".to_owned()),
        pull_secret: text(&from["secretRef"]["name"]),
        provider: serde_json::from_value(from["provider"].clone()).ok(),
        interval: if interval.get().is_ok() { interval } else { Interval("1m".to_owned()) },
        insecure: from["insecure"] == true,
        prune: spec["prune"] != false,
        wait: spec["wait"] == true,
        timeout: None,
    })
}

/// Patches that make of what is rendered what is there: of each object what the server makes of it as rendered, and as it is.
pub fn patches(pairs: &[(Object, Value, Value)]) -> Kustomize {
    let patches = pairs.iter().filter_map(|(object, rendered, live)| {
        let change = difference(object, rendered, live)?;
        let mut patch = json!({"apiVersion": object.api_version(), "kind": object.key().kind});
        let mut metadata = json!({"name": object.key().name});
        if let Some(namespace) = &object.key().namespace {
            metadata["namespace"] = namespace.as_str().into();
        }
        patch["metadata"] = metadata;
        let patch = patch.as_object_mut()?;
        patch.extend(change);
        let text = crate::render::yaml::emit(&Value::Object(patch.clone())).ok()?;
        Some(Patch { patch: text, target: None })
    });
    Kustomize { patches: patches.collect() }
}

/// What differs between an object as the server makes it and as it is; none when that is nothing.
pub fn difference(object: &Object, rendered: &Value, live: &Value) -> Option<Map<String, Value>> {
    let is_custom = crate::render::kinds::builtin(&object.key().group, object.version(), &object.key().kind).is_none();
    let (mut rendered, mut live) = (relevant(rendered), relevant(live));
    if is_custom {
        as_rendered(&mut live);
        // What the bundle adds to its own objects stays.
        if let (Some(rendered), Some(live)) = (rendered["spec"].as_object_mut(), live["spec"].as_object()) {
            rendered.retain(|field, _| live.contains_key(field));
        }
    }
    let change = merge(&rendered, &live, is_custom)?;
    change.as_object().cloned()
}

/// A branch by its full name is the same branch.
fn as_rendered(source: &mut Value) {
    let Some(reference) =
        source.pointer_mut("/spec/ref").and_then(Value::as_object_mut).filter(|reference| reference.len() == 1)
    else {
        return;
    };
    if let Some(Value::String(branch)) = reference.remove("branch") {
        reference.insert("name".to_owned(), format!("refs/heads/{branch}").into());
    }
}

/// Leaves out of what is there what follows from its version alone, where there is no bundle of that version.
pub fn disregard_version(rendered: &Value, live: &mut Value) {
    let images: BTreeMap<&str, &Value> =
        containers(rendered).filter_map(|c| Some((c["name"].as_str()?, &c["image"]))).collect();
    let live_containers = live.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    for container in live_containers.into_iter().flatten() {
        if let Some(image) = container["name"].as_str().and_then(|name| images.get(name)) {
            container["image"] = (*image).clone();
        }
    }
    let label = "/spec/template/metadata/labels/app.kubernetes.io~1version";
    if let (Some(wanted), Some(label)) = (rendered.pointer(label), live.pointer_mut(label)) {
        *label = wanted.clone();
    }
}

/// Without identity, state, and what the server allots.
fn relevant(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        for field in ["apiVersion", "kind", "metadata", "status", "secrets"] {
            map.remove(field);
        }
    }
    if let Some(spec) = object["spec"].as_object_mut() {
        for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
            spec.remove(field);
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    if let Some(metadata) = object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
        // Taking over leaves it where it is.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(RESTARTED);
        }
    }
    if object["spec"].is_null()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("spec");
    }
    object
}

const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// The strategic merge patch that makes one value of another; none when they are equal.
fn merge(from: &Value, to: &Value, whole_lists: bool) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        let change = match (old.get(name), value) {
            (Some(Value::Array(old)), Value::Array(new)) if !whole_lists && old != new => Some(list(name, old, new)),
            (Some(old), new) => merge(old, new, whole_lists),
            (None, new) => Some(new.clone()),
        };
        if let Some(change) = change {
            patch.insert(name.clone(), change);
        }
    }
    Some(Value::Object(patch))
}

/// Entries are told apart by their key where they have one. All are named, in the order they are in: what a patch names comes first.
fn list(field: &str, old: &[Value], new: &[Value]) -> Value {
    let Some(key) = merge_key(field, new).or_else(|| merge_key(field, old)) else { return new.to_vec().into() };
    let is_unique = |list: &[Value]| {
        list.iter().all(|a| !a[key].is_null() && list.iter().filter(|b| b[key] == a[key]).count() == 1)
    };
    if !is_unique(old) || !is_unique(new) {
        return std::iter::once(json!({"$patch": "replace"})).chain(new.iter().cloned()).collect();
    }
    let kept = new.iter().map(|entry| {
        let Some(old) = old.iter().find(|old| old[key] == entry[key]) else { return entry.clone() };
        let mut change = merge(old, entry, false).unwrap_or_else(|| json!({}));
        change[key] = entry[key].clone();
        change
    });
    let gone = old.iter().filter(|old| !new.iter().any(|new| new[key] == old[key]));
    kept.chain(gone.map(|old| json!({(key): old[key], "$patch": "delete"}))).collect()
}
