//! Giving an object back: our marks go, and nothing else.

use serde_json::{Map, Value, json};

use super::marks::{LEAVE_ALONE, MANAGED_BY};
use super::{FIELD_MANAGER, INSTALLATION_LABEL, list};

/// Merge patch that takes our marks from an object with this metadata; none when there are none. It is refused with a conflict unless the
/// object is still as it was looked at.
pub fn hand_back(metadata: &Value) -> Option<Value> {
    let mut change = Map::new();
    let marks = [(INSTALLATION_LABEL, None), (MANAGED_BY, Some("headwater"))];
    let marks = marks.into_iter().chain(LEAVE_ALONE.map(|(name, value)| (name, Some(value))));
    let is_there = |name: &str, only: Option<&str>| {
        metadata["labels"][name].as_str().is_some_and(|value| only.is_none_or(|only| only == value))
    };
    let gone: Map<String, Value> =
        marks.filter(|(name, only)| is_there(name, *only)).map(|(name, _)| (name.to_owned(), Value::Null)).collect();
    if !gone.is_empty() {
        change.insert("labels".to_owned(), Value::Object(gone));
    }
    let entries = list(&metadata["managedFields"]);
    let mut left: Vec<Value> = entries.iter().filter(|entry| entry["manager"] != FIELD_MANAGER).cloned().collect();
    if left.len() < entries.len() {
        if left.is_empty() {
            // An empty list is taken for an oversight, this for the wish to have none.
            left.push(json!({}));
        }
        change.insert("managedFields".to_owned(), left.into());
    }
    if change.is_empty() {
        return None;
    }
    for precondition in ["uid", "resourceVersion"] {
        change.insert(precondition.to_owned(), metadata[precondition].clone());
    }
    Some(json!({"metadata": change}))
}
