//! What a pass works towards: what spec and bundle say, or, when that has failed, what was good before.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{FluxInstanceStatus, Held, HistoryEntry, Outcome, RETRY, ROLLBACK, Revision};

/// What a pass works towards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Goal {
    /// What spec and bundle say.
    #[default]
    Target,
    /// The revision that was good.
    Back(Revision),
    /// Nothing: the target has failed, and is left as it is.
    Stay,
}

/// What has become of users' words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heeded {
    /// The status with which the pass begins.
    pub status: FluxInstanceStatus,
    /// Why a word could not be followed.
    pub refused: Option<String>,
}

/// Follows words that are new.
pub fn heed(
    status: &FluxInstanceStatus,
    annotations: &BTreeMap<String, String>,
    generation: Option<i64>,
    now: &Time,
) -> Heeded {
    let mut heeded = Heeded { status: status.clone(), refused: None };
    let status = &mut heeded.status;
    let retry = annotations.get(RETRY);
    if retry.is_some() && retry != status.handled.retry.as_ref() {
        status.handled.retry = retry.cloned();
        status.held = None;
    }
    let rollback = annotations.get(ROLLBACK);
    if let Some(word) = rollback
        && rollback != status.handled.rollback.as_ref()
    {
        status.handled.rollback = rollback.cloned();
        let digest = word.split_once('=').map(|(_, digest)| digest);
        match (revision(status, digest), &status.attempted) {
            (Ok(back), Some(left)) => {
                status.held = Some(Held {
                    version: left.version.clone(),
                    digest: left.digest.clone(),
                    generation: generation.unwrap_or_default(),
                    message: "it was asked to go back".to_owned(),
                    at: now.clone(),
                    back: Some(back),
                    refused: None,
                });
            }
            (Ok(_), None) => heeded.refused = Some("nothing has been installed yet".to_owned()),
            (Err(why), _) => heeded.refused = Some(why),
        }
    }
    heeded
}

/// What was good, newest first.
pub fn good(status: &FluxInstanceStatus) -> impl Iterator<Item = &HistoryEntry> {
    status.history.iter().filter(|entry| entry.outcome == Outcome::Succeeded)
}

