//! Clients for the clusters that instances name: made from Secrets, kept while the Secret stays the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::Mutex;

use super::StepError;
use crate::api::KubeConfigRef;
use crate::cluster::{Cluster, ClusterError, Gate, Kubeconfig, KubeconfigRejected, connect, with_deadline};

/// A connected cluster; the epoch changes when the client does.
#[derive(Clone)]
pub struct Connection {
    /// The cluster.
    pub cluster: Cluster,
    /// Which client.
    pub epoch: u64,
}

struct Known {
    secret_version: String,
    /// The Secret may have changed since.
    stale: bool,
    connection: Connection,
}

/// All connections of this process.
pub struct Clusters {
    hub: Client,
    namespace: String,
    gate: Gate,
    local: Mutex<Option<Connection>>,
    remote: Mutex<HashMap<(String, Option<String>), Known>>,
    epochs: AtomicU64,
    /// How often a Secret was doubted: a doubt that comes while one is being read must not be lost.
    doubts: AtomicU64,
}

impl Clusters {
    /// No connections yet; Secrets are read from `namespace` of the hub.
    pub fn new(hub: Client, namespace: String, gate: Gate) -> Self {
        Self {
            hub,
            namespace,
            gate,
            local: Mutex::default(),
            remote: Mutex::default(),
            epochs: AtomicU64::default(),
            doubts: AtomicU64::default(),
        }
    }

    /// The cluster an instance names.
    pub async fn get(&self, reference: Option<&KubeConfigRef>) -> Result<Connection, StepError> {
        match reference {
            None => self.hub().await,
            Some(reference) => self.remote(reference).await,
        }
    }

    async fn hub(&self) -> Result<Connection, StepError> {
        let mut local = self.local.lock().await;
        if let Some(connection) = local.as_ref() {
            return Ok(connection.clone());
        }
        let cluster = Cluster::identify(self.hub.clone(), true).await?;
        Ok(local.insert(Connection { cluster, epoch: self.next_epoch() }).clone())
    }

    async fn remote(&self, reference: &KubeConfigRef) -> Result<Connection, StepError> {
        let secret_ref = &reference.secret_ref;
        let id = (secret_ref.name.clone(), secret_ref.key.clone());
        // No lock is held over IO: one slow cluster must not stop the others.
        if let Some(known) = self.remote.lock().await.get(&id)
            && !known.stale
        {
            return Ok(known.connection.clone());
        }
        let doubts = self.doubts.load(Ordering::SeqCst);
        let is_stale = || self.doubts.load(Ordering::SeqCst) != doubts;
        let secret = read_secret(&self.hub, &self.namespace, &secret_ref.name, "spec.kubeConfig.secretRef").await?;
        let secret_version = secret.metadata.resource_version.clone().unwrap_or_default();
        if let Some(known) = self.remote.lock().await.get_mut(&id)
            && known.secret_version == secret_version
        {
            known.stale = is_stale();
            return Ok(known.connection.clone());
        }
        let data = secret.data.unwrap_or_default();
        let wanted: Vec<&str> = match &secret_ref.key {
            Some(key) => vec![key],
            None => vec!["value", "value.yaml"],
        };
        let Some((key, bytes)) = wanted.iter().find_map(|key| data.get_key_value(*key)) else {
            let found: Vec<&str> = data.keys().map(String::as_str).take(8).collect();
            return Err(StepError::Secret {
                field: "spec.kubeConfig.secretRef",
                cause: format!(
                    "Secret {} has no key {} (found: {})",
                    secret_ref.name,
                    wanted.join(" or "),
                    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
                ),
                transient: false,
            });
        };
        let kubeconfig = Kubeconfig::parse(&bytes.0).map_err(|cause| StepError::Kubeconfig {
            secret: secret_ref.name.clone(),
            key: key.clone(),
            cause,
        })?;
        let client = connect(&kubeconfig.config(), &self.gate).map_err(|error| StepError::Kubeconfig {
            secret: secret_ref.name.clone(),
            key: key.clone(),
            cause: KubeconfigRejected::unusable(&error),
        })?;
        let cluster = Cluster::identify(client, false).await?;
        let connection = Connection { cluster, epoch: self.next_epoch() };
        let mut remote = self.remote.lock().await;
        let known = Known { secret_version, stale: is_stale(), connection: connection.clone() };
        remote.insert(id, known);
        Ok(connection)
    }

    /// The Secret changed, or its credentials were refused: look at it again before the next use.
    pub async fn doubt(&self, secret: &str, refused: bool) {
        let mut remote = self.remote.lock().await;
        self.doubts.fetch_add(1, Ordering::SeqCst);
        if refused {
            remote.retain(|(name, _), _| name != secret);
        } else {
            remote.iter_mut().filter(|((name, _), _)| name == secret).for_each(|(_, known)| known.stale = true);
        }
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }
}

/// Reads a Secret of the hub.
pub(super) async fn read_secret(
    hub: &Client,
    namespace: &str,
    name: &str,
    field: &'static str,
) -> Result<Secret, StepError> {
    let api = Api::<Secret>::namespaced(hub.clone(), namespace);
    with_deadline(api.get(name)).await.map_err(|error| missing("Secret", name, namespace, field, &error))
}

/// What to say when an object that a field names could not be read.
pub(super) fn missing(kind: &str, name: &str, namespace: &str, field: &'static str, error: &ClusterError) -> StepError {
    StepError::Secret {
        field,
        cause: match error {
            ClusterError::NotFound(_) => format!("{kind} {name} does not exist in namespace {namespace}"),
            error => format!("{kind} {name}: {error}"),
        },
        transient: !matches!(error, ClusterError::NotFound(_)),
    }
}
