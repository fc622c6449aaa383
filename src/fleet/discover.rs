//! Which instances a fleet makes of the Secrets of its namespace. Pure: it sees names and labels, never what is in a Secret.
//!
//! What a fleet has made is known by its label; everything else that has the same name is left alone. Whatever the reason why a Secret is
//! not seen, an instance is at most marked, unless deleting was asked for, few enough are concerned, and it has been so for long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use crate::api::{DISCOVERED_BY, Discover, FluxFleet, FluxInstance, ORPHANED, ORPHANED_SINCE, OnRemoval, TEMPLATE};
use crate::render::digest;

/// Label that Cluster API puts on all Secrets of a cluster.
const CLUSTER_NAME: &str = "cluster.x-k8s.io/cluster-name";
/// What its kubeconfigs are called after the cluster.
const SUFFIX: &str = "-kubeconfig";
/// A Secret has to be gone for so long before its instance is deleted: one that is deleted and made anew, as rotations do, is back within
/// seconds, and whoever deletes one by mistake has time to see the event.
const GRACE: SignedDuration = SignedDuration::from_mins(10);
/// One of so many instances, and at least one, may be lost within [`HOUR`]: more is more likely a mistake than a wish. Those that were deleted
/// count as well as those that are to be, so that a loss of one Secret after the other is as many as a loss of all at once.
const DELETIONS: usize = 10;
/// For so long a loss counts. Longer would keep those from deleting who take down a cluster or two every day, shorter would let through what
/// loses one after the other.
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Labels by which tools know what they have made, and delete what they miss: not to be copied.
const TRACKING: &[&str] = &["app.kubernetes.io/", "argocd.argoproj.io/", ".fluxcd.io/", "helm.sh/", "headwater.dev/"];

/// What is known of a Secret.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<'a> {
    /// There is none of that name.
    Create {
        /// Name of the instance.
        name: String,
        /// What is wanted of it.
        object: Value,
    },
    /// Something is not as wanted.
    Update {
        /// As it is.
        instance: &'a FluxInstance,
        /// What is wanted of it.
        object: Value,
    },
    /// Its Secret is gone: it stays, and says so.
    Orphan {
        /// As it is.
        instance: &'a FluxInstance,
        /// What is said on it.
        why: String,
    },
    /// Its Secret is gone, and so it is to go.
    Delete {
        /// As it is.
        instance: &'a FluxInstance,
        /// The Secret; to be looked for once more before.
        secret: String,
    },
}

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// So many of so many have lost their Secrets, more than may be deleted within an hour.
    TooMany(usize, usize),
    /// An instance of that name was made by somebody else: by another fleet, or by hand.
    Taken {
        /// Name of the instance.
        name: String,
        /// The Secret.
        secret: String,
        /// The other fleet.
        by: Option<String>,
    },
    /// Several Secrets give the same name.
    Ambiguous {
        /// Name of the instance.
        name: String,
        /// The Secrets.
        secrets: Vec<String>,
    },
    /// The selector of the fleet does not select what it made.
    NotSelected(String),
}

impl Problem {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany(..) => "TooManyGone",
            Self::Taken { .. } => "NameTaken",
            Self::Ambiguous { .. } => "NameAmbiguous",
            Self::NotSelected(_) => "NotSelected",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(gone, all) => write!(
                f,
                "{gone} of {all} instances have lost their Secrets within an hour: none is deleted; bring the Secrets back, or delete the instances by hand"
            ),
            Self::Taken { name, secret, by } => {
                let whose = by.as_ref().map_or_else(
                    || "was not made by spec.discover".to_owned(),
                    |fleet| format!("was made by FluxFleet {fleet}"),
                );
                write!(
                    f,
                    "Secret {secret} would be FluxInstance {name}, which {whose}: it is left alone; delete or rename one"
                )
            }
            Self::Ambiguous { name, secrets } => {
                write!(
                    f,
                    "Secrets {} would all be FluxInstance {name}: nothing is done; rename one",
                    secrets.join(", ")
                )
            }
            Self::NotSelected(name) => write!(
                f,
                "FluxInstance {name} is not selected by spec.selector, so that nothing is admitted there; add a label to spec.discover.template.metadata"
            ),
        }
    }
}

/// What is to be done, and said.
#[derive(Debug, Default, PartialEq)]
pub struct Discovery<'a> {
    /// Clusters that were found.
    pub found: usize,
    /// What to do.
    pub changes: Vec<Change<'a>>,
    /// Instances whose Secrets are gone, and which stay.
    pub orphans: Vec<String>,
    /// What stands in the way, the worst first.
    pub problems: Vec<Problem>,
    /// When instances were deleted within the last hour, those of `changes` included.
    pub deletions: Vec<Timestamp>,
    /// When there may be something to delete, if nothing else happens.
    pub recheck: Option<SignedDuration>,
}

