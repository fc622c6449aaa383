//! Health of a live object by the kstatus rules (sigs.k8s.io/cli-utils, `pkg/kstatus`): read at the object's own
//! generation, never from what an older status said.

use serde_json::Value;

use super::CRD;

/// What a live object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// As its spec wants it.
    Current,
    /// On the way; why.
    InProgress(String),
    /// Will not get there by itself; why.
    Failed(String),
}

impl Health {
    /// Whether nothing is missing.
    pub fn is_current(&self) -> bool {
        *self == Self::Current
    }
}

/// Judges a live object.
pub fn health(object: &Value) -> Health {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Health::InProgress("is being deleted".to_owned());
    }
    let generation = object["metadata"]["generation"].as_i64();
    if let (Some(generation), Some(seen)) = (generation, object["status"]["observedGeneration"].as_i64())
        && seen < generation
    {
        // Flux moves its observedGeneration only with success; until then the condition tells which generation it is about.
        let ready = object["status"]["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready"));
        if ready.is_some_and(|c| c["observedGeneration"] == generation)
            && let Some(("False", reason, message)) = condition(object, "Ready")
        {
            return Health::InProgress(format!("{reason}: {message}"));
        }
        return Health::InProgress("its controller has not seen the newest change yet".to_owned());
    }
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" => deployment(object),
        CRD => definition(object),
        _ => by_conditions(object),
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some((text("status"), text("reason"), text("message")))
}

fn deployment(object: &Value) -> Health {
    if object["status"]["observedGeneration"].is_null() {
        return Health::InProgress("its controller has not seen it yet".to_owned());
    }
    if let Some(("False", "ProgressDeadlineExceeded", message)) = condition(object, "Progressing") {
        return Health::Failed(format!("progress deadline exceeded: {message}"));
    }
    let want = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let count = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    if count("updatedReplicas") < want {
        return Health::InProgress(format!("{} of {want} replicas updated", count("updatedReplicas")));
    }
    if count("replicas") > want {
        return Health::InProgress(format!("{} old replicas still there", count("replicas") - want));
    }
    if count("availableReplicas") < want {
        return Health::InProgress(format!("{} of {want} replicas available", count("availableReplicas")));
    }
    if let Some(("False", _, message)) = condition(object, "Available") {
        return Health::InProgress(message.to_owned());
    }
    Health::Current
}

fn definition(object: &Value) -> Health {
    if let Some(("False", reason, message)) = condition(object, "NamesAccepted") {
        return Health::Failed(format!("{reason}: {message}"));
    }
    match condition(object, "Established") {
        Some(("True", ..)) => Health::Current,
        _ => Health::InProgress("not Established yet".to_owned()),
    }
}

fn by_conditions(object: &Value) -> Health {
    if let Some(("True", reason, message)) = condition(object, "Stalled") {
        return Health::Failed(format!("{reason}: {message}"));
    }
    if let Some(("True", reason, message)) = condition(object, "Reconciling") {
        return Health::InProgress(format!("{reason}: {message}"));
    }
    match condition(object, "Ready") {
        Some(("True", ..)) => Health::Current,
        // kstatus: Ready=False without Stalled is still being worked on.
        Some((_, reason, message)) => Health::InProgress(format!("{reason}: {message}")),
        // A Flux object says -1 here until its controller has looked at it once.
        None if object["status"]["observedGeneration"].as_i64().is_some_and(|g| g < 0) => {
            Health::InProgress("its controller has not seen it yet".to_owned())
        }
        None => Health::Current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn health_follows_kstatus() {
        let deployment = |generation: i64, status: Value| json!({"kind": "Deployment", "metadata": {"generation": generation}, "spec": {"replicas": 1}, "status": status});
        let up = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
        let waiting = |text: &str| Health::InProgress(text.to_owned());
        for (object, expected) in [
            (deployment(1, up.clone()), Health::Current),
            (deployment(2, up), waiting("its controller has not seen the newest change yet")),
            (deployment(1, json!({})), waiting("its controller has not seen it yet")),
            (deployment(1, json!({"observedGeneration": 1})), waiting("0 of 1 replicas updated")),
            (
                deployment(
                    1,
                    json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}),
                ),
                waiting("1 old replicas still there"),
            ),
            (
                deployment(1, json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1})),
                waiting("0 of 1 replicas available"),
            ),
            (
                deployment(
                    1,
                    json!({"observedGeneration": 1, "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "m"}]}),
                ),
                Health::Failed("progress deadline exceeded: m".to_owned()),
            ),
            (
                json!({"kind": CRD, "status": {"conditions": [{"type": "Established", "status": "True"}]}}),
                Health::Current,
            ),
            (json!({"kind": CRD}), waiting("not Established yet")),
            (
                json!({"kind": CRD, "status": {"conditions": [{"type": "NamesAccepted", "status": "False", "reason": "ListKindConflict", "message": "m"}]}}),
                Health::Failed("ListKindConflict: m".to_owned()),
            ),
            (json!({"kind": "Service"}), Health::Current),
            (json!({"kind": "Service", "metadata": {"deletionTimestamp": "x"}}), waiting("is being deleted")),
            (
                json!({"kind": "Kustomization", "status": {"observedGeneration": -1}}),
                waiting("its controller has not seen it yet"),
            ),
            (
                json!({"kind": "Kustomization", "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "R", "message": "m"}]}}),
                waiting("R: m"),
            ),
            (
                json!({"kind": "OCIRepository", "metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "False", "reason": "R", "message": "m", "observedGeneration": 2}]}}),
                waiting("R: m"),
            ),
            (
                json!({"kind": "Kustomization", "status": {"conditions": [{"type": "Stalled", "status": "True", "reason": "R", "message": "m"}]}}),
                Health::Failed("R: m".to_owned()),
            ),
            (
                json!({"kind": "Kustomization", "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                Health::Current,
            ),
        ] {
            assert_eq!(health(&object), expected, "{object}");
        }
    }
}
