//! What is known of the live objects: metadata is enough.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Inventory;
use crate::render::{Kind, ObjectKey, digest};

/// The one field manager of all our writes. Never change it: ownership of every installed field hangs on it.
pub const FIELD_MANAGER: &str = "headwater";

/// Label on everything we install; its value is the namespace of the installation. With it one list or watch finds all.
pub const INSTALLATION_LABEL: &str = "headwater.dev/installation";

/// One live object that carries our label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Incarnation.
    pub uid: String,
    /// Comparable within one kind (KEP-5504).
    pub resource_version: u64,
    /// Hash of the fields we own, see [`ownership`].
    pub fields: Option<String>,
    /// Its deletion has begun.
    pub deleting: bool,
    /// What has to be cleared before it goes.
    pub finalizers: Vec<String>,
    /// The last field manager other than ours that wrote it since we did, see [`changed_by`].
    pub changed_by: Option<Box<str>>,
}

/// What was seen of one cluster.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What we recorded.
    pub inventory: Inventory,
    /// What lives, of the kinds we looked at.
    pub live: BTreeMap<ObjectKey, Live>,
    /// How new the look at each kind was, by (group, kind).
    pub seen: BTreeMap<(String, String), u64>,
}

impl Observed {
    /// Whether the look at this kind was at least as new as `resource_version`.
    pub fn is_as_new_as(&self, kind: &Kind, resource_version: u64) -> bool {
        self.seen.get(&(kind.group.clone(), kind.kind.clone())).is_some_and(|seen| *seen >= resource_version)
    }
}

/// Reads an object's metadata.
pub fn live_of(metadata: &Value) -> Live {
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    let managed_fields = metadata["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    Live {
        uid: text("uid").to_owned(),
        resource_version: text("resourceVersion").parse().unwrap_or(0),
        fields: ownership(managed_fields),
        deleting: metadata["deletionTimestamp"].is_string(),
        finalizers: finalizers.filter_map(|f| Some(f.as_str()?.to_owned())).collect(),
        changed_by: changed_by(managed_fields),
    }
}

/// Hash of the fields our manager owns, from an object's `managedFields`; `None` when we own none.
///
/// Times are left out: the server moves them without a change of ours. So is the API version: storage migration rewrites it.
pub fn ownership(managed_fields: &[Value]) -> Option<String> {
    Some(digest(ours(managed_fields)?["fieldsV1"].to_string().as_bytes()))
}

/// Who wrote the object last, if that was not us: the newest entry of another manager that is not older than ours. Controllers
/// that only report, through the subresource `status`, do not count. Whoever only took something away leaves no entry.
pub fn changed_by(managed_fields: &[Value]) -> Option<Box<str>> {
    // RFC 3339 in UTC, to the second: as text it sorts as it should. Who writes through the subresource `scale` has no time.
    let time = |entry: &Value| entry["time"].as_str().unwrap_or_default().to_owned();
    let since = ours(managed_fields).map(time).unwrap_or_default();
    let is_since = |entry: &&Value| entry["time"].is_null() || time(entry) >= since;
    let newest = managed_fields
        .iter()
        .filter(|entry| entry["manager"] != FIELD_MANAGER && entry["subresource"] != "status")
        .filter(is_since)
        .max_by_key(|entry| time(entry))?;
    newest["manager"].as_str().filter(|manager| !manager.is_empty()).map(Box::from)
}

fn ours(managed_fields: &[Value]) -> Option<&Value> {
    managed_fields.iter().find(|entry| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or("").is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_wrote_last_is_told_by_time() {
        let entry = |manager: &str, operation: &str, subresource: &str, time: &str| json!({"manager": manager, "operation": operation, "subresource": subresource, "time": time});
        let ours = entry(FIELD_MANAGER, "Apply", "", "2027-01-02T00:00:00Z");
        let old = entry("old", "Update", "", "2027-01-01T00:00:00Z");
        let edit = entry("kubectl", "Update", "", "2027-01-02T00:00:01Z");
        let scale = json!({"manager": "autoscaler", "operation": "Update", "subresource": "scale"});
        let status = entry("kube-controller-manager", "Update", "status", "2027-01-02T00:00:02Z");
        assert_eq!(changed_by(&[ours.clone(), old.clone(), status.clone()]), None);
        assert_eq!(changed_by(&[ours.clone(), old.clone(), scale.clone()]).as_deref(), Some("autoscaler"));
        assert_eq!(changed_by(&[ours, old.clone(), edit, scale, status]).as_deref(), Some("kubectl"));
        assert_eq!(changed_by(&[old]).as_deref(), Some("old"));
        assert_eq!(changed_by(&[]), None);
    }
}
