//! Step 1, client required, read only: connect, and see what was recorded and what lives.

use futures::future::try_join_all;

use super::{Ctx, Memory, StepError};
use crate::api::{FLUX_NAMESPACE, FluxInstance};
use crate::cluster::{Cluster, InventoryStore, Mirror};
use crate::plan::{Entry, Observed, Owner};
use crate::render::Kind;

/// Connects and checks that the cluster is the one it was.
pub(super) async fn connect(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<Cluster, StepError> {
    let connection = ctx.clusters.get(instance.spec.kube_config.as_ref()).await?;
    let recorded = instance.status.as_ref().and_then(|s| s.cluster.as_ref());
    if let Some(recorded) = recorded
        && recorded.uid != connection.cluster.uid
    {
        return Err(StepError::Identity { expected: recorded.uid.clone(), found: connection.cluster.uid.clone() });
    }
    if memory.epoch != Some(connection.epoch) {
        // Another client: nothing that was seen through the old one counts.
        memory.forget_cluster();
        memory.epoch = Some(connection.epoch);
    }
    Ok(connection.cluster)
}

/// Reads the inventory and refuses to touch what belongs to another instance.
pub(super) async fn inventory(
    cluster: &Cluster,
    owner: &Owner,
    memory: &mut Memory,
) -> Result<InventoryStore, StepError> {
    let key = Kind::config_map().key(Some(FLUX_NAMESPACE.to_owned()), crate::cluster::INVENTORY_NAME.to_owned());
    let current = memory.mirror.as_ref().and_then(|m| m.get(&key)).map(|live| live.resource_version);
    let store = match memory.inventory.take() {
        Some(store) if current.is_some_and(|rv| store.is_version(rv)) => store,
        _ => InventoryStore::load(cluster, FLUX_NAMESPACE).await?,
    };
    match &store.inventory.owner {
        Some(other) if !other.is_same_instance(owner) => {
            Err(StepError::Claimed { namespace: FLUX_NAMESPACE.to_owned(), owner: other.clone() })
        }
        _ => Ok(store),
    }
}

/// Looks at the objects of every kind in the inventory: in the mirror where it is complete and new enough, else on the cluster.
pub(super) async fn live(
    cluster: &Cluster,
    store: &InventoryStore,
    mirror: Option<&Mirror>,
) -> Result<Observed, StepError> {
    let mut observed = Observed { inventory: store.inventory.clone(), ..Observed::default() };
    let mut ask: Vec<Kind> = Vec::new();
    for kind in kinds(store.inventory.entries.values()) {
        let known = mirror.is_some_and(|m| m.fill(&kind, &mut observed));
        // A mirror shows no object that we know of: either it is gone, or the watch lags behind. Only the server can tell.
        let missing = store.inventory.entries.iter().any(|(key, entry)| {
            entry.kind.group == kind.group && entry.kind.kind == kind.kind && !observed.live.contains_key(key)
        });
        if !known || missing {
            ask.push(kind);
        }
    }
    let lists = try_join_all(ask.iter().map(|kind| cluster.list_live(kind, FLUX_NAMESPACE))).await?;
    for (kind, list) in ask.into_iter().zip(lists) {
        observed.live.retain(|key, _| key.group != kind.group || key.kind != kind.kind);
        observed.live.extend(list.live);
        observed.seen.insert((kind.group, kind.kind), list.resource_version);
    }
    Ok(observed)
}

/// The kinds of some entries, each once.
pub(super) fn kinds<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = entries.into_iter().map(|e| e.kind.clone()).collect();
    kinds.sort();
    kinds.dedup_by(|a, b| a.group == b.group && a.kind == b.kind);
    kinds
}
