//! One Kubernetes cluster, local or remote: the same code, only the client differs. IO goes to Kubernetes only.

mod adopt;
mod connect;
mod connection;
mod error;
mod finalizers;
mod gate;
mod inventory;
mod kubeconfig;
mod lease;
mod look;
mod migrate;
mod mirror;
mod request;

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::Value;

use crate::plan::{Desired, FIELD_MANAGER, Live};
use crate::render::{Kind, ObjectKey};

pub use connect::{connect, connect_member, hub_config};
pub use connection::{Due, Event, Link, Standing, Trouble};
pub use error::ClusterError;
pub use gate::Gate;
pub use inventory::{INVENTORY_NAME, InventoryStore};
pub use kubeconfig::{Kubeconfig, KubeconfigRejected};
pub use lease::LeaseStore;
pub use migrate::Migrated;
pub use mirror::Mirror;
pub use request::{several, with_deadline};

pub use crate::plan::INSTALLATION_LABEL;

/// Longest wait for one answer. Slow API servers answer a write within 60 s or never; an instance that waits this long
/// holds a worker, so it is kept short and the retry is ours.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Writes in flight per cluster: enough to hide latency, few enough for API priority and fairness.
pub const IN_FLIGHT: usize = 8;

/// Objects asked for at a time.
const PAGE: usize = 500;

/// A connected cluster whose identity is known.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// UID of the `kube-system` namespace.
    pub uid: String,
    /// `vMAJOR.MINOR.PATCH` of the API server.
    pub version: String,
    /// The hub itself rather than a remote cluster: more watches are affordable there.
    pub is_hub: bool,
}

/// The answer to a write.
#[derive(Debug)]
pub struct Written {
    /// The object after the write, as metadata tells.
    pub live: Live,
    /// The write created it.
    pub created: bool,
}

/// A look at all objects of one kind that carry our label.
#[derive(Debug)]
pub struct Listed {
    /// What lives.
    pub live: Vec<(ObjectKey, Live)>,
    /// How new the look was.
    pub resource_version: u64,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page {
    /// Metadata of the objects.
    pub metadata: Vec<Value>,
    /// Where the next page begins.
    pub next: Option<String>,
}

fn apply_path(object: &Desired) -> String {
    let path = request::path(&object.kind, &object.key);
    format!("{path}?fieldManager={FIELD_MANAGER}&force=true&fieldValidation=Strict")
}

async fn identity(client: &Client) -> Result<String, ClusterError> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let system = with_deadline(namespaces.get_metadata("kube-system")).await?;
    Ok(system.metadata.uid.unwrap_or_default())
}

#[cfg(test)]
impl Cluster {
    /// One that answers nothing, for tests of what is only said of it. Wants a runtime around it.
    pub fn mute() -> Self {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, tower::BoxError>>()
        });
        Self { client: Client::new(service, "default"), uid: "u".into(), version: "v1.36.0".into(), is_hub: false }
    }
}

impl Cluster {
    /// Reads who the cluster is; with that, that it answers and accepts our credentials.
    pub async fn identify(client: Client, is_hub: bool) -> Result<Self, ClusterError> {
        // One after the other: both at once would be two connections, most of all to those that do not answer.
        let uid = identity(&client).await?;
        let version = with_deadline(client.apiserver_version()).await?.git_version;
        Ok(Self { client, uid, version, is_hub })
    }

    /// UID of what answers now: addresses and balancers may come to lead elsewhere while a client is in use.
    pub async fn identity(&self) -> Result<String, ClusterError> {
        identity(&self.client).await
    }

    /// The client, for typed access.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Server-side apply of pre-serialised bytes. Conflicts are forced: these fields are ours by declaration.
    pub async fn apply(&self, object: &Desired) -> Result<Written, ClusterError> {
        let path = apply_path(object);
        request::retried(|| async {
            let body = Some((request::APPLY, object.body.clone()));
            let (status, answer) = request::send(&self.client, "PATCH", &path, body, request::METADATA).await?;
            Ok(Written { live: request::live(&answer)?, created: status == http::StatusCode::CREATED })
        })
        .await
    }

    /// What the object would be after [`Cluster::apply`]; nothing is written.
    pub async fn dry_run(&self, object: &Desired) -> Result<Value, ClusterError> {
        let path = format!("{}&dryRun=All", apply_path(object));
        let body = Some((request::APPLY, object.body.clone()));
        let (_, answer) = request::send(&self.client, "PATCH", &path, body, request::WHOLE).await?;
        request::parse(&answer)
    }

