//! Where the inventory is kept: a `ConfigMap` beside what it describes, so that neither a lost hub nor a restored backup of
//! it makes us forget what is ours.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Cluster, ClusterError, INSTALLATION_LABEL, request};
use crate::plan::Inventory;
use crate::render::{Kind, ObjectKey};

/// Name of the `ConfigMap` in the namespace of the installation.
pub const INVENTORY_NAME: &str = "headwater-inventory";

/// The inventory as stored, with what is needed to replace exactly this version of it.
#[derive(Debug, Clone, Default)]
pub struct InventoryStore {
    /// What is recorded.
    pub inventory: Inventory,
    /// UID and resource version of the `ConfigMap`; absent when there is none.
    version: Option<(String, String)>,
}

fn key(namespace: &str) -> ObjectKey {
    Kind::config_map().key(Some(namespace.to_owned()), INVENTORY_NAME.to_owned())
}

impl InventoryStore {
    /// Reads it; empty when there is none.
    ///
    /// # Errors
    /// Also when it is not readable: an unreadable inventory is never overwritten.
    pub async fn load(cluster: &Cluster, namespace: &str) -> Result<Self, ClusterError> {
        let Some(map) = cluster.get(&Kind::config_map(), &key(namespace)).await? else { return Ok(Self::default()) };
        let text = map["data"]["inventory.json"].as_str().unwrap_or_default();
        let inventory = Inventory::from_json(text).map_err(|e| {
            ClusterError::Unreadable(format!(
                "ConfigMap {namespace}/{INVENTORY_NAME}: inventory.json: {e}; restore it, or delete the ConfigMap to record anew what is installed"
            ))
        })?;
        Ok(Self { inventory, version: version(&map) })
    }

    /// Resource version of what is stored.
    pub fn resource_version(&self) -> Option<u64> {
        self.version.as_ref()?.1.parse().ok()
    }

    /// Replaces it if nobody else did since it was read.
    pub async fn save(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        inventory: &Inventory,
    ) -> Result<(), ClusterError> {
        if self.inventory == *inventory && self.version.is_some() {
            return Ok(());
        }
        let mut metadata = json!({
            "name": INVENTORY_NAME,
            "namespace": namespace,
            "labels": {INSTALLATION_LABEL: namespace, "app.kubernetes.io/managed-by": "headwater"},
        });
        let (method, path) = match &self.version {
            Some((uid, version)) => {
                metadata["uid"] = Value::String(uid.clone());
                metadata["resourceVersion"] = Value::String(version.clone());
                ("PUT", request::path(&Kind::config_map(), &key(namespace)))
            }
            None => ("POST", request::collection(&Kind::config_map(), Some(namespace))),
        };
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"inventory.json": inventory.to_json()},
        });
        let body = Bytes::from(map.to_string());
        let (_, answer) =
            request::send(cluster.client(), method, &path, Some((request::JSON, body)), request::METADATA).await?;
        self.version = version(&request::parse(&answer)?);
        self.inventory = inventory.clone();
        Ok(())
    }

    /// Deletes it: nothing of ours is left.
    pub async fn delete(&mut self, cluster: &Cluster, namespace: &str) -> Result<(), ClusterError> {
        if let Some((uid, _)) = self.version.take() {
            cluster.delete(&Kind::config_map(), &key(namespace), &uid, false).await?;
        }
        self.inventory = Inventory::default();
        Ok(())
    }
}

fn version(map: &Value) -> Option<(String, String)> {
    let text = |field: &str| map["metadata"][field].as_str().map(str::to_owned);
    Some((text("uid")?, text("resourceVersion")?))
}
