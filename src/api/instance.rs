//! `FluxInstance`: what one cluster runs.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distribution, Drift, FluxInstanceStatus, Interval, Sync, Timeout, Tofu, Upgrade};

/// Namespace on the target cluster where Flux lives.
pub const FLUX_NAMESPACE: &str = "flux-system";

/// Label with the shard an instance belongs to: which operator has it. Without it, or with an empty value, that is the one
/// that runs without a shard.
pub const SHARD_LABEL: &str = "headwater.dev/shard";

/// `FluxInstance` declares the Flux installation of one cluster: which bundle, which components,
/// and what they sync. The operator installs it, keeps it, upgrades it and reports on it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "FluxInstance",
    plural = "fluxinstances",
    shortname = "hwi",
    category = "headwater",
    namespaced,
    status = "FluxInstanceStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.applied.version"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.applied.at"),
    printcolumn(name = "Status", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.applied.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FluxInstanceSpec {
    /// The cluster to manage, as a kubeconfig in a Secret. Unset means the cluster the operator runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_config: Option<KubeConfigRef>,

    /// The bundle to install and where its images come from.
    pub distribution: Distribution,

    /// Components to install, by the names the bundle declares. Unset means the bundle's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new("self.all(c, c.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'))")
            .message("each component must be a name such as source-controller (lower case letters, digits and dashes)")
    )]
    pub components: Option<Vec<ComponentName>>,

    /// Facts about the cluster that change what is rendered.
    #[serde(default)]
    pub cluster: Cluster,

    /// Labels and annotations put on every object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_metadata: Option<CommonMetadata>,

    /// The source and Kustomization that Flux starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,

    /// How tofu-controller is installed, where it is one of the components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tofu: Option<Tofu>,

    /// How often the bundle repository and the cluster are looked at anew. Changes of managed objects are noticed at once,
    /// on remote clusters those of Deployments and CRDs, and the rest at every sixth interval.
    #[serde(default)]
    pub interval: Interval,

    /// How long controllers may take to become healthy after a change before the instance is reported as failed; also how
    /// long one question to the bundle registry may take, with all retries.
    #[serde(default)]
    pub timeout: Timeout,

    /// Who decides when another bundle is installed: `Self` takes the newest one that `distribution.version` admits at once, `Fleet` only
    /// what a `FluxFleet` admits. Without a fleet an instance with `Fleet` stays at what it runs.
    #[serde(default)]
    pub admission: Admission,

    /// Leave everything as it is: no write to the cluster until this is false again.
    #[serde(default)]
    pub suspend: bool,

    /// What deleting this object does to the cluster: `Orphan` leaves everything running, `Uninstall` removes what
    /// was installed, but no CRD of which objects exist unless `upgrade.deleteCRDs` says so. What Flux made keeps running.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Whether Ready waits for the controllers to become healthy.
    #[serde(default = "yes")]
    pub wait: bool,

    /// Changes to what the bundle renders, applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kustomize: Option<Kustomize>,

    /// How the installation moves from one bundle to another.
    #[serde(default)]
    pub upgrade: Upgrade,

    /// What happens when others change what was installed.
    #[serde(default)]
    pub drift: Drift,
}

pub(super) fn yes() -> bool {
    true
}

/// Name of a component, as the bundle declares it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ComponentName(#[schemars(length(max = 63))] pub String);

/// Where to find the kubeconfig of a remote cluster.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeConfigRef {
    /// Secret in the same namespace that holds the kubeconfig.
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret. Unset means `value`, else `value.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// A Secret in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct LocalSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Facts about the cluster that change what is rendered.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// DNS domain of the cluster.
    #[serde(default = "default_domain")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
            .message("must be a DNS domain such as cluster.local")
    )]
    pub domain: String,
    /// Install the network policies of the bundle.
    #[serde(default = "yes")]
    pub network_policy: bool,
    /// How much the cluster has to do. Unset means the defaults of the controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ClusterSize>,
}

/// How much a cluster has to do: concurrency, caches and resources of the controllers follow from it, as the bundle says.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterSize {
    /// A few dozen applications.
    Small,
    /// Some hundred applications.
    Medium,
    /// A thousand applications or more.
    Large,
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

impl Default for Cluster {
    fn default() -> Self {
        Self { domain: default_domain(), network_policy: true, size: None }
    }
}

/// Labels and annotations put on every object.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct CommonMetadata {
    /// Labels. Those the bundle or the operator sets itself win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Who decides when another bundle is installed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Admission {
    /// The instance.
    #[default]
    #[serde(rename = "Self")]
    Own,
    /// A fleet.
    Fleet,
}

/// What deleting the `FluxInstance` does to the cluster.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// Leave everything running.
    #[default]
    Orphan,
    /// Remove what was installed, except CRDs of which objects exist.
    Uninstall,
}

/// Changes to what the bundle renders.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct Kustomize {
    /// Patches, applied in order.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub patches: Vec<Patch>,
}

/// One patch in Kustomize's form.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Patch {
    /// YAML of a strategic merge patch (an object) or a JSON patch (a list of operations).
    #[schemars(length(min = 1, max = 65536))]
    pub patch: String,
    /// Which objects to patch. A merge patch that names its object may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PatchTarget>,
}

/// Selects objects to patch: all given fields have to match. `kind`, `name`, `namespace` and `group` are anchored
/// regular expressions, as in Kustomize.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct PatchTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation_selector: Option<String>,
}
