//! Bundle and settings in, Kubernetes objects out. Pure: no file, no network, no clock; the same
//! input gives the same bytes.
//!
//! Nothing here knows a component, a version or a kind of Flux: those are data of the bundle.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};
use tera::Context;

use crate::api;
use crate::api::bundle::Component;

pub mod bundle;
#[cfg(test)]
mod combinations;
#[cfg(test)]
#[allow(clippy::print_stdout, reason = "tells what was skipped")]
mod comparison;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod conformance_tofu;
mod crd;
#[cfg(test)]
mod hostile;
pub mod images;
pub mod kinds;
mod manifest;
pub mod object;
pub mod patches;
#[cfg(test)]
mod rendered;
pub mod scaffold;
mod schema;
mod selection;
pub mod source;
mod template;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod validate;
pub mod yaml;

pub use bundle::{Bundle, BundleError};
pub use images::{ImageUse, images};
pub use kinds::{Kind, ServedKind};
pub use object::{Object, ObjectKey, digest, digest_text};
pub use patches::PatchError;
pub use validate::check;

pub(crate) use schema::check as check_schema;
use selection::{require_kind, select};
pub(crate) use text::{cut, did_you_mean, list, meant, nearest};

/// What one cluster wants of a bundle.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Settings {
    /// Namespace to install into.
    pub namespace: String,
    /// Components to install; none means the bundle's defaults.
    pub components: Option<Vec<String>>,
    /// Where all images come from: `HOST[:PORT]/PATH`; none means each component's own registry.
    pub registry: Option<String>,
    /// Single images from elsewhere: name to `HOST[:PORT]/PATH[:TAG][@DIGEST]`.
    pub images: BTreeMap<String, String>,
    /// Write images with their digests.
    pub pin_images: bool,
    /// Facts about the cluster.
    pub cluster: api::Cluster,
    /// Labels and annotations for every object.
    pub common_metadata: Option<api::CommonMetadata>,
    /// The source and the Kustomization to start from.
    pub sync: Option<api::Sync>,
    /// How tofu-controller is installed.
    pub tofu: Option<api::Tofu>,
    /// Changes to what was rendered, in order.
    pub patches: Vec<api::Patch>,
    /// Labels by which the operator knows its objects. Nothing can override them.
    pub owner_labels: BTreeMap<String, String>,
}

/// Why nothing was rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// `spec.components` does not fit the bundle.
    #[error("{0}")]
    Components(String),
    /// `spec.distribution.images` does not fit the bundle, or a digest is missing.
    #[error("{0}")]
    Images(String),
    /// A template failed, or gave something that is no object. The bundle is wrong, not the settings.
    #[error("bundle {bundle}: {}", cut(.problem, 440))]
    Template {
        /// Name and version of the bundle.
        bundle: String,
        /// Where and what.
        problem: String,
    },
    /// A patch cannot be applied.
    #[error(transparent)]
    Patch(#[from] PatchError),
}

/// Renders everything a cluster gets, in the order in which it is applied.
pub fn render(bundle: &Bundle, settings: &Settings) -> Result<Vec<Object>, RenderError> {
    let selected = select(bundle, settings)?;
    let refuse = |problem: String| RenderError::Template { bundle: title(bundle), problem };
    let components = components(bundle, settings, &selected)?;
    let context = context(bundle, settings, &components);

    let mut objects = Vec::new();
    for (component, value) in selected.iter().zip(&components) {
        for crd in &component.crds {
            // Parsing the bundle has made sure that every CRD is there.
            let Some(crd) = bundle.crd(&crd.name) else { continue };
            objects.push(crd::complete(bundle, &context, value, crd).map_err(refuse)?);
        }
    }
    for name in bundle.templates.names() {
        let output = bundle.templates.render(name, &context).map_err(refuse)?;
        let file = format!("output of templates/{name}");
        for document in yaml::parse(&file, &output).map_err(|error| refuse(error.to_string()))? {
            let object = Object::try_from(document).map_err(|error| refuse(format!("{file}: {error}")))?;
            objects.push(object);
        }
    }
    for object in &mut objects {
        place(bundle, settings, object).map_err(refuse)?;
        require_kind(bundle, &selected, object)?;
        if let Some(common) = &settings.common_metadata {
            add_missing(object, common);
        }
    }
    refuse_duplicates(&objects).map_err(refuse)?;

    patches::apply(&mut objects, &settings.patches)?;
    for object in &mut objects {
        for (name, value) in &settings.owner_labels {
            object.set_label(name, value);
        }
    }
    objects.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(objects)
}

