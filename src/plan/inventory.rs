//! The inventory: what we put on a cluster. It names an object before the object is first written, learns its UID when
//! the write is answered, and drops it only when the object is verified to be gone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::render::{Kind, ObjectKey};

/// The instance an installation belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Namespace of the `FluxInstance` on the hub.
    pub namespace: String,
    /// Name of the `FluxInstance`.
    pub name: String,
    /// UID of the `FluxInstance`.
    pub uid: String,
}

impl Owner {
    /// Namespace and name: what stays the same when the object is restored from a backup and so has a new UID.
    pub fn is_same_instance(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }
}

/// Which bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef {
    /// Version, for people.
    pub version: String,
    /// Digest: the identity.
    pub digest: String,
}

impl BundleRef {
    /// Whether its version is lower. What follows a `+` in a version does not count, as semver says.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let version = |text: &str| semver::Version::parse(text).ok();
        match (version(&self.version), version(&other.version)) {
            (Some(this), Some(other)) => this.cmp_precedence(&other).is_lt(),
            _ => false,
        }
    }
}

/// What is known of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// How to address it, also when the bundle that knew it is gone.
    #[serde(flatten)]
    pub kind: Kind,
    /// Its UID, once an answer told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Resource version right after our last write.
    #[serde(default)]
    pub resource_version: u64,
    /// Digest of the bytes we applied last; absent while a write is intended and unconfirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Hash of the fields we owned right after that write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    /// Our write created it, rather than taking it over.
    #[serde(default)]
    pub created: bool,
    /// Label selector of the pods of a workload: a removal waits for them even when the workload itself is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<String>,
    /// Somebody gave the word for its deletion, see [`super::Blocked`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub condemned: bool,
}

impl Entry {
    /// An object that is about to be written for the first time.
    pub fn intended(kind: &Kind) -> Self {
        Self {
            kind: kind.clone(),
            uid: None,
            resource_version: 0,
            digest: None,
            fields: None,
            created: false,
            pods: None,
            condemned: false,
        }
    }
}

/// What we put on one cluster, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Absent after the instance was deleted with `Orphan`: whoever comes next may take over.
    pub owner: Option<Owner>,
    /// The bundle the entries come from.
    pub bundle: Option<BundleRef>,
    /// Finalizers that our controllers serve, in the order in which a removal clears them: it needs no bundle for that.
    pub finalizers: Vec<Finalizers>,
    /// The bundle the CRDs come from, where that is another one: CRDs never go back.
    pub definitions: Option<BundleRef>,
    /// CRDs whose objects are to be written anew when the controllers are the new ones: until then the old ones may still
    /// have written old versions.
    pub sweep: BTreeSet<String>,
    /// The objects.
    pub entries: BTreeMap<ObjectKey, Entry>,
}

/// The finalizers that a controller of ours puts on the objects of one CRD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalizers {
    /// Name of the CRD.
    pub crd: String,
    /// Exact names, or beginnings that end in `*`.
    pub finalizers: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<BundleRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    finalizers: Vec<Finalizers>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definitions: Option<BundleRef>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    sweep: BTreeSet<String>,
    entries: Vec<StoredEntry>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    #[serde(flatten)]
    entry: Entry,
}

impl Inventory {
    /// The bundle the CRDs come from.
    pub fn definitions(&self) -> Option<&BundleRef> {
        self.definitions.as_ref().or(self.bundle.as_ref())
    }

    /// The stored form: JSON, one entry after the other.
    pub fn to_json(&self) -> String {
        let stored = Stored {
            owner: self.owner.clone(),
            bundle: self.bundle.clone(),
            finalizers: self.finalizers.clone(),
            definitions: self.definitions.clone(),
            sweep: self.sweep.clone(),
            entries: self
                .entries
                .iter()
                .map(|(key, entry)| StoredEntry {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    entry: entry.clone(),
                })
                .collect(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When it is not what we write: it is then left alone, never overwritten.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let stored: Stored = serde_json::from_str(text)?;
        let entries = stored
            .entries
            .into_iter()
            .map(|s| {
                let key = ObjectKey {
                    group: s.entry.kind.group.clone(),
                    kind: s.entry.kind.kind.clone(),
                    namespace: s.namespace,
                    name: s.name,
                };
                (key, s.entry)
            })
            .collect();
        let Stored { owner, bundle, finalizers, definitions, sweep, .. } = stored;
        Ok(Self { owner, bundle, finalizers, definitions, sweep, entries })
    }
}
