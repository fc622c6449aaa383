//! `spec.kustomize.patches`: strategic merge patches and JSON patches, as Kustomize applies them.

use std::fmt;

use json_patch::PatchOperation;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::object::Object;
use super::text::{cut, nearest};
use super::yaml;
use crate::api::{Patch, PatchTarget};

/// Most operations in one JSON patch, and most bytes an object may have after one. A `copy` can double an
/// object, so a few dozen of them would fill any memory.
const MAX_OPERATIONS: usize = 512;
const MAX_OBJECT: usize = 1 << 20;

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.kustomize.patches[{index}]{}: {}", .field, cut(.problem, 440))]
pub struct PatchError {
    index: usize,
    field: &'static str,
    problem: String,
}

/// What is wrong, below one patch.
struct Problem {
    field: &'static str,
    text: String,
}

fn problem(field: &'static str, text: impl Into<String>) -> Problem {
    Problem { field, text: text.into() }
}

/// Applies patches in order. Every patch has to find something to change.
pub fn apply(objects: &mut Vec<Object>, patches: &[Patch]) -> Result<(), PatchError> {
    for (index, patch) in patches.iter().enumerate() {
        apply_one(objects, patch).map_err(|Problem { field, text }| PatchError { index, field, problem: text })?;
    }
    Ok(())
}

fn apply_one(objects: &mut Vec<Object>, patch: &Patch) -> Result<(), Problem> {
    let mut documents = yaml::parse("patch", &patch.patch).map_err(|error| {
        problem(".patch", format!("line {}, column {}: {}", error.line, error.column, error.message))
    })?;
    let target = patch.target.as_ref().filter(|target| **target != PatchTarget::default());
    match (documents.len(), target) {
        (0, _) => return Err(problem(".patch", "is empty; write a merge patch or a list of JSON patch operations")),
        (2.., Some(_)) => return Err(problem(".patch", "holds several documents; with a target only one is allowed")),
        _ => {}
    }
    for document in &mut documents {
        match document {
            Value::Array(operations) => {
                let Some(target) = target else {
                    return Err(problem(
                        ".target",
                        "is missing; a JSON patch needs one, such as {kind: Deployment, name: NAME}",
                    ));
                };
                let operations = operations_of(operations)?;
                each(objects, &Selector::new(target)?, |object| json_patch(object, &operations))?;
            }
            Value::Object(merge) => {
                check_directives(merge, "")?;
                let selector = match target {
                    Some(target) => Selector::new(target)?,
                    None => Selector::exactly(merge)?,
                };
                // What identifies an object belongs to the target, as in Kustomize.
                let mut merge = merge.clone();
                merge.remove("apiVersion");
                merge.remove("kind");
                if let Some(Value::Object(metadata)) = merge.get_mut("metadata") {
                    metadata.remove("name");
                    metadata.remove("namespace");
                }
                each(objects, &selector, |object| {
                    let mut value = object.value().clone();
                    let lists = Lists::of(object);
                    Ok(merge_map(&mut value, &merge, lists).then_some(value))
                })?;
            }
            _ => return Err(problem(".patch", "is neither a map (a merge patch) nor a list (a JSON patch)")),
        }
    }
    Ok(())
}

/// Changes every object the selector finds; `None` from `change` removes it.
fn each(
    objects: &mut Vec<Object>,
    selector: &Selector,
    mut change: impl FnMut(&Object) -> Result<Option<Value>, Problem>,
) -> Result<(), Problem> {
    let mut found = false;
    let mut result = Vec::with_capacity(objects.len());
    for object in objects.iter() {
        if !selector.matches(object) {
            result.push(object.clone());
            continue;
        }
        found = true;
        let Some(value) = change(object)? else { continue };
        let key = object.key();
        let changed = Object::try_from(value).map_err(|error| problem(".patch", format!("{key} after it: {error}")))?;
        if changed.key() != key {
            return Err(problem(
                ".patch",
                format!("makes {key} into {}; kind, name and namespace cannot be changed", changed.key()),
            ));
        }
        if changed.version() != object.version() {
            return Err(problem(".patch", format!("changes apiVersion of {key}; that cannot be changed")));
        }
        result.push(changed);
    }
    if !found {
        let wanted = selector.to_string();
        let near = nearest(&selector.spelled(), objects.iter().map(|object| object.key().to_string()));
        let near = near.map(|near| format!("; the nearest is {near}")).unwrap_or_default();
        return Err(problem(".target", format!("{wanted} matches none of the {} objects{near}", objects.len())));
    }
    *objects = result;
    Ok(())
}

