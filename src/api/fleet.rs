//! `FluxFleet`: when clusters may move.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Discover, Distribution, HandledWords, Interval, PreflightFinding, ProgressDeadline, Soak, WindowLength};

/// Annotation of a `FluxInstance`: the version or digest that it leaves out, whatever its fleet says.
pub const SKIP: &str = "headwater.dev/skip";

/// `FluxFleet` says when the clusters of its `FluxInstances` may move to another bundle: in stages, with budgets, soak, windows,
/// approval and rollback. It admits; the instances do the work. Deleting it moves nothing.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "FluxFleet",
    plural = "fluxfleets",
    shortname = "hwf",
    category = "headwater",
    namespaced,
    status = "FluxFleetStatus",
    derive = "PartialEq",
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target.version"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Done", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Deferred", type_ = "integer", json_path = ".status.counts.deferred"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.target.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.stages.all(s, self.stages.exists_one(t, t.name == s.name))")
        .message("each stage needs a name of its own"),
    validation = Rule::new("self.stages.all(s, has(s.selector) && (has(s.selector.matchLabels) && s.selector.matchLabels.size() > 0 || has(s.selector.matchExpressions) && s.selector.matchExpressions.size() > 0) || s.name == self.stages[self.stages.size() - 1].name)")
        .message("a stage without selector, or with an empty one, takes every instance that no stage before takes: only the last stage can be one"),
    validation = Rule::new("!has(self.distribution.registry) && !has(self.distribution.images) && (!has(self.distribution.pinImages) || !self.distribution.pinImages)")
        .message("registry, images and pinImages say where a cluster gets its images from: set them on the FluxInstances, not on the FluxFleet")
)]
pub struct FluxFleetSpec {
    /// Which `FluxInstances` of the namespace. Only those with `admission: Fleet` are governed; others are counted as ungoverned.
    pub selector: LabelSelector,

    /// The bundle to move to. Resolved to a digest, which is what is admitted. Instances pull it from their own `artifact`.
    pub distribution: Distribution,

    /// The stages, in order. An instance belongs to the first one that selects it.
    #[schemars(length(min = 1, max = 32))]
    pub stages: Vec<Stage>,

    /// What holds for stages that do not say otherwise.
    #[serde(default)]
    pub defaults: StageDefaults,

    /// What happens when a stage has more failures than it may have: nothing more is admitted anywhere, and `Pause` leaves things as
    /// they are, `Rollback` takes every cluster that was moved back to its last good bundle. Either way the target is held until
    /// the spec changes, or `headwater fleet resume` says so.
    #[serde(default)]
    pub on_failure: FleetOnFailure,

    /// Admit nothing until this is false again. Clusters that were admitted finish.
    #[serde(default)]
    pub suspend: bool,

    /// How often the bundle repository is looked at for a newer version.
    #[serde(default)]
    pub interval: Interval,

    /// The version or digest that stages with `approval: Required` may go to. A version is bound to the digest it had when it was
    /// seen first; another target needs another approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub approved: Option<String>,

    /// The version or digest that has to go out at once: it waits for no soak and no window, but for health, budgets and approvals as
    /// ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub emergency: Option<String>,

    /// Makes an instance of each cluster whose kubeconfig is found in a Secret of the namespace. Taking this away, or deleting the fleet,
    /// leaves the instances as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
}

/// One stage of a rollout.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Name of the stage.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
            .message("must be a name such as canary (lower case letters, digits and dashes)")
    )]
    pub name: String,

    /// Which instances. Unset means every one that no stage before takes; only the last stage can be so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,

    /// How many clusters may be on their way at once: a number, or percent of the stage (rounded down, at least one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,

    /// How many clusters may fail before the fleet stops: a number, or percent of the stage (rounded down).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<MaxFailures>,

    /// How long a cluster may take from its admission until it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<ProgressDeadline>,

    /// What a cluster counts as that was admitted, and then could not be reached until its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<Unreachable>,

    /// How long the stage is watched after its last cluster is done, before the next stage begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,

    /// Whether somebody has to approve the target before it goes to this stage.
    #[serde(default)]
    pub approval: Approval,

    /// When clusters of this stage may be admitted. None means always. Those that were admitted finish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<Window>,
}

/// What holds for stages that do not say otherwise.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageDefaults {
    /// How many clusters may be on their way at once: a number, or percent of the stage (rounded down, at least one).
    #[serde(default)]
    pub concurrency: Concurrency,
    /// How many clusters may fail before the fleet stops: a number, or percent of the stage (rounded down).
    #[serde(default)]
    pub max_failures: MaxFailures,
    /// How long a cluster may take from its admission until it is done.
    #[serde(default)]
    pub progress_deadline: ProgressDeadline,
    /// What a cluster counts as that was admitted, and then could not be reached until its deadline.
    #[serde(default)]
    pub unreachable: Unreachable,
}

/// What an unreachable cluster counts as.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Unreachable {
    /// As deferred: it gives its place to others, and moves when it is back.
    #[default]
    Defer,
    /// As failed.
    Fail,
}

/// Whether a stage waits for a word.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Approval {
    /// It does not.
    #[default]
    Automatic,
    /// `spec.approved` has to name the target.
    Required,
}

