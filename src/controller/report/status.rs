//! What is said of a pass: status, events, and when to look again. Neither client nor clock: `now` is passed in.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::assess::{Assessment, sentence};
use super::super::events::Word;
use super::super::{Run, StepError};
use crate::api::condition::{self, Verdict, find};
use crate::api::{ClusterStatus, FluxInstance, FluxInstanceStatus, HistoryEntry, Outcome, Revision};
use crate::plan::{BundleRef, Plan, Reason, Step};
use crate::render::ObjectKey;

/// Entries of `status.history`.
const HISTORY: usize = 10;
/// While something is on its way and a watch tells of every change, a look now and then is enough.
const WAITING: Duration = Duration::from_secs(10);

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// All is well, or nothing can be done: at the interval.
    Interval,
    /// Something is on its way.
    Soon(Duration),
    /// A failure that may pass.
    Backoff,
}

/// A status in the making.
struct Draft<'a> {
    status: FluxInstanceStatus,
    generation: Option<i64>,
    now: &'a Time,
}

impl Draft<'_> {
    fn say(&mut self, type_: &str, verdict: Verdict) {
        condition::set(&mut self.status.conditions, type_, verdict, self.generation, self.now);
    }

    /// Work is under way: `Reconciling`, and nothing stands in the way.
    fn working(&mut self, reason: &'static str, text: &str) {
        self.say(condition::RECONCILING, Verdict::yes(reason, text));
        self.say(condition::STALLED, Verdict::no(reason, "nothing stands in the way"));
    }

    /// Nothing is left to do.
    fn done(&mut self, reason: &'static str) {
        self.say(condition::RECONCILING, Verdict::no(reason, "nothing to do"));
        self.say(condition::STALLED, Verdict::no(reason, "nothing stands in the way"));
    }
}

fn draft<'a>(old: &FluxInstanceStatus, generation: Option<i64>, run: &Run, now: &'a Time) -> Draft<'a> {
    let mut status = old.clone();
    status.observed_generation = generation;
    if let Some(cluster) = &run.cluster {
        status.cluster = Some(ClusterStatus { kubernetes_version: cluster.version.clone(), uid: cluster.uid.clone() });
    }
    if let Some(objects) = run.objects {
        status.objects = i64::try_from(objects).ok();
    }
    Draft { status, generation, now }
}

fn revision(bundle: &BundleRef, config: &str, at: &Time) -> Revision {
    Revision {
        version: bundle.version.clone(),
        digest: bundle.digest.clone(),
        config: config.to_owned(),
        at: at.clone(),
    }
}

fn is_of(revision: Option<&Revision>, bundle: &BundleRef, config: &str) -> bool {
    revision.is_some_and(|r| r.digest == bundle.digest && r.config == config)
}

/// The status at the beginning of a change; `None` when this one was begun before, or is only a repair.
pub(super) fn begin(
    old: &FluxInstanceStatus,
    generation: Option<i64>,
    run: &Run,
    plan: &Plan,
    now: &Time,
) -> Option<FluxInstanceStatus> {
    let bundle = plan.bundle.as_ref()?;
    if is_of(old.attempted.as_ref(), bundle, &plan.config) {
        return None;
    }
    let mut draft = draft(old, generation, run, now);
    let text = format!("applying {}: {}", bundle.version, plan.summary());
    draft.say(condition::READY, Verdict::unknown("Progressing", &text));
    draft.working("Progressing", &text);
    let mut status = draft.status;
    status.attempted = Some(revision(bundle, &plan.config, now));
    // What was never finished did not succeed.
    if let Some(last) = status.history.first_mut().filter(|h| h.outcome == Outcome::Progressing) {
        last.outcome = Outcome::Failed;
        last.finished = Some(now.clone());
    }
    let entry = HistoryEntry {
        version: bundle.version.clone(),
        digest: bundle.digest.clone(),
        config: plan.config.clone(),
        outcome: Outcome::Progressing,
        started: now.clone(),
        finished: None,
    };
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
    Some(status)
}

