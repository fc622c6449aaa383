//! Who owns what after a write: by a server-side apply among several managers, or by a plain update.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, Path, get, paths_of, set, unset};
use super::object::{Applied, Content, Manager, Object};
use super::refusal::Refusal;
use super::store::Writer;
use crate::http::now;

/// The entry of somebody who wrote plainly.
pub(super) fn updated(manager: &str, subresource: &'static str, fields: Arc<Fields>) -> Manager {
    Manager { name: manager.into(), operation: "Update", subresource, time: now().into(), fields }
}

fn with_fields(manager: &Manager, left: BTreeSet<Path>) -> Option<Manager> {
    if left.len() == manager.fields.paths.len() {
        return Some(manager.clone());
    }
    // Who owns nothing any more has no entry.
    (!left.is_empty()).then(|| Manager { fields: Arc::new(Fields::from(left)), ..manager.clone() })
}

/// The managers after an update by one of them; `None` when it changes nothing.
pub(super) fn rewrite(old: &Object, content: &Content, writer: &str) -> Option<Vec<Manager>> {
    let (before, after) = (old.content.value(), content.value());
    // An empty map says nothing once it is stored.
    let said = |object: &Value| {
        let mut paths = paths_of(object);
        paths.retain(|path| !is_empty_map(get(object, path)));
        paths
    };
    let (had, has) = (said(&before), said(&after));
    let touched: BTreeSet<Path> = has.iter().filter(|p| get(&before, p) != get(&after, p)).cloned().collect();
    if touched.is_empty() && had.is_subset(&has) {
        return None;
    }
    let mut managers = Vec::new();
    let mut ours = touched.clone();
    for manager in &old.managers {
        if !manager.subresource.is_empty() {
            managers.push(manager.clone());
            continue;
        }
        let is_there = |path: &&Path| get(&after, path).is_some_and(|v| !is_empty_map(Some(v)));
        let left = manager.fields.paths.iter().filter(|p| is_there(p) && !touched.contains(*p)).cloned();
        if manager.operation == "Update" && *manager.name == *writer {
            ours.extend(left);
        } else {
            managers.extend(with_fields(manager, left.collect()));
        }
    }
    if !ours.is_empty() {
        managers.push(updated(writer, "", Arc::new(Fields::from(ours))));
    }
    Some(managers)
}

fn is_empty_map(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
}

/// Whether an applied value changes anything: an empty map leaves one that is there alone.
fn is_news(before: Option<&Value>, wanted: Option<&Value>) -> bool {
    before != wanted && !(is_empty_map(wanted) && before.is_some_and(Value::is_object))
}

/// What is left of an object and its other managers when one of several applies its own part anew.
pub(super) fn join(
    old: &Object,
    ours: Option<&Manager>,
    content: &Content,
    body: &Applied,
    writer: &Writer<'_>,
) -> Result<(Arc<Content>, Vec<Manager>), Refusal> {
    let (before, wanted) = (old.content.value(), content.value());
    let taken: BTreeSet<&Path> =
        body.fields.paths.iter().filter(|path| is_news(get(&before, path), get(&wanted, path))).collect();
    let mut managers = Vec::new();
    let mut conflicts = Vec::new();
    for manager in &old.managers {
        let is_ours =
            manager.operation == "Apply" && manager.subresource.is_empty() && *manager.name == *writer.manager;
        if is_ours {
            continue;
        }
        let (lost, left): (Vec<&Path>, Vec<&Path>) =
            manager.fields.paths.iter().partition(|path| manager.subresource.is_empty() && taken.contains(path));
        conflicts.extend(lost.into_iter().map(|path| (manager.name.to_string(), format!(".{}", path.join(".")))));
        managers.extend(with_fields(manager, left.into_iter().cloned().collect()));
    }
    if !conflicts.is_empty() && !writer.force {
        return Err(Refusal::owned(&conflicts));
    }
    let mut value = before;
    let others: BTreeSet<&Path> = managers.iter().flat_map(|m| &m.fields.paths).collect();
    let dropped = ours.into_iter().flat_map(|ours| &ours.fields.paths);
    for path in dropped.filter(|path| !body.fields.paths.contains(*path) && !others.contains(path)) {
        // Whose map was empty has no say in what others have put into it.
        if get(&value, path).is_some_and(|value| value.as_object().is_none_or(serde_json::Map::is_empty)) {
            unset(&mut value, path);
        }
    }
    for path in taken {
        if let Some(wanted) = get(&wanted, path) {
            set(&mut value, path, wanted.clone());
        }
    }
    Ok((Arc::new(Content::of(value)), managers))
}
