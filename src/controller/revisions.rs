//! The specs that were good, kept as `ControllerRevision`s of the instance on the hub: going back is going back to a bundle
//! and to the values it ran with.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};

use super::{Ctx, StepError};
use crate::api::{FluxInstance, FluxInstanceSpec, FluxInstanceStatus, Revision};
use crate::cluster::{ClusterError, with_deadline};

/// Label with the UID of the instance: its name may be longer than a label value.
const INSTANCE_LABEL: &str = "headwater.dev/instance";
/// Characters of a digest that tell the revisions of one instance apart.
const SHORT: usize = 16;

fn name(instance: &FluxInstance, config: &str) -> String {
    let hash: String = config.trim_start_matches("sha256:").chars().take(SHORT).collect();
    let instance: String = instance.name_any().chars().take(253 - SHORT - 1).collect();
    format!("{instance}-{hash}")
}

fn api(ctx: &Ctx) -> Api<ControllerRevision> {
    Api::namespaced(ctx.hub.clone(), &ctx.namespace)
}

/// Keeps the spec of an instance as that of a good revision, and forgets those that the history no longer names.
pub(super) async fn keep(
    ctx: &Ctx,
    instance: &FluxInstance,
    config: &str,
    status: &FluxInstanceStatus,
) -> Result<(), StepError> {
    let spec = serde_json::to_value(&instance.spec).unwrap_or_default();
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(instance, config)),
            labels: Some([(INSTANCE_LABEL.to_owned(), instance.uid().unwrap_or_default())].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: FluxInstance::api_version(&()).into_owned(),
                kind: FluxInstance::kind(&()).into_owned(),
                name: instance.name_any(),
                uid: instance.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(spec)),
        revision: instance.metadata.generation.unwrap_or_default(),
    };
    match with_deadline(api(ctx).create(&PostParams::default(), &revision)).await {
        // The same objects came of it before.
        Ok(_) | Err(ClusterError::Conflict(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let kept: Vec<String> = status.history.iter().map(|entry| name(instance, &entry.config)).collect();
    let list = ListParams::default().labels(&format!("{INSTANCE_LABEL}={}", instance.uid().unwrap_or_default()));
    for old in with_deadline(api(ctx).list(&list)).await? {
        if kept.contains(&old.name_any()) || old.name_any() == name(instance, config) {
            continue;
        }
        let preconditions = Preconditions { uid: old.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match with_deadline(api(ctx).delete(&old.name_any(), &params)).await {
            Ok(_) | Err(ClusterError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The spec with which a revision was good: the instance's own, with everything that decides what is rendered taken from
/// then. `None` when it is not known any more.
pub(super) async fn recall(
    ctx: &Ctx,
    instance: &FluxInstance,
    revision: &Revision,
) -> Result<Option<FluxInstanceSpec>, StepError> {
    let found = match with_deadline(api(ctx).get(&name(instance, &revision.config))).await {
        Ok(found) => found,
        Err(ClusterError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(then) = found.data.and_then(|data| serde_json::from_value::<FluxInstanceSpec>(data.0).ok()) else {
        return Ok(None);
    };
    let mut spec = instance.spec.clone();
    spec.distribution = then.distribution;
    spec.distribution.version.clone_from(&revision.digest);
    spec.components = then.components;
    spec.cluster = then.cluster;
    spec.common_metadata = then.common_metadata;
    spec.sync = then.sync;
    spec.tofu = then.tofu;
    spec.kustomize = then.kustomize;
    Ok(Some(spec))
}
