//! What may be done to a cluster, and what is left to others: the planner's rules that come from users.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Reason;
use crate::api::{Drift, DriftMode};
use crate::render::ObjectKey;

/// The rules of one pass. The default repairs everything.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// What happens when others change what was installed.
    pub drift: Drift,
    /// Objects that somebody changes as often as they are repaired: left alone for now.
    pub damped: BTreeSet<ObjectKey>,
    /// Digest of the deletions that were confirmed, see [`super::Blocked`].
    pub confirmed: Option<String>,
}

/// What is done about an object that others changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// It is put back.
    Repair,
    /// It is said, and nothing else.
    Warn,
    /// It is put back later: somebody fights for it.
    Wait,
}

/// An object that others changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// Which.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// Changed, or gone.
    pub reason: Reason,
    /// The field manager that wrote it last, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<str>>,
    /// What is done about it.
    pub treatment: Treatment,
}

impl Policy {
    /// What is done about an object that others changed; `None` when it is nobody's concern.
    pub(super) fn treatment(&self, key: &ObjectKey) -> Option<Treatment> {
        if self.drift.ignore.iter().any(|ignore| ignore.0 == key.kind) {
            return None;
        }
        match self.drift.mode {
            DriftMode::Ignore => None,
            DriftMode::Warn => Some(Treatment::Warn),
            DriftMode::Correct if self.damped.contains(key) => Some(Treatment::Wait),
            DriftMode::Correct => Some(Treatment::Repair),
        }
    }
}
