//! Step 3, no client: bundle and spec become the objects that one cluster should have.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::StepError;
use crate::api::{FLUX_NAMESPACE, FluxInstanceSpec};
use crate::bundle::Resolved;
use crate::cluster::INSTALLATION_LABEL;
use crate::plan::takeover::LEAVE_ALONE;
use crate::plan::{CRD, Desired, DesiredSet, drift};
use crate::render::digest as digest_of;
use crate::render::{self, Object, Settings};

/// What the bundle's templates get to see of a spec.
pub(super) fn settings(spec: &FluxInstanceSpec) -> Settings {
    Settings {
        namespace: FLUX_NAMESPACE.to_owned(),
        components: spec.components.as_ref().map(|c| c.iter().map(|name| name.0.clone()).collect()),
        registry: spec.distribution.registry.clone(),
        images: spec.distribution.images.iter().map(|(name, image)| (name.clone(), image.0.clone())).collect(),
        pin_images: spec.distribution.pin_images,
        cluster: spec.cluster.clone(),
        common_metadata: spec.common_metadata.clone(),
        sync: spec.sync.clone(),
        tofu: spec.tofu.clone(),
        patches: spec.kustomize.as_ref().map(|k| k.patches.clone()).unwrap_or_default(),
        owner_labels: owner_labels(),
    }
}

fn owner_labels() -> BTreeMap<String, String> {
    let labels = [("app.kubernetes.io/managed-by", "headwater"), (INSTALLATION_LABEL, FLUX_NAMESPACE)];
    labels.into_iter().chain(LEAVE_ALONE).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Renders without remembering.
///
/// `ignored`: JSON pointers to fields that are left to others.
pub(super) fn render(resolved: &Resolved, settings: &Settings, ignored: &[&str]) -> Result<DesiredSet, StepError> {
    let objects = render::render(&resolved.bundle, settings)?
        .into_iter()
        .map(|object| {
            let object = if ignored.is_empty() { object } else { without(object, ignored)? };
            // `render` refuses objects of unknown kinds.
            let kind = resolved.bundle.kind_of(&object);
            kind.map(|kind| Desired::new(&object, kind))
                .ok_or_else(|| StepError::Spec(format!("{}: unknown kind", object.key())))
        })
        .collect::<Result<Vec<_>, StepError>>()?;
    Ok(DesiredSet::new(resolved.reference.clone(), objects).with_finalizers(&resolved.bundle.manifest().components))
}

fn without(object: Object, ignored: &[&str]) -> Result<Object, StepError> {
    let key = object.key().clone();
    let mut value = object.into_value();
    drift::remove(&mut value, ignored);
    Object::try_from(value).map_err(|error| StepError::Spec(format!("spec.drift.ignore: {key}: {error}")))
}

/// Sets kept; clusters of one fleet mostly differ in few settings.
const KEPT: usize = 32;

/// Rendered sets of this process: the bytes are shared by all clusters that want the same.
#[derive(Default)]
pub struct Rendered(Mutex<VecDeque<(String, Arc<DesiredSet>)>>);

impl Rendered {
    /// Renders, or remembers.
    pub fn get(&self, resolved: &Resolved, spec: &FluxInstanceSpec) -> Result<Arc<DesiredSet>, StepError> {
        let ignored = drift::pointers(&spec.drift).map_err(StepError::Spec)?;
        self.of(resolved, &settings(spec), &ignored)
    }

    /// All CRDs of a bundle, as they would be applied if all its components were wanted.
    pub(super) fn definitions(&self, resolved: &Resolved) -> Result<Vec<Arc<Desired>>, StepError> {
        let all = resolved.bundle.manifest().components.iter().map(|component| component.name.clone());
        let settings = Settings {
            namespace: FLUX_NAMESPACE.to_owned(),
            components: Some(all.collect()),
            owner_labels: owner_labels(),
            ..Settings::default()
        };
        let set = self.of(resolved, &settings, &[])?;
        Ok(set.objects.iter().filter(|object| object.key.kind == CRD).cloned().collect())
    }

    fn of(&self, resolved: &Resolved, settings: &Settings, ignored: &[&str]) -> Result<Arc<DesiredSet>, StepError> {
        let id = digest_of(&serde_json::to_vec(&(&resolved.reference.digest, settings, ignored)).unwrap_or_default());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, set)) = lock().iter().find(|(known, _)| *known == id) {
            return Ok(Arc::clone(set));
        }
        let set = Arc::new(render(resolved, settings, ignored)?);
        let mut kept = lock();
        kept.push_back((id, Arc::clone(&set)));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(set)
    }
}
