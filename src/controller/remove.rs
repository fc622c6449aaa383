//! The other way round: what happens to a cluster when its instance is deleted.

use super::execute::execute;
use super::{Ctx, Memory, StepError, observe, owner_of, report};
use crate::api::{DeletionPolicy, FLUX_NAMESPACE, FluxInstance};
use crate::plan::{Inventory, removal};

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
            // A cluster that is gone for ever must not keep its instance: handing over is a courtesy to whoever comes next.
            if let Err(error) = release(ctx, instance, memory).await {
                tracing::warn!(%error, "the inventory could not be handed over; the installation stays as it is");
            }
            Ok(Removal::Done)
        }
        DeletionPolicy::Uninstall => uninstall(ctx, instance, memory).await,
    }
}

/// Everything stays; the inventory has no owner any more, so that another instance may take over.
async fn release(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<(), StepError> {
    let cluster = observe::connect(ctx, instance, memory).await?;
    let mut store = observe::inventory(&cluster, &owner_of(instance), memory).await?;
    if store.inventory.owner.is_some() {
        let released = Inventory { owner: None, ..store.inventory.clone() };
        store.save(&cluster, FLUX_NAMESPACE, &released).await?;
    }
    Ok(())
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
