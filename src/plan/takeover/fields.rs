//! Ownership of fields, as `managedFields` records it (Kubernetes documentation, "Server-Side Apply"; structured-merge-diff,
//! "`FieldsV1`").

use serde_json::{Map, Value, json};

use super::marks::REPLACED;
use super::{FIELD_MANAGER, INSTALLATION_LABEL};

/// What the server calls the owner of all fields that were there before it began to record.
const BEFORE: &str = "before-first-apply";

/// Set by `kubectl rollout restart`: taking it away restarts the pods once more.
const RESTARTED: [&str; 5] =
    ["f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt"];

/// Whether the fields of this entry of `managedFields` come from a manifest that ours takes the place of.
pub(super) fn is_replaced(entry: &Value) -> bool {
    let manager = entry["manager"].as_str().unwrap_or_default();
    let operation = entry["operation"].as_str();
    let is_main = entry["subresource"].as_str().unwrap_or_default().is_empty();
    is_main
        && (manager == BEFORE
            || REPLACED.iter().any(|(name, only)| *name == manager && only.is_none_or(|only| operation == Some(only))))
}

/// Whether it is our own.
pub(super) fn is_ours(entry: &Value) -> bool {
    entry["manager"] == FIELD_MANAGER && entry["subresource"].as_str().unwrap_or_default().is_empty()
}

/// `managedFields` with the fields of replaced manifests in our own entry; none when there are none to move.
///
/// Fields of metadata are moved to nobody: labels and annotations that we do not know stay on the object.
pub(super) fn take_over(entries: &[Value], api_version: &str) -> Option<Vec<Value>> {
    let (replaced, rest): (Vec<&Value>, Vec<&Value>) = entries.iter().partition(|entry| is_replaced(entry));
    if replaced.is_empty() {
        return None;
    }
    let is_apply = |entry: &&Value| is_ours(entry) && entry["operation"] == "Apply";
    // Without an entry the server would make one for all fields, of a manager that nobody is (`before-first-apply`).
    let mut fields = json!({"f:metadata": {"f:labels": {(format!("f:{INSTALLATION_LABEL}")): {}}}});
    for entry in rest.iter().copied().filter(is_apply) {
        union(&mut fields, &entry["fieldsV1"]);
    }
    for entry in replaced {
        let mut moved = entry["fieldsV1"].clone();
        for path in [&["f:metadata"][..], &["f:status"], &RESTARTED] {
            remove(&mut moved, path);
        }
        // A set without members has no place: as a child it would mean its parent.
        if moved.as_object().is_some_and(|set| !set.is_empty()) {
            union(&mut fields, &moved);
        }
    }
    let ours = json!({
        "manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": api_version,
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    let others = rest.into_iter().filter(|entry| !is_apply(entry)).cloned();
    Some(std::iter::once(ours).chain(others).collect())
}

/// Adds the members of a set to another. `{}` is a member, and `{".": {}}` one that has members below it.
pub(super) fn union(set: &mut Value, more: &Value) {
    let (Value::Object(set), Value::Object(more)) = (set, more) else { return };
    let dot = || (".".to_owned(), Value::Object(Map::new()));
    match (set.is_empty(), more.is_empty()) {
        (true, true) => {}
        (true, false) => set.extend(more.clone().into_iter().chain([dot()])),
        (false, true) => set.extend([dot()]),
        (false, false) => {
            for (name, child) in more {
                match set.get_mut(name) {
                    Some(known) => union(known, child),
                    None => drop(set.insert(name.clone(), child.clone())),
                }
            }
        }
    }
}

/// Takes what is at a path out of a set, and parents that have nothing else in them.
fn remove(set: &mut Value, path: &[&str]) {
    let is_empty = |child: &Value| child.as_object().is_none_or(Map::is_empty);
    let (Value::Object(set), [first, rest @ ..]) = (set, path) else { return };
    match set.get_mut(*first) {
        // It has no members below it, and is one itself.
        Some(child) if !rest.is_empty() && is_empty(child) => {}
        Some(child) => {
            remove(child, rest);
            if rest.is_empty() || is_empty(child) {
                set.remove(*first);
            }
        }
        None => {}
    }
}
