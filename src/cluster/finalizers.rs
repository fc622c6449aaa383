//! Objects of custom resource definitions and what holds them: read page by page, changed one by one.

use serde_json::{Value, json};

use super::{Cluster, ClusterError, Page, request};
use crate::plan::{Definition, Live, foreign, is_ours, live_of};
use crate::render::{Kind, ObjectKey};

/// How often one object is looked at again when somebody else changes it at the same moment.
const ATTEMPTS: usize = 3;

impl Cluster {
    /// Clears these finalizers (see [`is_ours`]) of all objects of a CRD, in all namespaces, and of nothing else; returns of how
    /// many. The error names the first object that could not be changed; the others are.
    pub async fn release(&self, crd: &ObjectKey, finalizers: &[String]) -> Result<usize, (ObjectKey, ClusterError)> {
        let about = |error| (crd.clone(), error);
        let Some(kind) = self.defined_by(crd).await.map_err(about)? else { return Ok(0) };
        let (mut released, mut from) = (0, String::new());
        let mut beginnings = 0..ATTEMPTS;
        loop {
            let Page { metadata, next } = match self.page(&kind, None, &from).await {
                // The server has forgotten where we were: from the beginning. What is done is seen to be done.
                Err(ClusterError::Expired) if !from.is_empty() && beginnings.next().is_some() => {
                    from.clear();
                    continue;
                }
                Err(ClusterError::NotFound(_)) => return Ok(released),
                page => page.map_err(about)?,
            };
            let objects = metadata.iter().map(|metadata| object(&kind, metadata));
            let held: Vec<_> =
                objects.filter(|(_, live)| live.finalizers.iter().any(|f| is_ours(f, finalizers))).collect();
            let writes = held.into_iter().map(|(key, live)| {
                let (cluster, kind, finalizers) = (self.clone(), kind.clone(), finalizers.to_vec());
                async move {
                    let answer = cluster.release_one(&kind, &key, live, &finalizers).await;
                    (key, answer)
                }
            });
            let mut failed = None;
            for (key, answer) in request::several(writes).await {
                match answer {
                    Ok(()) => released += 1,
                    Err(error) => failed = failed.or(Some((key, error))),
                }
            }
            if let Some(failed) = failed {
                return Err(failed);
            }
            let Some(next) = next else { return Ok(released) };
            from = next;
        }
    }

    async fn release_one(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        mut live: Live,
        finalizers: &[String],
    ) -> Result<(), ClusterError> {
        let mut conflict = None;
        for _ in 0..ATTEMPTS {
            let rest: Vec<&String> = live.finalizers.iter().filter(|f| !is_ours(f, finalizers)).collect();
            if rest.len() == live.finalizers.len() {
                return Ok(());
            }
            // UID and resource version are preconditions: neither another incarnation is touched, nor a finalizer lost that
            // came since we looked.
            let change = json!({"metadata": {
                "uid": live.uid, "resourceVersion": live.resource_version.to_string(), "finalizers": rest,
            }});
            match self.merge(kind, key, &change).await {
                Ok(()) | Err(ClusterError::NotFound(_)) => return Ok(()),
                Err(error @ ClusterError::Conflict(_)) => conflict = Some(error),
                Err(error) => return Err(error),
            }
            let Some(now) = self.get_live(kind, key).await? else { return Ok(()) };
            live = now;
        }
        conflict.map_or(Ok(()), Err)
    }

    /// An object of the CRD that finalizers of others hold, and these.
    pub async fn held_object(&self, crd: &ObjectKey) -> Result<Option<(ObjectKey, Vec<String>)>, ClusterError> {
        let Some(kind) = self.defined_by(crd).await? else { return Ok(None) };
        let mut from = String::new();
        loop {
            let Page { metadata, next } = match self.page(&kind, None, &from).await {
                Err(ClusterError::NotFound(_)) => return Ok(None),
                page => page?,
            };
            let objects = metadata.iter().map(|metadata| object(&kind, metadata));
            let mut held = objects.map(|(key, live)| (key, foreign(&live.finalizers)));
            match (held.find(|(_, finalizers)| !finalizers.is_empty()), next) {
                (None, Some(next)) => from = next,
                (found, _) => return Ok(found),
            }
        }
    }

    /// A pod that a label selector finds in a namespace and that has not ended.
    pub async fn running_pod(&self, namespace: &str, labels: &str) -> Result<Option<(ObjectKey, Live)>, ClusterError> {
        let kind = Kind::pod();
        let path = format!(
            "{}?limit=1&labelSelector={}&fieldSelector={}",
            request::collection(&kind, Some(namespace)),
            request::encoded(labels),
            request::encoded("status.phase!=Succeeded,status.phase!=Failed"),
        );
        let (_, answer) = request::send(self.client(), "GET", &path, None, request::METADATA_LIST).await?;
        Ok(request::listed(&kind, &answer)?.live.into_iter().next())
    }

    /// The kind that a live CRD defines, in a version that is served: the stored one, where that is.
    pub(super) async fn defined_by(&self, crd: &ObjectKey) -> Result<Option<Kind>, ClusterError> {
        let Some(live) = self.get(&Kind::crd(), crd).await? else { return Ok(None) };
        Ok(Definition::of(&live).and_then(|definition| {
            let served = definition.served.get(definition.storage()).or(definition.served.first())?.clone();
            Some(Kind { version: served, ..definition.kind })
        }))
    }
}

/// Identity and state of an object, from its metadata.
fn object(kind: &Kind, metadata: &Value) -> (ObjectKey, Live) {
    (kind.key_of(metadata), live_of(metadata))
}
