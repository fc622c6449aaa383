//! Requests to an API server: paths without discovery, a deadline on each, bodies as bytes, answers as little as is needed.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ClusterError, DEADLINE, IN_FLIGHT, Listed};
use crate::plan::{CRD, Live, changed_by, ownership};
use crate::render::{Kind, ObjectKey};

/// Media type of server-side apply; JSON is YAML.
pub(super) const APPLY: &str = "application/apply-patch+yaml";
/// Media type of a merge patch.
pub(super) const MERGE: &str = "application/merge-patch+json";
/// Media type of a JSON patch.
pub(super) const JSON_PATCH: &str = "application/json-patch+json";
/// Media type of everything else.
pub(super) const JSON: &str = "application/json";
/// Ask for the whole object.
pub(super) const WHOLE: &str = "application/json";
/// Ask for metadata only: a CRD is 40 times as large as its metadata.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Ask for a list of metadata only.
pub(super) const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Longest pause within a pass that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// No honest answer to what we ask is larger; a hostile one must not eat our memory.
const ANSWER_LIMIT: usize = 16 << 20;

/// Path of a collection.
pub(super) fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    match namespace {
        Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", kind.version, kind.plural),
        None => format!("{root}/{}/{}", kind.version, kind.plural),
    }
}

/// Path of an object.
pub(super) fn path(kind: &Kind, key: &ObjectKey) -> String {
    format!("{}/{}", collection(kind, key.namespace.as_deref()), key.name)
}

/// A value in a query.
pub(super) fn encoded(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

/// Puts the deadline on a request of kube's own, whose client has none.
pub async fn with_deadline<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(ClusterError::from),
        Err(_) => Err(ClusterError::Timeout(DEADLINE)),
    }
}

/// Tries again what is idempotent and may succeed: three times within about a second. What lasts longer is for the next
/// pass, so that a sick cluster never holds a worker.
pub(super) async fn retried<T, F, R>(request: R) -> Result<T, ClusterError>
where
    R: FnMut() -> F,
    F: Future<Output = Result<T, ClusterError>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_factor(3.0)
        .with_max_times(3)
        .with_jitter();
    // A server that asks for more patience than that gets it, by way of the next pass.
    let is_short = |e: &ClusterError| e.retry_after().is_none_or(|wait| wait <= LONGEST_PAUSE);
    request
        .retry(pauses)
        .when(|e| matches!(e, ClusterError::Throttled(_) | ClusterError::Failed(_)) && is_short(e))
        .adjust(|e, pause| pause.map(|p| p.max(e.retry_after().unwrap_or_default())))
        .await
}

/// Asks several things, [`IN_FLIGHT`] at a time, and gives what was asked with its answer. Once nobody answers, what is under way is
/// waited for and the rest is not even sent: a cluster that falls silent costs one deadline, not one for each request.
pub async fn several<K, T, F>(requests: impl IntoIterator<Item = F>) -> Vec<(K, Result<T, ClusterError>)>
where
    F: Future<Output = (K, Result<T, ClusterError>)>,
{
    let mut rest = requests.into_iter();
    let (mut under_way, mut answers, mut silent) = (FuturesUnordered::new(), Vec::new(), false);
    loop {
        while !silent
            && under_way.len() < IN_FLIGHT
            && let Some(request) = rest.next()
        {
            under_way.push(request);
        }
        let Some((what, answer)) = under_way.next().await else { return answers };
        silent |= answer.as_ref().is_err_and(ClusterError::is_unreachable);
        answers.push((what, answer));
    }
}

/// An answer, whatever it says.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    retry_after: Option<Duration>,
}

