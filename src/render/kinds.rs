//! Kinds of objects and their paths in the API, known without asking a server.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::object::{Object, ObjectKey};
use crate::api::bundle::CrdVersions;

/// A kind in one version, with what is needed to build its URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural name in URLs.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// Custom resource definitions.
    pub fn crd() -> Self {
        Self::of("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", false)
    }

    /// Config maps.
    pub fn config_map() -> Self {
        Self::of("", "ConfigMap", "configmaps", true)
    }

    /// Pods.
    pub fn pod() -> Self {
        Self::of("", "Pod", "pods", true)
    }

    /// Namespaces.
    pub fn namespace() -> Self {
        Self::of("", "Namespace", "namespaces", false)
    }

    fn of(group: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        Self {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced,
        }
    }

    /// `apiVersion` as manifests write it: `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The key of an object of this kind.
    pub fn key(&self, namespace: Option<String>, name: String) -> ObjectKey {
        ObjectKey { group: self.group.clone(), kind: self.kind.clone(), namespace, name }
    }

    /// The key of a live object of this kind, from its metadata.
    pub fn key_of(&self, metadata: &Value) -> ObjectKey {
        let text = |field: &str| metadata[field].as_str().map(str::to_owned);
        self.key(text("namespace"), text("name").unwrap_or_default())
    }
}

/// A kind that a CRD of a bundle defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedKind {
    /// Name of the CRD: `PLURAL.GROUP`.
    pub crd: String,
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Plural name in URLs.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Versions that are served.
    pub versions: Vec<String>,
    /// The version in which objects are stored.
    pub storage: String,
}

impl ServedKind {
    /// Reads it from a CRD; the error tells which field is missing.
    pub(super) fn from_crd(crd: &Object) -> Result<Self, &'static str> {
        let value = crd.value();
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let versions: Vec<&Value> =
            value.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten().collect();
        let name = |version: &Value| version["name"].as_str().map(str::to_owned);
        let served = Self {
            crd: crd.key().name.clone(),
            group: text("/spec/group").ok_or("spec.group")?,
            kind: text("/spec/names/kind").ok_or("spec.names.kind")?,
            plural: text("/spec/names/plural").ok_or("spec.names.plural")?,
            namespaced: text("/spec/scope").ok_or("spec.scope")? == "Namespaced",
            versions: versions.iter().filter(|v| v["served"] == true).filter_map(|v| name(v)).collect(),
            storage: versions
                .iter()
                .find(|v| v["storage"] == true)
                .and_then(|v| name(v))
                .ok_or("spec.versions[].storage")?,
        };
        if served.versions.is_empty() {
            return Err("spec.versions[].served");
        }
        Ok(served)
    }

    /// Its versions as a manifest lists them.
    pub(super) fn crd_versions(&self) -> CrdVersions {
        let mut served = self.versions.clone();
        served.sort();
        CrdVersions { name: self.crd.clone(), served, stored: self.storage.clone() }
    }

    /// The kind in one version, if that is served.
    pub fn in_version(&self, version: &str) -> Option<Kind> {
        self.versions.iter().any(|v| v == version).then(|| Kind {
            group: self.group.clone(),
            version: version.to_owned(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
            namespaced: self.namespaced,
        })
    }
}

/// Finds a kind of Kubernetes itself.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Kind> {
    BUILTIN.iter().find(|row| row.0 == group && row.1 == version && row.2 == kind).map(|row| Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural: row.3.to_owned(),
        namespaced: row.4,
    })
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const NET: &str = "networking.k8s.io";

/// Everything of Kubernetes that can sensibly be in a bundle: group, version, kind, plural, namespaced.
const BUILTIN: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "ConfigMap", "configmaps", true),
    ("", "v1", "Endpoints", "endpoints", true),
    ("", "v1", "LimitRange", "limitranges", true),
    ("", "v1", "Namespace", "namespaces", false),
    ("", "v1", "PersistentVolume", "persistentvolumes", false),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("", "v1", "Pod", "pods", true),
    ("", "v1", "ResourceQuota", "resourcequotas", true),
    ("", "v1", "Secret", "secrets", true),
    ("", "v1", "Service", "services", true),
    ("", "v1", "ServiceAccount", "serviceaccounts", true),
    (ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false),
    (ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", false),
    (ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", false),
    (ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", false),
    ("apps", "v1", "DaemonSet", "daemonsets", true),
    ("apps", "v1", "Deployment", "deployments", true),
    ("apps", "v1", "ReplicaSet", "replicasets", true),
    ("apps", "v1", "StatefulSet", "statefulsets", true),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true),
    ("batch", "v1", "CronJob", "cronjobs", true),
    ("batch", "v1", "Job", "jobs", true),
    ("coordination.k8s.io", "v1", "Lease", "leases", true),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true),
    ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", false),
    ("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", false),
    (NET, "v1", "Ingress", "ingresses", true),
    (NET, "v1", "IngressClass", "ingressclasses", false),
    (NET, "v1", "NetworkPolicy", "networkpolicies", true),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    (RBAC, "v1", "ClusterRole", "clusterroles", false),
    (RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", false),
    (RBAC, "v1", "Role", "roles", true),
    (RBAC, "v1", "RoleBinding", "rolebindings", true),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", false),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", false),
];

/// Kinds other objects depend on, in the order they are applied; the rest follows in the middle.
const FIRST: &[&str] = &[
    "CustomResourceDefinition",
    "Namespace",
    "ClusterRole",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "IngressClass",
    "ClusterRoleBinding",
    "ResourceQuota",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "LimitRange",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];

/// Kinds that can block the writing of others, so they come last.
const LAST: &[&str] = &[
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// Place of a kind in the order of applying; deleting goes the other way.
pub fn apply_order(kind: &str) -> usize {
    if let Some(place) = FIRST.iter().position(|k| *k == kind) {
        return place;
    }
    match LAST.iter().position(|k| *k == kind) {
        Some(place) => FIRST.len() + 1 + place,
        None => FIRST.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_kinds_are_found_in_their_version_only() {
        let kind = builtin("apps", "v1", "Deployment").unwrap();
        assert_eq!((kind.plural.as_str(), kind.namespaced), ("deployments", true));
        assert!(builtin("apps", "v1beta1", "Deployment").is_none());
        assert!(builtin("", "v1", "Deployment").is_none());
    }

    #[test]
    fn what_others_need_comes_first_and_webhooks_last() {
        let mut kinds =
            vec!["ValidatingWebhookConfiguration", "Something", "Deployment", "Namespace", "CustomResourceDefinition"];
        kinds.sort_by_key(|kind| apply_order(kind));
        assert_eq!(
            kinds,
            ["CustomResourceDefinition", "Namespace", "Deployment", "Something", "ValidatingWebhookConfiguration"]
        );
    }
}
