//! Why a cluster is not on the target: one type per cause, and its sentence.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::member::State;

/// Why a cluster counts as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The target failed there and is held.
    Held(String),
    /// Something stands in the way that only people can put right.
    Stalled(String),
    /// Its preflight has errors; the first of them.
    Refused(String),
    /// Its time is over.
    Late(SignedDuration),
    /// Its time is over, and it cannot be reached.
    Unreachable(Timestamp),
    /// It was moved and done, and then unhealthy for longer than its `spec.timeout`.
    Regressed(String),
    /// It is unhealthy, but was not moved by this rollout, or somebody said to go on all the same: it spends nothing.
    Unhealthy(String),
    /// There is no good bundle it could go back to.
    NoWayBack,
    /// It could not be looked at for the target within this time.
    Unlooked(SignedDuration),
}

impl Failure {
    /// Whether it spends the failure budget.
    pub fn spends(&self) -> bool {
        !matches!(self, Self::Unhealthy(_))
    }
}

/// Why a cluster is left for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferral {
    /// Since when.
    pub since: Timestamp,
    /// What is known of it.
    pub why: Absence,
}

/// What is known of a cluster that is left for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It cannot be reached.
    Unreachable,
    /// It was admitted, and then could not be reached.
    Left,
    /// It could not be looked at for the target, for as long as a change may take.
    Unlooked,
}

/// Why a cluster is not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// Its own `spec.distribution.version` does not admit the target.
    Range(String),
    /// It runs something newer.
    Newer(String),
    /// A rollback is not about it: it was never moved.
    Untouched,
}

/// What a cluster waits for about which nothing stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Stages before are not done.
    Turn,
    /// So many clusters of its stage have not been looked at yet.
    Preflight(usize),
    /// So many clusters of its stage are refused by their preflight, more than may fail.
    PreflightFailed(usize),
    /// So many clusters that came late to their stage have failed, more than may.
    OverBudget(usize),
    /// A word for its stage.
    Approval,
    /// The window of its stage.
    StageWindow(Option<Timestamp>),
    /// Its own window.
    OwnWindow(Option<Timestamp>),
    /// So many are on their way at once.
    Slot(usize),
    /// The fleet has stopped.
    Stopped,
    /// The fleet is suspended.
    Suspended,
    /// The spec asks for another target, which has not been found yet.
    Unresolved,
}

