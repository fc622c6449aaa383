//! What is said of a pass: status, events, and when to look again. Neither client nor clock: `now` is passed in.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::assess::{Assessment, sentence};
use super::super::events::Word;
use super::super::{Run, StepError};
use super::drift;
use crate::api::condition::{self, Verdict, find};
use crate::api::{
    ClusterStatus, FluxInstance, FluxInstanceStatus, Held, HistoryEntry, OnFailure, Outcome, PlanStatus, REQUESTED_AT,
    Revision, StepState,
};
use crate::bundle::{ArtifactError, Provenance};
use crate::plan::goal::Goal;
use crate::plan::health::Health;
use crate::plan::progress::{HEALTH, Standing, advance, complete, remaining};
use crate::plan::{BundleRef, Plan, takeover};
use crate::render::ObjectKey;

/// Entries of `status.history`.
const HISTORY: usize = 10;
/// While something is on its way and a watch tells of every change, a look now and then is enough.
const WAITING: Duration = Duration::from_secs(10);

/// The next pass has something else to do than this one.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Only for specs that were refused before.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

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

    /// The plan in the status, if it is that of this pass and not done yet.
    fn plan(&mut self, run: &Run) -> Option<&mut PlanStatus> {
        let (bundle, config) = (run.bundle.as_ref()?, run.config.as_ref()?);
        self.status
            .plan
            .as_mut()
            .filter(|plan| plan.digest == bundle.digest && plan.config == *config)
            .filter(|plan| plan.steps.iter().any(|step| step.state != StepState::Done))
    }

    fn progress(&mut self, run: &Run, standing: Standing<'_>) {
        let now = self.now;
        let left = run.plan.as_ref().map(|plan| remaining(plan, run.executed.reached)).unwrap_or_default();
        if let Some(plan) = self.plan(run) {
            plan.steps = advance(&plan.steps, &left, standing, now);
        }
    }

    fn complete(&mut self, run: &Run) {
        let now = self.now;
        if let Some(plan) = self.plan(run) {
            plan.steps = complete(&plan.steps, now);
        }
    }

    /// Whether the step under way has had its time. The clock stands still while the cluster cannot be reached, and begins anew when it can:
    /// nobody saw what became of it meanwhile.
    fn is_overdue(&mut self, instance: &FluxInstance, run: &Run) -> bool {
        let now = self.now;
        let timeout = instance.spec.timeout.get().unwrap_or(DEFAULT_TIMEOUT);
        let since = self.plan(run).and_then(|plan| {
            plan.steps.iter().find(|step| step.state != StepState::Done).and_then(|step| step.since.clone())
        });
        let reachable = find(&self.status.conditions, condition::REACHABLE);
        let back = reachable.map(|condition| (condition.status == "True", condition.last_transition_time.0));
        let since = match (since, back) {
            (None, _) | (_, Some((false, _))) => return false,
            (Some(since), Some((true, back))) => since.0.max(back),
            (Some(since), None) => since.0,
        };
        now.0.duration_since(since).unsigned_abs() >= timeout
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
    if let Some(target) = &run.target {
        status.observed_digest = Some(target.clone());
    }
    if let Some(objects) = run.objects {
        status.objects = i64::try_from(objects).ok();
    }
    let mut draft = Draft { status, generation, now };
    preflight(&mut draft, run);
    match &run.admission {
        Some(verdict) => draft.say(condition::ADMITTED, verdict.clone()),
        None => condition::clear(&mut draft.status.conditions, condition::ADMITTED),
    }
    draft
}

