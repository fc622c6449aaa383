//! What differs between two values, field by field. Entries of a list that have names are told apart by them, never by where
//! they stand.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// Where: `spec.template.spec.containers[manager].args[]`; a list without names has its entries at `[]`.
    pub path: String,
    /// What it was; none for a field that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// What it is; none for a field that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// Compares two values; nothing is found if and only if they are equal.
pub fn changes(old: &Value, new: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    walk("", Some(old), Some(new), &mut found);
    found
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<FieldChange>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let names = was.keys().chain(is.keys().filter(|name| !was.contains_key(*name)));
            for name in names {
                walk(&field(path, name), was.get(name), is.get(name), found);
            }
        }
        (Some(Value::Array(was)), Some(Value::Array(is))) => match (by_name(was), by_name(is)) {
            (Some(was), Some(is)) => named(path, &was, &is, found),
            _ => unnamed(path, was, is, found),
        },
        (old, new) => found.push(FieldChange { path: path.to_owned(), old: old.cloned(), new: new.cloned() }),
    }
}

fn field(path: &str, name: &str) -> String {
    if name.contains(['.', '/', '[']) {
        format!("{path}[{name}]")
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Names and entries of a list, if all have one and no two the same.
fn by_name(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let named: Option<Vec<(&str, &Value)>> = list.iter().map(|v| Some((v.get("name")?.as_str()?, v))).collect();
    named.filter(|named| named.iter().copied().collect::<BTreeMap<_, _>>().len() == list.len())
}

fn named(path: &str, old: &[(&str, &Value)], new: &[(&str, &Value)], found: &mut Vec<FieldChange>) {
    let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) = (old.iter().copied().collect(), new.iter().copied().collect());
    for (name, value) in &was {
        walk(&format!("{path}[{name}]"), Some(value), is.get(name).copied(), found);
    }
    for (name, value) in is.iter().filter(|(name, _)| !was.contains_key(*name)) {
        walk(&format!("{path}[{name}]"), None, Some(value), found);
    }
    let order = |list: &[(&str, &Value)], other: &BTreeMap<&str, &Value>| -> Vec<Value> {
        list.iter().filter(|(name, _)| other.contains_key(name)).map(|(name, _)| Value::from(*name)).collect()
    };
    let (before, after) = (order(old, &is), order(new, &was));
    if before != after {
        found.push(FieldChange { path: path.to_owned(), old: Some(before.into()), new: Some(after.into()) });
    }
}

/// Without names only equal entries belong together.
fn unnamed(path: &str, old: &[Value], new: &[Value], found: &mut Vec<FieldChange>) {
    let without = |list: &[Value], other: &[Value]| {
        let mut other: Vec<&Value> = other.iter().collect();
        let is_new = |value: &&Value| match other.iter().position(|o| o == value) {
            Some(at) => {
                other.swap_remove(at);
                false
            }
            None => true,
        };
        list.iter().filter(is_new).cloned().collect::<Vec<_>>()
    };
    let (gone, added) = (without(old, new), without(new, old));
    if gone.is_empty() && added.is_empty() {
        // The same entries in another order: for a list without names that may matter.
        found.push(FieldChange {
            path: path.to_owned(),
            old: Some(old.to_vec().into()),
            new: Some(new.to_vec().into()),
        });
    }
    let path = format!("{path}[]");
    found.extend(gone.into_iter().map(|value| FieldChange { path: path.clone(), old: Some(value), new: None }));
    found.extend(added.into_iter().map(|value| FieldChange { path: path.clone(), old: None, new: Some(value) }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn seen(old: &Value, new: &Value) -> Vec<(String, Value, Value)> {
        let or_null = |value: Option<Value>| value.unwrap_or_default();
        changes(old, new).into_iter().map(|c| (c.path, or_null(c.old), or_null(c.new))).collect()
    }

    #[test]
    fn fields_have_paths() {
        let old = json!({"metadata": {"labels": {"example.org/a": "1"}}, "spec": {"a": {"b": 1}, "gone": true}});
        let new = json!({"metadata": {"labels": {"example.org/a": "2"}}, "spec": {"a": {"b": 2}, "come": true}});
        assert_eq!(
            seen(&old, &new),
            [
                ("metadata.labels[example.org/a]".to_owned(), json!("1"), json!("2")),
                ("spec.a.b".to_owned(), json!(1), json!(2)),
                ("spec.gone".to_owned(), json!(true), Value::Null),
                ("spec.come".to_owned(), Value::Null, json!(true)),
            ]
        );
    }

    #[test]
    fn entries_with_names_are_found_wherever_they_stand() {
        let old = json!([{"name": "a", "v": 1}, {"name": "b", "v": 1}]);
        let new = json!([{"name": "new"}, {"name": "a", "v": 1}, {"name": "b", "v": 2}]);
        assert_eq!(
            seen(&old, &new),
            [("[b].v".to_owned(), json!(1), json!(2)), ("[new]".to_owned(), Value::Null, json!({"name": "new"})),]
        );
        let turned = json!([{"name": "b", "v": 1}, {"name": "a", "v": 1}]);
        assert_eq!(seen(&old, &turned), [(String::new(), json!(["a", "b"]), json!(["b", "a"]))]);
    }

    #[test]
    fn entries_without_names_come_and_go() {
        let (old, new) = (json!({"args": ["--a", "--b", "--b"]}), json!({"args": ["--c", "--b", "--a"]}));
        assert_eq!(
            seen(&old, &new),
            [("args[]".to_owned(), json!("--b"), Value::Null), ("args[]".to_owned(), Value::Null, json!("--c"))]
        );
        assert_eq!(seen(&json!([1, 2]), &json!([2, 1])), [(String::new(), json!([1, 2]), json!([2, 1]))]);
        let same_names = json!([{"name": "a", "kind": "X"}, {"name": "a", "kind": "Y"}]);
        assert_eq!(seen(&same_names, &json!([{"name": "a", "kind": "X"}])).len(), 1);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..3i32).prop_map(Value::from), "[ab]".prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("(name|a|b)", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_found_if_and_only_if_nothing_differs(old in value(), new in value()) {
            prop_assert_eq!(changes(&old, &new).is_empty(), old == new);
            prop_assert_eq!(changes(&old, &old), []);
        }
    }
}
