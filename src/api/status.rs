//! `status`: what the operator observed and did.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator observed and did.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FluxInstanceStatus {
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), `Reachable`, `Verified`, `Preflight`, `ControllersReady`, `SyncReady`,
    /// `Drifted`, `Claimed`, `Admitted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What a fleet has admitted: the bundle to run, with `admission: Fleet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Admitted>,
    /// Digest of the bundle that the conditions speak of: an older word says nothing about a newer admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_digest: Option<String>,
    /// What the operator is applying or applied last, healthy or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted: Option<Revision>,
    /// The bundle that was applied completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Revision>,
    /// The bundle that was applied and seen healthy last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Revision>,
    /// Controllers and their images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ComponentStatus>,
    /// The cluster behind the kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// Number of objects in the inventory on the target cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<i64>,
    /// What was installed when, newest first, at most ten entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// The change under way or made last, step by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// What the preflight of the newest target found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightStatus>,
    /// A target that failed and is not tried again until spec or bundle change, or `headwater retry` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Words of users (annotations) that have been heeded.
    #[serde(default, skip_serializing_if = "HandledWords::is_empty")]
    pub handled: HandledWords,
    /// The last `reconcile.fluxcd.io/requestedAt` (annotation) after which everything was looked at, the registry included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// A bundle that a fleet has admitted.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Admitted {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle: its identity.
    pub digest: String,
    /// Name of the fleet.
    pub by: String,
    /// When.
    pub at: Time,
    /// It is a way back: older than what it replaces, on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    /// Digest of what it is a way back from: what this fleet gave up is known even without the status of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A change, step by step.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct PlanStatus {
    /// Version it comes from; none for a first installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Version of the bundle it leads to.
    pub version: String,
    /// Digest of the bundle.
    pub digest: String,
    /// Digest of everything rendered from the bundle and the spec.
    pub config: String,
    /// The steps, in order.
    #[serde(default)]
    pub steps: Vec<PlanStep>,
}

/// One step of a change.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct PlanStep {
    /// What is done.
    pub name: String,
    /// How far it is.
    pub state: StepState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a step is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun.
    Running,
    /// Ended well.
    Done,
    /// Not done in time, or refused.
    Failed,
}

/// What a preflight found.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct PreflightStatus {
    /// Digest of the bundle that was looked at.
    pub digest: String,
    /// Generation of the spec that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Digest of everything rendered from the bundle and the spec.
    pub config: String,
    /// Findings, the worst first, at most twenty.
    #[serde(default)]
    pub findings: Vec<PreflightFinding>,
    /// How many more there are.
    #[serde(default)]
    pub more: i64,
}

/// One finding of a preflight.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct PreflightFinding {
    /// `Error` stops the change, `Warn` does not.
    pub severity: super::Enforcement,
    /// Name of the rule, as in `spec.upgrade.preflight`.
    pub rule: String,
    /// The object it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// A target that failed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Version of the bundle that failed.
    pub version: String,
    /// Digest of the bundle that failed.
    pub digest: String,
    /// Generation of the spec that failed.
    pub generation: i64,
    /// Why.
    pub message: String,
    /// Since when.
    pub at: Time,
    /// The revision that runs instead; none when the failed one was left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Revision>,
    /// Why nothing else runs instead, where a rollback was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Words of users that have been heeded: the values of the annotations.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct HandledWords {
    /// Of `headwater.dev/retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Of `headwater.dev/rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<String>,
}

impl HandledWords {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One bundle at one moment.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Revision {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle: its identity.
    pub digest: String,
    /// Digest of everything rendered from the bundle and the spec.
    pub config: String,
    /// Since when.
    pub at: Time,
}

/// A controller and its image.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct ComponentStatus {
    /// Name of the component.
    pub name: String,
    /// Image it runs.
    pub image: String,
    /// Whether its Deployment was healthy when last looked at.
    pub ready: bool,
}

/// The cluster behind the kubeconfig.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Version of its API server.
    pub kubernetes_version: String,
    /// UID of its `kube-system` namespace: the identity of a cluster. A kubeconfig that suddenly leads elsewhere is refused.
    pub uid: String,
}

/// How a change ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Outcome {
    /// Being applied, or waiting for health.
    Progressing,
    /// Applied and healthy.
    Succeeded,
    /// Not healthy in time.
    Failed,
}

/// One change in the past.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct HistoryEntry {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle.
    pub digest: String,
    /// Digest of everything rendered from the bundle and the spec.
    pub config: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
}