/// The status after a pass, what is worth an event, and when to look again.
pub(super) fn compose(
    old: &FluxInstanceStatus,
    instance: &FluxInstance,
    run: &Run,
    error: Option<&StepError>,
    now: &Time,
) -> (FluxInstanceStatus, Vec<Word>, Next) {
    let mut draft = draft(old, instance.metadata.generation, run, now);
    match error {
        Some(error) if error.is_about_reaching() => {
            draft.say(condition::REACHABLE, Verdict::no(error.reason(), error.to_string()));
        }
        _ if run.cluster.is_some() => {
            draft.say(condition::REACHABLE, Verdict::yes("Connected", "the API server answers"));
        }
        _ => {}
    }
    let (ready, next) = match error {
        Some(error) => failed(&mut draft, error),
        None if instance.spec.suspend => {
            let text = "spec.suspend is true: nothing is written to the cluster";
            draft.say(condition::RECONCILING, Verdict::no("Suspended", text));
            return (draft.status, Vec::new(), Next::Interval);
        }
        None => match (&run.bundle, &run.config) {
            (Some(bundle), Some(config)) => applied(&mut draft, old, instance, run, bundle, config),
            _ => return (draft.status, Vec::new(), Next::Interval),
        },
    };
    let words = news(old, &ready);
    finish_history(&mut draft.status, run, &ready, now);
    draft.say(condition::READY, ready);
    (draft.status, words, next)
}

fn failed(draft: &mut Draft, error: &StepError) -> (Verdict, Next) {
    if error.is_about_reaching() {
        let unknown = || Verdict::unknown(error.reason(), "the cluster cannot be looked at");
        for type_ in [condition::CONTROLLERS_READY, condition::SYNC_READY] {
            if find(&draft.status.conditions, type_).is_some() {
                draft.say(type_, unknown());
            }
        }
    }
    let text = error.to_string();
    let next = if error.is_transient() {
        draft.working("ProgressingWithRetry", &text);
        Next::Backoff
    } else {
        draft.say(condition::RECONCILING, Verdict::no(error.reason(), "waiting for a change"));
        draft.say(condition::STALLED, Verdict::yes(error.reason(), &text));
        Next::Interval
    };
    (Verdict::no(error.reason(), text), next)
}

/// Everything is applied; what do the live objects say?
fn applied(
    draft: &mut Draft,
    old: &FluxInstanceStatus,
    instance: &FluxInstance,
    run: &Run,
    bundle: &BundleRef,
    config: &str,
) -> (Verdict, Next) {
    let now = draft.now;
    if !is_of(draft.status.applied.as_ref(), bundle, config) {
        draft.status.applied = Some(revision(bundle, config, now));
    }
    let assessment = run.assessment.clone().unwrap_or_default();
    let controllers = sentence(&assessment.controllers);
    let verdict = match &controllers {
        None => Verdict::yes("Healthy", "CRDs are established and controllers available"),
        Some((true, text)) => Verdict::no("HealthCheckFailed", text),
        Some((false, text)) => Verdict::no("Progressing", text),
    };
    draft.say(condition::CONTROLLERS_READY, verdict);
    // A source or Kustomization that is not ready never makes the installation itself look broken.
    let after_sync = if sync_is_ready(draft, &assessment) { Next::Interval } else { Next::Soon(WAITING * 3) };
    draft.status.components = assessment.components;

    let Some((is_failed, text)) = controllers else {
        draft.done("ReconciliationSucceeded");
        if !is_of(draft.status.last_good.as_ref(), bundle, config) {
            draft.status.last_good = Some(revision(bundle, config, now));
        }
        let text = format!("Flux {} is installed and healthy", bundle.version);
        return (Verdict::yes("ReconciliationSucceeded", text), after_sync);
    };
    if !instance.spec.wait {
        draft.done("ReconciliationSucceeded");
        let text = format!("Flux {} is applied; spec.wait is false", bundle.version);
        return (Verdict::yes("ReconciliationSucceeded", text), after_sync);
    }
    let timeout = instance.spec.timeout.get().unwrap_or(Duration::from_secs(300));
    let waited = now.0.duration_since(unhealthy_since(&draft.status, old)).unsigned_abs();
    if is_failed || waited >= timeout {
        let text = if is_failed { text } else { format!("not healthy within {}: {text}", instance.spec.timeout.0) };
        draft.working("ProgressingWithRetry", &text);
        return (Verdict::no("HealthCheckFailed", text), Next::Soon(WAITING * 3));
    }
    let text = format!("waiting for {text}");
    draft.working("Progressing", &text);
    (Verdict::unknown("Progressing", text), Next::Soon(WAITING.min(timeout.saturating_sub(waited))))
}

