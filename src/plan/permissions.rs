//! What two sets of objects grant: the rules of roles, who is bound to them, and which roles they are added to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::render::{Object, ObjectKey};

const GROUP: &str = "rbac.authorization.k8s.io";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// Something that is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Right {
    /// A role has verbs on a resource.
    Resource {
        /// `ClusterRole NAME` or `Role NAMESPACE/NAME`.
        role: String,
        /// API group; empty for the core group.
        group: String,
        /// Resource, `*` for all.
        resource: String,
        /// Only the object of this name.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Verbs.
        verbs: BTreeSet<String>,
    },
    /// A role has verbs on a path of the API server.
    Url {
        /// `ClusterRole NAME`
        role: String,
        /// Path.
        url: String,
        /// Verbs.
        verbs: BTreeSet<String>,
    },
    /// Somebody has a role.
    Binding {
        /// `ServiceAccount NAMESPACE/NAME`, `Group NAME`
        subject: String,
        /// `ClusterRole NAME` or `Role NAME`.
        role: String,
        /// Where; none for the whole cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// The rules of a role are added to another one.
    Aggregation {
        /// `ClusterRole NAME`
        role: String,
        /// The other one: `admin`, or for an aggregation rule its selectors.
        into: String,
    },
}

/// `ClusterRole x: get, list on secrets`: as people read it.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |verbs: &BTreeSet<String>| verbs.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::Resource { role, group, resource, name, verbs } => {
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                let name = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                write!(f, "{role}: {} on {resource}{group}{name}", join(verbs))
            }
            Self::Url { role, url, verbs } => write!(f, "{role}: {} on {url}", join(verbs)),
            Self::Binding { subject, role, namespace: None } => write!(f, "{subject} has {role} on the whole cluster"),
            Self::Binding { subject, role, namespace: Some(namespace) } => {
                write!(f, "{subject} has {role} in namespace {namespace}")
            }
            Self::Aggregation { role, into } => write!(f, "{role} is added to {into}"),
        }
    }
}

/// What is granted that was not, and what no longer is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// New rights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grown: Vec<Right>,
    /// Rights that are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shrunk: Vec<Right>,
}