/// Looks at all Secrets and instances of the namespace of a fleet.
///
/// # Errors
/// The sentence that says where the spec is wrong. Nothing is done then.
pub fn discover<'a>(
    fleet: &FluxFleet,
    spec: &Discover,
    secrets: &[Source<'_>],
    instances: &[&'a FluxInstance],
    now: Timestamp,
) -> Result<Discovery<'a>, String> {
    let members: Selector =
        fleet.spec.selector.clone().try_into().map_err(|error| format!("spec.selector: {error}"))?;
    let mut found = found(spec, secrets)?;
    let mut discovery = Discovery { found: found.len(), ..Discovery::default() };
    let by_name: BTreeMap<String, &FluxInstance> = instances.iter().map(|i| (i.name_any(), *i)).collect();
    let is_going = |instance: &&FluxInstance| instance.metadata.deletion_timestamp.is_some();
    let (there, gone): (Vec<&FluxInstance>, Vec<&FluxInstance>) = instances
        .iter()
        .copied()
        .filter(|instance| is_of(instance, fleet))
        .partition(|instance| found.contains_key(&instance.name_any()));
    let gone: Vec<_> = gone.into_iter().filter(|instance| !is_going(instance)).collect();
    let deletions = fleet.status.iter().flat_map(|status| &status.deletions).map(|at| at.0);
    discovery.deletions = deletions.filter(|at| now.duration_since(*at) < HOUR).collect();
    let lost = gone.len() + discovery.deletions.len();
    let all = there.len() + lost;
    let is_nothing_found = found.is_empty();
    found.retain(|name, sources| {
        let is_one = sources.len() == 1;
        if !is_one {
            let secrets = sources.iter().map(|(secret, _)| secret.name.to_owned()).collect();
            discovery.problems.push(Problem::Ambiguous { name: name.clone(), secrets });
        }
        is_one
    });
    for (name, sources) in found {
        let Some((secret, key)) = sources.into_iter().next() else { continue };
        let object = wanted(fleet, spec, &name, secret, key);
        match by_name.get(&name) {
            None => discovery.changes.push(Change::Create { name: name.clone(), object: object.clone() }),
            Some(instance) if !is_of(instance, fleet) => {
                let by = instance.annotations().get(DISCOVERED_BY).cloned();
                discovery.problems.push(Problem::Taken { name, secret: secret.name.to_owned(), by });
                continue;
            }
            Some(instance) if instance.metadata.deletion_timestamp.is_some() => continue,
            Some(instance) if is_as_wanted(instance, &object) => {}
            Some(instance) => discovery.changes.push(Change::Update { instance, object: object.clone() }),
        }
        let labels: BTreeMap<String, String> =
            serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
        let live = by_name.get(&name).map(|instance| instance.labels().clone()).unwrap_or_default();
        if !members.matches(&live.into_iter().chain(labels).collect()) {
            discovery.problems.push(Problem::NotSelected(name));
        }
    }
    let secrets: BTreeSet<&str> = secrets.iter().map(|secret| secret.name).collect();
    let may_delete = lost <= (all / DELETIONS).max(1) && !is_nothing_found;
    if spec.on_removal == OnRemoval::Delete && !gone.is_empty() && !may_delete {
        discovery.problems.push(Problem::TooMany(lost, all));
    }
    for instance in gone {
        let secret = instance.spec.kube_config.as_ref().map(|k| k.secret_ref.name.clone()).unwrap_or_default();
        let is_there = secrets.contains(secret.as_str());
        let how = if is_there { "is no longer selected by spec.discover" } else { "is gone" };
        let why = format!("Secret {secret} {how}");
        let since = orphaned_since(instance, &why);
        // One that an earlier fleet of this name made is not ours to delete.
        let is_ours = instance.labels().get(DISCOVERED_BY) == fleet.metadata.uid.as_ref();
        if spec.on_removal == OnRemoval::Delete && may_delete && is_ours && !is_there {
            let rest = since.map_or(GRACE, |since| GRACE - now.duration_since(since));
            if rest <= SignedDuration::ZERO {
                discovery.deletions.push(now);
                discovery.changes.push(Change::Delete { instance, secret });
                continue;
            }
            discovery.recheck = Some(discovery.recheck.map_or(rest, |known| known.min(rest)));
        }
        discovery.orphans.push(instance.name_any());
        if since.is_none() {
            discovery.changes.push(Change::Orphan { instance, why });
        }
    }
    discovery.problems.sort();
    discovery.orphans.sort();
    Ok(discovery)
}

