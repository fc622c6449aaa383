//! Makes instances of the clusters that a fleet finds. What is made, changed or let go is decided in [`crate::fleet::discover`].
//!
//! Instances have no owner reference to their fleet: deleting a fleet must not delete them.

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::FleetCtx;
use crate::api::condition::{self, DISCOVERED, Verdict};
use crate::api::{FluxFleet, FluxFleetStatus, FluxInstance, ORPHANED};
use crate::cluster::{ClusterError, with_deadline};
use crate::controller::events::{Word, publish};
use crate::fleet::{Change, Discovery, Source, discover};

/// Field manager of what a template says: a field that leaves the template leaves the instance.
const MANAGER: &str = "headwater-discover";
/// Writes to the hub at the same time.
const IN_FLIGHT: usize = 16;
/// A version that no object has: an apply that names it makes what is not there, and conflicts with what is, so that an instance which
/// somebody else makes in this moment is left alone.
const NO_VERSION: &str = "1";
/// Names in one sentence.
const NAMES: usize = 10;

/// Names and labels of all Secrets of the namespace.
pub(in crate::controller) type Secrets = Store<PartialObjectMeta<Secret>>;

/// What is to be said about it.
#[derive(Default)]
pub(super) struct Told {
    verdict: Option<Verdict>,
    /// What was done.
    pub(super) words: Vec<Word>,
    /// Something could not be written: to be tried again.
    pub(super) is_unfinished: bool,
}

/// Finds clusters, and makes their instances.
pub(super) async fn run(fleets: &FleetCtx, fleet: &FluxFleet) -> Told {
    let Some(spec) = &fleet.spec.discover else { return Told::default() };
    if fleets.secrets.wait_until_ready().now_or_never().is_none_or(|ready| ready.is_err()) {
        // Nothing that was seen so far is missing.
        let verdict = Verdict::unknown("SecretsUnknown", "the Secrets of the namespace are not known yet");
        return Told { verdict: Some(verdict), ..Told::default() };
    }
    let secrets = fleets.secrets.state();
    let sources: Vec<Source<'_>> = secrets
        .iter()
        .filter_map(|secret| Some(Source { name: secret.metadata.name.as_deref()?, labels: secret.labels() }))
        .collect();
    let instances = fleets.instances.state();
    let readable: Vec<&FluxInstance> = instances.iter().filter_map(|instance| instance.0.as_ref().ok()).collect();
    let discovery = match discover(fleet, spec, &sources, &readable) {
        Ok(discovery) => discovery,
        Err(text) => return Told { verdict: Some(Verdict::no("InvalidSpec", text)), ..Told::default() },
    };
    let mut told = Told::default();
    let (mut created, mut deleted, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let steps: Vec<_> = discovery.changes.iter().map(Step::of).collect();
    let writes = stream::iter(steps).map(|step| async move {
        let written = write(fleets, &step).await;
        (step, written)
    });
    for (step, written) in writes.buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await {
        match written {
            Ok(()) => match step.verb {
                Verb::Create => created.push(step.name),
                Verb::Delete { .. } => deleted.push(step.name),
                Verb::Update { .. } | Verb::Orphan => {}
            },
            // Somebody was faster: the watch tells of it.
            Err(ClusterError::Conflict(_)) => told.is_unfinished = true,
            Err(error) => {
                tracing::warn!(fleet = %fleet.name_any(), instance = %step.name, %error, "discovered instance could not be written");
                failed.push(format!("FluxInstance {}: {error}", step.name));
                told.is_unfinished = true;
            }
        }
    }
    for change in &discovery.changes {
        if let Change::Orphan { instance, why } = change {
            let note = format!("{why}: the instance stays as it is, and its cluster cannot be reached any more");
            publish(&fleets.ctx, instance, vec![Word { warning: true, reason: "SourceRemoved", note }]).await;
        }
    }
    for (reason, names) in [("InstancesCreated", created), ("InstancesDeleted", deleted)] {
        if !names.is_empty() {
            let note = format!("{} instances of discovered clusters: {}", names.len(), listed(&names));
            told.words.push(Word { warning: false, reason, note });
        }
    }
    told.verdict = Some(verdict(&discovery, &failed));
    told
}

/// Says it in the status; what has newly gone wrong is an event.
pub(super) fn say(
    status: &mut FluxFleetStatus,
    before: Option<&FluxFleetStatus>,
    told: Told,
    fleet: &FluxFleet,
    now: Timestamp,
) -> Option<Word> {
    let Some(verdict) = told.verdict else {
        status.conditions.retain(|condition| condition.type_ != DISCOVERED);
        return None;
    };
    let before = before.and_then(|before| condition::find(&before.conditions, DISCOVERED));
    let is_news = verdict.status == "False" && before.is_none_or(|before| before.reason != verdict.reason);
    let word = is_news.then(|| Word { warning: true, reason: verdict.reason, note: verdict.message.clone() });
    condition::set(&mut status.conditions, DISCOVERED, verdict, fleet.metadata.generation, &Time(now));
    word
}

fn verdict(discovery: &Discovery<'_>, failed: &[String]) -> Verdict {
    if let [first, ..] = failed {
        return Verdict::no("WriteFailed", format!("{} instances could not be written; {first}", failed.len()));
    }
    if let [first, rest @ ..] = discovery.problems.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        return Verdict::no(first.reason(), format!("{first}{more}"));
    }
    let orphans = match discovery.orphans.as_slice() {
        [] => String::new(),
        names => format!("; {} have lost their Secrets, and stay as they are: {}", names.len(), listed(names)),
    };
    Verdict::yes("Discovered", format!("{} clusters were found, and have their instances{orphans}", discovery.found))
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > NAMES { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(NAMES)].join(", "))
}