fn sync_is_ready(draft: &mut Draft, assessment: &Assessment) -> bool {
    match assessment.sync.as_deref().map(sentence) {
        None => condition::clear(&mut draft.status.conditions, condition::SYNC_READY),
        Some(None) => draft.say(condition::SYNC_READY, Verdict::yes("Synced", "source and Kustomization are ready")),
        Some(Some((_, text))) => {
            draft.say(condition::SYNC_READY, Verdict::no("NotSynced", text));
            return false;
        }
    }
    true
}

/// The clock of the timeout starts with the change, or later when what was healthy stops being so.
fn unhealthy_since(status: &FluxInstanceStatus, old: &FluxInstanceStatus) -> Timestamp {
    let attempted = status.attempted.as_ref().map(|r| r.at.0);
    let was_healthy = find(&old.conditions, condition::CONTROLLERS_READY).is_some_and(|c| c.status == "True");
    let turned = find(&status.conditions, condition::CONTROLLERS_READY).map(|c| c.last_transition_time.0);
    match (attempted, turned) {
        (Some(attempted), Some(turned)) if was_healthy || turned > attempted => attempted.max(turned),
        (Some(attempted), _) => attempted,
        (None, turned) => turned.unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

/// An event for a verdict that says something new. Progress is told when it begins, not here.
fn news(old: &FluxInstanceStatus, ready: &Verdict) -> Vec<Word> {
    let is_known = find(&old.conditions, condition::READY).is_some_and(|c| {
        let same_text = ready.status == "True" || c.message == condition::cut(ready.message.clone());
        c.status == ready.status && c.reason == ready.reason && same_text
    });
    if is_known || ready.status == "Unknown" {
        return Vec::new();
    }
    vec![Word { warning: ready.status == "False", reason: ready.reason, note: ready.message.clone() }]
}

/// Closes the newest entry once it is known how it ended. A pass that was not even able to look says nothing of it.
fn finish_history(status: &mut FluxInstanceStatus, run: &Run, ready: &Verdict, now: &Time) {
    let outcome = match ready.status {
        "True" => Outcome::Succeeded,
        "False" => Outcome::Failed,
        _ => return,
    };
    let entry = status.history.first_mut().filter(|e| run.applied && run.config.as_ref() == Some(&e.config));
    if let Some(entry) = entry
        && entry.outcome != outcome
        && entry.outcome != Outcome::Succeeded
    {
        entry.outcome = outcome;
        entry.finished = Some(now.clone());
    }
}

/// What was repaired, pruned or kept, said once.
pub(super) fn effects(run: &Run) -> Vec<Word> {
    let mut words = Vec::new();
    let is_repair = run.plan.as_ref().is_some_and(|plan| plan.unchanged > 0);
    let drifted: Vec<String> = run
        .plan
        .iter()
        .flat_map(|plan| &plan.steps)
        .filter_map(|step| match step {
            Step::Apply { reason: Reason::Drifted, object, .. } => {
                Some(format!("{} was changed by somebody else", object.key))
            }
            Step::Apply { reason: Reason::Missing, object, .. } if is_repair => {
                Some(format!("{} was missing", object.key))
            }
            _ => None,
        })
        .collect();
    if !drifted.is_empty() && run.applied {
        words.push(Word { warning: false, reason: "DriftCorrected", note: format!("repaired: {}", first(&drifted)) });
    }
    let deleted: Vec<String> = run.executed.deleted.iter().map(ToString::to_string).collect();
    if !deleted.is_empty() {
        words.push(Word { warning: false, reason: "Pruned", note: format!("deleted {}", first(&deleted)) });
    }
    words.extend(kept(&run.executed.kept));
    words
}

/// What was left on purpose.
pub(super) fn kept(list: &[(ObjectKey, &'static str)]) -> Option<Word> {
    let texts: Vec<String> = list.iter().map(|(key, why)| format!("{key} was not deleted: {why}")).collect();
    (!texts.is_empty()).then(|| Word { warning: true, reason: "Kept", note: first(&texts) })
}

fn first(list: &[String]) -> String {
    match list {
        [] => String::new(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} (and {} more)", rest.len()),
    }
}
