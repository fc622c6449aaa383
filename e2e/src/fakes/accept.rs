//! What is checked before anything is written: that a body is what its path says, that it is meant for this object, and that a CRD
//! forgets no version in which objects may be stored.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{Content, Object};
use super::path::{Resource, Target};
use super::refusal::Refusal;

/// What was sent without saying what it is.
pub(super) fn typed(mut body: Value, target: &Target, resource: &Resource) -> Content {
    let version = &target.version;
    let group = &target.group;
    body["kind"] = json!(resource.kind);
    body["apiVersion"] = json!(if group.is_empty() { version.clone() } else { format!("{group}/{version}") });
    Content::of(body)
}

/// Content that is what its path says, and where.
pub(super) fn located(content: &Arc<Content>, resource: &Resource, target: &Target) -> Result<Arc<Content>, Refusal> {
    if content.name != target.name {
        return Err(Refusal::bad(&format!("name in the body is {:?}, in the path {:?}", content.name, target.name)));
    }
    if content.kind != resource.kind {
        return Err(Refusal::bad(&format!("kind in the body is {:?}, expected {:?}", content.kind, resource.kind)));
    }
    if content.namespace == target.namespace {
        return Ok(Arc::clone(content));
    }
    if !content.namespace.is_empty() {
        return Err(Refusal::bad(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut value = content.value();
    value["metadata"]["namespace"] = json!(target.namespace);
    Ok(Arc::new(Content::of(value)))
}

/// UID and resource version are preconditions where they are given.
pub(super) fn check_meant(target: &Target, object: &Object, meant: &Value) -> Result<(), Refusal> {
    if let Some(uid) = meant["uid"].as_str().filter(|uid| !uid.is_empty() && **uid != *object.uid) {
        return Err(Refusal::conflict(
            target,
            &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object.uid),
        ));
    }
    let version = meant["resourceVersion"].as_str().filter(|v| !v.is_empty());
    if version.is_some_and(|version| version.parse() != Ok(object.version)) {
        return Err(Refusal::conflict(
            target,
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    Ok(())
}

/// The status of a CRD that is written: its storage version joins those that objects may be stored in, and none of these may go.
pub(super) fn stored_versions(target: &Target, crd: &Object) -> Result<String, Refusal> {
    let Some(definition) = crd.content.definition() else {
        return Err(Refusal::invalid(
            target,
            "spec.versions: Invalid value: must have exactly one version marked as storage version",
        ));
    };
    let mut status = crd.status();
    let mut stored: Vec<String> = status["storedVersions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some(v.as_str()?.to_owned()))
        .collect();
    if let Some(lost) = stored.iter().find(|version| !definition.versions.contains(*version)) {
        let text = format!(
            "status.storedVersions[0]: Invalid value: {lost:?}: missing from spec.versions; {lost} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {lost} and removes {lost} from status.storedVersions"
        );
        return Err(Refusal::invalid(target, &text));
    }
    if !stored.iter().any(|version| version == definition.storage()) {
        stored.push(definition.storage().to_owned());
    }
    status["storedVersions"] = json!(stored);
    Ok(status.to_string())
}