/// What happens when a stage has more failures than it may have.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum FleetOnFailure {
    /// Everything stays as it is.
    #[default]
    Pause,
    /// Every cluster that was moved goes back to its last good bundle.
    Rollback,
}

/// A time in which clusters may be admitted, or may not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// `Deny` beats `Allow`. Where there are only denials, all other times are allowed.
    #[serde(default)]
    pub kind: WindowKind,
    /// When it opens, as five fields of crontab: `0 22 * * 1-4`.
    #[schemars(length(min = 9, max = 128))]
    pub cron: String,
    /// How long it is open.
    pub duration: WindowLength,
    /// Time zone of `cron`, by its name in the IANA database: `Europe/London`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What a window is for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum WindowKind {
    /// Clusters may be admitted.
    #[default]
    Allow,
    /// Clusters must not be admitted.
    Deny,
}

/// A number, or percent of a whole.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum Share {
    /// So many.
    Number(u32),
    /// `N%`.
    Percent(String),
}

impl Share {
    /// So many of a whole, percent rounded down. `None` for a text that is no percentage from 0 to 100.
    pub fn of(&self, whole: usize) -> Option<usize> {
        match self {
            Self::Number(number) => usize::try_from(*number).ok(),
            Self::Percent(text) => {
                let digits =
                    text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
                let percent: usize = digits.parse().ok().filter(|percent| *percent <= 100)?;
                Some(whole * percent / 100)
            }
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Percent(text) => f.write_str(text),
        }
    }
}

macro_rules! share {
    ($(#[$doc:meta])* $name:ident, $default:expr, $min:literal, $percent:literal, $message:literal) => {
        $(#[$doc])*
        #[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
        #[serde(transparent)]
        pub struct $name(pub Share);

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "x-kubernetes-int-or-string": true,
                    "maxLength": 8,
                    "anyOf": [{"type": "integer"}, {"type": "string"}],
                    "x-kubernetes-validations": [{
                        "rule": format!(
                            "type(self) == int ? self >= {} && self <= 100000 : self.matches('{}')",
                            $min, $percent
                        ),
                        "message": $message,
                    }],
                })
            }
        }
    };
}

share! {
    /// How many at once. At least one.
    Concurrency, Share::Percent("10%".to_owned()), 1, "^([1-9][0-9]?|100)%$",
    "must be a number of clusters, 1 or more, or percent of the stage from 1% to 100%, without blanks; to hold a fleet, set spec.suspend"
}
share! {
    /// How many may fail.
    MaxFailures, Share::Number(0), 0, "^([0-9]|[1-9][0-9]|100)%$",
    "must be a number of clusters, 0 or more, or percent of the stage from 0% to 100%, without blanks"
}

/// What the fleet observed and decided.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FluxFleetStatus {
    /// Generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), `Resolved`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the rollout stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What is going on, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Clusters that are done, of those that are governed: `12/300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Where all clusters are to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The approval that was seen, and what it was given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Bound>,
    /// The emergency that was seen, and what it was called for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Bound>,
    /// Why the target goes no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<FleetHeld>,
    /// When it was said to go on with a target that was held: failures of admissions up to then do not count, and are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Time>,
    /// How many clusters are in which state.
    #[serde(default)]
    pub counts: Counts,
    /// The stages, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageStatus>,
    /// Clusters that are not done, those first that need somebody; at most thirty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<NotReady>,
    /// How many more are not done.
    #[serde(default)]
    pub more: i64,
    /// Targets of the past, newest first; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<FleetHistoryEntry>,
    /// Words of users (annotations) that have been heeded.
    #[serde(default, skip_serializing_if = "HandledWords::is_empty")]
    pub handled: HandledWords,
    /// The last `reconcile.fluxcd.io/requestedAt` (annotation) after which everything was looked at, the registry included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// When instances were deleted since their Secrets had gone, within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deletions: Vec<Time>,
}

/// Where clusters are to go.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Target {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle: its identity.
    pub digest: String,
    /// Since when.
    pub since: Time,
}

/// A bundle, by its digest.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Pinned {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle: its identity.
    pub digest: String,
}

impl Pinned {
    /// A bundle by what others call it.
    pub fn of(version: &str, digest: &str) -> Self {
        Self { version: version.to_owned(), digest: digest.to_owned() }
    }
}

/// A word of the spec, and the digest that it was seen to mean first.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct Bound {
    /// The version or digest as the spec has it.
    pub word: String,
    /// Digest of the target at that time; empty, when it was said before the status of the fleet was lost: it means nothing any more.
    pub digest: String,
}

impl Bound {
    /// A word of which nobody knows any more what it meant.
    pub fn to_nothing(word: &str) -> Self {
        Self { word: word.to_owned(), digest: String::new() }
    }

    /// Whether it is such a word.
    pub fn means_nothing(&self) -> bool {
        self.digest.is_empty()
    }
}

