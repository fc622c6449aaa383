//! A picture of the objects we manage on one cluster, kept by watches on metadata. It tells when somebody else touches
//! them, and spares a pass from asking for what is known.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Cluster, INSTALLATION_LABEL};
use crate::plan::{Live, Observed, changed_by, ownership};
use crate::render::{Kind, ObjectKey};

/// A watch is opened anew after so long, and up to some minutes more, so that those of a fleet do not come together. Bookmarks, one
/// a minute, keep balancers from taking it for idle, and show that somebody is there (see [`super::connect`]).
const WATCH_SECONDS: u32 = 3600;

/// A watch that could not be opened again would have said so by now: by its back-off, or by the silence of the connection.
const RESUMED: Duration = Duration::from_secs(240);

#[derive(Default)]
struct Picture {
    complete: bool,
    /// The watch was interrupted and has shown nothing since: what is known may be old. It goes on where it was; that it
    /// does is not told, but that it does not is, in time.
    interrupted: Option<Instant>,
    seen: u64,
    live: BTreeMap<ObjectKey, Live>,
    /// What a relist has shown so far; replaces `live` when the list is complete.
    incoming: BTreeMap<ObjectKey, Live>,
}

impl Picture {
    /// Whether what it shows can be relied on.
    fn is_current(&self) -> bool {
        self.complete && self.interrupted.is_none_or(|at| at.elapsed() > RESUMED)
    }

    fn take(&mut self, event: watcher::Event<(ObjectKey, Live)>) -> bool {
        self.interrupted = None;
        let newest = |picture: &mut Self, live: &Live| picture.seen = picture.seen.max(live.resource_version);
        match event {
            watcher::Event::Init => {
                self.incoming.clear();
                false
            }
            watcher::Event::InitApply((key, live)) => {
                newest(self, &live);
                self.incoming.insert(key, live);
                false
            }
            watcher::Event::InitDone => {
                let incoming = std::mem::take(&mut self.incoming);
                let changed = !self.complete || incoming != self.live;
                self.live = incoming;
                self.complete = true;
                changed
            }
            watcher::Event::Apply((key, live)) => {
                newest(self, &live);
                self.live.insert(key, live);
                true
            }
            watcher::Event::Delete((key, live)) => {
                newest(self, &live);
                self.live.remove(&key);
                true
            }
        }
    }
}

type Pictures = Arc<Mutex<BTreeMap<(String, String), Picture>>>;

/// The picture of one installation. Dropping it ends its watches.
pub struct Mirror {
    pictures: Pictures,
    watches: BTreeMap<(String, String), JoinHandle<()>>,
    changed: mpsc::Sender<()>,
    broken: Arc<AtomicBool>,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.watches.values().for_each(JoinHandle::abort);
    }
}

impl Mirror {
    /// An empty picture; `changed` gets a word after every change. It has to have room for one word only: more say the same.
    pub fn new(changed: mpsc::Sender<()>) -> Self {
        Self { pictures: Arc::default(), watches: BTreeMap::new(), changed, broken: Arc::default() }
    }

    /// Watches these kinds from now on.
    pub fn watch(&mut self, cluster: &Cluster, installation: &str, kinds: impl IntoIterator<Item = Kind>) {
        for kind in kinds {
            let id = (kind.group.clone(), kind.kind.clone());
            if self.watches.contains_key(&id) {
                continue;
            }
            let resource = ApiResource {
                group: kind.group.clone(),
                version: kind.version.clone(),
                api_version: kind.api_version(),
                kind: kind.kind.clone(),
                plural: kind.plural.clone(),
            };
            let client = cluster.client().clone();
            let api = if kind.namespaced {
                Api::<PartialObjectMeta<DynamicObject>>::namespaced_with(client, installation, &resource)
            } else {
                Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &resource)
            };
            let spread = cluster.uid.bytes().fold(0, u8::wrapping_add);
            let config = watcher::Config::default()
                .labels(&format!("{INSTALLATION_LABEL}={installation}"))
                .timeout(WATCH_SECONDS + u32::from(spread));
            let pictures = Arc::clone(&self.pictures);
            let (changed, broken) = (self.changed.clone(), Arc::clone(&self.broken));
            let task = tokio::spawn(async move {
                let mut events = watcher(api, config).default_backoff().boxed();
                while let Some(event) = events.next().await {
                    let id = (kind.group.clone(), kind.kind.clone());
                    let mut pictures = pictures.lock().unwrap_or_else(PoisonError::into_inner);
                    let picture = pictures.entry(id).or_default();
                    let is_news = match event {
                        Ok(event) => picture.take(map(event, &kind)),
                        Err(error) => {
                            tracing::debug!(kind = %kind.kind, %error, "watch interrupted");
                            // Once: a pass has it found out whether the cluster is still there.
                            let before = picture.interrupted.replace(Instant::now());
                            let is_first = before.is_none_or(|at| at.elapsed() > RESUMED);
                            broken.store(true, Ordering::Relaxed);
                            is_first && picture.complete
                        }
                    };
                    if is_news {
                        let _ = changed.try_send(());
                    }
                }
            });
            self.watches.insert(id, task);
        }
    }

    /// Whether a watch was interrupted since the last call.
    pub fn has_broken(&self) -> bool {
        self.broken.swap(false, Ordering::Relaxed)
    }

    /// Writes into `observed` what is known of a kind; false when nothing complete is known yet.
    pub fn fill(&self, kind: &Kind, observed: &mut Observed) -> bool {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (kind.group.clone(), kind.kind.clone());
        let Some(picture) = pictures.get(&id).filter(|p| p.is_current()) else { return false };
        observed.live.extend(picture.live.iter().map(|(k, l)| (k.clone(), l.clone())));
        observed.seen.insert(id, picture.seen);
        true
    }

    /// What is known of one object.
    pub fn get(&self, key: &ObjectKey) -> Option<Live> {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        pictures.get(&(key.group.clone(), key.kind.clone())).filter(|p| p.is_current())?.live.get(key).cloned()
    }
}

fn map(event: watcher::Event<PartialObjectMeta<DynamicObject>>, kind: &Kind) -> watcher::Event<(ObjectKey, Live)> {
    let read = |object: PartialObjectMeta<DynamicObject>| {
        let fields: Vec<serde_json::Value> =
            object.managed_fields().iter().filter_map(|f| serde_json::to_value(f).ok()).collect();
        let live = Live {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            resource_version: object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0),
            fields: ownership(&fields),
            deleting: object.metadata.deletion_timestamp.is_some(),
            finalizers: object.metadata.finalizers.clone().unwrap_or_default(),
            changed_by: changed_by(&fields),
        };
        (kind.key(object.namespace(), object.name_any()), live)
    };
    match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(read(object)),
        watcher::Event::Apply(object) => watcher::Event::Apply(read(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(read(object)),
    }
}
