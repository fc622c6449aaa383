//! Step 1, client required, read only: connect, and see what was recorded and what lives.

use std::collections::{BTreeMap, BTreeSet};
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

/// What a look at a remote cluster saw of the kinds that are not watched. Good enough to know that there is nothing to do; before
/// anything is done, it is looked anew.
pub(super) struct Look {
    taken: Instant,
    /// Of the instance as it was: whoever changes it wants it looked at.
    word: u64,
    live: BTreeMap<ObjectKey, Live>,
    seen: BTreeMap<(String, String), u64>,
}

impl Look {
    /// What was seen in a pass that had nothing to do.
    pub(super) fn of(instance: &FluxInstance, observed: Observed, before: Option<Self>) -> Self {
        let Observed { inventory, mut live, mut seen } = observed;
        live.retain(|key, _| inventory.entries.get(key).is_some_and(|entry| is_remembered(&entry.kind)));
        let kept: BTreeSet<(&str, &str)> = live.keys().map(|key| (key.group.as_str(), key.kind.as_str())).collect();
        seen.retain(|(group, kind), _| kept.contains(&(group.as_str(), kind.as_str())));
        let word = word_of(instance);
        let taken = before.filter(|look| look.is_good(instance)).map_or_else(Instant::now, |look| look.taken);
        Self { taken, word, live, seen }
    }

    /// Whether it is new enough.
    pub(super) fn is_good(&self, instance: &FluxInstance) -> bool {
        let interval = instance.spec.interval.get().unwrap_or_default();
        self.word == word_of(instance) && self.taken.elapsed() < interval * LOOK_EVERY
    }

    fn fill(&self, kind: &Kind, observed: &mut Observed) -> bool {
        let id = (kind.group.clone(), kind.kind.clone());
        let Some(seen) = self.seen.get(&id).filter(|_| is_remembered(kind)) else { return false };
        let of_kind = self.live.iter().filter(|(key, _)| key.group == kind.group && key.kind == kind.kind);
        observed.live.extend(of_kind.map(|(key, live)| (key.clone(), live.clone())));
        observed.seen.insert(id, *seen);
        true
    }
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
    let observed = live(cluster, &store, memory.mirror.as_ref(), memory.look.as_ref()).await?;
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
        Some(store) if current.is_some_and(|rv| store.is_version(rv)) || memory.look.is_some() => store,
        _ => InventoryStore::load(cluster, FLUX_NAMESPACE).await?,
    };
    match &store.inventory.owner {
        Some(other) if !other.is_same_instance(owner) => {
            Err(StepError::Claimed { namespace: FLUX_NAMESPACE.to_owned(), owner: other.clone() })
        }
        _ => Ok(store),
    }
}

/// Looks at the objects of every kind in the inventory: in the mirror where it is complete and new enough, in a look that was
/// made before, else on the cluster.
pub(super) async fn live(
    cluster: &Cluster,
    store: &InventoryStore,
    mirror: Option<&Mirror>,
    look: Option<&Look>,
) -> Result<Observed, StepError> {
    let mut observed = Observed { inventory: store.inventory.clone(), ..Observed::default() };
    let mut ask: Vec<Kind> = Vec::new();
    for kind in kinds(store.inventory.entries.values()) {
        let known = mirror.is_some_and(|m| m.fill(&kind, &mut observed))
            || look.is_some_and(|look| look.fill(&kind, &mut observed));
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
