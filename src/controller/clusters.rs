//! The ways to the clusters that instances name, one [`Link`] for each kubeconfig. A pass takes a connection or learns at once
//! why there is none; it never waits for one. Connecting is done by [`keep`] alone, which wakes the instances when there is news.
//!
//! So a cluster that is down costs a line in a table: no pass, no task and no socket between two probes, and probes are few at
//! a time and end within seconds, however many clusters are down.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::roster::Roster;
use super::secrets::{client_of, read_secret};
use super::{Ctx, Guarded, StepError};
use crate::api::{FluxInstance, KubeConfigRef};
use crate::cluster::{Cluster, ClusterError, Due, Event, Gate, Link, Standing, Trouble};

/// Longest time a probe takes. Longer than the connect timeout, so that a probe says what was the matter.
const PROBE: Duration = Duration::from_secs(6);
/// First contacts at a time: most of them end well and soon.
const CONTACTS: usize = 128;
/// Probes of clusters that were down when last asked, at a time: enough for 300 of them that only time out, few enough to
/// be no load.
const PROBES: usize = 16;
/// Links that no instance names any more are forgotten at least this often.
const SWEEP: Duration = Duration::from_secs(10);

/// A connected cluster; the epoch changes when the client does.
#[derive(Clone)]
pub struct Connection {
    /// The cluster.
    pub cluster: Cluster,
    /// Which client.
    pub epoch: u64,
}

/// Name of a Secret and, where it is given, the key in it.
type Id = (String, Option<String>);

fn id_of(reference: &KubeConfigRef) -> Id {
    (reference.secret_ref.name.clone(), reference.secret_ref.key.clone())
}

/// What is known of the way to one cluster.
#[derive(Default)]
struct Way {
    link: Link,
    /// There while connected, and while that is doubted.
    connection: Option<Connection>,
    /// There while down: the first error of its kind, so that what is said of it stays the same.
    why: Option<StepError>,
    /// Resource version of the Secret that was read last.
    secret_version: Option<String>,
    /// An instance asked for another cluster than the one that answers.
    is_other: bool,
    /// Names of instances whose passes were turned away since it was connected last.
    awaited: BTreeSet<String>,
}

impl Way {
    fn on(&mut self, event: Event) {
        self.link = self.link.on(event, Instant::now(), roll());
        let is_kept = matches!(event, Event::Asked | Event::Doubted) || self.is_connected();
        if !is_kept {
            self.connection = None;
            self.is_other = false;
        }
    }

    fn is_connected(&self) -> bool {
        self.link.standing() == Standing::Connected
    }

    /// Notes why it is down; whether that is news.
    fn is_down(&mut self, error: &StepError) -> bool {
        let is_news = self.why.as_ref().is_none_or(|why| why.reason() != error.reason());
        if is_news {
            self.why = Some(error.clone());
        }
        is_news
    }

    /// A word for metrics.
    fn state(&self) -> &'static str {
        match self.link.standing() {
            Standing::New => "connecting",
            Standing::Connected if self.is_other => "identity_changed",
            Standing::Connected => "connected",
            Standing::Down(Trouble::Unreachable) => "backing_off",
            Standing::Down(Trouble::Unauthorised) => "unauthorised",
            Standing::Down(Trouble::Refused) => "refused",
        }
    }
}

/// All that [`Way::state`] may say.
const STATES: [&str; 6] = ["connecting", "connected", "identity_changed", "backing_off", "unauthorised", "refused"];

/// Chance, between 0 and 1.
fn roll() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

#[derive(Default)]
struct Ways {
    by_id: BTreeMap<Id, Way>,
    /// Whose instances are to look again.
    news: BTreeSet<Id>,
    /// Names of instances that waited and can go on. Not all of that cluster: the one that raised a doubt has a pace of its own.
    let_in: BTreeSet<String>,
}

/// All connections of this process.
pub struct Clusters {
    hub: Client,
    namespace: String,
    gate: Gate,
    local: tokio::sync::Mutex<Option<Connection>>,
    /// Never held over IO: one slow cluster must not stop the others.
    ways: Mutex<Ways>,
    epochs: AtomicU64,
    /// Something is due, or news.
    stirred: Notify,
}

