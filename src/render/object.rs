//! A Kubernetes object as data, and what identifies it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What identifies an object on a cluster, whatever the API version it is written in.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ObjectKey {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind: `Deployment`.
    pub kind: String,
    /// Namespace; none for cluster-scoped objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// `Deployment flux-system/source-controller`, `ClusterRole crd-controller`: as people name objects.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Why a value is not a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}; a Kubernetes object has apiVersion, kind and metadata.name as text")]
pub struct ObjectError {
    field: &'static str,
    problem: &'static str,
}

/// A Kubernetes object: `apiVersion`, `kind` and `metadata.name` are there and are strings.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    key: ObjectKey,
    version: String,
    value: Value,
}

impl TryFrom<Value> for Object {
    type Error = ObjectError;

    fn try_from(value: Value) -> Result<Self, ObjectError> {
        let text = |field: &'static str, pointer: &str| match value.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(_) => Err(ObjectError { field, problem: "is not a text" }),
            None => Err(ObjectError { field, problem: "is missing" }),
        };
        let api_version = text("apiVersion", "/apiVersion")?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let key = ObjectKey {
            group: group.to_owned(),
            kind: text("kind", "/kind")?,
            namespace: match value.pointer("/metadata/namespace") {
                None | Some(Value::Null) => None,
                Some(_) => Some(text("metadata.namespace", "/metadata/namespace")?),
            },
            name: text("metadata.name", "/metadata/name")?,
        };
        for (field, pointer) in
            [("metadata.labels", "/metadata/labels"), ("metadata.annotations", "/metadata/annotations")]
        {
            if value.pointer(pointer).is_some_and(|v| !v.is_object()) {
                return Err(ObjectError { field, problem: "is not a map" });
            }
        }
        let version = version.to_owned();
        Ok(Self { key, version, value })
    }
}

impl Object {
    /// What identifies the object.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// API version it is written in: `v1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `apiVersion` as manifests write it: `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> &str {
        self.value["apiVersion"].as_str().unwrap_or_default()
    }

    /// The object as data.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The object as data, owned.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// Puts the object into a namespace.
    pub fn set_namespace(&mut self, namespace: &str) {
        self.metadata().insert("namespace".to_owned(), namespace.into());
        self.key.namespace = Some(namespace.to_owned());
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("labels")?.get(name)?.as_str()
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("annotations")?.get(name)?.as_str()
    }

    /// Sets a label, replacing what it was.
    pub fn set_label(&mut self, name: &str, value: &str) {
        self.metadata_map("labels").insert(name.to_owned(), value.into());
    }

    /// Sets an annotation, replacing what it was.
    pub fn set_annotation(&mut self, name: &str, value: &str) {
        self.metadata_map("annotations").insert(name.to_owned(), value.into());
    }

    /// Labels of the object.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        strings(self.value.pointer("/metadata/labels"))
    }

    /// Annotations of the object.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        strings(self.value.pointer("/metadata/annotations"))
    }

    /// Canonical JSON: sorted keys, no spaces. Equal objects have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // `Value`'s own formatting cannot fail, and its maps are sorted.
        self.value.to_string().into_bytes()
    }

    /// `sha256:` of the canonical JSON.
    pub fn digest(&self) -> String {
        digest(&self.to_bytes())
    }

    fn metadata(&mut self) -> &mut Map<String, Value> {
        child(map(&mut self.value), "metadata")
    }

    fn metadata_map(&mut self, name: &str) -> &mut Map<String, Value> {
        child(self.metadata(), name)
    }
}

/// `sha256:` and the hash of some bytes in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

/// Writes a SHA-256 hash as digests are written.
pub fn digest_text(hash: &[u8]) -> String {
    use fmt::Write;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn strings(value: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

/// The map a value is; whatever else it was is replaced.
fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

fn child<'a>(parent: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    map(parent.entry(name).or_insert(Value::Null))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_read_as_people_write_them() {
        let deployment =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"}});
        let object = Object::try_from(deployment).unwrap();
        assert_eq!(object.key().to_string(), "Deployment b/a");
        assert_eq!((object.key().group.as_str(), object.version()), ("apps", "v1"));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        let object = Object::try_from(namespace).unwrap();
        assert_eq!(object.key().to_string(), "Namespace a");
        assert_eq!(object.api_version(), "v1");
    }

    #[test]
    fn labels_are_added_and_bytes_are_canonical() {
        let mut a = Object::try_from(json!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "a"}})).unwrap();
        a.set_label("z", "1");
        a.set_label("b", "2");
        assert_eq!(
            a.to_bytes(),
            br#"{"apiVersion":"v1","kind":"K","metadata":{"labels":{"b":"2","z":"1"},"name":"a"}}"#
        );
        assert!(a.digest().starts_with("sha256:") && a.digest().len() == 71);
        assert_eq!(a.label("z"), Some("1"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for value in [
            json!([]),
            json!({"apiVersion": "v1", "kind": "K"}),
            json!({"apiVersion": 1, "kind": "K", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "namespace": 1}}),
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "labels": []}}),
        ] {
            assert!(Object::try_from(value.clone()).is_err(), "{value}");
        }
    }
}