/// `flux 2.9.4`
fn title(bundle: &Bundle) -> String {
    format!("{} {}", bundle.manifest().name, bundle.manifest().version)
}

/// The selected components as templates see them: with their images, and what the size of the cluster says.
fn components(bundle: &Bundle, settings: &Settings, selected: &[&Component]) -> Result<Vec<Value>, RenderError> {
    let images = images::images_of(bundle, settings, selected)?;
    let values = selected.iter().map(|component| {
        let profile = settings.cluster.size.and_then(|size| component.profiles.get(&size)).cloned().unwrap_or_default();
        let mut resources = component.resources.clone();
        resources.requests.extend(profile.resources.requests);
        resources.limits.extend(profile.resources.limits);
        let images = || images.iter().filter(|image| image.component == component.name);
        let own = images().find(|image| image.name == component.image);
        json!({
            "name": component.name,
            "image": own.map(|image| &image.written),
            "images": images().map(|image| (&image.name, &image.written)).collect::<BTreeMap<_, _>>(),
            "tag": own.map(|image| &image.tag),
            "digest": own.and_then(|image| image.digest.as_ref()),
            "crds": component.crds,
            "flags": profile.flags,
            "resources": {"requests": resources.requests, "limits": resources.limits},
            "values": component.values,
        })
    });
    Ok(values.collect())
}

/// The variables templates see; `bundles/README.md` lists them.
fn context(bundle: &Bundle, settings: &Settings, components: &[Value]) -> Context {
    let manifest = bundle.manifest();
    let sync = settings.sync.as_ref().and_then(|sync| {
        let mut value = serde_json::to_value(sync).ok()?;
        value.as_object_mut()?.entry("name").or_insert_with(|| settings.namespace.clone().into());
        Some(value)
    });
    let mut context = Context::new();
    context.insert(
        "bundle",
        &json!({"name": manifest.name, "version": manifest.version, "appVersion": manifest.app_version}),
    );
    context.insert("values", &manifest.values);
    context.insert("namespace", &settings.namespace);
    context.insert("cluster", &settings.cluster);
    context.insert("selected", &components.iter().map(|c| &c["name"]).collect::<Vec<_>>());
    context.insert("components", components);
    context.insert("sync", &sync);
    context.insert("tofu", &settings.tofu);
    context
}

/// Makes sure that the kind is known (without that there is no URL) and that the namespace fits it.
fn place(bundle: &Bundle, settings: &Settings, object: &mut Object) -> Result<(), String> {
    let key = object.key();
    let Some(kind) = bundle.kind_of(object) else {
        return Err(format!(
            "{key} is of {} {}, which is neither a kind of Kubernetes nor of a CRD in the bundle; \
             correct apiVersion and kind, or add the CRD",
            object.api_version(),
            key.kind
        ));
    };
    match (&key.namespace, kind.namespaced) {
        (None, true) => object.set_namespace(&settings.namespace),
        (Some(_), false) => {
            return Err(format!("{key}: objects of kind {} have no namespace; remove metadata.namespace", key.kind));
        }
        _ => {}
    }
    Ok(())
}

/// Adds what is not there yet: what the bundle sets itself, it needs.
fn add_missing(object: &mut Object, common: &api::CommonMetadata) {
    for (name, value) in &common.labels {
        if object.label(name).is_none() {
            object.set_label(name, value);
        }
    }
    for (name, value) in &common.annotations {
        if object.annotation(name).is_none() {
            object.set_annotation(name, value);
        }
    }
}

fn refuse_duplicates(objects: &[Object]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for object in objects {
        let key = object.key();
        if !seen.insert((&key.group, &key.kind, &key.namespace, &key.name)) {
            return Err(format!("{key} is rendered twice; every object may be in one template only"));
        }
    }
    Ok(())
}

fn order(object: &Object) -> (usize, &str, &str, Option<&str>, &str) {
    let key = object.key();
    (kinds::apply_order(&key.kind), &key.group, &key.kind, key.namespace.as_deref(), &key.name)
}
