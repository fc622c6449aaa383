//! What is said of a pass: status, events, and when to look again. Neither client nor clock: `now` is passed in.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::assess::{Assessment, sentence};
use super::super::events::Word;
use super::super::{Run, StepError};
use crate::api::condition::{self, Verdict, find};
use crate::api::{ClusterStatus, FluxInstance, FluxInstanceStatus, HistoryEntry, Outcome, Revision};
use crate::bundle::{ArtifactError, Provenance};
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
    if let Some(verdict) = verified(run, error) {
        draft.say(condition::VERIFIED, verdict);
    }
    let (ready, next) = match error {
        Some(error) => failed(&mut draft, error),
        None if instance.spec.suspend => {
            let text = "spec.suspend is true: nothing is written to the cluster";
            draft.say(condition::RECONCILING, Verdict::no("Suspended", text));
            return (draft.status, Vec::new(), Next::Interval);
        }
        None => match (&run.bundle, &run.config) {
            (Some(bundle), Some(config)) => applied(&mut draft, instance, run, bundle, config),
            _ => return (draft.status, Vec::new(), Next::Interval),
        },
    };
    // What is on its way out may be of a kind that no watch tells of.
    let next = if next == Next::Interval && !run.executed.going.is_empty() { Next::Soon(WAITING) } else { next };
    let mut words = news(old, &ready);
    words.extend(moved(old, run));
    finish_history(&mut draft.status, run, &ready, now);
    draft.say(condition::READY, ready);
    (draft.status, words, next)
}

/// What is known of who made the bundle; nothing when this pass did not come so far.
fn verified(run: &Run, error: Option<&StepError>) -> Option<Verdict> {
    match (&run.provenance, error) {
        (_, Some(StepError::Artifact(error @ ArtifactError::Unverified { .. }))) => {
            Some(Verdict::no(error.reason(), error.to_string()))
        }
        (None, _) => None,
        (Some(Provenance::Verified(verified)), _) => {
            Some(Verdict::yes("Verified", format!("the bundle is {verified}")))
        }
        (Some(Provenance::Embedded), _) => Some(Verdict::yes("Embedded", "the bundle came with the operator")),
        (Some(Provenance::NotConfigured), _) => {
            let text = "spec.distribution.verify is not set: nobody has to have signed the bundle";
            Some(Verdict::no("NotConfigured", text))
        }
    }
}