/// Compares what two sets of objects grant. A right that a wildcard of the other set includes is no difference.
pub fn compare(old: &[Object], new: &[Object]) -> Permissions {
    let (was, is) = (Granted::by(old), Granted::by(new));
    Permissions { grown: is.beyond(&was), shrunk: was.beyond(&is) }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PolicyRule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

#[derive(Default)]
struct Granted {
    rules: BTreeMap<ObjectKey, Vec<PolicyRule>>,
    others: BTreeSet<Right>,
}

impl Granted {
    fn by(objects: &[Object]) -> Self {
        let mut granted = Self::default();
        for object in objects.iter().filter(|o| o.key().group == GROUP) {
            let (key, value) = (object.key(), object.value());
            let namespace = key.namespace.clone();
            match key.kind.as_str() {
                "ClusterRole" | "Role" => {
                    let rules = serde_json::from_value(value["rules"].clone()).unwrap_or_default();
                    granted.rules.insert(key.clone(), rules);
                    let into = object.labels().filter(|(_, value)| *value == "true");
                    granted.others.extend(
                        into.filter_map(|(name, _)| name.strip_prefix(AGGREGATE)).map(|into| Right::Aggregation {
                            role: key.to_string(),
                            into: format!("ClusterRole {into}"),
                        }),
                    );
                    if let Some(rule) = value.get("aggregationRule") {
                        let role = format!("what fulfils {rule}");
                        granted.others.insert(Right::Aggregation { role, into: key.to_string() });
                    }
                }
                "ClusterRoleBinding" | "RoleBinding" => {
                    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                    let role = format!("{} {}", text(&value["roleRef"]["kind"]), text(&value["roleRef"]["name"]));
                    for subject in value["subjects"].as_array().into_iter().flatten() {
                        let place = subject["namespace"].as_str().map(|n| format!("{n}/")).unwrap_or_default();
                        granted.others.insert(Right::Binding {
                            subject: format!("{} {place}{}", text(&subject["kind"]), text(&subject["name"])),
                            role: role.clone(),
                            namespace: namespace.clone(),
                        });
                    }
                }
                _ => {}
            }
        }
        granted
    }

    /// What is granted here and not there.
    fn beyond(&self, other: &Self) -> Vec<Right> {
        let mut rights = Vec::new();
        for (key, rules) in &self.rules {
            let theirs = other.rules.get(key).map_or(&[][..], Vec::as_slice);
            let mut resources: BTreeMap<(&str, &str, Option<&str>), BTreeSet<String>> = BTreeMap::new();
            let mut urls: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
            for rule in rules {
                for verb in &rule.verbs {
                    for (group, resource, name) in rule.places() {
                        if !theirs.iter().any(|r| r.allows(verb, group, resource, name)) {
                            resources.entry((group, resource, name)).or_default().insert(verb.clone());
                        }
                    }
                    for url in rule.urls.iter().filter(|url| !theirs.iter().any(|r| r.allows_url(verb, url))) {
                        urls.entry(url).or_default().insert(verb.clone());
                    }
                }
            }
            let role = key.to_string();
            rights.extend(resources.into_iter().map(|((group, resource, name), verbs)| Right::Resource {
                role: role.clone(),
                group: group.to_owned(),
                resource: resource.to_owned(),
                name: name.map(str::to_owned),
                verbs,
            }));
            rights.extend(urls.into_iter().map(|(url, verbs)| Right::Url {
                role: role.clone(),
                url: url.to_owned(),
                verbs,
            }));
        }
        rights.extend(self.others.difference(&other.others).cloned());
        rights
    }
}

impl PolicyRule {
    /// Each group with each resource and each name.
    fn places(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        let names = || {
            let all = self.resource_names.is_empty().then_some(None);
            all.into_iter().chain(self.resource_names.iter().map(|name| Some(name.as_str())))
        };
        self.api_groups.iter().flat_map(move |group| {
            self.resources.iter().flat_map(move |r| names().map(move |name| (group.as_str(), r.as_str(), name)))
        })
    }

    fn allows(&self, verb: &str, group: &str, resource: &str, name: Option<&str>) -> bool {
        let is_there = |list: &[String], word: &str| list.iter().any(|entry| entry == "*" || entry == word);
        let subresource = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        is_there(&self.verbs, verb)
            && is_there(&self.api_groups, group)
            && (is_there(&self.resources, resource) || subresource.is_some_and(|any| self.resources.contains(&any)))
            && (self.resource_names.is_empty()
                || name.is_some_and(|name| self.resource_names.iter().any(|entry| entry == name)))
    }

    fn allows_url(&self, verb: &str, url: &str) -> bool {
        self.verbs.iter().any(|entry| entry == "*" || entry == verb)
            && self.urls.iter().any(|entry| match entry.strip_suffix('*') {
                Some(start) => url.starts_with(start),
                None => entry == url,
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &str, namespace: Option<&str>, fields: &Value) -> Object {
        let mut value = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "x", "namespace": namespace}});
        value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Object::try_from(value).unwrap()
    }

    fn role(rules: &Value) -> Object {
        object("ClusterRole", None, &json!({"rules": rules}))
    }

    fn texts(rights: &[Right]) -> Vec<String> {
        rights.iter().map(ToString::to_string).collect()
    }

    /// (rules before, rules after, what grows, what shrinks)
    #[test]
    fn rules_grow_and_shrink() {
        let rule = |groups: Value, resources: Value, verbs: Value| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
        let named = |names: Value| json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]});
        let url = |url: &str| json!({"nonResourceURLs": [url], "verbs": ["get"]});
        let secrets = rule(json!([""]), json!(["secrets"]), json!(["get"]));
        for (old, new, grown, shrunk) in [
            (json!([secrets]), json!([secrets]), vec![], vec![]),
            (
                json!([secrets]),
                json!([rule(json!([""]), json!(["secrets", "pods"]), json!(["get", "list"]))]),
                vec!["ClusterRole x: get, list on pods", "ClusterRole x: list on secrets"],
                vec![],
            ),
            (
                json!([secrets]),
                json!([rule(json!(["*"]), json!(["secrets"]), json!(["get"]))]),
                vec!["ClusterRole x: get on secrets.*"],
                vec![],
            ),
            // Wildcards hold what they stand for, and two rules hold what one held.
            (
                json!([rule(json!(["*"]), json!(["*"]), json!(["*"]))]),
                json!([secrets]),
                vec![],
                vec!["ClusterRole x: * on *.*"],
            ),
            (
                json!([rule(json!([""]), json!(["a", "b"]), json!(["get"]))]),
                json!([
                    rule(json!([""]), json!(["a"]), json!(["get"])),
                    rule(json!([""]), json!(["b"]), json!(["get"]))
                ]),
                vec![],
                vec![],
            ),
            (
                json!([rule(json!(["apps"]), json!(["*/scale"]), json!(["get"]))]),
                json!([rule(json!(["apps"]), json!(["deployments/scale", "deployments"]), json!(["get"]))]),
                vec!["ClusterRole x: get on deployments.apps"],
                vec!["ClusterRole x: get on */scale.apps"],
            ),
            (json!([secrets]), json!([named(json!(["a"]))]), vec![], vec!["ClusterRole x: get on secrets"]),
            (
                json!([named(json!(["a"]))]),
                json!([named(json!(["a", "b"]))]),
                vec!["ClusterRole x: get on secrets b"],
                vec![],
            ),
            (json!([named(json!(["a"]))]), json!([secrets]), vec!["ClusterRole x: get on secrets"], vec!["nothing"]),
            (
                json!([url("/healthz/*")]),
                json!([url("/healthz/ping")]),
                vec![],
                vec!["ClusterRole x: get on /healthz/*"],
            ),
            (json!([url("/a")]), json!([url("*")]), vec!["ClusterRole x: get on *"], vec![]),
        ] {
            let found = compare(&[role(&old)], &[role(&new)]);
            assert_eq!(texts(&found.grown), grown, "{old} {new}");
            let shrunk: Vec<&str> = shrunk.into_iter().filter(|text| *text != "nothing").collect();
            assert_eq!(texts(&found.shrunk), shrunk, "{old} {new}");
        }
    }

    #[test]
    fn bindings_and_aggregation_grant_too() {
        let binding = |kind: &str, namespace, role: &str, subjects: &[&str]| {
            let subjects: Vec<Value> = subjects
                .iter()
                .map(|name| json!({"kind": "ServiceAccount", "namespace": "flux-system", "name": name}))
                .collect();
            object(kind, namespace, &json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects}))
        };
        let old = [binding("ClusterRoleBinding", None, "cluster-admin", &["a"])];
        let new = [
            binding("ClusterRoleBinding", None, "cluster-admin", &["a", "b"]),
            binding("RoleBinding", Some("team"), "view", &["a"]),
        ];
        let found = compare(&old, &new);
        assert_eq!(
            texts(&found.grown),
            [
                "ServiceAccount flux-system/a has ClusterRole view in namespace team",
                "ServiceAccount flux-system/b has ClusterRole cluster-admin on the whole cluster",
            ]
        );
        assert!(found.shrunk.is_empty());

        let mut labelled = role(&json!([]));
        labelled.set_label("rbac.authorization.k8s.io/aggregate-to-edit", "true");
        let found = compare(&[role(&json!([]))], &[labelled]);
        assert_eq!(texts(&found.grown), ["ClusterRole x is added to ClusterRole edit"]);
        let aggregating = object("ClusterRole", None, &json!({"aggregationRule": {"clusterRoleSelectors": []}}));
        assert_eq!(compare(&[], &[aggregating]).grown.len(), 1);
    }

    #[test]
    fn a_role_that_comes_or_goes_counts_as_a_whole() {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let found = compare(&[], &[object("Role", Some("ns"), &json!({"rules": rules}))]);
        assert_eq!(texts(&found.grown), ["Role ns/x: get on pods"]);
        assert_eq!(compare(&[role(&rules)], &[]).shrunk.len(), 1);
    }
}