// --- JSON patches ---------------------------------------------------------------------------

fn operations_of(operations: &[Value]) -> Result<Vec<PatchOperation>, Problem> {
    if operations.len() > MAX_OPERATIONS {
        return Err(problem(
            ".patch",
            format!("has {} operations; at most {MAX_OPERATIONS} are allowed", operations.len()),
        ));
    }
    operations
        .iter()
        .enumerate()
        .map(|(i, operation)| {
            serde_json::from_value(operation.clone()).map_err(|error| {
                problem(
                    ".patch",
                    format!("operation {i}: {error}; an operation has op (add, remove, replace, move, copy or test), path, and value or from"),
                )
            })
        })
        .collect()
}

fn json_patch(object: &Object, operations: &[PatchOperation]) -> Result<Option<Value>, Problem> {
    let mut value = object.value().clone();
    for (i, operation) in operations.iter().enumerate() {
        json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|error| {
            problem(".patch", format!("operation {i} ({}) on {}: {}", operation.path(), object.key(), error.kind))
        })?;
        if matches!(operation, PatchOperation::Copy(_)) && value.to_string().len() > MAX_OBJECT {
            return Err(problem(".patch", format!("makes {} larger than {MAX_OBJECT} bytes", object.key())));
        }
    }
    Ok(Some(value))
}

// --- Strategic merge patches ----------------------------------------------------------------

/// How lists of an object are merged. Only kinds of Kubernetes have merge keys; in objects of CRDs a list
/// replaces a list, as in Kustomize.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    ByKey,
    Replace,
}

impl Lists {
    fn of(object: &Object) -> Self {
        let key = object.key();
        if super::kinds::builtin(&key.group, object.version(), &key.kind).is_some()
            && key.kind != "CustomResourceDefinition"
        {
            Self::ByKey
        } else {
            Self::Replace
        }
    }
}

/// The field by which entries of a list are told apart: the patch merge keys of the Kubernetes API. Lists that
/// are not here are replaced as a whole.
pub(crate) fn merge_key(field: &str, entries: &[Value]) -> Option<&'static str> {
    let have = |name: &str| entries.iter().any(|entry| entry.get(name).is_some());
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims"
        | "webhooks" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        // Of a container, else of a Service. (A NetworkPolicy's ports are inside a list that is replaced.)
        "ports" if have("containerPort") => Some("containerPort"),
        "ports" if have("port") => Some("port"),
        "hostAliases" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