/// The revision to go back to: the newest good one of this digest, or the newest good one that is not what runs now.
///
/// # Errors
/// The sentence that says why there is none.
pub fn revision(status: &FluxInstanceStatus, digest: Option<&str>) -> Result<Revision, String> {
    let running = status.attempted.as_ref();
    let is_other = |config: &str, of: &str| running.is_none_or(|r| r.config != config || r.digest != of);
    let good: Vec<_> = good(status).collect();
    let found = good.iter().find(|entry| match digest {
        Some(digest) => entry.digest == digest,
        None => is_other(&entry.config, &entry.digest),
    });
    let Some(entry) = found else {
        let known: Vec<String> = good.iter().map(|entry| format!("{} ({})", entry.version, entry.digest)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(match digest {
            Some(digest) => format!("{digest} is not among the good revisions in status.history: {known}"),
            None => format!("there is no good revision in status.history other than the one that runs: {known}"),
        });
    };
    Ok(Revision {
        version: entry.version.clone(),
        digest: entry.digest.clone(),
        config: entry.config.clone(),
        at: entry.started.clone(),
    })
}

/// Chooses; a hold ends when the bundle or the spec is another one, or when a fleet has admitted the bundle anew since.
pub fn goal(status: &mut FluxInstanceStatus, digest: &str, generation: Option<i64>) -> Goal {
    let again = status.admitted.as_ref().filter(|admitted| admitted.digest == digest).map(|admitted| admitted.at.0);
    let is_standing = |h: &Held| h.digest == digest && Some(h.generation) == generation && again <= Some(h.at.0);
    status.held = status.held.take().filter(is_standing);
    match &status.held {
        None => Goal::Target,
        Some(Held { back: Some(revision), .. }) => Goal::Back(revision.clone()),
        Some(_) => Goal::Stay,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn now() -> Time {
        Time(Timestamp::from_second(9).unwrap())
    }

    fn status(history: &[(&str, &str, Outcome)]) -> FluxInstanceStatus {
        let history = history.iter().map(|(version, digest, outcome)| HistoryEntry {
            version: (*version).to_owned(),
            digest: (*digest).to_owned(),
            config: format!("config-{digest}"),
            outcome: *outcome,
            started: now(),
            finished: None,
        });
        let history: Vec<HistoryEntry> = history.collect();
        let attempted = history.first().map(|h| Revision {
            version: h.version.clone(),
            digest: h.digest.clone(),
            config: h.config.clone(),
            at: now(),
        });
        FluxInstanceStatus { attempted, history, ..FluxInstanceStatus::default() }
    }

    fn words(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_word_to_go_back_is_followed_once() {
        let before = status(&[("2.0.0", "b", Outcome::Succeeded), ("1.0.0", "a", Outcome::Succeeded)]);
        let first = heed(&before, &words(&[(ROLLBACK, "1")]), Some(3), &now());
        assert_eq!(first.refused, None);
        let mut status = first.status.clone();
        let Goal::Back(revision) = goal(&mut status, "b", Some(3)) else { panic!("{status:?}") };
        assert_eq!((revision.version.as_str(), revision.digest.as_str()), ("1.0.0", "a"));
        // The same word again is no word.
        status.held = None;
        assert_eq!(heed(&status, &words(&[(ROLLBACK, "1")]), Some(3), &now()).status.held, None);
        // Another one, by digest.
        let again = heed(&status, &words(&[(ROLLBACK, "2=b")]), Some(3), &now()).status;
        assert_eq!(again.held.unwrap().back.unwrap().digest, "b");
    }

    #[test]
    fn what_cannot_be_followed_changes_nothing_but_is_said() {
        let before = status(&[("2.0.0", "b", Outcome::Failed), ("1.0.0", "a", Outcome::Succeeded)]);
        let heeded = heed(&before, &words(&[(ROLLBACK, "1=c")]), Some(3), &now());
        assert_eq!(heeded.refused.unwrap(), "c is not among the good revisions in status.history: 1.0.0 (a)");
        assert_eq!(heeded.status.held, None);
        let alone = status(&[("2.0.0", "b", Outcome::Succeeded)]);
        let heeded = heed(&alone, &words(&[(ROLLBACK, "1")]), Some(3), &now());
        assert_eq!(
            heeded.refused.unwrap(),
            "there is no good revision in status.history other than the one that runs: 2.0.0 (b)"
        );
    }

    #[test]
    fn a_hold_lasts_until_bundle_spec_or_a_word_change() {
        let mut held = status(&[("2.0.0", "b", Outcome::Failed)]);
        held.held = Some(Held {
            version: "2.0.0".to_owned(),
            digest: "b".to_owned(),
            generation: 3,
            message: "x".to_owned(),
            at: now(),
            back: None,
            refused: None,
        });
        for (digest, generation, expected) in [("b", 3, Goal::Stay), ("b", 4, Goal::Target), ("c", 3, Goal::Target)] {
            assert_eq!(goal(&mut held.clone(), digest, Some(generation)), expected, "{digest} {generation}");
        }
        // A fleet's word counts when it is newer.
        for (second, expected) in [(8, Goal::Stay), (9, Goal::Stay), (10, Goal::Target)] {
            let at = Time(Timestamp::from_second(second).unwrap());
            let (version, digest, by) = ("2.0.0".to_owned(), "b".to_owned(), "prod".to_owned());
            let admitted = Some(crate::api::Admitted { version, digest, by, at, rollback: false, from: None });
            let mut status = FluxInstanceStatus { admitted, ..held.clone() };
            assert_eq!(goal(&mut status, "b", Some(3)), expected, "{second}");
        }
        let retried = heed(&held, &words(&[(RETRY, "now")]), Some(3), &now()).status;
        assert_eq!(goal(&mut retried.clone(), "b", Some(3)), Goal::Target);
        assert_eq!(heed(&retried, &words(&[(RETRY, "now")]), Some(3), &now()).status, retried);
    }
}
