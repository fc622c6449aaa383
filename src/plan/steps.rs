//! The plan as a value: what is to be done, in which order, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::{BundleRef, CRD, Definition, Drifted, Finalizers, Inventory, Owner, removal, stage_of, takeover};
use crate::api::bundle::Component;
use crate::render::{Kind, Object, ObjectKey, digest};

/// Kubernetes' recommended label for the component an object belongs to.
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// One object as it is to be, serialised once for all clusters that share it.
#[derive(Debug, Clone, Serialize)]
pub struct Desired {
    /// Identity.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// How to address it.
    #[serde(skip)]
    pub kind: Kind,
    /// The component it belongs to, as its label tells.
    #[serde(skip)]
    pub component: Option<String>,
    /// Digest of `body`.
    pub digest: String,
    /// Canonical JSON.
    #[serde(skip)]
    pub body: Bytes,
    /// Label selector of the pods of a workload.
    #[serde(skip)]
    pub pods: Option<String>,
    /// What a CRD says of its versions: asked for by every change of every cluster, and megabytes to read.
    #[serde(skip)]
    pub definition: Option<Definition>,
}

impl Desired {
    /// Serialises a rendered object.
    pub fn new(object: &Object, kind: Kind) -> Self {
        let body = Bytes::from(object.to_bytes());
        let labels = object.value().pointer("/spec/selector/matchLabels").and_then(serde_json::Value::as_object);
        let pods = labels.filter(|labels| !labels.is_empty() && stage_of(&kind) == Stage::Workloads).map(|labels| {
            let pairs = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(",")
        });
        let component = object.label(COMPONENT_LABEL).map(str::to_owned);
        let definition = if kind.kind == CRD { Definition::of(object.value()) } else { None };
        Self { key: object.key().clone(), kind, component, digest: digest(&body), body, pods, definition }
    }
}

/// Everything one instance wants on its cluster, in apply order.
#[derive(Debug, Clone, Serialize)]
pub struct DesiredSet {
    /// The bundle it was rendered from.
    pub bundle: BundleRef,
    /// Digest over all objects: changes with the bundle and with the spec.
    pub config: String,
    /// The objects.
    pub objects: Vec<Arc<Desired>>,
    /// What a removal has to know of the bundle, see [`Inventory::finalizers`].
    #[serde(skip)]
    pub finalizers: Vec<Finalizers>,
}

impl DesiredSet {
    /// Freezes rendered objects.
    pub fn new(bundle: BundleRef, objects: Vec<Desired>) -> Self {
        let all: Vec<u8> = objects.iter().flat_map(|object| object.digest.bytes()).collect();
        let config = digest(&all);
        Self { bundle, config, objects: objects.into_iter().map(Arc::new).collect(), finalizers: Vec::new() }
    }

    /// Notes which finalizers the controllers serve.
    #[must_use]
    pub fn with_finalizers(self, components: &[Component]) -> Self {
        let finalizers = removal::finalizers(components, &self.objects);
        Self { finalizers, ..self }
    }
}

/// Objects of one stage may be written side by side; a stage begins when the one before is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Stage {
    /// Stored objects are written anew, so that the API server accepts CRDs without their old versions.
    Migration,
    /// What others need to exist: namespaces, CRDs, cluster roles.
    Definitions,
    /// Everything that neither defines nor runs.
    Resources,
    /// Deployments and the like: their accounts, quotas and policies stand by now.
    Workloads,
    /// Objects of the bundle's own CRDs.
    CustomResources,
    /// Stored objects are written anew in the versions of the new CRDs, when nobody writes the old ones any more.
    Sweep,
    /// Deletions.
    Prune,
}

/// Why an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It is not there.
    Missing,
    /// It is there, and not ours yet.
    TakenOver,
    /// What we want has changed.
    Changed,
    /// Somebody else changed or took over a field of ours.
    Drifted,
    /// A CRD of a version in between, so that stored objects can be written in a version that the wanted one knows.
    Detour,
}

/// What must hold at the moment of a deletion. The UID is always a precondition beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Guard {
    /// Nothing more.
    None,
    /// A CRD: no object of it may exist on the cluster.
    NoObjects,
    /// A namespace of our own making: no object of a managed CRD may live in it.
    OursAndEmpty,
}

