//! What is looked at only before a change: things that metadata of our own objects does not tell. Read by the preflight, the
//! upgrade and the takeover.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::render::ObjectKey;

use super::Live;
use super::takeover::Others;

/// A look at one cluster, made before a change.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The live CRDs among those that are wanted, whole, by name.
    pub crds: BTreeMap<String, Value>,
    /// Objects of CRDs that are to lose a version, by name of the CRD.
    pub stored: BTreeMap<String, Stored>,
    /// Objects that are wanted and exist already, but do not carry our label.
    pub foreign: BTreeMap<ObjectKey, Foreign>,
    /// What the tools do that these belong to.
    pub others: Others,
    /// Objects that the API server would not let change into what is wanted: UID and refusal. Only of kinds that may be created
    /// anew, see [`super::replace`].
    pub refused: BTreeMap<ObjectKey, (String, String)>,
}

/// Objects of one CRD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many there are.
    pub objects: usize,
    /// How many have fields recorded in each API version (`v1beta2`) other than the one they are stored in.
    pub recorded: BTreeMap<String, usize>,
    /// Managers of those fields.
    pub managers: BTreeSet<String>,
}

/// An object of somebody else that has the name of one of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreign {
    /// Identity.
    pub live: Live,
    /// Its metadata as the server tells it, `managedFields` included.
    pub metadata: Value,
}

impl Survey {
    /// The newest version that the labels of live CRDs tell, with or without `v`: all tools that install Flux write it.
    pub fn installed(&self) -> Option<semver::Version> {
        let version = |crd: &Value| {
            let label = crd.pointer("/metadata/labels/app.kubernetes.io~1version")?.as_str()?;
            semver::Version::parse(label.trim_start_matches('v')).ok()
        };
        self.crds.values().filter_map(version).max_by(semver::Version::cmp_precedence)
    }
}
