//! What is known of the live objects: metadata is enough.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Inventory;
use crate::render::{Kind, ObjectKey, digest};

/// The one field manager of all our writes. Never change it: ownership of every installed field hangs on it.
pub const FIELD_MANAGER: &str = "headwater";

/// One live object that carries our label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Incarnation.
    pub uid: String,
    /// Comparable within one kind (KEP-5504).
    pub resource_version: u64,
    /// Hash of the fields we own, see [`ownership`].
    pub fields: Option<String>,
    /// Its deletion has begun.
    pub deleting: bool,
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

/// Hash of the fields our manager owns, from an object's `managedFields`; `None` when we own none.
///
/// Times are left out: the server moves them without a change of ours. So is the API version: storage migration rewrites it.
pub fn ownership(managed_fields: &[Value]) -> Option<String> {
    let ours = managed_fields.iter().find(|entry| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or("").is_empty()
    })?;
    Some(digest(ours["fieldsV1"].to_string().as_bytes()))
}
