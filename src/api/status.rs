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
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), `Reachable`, `Verified`, `ControllersReady`, `SyncReady`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
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