/// Whether a fleet of this name has made an instance. It need not be this very one: a fleet that was deleted and made anew goes on with what
/// is there.
fn is_of(instance: &FluxInstance, fleet: &FluxFleet) -> bool {
    instance.labels().contains_key(DISCOVERED_BY)
        && instance.annotations().get(DISCOVERED_BY) == fleet.metadata.name.as_ref()
}

/// Since when an instance is marked for this reason.
fn orphaned_since(instance: &FluxInstance, why: &str) -> Option<Timestamp> {
    let annotations = instance.annotations();
    let since = annotations.get(ORPHANED_SINCE)?.parse().ok()?;
    annotations.get(ORPHANED).is_some_and(|marked| marked == why).then_some(since)
}

type Found<'s, 'a> = BTreeMap<String, Vec<(Source<'s>, Option<&'a str>)>>;

/// All clusters, by the names of their instances.
fn found<'s, 'a>(spec: &'a Discover, secrets: &[Source<'s>]) -> Result<Found<'s, 'a>, String> {
    let cluster_api = spec.cluster_api.as_ref().map(|of| of.selector.clone().unwrap_or_default().try_into());
    let cluster_api: Option<Selector> =
        cluster_api.transpose().map_err(|error| format!("spec.discover.clusterAPI.selector: {error}"))?;
    let labelled = spec.secrets.as_ref().map(|of| of.selector.clone().try_into());
    let labelled: Option<Selector> =
        labelled.transpose().map_err(|error| format!("spec.discover.secrets.selector: {error}"))?;
    let mut found = Found::new();
    for secret in secrets {
        let stem = secret.name.strip_suffix(SUFFIX);
        // Its other Secrets, certificates and kubeconfigs for people, have the label too.
        let is_named = stem.is_some() && secret.labels.get(CLUSTER_NAME).map(String::as_str) == stem;
        let is_selected = |selector: &Option<Selector>| selector.as_ref().is_some_and(|s| s.matches(secret.labels));
        let key = if is_named && is_selected(&cluster_api) {
            None
        } else if is_selected(&labelled) {
            spec.secrets.as_ref().and_then(|secrets| secrets.key.as_deref())
        } else {
            continue;
        };
        found.entry(stem.unwrap_or(secret.name).to_owned()).or_default().push((*secret, key));
    }
    Ok(found)
}

/// The fields of an instance that its fleet sets.
fn wanted(fleet: &FluxFleet, spec: &Discover, name: &str, secret: Source<'_>, key: Option<&str>) -> Value {
    let is_copied = |label: &&String| {
        let prefix = label.split_inclusive('/').next().unwrap_or_default();
        !TRACKING.iter().any(|tracking| prefix.ends_with(tracking))
    };
    let copied = secret.labels.iter().filter(|(label, _)| is_copied(label));
    let mut labels: BTreeMap<&str, &str> = copied.map(|(label, value)| (label.as_str(), value.as_str())).collect();
    let template = &spec.template;
    labels.extend(template.metadata.labels.iter().map(|(label, value)| (label.as_str(), value.as_str())));
    labels.insert(DISCOVERED_BY, fleet.metadata.uid.as_deref().unwrap_or_default());
    let mut annotations = template.metadata.annotations.clone();
    annotations.insert(DISCOVERED_BY.to_owned(), fleet.name_any());
    let mut of_instance: Map<String, Value> = template.spec.0.clone();
    of_instance.entry("admission").or_insert_with(|| json!("Fleet"));
    let mut reference = json!({"name": secret.name});
    if let Some(key) = key {
        reference["key"] = json!(key);
    }
    of_instance.insert("kubeConfig".to_owned(), json!({"secretRef": reference}));
    let mut object = json!({
        "apiVersion": FluxInstance::api_version(&()), "kind": FluxInstance::kind(&()),
        "metadata": {"name": name, "namespace": fleet.namespace(), "labels": labels, "annotations": annotations},
        "spec": of_instance,
    });
    // What has left the template is not missing anywhere: this tells that something is different.
    object["metadata"]["annotations"][TEMPLATE] = json!(digest(object.to_string().as_bytes()));
    object
}

fn is_as_wanted(instance: &FluxInstance, object: &Value) -> bool {
    let live = serde_json::to_value(instance).unwrap_or_default();
    instance.annotations().get(ORPHANED).is_none() && covers(&live, object)
}

/// Whether all that is wanted is there. What is empty or false may be left out.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Object(wanted)) => wanted.iter().all(|(field, wanted)| covers(&live[field.as_str()], wanted)),
        // Lists of names are sets, to which others may add.
        (Value::Array(live), Value::Array(wanted)) if wanted.iter().all(Value::is_string) => {
            wanted.iter().all(|item| live.contains(item))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        (Value::Null, Value::Array(wanted)) => wanted.is_empty(),
        (Value::Null, Value::Bool(wanted)) => !wanted,
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests;
