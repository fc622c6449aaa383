//! Which state of an instance is the newest: what a watch has shown, or our own last write, which it may not have shown yet. No client.

use super::version_of;
use crate::api::{FluxInstance, FluxInstanceStatus};

/// An operator's own last write to an instance.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The version that it became.
    version: u64,
    /// The status in it, fleets' words included.
    status: Option<FluxInstanceStatus>,
}

impl Written {
    /// Something other than the status was written.
    pub(super) fn note(&mut self, version: u64) {
        self.version = version;
    }

    /// The status was written, and this came of it.
    pub(super) fn note_status(&mut self, stored: &FluxInstance) {
        *self = Self { version: version_of(stored), status: Some(stored.status.clone().unwrap_or_default()) };
    }

    /// Brings what a watch has shown up to date.
    pub(super) fn bring_up(&mut self, shown: &mut FluxInstance) {
        if version_of(shown) >= self.version {
            // It may hold more: a fleet's word, or a write of ours that was never answered.
            self.status = None;
        } else if let Some(status) = &self.status {
            shown.status = Some(status.clone());
        }
    }

    /// The status that is stored, as far as is known.
    pub(super) fn status<'a>(&'a self, shown: &'a FluxInstance) -> Option<&'a FluxInstanceStatus> {
        self.status.as_ref().or(shown.status.as_ref())
    }

    /// The version that is stored, as far as is known.
    pub(super) fn version(&self, shown: &FluxInstance) -> u64 {
        self.version.max(version_of(shown))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An instance in a version, with what its operator and its fleet have said.
    fn instance(version: u64, ours: Option<&str>, admitted: Option<&str>) -> FluxInstance {
        let mut object = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": "a", "resourceVersion": version.to_string()},
            "spec": {"distribution": {"version": "2.x"}},
        });
        if let Some(ours) = ours {
            object["status"]["observedDigest"] = json!(ours);
        }
        if let Some(digest) = admitted {
            object["status"]["admitted"] =
                json!({"version": "2.9.4", "digest": digest, "by": "prod", "at": "2026-01-01T00:00:00Z"});
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_newest_of_what_was_written_and_what_was_shown_counts() {
        let ours = |version, admitted| {
            let mut written = Written::default();
            written.note_status(&instance(version, Some("ours"), admitted));
            written
        };
        let mut finalizer = ours(10, None);
        finalizer.note(12);
        let mut none = Written::default();
        none.note(12);
        let table = vec![
            ("nothing was written", Written::default(), instance(11, Some("shown"), None), Some("shown"), None, 11),
            ("nothing but a finalizer", none, instance(11, None, None), None, None, 12),
            ("shown is older", ours(12, None), instance(11, Some("shown"), None), Some("ours"), None, 12),
            (
                "and a fleet wrote in between",
                ours(12, Some("x")),
                instance(11, Some("shown"), Some("x")),
                Some("ours"),
                Some("x"),
                12,
            ),
            (
                "and the watch does not know that yet",
                ours(12, Some("x")),
                instance(10, None, None),
                Some("ours"),
                Some("x"),
                12,
            ),
            ("a finalizer after the status", finalizer, instance(11, Some("shown"), None), Some("ours"), None, 12),
            ("shown is as new", ours(12, None), instance(12, Some("shown"), None), Some("shown"), None, 12),
            ("a fleet wrote since", ours(12, None), instance(13, Some("ours"), Some("x")), Some("ours"), Some("x"), 13),
            (
                "a fleet spoke anew since",
                ours(12, Some("x")),
                instance(13, Some("ours"), Some("y")),
                Some("ours"),
                Some("y"),
                13,
            ),
        ];
        for (what, mut written, mut shown, said, admitted, version) in table {
            written.bring_up(&mut shown);
            for status in [written.status(&shown), shown.status.as_ref()] {
                assert_eq!(status.and_then(|s| s.observed_digest.as_deref()), said, "{what}");
                let found = status.and_then(|s| s.admitted.as_ref()).map(|a| a.digest.as_str());
                assert_eq!(found, admitted, "{what}");
            }
            assert_eq!(written.version(&shown), version, "{what}");
        }
    }
}
