//! `spec.upgrade` and `spec.drift`: how a cluster may change, and what happens when others change it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Annotation: the digest of deletions that may go ahead although they are many, or touch namespaces, CRDs or claims.
pub const CONFIRM: &str = "headwater.dev/confirm";
/// Annotation: any new value is the word to try a held target again.
pub const RETRY: &str = "headwater.dev/retry";
/// Annotation: `TOKEN` or `TOKEN=DIGEST`. A new value is the word to go back to the last good revision, or to that of the digest.
pub const ROLLBACK: &str = "headwater.dev/rollback";
/// Annotation of Flux: a new value asks to look now. `status.lastHandledReconcileAt` answers with it when that has been done.
pub const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";
/// Annotation: the UID of an unreachable cluster whose installation is left behind when its instance is deleted.
pub const ABANDON: &str = "headwater.dev/abandon";

/// How the installation moves from one bundle to another.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// What happens when a change does not become healthy in time: `Rollback` returns to the last good bundle and the spec values
    /// it ran with, `Hold` leaves things as they are. Either way the change is not tried again until spec or bundle
    /// change, or `headwater retry` says so.
    #[serde(default)]
    pub on_failure: OnFailure,

    /// Let the version go down. CRDs stay as they are: those of the newer version.
    #[serde(default)]
    pub allow_downgrade: bool,

    /// How seriously each rule of the preflight is taken. Unset means as the rule's own description says.
    #[serde(default, skip_serializing_if = "Preflight::is_default")]
    pub preflight: Preflight,

    /// Let an uninstall delete CRDs of which objects exist, and so these objects. What they made keeps running.
    #[serde(default, rename = "deleteCRDs")]
    pub delete_crds: bool,

    /// After an upgrade, ask the source and the Kustomization of `spec.sync` to reconcile, and wait until both have, whatever
    /// comes of it: so controllers are known to work, not only to be available. Unset means: on the hub's own cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<bool>,

    /// When another bundle may be installed, beside what a fleet says. None means always. What has begun is finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<super::Window>,
}

/// What happens when a change does not become healthy in time.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum OnFailure {
    /// Back to the last good revision.
    #[default]
    Rollback,
    /// Leave it as it is.
    Hold,
}

/// How seriously a rule is taken.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
pub enum Enforcement {
    /// What is found stops the change before it begins.
    Error,
    /// What is found is said.
    Warn,
    /// Not looked at.
    Off,
}

/// Enforcement by rule. Where it is unset, what is found weighs as each field says in brackets; what is set holds for all that the
/// rule finds. What could not be looked at is always a warning.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// The cluster's Kubernetes is older than the bundle runs on (by default `Error`), or outside of what its makers test (`Warn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<Enforcement>,

    /// The bundle declares no way from the version that is installed (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_path: Option<Enforcement>,

    /// The account lacks a right that the change takes (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Enforcement>,

    /// Objects are stored in an API version that no CRD on the way to the bundle knows (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_versions: Option<Enforcement>,

    /// An API version goes that others still write: the applied inventory of a Kustomization or the like names it, so that its
    /// next apply would fail (`Error`), or somebody wrote objects in it (`Warn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_versions: Option<Enforcement>,

    /// A CRD changes so that the API server refuses it or data is lost (`Error`), or so that something may be refused that was
    /// accepted before (`Warn`). What is so already on the cluster does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crd_schema: Option<Enforcement>,

    /// A validation rule (CEL) of a CRD is new or tightened (`Warn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Enforcement>,

    /// Others own fields that the change takes over (`Warn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_conflicts: Option<Enforcement>,

    /// The API server, or an admission webhook or policy, refuses an object (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<Enforcement>,

    /// Somebody else keeps an object that the change takes over, and would change it back (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_owners: Option<Enforcement>,

    /// Pods could not be created: a resource quota is used up, or their priority class is missing (`Error`), or no quota allows
    /// pods of a critical priority class, as some clusters demand it (`Warn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Enforcement>,

    /// An image is not in the registry that `spec.distribution.registry` or `images` names (`Error`), or could not be looked for
    /// (`Warn`). Images at their makers' own registries are looked for only when this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Enforcement>,

    /// A command line names a flag or feature gate that the controller of the bundle does not know, so that it would not
    /// start (`Error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Enforcement>,
}

impl Preflight {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens when others change what was installed.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// `Correct` puts it back within seconds, `Warn` says it, `Ignore` does neither.
    #[serde(default)]
    pub mode: DriftMode,

    /// What is left to others: a kind (`NetworkPolicy`), or a JSON pointer (`/spec/replicas`) in objects of any kind. A change of
    /// the spec or of the bundle is applied to kinds all the same; fields are never applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ignore: Vec<DriftIgnore>,
}

/// What happens when others change what was installed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DriftMode {
    /// Put it back.
    #[default]
    Correct,
    /// Say it.
    Warn,
    /// Leave it.
    Ignore,
}

/// A kind, or a JSON pointer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct DriftIgnore(
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^([A-Z][A-Za-z0-9]*|(/([^~/]|~[01])+)+)$"))] pub String,
);
