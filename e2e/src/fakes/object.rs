//! Objects as they are kept: what a client sent once for all clusters that got the same bytes, and what the server adds for each.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use headwater::plan::Definition;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::fields::{Fields, paths_of};

/// Bodies remembered for others that send the same; a bundle has some dozens.
const SHARED: usize = 4096;

/// What a client says of an object: neither its status nor what only the server knows.
#[derive(Debug)]
pub(super) struct Content {
    /// `apps/v1`
    pub(super) api_version: String,
    /// `Deployment`
    pub(super) kind: String,
    /// Name.
    pub(super) name: String,
    /// Namespace; empty for objects of the cluster.
    pub(super) namespace: String,
    /// Labels, annotations, finalizers and owners.
    pub(super) metadata: Value,
    /// Everything beside `apiVersion`, `kind`, `metadata` and `status`, as JSON.
    pub(super) rest: String,
    definition: OnceLock<Option<Definition>>,
}

const CLIENTS_METADATA: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

impl Content {
    /// Reads what a client sent.
    pub(super) fn of(mut object: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = object["metadata"].take();
        let set = CLIENTS_METADATA.iter().filter(|field| !metadata[**field].is_null());
        let kept: Map<String, Value> = set.map(|field| ((*field).to_owned(), metadata[*field].clone())).collect();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        if let Some(map) = object.as_object_mut() {
            for field in ["apiVersion", "kind", "metadata", "status"] {
                map.remove(field);
            }
        }
        Self {
            api_version,
            kind,
            name: text(&metadata["name"]),
            namespace: text(&metadata["namespace"]),
            metadata: Value::Object(kept),
            rest: object.to_string(),
            definition: OnceLock::new(),
        }
    }

    /// As the client would send it.
    pub(super) fn value(&self) -> Value {
        let mut value: Value = serde_json::from_str(&self.rest).unwrap_or_default();
        value["apiVersion"] = json!(self.api_version);
        value["kind"] = json!(self.kind);
        value["metadata"] = self.metadata.clone();
        value["metadata"]["name"] = json!(self.name);
        if !self.namespace.is_empty() {
            value["metadata"]["namespace"] = json!(self.namespace);
        }
        value
    }

    /// What a CRD defines.
    pub(super) fn definition(&self) -> Option<&Definition> {
        self.definition.get_or_init(|| Definition::of(&self.value())).as_ref()
    }

    /// Whether there is something to be cleared before it goes.
    pub(super) fn has_finalizers(&self) -> bool {
        self.metadata["finalizers"].as_array().is_some_and(|list| !list.is_empty())
    }
}

/// A body of a server-side apply, read once.
#[derive(Debug)]
pub(super) struct Applied {
    /// What it says.
    pub(super) content: Arc<Content>,
    /// The fields it sets.
    pub(super) fields: Arc<Fields>,
}

/// Bodies by their digest: a thousand clusters that get the same bundle keep one copy of it.
#[derive(Default)]
pub(super) struct Pool(Mutex<HashMap<[u8; 32], Arc<Applied>>>);

impl Pool {
    /// Reads a body, or remembers that it was read. `None` when it is no object.
    pub(super) fn applied(&self, body: &[u8]) -> Option<Arc<Applied>> {
        let digest: [u8; 32] = Sha256::digest(body).into();
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&digest) {
            return Some(Arc::clone(known));
        }
        let object: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
        let content = Arc::new(Content::of(object));
        let fields = Arc::new(Fields::from(paths_of(&content.value())));
        let applied = Arc::new(Applied { content, fields });
        let mut pool = lock();
        if pool.len() >= SHARED {
            pool.clear();
        }
        pool.insert(digest, Arc::clone(&applied));
        Some(applied)
    }
}

/// An entry of `managedFields`.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    /// Who.
    pub(super) name: Arc<str>,
    /// `Apply` or `Update`.
    pub(super) operation: &'static str,
    /// `status`, or nothing.
    pub(super) subresource: &'static str,
    /// When.
    pub(super) time: Arc<str>,
    /// What.
    pub(super) fields: Arc<Fields>,
}

/// An object of one cluster. A change makes a new one, so watches can be told both.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// What clients said.
    pub(super) content: Arc<Content>,
    /// What controllers said, as JSON.
    pub(super) status: Option<Arc<str>>,
    /// Incarnation.
    pub(super) uid: Box<str>,
    /// Resource version.
    pub(super) version: u64,
    /// Counts changes of what clients said; kinds that have none leave it out.
    pub(super) generation: Option<u64>,
    /// When it was made.
    pub(super) created: Arc<str>,
    /// When its deletion began.
    pub(super) deleted: Option<Arc<str>>,
    /// Who owns what.
    pub(super) managers: Vec<Manager>,
}

impl Object {
    fn write_metadata(&self, out: &mut String) {
        let content = &self.content;
        // Writing to a string cannot fail.
        let _ = write!(out, "{{\"name\":{}", json!(content.name));
        if !content.namespace.is_empty() {
            let _ = write!(out, ",\"namespace\":{}", json!(content.namespace));
        }
        let (uid, version, created) = (&self.uid, self.version, &self.created);
        let _ = write!(out, ",\"uid\":\"{uid}\",\"resourceVersion\":\"{version}\",\"creationTimestamp\":\"{created}\"");
        if let Some(generation) = self.generation {
            let _ = write!(out, ",\"generation\":{generation}");
        }
        if let Some(deleted) = &self.deleted {
            let _ = write!(out, ",\"deletionTimestamp\":\"{deleted}\",\"deletionGracePeriodSeconds\":0");
        }
        for (field, value) in content.metadata.as_object().into_iter().flatten() {
            let _ = write!(out, ",{}:{value}", json!(field));
        }
        out.push_str(",\"managedFields\":[");
        for (index, manager) in self.managers.iter().enumerate() {
            let (name, operation, time, fields) =
                (json!(manager.name.as_ref()), manager.operation, &manager.time, &manager.fields.text);
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(
                out,
                "{comma}{{\"manager\":{name},\"operation\":\"{operation}\",\"apiVersion\":{},\"time\":\"{time}\",\
                 \"fieldsType\":\"FieldsV1\",\"fieldsV1\":{fields}",
                json!(content.api_version)
            );
            if !manager.subresource.is_empty() {
                let _ = write!(out, ",\"subresource\":\"{}\"", manager.subresource);
            }
            out.push('}');
        }
        out.push_str("]}");
    }

    /// As an answer: the whole object, or its metadata alone. Items of lists do not say what they are.
    pub(super) fn write(&self, metadata_only: bool, is_item: bool, out: &mut String) {
        out.push('{');
        match (metadata_only, is_item) {
            (true, _) => out.push_str("\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\","),
            (false, true) => {}
            (false, false) => {
                let (api_version, kind) = (json!(self.content.api_version), json!(self.content.kind));
                let _ = write!(out, "\"kind\":{kind},\"apiVersion\":{api_version},");
            }
        }
        out.push_str("\"metadata\":");
        self.write_metadata(out);
        if !metadata_only {
            // Without its own braces.
            let rest = &self.content.rest[1..self.content.rest.len() - 1];
            if !rest.is_empty() {
                out.push(',');
                out.push_str(rest);
            }
            if let Some(status) = &self.status {
                let _ = write!(out, ",\"status\":{status}");
            }
        }
        out.push('}');
    }

    /// The status as a value.
    pub(super) fn status(&self) -> Value {
        self.status.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}
