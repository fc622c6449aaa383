//! Answers that say no, as an API server words them.

use serde_json::{Value, json};

use super::path::Target;

/// Why a request is refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    causes: Vec<Value>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, causes: Vec::new() }
    }

    /// There is no such resource: nobody is there who could say it as an object.
    pub(super) fn unknown() -> Self {
        Self::new(404, "", "404 page not found".to_owned())
    }

    /// There is no such object.
    pub(super) fn not_found(target: &Target) -> Self {
        Self::new(404, "NotFound", format!("{} {:?} not found", target.resource(), target.name))
    }

    /// There is one already.
    pub(super) fn exists(target: &Target) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {:?} already exists", target.resource(), target.name))
    }

    /// It is another one, or another state of it.
    pub(super) fn conflict(target: &Target, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", target.resource(), target.name);
        Self::new(409, "Conflict", message)
    }

    /// Fields are owned by others.
    pub(super) fn owned(conflicts: &[(String, String)]) -> Self {
        let cause = |(manager, field): &(String, String)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager:?}"), "field": field});
        let message = format!("Apply failed with {} conflicts", conflicts.len());
        Self { causes: conflicts.iter().map(cause).collect(), ..Self::new(409, "Conflict", message) }
    }

    /// The object cannot be like that.
    pub(super) fn invalid(target: &Target, why: &str) -> Self {
        Self::new(422, "Invalid", format!("{} {:?} is invalid: {why}", target.resource(), target.name))
    }

    /// The request makes no sense.
    pub(super) fn bad(why: &str) -> Self {
        Self::new(400, "BadRequest", why.to_owned())
    }

    /// What is not played here is refused, never pretended.
    pub(super) fn unplayed(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("{what} is not played by this stand-in"))
    }

    /// Whoever asks is not known.
    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned())
    }

    /// The watch asks for what is forgotten.
    pub(super) fn expired() -> Self {
        Self::new(410, "Expired", "too old resource version".to_owned())
    }

    /// Told to fail.
    pub(super) fn failing(code: u16) -> Self {
        Self::new(code, "InternalError", "this cluster was told to fail".to_owned())
    }

    /// As the body of an answer.
    pub(super) fn body(&self) -> String {
        if self.reason.is_empty() { format!("{}\n", self.message) } else { self.status().to_string() }
    }

    /// As a Status object.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.causes.is_empty() {
            status["details"] = json!({"causes": self.causes});
        }
        status
    }
}