    /// Deletes one incarnation of an object. `Ok` also when it is gone already.
    pub async fn delete(&self, kind: &Kind, key: &ObjectKey, uid: &str, foreground: bool) -> Result<(), ClusterError> {
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": if foreground { "Foreground" } else { "Background" },
        });
        let path = request::path(kind, key);
        let body = bytes::Bytes::from(options.to_string());
        let deleted = request::retried(|| async {
            request::send(&self.client, "DELETE", &path, Some((request::JSON, body.clone())), request::METADATA).await
        })
        .await;
        match deleted {
            Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes some fields of an object by a merge patch.
    pub async fn merge(&self, kind: &Kind, key: &ObjectKey, change: &Value) -> Result<(), ClusterError> {
        let path = format!("{}?fieldManager={FIELD_MANAGER}", request::path(kind, key));
        let body = bytes::Bytes::from(change.to_string());
        request::send(&self.client, "PATCH", &path, Some((request::MERGE, body)), request::METADATA).await?;
        Ok(())
    }

    /// The live object's metadata; `None` when there is none.
    pub async fn get_live(&self, kind: &Kind, key: &ObjectKey) -> Result<Option<Live>, ClusterError> {
        match request::send(&self.client, "GET", &request::path(kind, key), None, request::METADATA).await {
            Ok((_, answer)) => request::live(&answer).map(Some),
            Err(ClusterError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole live object; `None` when there is none.
    pub async fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Option<Value>, ClusterError> {
        match request::send(&self.client, "GET", &request::path(kind, key), None, request::WHOLE).await {
            Ok((_, answer)) => request::parse(&answer).map(Some),
            Err(ClusterError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind that carry our label, with what tells whether they are healthy: see [`request::judged`].
    pub async fn list(&self, kind: &Kind, installation: &str) -> Result<Vec<Value>, ClusterError> {
        let path = format!(
            "{}?labelSelector={INSTALLATION_LABEL}%3D{installation}",
            request::collection(kind, kind.namespaced.then_some(installation))
        );
        let (_, answer) = request::send(&self.client, "GET", &path, None, request::WHOLE).await?;
        request::judged(kind, &answer)
    }

    /// Metadata of all objects of a kind that carry our label. A kind the cluster does not know has no objects.
    pub async fn list_live(&self, kind: &Kind, installation: &str) -> Result<Listed, ClusterError> {
        let path = format!(
            "{}?labelSelector={INSTALLATION_LABEL}%3D{installation}",
            request::collection(kind, kind.namespaced.then_some(installation))
        );
        match request::send(&self.client, "GET", &path, None, request::METADATA_LIST).await {
            Ok((_, answer)) => request::listed(kind, &answer),
            Err(ClusterError::NotFound(_)) => Ok(Listed { live: Vec::new(), resource_version: u64::MAX }),
            Err(error) => Err(error),
        }
    }

    /// Metadata of all objects of a kind, page by page, in one namespace or anywhere. A kind the cluster does not know has none.
    pub async fn list_metadata(&self, kind: &Kind, namespace: Option<&str>) -> Result<Vec<Value>, ClusterError> {
        let mut all = Vec::new();
        let mut from = Some(String::new());
        while let Some(token) = from {
            let page = match self.page(kind, namespace, &token).await {
                Ok(page) => page,
                Err(ClusterError::NotFound(_)) => return Ok(Vec::new()),
                // The list has become too old to go on with: a part of it must never be taken for all.
                Err(ClusterError::Expired) if !token.is_empty() => {
                    all.clear();
                    from = Some(String::new());
                    continue;
                }
                Err(error) => return Err(error),
            };
            all.extend(page.metadata);
            from = page.next;
        }
        Ok(all)
    }

    /// One page of that list; `from` is where the page before ended.
    pub async fn page(&self, kind: &Kind, namespace: Option<&str>, from: &str) -> Result<Page, ClusterError> {
        let collection = request::collection(kind, namespace);
        let path = match from {
            "" => format!("{collection}?limit={PAGE}"),
            token => format!("{collection}?limit={PAGE}&continue={token}"),
        };
        let (_, answer) = request::send(&self.client, "GET", &path, None, request::METADATA_LIST).await?;
        let mut list: Value = request::parse(&answer)?;
        let metadata = match list["items"].take() {
            Value::Array(items) => items.into_iter().map(|mut item| item["metadata"].take()).collect(),
            _ => Vec::new(),
        };
        let next = list["metadata"]["continue"].as_str().filter(|token| !token.is_empty());
        Ok(Page { metadata, next: next.map(str::to_owned) })
    }

    /// Whether any object of the custom resource definition exists, in one namespace or anywhere.
    pub async fn has_objects(&self, crd: &ObjectKey, namespace: Option<&str>) -> Result<bool, ClusterError> {
        let Some(kind) = self.defined_by(crd).await? else { return Ok(false) };
        let namespaced = kind.namespaced;
        let path = format!("{}?limit=1", request::collection(&kind, namespace.filter(|_| namespaced)));
        match request::send(&self.client, "GET", &path, None, request::METADATA_LIST).await {
            Ok((_, answer)) => Ok(!request::listed(&kind, &answer)?.live.is_empty()),
            Err(ClusterError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