impl Clusters {
    /// No connections yet; Secrets are read from `namespace` of the hub.
    pub fn new(hub: Client, namespace: String, gate: Gate) -> Self {
        Self {
            hub,
            namespace,
            gate,
            local: tokio::sync::Mutex::default(),
            ways: Mutex::default(),
            epochs: AtomicU64::default(),
            stirred: Notify::new(),
        }
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster of an instance; never another one than before.
    pub async fn get(&self, instance: &FluxInstance) -> Result<Connection, StepError> {
        let recorded = instance.status.as_ref().and_then(|status| status.cluster.as_ref()).map(|c| c.uid.as_str());
        let connection = match &instance.spec.kube_config {
            None => self.hub().await?,
            Some(reference) => self.remote(&instance.name_any(), reference, recorded)?,
        };
        match recorded {
            Some(expected) if expected != connection.cluster.uid => {
                Err(StepError::Identity { expected: expected.to_owned(), found: connection.cluster.uid })
            }
            _ => Ok(connection),
        }
    }

    async fn hub(&self) -> Result<Connection, StepError> {
        let mut local = self.local.lock().await;
        if let Some(connection) = local.as_ref() {
            return Ok(connection.clone());
        }
        let cluster = Cluster::identify(self.hub.clone(), true).await.map_err(StepError::Contact)?;
        Ok(local.insert(Connection { cluster, epoch: self.next_epoch() }).clone())
    }

    /// What is known at this moment.
    fn remote(&self, name: &str, reference: &KubeConfigRef, expected: Option<&str>) -> Result<Connection, StepError> {
        let mut ways = self.ways();
        let way = ways.by_id.entry(id_of(reference)).or_default();
        let is_connected = way.is_connected();
        let Some(connection) = way.connection.as_ref().filter(|_| is_connected) else {
            way.awaited.insert(name.to_owned());
            self.stirred.notify_one();
            return Err(way.why.clone().unwrap_or(StepError::Connecting));
        };
        let is_other = expected.is_some_and(|expected| expected != connection.cluster.uid);
        if is_other != way.is_other {
            way.is_other = is_other;
            self.stirred.notify_one();
        }
        Ok(connection.clone())
    }

    /// Whether the instance will be woken when there is something new to know of its cluster, so that it need not ask.
    pub fn wakes(&self, instance: &FluxInstance) -> bool {
        let Some(reference) = &instance.spec.kube_config else { return false };
        // One that is only doubted may turn out to be well, which is no news.
        self.ways().by_id.get(&id_of(reference)).is_some_and(|way| way.connection.is_none())
    }

    /// How a pass that used a connection ended.
    pub fn tell(&self, instance: &FluxInstance, epoch: Option<u64>, error: Option<&StepError>) {
        self.happened(instance, epoch, |way| match error.map(|error| (error, error.trouble())) {
            Some((error, Some(trouble))) => {
                way.on(Event::Broke(trouble));
                way.is_down(error);
            }
            Some((error, None)) if error.is_doubtful() => way.on(Event::Doubted),
            Some((_, None)) | None => way.on(Event::Worked),
        });
    }

    /// Another cluster answers than the one that was connected to.
    pub fn moved(&self, instance: &FluxInstance, epoch: Option<u64>) {
        self.happened(instance, epoch, |way| way.on(Event::Changed));
    }

    /// A watch of this client broke off.
    pub fn doubt(&self, instance: &FluxInstance, epoch: Option<u64>) {
        self.happened(instance, epoch, |way| way.on(Event::Doubted));
    }

    fn happened(&self, instance: &FluxInstance, epoch: Option<u64>, what: impl FnOnce(&mut Way)) {
        let Some(reference) = &instance.spec.kube_config else { return };
        let id = id_of(reference);
        let mut ways = self.ways();
        // What befell an older client says nothing of this one.
        let is_current = |way: &&mut Way| way.connection.as_ref().is_some_and(|c| Some(c.epoch) == epoch);
        let Some(way) = ways.by_id.get_mut(&id).filter(is_current) else { return };
        what(way);
        if !way.is_connected() {
            if way.connection.is_none() {
                ways.news.insert(id);
            }
            self.stirred.notify_one();
        }
    }

    /// A Secret is there in this version.
    pub fn secret(&self, name: &str, version: Option<&str>) {
        let mut ways = self.ways();
        let of_secret = ways.by_id.iter_mut().filter(|((secret, _), _)| secret == name);
        for (_, way) in of_secret.filter(|(_, way)| way.secret_version.as_deref() != version) {
            way.on(Event::Changed);
            way.why = None;
            self.stirred.notify_one();
        }
    }

    /// Connects to the cluster of an instance and waits for it, for who has nobody to wake.
    pub async fn connect(&self, instance: &FluxInstance) {
        let Some(reference) = &instance.spec.kube_config else { return };
        let id = id_of(reference);
        self.ways().by_id.entry(id.clone()).or_default().on(Event::Asked);
        self.visit(&id).await;
    }

    /// Asks a cluster how it stands.
    async fn visit(&self, id: &Id) {
        let answer = self.contact(id).await;
        let mut ways = self.ways();
        let Ways { by_id, news, let_in } = &mut *ways;
        let Some(way) = by_id.get_mut(id) else { return };
        match answer {
            Ok(connection) => {
                way.on(Event::Answered);
                let is_connected = way.is_connected();
                (way.connection, way.why) = (is_connected.then_some(connection), None);
                if is_connected {
                    let_in.append(&mut way.awaited);
                }
            }
            Err(error) => {
                way.on(Event::Failed(error.trouble().unwrap_or(Trouble::Unreachable), error.retry_after()));
                if matches!(way.link.standing(), Standing::Down(_)) && way.is_down(&error) {
                    news.insert(id.clone());
                }
            }
        }
    }

    async fn contact(&self, id: &Id) -> Result<Connection, StepError> {
        let doubted = self.ways().by_id.get(id).and_then(|way| way.connection.clone());
        if let Some(connection) = doubted {
            let asked = tokio::time::timeout(PROBE, connection.cluster.identity()).await;
            let uid = asked.unwrap_or(Err(ClusterError::Timeout(PROBE))).map_err(StepError::Contact)?;
            if uid == connection.cluster.uid {
                return Ok(connection);
            }
        }
        let (name, key) = id;
        let secret = read_secret(&self.hub, &self.namespace, name, "spec.kubeConfig.secretRef").await?;
        if let Some(way) = self.ways().by_id.get_mut(id) {
            way.secret_version.clone_from(&secret.metadata.resource_version);
        }
        let client = client_of(secret, key.as_deref(), &self.gate)?;
        let identified = tokio::time::timeout(PROBE, Cluster::identify(client, false)).await;
        let cluster = identified.unwrap_or(Err(ClusterError::Timeout(PROBE))).map_err(StepError::Contact)?;
        Ok(Connection { cluster, epoch: self.next_epoch() })
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }

    /// What can be asked now, and when the next can be.
    fn due(&self) -> (Vec<(Id, Due)>, Option<Instant>) {
        let now = Instant::now();
        let ways = self.ways();
        let all = ways.by_id.iter().filter_map(|(id, way)| way.link.due().map(|due| (id.clone(), due)));
        let (mut due, later): (Vec<_>, Vec<_>) =
            all.partition(|(_, due)| if let Due::Retry(at) = due { *at <= now } else { true });
        let time = |due: &Due| if let Due::Retry(at) = due { *at } else { now };
        // Who has waited longest is first.
        due.sort_by_key(|(_, due)| time(due));
        (due, later.iter().map(|(_, due)| time(due)).min())
    }

    fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts = BTreeMap::from(STATES.map(|state| (state, 0)));
        for way in self.ways().by_id.values() {
            *counts.entry(way.state()).or_default() += 1;
        }
        counts
    }
}

