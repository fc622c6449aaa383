//! Tells Flux's notification-controller what fleets do: the same words as the events of the hub, one per step of a rollout.
//!
//! Nothing waits for it, and nothing fails because of it: what cannot be sent soon is dropped, and counted.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::{FluxFleet, FluxFleetStatus};
use crate::controller::events::Word;
use crate::telemetry::Metrics;

/// Messages that wait to be sent.
const QUEUE: usize = 64;
/// For one message, answer included.
const DEADLINE: Duration = Duration::from_secs(2);

/// Where messages go, if anywhere.
pub(in crate::controller) struct Notifier {
    queue: Option<mpsc::Sender<Bytes>>,
    metrics: Metrics,
}

impl Notifier {
    /// Sends to this address until the notifier is gone; without one nothing is sent.
    pub(in crate::controller) fn start(to: Option<Uri>, metrics: Metrics) -> Self {
        let queue = to.map(|to| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            tokio::spawn(send(to, waiting, metrics.clone()));
            queue
        });
        Self { queue, metrics }
    }

    /// Takes words about a fleet, and returns at once.
    pub(super) fn tell(&self, fleet: &FluxFleet, status: &FluxFleetStatus, words: &[Word]) {
        let Some(queue) = &self.queue else { return };
        for word in words {
            let body = event(fleet, status, word, Timestamp::now()).to_string();
            if queue.try_send(Bytes::from(body)).is_err() {
                self.metrics.notification("dropped");
            }
        }
    }
}

async fn send(to: Uri, mut waiting: mpsc::Receiver<Bytes>, metrics: Metrics) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    while let Some(body) = waiting.recv().await {
        let request = Request::post(to.clone()).header(header::CONTENT_TYPE, "application/json").body(Full::new(body));
        let Ok(request) = request else { continue };
        let outcome = match tokio::time::timeout(DEADLINE, client.request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => "sent",
            Ok(Ok(answer)) => {
                tracing::warn!(%to, status = %answer.status(), "notification was refused");
                "refused"
            }
            Ok(Err(error)) => {
                tracing::warn!(%to, %error, "notification could not be sent");
                "failed"
            }
            Err(_) => {
                tracing::warn!(%to, "notification was not answered in time");
                "failed"
            }
        };
        metrics.notification(outcome);
    }
}

/// An event as Flux's controllers send them.
fn event(fleet: &FluxFleet, status: &FluxFleetStatus, word: &Word, now: Timestamp) -> Value {
    let mut metadata = json!({});
    if let Some(target) = &status.target {
        // With its group it is shown without it; and messages of different revisions are never taken for the same.
        metadata["headwater.dev/revision"] = json!(format!("{}@{}", target.version, target.digest));
    }
    json!({
        "involvedObject": {
            "apiVersion": FluxFleet::api_version(&()), "kind": FluxFleet::kind(&()),
            "namespace": fleet.namespace(), "name": fleet.name_any(), "uid": fleet.uid(),
        },
        "severity": if word.warning { "error" } else { "info" },
        "timestamp": Timestamp::from_second(now.as_second()).unwrap_or(now).to_string(),
        "message": word.note,
        "reason": word.reason,
        "metadata": metadata,
        "reportingController": "headwater",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_dropped_and_counted() {
        let (queue, _waiting) = mpsc::channel(1);
        let metrics = Metrics::default();
        let notifier = Notifier { queue: Some(queue), metrics: metrics.clone() };
        let fleet: FluxFleet = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "prod", "namespace": "n"},
            "spec": {"selector": {}, "distribution": {"version": "2.x"}, "stages": [{"name": "all"}]},
        }))
        .unwrap();
        let word = Word { warning: false, reason: "StageDone", note: "x".to_owned() };
        notifier.tell(&fleet, &FluxFleetStatus::default(), &[word.clone(), word.clone(), word]);
        assert!(metrics.text().contains("headwater_notifications_total{outcome=\"dropped\"} 2"), "{}", metrics.text());
    }
}
