//! What we render against what upstream renders, object by object and field by field. Where they may differ, and why, is in
//! a file of rows; a difference without a row is an error, and so is a row without a difference.
//!
//! The upstream files are not part of the repository (`../shared/upstream`); what cannot be compared is said.
//!
//! Test code: may read files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::testing::root;
use super::{Object, yaml};

/// A folder of upstream files, if it is there.
pub(super) fn upstream_folder(path: &str) -> Option<PathBuf> {
    let folder = root().join("../shared/upstream").join(path);
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: no upstream manifests of {path} beside the repository");
    None
}

/// All objects of a file of upstream.
pub(super) fn load(folder: &Path, name: &str) -> Vec<Value> {
    yaml::parse(name, &fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// Objects by `KIND NAMESPACE/NAME`.
pub(super) fn by_name(objects: Vec<Object>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (object.key().to_string(), object.into_value())).collect()
}

/// A file of rows, and which of them were needed.
pub(super) struct Comparison {
    file: &'static str,
    rows: Vec<Allowed>,
    used: BTreeSet<usize>,
}

impl Comparison {
    /// Reads the rows.
    pub(super) fn new(file: &'static str) -> Self {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let rows: Vec<Allowed> = serde_json::from_value(yaml::parse_one(file, &text).unwrap()).unwrap();
        assert!(rows.iter().all(|row| !row.reason.is_empty()), "{file}: every row needs a reason");
        Self { file, rows, used: BTreeSet::new() }
    }

    /// Fails unless every difference has a row.
    pub(super) fn compare(
        &mut self,
        title: &str,
        selection: Selection,
        upstream: &BTreeMap<String, Value>,
        ours: &BTreeMap<String, Value>,
    ) {
        let mut found = Vec::new();
        for name in upstream.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
            let whole =
                |kind, value: &Value| Difference { object: name.clone(), path: vec![], kind, value: value.clone() };
            match (upstream.get(name), ours.get(name)) {
                (Some(upstream), Some(ours)) => differences(name, &[], upstream, ours, &mut found),
                (Some(value), None) => found.push(whole("missing", value)),
                (None, Some(value)) => found.push(whole("extra", value)),
                (None, None) => {}
            }
        }
        let mut unknown = Vec::new();
        for difference in &found {
            let rows: Vec<usize> =
                (0..self.rows.len()).filter(|i| self.rows[*i].covers(selection, difference)).collect();
            if rows.is_empty() {
                unknown.push(format!(
                    "{}: {} is {}: {}",
                    difference.object,
                    difference.path.join("."),
                    difference.kind,
                    difference.value
                ));
            }
            self.used.extend(rows);
        }
        assert!(unknown.is_empty(), "{title}: {} differences:\n{}", unknown.len(), unknown.join("\n"));
        println!("{title}: {} objects, {} differences, all allowed", ours.len(), found.len());
    }

    /// Fails when a row was not needed.
    pub(super) fn finish(self) {
        if upstream_folder("").is_none() {
            return;
        }
        for (i, row) in self.rows.iter().enumerate() {
            let Allowed { object, path, .. } = row;
            assert!(self.used.contains(&i), "{}: the row {object} {path} matches nothing; remove it", self.file);
        }
    }
}

/// What is compared with upstream.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Selection {
    /// The default components of Flux.
    Default,
    /// All components of Flux.
    All,
    /// What tofu-controller adds to it.
    Tofu,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    /// What it is for; unset means everything.
    #[serde(default)]
    selection: Option<Selection>,
    object: String,
    path: String,
    kind: String,
    r#type: String,
    reason: String,
}

struct Difference {
    object: String,
    path: Vec<String>,
    kind: &'static str,
    value: Value,
}

impl Allowed {
    fn covers(&self, selection: Selection, difference: &Difference) -> bool {
        let object = self
            .object
            .strip_suffix('*')
            .map_or_else(|| self.object == difference.object, |prefix| difference.object.starts_with(prefix));
        let right_type = match self.r#type.as_str() {
            "string" => difference.value.is_string(),
            "list" => difference.value.is_array(),
            "map" => difference.value.is_object(),
            other => panic!("type {other} is not one of string, list, map"),
        };
        // Names of labels have dots too, so both are taken apart in the same way. A whole object has no path.
        let parts = |text: &str| text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let path = parts(&difference.path.join("."));
        let selected = self.selection.is_none_or(|own| own == selection);
        selected && object && right_type && self.kind == difference.kind && path_matches(&parts(&self.path), &path)
    }
}

fn path_matches(pattern: &[String], path: &[String]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([any, rest @ ..], _) if any == "**" => {
            path_matches(rest, path) || (!path.is_empty() && path_matches(pattern, &path[1..]))
        }
        ([part, pattern @ ..], [field, path @ ..]) => (part == "*" || part == field) && path_matches(pattern, path),
        _ => false,
    }
}

fn differences(object: &str, path: &[String], upstream: &Value, ours: &Value, found: &mut Vec<Difference>) {
    let mut add = |path: Vec<String>, kind, value: &Value| {
        found.push(Difference { object: object.to_owned(), path, kind, value: value.clone() });
    };
    let at = |part: String| path.iter().cloned().chain([part]).collect::<Vec<_>>();
    match (upstream, ours) {
        (Value::Object(a), Value::Object(b)) => {
            b.iter()
                .filter(|(name, _)| !a.contains_key(*name))
                .for_each(|(name, value)| add(at(name.clone()), "extra", value));
            for (name, value) in a {
                match b.get(name) {
                    None => found.push(Difference {
                        object: object.to_owned(),
                        path: at(name.clone()),
                        kind: "missing",
                        value: value.clone(),
                    }),
                    Some(other) => differences(object, &at(name.clone()), value, other, found),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                match (a.get(i), b.get(i)) {
                    (Some(x), Some(y)) => differences(object, &at(i.to_string()), x, y, found),
                    (Some(x), None) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "missing",
                        value: x.clone(),
                    }),
                    (None, Some(y)) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "extra",
                        value: y.clone(),
                    }),
                    (None, None) => {}
                }
            }
        }
        (a, b) if a != b => add(path.to_vec(), "changed", b),
        _ => {}
    }
}
