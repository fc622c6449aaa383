//! The other way round: what happens to a cluster when its instance is deleted.

use futures::{StreamExt, stream};

use super::execute::execute;
use super::{Ctx, Memory, StepError, observe, owner_of, report};
use crate::api::{DeletionPolicy, FLUX_NAMESPACE, FluxInstance};
use crate::cluster::IN_FLIGHT;
use crate::plan::{Inventory, removal};
use crate::render::{Kind, ObjectKey};

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
        DeletionPolicy::Uninstall => uninstall(ctx, instance, memory).await,
    }
}

/// Gives everything back: our marks go from each object that is the one we recorded, then the inventory. What is installed runs on
/// and belongs to nobody; whoever comes next takes it over. After a crash anywhere, what is still marked is still in the inventory.
async fn release(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<(), StepError> {
    let owner = owner_of(instance);
    let cluster = observe::connect(ctx, instance, memory).await?;
    let mut store = match observe::inventory(&cluster, &owner, memory).await {
        Ok(store) => store,
        // Another instance has it: nothing there is ours.
        Err(StepError::Claimed { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let observed = observe::live(&cluster, &store, None).await?;
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
            answer.map_err(|error| (key, error))
        }
    });
    let answers: Vec<_> = stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await;
    let failures: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    if !failures.is_empty() {
        return Err(StepError::Apply(failures));
    }
    Ok(store.delete(&cluster, FLUX_NAMESPACE).await?)
}

async fn uninstall(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<Removal, StepError> {
    let owner = owner_of(instance);
    let cluster = observe::connect(ctx, instance, memory).await?;
    let mut store = match observe::inventory(&cluster, &owner, memory).await {
        Ok(store) => store,
        // Another instance has it: nothing there is ours.
        Err(StepError::Claimed { .. }) => return Ok(Removal::Done),
        Err(error) => return Err(error),
    };
    if store.inventory.owner.is_none() {
        return Ok(Removal::Done);
    }
    // Never from the mirror: a deletion wants to have seen the present.
    let observed = observe::live(&cluster, &store, None).await?;
    let plan = removal(&owner, &observed);
    let (executed, result) = execute(&cluster, &plan, &mut store).await;
    result?;
    // Now: when the namespace is gone, so is the inventory that knows of it.
    report::say_kept(ctx, instance, memory, &executed.kept).await;
    if let [first, rest @ ..] = executed.going.as_slice() {
        return Ok(Removal::Waiting(match rest.len() {
            0 => format!("waiting for {first} to be gone"),
            more => format!("waiting for {first} (and {more} more) to be gone"),
        }));
    }
    if store.inventory.entries.is_empty() {
        store.delete(&cluster, FLUX_NAMESPACE).await?;
    } else {
        let left = Inventory { owner: None, ..store.inventory.clone() };
        store.save(&cluster, FLUX_NAMESPACE, &left).await?;
    }
    Ok(Removal::Done)
}
