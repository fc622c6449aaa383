//! `bundle.yaml`: what a bundle says of itself. The format is described in `bundles/README.md`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ClusterSize;

/// The format this operator reads and writes.
pub const FORMAT_VERSION: &str = "headwater.dev/bundle/v1";

/// Prefix of every format version; a number follows.
pub const FORMAT_PREFIX: &str = "headwater.dev/bundle/v";

/// Manifest of a bundle: the file `bundle.yaml` at the root of the artifact.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Format of the bundle: `headwater.dev/bundle/v1`.
    pub format_version: String,

    /// Name of the bundle, the last part of its repository: `flux`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Version of the bundle, a semantic version such as `2.9.4` or, for a rebuild, `2.9.4+1`. The tag of the
    /// artifact is this version with `+` written as `_`.
    #[schemars(length(min = 5, max = 63))]
    pub version: String,

    /// Version of the software in the bundle as its users write it (`v2.9.4`). It is the same for all rebuilds and
    /// is usable as a label value.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub app_version: String,

    /// Kubernetes versions the bundle runs on.
    pub kubernetes: KubernetesRange,

    /// From which installed versions this one can be reached, and how.
    pub upgrade: UpgradePath,

    /// Order in which changed components are rolled out. Those that no step names come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rollout: Vec<RolloutStep>,

    /// Components, in the order in which they are listed to users.
    #[schemars(length(min = 1, max = 64))]
    pub components: Vec<Component>,

    /// Anything else the templates need, as `values` in their context.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

/// Kubernetes versions (`MAJOR.MINOR`) a bundle runs on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesRange {
    /// Older clusters are refused: the software does not start there or lacks what it needs.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+$"))]
    pub refused_below: String,
    /// Oldest version its makers document as tested.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+$"))]
    pub minimum: String,
    /// Newest version its makers document as tested; a newer cluster is a warning.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+$"))]
    pub maximum: String,
}

/// From which installed versions a bundle can be reached. What is in none of the ranges cannot be upgraded to it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradePath {
    /// Range of installed versions (semver, such as `>=2.7.0`) from which one step is enough.
    #[schemars(length(min = 1, max = 128))]
    pub from: String,

    /// Ways for older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub via: Vec<Detour>,
}

/// A way for versions whose stored objects the API server could not read with the new CRDs: the CRDs of other bundles
/// are applied first, one after the other, and all objects are written anew in the version each of them stores.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Detour {
    /// Range of installed versions that take this way: `>=2.3.0, <2.7.0`.
    #[schemars(length(min = 1, max = 128))]
    pub from: String,

    /// Versions of the bundles whose CRDs to go through, in this order.
    #[schemars(length(min = 1, max = 8))]
    pub through: Vec<String>,
}

/// Components that are rolled out together, before those of later steps.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutStep {
    /// Names of the components.
    #[schemars(length(min = 1, max = 64))]
    pub components: Vec<String>,

    /// Why they go before the others; shown to users.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// One component: a controller with its image and its CRDs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Name users write into `spec.components`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Where its makers publish its images, without scheme: `ghcr.io/fluxcd`.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$")
    )]
    pub registry: String,

    /// Name of the controller's image below the registry. No two images of a bundle have the same name.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$"))]
    pub image: String,

    /// Tag of the image.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: String,

    /// Digest of the image's index in the upstream registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,

    /// Installed when the instance names no components.
    #[serde(default)]
    pub default: bool,

    /// Components that have to be installed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,

    /// Further images that the controller uses at run time, such as that of pods it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub images: Vec<Image>,

    /// The CRDs that come with this component. Each has to be in `crds/`, and belongs to one component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crds: Vec<CrdVersions>,

    /// Finalizers that the controller puts on objects of its CRDs, and that nobody clears once it is gone: exact names, or
    /// beginnings that end in `*`. An uninstall clears these and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 3, max = 253), regex(pattern = r"^[A-Za-z0-9][-A-Za-z0-9_./]+\*?$"))
    )]
    pub finalizers: Vec<String>,

    /// Every feature gate the controller knows, with its default. A controller does not start with one it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,

    /// Every command line flag the controller knows, without dashes, with its default as text. A controller does not
    /// start with one it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, String>,

    /// CPU and memory of the controller.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,

    /// What differs for clusters of a size (`spec.cluster.size`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = {"enum": ["small", "medium", "large"]}))]
    pub profiles: BTreeMap<ClusterSize, Profile>,

    /// Anything else the templates need, as `component.values` in their context.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

/// An image that a component uses beside its own.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Name of the image below the component's registry.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$"))]
    pub name: String,

    /// Tag of the image.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: String,

    /// Digest of the image's index in the upstream registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// A CRD and its versions, as the CRD itself says.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CrdVersions {
    /// Name of the CRD: `PLURAL.GROUP`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Versions the API server answers for, sorted.
    #[schemars(length(min = 1, max = 16))]
    pub served: Vec<String>,

    /// Version in which objects are stored.
    #[schemars(length(min = 1, max = 63))]
    pub stored: String,
}

/// CPU and memory in Kubernetes' notation, by name of the resource.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What is set aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// What is the most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

impl Resources {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

/// What differs from a component's own settings on clusters of a size.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Command line flags to add, without dashes; each has to be in the component's `flags`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, String>,

    /// Resources that take the place of the component's own, one by one.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
}

/// JSON Schema of `bundle.yaml`, for editors and validators; `bundles/bundle.schema.json` holds it.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Manifest);
    schema.insert("title".to_owned(), Value::from("Headwater bundle manifest"));
    schema.to_value()
}
