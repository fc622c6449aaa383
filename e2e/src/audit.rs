//! The API server's audit log: who asked for what, as the server saw it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;

/// A place in the audit log: events written later than this.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditMark(pub(crate) u64);

/// One finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEvent {
    /// User name, such as `system:serviceaccount:flux-system:headwater`.
    pub user: String,
    /// The user whose rights were used, when the request impersonated one.
    pub impersonated: Option<String>,
    /// User-Agent header.
    pub user_agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// Plural resource name, empty for paths that name none.
    pub resource: String,
    /// Such as `status`; else empty.
    pub subresource: String,
    /// Namespace of the object; else empty.
    pub namespace: String,
    /// Name of the object; else empty.
    pub name: String,
    /// HTTP status code.
    pub code: u16,
    /// The path and query.
    pub uri: String,
    /// When it arrived, by the server's clock.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
}

impl AuditEvent {
    fn parse(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        if event["stage"] != "ResponseComplete" {
            return None;
        }
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let time = |field: &str| event[field].as_str()?.parse().ok();
        Some(Self {
            received: time("requestReceivedTimestamp")?,
            answered: time("stageTimestamp")?,
            user: text("/user/username"),
            impersonated: event.pointer("/impersonatedUser/username").and_then(Value::as_str).map(str::to_owned),
            user_agent: text("/userAgent"),
            verb: text("/verb"),
            group: text("/objectRef/apiGroup"),
            resource: text("/objectRef/resource"),
            subresource: text("/objectRef/subresource"),
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: event
                .pointer("/responseStatus/code")
                .and_then(Value::as_u64)
                .and_then(|c| c.try_into().ok())
                .unwrap_or(0),
            uri: text("/requestURI"),
        })
    }

    /// Whether the request changes something. Dry runs and questions about one's own rights do not.
    pub fn writes(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !self.uri.contains("dryRun=All")
            && !self.resource.starts_with("selfsubject")
    }
}

pub(crate) fn mark(path: &Path) -> AuditMark {
    AuditMark(std::fs::metadata(path).map_or(0, |meta| meta.len()))
}

pub(crate) fn read(path: &Path, since: AuditMark) -> Result<Vec<AuditEvent>> {
    let mut file = File::open(path).context("open audit log")?;
    file.seek(SeekFrom::Start(since.0))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    // A half-written last line does not parse, and is read next time.
    Ok(String::from_utf8_lossy(&text).lines().filter_map(AuditEvent::parse).collect())
}
