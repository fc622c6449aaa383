//! What an instance may install, by its own word or its fleet's.

use jiff::Timestamp;

use super::window::{Gate, Windows};
use crate::api::{Admission, FluxInstance, FluxInstanceStatus, Pinned};

/// What may be installed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Whatever `spec.distribution.version` means.
    Newest,
    /// This bundle alone.
    Only {
        /// Which.
        bundle: Pinned,
        /// It may be older than what runs.
        rollback: bool,
        /// When more is allowed, if that is known.
        until: Option<Timestamp>,
    },
    /// What runs, if anything does; but no more.
    AsItIs,
}

/// What an instance may install.
///
/// # Errors
/// The sentence that says which window is wrong.
pub fn allowed(instance: &FluxInstance, now: Timestamp) -> Result<Allowed, String> {
    let nothing = FluxInstanceStatus::default();
    let status = instance.status.as_ref().unwrap_or(&nothing);
    let windows = Windows::read(&instance.spec.upgrade.windows, "spec.upgrade")?;
    match (instance.spec.admission, windows.gate(now)) {
        (Admission::Fleet, _) => Ok(match &status.admitted {
            Some(admitted) => Allowed::Only {
                bundle: Pinned::of(&admitted.version, &admitted.digest),
                rollback: admitted.rollback,
                until: None,
            },
            None => only(status, None),
        }),
        (Admission::Own, Gate::Open) => Ok(Allowed::Newest),
        // A first installation changes nothing that runs.
        (Admission::Own, Gate::Closed(opens)) => Ok(match only(status, opens) {
            Allowed::AsItIs => Allowed::Newest,
            only => only,
        }),
    }
}

/// What the instance is at: what failed and is held, so that it stays held, else what it was led to last.
fn only(status: &FluxInstanceStatus, until: Option<Timestamp>) -> Allowed {
    let held = status.held.as_ref().map(|held| (&held.version, &held.digest));
    let last = status.attempted.as_ref().or(status.applied.as_ref()).map(|last| (&last.version, &last.digest));
    match held.or(last) {
        Some((version, digest)) => Allowed::Only { bundle: Pinned::of(version, digest), rollback: false, until },
        None => Allowed::AsItIs,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;
    use crate::api::{Admitted, Revision};

    fn instance(spec: &serde_json::Value) -> FluxInstance {
        let mut instance: FluxInstance = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance", "metadata": {"name": "a"},
            "spec": {"distribution": {"version": "2.x"}},
        }))
        .unwrap();
        let mut value = serde_json::to_value(&instance.spec).unwrap();
        json_patch::merge(&mut value, spec);
        instance.spec = serde_json::from_value(value).unwrap();
        instance
    }

    fn pinned(digest: &str) -> Pinned {
        Pinned { version: "2.0.0".into(), digest: digest.into() }
    }

    fn only(digest: &str, rollback: bool, until: Option<&str>) -> Allowed {
        Allowed::Only { bundle: pinned(digest), rollback, until: until.map(|until| until.parse().unwrap()) }
    }

    #[test]
    fn without_a_fleets_word_an_instance_stays_as_it_is() {
        let noon: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        let at = Time(noon);
        let revision = |digest: &str| Revision {
            version: "2.0.0".into(),
            digest: digest.into(),
            config: "c".into(),
            at: at.clone(),
        };
        let running = FluxInstanceStatus {
            applied: Some(revision("old")),
            attempted: Some(revision("new")),
            ..FluxInstanceStatus::default()
        };
        let admitted = |rollback| FluxInstanceStatus {
            admitted: Some(Admitted {
                version: "2.0.0".into(),
                digest: "admitted".into(),
                by: "prod".into(),
                at: at.clone(),
                rollback,
                from: None,
            }),
            ..running.clone()
        };
        let fleet = json!({"admission": "Fleet"});
        let night = json!({"upgrade": {"windows": [{"cron": "0 22 * * *", "duration": "1h"}]}});
        let cases = [
            (json!({}), None, Allowed::Newest),
            (json!({}), Some(admitted(false)), Allowed::Newest),
            (fleet.clone(), None, Allowed::AsItIs),
            // What was begun is finished.
            (fleet.clone(), Some(running.clone()), only("new", false, None)),
            (fleet.clone(), Some(admitted(false)), only("admitted", false, None)),
            (fleet, Some(admitted(true)), only("admitted", true, None)),
            (night.clone(), None, Allowed::Newest),
            (night, Some(running), only("new", false, Some("2026-07-01T22:00:00Z"))),
        ];
        for (spec, status, expected) in cases {
            let mut instance = instance(&spec);
            instance.status = status;
            assert_eq!(allowed(&instance, noon).unwrap(), expected, "{spec} {:?}", instance.status);
        }
    }
}
