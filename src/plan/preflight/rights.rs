//! The rule `permissions`: what the account has to be allowed for the plan.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Case, Facts, Findings, Rule};
use crate::api::{Enforcement, FLUX_NAMESPACE};
use crate::plan::{CRD, Reason, Stage, Step, stage_of};
use crate::render::{Kind, ObjectKey, kinds};

const RBAC: &str = "rbac.authorization.k8s.io";

/// What a right is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Such as `status`; mostly empty.
    pub subresource: String,
    /// Namespace; none for cluster-scoped objects, and for objects of all namespaces.
    pub namespace: Option<String>,
    /// Name; none for all.
    pub name: Option<String>,
}

/// A right that the change takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// On what.
    pub subject: Subject,
    /// Verb.
    pub verb: &'static str,
    /// The object, if it is for one.
    pub object: Option<ObjectKey>,
}

impl Subject {
    fn of(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> Self {
        Self {
            group: kind.group.clone(),
            resource: kind.plural.clone(),
            subresource: String::new(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    /// `customresourcedefinitions/status.apiextensions.k8s.io x`
    fn title(&self) -> String {
        let sub = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let place = match &self.namespace {
            Some(namespace) => format!(" in namespace {namespace}"),
            None => String::new(),
        };
        format!("{}{sub}{group}{name}{place}", self.resource)
    }
}

/// Every right that the plan takes, each once.
pub(super) fn needs(case: &Case) -> Vec<Need> {
    let mut needs = BTreeSet::new();
    let mut add = |subject: Subject, verbs: &[&'static str], object: Option<&ObjectKey>| {
        for verb in verbs {
            needs.insert(Need { subject: subject.clone(), verb, object: object.cloned() });
        }
    };
    for step in &case.plan.steps {
        match step {
            Step::Apply { object, reason, replaces, .. } => {
                let (kind, key) = (&object.kind, &object.key);
                let subject = Subject::of(kind, key.namespace.as_deref(), Some(&key.name));
                let verbs: &[&str] = match (reason, replaces) {
                    (_, Some(_)) => &["create", "delete", "patch"],
                    (Reason::Missing, None) => &["create", "patch"],
                    _ => &["patch"],
                };
                add(subject.clone(), verbs, Some(key));
                if kind.group == RBAC && kind.kind.ends_with("Role") {
                    // Whoever does not have all rights in it needs this.
                    add(subject, &["escalate"], Some(key));
                } else if kind.group == RBAC
                    && let Some(role) = role_of(&object.body, key.namespace.as_deref())
                {
                    add(role, &["bind"], Some(key));
                }
                let all = Subject::of(kind, key.namespace.as_deref(), None);
                add(all.clone(), &["list"], None);
                if key.kind == CRD || stage_of(kind) == Stage::Workloads {
                    add(all, &["watch"], None);
                }
            }
            Step::Delete { key, kind, .. } => {
                let subject = Subject::of(kind, key.namespace.as_deref(), Some(&key.name));
                add(subject, &["get", "delete"], Some(key));
            }
            Step::Migrate { key, kind, .. } => {
                add(Subject::of(kind, None, None), &["list", "patch"], None);
                let status = Subject::of(&Kind::crd(), None, Some(&key.name));
                add(Subject { subresource: "status".to_owned(), ..status }, &["patch"], Some(key));
            }
            Step::Detach { key, secrets, .. } => {
                let Some(kind) = kinds::builtin("", "v1", "Secret") else { continue };
                for name in secrets.keys() {
                    add(Subject::of(&kind, key.namespace.as_deref(), Some(name)), &["patch"], Some(key));
                }
            }
            // Only a removal releases, and no preflight looks at one.
            Step::Await { .. } | Step::Release { .. } | Step::Forget { .. } => {}
        }
    }
    // The inventory.
    add(Subject::of(&Kind::config_map(), Some(FLUX_NAMESPACE), None), &["get", "create"], None);
    needs.into_iter().collect()
}

/// The role that a binding binds.
fn role_of(body: &[u8], namespace: Option<&str>) -> Option<Subject> {
    let binding: Value = serde_json::from_slice(body).ok()?;
    let role = &binding["roleRef"];
    let (kind, name) = (role["kind"].as_str()?, role["name"].as_str()?);
    let is_cluster_wide = kind == "ClusterRole";
    Some(Subject {
        group: RBAC.to_owned(),
        resource: if is_cluster_wide { "clusterroles" } else { "roles" }.to_owned(),
        subresource: String::new(),
        namespace: namespace.filter(|_| !is_cluster_wide).map(str::to_owned),
        name: Some(name.to_owned()),
    })
}

/// What an account may do in one namespace, as a `SelfSubjectRulesReview` answers.
#[derive(Debug, Default)]
pub struct Granted {
    rules: Vec<Value>,
}

impl Granted {
    /// Reads the answer.
    pub fn of(review: &Value) -> Self {
        Self { rules: review["status"]["resourceRules"].as_array().cloned().unwrap_or_default() }
    }

    /// Whether one of the rules allows it.
    pub fn allows(&self, need: &Need) -> bool {
        let subject = &need.subject;
        let resource = match subject.subresource.as_str() {
            "" => subject.resource.clone(),
            sub => format!("{}/{sub}", subject.resource),
        };
        let has = |rule: &Value, field: &str, word: &str| {
            rule[field].as_array().into_iter().flatten().any(|entry| entry == "*" || entry == word)
        };
        self.rules.iter().any(|rule| {
            let names = rule["resourceNames"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_named = names.is_empty()
                || subject.name.as_ref().is_some_and(|name| names.iter().any(|entry| entry == name.as_str()));
            let any = (!subject.subresource.is_empty()).then(|| format!("*/{}", subject.subresource));
            is_named
                && has(rule, "verbs", need.verb)
                && has(rule, "apiGroups", &subject.group)
                && (has(rule, "resources", &resource) || any.is_some_and(|any| has(rule, "resources", &any)))
        })
    }
}

pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    let mut denied: BTreeMap<(&Subject, Option<&ObjectKey>), Vec<&str>> = BTreeMap::new();
    for need in &facts.denied {
        denied.entry((&need.subject, need.object.as_ref())).or_default().push(need.verb);
    }
    for ((subject, object), verbs) in denied {
        found.add(
            Rule::Permissions,
            Enforcement::Error,
            object,
            format!("the account may not {} {}", verbs.join(", "), subject.title()),
            "give it the rights of this release: `headwater cluster kubeconfig`, or config/rbac/target.yaml",
        );
    }
}
