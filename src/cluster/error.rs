//! What an API server may answer, sorted by what can help.

use std::time::Duration;

use super::gate::NotLeading;

/// A request that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// No connection, or none that can be trusted.
    #[error("cannot reach the API server: {0}")]
    Unreachable(String),
    /// Not sent: another operator may lead by now.
    #[error("nothing is written: this operator does not lead any more")]
    NotLeading,
    /// Connected, but no answer in time. A write may have happened all the same.
    #[error("no answer from the API server within {} s", .0.as_secs())]
    Timeout(Duration),
    /// 401.
    #[error("the API server does not accept the credentials (401 Unauthorized): renew the token or client certificate")]
    Unauthorized,
    /// 403; the server's text names user, verb and resource.
    #[error("permission denied: {0}")]
    Forbidden(String),
    /// 404.
    #[error("not found: {0}")]
    NotFound(String),
    /// 409: somebody was faster, or a precondition does not hold.
    #[error("conflict: {0}")]
    Conflict(String),
    /// 410: what was asked to be continued is too old.
    #[error("the list has changed too much to be continued")]
    Expired,
    /// 400, 413, 422 and what the server calls an error of its own though only other input can help.
    #[error("{0}")]
    Invalid(String),
    /// 429, or 503 with a hint when to come back.
    #[error("the API server asks to come back later")]
    Throttled(Option<Duration>),
    /// 5xx: whether a write happened is unknown.
    #[error("the API server failed: {0}")]
    Failed(String),
    /// An answer we cannot read.
    #[error("unexpected answer from the API server: {0}")]
    Unreadable(String),
}

impl ClusterError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::NotLeading
            | Self::Timeout(_)
            | Self::Conflict(_)
            | Self::Expired
            | Self::Throttled(_)
            | Self::Failed(_) => true,
            Self::Unauthorized | Self::Forbidden(_) | Self::NotFound(_) | Self::Invalid(_) | Self::Unreadable(_) => {
                false
            }
        }
    }

    /// Whether the cluster as a whole did not answer, rather than this request being refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Throttled(wait) = self { *wait } else { None }
    }

    /// Sorts an answer with an error status.
    pub(super) fn from_status(code: u16, message: String, retry_after: Option<Duration>) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(message),
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            410 => Self::Expired,
            429 => Self::Throttled(retry_after),
            503 if retry_after.is_some() => Self::Throttled(retry_after),
            // An object above etcd's limit comes back as 500 (measured); trying again cannot help.
            500.. if !message.contains("request is too large") => Self::Failed(message),
            _ => Self::Invalid(message),
        }
    }
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status.code, status.message.clone(), None),
            kube::Error::Service(error) if error.is::<NotLeading>() => Self::NotLeading,
            kube::Error::SerdeError(error) => Self::Unreadable(error.to_string()),
            error => Self::Unreachable(chain(&error)),
        }
    }
}

/// The innermost causes of a connection error: the outer ones only say "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // What rustls says of it is a paragraph about TLS, with a link.
        if text.contains("without sending TLS close_notify") {
            return "the connection ended before the answer came".to_owned();
        }
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.split_off(parts.len().saturating_sub(2)).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_can_help() {
        let of = |code, message: &str| ClusterError::from_status(code, message.to_owned(), None);
        assert!(of(500, "etcdserver: leader changed").is_transient());
        assert!(!of(500, "etcdserver: request is too large").is_transient());
        assert!(!of(422, "spec.replicas: Invalid value").is_transient());
        assert!(matches!(of(401, ""), ClusterError::Unauthorized));
        assert!(matches!(of(429, ""), ClusterError::Throttled(None)));
    }
}