/// Keeps the links of all instances: connects what is new, probes what is down, wakes whom it concerns. Never ends.
pub(super) async fn keep(ctx: Arc<Ctx>, instances: Store<Guarded>) {
    let (contacts, probes) = (Arc::new(Semaphore::new(CONTACTS)), Arc::new(Semaphore::new(PROBES)));
    let mut visits = JoinSet::new();
    let mut swept = Instant::now();
    loop {
        let (news, let_in) = {
            let mut ways = ctx.clusters.ways();
            (std::mem::take(&mut ways.news), std::mem::take(&mut ways.let_in))
        };
        let mut woken = concerned(&ctx, &instances, &news);
        woken.extend(let_in.iter().map(|name| ObjectRef::new(name).within(&ctx.namespace)));
        for instance in woken {
            // Nobody listens any more when the operator stops.
            let _ = ctx.trigger.send(instance).await;
        }
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            // Taken before the look at the instances: whoever is in them was there before its instance asked.
            let known: Vec<Id> = ctx.clusters.ways().by_id.keys().cloned().collect();
            let named = named(&ctx, &instances);
            for id in known.iter().filter(|id| !named.contains(*id)) {
                ctx.clusters.ways().by_id.remove(id);
            }
        }
        let (due, next) = ctx.clusters.due();
        for (id, due) in due {
            let lane = if due == Due::Contact { &contacts } else { &probes };
            // When one ends there is room again.
            let Ok(room) = Arc::clone(lane).try_acquire_owned() else { continue };
            if let Some(way) = ctx.clusters.ways().by_id.get_mut(&id) {
                way.on(Event::Asked);
            }
            let ctx = Arc::clone(&ctx);
            visits.spawn(async move {
                ctx.clusters.visit(&id).await;
                drop(room);
            });
        }
        ctx.metrics.clusters(ctx.clusters.counts());
        let sweep = swept + SWEEP;
        tokio::select! {
            () = ctx.clusters.stirred.notified() => {}
            Some(_) = visits.join_next() => while visits.try_join_next().is_some() {},
            () = tokio::time::sleep_until(next.unwrap_or(sweep).min(sweep).into()) => {}
        }
    }
}

