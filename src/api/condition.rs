//! Conditions as kstatus reads them: one place that knows their names and how they change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Everything that was asked for is applied and healthy.
pub const READY: &str = "Ready";
/// Work is under way. Abnormal: `True` while it lasts.
pub const RECONCILING: &str = "Reconciling";
/// Only a change of the spec, of a Secret or of the bundle can help. Abnormal: `True` while it lasts.
pub const STALLED: &str = "Stalled";
/// The API server of the cluster answered.
pub const REACHABLE: &str = "Reachable";
/// Somebody who is trusted has signed the bundle.
pub const VERIFIED: &str = "Verified";
/// The change that is wanted can be made: found out before the first write.
pub const PREFLIGHT: &str = "Preflight";
/// CRDs are established and controllers are available.
pub const CONTROLLERS_READY: &str = "ControllersReady";
/// The source and Kustomization of `spec.sync` are ready.
pub const SYNC_READY: &str = "SyncReady";

/// Something is not as it was installed, and is left so, or is fought for by others. Abnormal: `True` while it lasts.
pub const DRIFTED: &str = "Drifted";

/// Another instance wants the same namespace of the same cluster, and is refused. Abnormal: `True` while it lasts.
pub const CLAIMED: &str = "Claimed";

/// A fleet has admitted a bundle; said of instances with `admission: Fleet`.
pub const ADMITTED: &str = "Admitted";

/// The target of a fleet was found in its repository.
pub const RESOLVED: &str = "Resolved";

/// All clusters that a fleet found have their instance; said of fleets with `spec.discover`.
pub const DISCOVERED: &str = "Discovered";

/// Longest message kept; the rest is cut at a character boundary.
pub const MESSAGE_LIMIT: usize = 512;

/// What is to be said of one aspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people, without times or counters that would change it on every look.
    pub message: String,
}

impl Verdict {
    /// A verdict of status `True`.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "True", reason, message: message.into() }
    }
    /// A verdict of status `False`.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "False", reason, message: message.into() }
    }
    /// A verdict of status `Unknown`.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason, message: message.into() }
    }
}

/// Cuts `text` to [`MESSAGE_LIMIT`] bytes at a character boundary.
pub fn cut(text: String) -> String {
    cut_to(text, MESSAGE_LIMIT)
}

/// Cuts `text` to so many bytes at a character boundary.
pub fn cut_to(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut end = limit.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Sets a condition; `lastTransitionTime` moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, type_: &str, verdict: Verdict, generation: Option<i64>, now: &Time) {
    let Verdict { status, reason, message } = verdict;
    let since = find(conditions, type_)
        .filter(|c| c.status == status)
        .map_or_else(|| now.clone(), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

/// Removes a condition that no longer means anything.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ != type_);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, Verdict::unknown("Progressing", "a"), Some(1), &at(1));
        set(&mut conditions, READY, Verdict::unknown("Progressing", "b"), Some(1), &at(2));
        assert_eq!(find(&conditions, READY).unwrap().last_transition_time, at(1));
        set(&mut conditions, READY, Verdict::yes("ReconciliationSucceeded", "c"), Some(1), &at(3));
        assert_eq!(find(&conditions, READY).unwrap().last_transition_time, at(3));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let text = cut("ä".repeat(600));
        assert!(text.len() <= MESSAGE_LIMIT && text.ends_with('…'));
    }
}
