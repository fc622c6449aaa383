//! Writes stored objects anew, as `flux migrate` does: in the version that their CRD stores, and without a trace of others in
//! `managedFields`, which would make later applies fail.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Cluster, ClusterError, Page, request};
use crate::plan::{Definition, FIELD_MANAGER};
use crate::render::{Kind, ObjectKey};

/// Longest wait until an API server stores objects as its CRD says.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// API servers learn of a changed CRD by watches of their own; one of them tells us that it has, the others get this long.
const SETTLE: Duration = Duration::from_secs(1);
/// Attempts at one object that others change at the same time.
const ATTEMPTS: usize = 8;

/// How a migration went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Objects looked at.
    pub objects: usize,
    /// Objects written.
    pub written: usize,
}

impl Cluster {
    /// Writes all objects of a CRD anew as `kind`, and strikes other versions from `status.storedVersions`. Can be done again at
    /// any time: what is as it should be is not written. `rest` gives API servers time to learn of CRDs changed lately.
    pub async fn migrate(
        &self,
        crd: &ObjectKey,
        kind: &Kind,
        mixed: bool,
        rest: bool,
    ) -> Result<Migrated, ClusterError> {
        if mixed {
            self.settle(kind).await?;
            if rest {
                tokio::time::sleep(SETTLE).await;
            }
        }
        let mut done = Migrated::default();
        let mut from = Some(String::new());
        while let Some(token) = from {
            let page = match self.page(kind, None, &token).await {
                // From the start: what was written already is passed by.
                Err(ClusterError::Expired) if !token.is_empty() => {
                    from = Some(String::new());
                    continue;
                }
                page => page?,
            };
            let Page { metadata, next } = page;
            let writes = metadata.into_iter().map(|metadata| {
                let (cluster, kind) = (self.clone(), kind.clone());
                async move { ((), cluster.write_anew(&kind, metadata, mixed).await) }
            });
            for ((), answer) in request::several(writes).await {
                done.objects += 1;
                done.written += usize::from(answer?);
            }
            from = next;
        }
        if mixed {
            self.trim(crd, kind).await?;
        }
        Ok(done)
    }

    /// Waits until the API server that answers stores objects in this version: discovery has a hash of it.
    async fn settle(&self, kind: &Kind) -> Result<(), ClusterError> {
        let wanted = storage_version_hash(kind);
        let path = format!("/apis/{}/{}", kind.group, kind.version);
        let wait = async {
            loop {
                let (_, answer) = request::send(&self.client, "GET", &path, None, request::WHOLE).await?;
                let list: Value = request::parse(&answer)?;
                let resources = list["resources"].as_array().into_iter().flatten();
                let found = resources.filter(|r| r["name"] == kind.plural.as_str());
                if found.into_iter().any(|r| r["storageVersionHash"] == wanted.as_str()) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let timeout = ClusterError::Failed(format!("{} is not stored as {} yet", kind.plural, kind.version));
        tokio::time::timeout(SETTLE_DEADLINE, wait).await.unwrap_or(Err(timeout))
    }

    /// Writes one object; false when there was nothing to write.
    async fn write_anew(&self, kind: &Kind, mut metadata: Value, mixed: bool) -> Result<bool, ClusterError> {
        let key = kind.key_of(&metadata);
        let path = format!("{}?fieldManager={FIELD_MANAGER}", request::path(kind, &key));
        for _ in 0..ATTEMPTS {
            let (media_type, body) = match anew(&metadata, &kind.api_version()) {
                Some(change) => (request::JSON_PATCH, change),
                // An empty change: the server writes the object only if it would store it in another version.
                None if mixed => (request::MERGE, json!({})),
                None => return Ok(false),
            };
            let body = Some((media_type, Bytes::from(body.to_string())));
            match request::send(&self.client, "PATCH", &path, body, request::METADATA).await {
                Ok(_) => return Ok(true),
                Err(ClusterError::NotFound(_)) => return Ok(false),
                Err(ClusterError::Conflict(_)) => {}
                Err(ClusterError::Invalid(cause)) => return Err(ClusterError::Invalid(format!("{key}: {cause}"))),
                Err(error) => return Err(error),
            }
            let Some(now) = self.metadata(kind, &key).await? else { return Ok(false) };
            metadata = now;
        }
        Err(ClusterError::Conflict(format!("{key} is changed by others all the time")))
    }

    /// Says that all objects are stored in this version, if the CRD still stores them so.
    async fn trim(&self, crd: &ObjectKey, kind: &Kind) -> Result<(), ClusterError> {
        let Some(live) = self.get(&Kind::crd(), crd).await? else { return Ok(()) };
        if Definition::of(&live).is_none_or(|definition| definition.storage() != kind.version) {
            return Err(ClusterError::Conflict(format!("{crd} was changed by somebody else meanwhile")));
        }
        let change = json!({
            "metadata": {"resourceVersion": live["metadata"]["resourceVersion"]},
            "status": {"storedVersions": [kind.version]},
        });
        let path = format!("{}/status?fieldManager={FIELD_MANAGER}", request::path(&Kind::crd(), crd));
        let body = Some((request::MERGE, Bytes::from(change.to_string())));
        request::send(&self.client, "PATCH", &path, body, request::METADATA).await?;
        Ok(())
    }
}

/// The change that makes all of an object's `managedFields` speak of one version; `None` when they do.
fn anew(metadata: &Value, api_version: &str) -> Option<Value> {
    let mut fields = metadata["managedFields"].as_array()?.clone();
    if fields.iter().all(|entry| entry["apiVersion"] == api_version) {
        return None;
    }
    for entry in &mut fields {
        entry["apiVersion"] = api_version.into();
    }
    Some(json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": fields},
        // Only this state of it: else the server answers with a conflict.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
    ]))
}

/// What discovery tells of the version in which an API server stores a kind (Kubernetes, `apiserver/pkg/endpoints/discovery`).
fn storage_version_hash(kind: &Kind) -> String {
    let hash = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_rewritten_only_where_they_speak_of_another_version() {
        let entry = |version: &str| json!({"manager": "m", "apiVersion": version, "fieldsV1": {"f:spec": {}}});
        let metadata = |entries: Value| json!({"resourceVersion": "7", "managedFields": entries});
        assert_eq!(anew(&metadata(json!([entry("g/v1")])), "g/v1"), None);
        assert_eq!(anew(&json!({"resourceVersion": "7"}), "g/v1"), None, "an object that nobody manages");
        let patch = anew(&metadata(json!([entry("g/v1"), entry("g/v1beta2")])), "g/v1").unwrap();
        assert_eq!(
            patch,
            json!([
                {"op": "replace", "path": "/metadata/managedFields", "value": [entry("g/v1"), entry("g/v1")]},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
            ])
        );
    }
}
