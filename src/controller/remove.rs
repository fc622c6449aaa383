//! The other way round: what happens to a cluster when its instance is deleted.

use std::time::{Duration, Instant};

use super::execute::{Going, execute};
use super::{Ctx, Memory, StepError, observe, owner_of, report};
use crate::api::{DeletionPolicy, FLUX_NAMESPACE, FluxInstance};
use crate::cluster::{Cluster, ClusterError, INSTALLATION_LABEL, several};
use crate::plan::{Inventory, removal};
use crate::render::{Kind, ObjectKey};

/// Who holds up a removal is said as an event after this time; `Ready` says it at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a removal waits for because of others, and since when.
pub(super) struct Held {
    by: Vec<Going>,
    since: Instant,
    said: bool,
}

/// How far it came.
#[derive(Debug)]
pub(super) enum Removal {
    /// The finalizer can go.
    Done,
    /// Objects are on their way out.
    Waiting(String),
}

/// Carries out `spec.deletionPolicy`.
pub(super) async fn remove(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<Removal, StepError> {
    match instance.spec.deletion_policy {
        DeletionPolicy::Orphan => {
            match release(ctx, instance, memory).await {
                Ok(()) => Ok(Removal::Done),
                // The cluster answers, and may answer better later.
                Err(error) if error.is_transient() && !error.is_about_reaching() && !error.is_refusal() => Err(error),
                // One that is gone for ever must not keep its instance: giving back is a courtesy to whoever comes next.
                Err(error) => {
                    tracing::warn!(%error, "our marks could not be removed; the installation stays as it is");
                    Ok(Removal::Done)
                }
            }
        }
        DeletionPolicy::Uninstall => match uninstall(ctx, instance, memory).await {
            Err(error) if error.is_about_reaching() && report::is_abandoned(instance) => {
                report::say_abandoned(ctx, instance).await;
                Ok(Removal::Done)
            }
            result => result,
        },
    }
}

/// Gives everything back: our marks go from each object that is the one we recorded, then the inventory. What is installed runs on
/// and belongs to nobody; whoever comes next takes it over. After a crash anywhere, what is still marked is still in the inventory.
async fn release(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<(), StepError> {
    let owner = owner_of(instance);
    let cluster = observe::connect(ctx, instance, memory).await?;
    observe::confirm(ctx, instance, memory, &cluster).await?;
    memory.look = None;
    let mut store = match observe::inventory(&cluster, &owner, memory).await {
        Ok(store) => store,
        // Another instance has it: nothing there is ours.
        Err(StepError::Claimed { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let observed = observe::live(&cluster, &store, None, false).await?;
    let recorded: Vec<(ObjectKey, Kind, String)> = store
        .inventory
        .entries
        .iter()
        .filter_map(|(key, entry)| {
            // Where the answer to our write was lost, it is the one that carries our label and fields.
            let marked = observed.live.get(key).filter(|live| live.fields.is_some()).map(|live| &live.uid);
            let uid = entry.uid.as_ref().or(marked)?;
            Some((key.clone(), entry.kind.clone(), uid.clone()))
        })
        .collect();
    let writes = recorded.into_iter().map(|(key, kind, uid)| {
        let cluster = cluster.clone();
        async move {
            let answer = cluster.hand_back(&kind, &key, &uid).await;
            (key, answer)
        }
    });
    let failed = |(key, answer): (ObjectKey, Result<_, ClusterError>)| answer.err().map(|error| (key, error));
    let failures: Vec<_> = several(writes).await.into_iter().filter_map(failed).collect();
    if !failures.is_empty() {
        return Err(StepError::Apply(failures));
    }
    Ok(store.delete(&cluster, FLUX_NAMESPACE).await?)
}

async fn uninstall(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<Removal, StepError> {
    let owner = owner_of(instance);
    let cluster = observe::connect(ctx, instance, memory).await?;
    observe::confirm(ctx, instance, memory, &cluster).await?;
    memory.look = None;
    let mut store = match observe::inventory(&cluster, &owner, memory).await {
        Ok(store) => store,
        // Another instance has it: nothing there is ours.
        Err(StepError::Claimed { .. }) => return Ok(Removal::Done),
        Err(error) => return Err(error),
    };
    if store.inventory.owner.is_none() {
        // The namespace takes the inventory along before it is gone itself.
        return namespace_going(&cluster).await;
    }
    // Never from the mirror: a deletion wants to have seen the present.
    let observed = observe::live(&cluster, &store, None, false).await?;
    let plan = removal(&owner, &observed, instance.spec.upgrade.delete_crds);
    let (executed, result) = execute(&cluster, &plan, &mut store).await;
    report::say_removed(ctx, instance, &executed).await;
    result?;
    // Now: when the namespace is gone, so is the inventory that knows of it.
    report::say_kept(ctx, instance, memory, &executed.kept).await;
    say_held(ctx, instance, memory, &executed.going).await;
    // Who is held by somebody is what people can do something about.
    let held = executed.going.iter().find(|going| !going.held_by.is_empty());
    if let Some(first) = held.or(executed.going.first()) {
        let more = match executed.going.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let end = if first.held_by.is_empty() { " to be gone" } else { "; whoever put it there has to clear it" };
        return Ok(Removal::Waiting(format!("waiting for {first}{more}{end}")));
    }
    if store.inventory.entries.is_empty() {
        store.delete(&cluster, FLUX_NAMESPACE).await?;
    } else {
        let left = Inventory { owner: None, ..store.inventory.clone() };
        store.save(&cluster, FLUX_NAMESPACE, &left).await?;
    }
    Ok(Removal::Done)
}

/// Names those who hold the removal up, once for as long as they stay the same.
async fn say_held(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory, going: &[Going]) {
    let by: Vec<Going> = going.iter().filter(|going| !going.held_by.is_empty()).cloned().collect();
    if memory.held.as_ref().is_none_or(|held| held.by != by) {
        memory.held = Some(Held { by, since: Instant::now(), said: false });
    }
    if let Some(held) = &mut memory.held
        && !held.by.is_empty()
        && !held.said
        && held.since.elapsed() >= PATIENCE
    {
        held.said = true;
        report::say_held(ctx, instance, &held.by).await;
    }
}

/// Whether our namespace is still on its way out, and what the server says it waits for.
async fn namespace_going(cluster: &Cluster) -> Result<Removal, StepError> {
    let kind = Kind::namespace();
    let Some(namespace) = cluster.get(&kind, &kind.key(None, FLUX_NAMESPACE.to_owned())).await? else {
        return Ok(Removal::Done);
    };
    let metadata = &namespace["metadata"];
    if metadata["deletionTimestamp"].is_null() || metadata["labels"][INSTALLATION_LABEL] != FLUX_NAMESPACE {
        return Ok(Removal::Done);
    }
    let conditions = namespace["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Of finalizers first: they are what nobody may be left to clear.
    let why = |type_: &str| conditions.iter().find(|c| c["type"] == type_ && c["status"] == "True");
    let why = why("NamespaceFinalizersRemaining").or_else(|| why("NamespaceContentRemaining"));
    let why = why.and_then(|c| c["message"].as_str()).map(|why| format!(": {why}")).unwrap_or_default();
    Ok(Removal::Waiting(format!("waiting for Namespace {FLUX_NAMESPACE} to be gone{why}")))
}
