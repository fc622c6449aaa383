//! Kubernetes events: what happened, once, for whoever runs `kubectl describe` or `kubectl get events`.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Resource};

use super::Ctx;
use crate::api::{FluxInstance, condition};
use crate::cluster::with_deadline;

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// A failure rather than progress.
    pub warning: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Publishes; a failure to do so is logged and nothing else. kube's `Recorder` is not used: it merges events whose note
/// changed into the first one (kube 5.0.0).
pub(super) async fn publish(ctx: &Ctx, instance: &FluxInstance, words: Vec<Word>) {
    about(ctx, &instance.object_ref(&()), words).await;
}

/// Refers to an object that does not parse.
pub(super) fn unreadable<K: Resource<DynamicType = ()>>(invalid: &InvalidObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: invalid.metadata.namespace.clone(),
        name: invalid.metadata.name.clone(),
        uid: invalid.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The same about an object that may not even be readable.
pub(super) async fn about(ctx: &Ctx, reference: &ObjectReference, words: Vec<Word>) {
    let name = reference.name.as_deref().unwrap_or_default();
    let events = Api::<Event>::namespaced(ctx.hub.clone(), &ctx.namespace);
    for word in words {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(ctx.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(condition::cut(word.note)),
            reason: Some(word.reason.to_owned()),
            regarding: Some(reference.clone()),
            reporting_controller: Some("headwater.dev/operator".to_owned()),
            reporting_instance: Some("headwater".to_owned()),
            type_: Some(if word.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        if let Err(error) = with_deadline(events.create(&PostParams::default(), &event)).await {
            tracing::warn!(reason = word.reason, %error, "event could not be published");
        }
    }
}