/// An opening, if one is in sight.
fn opening(opens: Option<Timestamp>) -> String {
    opens.map_or_else(|| "no opening is in sight".to_owned(), |at| format!("it opens at {at}"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(why) => write!(f, "failed: {why}"),
            Self::Stalled(why) => write!(f, "is stalled: {why}"),
            Self::Refused(why) => write!(f, "was not moved, its preflight found {why}"),
            Self::Late(deadline) => write!(f, "is not done {deadline:#} after its admission"),
            Self::Unreachable(since) => write!(f, "was admitted and cannot be reached since {since}"),
            Self::Regressed(why) => write!(f, "was done, and is unhealthy: {why}"),
            Self::Unhealthy(why) => write!(f, "runs the target, and is unhealthy: {why}"),
            Self::NoWayBack => f.write_str("has no good bundle in its history to go back to"),
            Self::Unlooked(deadline) => {
                write!(f, "was not moved, since it could not be looked at for this target within {deadline:#}")
            }
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => {
                write!(f, "is excluded: its own spec.distribution.version, {range:?}, does not admit the target")
            }
            Self::Newer(version) => {
                write!(f, "is excluded: it runs {version}, which is newer; spec.upgrade.allowDowngrade lets it go down")
            }
            Self::Untouched => f.write_str("was not moved"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn => f.write_str("waits for the stages before its own"),
            Self::Preflight(count) => write!(f, "waits until {count} of its stage have been looked at"),
            Self::PreflightFailed(count) => {
                write!(f, "waits since the preflight refuses {count} of its stage, more than maxFailures")
            }
            Self::OverBudget(count) => {
                write!(f, "waits since {count} of its stage have failed, more than maxFailures")
            }
            Self::Approval => f.write_str("waits for an approval of its stage"),
            Self::StageWindow(opens) => write!(f, "waits for the window of its stage: {}", opening(*opens)),
            Self::OwnWindow(opens) => write!(f, "waits for its own window: {}", opening(*opens)),
            Self::Slot(limit) => write!(f, "waits for a place: {limit} at once"),
            Self::Stopped => f.write_str("waits since the fleet has stopped"),
            Self::Suspended => f.write_str("waits since the fleet is suspended"),
            Self::Unresolved => {
                f.write_str("waits until the target that the spec asks for is found (condition Resolved)")
            }
        }
    }
}

impl State {
    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done { .. } => "Done",
            Self::Wavering { .. } => "Wavering",
            Self::Moving { .. } => "Updating",
            Self::Failed(Failure::Refused(_) | Failure::Unlooked(_)) => "Refused",
            Self::Failed(_) => "Failed",
            Self::Deferred(_) => "Deferred",
            Self::Excluded(_) => "Excluded",
            Self::Suspended => "Suspended",
            Self::Skipped => "Skipped",
            Self::Conflict(_) => "Conflict",
            Self::Ungoverned => "Ungoverned",
            Self::Unassigned => "Unassigned",
            Self::Unknown => "Unknown",
            Self::Unchecked => "Preflight",
            Self::Waiting(_) => "Waiting",
        }
    }

    /// How much a cluster in this state needs somebody; the least first.
    pub(super) fn urgency(&self) -> u8 {
        match self {
            Self::Failed(_) => 0,
            Self::Conflict(_) => 1,
            Self::Unassigned => 2,
            Self::Wavering { .. } => 3,
            Self::Deferred(_) => 4,
            Self::Moving { .. } => 5,
            Self::Unknown | Self::Unchecked => 6,
            Self::Suspended | Self::Skipped | Self::Excluded(_) => 7,
            Self::Waiting(_) => 8,
            Self::Ungoverned => 9,
            Self::Done { .. } => 10,
        }
    }
}

/// Goes on after the name of the cluster.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { reachable: true } => f.write_str("is done"),
            Self::Done { reachable: false } => f.write_str("is done, and cannot be reached at present"),
            Self::Wavering { until } => {
                write!(f, "was done, is unhealthy, and counts as failed if it still is at {until}")
            }
            Self::Moving { until } if *until == Timestamp::MAX => f.write_str("is on its way"),
            Self::Moving { until } => write!(f, "is on its way, with time until {until}"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Deferred(Deferral { since, why: Absence::Unreachable }) => {
                write!(f, "is deferred: it cannot be reached since {since}, and moves when it is back")
            }
            Self::Deferred(Deferral { since, why: Absence::Left }) => {
                write!(f, "is deferred: it was admitted, cannot be reached since {since}, and goes on when it is back")
            }
            Self::Deferred(Deferral { since, why: Absence::Unlooked }) => write!(
                f,
                "is deferred: since {since} it could not be looked at for this target (its conditions say why), and moves when it was"
            ),
            Self::Excluded(exclusion) => exclusion.fmt(f),
            Self::Suspended => f.write_str("is suspended (spec.suspend)"),
            Self::Skipped => f.write_str("skips this target (headwater.dev/skip)"),
            Self::Conflict(fleets) => {
                write!(f, "is selected by {} too, so that no fleet moves it", fleets.join(", "))
            }
            Self::Ungoverned => f.write_str("admits itself (spec.admission: Self)"),
            Self::Unassigned => f.write_str("is in no stage"),
            Self::Unknown => f.write_str("has not been looked at yet"),
            Self::Unchecked => f.write_str("is being looked at for this target"),
            Self::Waiting(waiting) => waiting.fmt(f),
        }
    }
}
