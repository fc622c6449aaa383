//! What is told of a simulation: the stages, and what happened when.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::api::{Counts, FluxFleetStatus, Phase, StageState};

/// How a rollout would go.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Number from which all chance follows.
    pub seed: u64,
    /// Version that the clusters are moved to.
    pub target: String,
    /// Begin.
    pub started: Timestamp,
    /// When nothing happened any more.
    pub ended: Timestamp,
    /// In words.
    pub took: String,
    /// How it ended.
    pub phase: Phase,
    /// The sentence about that.
    pub message: String,
    /// At the end.
    pub counts: Counts,
    /// The most clusters that were on their way at once.
    pub peak: i64,
    /// The stages.
    pub stages: Vec<StageReport>,
    /// What happened.
    pub timeline: Vec<Entry>,
    /// What the simulation cannot show.
    pub notes: Vec<String>,
}

/// How a stage would go.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// Name.
    pub name: String,
    /// When its first cluster was admitted.
    pub began: Option<Timestamp>,
    /// When the next stage could begin.
    pub ended: Option<Timestamp>,
    /// Between the two, in words.
    pub took: Option<String>,
    /// Where it stands at the end.
    pub state: StageState,
    /// The most of its clusters that were on their way at once.
    pub peak: i64,
    /// At the end.
    pub counts: Counts,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// In which stage, if in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What.
    pub what: String,
    /// Clusters of the fleet at that time.
    pub counts: Counts,
}

/// A time span in the units that people use.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h {minutes}m"),
    }
}

/// Writes down what changes from one status to the next.
pub(super) struct Scribe {
    pub(super) entries: Vec<Entry>,
    pub(super) stages: Vec<StageReport>,
    pub(super) peak: i64,
    phase: Phase,
}

impl Scribe {
    pub(super) fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let stage = |name: &str| StageReport {
            name: name.to_owned(),
            began: None,
            ended: None,
            took: None,
            state: StageState::Pending,
            peak: 0,
            counts: Counts::default(),
        };
        Self { entries: Vec::new(), stages: names.map(stage).collect(), peak: 0, phase: Phase::Pending }
    }

    pub(super) fn say(&mut self, at: Timestamp, stage: Option<&str>, what: String, counts: Counts) {
        self.entries.push(Entry { at, stage: stage.map(str::to_owned), what, counts });
    }

    pub(super) fn note(&mut self, at: Timestamp, status: &FluxFleetStatus) {
        self.peak = self.peak.max(status.counts.updating);
        for now in &status.stages {
            let Some(known) = self.stages.iter_mut().find(|stage| stage.name == now.name) else { continue };
            known.peak = known.peak.max(now.counts.updating);
            known.counts = now.counts;
            if known.began.is_none() && now.counts.updating > 0 {
                known.began = Some(at);
            }
            let is_over = now.lets_by();
            if is_over && known.ended.is_none() {
                known.ended = Some(at);
                known.took = known.began.map(|began| span(at.duration_since(began)));
            }
            if known.state != now.state {
                known.state = now.state;
                // Of the end of a stage before the next there is nothing to tell.
                if now.state != StageState::Pending {
                    let what = match &now.message {
                        Some(message) => format!("{:?}: {message}", now.state),
                        None => format!("{:?}", now.state),
                    };
                    self.entries.push(Entry { at, stage: Some(now.name.clone()), what, counts: status.counts });
                }
            }
        }
        let phase = status.phase.unwrap_or_default();
        if phase != self.phase {
            self.phase = phase;
            if matches!(phase, Phase::Stopped | Phase::RollingBack | Phase::RolledBack | Phase::Complete) {
                let what = format!("{phase:?}: {}", status.message.as_deref().unwrap_or_default());
                self.say(at, None, what, status.counts);
            }
        }
    }
}
