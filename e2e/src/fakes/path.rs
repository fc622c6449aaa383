//! What a request is about, from its path and its query.

use std::collections::BTreeMap;

/// A resource of the server: `deployments` of `apps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Kind of its objects.
    pub(super) kind: String,
    /// Whether they live in namespaces.
    pub(super) namespaced: bool,
    /// Whether changes of them are counted.
    pub(super) has_generation: bool,
    /// Whether a CRD defines it.
    pub(super) is_custom: bool,
}

/// Group, version, plural, kind, namespaced, with a generation.
const BUILTIN: [(&str, &str, &str, &str, bool, bool); 19] = [
    ("", "v1", "configmaps", "ConfigMap", true, false),
    ("", "v1", "events", "Event", true, false),
    ("", "v1", "namespaces", "Namespace", false, false),
    ("", "v1", "pods", "Pod", true, false),
    ("", "v1", "resourcequotas", "ResourceQuota", true, false),
    ("", "v1", "secrets", "Secret", true, false),
    ("", "v1", "serviceaccounts", "ServiceAccount", true, false),
    ("", "v1", "services", "Service", true, false),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false, true),
    ("apps", "v1", "deployments", "Deployment", true, true),
    ("apps", "v1", "statefulsets", "StatefulSet", true, true),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true, true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true, true),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false, false),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false, false),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true, false),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", true, false),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", false, true),
];

/// Finds a resource of Kubernetes itself.
pub(super) fn builtin(group: &str, version: &str, plural: &str) -> Option<Resource> {
    let row = BUILTIN.iter().find(|row| row.0 == group && row.1 == version && row.2 == plural)?;
    Some(Resource { kind: row.3.to_owned(), namespaced: row.4, has_generation: row.5, is_custom: false })
}

/// Objects in question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// API group; empty for the core group.
    pub(super) group: String,
    /// API version.
    pub(super) version: String,
    /// `deployments`; empty when a whole group is asked for.
    pub(super) plural: String,
    /// Namespace; empty for the whole cluster.
    pub(super) namespace: String,
    /// Name; empty for a collection.
    pub(super) name: String,
    /// `status`, or nothing.
    pub(super) subresource: String,
}

impl Target {
    /// Reads a path; `None` when it is not one of the API.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let group = match parts.next()?.as_str() {
            "api" => String::new(),
            "apis" => parts.next()?,
            _ => return None,
        };
        let mut target = Self { group, version: parts.next()?, ..Self::default() };
        let rest: Vec<String> = parts.collect();
        let rest = match rest.as_slice() {
            // A namespace is an object too.
            [root, namespace, rest @ ..] if root == "namespaces" && !rest.is_empty() && rest[0] != "status" => {
                target.namespace.clone_from(namespace);
                rest
            }
            rest => rest,
        };
        let mut rest = rest.iter().cloned();
        target.plural = rest.next().unwrap_or_default();
        target.name = rest.next().unwrap_or_default();
        target.subresource = rest.next().unwrap_or_default();
        rest.next().is_none().then_some(target)
    }

    /// `deployments.apps`, as messages name it.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads it.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect())
    }

    /// A parameter; empty when it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// Whether a parameter says yes.
    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "All")
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A label selector of equalities: `a=b,c!=d,e`.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(Vec<(String, Option<String>, bool)>);

impl Labels {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Self {
        let term = |term: &str| match term.split_once("!=") {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned()), false),
            None => match term.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.trim_start_matches('=').to_owned()), true),
                None => (term.trim_start_matches('!').to_owned(), None, !term.starts_with('!')),
            },
        };
        Self(text.split(',').filter(|t| !t.is_empty()).map(term).collect())
    }

    /// Whether an object with these labels is meant.
    pub(super) fn select(&self, labels: &serde_json::Value) -> bool {
        self.0.iter().all(|(key, value, wanted)| {
            let found = labels[key].as_str();
            let holds = value.as_ref().map_or(found.is_some(), |value| found == Some(value));
            holds == *wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_say_what_they_are_about() {
        let parsed = |path: &str| {
            let t = Target::parse(path)?;
            Some([t.group, t.version, t.plural, t.namespace, t.name, t.subresource].join("|"))
        };
        for (path, expected) in [
            ("/api/v1/namespaces/x", "|v1|namespaces||x|"),
            ("/api/v1/namespaces/x/status", "|v1|namespaces||x|status"),
            ("/api/v1/namespaces/x/secrets", "|v1|secrets|x||"),
            ("/apis/apps/v1/namespaces/x/deployments/d/status", "apps|v1|deployments|x|d|status"),
            ("/apis/a.b/v1beta1/things", "a.b|v1beta1|things|||"),
            ("/apis/a.b/v1", "a.b|v1||||"),
        ] {
            assert_eq!(parsed(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(parsed("/version"), None);
    }

    #[test]
    fn selectors_are_equalities() {
        let labels = json!({"a": "1", "b": ""});
        for (selector, expected) in
            [("", true), ("a=1", true), ("a==1", true), ("a=2", false), ("a!=2,b", true), ("c!=1", true), ("!a", false)]
        {
            assert_eq!(Labels::parse(selector).select(&labels), expected, "{selector}");
        }
        assert_eq!(Query::parse("labelSelector=a%3D1&x=y%20z").get("labelSelector"), "a=1");
    }
}