/// `$patch: delete` and the like are the only directives there are.
fn check_directives(map: &Map<String, Value>, path: &str) -> Result<(), Problem> {
    for (name, value) in map {
        let here = format!("{path}/{name}");
        if name.starts_with('$')
            && (name != "$patch" || !matches!(value.as_str(), Some("delete" | "replace" | "merge")))
        {
            return Err(problem(
                ".patch",
                format!(
                    "{} is not supported; allowed are $patch: delete, $patch: replace and $patch: merge",
                    cut(&here, 200)
                ),
            ));
        }
        match value {
            Value::Object(child) => check_directives(child, &here)?,
            Value::Array(items) => {
                for item in items.iter().filter_map(Value::as_object) {
                    check_directives(item, &here)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn directive(value: &Value) -> Option<&str> {
    value.get("$patch").and_then(Value::as_str)
}

/// Lays a patch over a value; false if the value is to be removed.
fn merge_map(target: &mut Value, patch: &Map<String, Value>, lists: Lists) -> bool {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("delete") => return false,
        Some("replace") => {
            // The identity of an object stays, even when everything else is replaced.
            let mut replacement = patch.clone();
            replacement.remove("$patch");
            for field in ["apiVersion", "kind"] {
                if let Some(kept) = target.get(field) {
                    replacement.insert(field.to_owned(), kept.clone());
                }
            }
            if let (Some(kept), true) = (target.get("metadata"), target.get("apiVersion").is_some()) {
                replacement.insert("metadata".to_owned(), kept.clone());
            }
            *target = Value::Object(replacement);
            return true;
        }
        _ => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return true };
    for (name, value) in patch {
        match value {
            _ if name == "$patch" => {}
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(patch) => {
                let mut child = fields.remove(name).unwrap_or(Value::Null);
                if merge_map(&mut child, patch, lists) {
                    fields.insert(name.clone(), child);
                }
            }
            Value::Array(patch) => {
                let old = fields.remove(name);
                fields.insert(name.clone(), Value::Array(merge_list(name, old, patch, lists)));
            }
            scalar => {
                fields.insert(name.clone(), scalar.clone());
            }
        }
    }
    true
}

fn merge_list(field: &str, old: Option<Value>, patch: &[Value], lists: Lists) -> Vec<Value> {
    let old = match old {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let replace = patch
        .iter()
        .any(|entry| entry.as_object().is_some_and(|m| m.len() == 1) && directive(entry) == Some("replace"));
    let key = match lists {
        Lists::ByKey if !replace => merge_key(field, patch).or_else(|| merge_key(field, &old)),
        _ => None,
    };
    // A new entry has nothing to be merged with, but its directives and nulls must not reach the cluster.
    let fresh = |entry: &Value| match entry {
        Value::Object(map) => {
            let mut made = Value::Null;
            merge_map(&mut made, map, lists).then_some(made)
        }
        other => Some(other.clone()),
    };
    let Some(key) = key else {
        return patch
            .iter()
            .filter(|entry| !(directive(entry).is_some() && entry.as_object().is_some_and(|m| m.len() == 1)))
            .filter_map(fresh)
            .collect();
    };
    let mut old: Vec<Option<Value>> = old.into_iter().map(Some).collect();
    let mut merged = Vec::new();
    for entry in patch {
        let same = |item: &Value| {
            item.get(key).is_some() && item.get(key) == entry.get(key) && same_protocol(key, item, entry)
        };
        let place = old.iter().position(|item| item.as_ref().is_some_and(same));
        match (place.and_then(|place| old[place].take()), entry) {
            (Some(mut item), Value::Object(map)) => {
                if merge_map(&mut item, map, lists) {
                    merged.push(item);
                }
            }
            _ => merged.extend(fresh(entry)),
        }
    }
    // As Kustomize does it: what the patch names comes first, in its order.
    merged.extend(old.into_iter().flatten());
    merged
}

/// Ports of one number but of different protocols are different ports.
fn same_protocol(key: &str, a: &Value, b: &Value) -> bool {
    if key != "containerPort" && key != "port" {
        return true;
    }
    match (a.get("protocol"), b.get("protocol")) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

// --- Targets --------------------------------------------------------------------------------

/// Which objects a patch is for.
struct Selector {
    group: Option<Pattern>,
    version: Option<Pattern>,
    kind: Option<Pattern>,
    name: Option<Pattern>,
    namespace: Option<Pattern>,
    labels: Vec<Requirement>,
    annotations: Vec<Requirement>,
    text: String,
}

/// A regular expression that has to match a whole text.
struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    fn new(field: &'static str, source: Option<&String>) -> Result<Option<Self>, Problem> {
        // An empty field selects everything, as in Kustomize.
        let Some(source) = source.filter(|source| !source.is_empty()) else { return Ok(None) };
        let regex = RegexBuilder::new(&format!("^(?:{source})$"))
            .size_limit(1 << 20)
            .build()
            .map_err(|_| problem(field, format!("{:?} is no regular expression", cut(source, 80))))?;
        Ok(Some(Self { source: source.clone(), regex }))
    }
}

impl Selector {
    fn new(target: &PatchTarget) -> Result<Self, Problem> {
        let fields = [
            ("group", &target.group),
            ("version", &target.version),
            ("kind", &target.kind),
            ("name", &target.name),
            ("namespace", &target.namespace),
            ("labelSelector", &target.label_selector),
            ("annotationSelector", &target.annotation_selector),
        ];
        let text = fields.iter().filter_map(|(name, value)| Some(format!("{name}: {}", value.as_ref()?)));
        Ok(Self {
            group: Pattern::new(".target.group", target.group.as_ref())?,
            version: Pattern::new(".target.version", target.version.as_ref())?,
            kind: Pattern::new(".target.kind", target.kind.as_ref())?,
            name: Pattern::new(".target.name", target.name.as_ref())?,
            namespace: Pattern::new(".target.namespace", target.namespace.as_ref())?,
            labels: requirements(target.label_selector.as_deref())
                .map_err(|text| problem(".target.labelSelector", text))?,
            annotations: requirements(target.annotation_selector.as_deref())
                .map_err(|text| problem(".target.annotationSelector", text))?,
            text: cut(&text.collect::<Vec<_>>().join(", "), 200),
        })
    }

    /// The object that a merge patch without target names.
    fn exactly(merge: &Map<String, Value>) -> Result<Self, Problem> {
        let metadata = merge.get("metadata").and_then(Value::as_object);
        let text = |map: Option<&Map<String, Value>>, name: &str| {
            map.and_then(|map| map.get(name)).and_then(Value::as_str).map(regex::escape)
        };
        let api_version = merge.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (kind, name) = (text(Some(merge), "kind"), text(metadata, "name"));
        if version.is_empty() || kind.is_none() || name.is_none() {
            return Err(problem(
                ".target",
                "is missing; without it the merge patch has to name its object by apiVersion, kind and metadata.name",
            ));
        }
        Self::new(&PatchTarget {
            // Not `None`, which would be any group: the core group is an empty text.
            group: Some(if group.is_empty() { "(?:)".to_owned() } else { regex::escape(group) }),
            version: Some(regex::escape(version)),
            kind,
            name,
            namespace: text(metadata, "namespace"),
            label_selector: None,
            annotation_selector: None,
        })
    }

    fn matches(&self, object: &Object) -> bool {
        let key = object.key();
        let fits = |pattern: &Option<Pattern>, text: &str| pattern.as_ref().is_none_or(|p| p.regex.is_match(text));
        fits(&self.group, &key.group)
            && fits(&self.version, object.version())
            && fits(&self.kind, &key.kind)
            && fits(&self.name, &key.name)
            && fits(&self.namespace, key.namespace.as_deref().unwrap_or_default())
            && self.labels.iter().all(|r| r.holds(object.label(&r.name)))
            && self.annotations.iter().all(|r| r.holds(object.annotation(&r.name)))
    }

    /// As close to an object's name as the selector comes, to look for the nearest.
    fn spelled(&self) -> String {
        let source = |pattern: &Option<Pattern>| pattern.as_ref().map(|p| p.source.clone()).unwrap_or_default();
        match &self.namespace {
            Some(namespace) => format!("{} {}/{}", source(&self.kind), namespace.source, source(&self.name)),
            None => format!("{} {}", source(&self.kind), source(&self.name)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.text)
    }
}

/// One condition of a label selector.
#[derive(Debug, PartialEq)]
struct Requirement {
    name: String,
    test: Test,
}

#[derive(Debug, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            // As in Kubernetes, what has no such label is not in any list.
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
        }
    }
}

/// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
fn requirements(selector: Option<&str>) -> Result<Vec<Requirement>, String> {
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    for char in selector.unwrap_or_default().chars() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(char);
        }
    }
    parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).map(requirement).collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let refuse = || {
        format!(
            "{:?} is no label selector; write name=value, name!=value, name in (a,b), name notin (a,b), name or !name",
            cut(part, 80)
        )
    };
    let set = |name: &str, rest: &str| -> Result<(String, Vec<String>), String> {
        let values = rest.trim().strip_prefix('(').and_then(|r| r.strip_suffix(')')).ok_or_else(refuse)?;
        Ok((name.trim().to_owned(), values.split(',').map(|v| v.trim().to_owned()).collect()))
    };
    let (name, test) = if let Some((name, rest)) = part.split_once(" notin ") {
        let (name, values) = set(name, rest)?;
        (name, Test::NotIn(values))
    } else if let Some((name, rest)) = part.split_once(" in ") {
        let (name, values) = set(name, rest)?;
        (name, Test::In(values))
    } else if let Some((name, value)) = part.split_once("!=") {
        (name.trim().to_owned(), Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (name.trim().to_owned(), Test::In(vec![value.trim().to_owned()]))
    } else if let Some(name) = part.strip_prefix('!') {
        (name.trim().to_owned(), Test::Absent)
    } else {
        (part.to_owned(), Test::Exists)
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "()=!,".contains(c)) {
        return Err(refuse());
    }
    Ok(Requirement { name, test })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Vec<Object> {
        let deployment = |name: &str| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": "ns", "labels": {"app": name}},
                "spec": {"replicas": 1, "template": {"spec": {
                    "containers": [{
                        "name": "manager", "image": "x:1", "args": ["--a"],
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "ports": [{"name": "http", "containerPort": 80}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                    }],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                }}},
            })
        };
        let site = json!({"apiVersion": "example.org/v1", "kind": "Site", "metadata": {"name": "s"}, "spec": {"env": [{"name": "A"}]}});
        [deployment("one"), deployment("two"), site].into_iter().map(|v| Object::try_from(v).unwrap()).collect()
    }

    #[allow(clippy::unnecessary_wraps, reason = "reads better where it is used")]
    fn target(kind: &str, name: &str) -> Option<PatchTarget> {
        Some(PatchTarget { kind: Some(kind.into()), name: Some(name.into()), ..PatchTarget::default() })
    }

    fn patched(patch: &str, target: Option<PatchTarget>) -> Result<Vec<Object>, String> {
        let mut objects = objects();
        apply(&mut objects, &[Patch { patch: patch.into(), target }]).map_err(|e| e.to_string())?;
        Ok(objects)
    }

    fn container(objects: &[Object]) -> &Value {
        &objects[0].value()["spec"]["template"]["spec"]["containers"][0]
    }

    #[test]
    fn lists_are_merged_by_key_and_values_replaced() {
        let result = patched(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: one, labels: {new: label}}\nspec: {replicas: null, template: {spec: {\
             containers: [{name: manager, args: [--b], env: [{name: B, value: '3'}, {name: C, value: '4'}, {name: A, $patch: delete}], \
             ports: [{containerPort: 81}], volumeMounts: [{mountPath: /tmp, readOnly: true}]}, {name: side, image: 'y:1'}], \
             volumes: [{name: tmp, emptyDir: {medium: Memory}}]}}}",
            None,
        )
        .unwrap();
        let spec = &result[0].value()["spec"];
        assert_eq!(spec.get("replicas"), None);
        assert_eq!(
            spec["template"]["spec"],
            json!({
                "containers": [
                    {
                        "name": "manager", "image": "x:1", "args": ["--b"],
                        "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
                        "ports": [{"containerPort": 81}, {"name": "http", "containerPort": 80}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "readOnly": true}],
                    },
                    {"name": "side", "image": "y:1"},
                ],
                "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
            })
        );
        assert_eq!(result[0].label("new"), Some("label"));
        assert_eq!(result[0].label("app"), Some("one"));
        assert_eq!(result[1], objects()[1]);
    }

    #[test]
    fn directives_delete_and_replace() {
        let spec = |patch: &str| patched(patch, target("Deployment", "one")).unwrap();
        let env =
            spec("spec: {template: {spec: {containers: [{name: manager, env: [{$patch: replace}, {name: Z}]}]}}}");
        assert_eq!(container(&env)["env"], json!([{"name": "Z"}]));
        let volume = spec("spec: {template: {spec: {volumes: [{name: tmp, $patch: replace, hostPath: {path: /x}}]}}}");
        assert_eq!(
            volume[0].value()["spec"]["template"]["spec"]["volumes"],
            json!([{"name": "tmp", "hostPath": {"path": "/x"}}])
        );
        let gone = spec("spec: {template: {$patch: delete}}");
        assert_eq!(gone[0].value()["spec"], json!({"replicas": 1}));
        assert_eq!(spec("$patch: delete").len(), 2);
        let whole = spec("$patch: replace\nspec: {paused: true}");
        assert_eq!(whole[0].value()["spec"], json!({"paused": true}));
        assert_eq!(whole[0].key(), objects()[0].key());
        let new = spec("spec: {template: {spec: {hostAliases: [{ip: 1.1.1.1, x: null}]}}}");
        assert_eq!(new[0].value()["spec"]["template"]["spec"]["hostAliases"], json!([{"ip": "1.1.1.1"}]));
    }

    #[test]
    fn lists_of_custom_resources_are_replaced() {
        let result = patched("spec: {env: [{name: B}]}", target("Site", "s")).unwrap();
        assert_eq!(result[2].value()["spec"]["env"], json!([{"name": "B"}]));
    }

    #[test]
    fn json_patches_go_to_all_targets() {
        let patch = "- op: add\n  path: /spec/template/spec/containers/0/args/-\n  value: --c=20\n- {op: replace, path: /spec/replicas, value: 2}\n";
        let result = patched(patch, target("Deployment", "(one|two)")).unwrap();
        for object in &result[..2] {
            assert_eq!(object.value()["spec"]["replicas"], 2);
        }
        assert_eq!(container(&result)["args"], json!(["--a", "--c=20"]));
        let by_label = PatchTarget { label_selector: Some("app in (two, three),!x".into()), ..PatchTarget::default() };
        let result = patched(patch, Some(by_label)).unwrap();
        assert_eq!(result[0], objects()[0]);
        assert_eq!(result[1].value()["spec"]["replicas"], 2);
    }

    #[test]
    fn regular_expressions_are_anchored() {
        assert!(patched("spec: {a: 1}", target("Deploy", "one")).is_err());
        assert!(patched("spec: {a: 1}", target("Deployment", "o|x")).is_err());
        assert!(patched("spec: {a: 1}", target("Deploy.*", "o.*")).is_ok());
    }

    #[test]
    fn errors_name_the_patch_and_the_remedy() {
        for (patch, to, expected) in [
            (
                "spec: {}",
                target("Deployment", "onee"),
                "spec.kustomize.patches[0].target: {kind: Deployment, name: onee} matches none of the 3 objects; the nearest is Deployment ns/one",
            ),
            ("a: [", target("Site", "s"), "spec.kustomize.patches[0].patch: line 1, column "),
            ("", None, "spec.kustomize.patches[0].patch: is empty"),
            ("x", None, "is neither a map"),
            ("[]", None, "spec.kustomize.patches[0].target: is missing; a JSON patch needs one"),
            ("spec: {}", None, "has to name its object by apiVersion, kind and metadata.name"),
            (
                "[{op: add, path: /metadata/name, value: x}]",
                target("Site", "s"),
                "makes Site s into Site x; kind, name and namespace cannot be changed",
            ),
            (
                "[{op: replace, path: /apiVersion, value: example.org/v2}]",
                target("Site", "s"),
                "changes apiVersion of Site s",
            ),
            ("[{op: remove, path: /metadata}]", target("Site", "s"), "Site s after it: metadata.name is missing"),
            ("[{op: put, path: /a}]", target("Site", "s"), "operation 0: unknown variant `put`"),
            (
                "[{op: replace, path: /spec/nope/x, value: secret}]",
                target("Site", "s"),
                "operation 0 (/spec/nope/x) on Site s: ",
            ),
            (
                "spec: {$retainKeys: [a]}",
                target("Site", "s"),
                "/spec/$retainKeys is not supported; allowed are $patch: delete",
            ),
            ("spec: {}", target("(", "s"), "spec.kustomize.patches[0].target.kind: \"(\" is no regular expression"),
            (
                "spec: {}",
                Some(PatchTarget { label_selector: Some("a b".into()), ..PatchTarget::default() }),
                ".target.labelSelector: \"a b\" is no label selector",
            ),
            ("a: 1\n---\nb: 1", target("Site", "s"), "with a target only one is allowed"),
        ] {
            let error = patched(patch, to).unwrap_err();
            assert!(error.contains(expected), "{error}\n  should say\n{expected}");
            assert!(!error.contains("secret") && error.chars().count() <= 512);
        }
    }

    #[test]
    fn copies_cannot_fill_the_memory() {
        let mut patch = "[{op: add, path: /spec/a, value: {}}".to_owned();
        for _ in 0..200 {
            patch.push_str(", {op: copy, from: /spec, path: /spec/a/b}, {op: copy, from: /spec, path: /spec/a/c}");
        }
        patch.push(']');
        let error = patched(&patch, target("Site", "s")).unwrap_err();
        assert!(error.contains("larger than"), "{error}");
    }

    #[test]
    fn selectors_mean_what_they_mean_to_kubectl() {
        let parsed = requirements(Some("a=b, c!=d,e in (f, g),h notin (i),j,!k,l==m")).unwrap();
        let names: Vec<&str> = parsed.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "e", "h", "j", "k", "l"]);
        assert_eq!(parsed[2].test, Test::In(vec!["f".into(), "g".into()]));
        assert!(parsed[1].holds(None) && !parsed[1].holds(Some("d")));
        assert!(requirements(None).unwrap().is_empty());
    }
}
