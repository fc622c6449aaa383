//! What a CRD says of its versions: which are served, which one objects are stored in, and in which they may still be.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::render::Kind;

/// A CRD, live or wanted, without its schemas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `PLURAL.GROUP`.
    pub name: String,
    /// The kind in the version in which objects are stored.
    pub kind: Kind,
    /// All versions.
    pub versions: BTreeSet<String>,
    /// Those that the API server answers for.
    pub served: BTreeSet<String>,
    /// Those in which objects may be stored: `status.storedVersions`. Empty for a CRD that is not live.
    pub stored: BTreeSet<String>,
}

impl Definition {
    /// Reads a CRD; `None` when it has no storage version, which no API server accepts.
    pub fn of(crd: &Value) -> Option<Self> {
        let text = |pointer: &str| Some(crd.pointer(pointer)?.as_str()?.to_owned());
        let list = crd.pointer("/spec/versions")?.as_array()?;
        let names = |filter: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
            list.iter().filter(|v| filter(v)).filter_map(|v| Some(v["name"].as_str()?.to_owned())).collect()
        };
        let storage = list.iter().find(|v| v["storage"] == true)?["name"].as_str()?.to_owned();
        let stored = crd.pointer("/status/storedVersions").and_then(Value::as_array);
        Some(Self {
            name: text("/metadata/name")?,
            kind: Kind {
                group: text("/spec/group")?,
                version: storage,
                kind: text("/spec/names/kind")?,
                plural: text("/spec/names/plural")?,
                namespaced: crd.pointer("/spec/scope").is_some_and(|s| s == "Namespaced"),
            },
            versions: names(&|_| true),
            served: names(&|v| v["served"] == true),
            stored: stored.into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
        })
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> &str {
        &self.kind.version
    }

    /// Whether objects may be stored in another version than new ones are.
    pub fn is_mixed(&self) -> bool {
        self.stored.iter().any(|version| version != self.storage())
    }

    /// Whether `next` lacks a version that this one has.
    pub fn loses_versions(&self, next: &Self) -> bool {
        !self.versions.is_subset(&next.versions)
    }
}
