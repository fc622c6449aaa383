//! Which manager owns which fields of an object, as `metadata.managedFields` tells it: what an operator compares to see whether
//! anybody changed a value of its own.
//!
//! Maps are owned key by key; a list is owned as a whole. A real server owns the items of some lists one by one, so there a
//! manager that adds a container takes nothing from the others; here it takes the list. Both show that a value of ours was changed.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Keys from the root of an object to a value that is no map, or an empty one.
pub(super) type Path = Vec<String>;

/// Some fields of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// The fields.
    pub(super) paths: BTreeSet<Path>,
    /// The same as `fieldsV1`.
    pub(super) text: String,
}

impl From<BTreeSet<Path>> for Fields {
    fn from(paths: BTreeSet<Path>) -> Self {
        let mut root = Value::Object(Map::new());
        for path in &paths {
            path.iter().fold(&mut root, |at, key| &mut at[format!("f:{key}")]);
        }
        leaves_to_maps(&mut root);
        Self { text: root.to_string(), paths }
    }
}

/// An owned field is written as an empty map.
fn leaves_to_maps(at: &mut Value) {
    match at {
        Value::Object(map) => map.values_mut().for_each(leaves_to_maps),
        other => *other = Value::Object(Map::new()),
    }
}

/// All fields that somebody set in an object, apart from what identifies it.
pub(super) fn paths_of(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    walk(object, &mut Vec::new(), &mut found);
    found.retain(|path| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        !matches!(path.as_slice(), ["apiVersion" | "kind" | "metadata"] | ["metadata", "name" | "namespace"])
    });
    found
}

fn walk(value: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                at.push(key.clone());
                walk(value, at, found);
                at.pop();
            }
        }
        _ => {
            found.insert(at.clone());
        }
    }
}

/// The value of a field.
pub(super) fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, key| at.get(key))
}

/// Sets a field.
pub(super) fn set(object: &mut Value, path: &[String], value: Value) {
    let slot = path.iter().fold(object, |at, key| {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        &mut at[key]
    });
    *slot = value;
}

/// Takes a field away, and maps that are empty without it.
pub(super) fn unset(object: &mut Value, path: &[String]) {
    let Some((key, rest)) = path.split_first() else { return };
    let Some(map) = object.as_object_mut() else { return };
    if rest.is_empty() {
        map.remove(key);
        return;
    }
    let Some(inner) = map.get_mut(key) else { return };
    unset(inner, rest);
    if inner.as_object().is_some_and(Map::is_empty) {
        map.remove(key);
    }
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(map)) => drop(map.remove(key)),
            _ => merge(&mut target[key], value),
        }
    }
}
