//! `FluxInstance`: what one cluster runs.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Interval, Timeout, Tofu};

/// Namespace on the target cluster where Flux lives.
pub const FLUX_NAMESPACE: &str = "flux-system";

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

    /// How often the bundle repository and the whole cluster state are looked at anew. Changes of managed
    /// objects are noticed at once; this is the safety net.
    #[serde(default)]
    pub interval: Interval,

    /// How long controllers may take to become healthy after a change before the instance is reported as failed.
    #[serde(default)]
    pub timeout: Timeout,

    /// Leave everything as it is: no write to the cluster until this is false again.
    #[serde(default)]
    pub suspend: bool,

    /// What deleting this object does to the cluster: `Orphan` leaves everything running, `Uninstall` removes what
    /// was installed, but never a CRD of which objects exist.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Whether Ready waits for the controllers to become healthy.
    #[serde(default = "yes")]
    pub wait: bool,

    /// Changes to what the bundle renders, applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kustomize: Option<Kustomize>,
}

fn yes() -> bool {
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

/// The bundle to install.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// A version (`2.9.4`) or a semver range (`2.x`, `2.9.x`, `>=2.8 <3`) over the tags of the repository, or a
    /// digest (`sha256:...`).
    #[schemars(length(min = 1, max = 128))]
    pub version: String,

    /// Where all images come from, without scheme: `HOST[:PORT]/PATH`. Unset means where the makers of each component
    /// publish them, as the bundle says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$')")
            .message("must be HOST[:PORT]/PATH without scheme, such as ghcr.io/fluxcd")
    )]
    pub registry: Option<String>,

    /// Single images from elsewhere: name of the image in the bundle, such as `source-controller`, to
    /// `HOST[:PORT]/PATH[:TAG][@DIGEST]`. What is left out is kept from the bundle; another tag leaves its digest behind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new(format!("self.all(name, self[name].matches('{IMAGE_REFERENCE}'))"))
        .message("each image must be HOST[:PORT]/PATH[:TAG][@DIGEST] without scheme, such as mirror.example:5000/flux/source-controller"))]
    pub images: BTreeMap<String, ImageReference>,

    /// Write images as `REPOSITORY:TAG@DIGEST`. An image whose digest is not known is an error then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_images: bool,

    /// The bundle repository: `oci://HOST[:PORT]/REPOSITORY`, without tag.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^oci://[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$')")
            .message("must be oci://HOST[:PORT]/REPOSITORY without tag or digest, such as oci://ghcr.io/example/headwater/flux; spec.distribution.version selects the version")
    )]
    pub artifact: String,

    /// Secret of type `kubernetes.io/dockerconfigjson` with credentials for the bundle repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_pull_secret: Option<LocalSecretRef>,

    /// Speak plain HTTP to the bundle registry. Never fallen back to; meant for tests and local mirrors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// What [`ImageReference`] has to match; the API server and the CLI hold against the same.
pub const IMAGE_REFERENCE: &str = "^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$";

/// An image elsewhere: `HOST[:PORT]/PATH[:TAG][@DIGEST]`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ImageReference(#[schemars(length(min = 1, max = 512))] pub String);

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

/// What deleting the `FluxInstance` does to the cluster.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// Leave everything running.
    #[default]
    Orphan,
    /// Remove what was installed, except CRDs of which objects exist.
    Uninstall,
}

/// Kind of the source that Flux starts from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum SyncKind {
    /// A Git repository.
    GitRepository,
    /// An OCI artifact.
    OCIRepository,
    /// An S3-compatible bucket.
    Bucket,
}

/// Cloud provider that gives the credentials of the source.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum SyncProvider {
    Generic,
    Aws,
    Azure,
    Gcp,
    Github,
}

/// The source and Kustomization that Flux starts from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.kind != 'GitRepository' || self.url.matches('^(https?|ssh)://.+')")
        .message("url of a GitRepository must start with https://, http:// or ssh://"),
    validation = Rule::new("self.kind != 'OCIRepository' || self.url.startsWith('oci://')")
        .message("url of an OCIRepository must start with oci://"),
    validation = Rule::new("self.kind != 'Bucket' || !self.url.contains('://')")
        .message("url of a Bucket is its endpoint without scheme, such as s3.example.com"),
    validation = Rule::new("!has(self.provider) || self.provider != 'gcp' || self.kind in ['OCIRepository', 'Bucket']")
        .message("provider gcp needs kind OCIRepository or Bucket"),
    validation = Rule::new("!has(self.provider) || self.provider != 'github' || self.kind == 'GitRepository'")
        .message("provider github needs kind GitRepository"),
    validation = Rule::new("!(has(self.insecure) && self.insecure) || self.kind in ['OCIRepository', 'Bucket']")
        .message("insecure is for kind OCIRepository or Bucket; write http:// for a GitRepository"),
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
        .message("name cannot be changed once sync is set; remove sync first")
)]
pub struct Sync {
    /// Kind of the source.
    pub kind: SyncKind,
    /// Name of the source and the Kustomization. Unset means `flux-system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Address of the source.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Git reference (`refs/heads/main`), OCI tag, or bucket name.
    #[schemars(length(min = 1, max = 255))]
    pub r#ref: String,
    /// Folder in the source that holds the manifests.
    #[serde(default = "default_path")]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// Secret in `flux-system` on the target cluster with credentials for the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pull_secret: Option<String>,
    /// Cloud provider that gives the credentials. Unset means generic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SyncProvider>,
    /// How often the source is fetched and the manifests are applied.
    #[serde(default = "one_minute")]
    pub interval: Interval,
    /// Speak plain HTTP to the source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Delete objects that left the source.
    #[serde(default = "yes")]
    pub prune: bool,
    /// Kustomization waits for what it applied to become healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
    /// How long fetching and applying may take. Unset means Flux's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

fn default_path() -> String {
    "./".to_owned()
}

fn one_minute() -> Interval {
    Interval("1m".to_owned())
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

/// What the operator observed and did.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FluxInstanceStatus {
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), `Reachable`, `ControllersReady`, `SyncReady`.
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
