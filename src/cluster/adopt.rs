//! Taking objects over from other tools, and giving them back: patches of metadata that [`crate::plan::takeover`] decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use super::{Cluster, ClusterError, request};
use crate::plan::takeover::helm::{self, Release};
use crate::plan::takeover::{self, Adoption, DISABLED, Others, Peer, Tool};
use crate::plan::{Desired, FIELD_MANAGER, Foreign, live_of};
use crate::render::kinds::builtin;
use crate::render::{Kind, ObjectKey};

/// How often an object may change under our hands: controllers write a status now and then, then it is quiet.
const ATTEMPTS: usize = 5;
/// Name of flux-operator's Deployment, and of its application in the labels of its chart.
const PEER_OPERATOR: &str = "flux-operator";
/// Most objects of one kind in one namespace that are looked at as a whole.
const MANY: usize = 500;
/// Most revisions of one Helm release that are looked at; Helm itself keeps ten.
const REVISIONS: usize = 256;

impl Cluster {
    /// Makes an object that exists ready to be applied as ours. When it changes meanwhile, what to do is decided anew.
    pub async fn adopt(&self, object: &Desired, adoption: &Adoption) -> Result<(), ClusterError> {
        let mut patch = adoption.patch.clone();
        for _ in 1..ATTEMPTS {
            let Some(change) = &patch else { return Ok(()) };
            match self.change_metadata(&object.kind, &object.key, change).await {
                Ok(()) => return Ok(()),
                Err(ClusterError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
            let Some(metadata) = self.metadata(&object.kind, &object.key).await? else { return Ok(()) };
            let foreign = Foreign { live: live_of(&metadata), metadata };
            if foreign.live.uid != adoption.uid {
                break;
            }
            patch = takeover::adoption(&object.kind.api_version(), &foreign).patch;
        }
        Err(ClusterError::Conflict("it changes while it is taken over".to_owned()))
    }

    /// Takes our marks from one incarnation of an object. `Ok` also when it is gone, or has none.
    pub async fn hand_back(&self, kind: &Kind, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        for _ in 1..ATTEMPTS {
            let Some(metadata) = self.metadata(kind, key).await? else { return Ok(()) };
            let Some(change) = takeover::hand_back(&metadata).filter(|_| metadata["uid"] == uid) else { return Ok(()) };
            match self.change_metadata(kind, key, &change).await {
                Err(ClusterError::Conflict(_)) => {}
                answer => return answer,
            }
        }
        Err(ClusterError::Conflict("it changes while it is handed back".to_owned()))
    }

    /// Makes Helm forget the Secrets of a release.
    pub async fn detach(&self, namespace: &str, secrets: &BTreeMap<String, String>) -> Result<(), ClusterError> {
        let Some(kind) = builtin("", "v1", "Secret") else { return Ok(()) };
        for (name, uid) in secrets {
            let key = kind.key(Some(namespace.to_owned()), name.clone());
            self.change_metadata(&kind, &key, &helm::detached(uid)).await?;
        }
        Ok(())
    }

    /// The live object's metadata as the server tells it; `None` when there is none.
    pub async fn metadata(&self, kind: &Kind, key: &ObjectKey) -> Result<Option<Value>, ClusterError> {
        match request::send(self.client(), "GET", &request::path(kind, key), None, request::METADATA).await {
            Ok((_, answer)) => Ok(Some(request::parse::<Value>(&answer)?["metadata"].take())),
            Err(ClusterError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the server would make of an object of this kind, with all that it fills in, if there were none yet.
    pub async fn completed(&self, kind: &Kind, object: &Value) -> Result<Value, ClusterError> {
        let namespace = object["metadata"]["namespace"].as_str();
        let path = format!("{}?dryRun=All&fieldManager={FIELD_MANAGER}", request::collection(kind, namespace));
        let mut object = object.clone();
        // One of its own name is there.
        object["metadata"]["name"] = "headwater-dry-run".into();
        let body = Some((request::JSON, Bytes::from(object.to_string())));
        let (_, answer) = request::send(self.client(), "POST", &path, body, request::WHOLE).await?;
        request::parse(&answer)
    }

    /// All whole objects of a kind in a namespace, whoever made them. A kind the cluster does not know has none.
    pub async fn list_all(&self, kind: &Kind, namespace: &str) -> Result<Vec<Value>, ClusterError> {
        let path = format!("{}?limit={MANY}", request::collection(kind, Some(namespace)));
        let mut list: Value = match request::send(self.client(), "GET", &path, None, request::WHOLE).await {
            Ok((_, answer)) => request::parse(&answer)?,
            Err(ClusterError::NotFound(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Makes flux-operator leave what its `FluxInstance` installed alone, also when that is deleted.
    pub async fn disable_peer(&self, namespace: &str, name: &str) -> Result<(), ClusterError> {
        let path = format!("{}?fieldManager={FIELD_MANAGER}", peer_path(namespace, name));
        let change = serde_json::json!({"metadata": {"annotations": {(DISABLED): "disabled"}}});
        let body = Some((request::MERGE, Bytes::from(change.to_string())));
        request::send(self.client(), "PATCH", &path, body, request::METADATA).await.map(drop)
    }

    /// Looks at the other tools that these objects belong to. What we may not see counts as being there and at work.
    pub async fn others(&self, foreign: &BTreeMap<ObjectKey, Foreign>) -> Result<Others, ClusterError> {
        let mut others = Others::default();
        for tool in takeover::named(foreign) {
            match tool {
                Tool::FluxOperator { namespace, name } => {
                    let peer = seen(self.peer(&namespace, &name).await)?.unwrap_or(Peer::Active);
                    others.peers.insert((namespace, name), peer);
                }
                Tool::Helm { namespace, name } => {
                    if let Some(release) = seen(self.helm_release(&namespace, &name).await)? {
                        others.releases.insert((namespace, name), release);
                    }
                }
                _ => {}
            }
        }
        Ok(others)
    }

    async fn peer(&self, namespace: &str, name: &str) -> Result<Peer, ClusterError> {
        let path = peer_path(namespace, name);
        let peer: Value = match request::send(self.client(), "GET", &path, None, request::METADATA).await {
            Ok((_, answer)) => request::parse(&answer)?,
            Err(ClusterError::NotFound(_)) => return Ok(Peer::Gone),
            Err(error) => return Err(error),
        };
        if peer["metadata"]["annotations"][DISABLED] == "disabled" {
            return Ok(Peer::Disabled);
        }
        let Some(kind) = builtin("apps", "v1", "Deployment") else { return Ok(Peer::Active) };
        let deployments = self.list_all(&kind, namespace).await?;
        let is_running = |deployment: &Value| {
            let metadata = &deployment["metadata"];
            let is_it =
                metadata["name"] == PEER_OPERATOR || metadata["labels"]["app.kubernetes.io/name"] == PEER_OPERATOR;
            is_it && deployment["spec"]["replicas"] != 0
        };
        Ok(if deployments.iter().any(is_running) { Peer::Active } else { Peer::Stopped })
    }

    async fn helm_release(&self, namespace: &str, name: &str) -> Result<Release, ClusterError> {
        let (label, value) = helm::OWNER;
        let all = format!(
            "/api/v1/namespaces/{namespace}/secrets?limit={REVISIONS}&labelSelector={label}%3D{value}%2C{}%3D{name}",
            helm::NAME
        );
        let (_, answer) = request::send(self.client(), "GET", &all, None, request::METADATA_LIST).await?;
        let list: Value = request::parse(&answer)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().into_iter().flatten();
        let secrets = items.map(|s| (text(&s["metadata"]["name"]), text(&s["metadata"]["uid"]))).collect();
        // Their content is large: only that of the revision that is installed tells something.
        let deployed = format!("{all}%2Cstatus%3Ddeployed");
        let (_, answer) = request::send(self.client(), "GET", &deployed, None, request::WHOLE).await?;
        let list: Value = request::parse(&answer)?;
        let objects = list["items"].as_array().into_iter().flatten().filter_map(helm::objects).flatten().collect();
        Ok(Release { secrets, objects })
    }

    /// Sends a merge patch of metadata that names the UID it is for, so that another incarnation is refused.
    async fn change_metadata(&self, kind: &Kind, key: &ObjectKey, change: &Value) -> Result<(), ClusterError> {
        match self.merge(kind, key, change).await {
            Err(ClusterError::NotFound(_)) => Ok(()),
            answer => answer,
        }
    }
}

fn peer_path(namespace: &str, name: &str) -> String {
    format!("/apis/fluxcd.controlplane.io/v1/namespaces/{namespace}/fluxinstances/{name}")
}

/// What was seen; none when we may not look.
fn seen<T>(answer: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ClusterError::Forbidden(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
