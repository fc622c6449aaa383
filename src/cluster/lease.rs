//! The Lease by which operators agree who leads; [`crate::plan::election`] decides, this reads and writes.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::ClusterError;
use crate::plan::election::{Answer, Record, Stored, Write};

/// Watches are opened anew before load balancers drop idle connections.
const WATCH_SECONDS: u32 = 200;

/// One Lease on the hub.
pub struct LeaseStore {
    api: Api<Lease>,
    namespace: String,
    name: String,
    /// Longest wait for an answer.
    patience: Duration,
    /// The newest object that was answered: what others wrote to its metadata stays.
    object: Option<Lease>,
}

impl LeaseStore {
    /// The client must not be behind a [`super::Gate`]: that one opens by what is written here.
    pub fn new(hub: Client, namespace: &str, name: String, patience: Duration) -> Self {
        Self { api: Api::namespaced(hub, namespace), namespace: namespace.to_owned(), name, patience, object: None }
    }

    /// `NAMESPACE/NAME`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Looks at it.
    pub async fn read(&mut self) -> Answer {
        let answer = self.within(self.api.get(&self.name)).await;
        self.answered(answer, Answer::Found)
    }

    /// Writes it, if it still is what the write is over.
    pub async fn write(&mut self, write: &Write) -> Answer {
        let mut lease = self.lease(write);
        let params = PostParams::default();
        let answer = if let Some(over) = &write.over {
            lease.metadata.uid = Some(over.uid.clone());
            lease.metadata.resource_version = Some(over.version.to_string());
            self.within(self.api.replace(&self.name, &params, &lease)).await
        } else {
            self.within(self.api.create(&params, &lease)).await
        };
        self.answered(answer, Answer::Written)
    }

    /// What is shown of it from now on.
    pub fn watch(&self) -> BoxStream<'static, Answer> {
        shown(self.api.clone(), &self.name).boxed()
    }

    async fn within(&self, request: impl Future<Output = Result<Lease, kube::Error>>) -> Result<Lease, ClusterError> {
        match tokio::time::timeout(self.patience, request).await {
            Ok(answer) => answer.map_err(ClusterError::from),
            Err(_) => Err(ClusterError::Timeout(self.patience)),
        }
    }

    fn answered(&mut self, answer: Result<Lease, ClusterError>, as_: fn(Stored) -> Answer) -> Answer {
        match answer {
            Ok(lease) => {
                let stored = stored(&lease);
                self.object = Some(lease);
                as_(stored)
            }
            Err(ClusterError::NotFound(_)) => Answer::Absent,
            Err(ClusterError::Conflict(_)) => Answer::Conflict,
            Err(error) => {
                tracing::warn!(lease = %self.id(), %error, "no answer about the lease");
                Answer::Nothing
            }
        }
    }

    fn lease(&self, write: &Write) -> Lease {
        let Record { holder, seconds, transitions } = &write.record;
        let now = Some(MicroTime(Timestamp::now()));
        let known = self.object.as_ref().filter(|known| write.over.as_ref().is_some_and(|o| *o == stored(known)));
        let is_new = write.over.as_ref().is_none_or(|over| over.record.holder != *holder);
        let acquired = known.and_then(|known| known.spec.as_ref()?.acquire_time.clone()).filter(|_| !is_new);
        let mut metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        if let Some(known) = known {
            metadata.labels.clone_from(&known.metadata.labels);
            metadata.annotations.clone_from(&known.metadata.annotations);
        }
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.clone()),
                lease_duration_seconds: i32::try_from(*seconds).ok(),
                lease_transitions: i32::try_from(*transitions).ok(),
                acquire_time: acquired.or_else(|| now.clone()),
                // For people: no operator looks at the time that another one wrote.
                renew_time: now,
                ..LeaseSpec::default()
            }),
        }
    }
}

fn shown(api: Api<Lease>, name: &str) -> impl Stream<Item = Answer> + Send + 'static {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    watcher(api, config).default_backoff().filter_map(|event| async move {
        match event {
            Ok(watcher::Event::InitApply(lease) | watcher::Event::Apply(lease)) => Some(Answer::Shown(stored(&lease))),
            Ok(watcher::Event::Delete(_)) => Some(Answer::Absent),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
            Err(error) => {
                tracing::debug!(%error, "the watch of the lease was interrupted");
                None
            }
        }
    })
}

fn stored(lease: &Lease) -> Stored {
    let spec = lease.spec.clone().unwrap_or_default();
    let number = |value: Option<i32>| value.and_then(|v| v.try_into().ok()).unwrap_or(0);
    Stored {
        uid: lease.uid().unwrap_or_default(),
        version: lease.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0),
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            seconds: number(spec.lease_duration_seconds),
            transitions: number(spec.lease_transitions),
        },
    }
}
