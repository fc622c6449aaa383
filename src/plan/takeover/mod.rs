//! Objects that are wanted and belong to somebody else already: whose they are, whether they can be taken over by simply applying
//! ours, and how. Knows the marks that other tools leave; knows nothing of what they install.

pub mod declare;
mod fields;
mod hand_back;
pub mod helm;
mod marks;
pub mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{FIELD_MANAGER, Foreign, INSTALLATION_LABEL, Plan, Reason, Step, Survey};
use crate::render::ObjectKey;

pub use hand_back::hand_back;
pub use helm::Release;
pub use marks::{DISABLED, LEAVE_ALONE};
use marks::{KUSTOMIZATION, MANAGED_BY, MANAGERS_REPLACED, MARKS, PEER, RELEASE};

/// Somebody who installs things on clusters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `flux install` or `flux bootstrap`.
    Flux,
    /// A Kustomization, such as that of `flux bootstrap`.
    Kustomization {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A Helm release.
    Helm {
        /// Namespace of the release.
        namespace: String,
        /// Name of the release.
        name: String,
    },
    /// A `FluxInstance` of flux-operator.
    FluxOperator {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// `kubectl apply` or `create`.
    Kubectl,
    /// Another installation of ours.
    Headwater {
        /// Its namespace.
        installation: String,
    },
    /// The controller that an owner reference names.
    Controller {
        /// Kind of the owner.
        kind: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flux => write!(f, "flux install"),
            Self::Kustomization { namespace, name } => write!(f, "Kustomization {namespace}/{name}"),
            Self::Helm { namespace, name } => write!(f, "Helm release {namespace}/{name}"),
            Self::FluxOperator { namespace, name } => write!(f, "flux-operator's FluxInstance {namespace}/{name}"),
            Self::Kubectl => write!(f, "kubectl"),
            Self::Headwater { installation } => write!(f, "the installation of Headwater in namespace {installation}"),
            Self::Controller { kind, name } => write!(f, "{kind} {name}"),
        }
    }
}

impl Serialize for Tool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The tool.
    pub tool: Tool,
    /// What has to be done before the object can be ours; none when it can be taken over as it is.
    pub remedy: Option<String>,
}

/// What runs on the cluster of other tools, as far as objects that are wanted belong to them. By namespace and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Others {
    /// `FluxInstances` of flux-operator.
    pub peers: BTreeMap<(String, String), Peer>,
    /// Helm releases that can be detached.
    pub releases: BTreeMap<(String, String), Release>,
}

/// Whether flux-operator still acts on a `FluxInstance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// There is no such object, or nothing that serves its kind.
    Gone,
    /// It is annotated to be left alone.
    Disabled,
    /// Its operator has no replicas, or is not there.
    Stopped,
    /// It acts, or we may not see whether it does.
    Active,
}

/// Namespaces and names of flux-operator's `FluxInstances` and of Helm releases that objects say they belong to.
pub fn named(foreign: &BTreeMap<ObjectKey, Foreign>) -> BTreeSet<Tool> {
    foreign
        .values()
        .flat_map(owners)
        .map(|owner| owner.tool)
        .filter(|tool| matches!(tool, Tool::FluxOperator { .. } | Tool::Helm { .. }))
        .collect()
}

