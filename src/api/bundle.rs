//! `bundle.yaml`: what a bundle says of itself. The format is described in `bundles/README.md`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

    /// Range of installed versions (semver, such as `>=2.7.0`) from which this bundle may be installed in one step.
    /// From older versions an intermediate bundle is needed.
    #[schemars(length(min = 1, max = 128))]
    pub upgradable_from: String,

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

/// One component: a controller with its image and its CRDs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Name users write into `spec.components`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Name of the image below the registry.
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

    /// Names of the CRDs (`PLURAL.GROUP`) that come with this component. Each has to be in `crds/`, and belongs to one
    /// component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crds: Vec<String>,

    /// Anything else the templates need, as `component.values` in their context.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

/// JSON Schema of `bundle.yaml`, for editors and validators; `bundles/bundle.schema.json` holds it.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Manifest);
    schema.insert("title".to_owned(), Value::from("Headwater bundle manifest"));
    schema.to_value()
}