impl Answer {
    /// What the server says is wrong.
    pub(super) fn refusal(&self) -> ClusterError {
        let message = serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|status| status["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned());
        ClusterError::from_status(self.status.as_u16(), message, self.retry_after)
    }
}

/// Sends one request and reads the answer within the deadline.
pub(super) async fn exchange(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<(&str, Bytes)>,
    accept: &str,
) -> Result<Answer, ClusterError> {
    let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
    let body = match body {
        Some((media_type, bytes)) => {
            request = request.header(header::CONTENT_TYPE, media_type);
            Body::from(bytes)
        }
        None => Body::empty(),
    };
    let request = request.body(body).map_err(|e| ClusterError::Invalid(e.to_string()))?;
    let exchange = async {
        let (head, body) = client.send(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|e| ClusterError::Unreachable(format!("the answer broke off: {e}")))?
            .to_bytes();
        let retry_after = head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(|seconds: u64| Duration::from_secs(seconds.min(60)));
        Ok(Answer { status: head.status, body, retry_after })
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap_or(Err(ClusterError::Timeout(DEADLINE)))
}

/// The same; what is no success is an error.
pub(super) async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<(&str, Bytes)>,
    accept: &str,
) -> Result<(StatusCode, Bytes), ClusterError> {
    let answer = exchange(client, method, path, body, accept).await?;
    if answer.status.is_success() { Ok((answer.status, answer.body)) } else { Err(answer.refusal()) }
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClusterError> {
    serde_json::from_slice(answer).map_err(|e| ClusterError::Unreadable(e.to_string()))
}

#[derive(Deserialize)]
struct Partial {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    finalizers: Vec<String>,
    #[serde(default)]
    managed_fields: Vec<Value>,
}

impl Metadata {
    fn live(&self) -> Live {
        Live {
            uid: self.uid.clone(),
            resource_version: self.resource_version.parse().unwrap_or(0),
            fields: ownership(&self.managed_fields),
            deleting: self.deletion_timestamp.is_some(),
            finalizers: self.finalizers.clone(),
            changed_by: changed_by(&self.managed_fields),
        }
    }
}

/// Reads an answer that is one object.
pub(super) fn live(answer: &[u8]) -> Result<Live, ClusterError> {
    Ok(parse::<Partial>(answer)?.metadata.live())
}

/// Reads a list of whole objects for those who judge their health: kind, spec and status, and of the metadata what counts there.
///
/// Not into a tree of all of it: CRDs are nearly nothing but schemas, and hundreds of clusters are looked at at the same time. What is
/// passed by costs a fifth of the time and no memory.
pub(super) fn judged(kind: &Kind, answer: &[u8]) -> Result<Vec<Value>, ClusterError> {
    #[derive(Deserialize)]
    struct Items<S> {
        items: Option<Vec<Item<S>>>,
    }
    #[derive(Deserialize)]
    struct Item<S> {
        metadata: Identity,
        spec: Option<S>,
        #[serde(default)]
        status: Value,
    }
    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Identity {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resource_version: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        deletion_timestamp: Option<String>,
    }
    // Items of a list do not say what they are.
    let object = |metadata: Identity, spec: Value, status: Value| json!({"kind": kind.kind, "metadata": metadata, "spec": spec, "status": status});
    if kind.kind == CRD {
        let list: Items<IgnoredAny> = parse(answer)?;
        let items = list.items.unwrap_or_default().into_iter();
        return Ok(items.map(|item| object(item.metadata, Value::Null, item.status)).collect());
    }
    let list: Items<Value> = parse(answer)?;
    let items = list.items.unwrap_or_default().into_iter();
    Ok(items.map(|item| object(item.metadata, item.spec.unwrap_or_default(), item.status)).collect())
}

/// Reads an answer that is a list.
pub(super) fn listed(kind: &Kind, answer: &[u8]) -> Result<Listed, ClusterError> {
    #[derive(Deserialize)]
    struct PartialList {
        metadata: Metadata,
        // An empty list of custom resources as metadata comes with `null` here.
        items: Option<Vec<Partial>>,
    }
    let list: PartialList = parse(answer)?;
    let live = list
        .items
        .unwrap_or_default()
        .into_iter()
        .map(|item| {
            let live = item.metadata.live();
            (kind.key(item.metadata.namespace, item.metadata.name), live)
        })
        .collect();
    Ok(Listed { live, resource_version: list.metadata.resource_version.parse().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::health::{Health, health};

    #[test]
    fn health_can_be_told_of_what_is_left_of_a_list() {
        let crd = json!({
            "metadata": {"name": "x.y", "resourceVersion": "7", "managedFields": [{}], "labels": {"a": "b"}},
            "spec": {"versions": [{"schema": {}}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        });
        let deployment = json!({
            "metadata": {"name": "d", "namespace": "n", "generation": 2},
            "spec": {"replicas": 1},
            "status": {"observedGeneration": 1},
        });
        let list = |item: &Value| json!({"kind": "List", "items": [item]}).to_string();
        let kind = crate::render::kinds::builtin("apps", "v1", "Deployment").unwrap();
        let judged = |kind: &Kind, item: &Value| super::judged(kind, list(item).as_bytes()).unwrap().remove(0);

        let seen = judged(&Kind::crd(), &crd);
        assert_eq!(
            (health(&seen), &seen["spec"], &seen["metadata"]["resourceVersion"]),
            (Health::Current, &Value::Null, &json!("7"))
        );
        let mut gone = crd;
        gone["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
        assert!(!health(&judged(&Kind::crd(), &gone)).is_current());

        let mut whole = deployment.clone();
        whole["kind"] = json!("Deployment");
        assert_eq!(health(&judged(&kind, &deployment)), health(&whole));
        assert_eq!(super::judged(&kind, br#"{"items": null}"#).unwrap(), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn nothing_is_sent_after_silence() {
        let sent = std::cell::Cell::new(0);
        let request = |number: usize| {
            let sent = &sent;
            async move {
                sent.set(sent.get() + 1);
                tokio::task::yield_now().await;
                let answer = match number {
                    3 => Err(ClusterError::Timeout(DEADLINE)),
                    7 => Err(ClusterError::Forbidden(String::new())),
                    _ => Ok(()),
                };
                (number, answer)
            }
        };
        let answers = several((0..100).map(request)).await;
        assert_eq!(answers.len(), sent.get(), "what was sent is waited for");
        assert!((4..=4 + IN_FLIGHT).contains(&sent.get()), "{} sent", sent.get());
        sent.set(0);
        assert_eq!(several((4..100).map(request)).await.len(), 96, "a refusal stops nothing");
    }
}