/// Whose an object is, from its own metadata alone. What flux-operator and Helm do is only known with [`Others`]: [`obstacles`]
/// takes that into account.
pub fn owners(foreign: &Foreign) -> Vec<Owner> {
    let metadata = &foreign.metadata;
    let mut found = BTreeSet::new();
    let mut add = |tool: Tool, remedy: Option<String>| found.insert(Owner { tool, remedy });
    let pair = |map: &str, (namespace, name): (&str, &str)| {
        let text = |mark: &str| metadata[map][mark].as_str().map(str::to_owned);
        text(name).map(|name| (text(namespace).unwrap_or_default(), name))
    };

    if let Some(installation) = metadata["labels"][INSTALLATION_LABEL].as_str() {
        let remedy = format!(
            "delete the FluxInstance that installed it with deletionPolicy Orphan, which hands it over; or remove the label \
             {INSTALLATION_LABEL}, if there is no such installation any more"
        );
        add(Tool::Headwater { installation: installation.to_owned() }, Some(remedy));
    }
    for reference in list(&metadata["ownerReferences"]).iter().filter(|reference| reference["controller"] == true) {
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text("kind"), text("name"));
        let remedy = format!(
            "its owner reference says that {kind} {name} controls it and would put it back or delete it: make that let go of it, or \
             remove the owner reference"
        );
        add(Tool::Controller { kind, name }, Some(remedy));
    }
    if let Some((namespace, name)) = pair("labels", PEER) {
        let remedy = format!(
            "flux-operator would put back what it installed: `kubectl annotate fluxinstances.fluxcd.controlplane.io -n {namespace} {name} \
             {DISABLED}=disabled --overwrite`, which also makes deleting that object harmless; or scale flux-operator down to 0"
        );
        add(Tool::FluxOperator { namespace, name }, Some(remedy));
    }
    if let Some((namespace, name)) = pair("labels", KUSTOMIZATION) {
        add(Tool::Kustomization { namespace, name }, None);
    }
    if let Some((namespace, name)) = pair("annotations", RELEASE) {
        let remedy = format!(
            "`helm uninstall` would delete it: make Helm forget the release by `kubectl label secrets -n {namespace} -l \
             owner=helm,name={name} owner=headwater --overwrite`"
        );
        add(Tool::Helm { namespace, name }, Some(remedy));
    }
    for entry in list(&metadata["managedFields"]) {
        match entry["manager"].as_str().unwrap_or_default() {
            "flux" => add(Tool::Flux, None),
            manager if manager.starts_with("kubectl") && fields::is_replaced(entry) => add(Tool::Kubectl, None),
            _ => false,
        };
    }
    found.into_iter().collect()
}

/// Whether the fields that a manager has in an object become ours with it: ours takes the place of its manifests.
pub fn takes_fields(foreign: &Foreign, manager: &str) -> bool {
    let entries = list(&foreign.metadata["managedFields"]);
    entries.iter().any(|entry| entry["manager"] == manager && fields::is_replaced(entry))
}

/// Somebody whose objects cannot be taken over as things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Who, and what to do.
    pub owner: Owner,
    /// The objects.
    pub objects: Vec<ObjectKey>,
}

/// All that stands in the way of taking over, by owner.
pub fn obstacles(survey: &Survey) -> Vec<Obstacle> {
    let mut found: BTreeMap<Owner, Vec<ObjectKey>> = BTreeMap::new();
    for (key, foreign) in &survey.foreign {
        for owner in owners(foreign) {
            let is_settled = match &owner.tool {
                Tool::FluxOperator { namespace, name } => {
                    let peer = survey.others.peers.get(&(namespace.clone(), name.clone()));
                    peer.is_some_and(|peer| *peer != Peer::Active)
                }
                // Those that we see are detached by the plan itself.
                Tool::Helm { namespace, name } => {
                    survey.others.releases.contains_key(&(namespace.clone(), name.clone()))
                }
                _ => owner.remedy.is_none(),
            };
            if !is_settled {
                found.entry(owner).or_default().push(key.clone());
            }
        }
    }
    found.into_iter().map(|(owner, objects)| Obstacle { owner, objects }).collect()
}

/// How an object becomes ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Adoption {
    /// Whose it was; empty when nobody has left a mark.
    pub from: Vec<Tool>,
    /// Which incarnation.
    #[serde(skip)]
    pub uid: String,
    /// Merge patch of its metadata, good for the version that was looked at only; none when nothing has to be changed before ours
    /// is applied.
    #[serde(skip)]
    pub patch: Option<Value>,
}