/// Why a target goes no further.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetHeld {
    /// Version of the target.
    pub version: String,
    /// Digest of the target.
    pub digest: String,
    /// Digest of the spec at that time, without what only says when: `approved`, `emergency`, `suspend`.
    pub spec: String,
    /// Why.
    pub message: String,
    /// Since when.
    pub at: Time,
    /// Clusters that were moved go back.
    #[serde(default)]
    pub rollback: bool,
}

/// Where a rollout stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
pub enum Phase {
    /// Nothing has been resolved yet, or no stage has an instance.
    #[default]
    Pending,
    /// The clusters of a stage are looked at before they move.
    Preflight,
    /// A stage does not begin, since the preflight of too many of its clusters found errors.
    PreflightFailed,
    /// A stage waits for a word.
    AwaitingApproval,
    /// A stage waits for its window.
    AwaitingWindow,
    /// Clusters move.
    Updating,
    /// A stage is done, and is watched.
    Soaking,
    /// No cluster of a stage can be moved, so that nothing is known of the target.
    Blocked,
    /// `spec.suspend`.
    Suspended,
    /// Too many failures, or a word: nothing more is admitted.
    Stopped,
    /// Clusters go back.
    RollingBack,
    /// All clusters that could are back.
    RolledBack,
    /// All clusters that can be are on the target.
    Complete,
}

/// Where a stage stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
pub enum StageState {
    /// Stages before are not done.
    #[default]
    Pending,
    /// Its clusters are looked at before they move.
    Preflight,
    /// Too many of them have errors.
    PreflightFailed,
    /// It waits for a word.
    AwaitingApproval,
    /// It waits for its window.
    AwaitingWindow,
    /// Clusters move.
    Updating,
    /// All that can be are done, and are watched.
    Soaking,
    /// None of its clusters is done, and none can be moved.
    Blocked,
    /// The fleet has stopped, is suspended, or looks for its target, and nothing of the stage is on its way.
    Stopped,
    /// It selects no instance.
    Empty,
    /// It is done.
    Done,
}

/// How many clusters are in which state.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Governed: all but the ungoverned, the unassigned and those in conflict.
    #[serde(default)]
    pub total: i64,
    /// On the target and healthy.
    #[serde(default)]
    pub done: i64,
    /// Admitted, and on their way.
    #[serde(default)]
    pub updating: i64,
    /// Failed, or refused by their preflight.
    #[serde(default)]
    pub failed: i64,
    /// Cannot be reached.
    #[serde(default)]
    pub deferred: i64,
    /// Wait for their turn.
    #[serde(default)]
    pub waiting: i64,
    /// Suspended, skipped, or excluded by their own range.
    #[serde(default)]
    pub left_out: i64,
    /// In no stage.
    #[serde(default)]
    pub unassigned: i64,
    /// Selected by another fleet too.
    #[serde(default)]
    pub conflicts: i64,
    /// `admission: Self`.
    #[serde(default)]
    pub ungoverned: i64,
}

/// One stage, as it stands.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Name of the stage.
    pub name: String,
    /// Where it stands.
    pub state: StageState,
    /// What it waits for, or why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many clusters are in which state.
    #[serde(default)]
    pub counts: Counts,
    /// The newest target that the stage is through with: what clusters install that join it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Pinned>,
    /// Since when there are clusters that have not been looked at for the target; they have the time of a change for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight_since: Option<Time>,
    /// When its last cluster was done with the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_since: Option<Time>,
    /// When the soak ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<Time>,
    /// What the preflights of its clusters found, the worst first, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<StageFinding>,
}

impl StageStatus {
    /// Whether it is through with a bundle, so that who joins it gets that.
    pub fn is_through(&self, digest: &str) -> bool {
        self.current.as_ref().is_some_and(|current| current.digest == digest)
    }

    /// Whether it holds up nobody behind it: it is done, or there is nobody in it.
    pub fn lets_by(&self) -> bool {
        matches!(self.state, StageState::Done | StageState::Empty)
    }

    /// Nothing is waited for any more; what is waited for next begins anew.
    pub fn forget_instants(&mut self) {
        self.preflight_since = None;
        self.soak_since = None;
        self.soak_until = None;
    }
}

/// What preflights found, summed up over clusters.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct StageFinding {
    /// On how many clusters.
    pub clusters: i64,
    /// One of them.
    pub example: String,
    /// What was found there.
    #[serde(flatten)]
    pub finding: PreflightFinding,
}

/// A cluster that is not done.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct NotReady {
    /// Name of the instance.
    pub name: String,
    /// Its stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// A word for programs.
    pub state: String,
    /// A sentence for people.
    pub reason: String,
}

/// How a rollout ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum FleetOutcome {
    /// Under way.
    Progressing,
    /// All stages done.
    Succeeded,
    /// Another target came before it was done.
    Superseded,
    /// Stopped, and left as it was.
    Stopped,
    /// Stopped, and taken back.
    RolledBack,
}

/// One target of the past.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct FleetHistoryEntry {
    /// Version of the bundle.
    pub version: String,
    /// Digest of the bundle.
    pub digest: String,
    /// How it ended.
    pub outcome: FleetOutcome,
    /// When it became the target.
    pub started: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// Why it was given up, where nothing but the repository took its place: it stays given up should the repository show it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<FleetHeld>,
}