/// A change as it is written: owned, since a borrowed future is not general enough for a stream.
struct Step {
    name: String,
    verb: Verb,
    body: Value,
}

#[derive(PartialEq)]
enum Verb {
    Create,
    /// With what takes the mark off that its Secret was gone.
    Update {
        unmark: Option<Value>,
    },
    Orphan,
    Delete {
        uid: Option<String>,
        version: Option<String>,
        secret: String,
    },
}

impl Step {
    fn of(change: &Change<'_>) -> Self {
        match change {
            Change::Create { name, object } => {
                let mut body = object.clone();
                body["metadata"]["resourceVersion"] = json!(NO_VERSION);
                Self { name: name.clone(), verb: Verb::Create, body }
            }
            Change::Update { instance, object } => {
                let mut body = object.clone();
                body["metadata"]["uid"] = json!(instance.uid());
                let marked = instance.annotations().contains_key(ORPHANED).then(|| mark(instance, None));
                Self { name: instance.name_any(), verb: Verb::Update { unmark: marked }, body }
            }
            Change::Orphan { instance, why } => {
                Self { name: instance.name_any(), verb: Verb::Orphan, body: mark(instance, Some(why)) }
            }
            Change::Delete { instance, secret } => {
                let (uid, version) = (instance.uid(), instance.resource_version());
                let verb = Verb::Delete { uid, version, secret: secret.clone() };
                Self { name: instance.name_any(), verb, body: Value::Null }
            }
        }
    }
}

/// Marks this very instance, or takes the mark off.
fn mark(instance: &FluxInstance, why: Option<&str>) -> Value {
    json!({"metadata": {"uid": instance.uid(), "annotations": {(ORPHANED): why}}})
}

async fn write(fleets: &FleetCtx, step: &Step) -> Result<(), ClusterError> {
    let (hub, namespace) = (&fleets.ctx.hub, &fleets.ctx.namespace);
    let api = Api::<FluxInstance>::namespaced(hub.clone(), namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match &step.verb {
        // Not a POST: who creates like that owns fields in another way than who applies, and could not let go of them later.
        Verb::Create => with_deadline(api.patch(&step.name, &params, &Patch::Apply(&step.body))).await.map(drop),
        Verb::Update { unmark } => {
            if let Some(unmark) = unmark {
                with_deadline(api.patch(&step.name, &params, &Patch::Merge(unmark))).await?;
            }
            with_deadline(api.patch(&step.name, &params.force(), &Patch::Apply(&step.body))).await.map(drop)
        }
        Verb::Orphan => with_deadline(api.patch(&step.name, &params, &Patch::Merge(&step.body))).await.map(drop),
        Verb::Delete { uid, version, secret } => {
            // What a watch shows may be old: that there is none is asked once more.
            let secrets = Api::<Secret>::namespaced(hub.clone(), namespace);
            if with_deadline(secrets.get_metadata_opt(secret)).await?.is_some() {
                return Ok(());
            }
            let preconditions = Preconditions { uid: uid.clone(), resource_version: version.clone() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match with_deadline(api.delete(&step.name, &params)).await {
                Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}
