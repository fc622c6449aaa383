//! Do the controllers work, beyond being available? After an upgrade the source and the Kustomization of the instance are asked
//! to reconcile, in Flux's own way, and each has to say that it has. That what they bring is good is not asked: a
//! broken Git repository is no broken Flux.

use serde_json::{Value, json};

use super::StepError;
use crate::api::REQUESTED_AT;
use crate::cluster::Cluster;
use crate::plan::{Inventory, Stage, stage_of};
use crate::render::ObjectKey;

/// Asks what has not been asked yet; the first object that has not answered. `token` is the same for all looks of one upgrade.
pub(super) async fn probe(
    cluster: &Cluster,
    inventory: &Inventory,
    token: &str,
) -> Result<Option<ObjectKey>, StepError> {
    let mut silent = None;
    for (key, entry) in inventory.entries.iter().filter(|(_, entry)| stage_of(&entry.kind) == Stage::CustomResources) {
        let Some(object) = cluster.get(&entry.kind, key).await? else { continue };
        // Kinds without a status have nobody who would answer.
        if !object["status"].is_object() || object["status"]["lastHandledReconcileAt"] == token {
            continue;
        }
        if object["metadata"]["annotations"][REQUESTED_AT] != token {
            let uid = object["metadata"]["uid"].as_str().map(Value::from);
            let change = json!({"metadata": {"uid": uid, "annotations": {REQUESTED_AT: token}}});
            cluster.merge(&entry.kind, key, &change).await?;
        }
        silent.get_or_insert_with(|| key.clone());
    }
    Ok(silent)
}