/// What stands in the way is said of the newest target alone.
fn preflight(draft: &mut Draft, run: &Run) {
    if let Some(outcome) = run.candidate.as_ref().or(run.preflight.as_ref()) {
        draft.status.preflight = Some(outcome.status.clone());
        draft.say(condition::PREFLIGHT, outcome.verdict.clone());
    } else if let (Some(bundle), Some(config), Some(found)) = (&run.bundle, &run.config, &draft.status.preflight)
        && run.asked.as_ref() != Some(&found.digest)
        && (found.digest != bundle.digest || found.config != *config)
    {
        draft.status.preflight = None;
        condition::clear(&mut draft.status.conditions, condition::PREFLIGHT);
    }
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
    status.plan = Some(PlanStatus {
        from: old.applied.as_ref().map(|r| r.version.clone()),
        version: bundle.version.clone(),
        digest: bundle.digest.clone(),
        config: plan.config.clone(),
        steps: advance(&[], &remaining(plan, 0), Standing::Running(None), now),
    });
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
    if let Some(requested) = instance.annotations().get(REQUESTED_AT).filter(|_| !instance.spec.suspend) {
        draft.status.last_handled_reconcile_at = Some(requested.clone());
    }
    match error {
        Some(error) if error.is_about_reaching() => {
            draft.say(condition::REACHABLE, Verdict::no(error.reason(), error.to_string()));
        }
        // What was known before stays so until the cluster was asked.
        Some(error) if error.is_doubtful() && find(&draft.status.conditions, condition::REACHABLE).is_some() => {}
        _ if run.cluster.is_some() => {
            draft.say(condition::REACHABLE, Verdict::yes("Connected", "the API server answers"));
        }
        _ => {}
    }
    if let Some(verdict) = verified(run, error) {
        draft.say(condition::VERIFIED, verdict);
    }
    let (ready, next) = match error {
        Some(error) => failed(&mut draft, instance, run, error),
        None if instance.spec.suspend => {
            let text = "spec.suspend is true: nothing is written to the cluster";
            draft.say(condition::RECONCILING, Verdict::no("Suspended", text));
            return (draft.status, Vec::new(), Next::Interval);
        }
        None => match (&run.bundle, &run.config) {
            (Some(bundle), Some(config)) if run.applied => applied(&mut draft, instance, run, bundle, config),
            (Some(_), Some(_)) => under_way(&mut draft, instance, run),
            _ => return (draft.status, Vec::new(), Next::Interval),
        },
    };
    // How the change itself went, whatever else is to be said.
    finish_history(&mut draft.status, run, &ready, now);
    let (ready, next) = held(&mut draft, instance, run, ready, next);
    let (ready, next) = blocked(&mut draft, instance, run, ready, next);
    if run.plan.is_some() {
        match drift::verdict(run) {
            Some(verdict) => draft.say(condition::DRIFTED, verdict),
            None => condition::clear(&mut draft.status.conditions, condition::DRIFTED),
        }
    }
    // What is on its way out may be of a kind that no watch tells of.
    let next = if next == Next::Interval && !run.executed.going.is_empty() { Next::Soon(WAITING) } else { next };
    let mut words = news(old, &ready);
    words.extend(claimed(&mut draft, run));
    words.extend(moved(old, run));
    words.extend(run.refused.iter().map(|why| Word {
        warning: true,
        reason: "RollbackRefused",
        note: format!("there is no going back: {why}"),
    }));
    draft.say(condition::READY, ready);
    // What was said and taken back within this pass is no transition.
    for condition in &mut draft.status.conditions {
        if let Some(before) = find(&old.conditions, &condition.type_).filter(|c| c.status == condition.status) {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
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

fn failed(draft: &mut Draft, instance: &FluxInstance, run: &Run, error: &StepError) -> (Verdict, Next) {
    if error.is_about_reaching() {
        let unknown = || Verdict::unknown(error.reason(), "the cluster cannot be looked at");
        for type_ in [condition::CONTROLLERS_READY, condition::SYNC_READY] {
            if find(&draft.status.conditions, type_).is_some() {
                draft.say(type_, unknown());
            }
        }
    }
    let text = error.to_string();
    if matches!(error, StepError::AwaitingAdmission) {
        draft.working(error.reason(), &text);
        return (Verdict::unknown(error.reason(), text), Next::Interval);
    }
    // A cluster that does not answer cannot be brought back either.
    if run.plan.is_some() && !error.is_about_reaching() {
        let is_over = !error.is_transient() || draft.is_overdue(instance, run);
        draft.progress(run, if is_over { Standing::Failed(&text) } else { Standing::Running(Some(&text)) });
        if is_over && let Some(outcome) = give_up(draft, instance, run, &text) {
            return outcome;
        }
    }
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
    // A bundle that was built anew may have nothing new in it, and an installation be there whose status was lost: nothing was begun.
    if !is_of(draft.status.attempted.as_ref(), bundle, config) {
        draft.status.attempted.clone_from(&draft.status.applied);
    }
    let assessment = run.assessment.clone().unwrap_or_default();
    let controllers = sentence(&assessment.controllers);
    match &controllers {
        None if run.silent.is_some() => {
            draft.progress(run, Standing::Running(Some("asked source and Kustomization to reconcile")));
        }
        Some((_, text)) if instance.spec.wait => draft.progress(run, Standing::Running(Some(text))),
        _ => draft.complete(run),
    }
    let verdict = match &controllers {
        None => Verdict::yes("Healthy", "CRDs are established and controllers available"),
        Some((true, text)) => Verdict::no("HealthCheckFailed", text),
        Some((false, text)) => Verdict::no("Progressing", text),
    };
    draft.say(condition::CONTROLLERS_READY, verdict);
    // A source or Kustomization that is not ready never makes the installation itself look broken.
    let after_sync = if sync_is_ready(draft, &assessment) { Next::Interval } else { Next::Soon(WAITING * 3) };
    draft.status.components = assessment.components;

    let controllers = controllers.or_else(|| {
        let key = run.silent.as_ref()?;
        Some((false, format!("{key}: it was asked to reconcile (spec.upgrade.probe), and has not answered")))
    });
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
    let timeout = instance.spec.timeout.get().unwrap_or(DEFAULT_TIMEOUT);
    let waited = now.0.duration_since(unhealthy_since(&draft.status)).unsigned_abs();
    if is_failed || waited >= timeout {
        return unhealthy(draft, instance, run, &lateness(instance, is_failed, text));
    }
    let text = format!("waiting for {text}");
    draft.working("Progressing", &text);
    (Verdict::unknown("Progressing", text), Next::Soon(WAITING.min(timeout.saturating_sub(waited))))
}

/// What is wrong with something that has failed, or has had its time.
fn lateness(instance: &FluxInstance, is_failed: bool, text: String) -> String {
    if is_failed { text } else { format!("not healthy within {}: {text}", instance.spec.timeout.0) }
}

/// The step under way has failed: the change is held, or, where there is nothing to go back to, watched and tried on.
fn unhealthy(draft: &mut Draft, instance: &FluxInstance, run: &Run, text: &str) -> (Verdict, Next) {
    draft.progress(run, Standing::Failed(text));
    give_up(draft, instance, run, text).unwrap_or_else(|| {
        draft.working("ProgressingWithRetry", text);
        (Verdict::no("HealthCheckFailed", text), Next::Soon(WAITING * 3))
    })
}

/// Some steps are done, and the next one waits.
fn under_way(draft: &mut Draft, instance: &FluxInstance, run: &Run) -> (Verdict, Next) {
    let (is_failed, text) = match &run.executed.waiting {
        Some((key, Health::Failed(why))) => (true, format!("{key}: {why}")),
        Some((key, Health::InProgress(why))) => (false, format!("{key}: {why}")),
        // Nothing was even begun: what is held is left alone.
        _ => return (Verdict::unknown("Progressing", "held"), Next::Interval),
    };
    draft.progress(run, Standing::Running(Some(&text)));
    if is_failed || draft.is_overdue(instance, run) {
        let text = lateness(instance, is_failed, text);
        draft.say(condition::CONTROLLERS_READY, Verdict::no("HealthCheckFailed", &text));
        return unhealthy(draft, instance, run, &text);
    }
    draft.say(condition::CONTROLLERS_READY, Verdict::no("Progressing", &text));
    let text = format!("waiting for {text}, before the next step");
    draft.working("Progressing", &text);
    (Verdict::unknown("Progressing", text), Next::Soon(WAITING.min(instance.spec.timeout.get().unwrap_or(WAITING))))
}

/// A change that was begun and failed is held, if there was something good before it.
fn give_up(draft: &mut Draft, instance: &FluxInstance, run: &Run, why: &str) -> Option<(Verdict, Next)> {
    let (bundle, config) = (run.bundle.as_ref()?, run.config.as_ref()?);
    let good = draft.status.last_good.clone()?;
    if run.goal != Goal::Target || is_of(Some(&good), bundle, config) || !instance.spec.wait {
        return None;
    }
    let wants_back = instance.spec.upgrade.on_failure == OnFailure::Rollback;
    draft.status.held = Some(Held {
        version: bundle.version.clone(),
        digest: bundle.digest.clone(),
        generation: instance.metadata.generation.unwrap_or_default(),
        message: condition::cut(why.to_owned()),
        at: draft.now.clone(),
        back: wants_back.then_some(good),
        refused: None,
    });
    // Going back begins with the next pass, at once.
    Some((Verdict::no("HealthCheckFailed", why), Next::Soon(AT_ONCE)))
}

/// What is to be said while a target is held, whatever else is so.
fn held(draft: &mut Draft, instance: &FluxInstance, run: &Run, ready: Verdict, next: Next) -> (Verdict, Next) {
    let Some(held) = draft.status.held.clone() else { return (ready, next) };
    let is_good = run.applied && ready.status == "True";
    if run.goal == Goal::Stay && is_good {
        // It only took longer.
        draft.status.held = None;
        return (ready, next);
    }
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let failed = format!("{} failed: {}", held.version, held.message);
    let until = format!("It is not tried again until spec or bundle change, or `headwater retry {name}`");
    let (reason, text) = match (&held.back, &held.refused) {
        (Some(back), _) if is_good => ("RolledBack", format!("{failed}. Back on {}. {until}", back.version)),
        (Some(back), _) => ("RollingBack", format!("{failed}. Going back to {}: {}", back.version, ready.message)),
        (None, Some(why)) => {
            ("RollbackRefused", format!("{failed}. Left as it is, since going back is not possible: {why}. {until}"))
        }
        (None, None) => ("UpgradeFailed", format!("{failed}. Left as it is (spec.upgrade.onFailure is Hold). {until}")),
    };
    if reason == "RollingBack" {
        draft.working(reason, &text);
    } else {
        draft.say(condition::RECONCILING, Verdict::no(reason, "waiting for a change"));
        draft.say(condition::STALLED, Verdict::yes(reason, &text));
    }
    // What runs instead is looked at by the next pass.
    let next = if run.refused.is_some() { Next::Soon(AT_ONCE) } else { next };
    (Verdict::no(reason, text), next)
}

/// Deletions that wait for a word: everything else is done.
fn blocked(draft: &mut Draft, instance: &FluxInstance, run: &Run, ready: Verdict, next: Next) -> (Verdict, Next) {
    let blocked = run.plan.as_ref().and_then(|plan| plan.blocked.as_ref());
    let (Some(blocked), "True") = (blocked, ready.status) else { return (ready, next) };
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let [first, rest @ ..] = blocked.deletions.as_slice() else { return (ready, next) };
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let text = format!(
        "{} of {} objects are to be deleted ({first}{more}); everything else is done. Look at them with `headwater diff`, then `headwater confirm {name} --plan {}`",
        blocked.deletions.len(),
        blocked.of,
        blocked.digest
    );
    draft.say(condition::RECONCILING, Verdict::no("PruneBlocked", "waiting for a word"));
    draft.say(condition::STALLED, Verdict::yes("PruneBlocked", &text));
    (Verdict::no("PruneBlocked", text), next)
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
    let health = status.plan.iter().flat_map(|plan| &plan.steps).find(|step| step.name == HEALTH);
    let attempted =
        health.and_then(|step| step.since.as_ref().map(|t| t.0)).or_else(|| status.attempted.as_ref().map(|r| r.at.0));
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
    let entry = status
        .history
        .first_mut()
        .filter(|e| (run.applied || run.plan.is_some()) && run.config.as_ref() == Some(&e.config));
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
    let mut words = drift::words(run);
    if let Some(note) = run.plan.as_ref().and_then(|plan| takeover::said(plan, &run.executed.applied)) {
        words.push(Word { warning: false, reason: "TakenOver", note });
    }
    let deleted: Vec<String> = run.executed.deleted.iter().map(ToString::to_string).collect();
    if !deleted.is_empty() {
        words.push(Word { warning: false, reason: "Pruned", note: format!("deleted {}", first(&deleted)) });
    }
    words
}

/// Says on the owner's side too that another instance wants what it has; an event when that is new.
fn claimed(draft: &mut Draft, run: &Run) -> Option<Word> {
    if run.claimants.is_empty() {
        condition::clear(&mut draft.status.conditions, condition::CLAIMED);
        return None;
    }
    let note = format!(
        "FluxInstance {} wants this namespace of this cluster too, and is refused; delete it, or point it to another cluster",
        first(&run.claimants)
    );
    let known = find(&draft.status.conditions, condition::CLAIMED).is_some_and(|c| c.message == note);
    draft.say(condition::CLAIMED, Verdict::yes("NamespaceClaimed", &note));
    (!known).then_some(Word { warning: true, reason: "NamespaceClaimed", note })
}

/// What was left on purpose.
pub(super) fn kept(list: &[(ObjectKey, &'static str)]) -> Option<Word> {
    let texts: Vec<String> = list.iter().map(|(key, why)| format!("{key} was not deleted: {why}")).collect();
    (!texts.is_empty()).then(|| Word { warning: true, reason: "Kept", note: first(&texts) })
}

pub(super) fn first(list: &[String]) -> String {
    match list {
        [] => String::new(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} (and {} more)", rest.len()),
    }
}

#[cfg(test)]
mod tests;