/// A version that is another bundle than it was: published versions should not change.
fn moved(old: &FluxInstanceStatus, run: &Run) -> Option<Word> {
    let (before, now) = (old.applied.as_ref()?, run.bundle.as_ref()?);
    let is_moved = run.applied && before.version == now.version && before.digest != now.digest;
    is_moved.then(|| Word {
        warning: true,
        reason: "TagMoved",
        note: format!(
            "version {} names {} now, was {}; a published version should not change",
            now.version, now.digest, before.digest
        ),
    })
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
fn applied(draft: &mut Draft, instance: &FluxInstance, run: &Run, bundle: &BundleRef, config: &str) -> (Verdict, Next) {
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
    let waited = now.0.duration_since(unhealthy_since(&draft.status)).unsigned_abs();
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
fn unhealthy_since(status: &FluxInstanceStatus) -> Timestamp {
    let attempted = status.attempted.as_ref().map(|r| r.at.0);
    let turned = find(&status.conditions, condition::CONTROLLERS_READY).map(|c| c.last_transition_time.0);
    attempted.max(turned).unwrap_or(Timestamp::UNIX_EPOCH)
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

/// What was repaired or pruned, said once.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::find;
    use crate::cluster::ClusterError;
    use crate::plan::Owner;
    use crate::plan::health::Health;
    use crate::render::Kind;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn instance() -> FluxInstance {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": "a", "namespace": "b", "generation": 3},
            "spec": {"timeout": "60s", "distribution": {"artifact": "oci://r.example/x", "version": "2.9.4"}},
        }))
        .unwrap()
    }

    fn bundle() -> BundleRef {
        BundleRef { version: "2.9.4".to_owned(), digest: "sha256:b".to_owned() }
    }

    fn unhealthy(name: &str, health: Health) -> Vec<(ObjectKey, Health)> {
        let kind = Kind {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            namespaced: true,
        };
        vec![(kind.key(Some("flux-system".to_owned()), name.to_owned()), health)]
    }

    fn run(assessment: Assessment) -> Run {
        Run {
            bundle: Some(bundle()),
            config: Some("c".to_owned()),
            applied: true,
            assessment: Some(assessment),
            ..Run::default()
        }
    }

    /// The status of an instance whose change began at second 100.
    fn begun() -> FluxInstanceStatus {
        let plan = Plan {
            owner: Owner { namespace: "b".into(), name: "a".into(), uid: "u".into() },
            bundle: Some(bundle()),
            config: "c".to_owned(),
            steps: Vec::new(),
            unchanged: 0,
            intent: crate::plan::Inventory::default(),
        };
        begin(&FluxInstanceStatus::default(), Some(3), &Run::default(), &plan, &at(100)).unwrap()
    }

    fn line(status: &FluxInstanceStatus, type_: &str) -> String {
        find(&status.conditions, type_).map(|c| format!("{} {}: {}", c.status, c.reason, c.message)).unwrap_or_default()
    }

    #[test]
    fn a_change_is_said_before_its_first_effect_and_once() {
        let status = begun();
        assert_eq!(line(&status, "Ready"), "Unknown Progressing: applying 2.9.4: 0 unchanged");
        assert_eq!(status.history[0].outcome, Outcome::Progressing);
        assert_eq!(status.attempted.as_ref().unwrap().at, at(100));
    }

    #[test]
    fn healthy_is_ready_and_last_good() {
        let (status, words, next) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
        assert_eq!(line(&status, "Ready"), "True ReconciliationSucceeded: Flux 2.9.4 is installed and healthy");
        assert_eq!(line(&status, "ControllersReady"), "True Healthy: CRDs are established and controllers available");
        assert_eq!((status.last_good.unwrap().at, status.history[0].outcome), (at(105), Outcome::Succeeded));
        assert_eq!(status.history[0].finished, Some(at(105)));
        assert_eq!((words.len(), next), (1, Next::Interval));
    }

    #[test]
    fn saying_the_same_again_changes_nothing_and_is_no_event() {
        let (status, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
        let (again, words, _) = compose(&status, &instance(), &run(Assessment::default()), None, &at(999));
        assert_eq!(again, status);
        assert_eq!(words, []);
    }

    #[test]
    fn not_yet_becomes_failed_when_the_timeout_is_over_and_recovers() {
        let waiting = || {
            run(Assessment {
                controllers: unhealthy("x", Health::InProgress("0 of 1 replicas available".into())),
                ..Assessment::default()
            })
        };
        let (status, words, next) = compose(&begun(), &instance(), &waiting(), None, &at(101));
        assert_eq!(
            line(&status, "Ready"),
            "Unknown Progressing: waiting for Deployment flux-system/x: 0 of 1 replicas available"
        );
        assert_eq!((words.len(), next), (0, Next::Soon(WAITING)));
        let (status, words, _) = compose(&status, &instance(), &waiting(), None, &at(162));
        assert_eq!(
            line(&status, "Ready"),
            "False HealthCheckFailed: not healthy within 60s: Deployment flux-system/x: 0 of 1 replicas available"
        );
        assert_eq!((words[0].warning, status.history[0].outcome), (true, Outcome::Failed));
        let (status, ..) = compose(&status, &instance(), &run(Assessment::default()), None, &at(200));
        assert_eq!((line(&status, "Ready").starts_with("True"), status.history[0].outcome), (true, Outcome::Succeeded));
    }

    #[test]
    fn the_timeout_of_what_was_healthy_starts_when_it_stops_being_so() {
        let (status, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
        let broken =
            run(Assessment { controllers: unhealthy("x", Health::InProgress("gone".into())), ..Assessment::default() });
        let (status, ..) = compose(&status, &instance(), &broken, None, &at(5000));
        assert_eq!(line(&status, "Ready"), "Unknown Progressing: waiting for Deployment flux-system/x: gone");
        let (status, ..) = compose(&status, &instance(), &broken, None, &at(5061));
        assert!(line(&status, "Ready").starts_with("False HealthCheckFailed"));
    }

    #[test]
    fn a_broken_source_never_reads_as_a_broken_flux() {
        let assessment =
            Assessment { sync: Some(unhealthy("git", Health::Failed("no such host".into()))), ..Assessment::default() };
        let (status, ..) = compose(&begun(), &instance(), &run(assessment), None, &at(105));
        assert!(line(&status, "Ready").starts_with("True"));
        assert_eq!(line(&status, "SyncReady"), "False NotSynced: Deployment flux-system/git: no such host");
    }

    #[test]
    fn failures_say_what_can_help() {
        let (good, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
        let gone = StepError::Cluster(ClusterError::Timeout(Duration::from_secs(15)));
        let (status, words, next) = compose(&good, &instance(), &Run::default(), Some(&gone), &at(300));
        assert_eq!(line(&status, "Reachable"), "False ClusterUnreachable: no answer from the API server within 15 s");
        assert!(line(&status, "Ready").starts_with("False ClusterUnreachable"));
        assert!(line(&status, "ControllersReady").starts_with("Unknown ClusterUnreachable"));
        assert!(line(&status, "Stalled").starts_with("False"));
        assert_eq!((words.len(), next), (1, Next::Backoff));
        // What was installed stays known, and history does not blame the bundle.
        assert_eq!((status.last_good, status.history[0].outcome), (good.last_good.clone(), Outcome::Succeeded));

        let wrong = StepError::Spec("spec.x: no".to_owned());
        let (status, _, next) = compose(&good, &instance(), &Run::default(), Some(&wrong), &at(300));
        assert_eq!(line(&status, "Stalled"), "True InvalidSpec: spec.x: no");
        assert!(line(&status, "Reconciling").starts_with("False"));
        assert_eq!(next, Next::Interval);
    }

    #[test]
    fn a_suspended_instance_keeps_its_last_word() {
        let (good, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
        let mut instance = instance();
        instance.spec.suspend = true;
        let (status, words, _) = compose(&good, &instance, &Run::default(), None, &at(300));
        assert_eq!(line(&status, "Ready"), line(&good, "Ready"));
        assert!(line(&status, "Reconciling").starts_with("False Suspended"));
        assert_eq!(words, []);
    }
}