/// Decides how an object becomes ours: the marks of other tools go, and the fields that their manifests set become fields that we have
/// set. So the apply that follows removes those which we do not want, as if all had been ours from the beginning. What people or other
/// controllers changed by hand stays theirs, and so do all labels and annotations that are no marks.
pub fn adoption(api_version: &str, foreign: &Foreign) -> Adoption {
    let metadata = &foreign.metadata;
    let from = owners(foreign).into_iter().map(|owner| owner.tool).collect();
    let mut change = Map::new();
    // flux-operator keeps Kustomizations away from its objects as well, by annotations.
    let is_peers = metadata["labels"][PEER.1].is_string();
    let is_leave_alone = |map: &str, name: &str| map == "annotations" && LEAVE_ALONE.iter().any(|(n, _)| *n == name);
    for map in ["labels", "annotations"] {
        let names = metadata[map].as_object().into_iter().flatten();
        let gone: Map<String, Value> = names
            .filter(|(name, value)| is_mark(name, value) || (is_peers && is_leave_alone(map, name)))
            .map(|(name, _)| (name.clone(), Value::Null))
            .collect();
        if !gone.is_empty() {
            change.insert(map.to_owned(), Value::Object(gone));
        }
    }
    let entries = list(&metadata["managedFields"]);
    if let Some(moved) = fields::take_over(entries, api_version) {
        change.insert("managedFields".to_owned(), moved.into());
    }
    let patch = (!change.is_empty()).then(|| guarded(foreign, change));
    Adoption { from, uid: foreign.live.uid.clone(), patch }
}

fn is_mark(name: &str, value: &Value) -> bool {
    MARKS.contains(&name) || (name == MANAGED_BY && value.as_str().is_some_and(|v| MANAGERS_REPLACED.contains(&v)))
}

/// A merge patch of metadata that is refused with a conflict unless the object is as it was looked at.
fn guarded(foreign: &Foreign, mut change: Map<String, Value>) -> Value {
    change.insert("uid".to_owned(), foreign.live.uid.clone().into());
    change.insert("resourceVersion".to_owned(), foreign.live.resource_version.to_string().into());
    json!({"metadata": change})
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Makes taking over a part of the plan: objects that exist already are adopted before they are applied, and Helm releases detached
/// before anything else, so that nobody can uninstall what is ours from the first write on.
pub fn adopt(mut plan: Plan, survey: &Survey) -> Plan {
    for step in &mut plan.steps {
        let Step::Apply { reason, object, adoption: slot, .. } = step else { continue };
        let Some(foreign) = survey.foreign.get(&object.key) else { continue };
        let recorded = plan.intent.entries.get(&object.key).and_then(|entry| entry.uid.as_ref());
        if recorded == Some(&foreign.live.uid) && foreign.live.fields.is_some() {
            // It is ours, and somebody took our label away.
            *reason = Reason::Drifted;
            continue;
        }
        *reason = Reason::TakenOver;
        *slot = Some(adoption(&object.kind.api_version(), foreign));
    }
    plan.steps.splice(0..0, helm::detach(&plan.steps, &survey.others.releases));
    plan
}

/// What was taken over by a plan of which these objects are applied, in one sentence; none when that is nothing.
pub fn said(plan: &Plan, applied: &[ObjectKey]) -> Option<String> {
    let adoptions = plan.steps.iter().filter_map(|step| match step {
        Step::Apply { adoption, object, .. } if applied.contains(&object.key) => adoption.as_ref(),
        _ => None,
    });
    let (count, from) = adoptions.fold((0, BTreeSet::new()), |(count, mut from), adoption| {
        from.extend(adoption.from.iter().map(ToString::to_string));
        (count + 1, from)
    });
    let left: Vec<String> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Detach { release, left, .. } if !left.is_empty() => {
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                Some(format!("; of {release} stays, and belongs to nobody: {}", left.join(", ")))
            }
            _ => None,
        })
        .collect();
    let from = match from.into_iter().collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => String::new(),
        some => format!(" from {some}"),
    };
    (count > 0).then(|| format!("took over {count} objects that were there{from}{}", left.concat()))
}
