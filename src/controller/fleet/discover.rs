//! Makes instances of the clusters that a fleet finds. What is made, changed or let go is decided in [`crate::fleet::discover`].
//!
//! Instances have no owner reference to their fleet: deleting a fleet must not delete them.

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::FleetCtx;
use crate::api::condition::{self, DISCOVERED, Verdict};
use crate::api::{FluxFleet, FluxFleetStatus, FluxInstance, ORPHANED, ORPHANED_SINCE};
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
    /// When to look again.
    pub(super) recheck: Option<SignedDuration>,
    /// When instances were deleted lately, `doomed` included.
    deletions: Option<Vec<Timestamp>>,
    /// What is to be deleted once the status says so.
    pub(super) doomed: Vec<Doomed>,
}

/// Finds clusters, and makes their instances.
pub(super) async fn run(fleets: &FleetCtx, fleet: &FluxFleet, now: Timestamp) -> Told {
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
    let discovery = match discover(fleet, spec, &sources, &readable, now) {
        Ok(discovery) => discovery,
        Err(text) => return Told { verdict: Some(Verdict::no("InvalidSpec", text)), ..Told::default() },
    };
    let mut told = Told { recheck: discovery.recheck, deletions: Some(discovery.deletions.clone()), ..Told::default() };
    let (mut created, mut failed) = (Vec::new(), Vec::new());
    let mut steps = Vec::new();
    for change in &discovery.changes {
        match change {
            Change::Create { name, object } => steps.push(Step::create(name, object)),
            Change::Update { instance, object } => steps.push(Step::update(instance, object)),
            Change::Orphan { instance, why } => steps.push(Step::mark(instance, why, now)),
            Change::Delete { instance, secret } => told.doomed.push(Doomed {
                name: instance.name_any(),
                uid: instance.uid(),
                version: instance.resource_version(),
                secret: secret.clone(),
            }),
        }
    }
    let writes = stream::iter(steps).map(|step| async move {
        let written = write(fleets, &step).await;
        (step, written)
    });
    for (step, written) in writes.buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await {
        match written {
            Ok(()) if step.verb == Verb::Create => created.push(step.name),
            Ok(()) => {}
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
    told.words.extend(word("InstancesCreated", &created));
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
    if let Some(deletions) = told.deletions {
        status.deletions = deletions.into_iter().map(Time).collect();
    }
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

fn word(reason: &'static str, names: &[String]) -> Option<Word> {
    let note = || format!("{} instances of discovered clusters: {}", names.len(), listed(names));
    (!names.is_empty()).then(|| Word { warning: false, reason, note: note() })
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
    Mark,
}

impl Step {
    fn create(name: &str, object: &Value) -> Self {
        let mut body = object.clone();
        body["metadata"]["resourceVersion"] = json!(NO_VERSION);
        Self { name: name.to_owned(), verb: Verb::Create, body }
    }

    fn update(instance: &FluxInstance, object: &Value) -> Self {
        let mut body = object.clone();
        body["metadata"]["uid"] = json!(instance.uid());
        let unmark = instance.annotations().contains_key(ORPHANED).then(|| mark(instance, None));
        Self { name: instance.name_any(), verb: Verb::Update { unmark }, body }
    }

    fn mark(instance: &FluxInstance, why: &str, now: Timestamp) -> Self {
        Self { name: instance.name_any(), verb: Verb::Mark, body: mark(instance, Some((why, now))) }
    }
}

/// Marks this very instance, or takes the mark off.
fn mark(instance: &FluxInstance, why: Option<(&str, Timestamp)>) -> Value {
    let (why, since) = why.map(|(why, since)| (why, since.to_string())).unzip();
    json!({"metadata": {"uid": instance.uid(), "annotations": {(ORPHANED): why, (ORPHANED_SINCE): since}}})
}

async fn write(fleets: &FleetCtx, step: &Step) -> Result<(), ClusterError> {
    let api = Api::<FluxInstance>::namespaced(fleets.ctx.hub.clone(), &fleets.ctx.namespace);
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
        Verb::Mark => with_deadline(api.patch(&step.name, &params, &Patch::Merge(&step.body))).await.map(drop),
    }
}

/// An instance that is to be deleted.
pub(super) struct Doomed {
    name: String,
    uid: Option<String>,
    version: Option<String>,
    secret: String,
}

/// Deletes what the status says is deleted, and says so. One that remains is found again, and counts again.
pub(super) async fn delete(fleets: &FleetCtx, doomed: Vec<Doomed>) -> Option<Word> {
    let mut deleted = Vec::new();
    for instance in doomed {
        match delete_one(fleets, &instance).await {
            Ok(true) => deleted.push(instance.name),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(instance = %instance.name, %error, "discovered instance could not be deleted");
            }
        }
    }
    word("InstancesDeleted", &deleted)
}

async fn delete_one(fleets: &FleetCtx, instance: &Doomed) -> Result<bool, ClusterError> {
    let (hub, namespace) = (&fleets.ctx.hub, &fleets.ctx.namespace);
    // What a watch shows may be old: that there is none is asked once more.
    let secrets = Api::<Secret>::namespaced(hub.clone(), namespace);
    if with_deadline(secrets.get_metadata_opt(&instance.secret)).await?.is_some() {
        return Ok(false);
    }
    let preconditions = Preconditions { uid: instance.uid.clone(), resource_version: instance.version.clone() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = Api::<FluxInstance>::namespaced(hub.clone(), namespace);
    match with_deadline(api.delete(&instance.name, &params)).await {
        Ok(_) | Err(ClusterError::NotFound(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
