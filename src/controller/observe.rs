//! Step 1, client required, read only: connect, and see what was recorded and what lives.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use futures::future::try_join_all;

use super::{Ctx, Memory, StepError};
use crate::api::{FLUX_NAMESPACE, FluxInstance};
use crate::cluster::{Cluster, InventoryStore, Mirror};
use crate::plan::{CRD, Entry, Live, Observed, Owner, Stage, stage_of};
use crate::render::{Kind, ObjectKey};

/// Takes the connection, which is to the cluster that it was before.
pub(super) async fn connect(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<Cluster, StepError> {
    if memory.mirror.as_ref().is_some_and(Mirror::has_broken) {
        ctx.clusters.doubt(instance, memory.epoch);
    }
    let connection = ctx.clusters.get(instance).await;
    if matches!(connection, Err(StepError::Connecting)) {
        return Err(StepError::Connecting);
    }
    let epoch = connection.as_ref().ok().map(|connection| connection.epoch);
    if memory.epoch != epoch {
        // Another client, or none: nothing that was seen through the old one counts, and nothing is watched through it.
        memory.forget_cluster();
        memory.epoch = epoch;
    }
    Ok(connection?.cluster)
}

/// Before writes: whether what answers is still the cluster that was connected to.
pub(super) async fn confirm(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &Memory,
    cluster: &Cluster,
) -> Result<(), StepError> {
    if cluster.is_hub {
        return Ok(());
    }
    let found = cluster.identity().await?;
    if found == cluster.uid {
        return Ok(());
    }
    ctx.clusters.moved(instance, memory.epoch);
    Err(StepError::Identity { expected: cluster.uid.clone(), found })
}

/// Looks that say that nothing changed are made at every so manieth interval only, where watches tell of what matters most.
const LOOK_EVERY: u32 = 6;

/// A look at a remote cluster after which nothing was left to do, so that the kinds that are not watched are as the inventory says.
/// Good enough to know that there is still nothing to do; before anything is done, it is looked anew.
pub(super) struct Look {
    taken: Instant,
    /// Of the instance as it was: whoever changes it wants it looked at.
    word: u64,
    /// Resource version of the inventory.
    inventory: Option<u64>,
}

impl Look {
    /// After a pass that left nothing to do.
    pub(super) fn of(instance: &FluxInstance, store: &InventoryStore, before: Option<Self>) -> Self {
        let taken = before.filter(|look| look.is_good(instance)).map_or_else(Instant::now, |look| look.taken);
        Self { taken, word: word_of(instance), inventory: store.resource_version() }
    }

    /// Whether it is new enough.
    fn is_good(&self, instance: &FluxInstance) -> bool {
        let interval = instance.spec.interval.get().unwrap_or_default();
        self.word == word_of(instance) && self.taken.elapsed() < interval * LOOK_EVERY
    }

    fn is_of(&self, store: &InventoryStore) -> bool {
        self.inventory.is_some() && self.inventory == store.resource_version()
    }
}

/// Writes into `observed` what a look saw of a kind; false when it has to be asked for.
fn recall(kind: &Kind, observed: &mut Observed) -> bool {
    if !is_remembered(kind) {
        return false;
    }
    let of_kind = observed
        .inventory
        .entries
        .iter()
        .filter(|(_, entry)| entry.kind.group == kind.group && entry.kind.kind == kind.kind);
    let live: Vec<(ObjectKey, Live)> = of_kind
        .filter_map(|(key, entry)| {
            let (uid, fields) = (entry.uid.clone()?, entry.fields.clone());
            Some((key.clone(), Live { uid, resource_version: entry.resource_version, fields, ..Live::default() }))
        })
        .collect();
    let newest = live.iter().map(|(_, live)| live.resource_version).max().unwrap_or_default();
    observed.live.extend(live);
    observed.seen.insert((kind.group.clone(), kind.kind.clone()), newest);
    true
}

fn word_of(instance: &FluxInstance) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (instance.metadata.generation, &instance.metadata.annotations).hash(&mut hasher);
    hasher.finish()
}

/// Kinds that are watched on remote clusters: what breaks an installation at once.
pub(super) fn is_watched(kind: &Kind) -> bool {
    kind.kind == CRD || stage_of(kind) == Stage::Workloads
}

/// Custom resources tell by their status how they are: these are looked at every time.
fn is_remembered(kind: &Kind) -> bool {
    !is_watched(kind) && stage_of(kind) != Stage::CustomResources
}

/// What is recorded and what lives. With `anew` nothing counts that was seen before, else it may be partly remembered.
pub(super) async fn look(
    cluster: &Cluster,
    owner: &Owner,
    memory: &mut Memory,
    instance: &FluxInstance,
    anew: bool,
) -> Result<(InventoryStore, Observed), StepError> {
    if anew || memory.look.as_ref().is_some_and(|look| !look.is_good(instance)) {
        memory.look = None;
    }
    let store = inventory(cluster, owner, memory).await?;
    memory.look = memory.look.take().filter(|look| look.is_of(&store));
    let observed = live(cluster, &store, memory.mirror.as_ref(), memory.look.is_some()).await?;
    Ok((store, observed))
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
        Some(store) if memory.look.is_some() || (current.is_some() && current == store.resource_version()) => store,
        _ => InventoryStore::load(cluster, FLUX_NAMESPACE).await?,
    };
    match &store.inventory.owner {
        Some(other) if !other.is_same_instance(owner) => {
            Err(StepError::Claimed { namespace: FLUX_NAMESPACE.to_owned(), owner: other.clone() })
        }
        _ => Ok(store),
    }
}

/// Looks at the objects of every kind in the inventory: in the mirror where it is complete and new enough, with `recalled` as a look
/// saw them that was made before, else on the cluster.
pub(super) async fn live(
    cluster: &Cluster,
    store: &InventoryStore,
    mirror: Option<&Mirror>,
    recalled: bool,
) -> Result<Observed, StepError> {
    let mut observed = Observed { inventory: store.inventory.clone(), ..Observed::default() };
    let mut ask: Vec<Kind> = Vec::new();
    for kind in kinds(store.inventory.entries.values()) {
        let known = mirror.is_some_and(|m| m.fill(&kind, &mut observed)) || (recalled && recall(&kind, &mut observed));
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
