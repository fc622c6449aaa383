//! `spec.discover` of a `FluxFleet`: instances of the clusters whose kubeconfigs are in Secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::FluxInstanceSpec;

/// Label and annotation of an instance that a fleet has made. The label has the UID of the fleet, the annotation its name.
pub const DISCOVERED_BY: &str = "headwater.dev/discovered-by";
/// Annotation of such an instance: digest of what was last wanted of it.
pub const TEMPLATE: &str = "headwater.dev/template";
/// Annotation of such an instance: why nobody looks after its kubeconfig any more.
pub const ORPHANED: &str = "headwater.dev/orphaned";
/// Annotation of such an instance: since when that is so.
pub const ORPHANED_SINCE: &str = "headwater.dev/orphaned-since";

/// Makes an instance of each cluster whose kubeconfig is found in a Secret of the namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.clusterAPI) || has(self.secrets)")
        .message("say where clusters are found: clusterAPI: {} for those of Cluster API, secrets: {selector: ...} for labelled Secrets, or both")
)]
pub struct Discover {
    /// Clusters of Cluster API: Secrets `CLUSTER-kubeconfig` with the label `cluster.x-k8s.io/cluster-name: CLUSTER`.
    #[serde(default, rename = "clusterAPI", skip_serializing_if = "Option::is_none")]
    pub cluster_api: Option<ClusterApi>,

    /// Clusters whose kubeconfigs are in Secrets with certain labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<LabelledSecrets>,

    /// What the instances are made from.
    pub template: InstanceTemplate,

    /// What becomes of an instance whose Secret is gone: `Orphan` leaves it as it is and marks it, `Delete` deletes it when the Secret was
    /// gone for ten minutes, with what its own `deletionPolicy` says. Of many that go within an hour none is deleted.
    #[serde(default)]
    pub on_removal: OnRemoval,
}

/// Clusters of Cluster API.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterApi {
    /// Which of its Secrets. Unset means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Clusters whose kubeconfigs are in Secrets with certain labels. A cluster is named like its Secret, without `-kubeconfig`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelledSecrets {
    /// Which Secrets. An empty selector would take every Secret of the namespace.
    #[x_kube(
        validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
            .message("must select by at least one label: not every Secret of the namespace is a kubeconfig")
    )]
    pub selector: LabelSelector,
    /// Key of the kubeconfig in the Secrets. Unset means `value`, else `value.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// What becomes of an instance whose Secret is gone.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum OnRemoval {
    /// It stays, and says so.
    #[default]
    Orphan,
    /// It is deleted.
    Delete,
}

/// What instances are made from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct InstanceTemplate {
    /// Labels and annotations.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// The spec of each instance, without `kubeConfig`. Fields that are not said here are the instance's own; `admission` is `Fleet`
    /// unless it is said.
    pub spec: TemplateSpec,
}

/// Labels and annotations of instances.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct TemplateMetadata {
    /// Labels, beside those of the Secret; these win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Part of the spec of an instance: what was said, without defaults, so that all else stays with whoever sets it on the instance.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct TemplateSpec(pub Map<String, Value>);

impl JsonSchema for TemplateSpec {
    fn schema_name() -> Cow<'static, str> {
        "TemplateSpec".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = FluxInstanceSpec::json_schema(generator).to_value();
        without_defaults(&mut schema);
        let rule = json!({
            "rule": "!has(self.kubeConfig)",
            "message": "kubeConfig is the Secret in which each cluster was found: leave it out",
        });
        match schema["x-kubernetes-validations"].as_array_mut() {
            Some(rules) => rules.push(rule),
            None => schema["x-kubernetes-validations"] = json!([rule]),
        }
        Schema::try_from(schema).unwrap_or_default()
    }
}

/// What the API server would fill in would be ours on every instance.
fn without_defaults(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.remove("default");
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get_mut(below) {
            without_defaults(schema);
        }
    }
    for below in ["properties", "$defs"] {
        fields
            .get_mut(below)
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
            .for_each(|(_, s)| without_defaults(s));
    }
    for below in ["anyOf", "oneOf", "allOf"] {
        fields.get_mut(below).and_then(Value::as_array_mut).into_iter().flatten().for_each(without_defaults);
    }
}