/// The instances that name one of these links.
fn concerned(ctx: &Ctx, instances: &Store<Guarded>, links: &BTreeSet<Id>) -> Vec<ObjectRef<Guarded>> {
    if links.is_empty() {
        return Vec::new();
    }
    let (all, roster) = (instances.state(), ctx.roster());
    let is_concerned = |instance: &&Arc<Guarded>| link_of(&roster, instance).is_some_and(|id| links.contains(&id));
    all.iter().filter(is_concerned).map(|instance| ObjectRef::from_obj(instance.as_ref())).collect()
}

/// All links that are named.
fn named(ctx: &Ctx, instances: &Store<Guarded>) -> BTreeSet<Id> {
    let (all, roster) = (instances.state(), ctx.roster());
    all.iter().filter_map(|instance| link_of(&roster, instance)).collect()
}

/// The link that an instance of this operator names: who belongs to another shard is seen, and not connected to.
fn link_of(roster: &Roster, instance: &Guarded) -> Option<Id> {
    let FluxInstance { metadata, spec, .. } = instance.0.as_ref().ok()?;
    roster.since(metadata.name.as_ref()?, metadata.uid.as_ref()?)?;
    spec.kube_config.as_ref().map(id_of)
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};

    use super::*;

    #[tokio::test]
    async fn clusters_of_other_shards_are_not_connected_to() {
        let ctx = Ctx::aside(Cluster::mute().client().clone(), "n");
        let (reader, mut writer) = reflector::store();
        for (name, shard) in [("mine", ""), ("theirs", "east")] {
            let object = serde_json::json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
                "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"headwater.dev/shard": shard}},
                "spec": {"distribution": {"version": "2.x"}, "kubeConfig": {"secretRef": {"name": name}}},
            });
            let event = watcher::Event::Apply(serde_json::from_value::<Guarded>(object).unwrap());
            writer.apply_watcher_event(&event);
            ctx.roster().take(event);
        }
        let named: Vec<Id> = named(&ctx, &reader).into_iter().collect();
        assert_eq!(named, [("mine".to_owned(), None)]);
    }
}