/// One thing to do.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Step {
    /// Write the object by server-side apply.
    Apply {
        /// When.
        stage: Stage,
        /// Why.
        reason: Reason,
        /// What.
        #[serde(flatten)]
        object: Arc<Desired>,
        /// The server will not let a field change that has to: this incarnation is deleted first.
        #[serde(rename = "replaces", skip_serializing_if = "Option::is_none")]
        replaces: Option<String>,
        /// How it becomes ours first, if it is not.
        #[serde(skip_serializing_if = "Option::is_none")]
        adoption: Option<takeover::Adoption>,
    },
    /// Make Helm forget a release whose objects are taken over, so that it cannot uninstall them.
    Detach {
        /// The Secret of its newest revision.
        #[serde(flatten)]
        key: ObjectKey,
        /// The release.
        release: takeover::Tool,
        /// Its Secrets, one per revision: name and UID.
        secrets: BTreeMap<String, String>,
        /// What else is of the release: it stays as it is, and belongs to nobody from then on.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        left: Vec<ObjectKey>,
    },
    /// Write all objects of a CRD anew in the version in which it stores them, and strike the others from `status.storedVersions`.
    Migrate {
        /// When.
        stage: Stage,
        /// The CRD.
        #[serde(flatten)]
        key: ObjectKey,
        /// The objects' kind, in the version they are stored in.
        #[serde(rename = "to")]
        kind: Kind,
        /// Objects may be stored in another version.
        mixed: bool,
    },
    /// Go on only when these are healthy; the next pass looks again.
    Await {
        /// When.
        stage: Stage,
        /// What is waited for.
        keys: Vec<ObjectKey>,
    },
    /// Delete the object with this UID.
    Delete {
        /// When.
        stage: Stage,
        /// What.
        #[serde(flatten)]
        key: ObjectKey,
        /// Which incarnation: a precondition of the request.
        uid: String,
        /// What else must hold.
        guard: Guard,
        /// Label selector: it counts as gone only when none of these pods is left.
        #[serde(skip_serializing_if = "Option::is_none")]
        pods: Option<String>,
        /// How to address it.
        #[serde(skip)]
        kind: Kind,
    },
    /// Clear finalizers of all objects of a CRD, everywhere: nobody is left who would.
    Release {
        /// The CRD.
        #[serde(flatten)]
        key: ObjectKey,
        /// Which: exact names, or beginnings that end in `*`. Those of others stay.
        finalizers: Vec<String>,
    },
    /// Strike it from the inventory without touching the cluster.
    Forget {
        /// What.
        #[serde(flatten)]
        key: ObjectKey,
        /// Why.
        reason: &'static str,
    },
}

impl Step {
    /// The object concerned, if it is one.
    pub fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::Apply { object, .. } => Some(&object.key),
            Self::Detach { key, .. }
            | Self::Migrate { key, .. }
            | Self::Delete { key, .. }
            | Self::Release { key, .. }
            | Self::Forget { key, .. } => Some(key),
            Self::Await { .. } => None,
        }
    }

    /// When it is done.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Apply { stage, .. }
            | Self::Migrate { stage, .. }
            | Self::Await { stage, .. }
            | Self::Delete { stage, .. } => *stage,
            // Before anything becomes ours that Helm could still take away.
            Self::Detach { .. } => Stage::Migration,
            Self::Release { .. } | Self::Forget { .. } => Stage::Prune,
        }
    }
}

/// What to do to one cluster, in order.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Who asks for it.
    pub owner: Owner,
    /// The bundle; absent for a removal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleRef>,
    /// Digest of the desired set.
    pub config: String,
    /// Ordered by stage.
    pub steps: Vec<Step>,
    /// What others changed, and what is done about it; what is ignored is not listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drifted: Vec<Drifted>,
    /// Number of objects that are left as they are.
    pub unchanged: usize,
    /// CRDs stay as they are: they come from a newer bundle.
    #[serde(rename = "keepsCRDs", skip_serializing_if = "std::ops::Not::not")]
    pub keeps_definitions: bool,
    /// Deletions that wait for a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// The inventory to record before the first step: everything that is ours or is about to be.
    #[serde(skip)]
    pub intent: Inventory,
}

/// Deletions that are too many, or of too much, to be done without a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// Names exactly these deletions, with their UIDs.
    pub digest: String,
    /// What would be deleted.
    pub deletions: Vec<ObjectKey>,
    /// Number of objects in the inventory.
    pub of: usize,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How an object that the plan applies becomes ours first, if it is not.
    pub fn adoption(&self, wanted: &ObjectKey) -> Option<&takeover::Adoption> {
        self.steps.iter().find_map(|step| match step {
            Step::Apply { object, adoption, .. } if object.key == *wanted => adoption.as_ref(),
            _ => None,
        })
    }

    /// Digest of the plan: what `diff` printed can be compared with what is executed.
    pub fn digest(&self) -> String {
        digest(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Counts for people: created, taken over, changed, repaired, deleted.
    pub fn summary(&self) -> String {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            let word = match step {
                Step::Apply { reason: Reason::Missing, .. } => "to create",
                Step::Apply { reason: Reason::TakenOver, .. } => "to take over",
                Step::Apply { reason: Reason::Changed, .. } => "to change",
                Step::Apply { reason: Reason::Drifted, .. } => "to repair",
                Step::Detach { .. } => "to detach",
                Step::Apply { reason: Reason::Detour, .. } | Step::Await { .. } => continue,
                Step::Migrate { .. } => "to migrate",
                Step::Delete { .. } => "to delete",
                Step::Release { .. } => "to release",
                Step::Forget { .. } => "to forget",
            };
            *counts.entry(word).or_insert(0usize) += 1;
        }
        if let Some(blocked) = &self.blocked {
            counts.insert("to delete when confirmed", blocked.deletions.len());
        }
        let words = [
            "to detach",
            "to migrate",
            "to take over",
            "to create",
            "to change",
            "to repair",
            "to delete",
            "to delete when confirmed",
            "to release",
            "to forget",
        ];
        let mut parts: Vec<String> = words.iter().filter_map(|w| counts.get(w).map(|n| format!("{n} {w}"))).collect();
        parts.push(format!("{} unchanged", self.unchanged));
        parts.join(", ")
    }
}
