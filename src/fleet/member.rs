//! What one instance is to its fleet: derived anew in every plan from the instance alone, never from what was thought before.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use semver::Version;

use super::policy::StageRules;
use super::reason::{Absence, Deferral, Exclusion, Failure, Waiting};
use crate::api::condition::{CONTROLLERS_READY, REACHABLE, RECONCILING, STALLED, find};
use crate::api::{
    Admitted, Enforcement, FleetHeld, FluxInstance, FluxInstanceStatus, Outcome, Pinned, SKIP, Selector, StepState,
    Target, Unreachable,
};
use crate::plan::goal;

/// Reason of `Reconciling` while `spec.suspend` holds an instance.
const SUSPENDED: &str = "Suspended";

/// How long after its deadline a cluster that can be reached, as far as is known, counts as late.
///
/// It may have fallen silent a moment before, and nobody knows yet: the next look at what is under way is thirty seconds away at most, and
/// a pass sends two rounds of requests, of fifteen seconds each. Who is late spends the budget, who cannot be reached need not.
const DOUBT: SignedDuration = SignedDuration::from_mins(1);

/// An instance, as its fleet sees it.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The instance.
    pub instance: &'a FluxInstance,
    /// Its name.
    pub name: &'a str,
    /// Its stage, by its place in the spec.
    pub stage: Option<usize>,
    /// Where it stands.
    pub state: State,
}

/// Where an instance stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On the target, and healthy after it was applied.
    Done {
        /// Whether it was seen lately.
        reachable: bool,
    },
    /// It was done, and is unhealthy for less than its own `spec.timeout`.
    Wavering {
        /// When that is over.
        until: Timestamp,
    },
    /// Admitted to something and on its way: it takes a place.
    Moving {
        /// When its time is over.
        until: Timestamp,
    },
    /// It spends the failure budget.
    Failed(Failure),
    /// It cannot be reached, and is left for later.
    Deferred(Deferral),
    /// It is not meant.
    Excluded(Exclusion),
    /// `spec.suspend`.
    Suspended,
    /// Its owner skips this target.
    Skipped,
    /// Other fleets select it too.
    Conflict(Vec<String>),
    /// It admits itself.
    Ungoverned,
    /// No stage selects it.
    Unassigned,
    /// It has not been looked at yet.
    Unknown,
    /// Its preflight for the target is not known yet.
    Unchecked,
    /// Nothing about it stands in the way.
    Waiting(Waiting),
}

impl State {
    /// Whether the fleet governs it, and a stage has to reckon with it.
    pub fn is_governed(&self) -> bool {
        !matches!(self, Self::Conflict(_) | Self::Ungoverned | Self::Unassigned)
    }

    /// Whether it spends the failure budget.
    pub fn spends(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.spends())
    }
}

/// Where a fleet leads its clusters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim<'a> {
    /// To the target.
    Forward(&'a Target),
    /// Away from it.
    Back(&'a FleetHeld),
}

/// The state of an instance that is admitted now. It may be there already: back before it had begun to leave, for one.
pub(super) fn admitted(instance: &FluxInstance, admitted: &Admitted, view: &View<'_>) -> State {
    let nothing = FluxInstanceStatus::default();
    let facts = Facts::of(instance, &nothing);
    if facts.is_at(&admitted.digest) {
        return facts.settled(Some(admitted), view, true);
    }
    State::Moving { until: facts.until(admitted, view) }
}

/// What is asked of many instances with the same answer.
#[derive(Default)]
pub(super) struct Versions<'a> {
    ranges: HashMap<&'a str, bool>,
    newer: HashMap<&'a str, bool>,
}

impl<'a> Versions<'a> {
    fn admits(&mut self, range: &'a str, target: &Target) -> bool {
        *self.ranges.entry(range).or_insert_with(|| admits(range, &target.version, &target.digest))
    }

    fn is_newer(&mut self, version: &'a str, target: &Target) -> bool {
        *self.newer.entry(version).or_insert_with(|| match (Version::parse(version), Version::parse(&target.version)) {
            (Ok(installed), Ok(wanted)) => installed.cmp_precedence(&wanted).is_gt(),
            _ => false,
        })
    }
}

/// Whether the range of an instance admits a bundle.
pub(super) fn admits(range: &str, version: &str, digest: &str) -> bool {
    match Selector::read(range) {
        Some(Selector::Digest(wanted)) => wanted == digest,
        Some(selector) => Version::parse(version).is_ok_and(|version| selector.admits(&version)),
        None => false,
    }
}

/// What a member's state depends on, beside the member.
pub(super) struct View<'a> {
    pub(super) rules: &'a StageRules,
    /// Failures of admissions up to then do not count any more.
    pub(super) resumed: Option<Timestamp>,
    /// Since when instances are looked at.
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
}

/// Some facts of an instance's status.
struct Facts<'a> {
    instance: &'a FluxInstance,
    status: &'a FluxInstanceStatus,
    reachable: Option<(bool, Timestamp)>,
}

impl<'a> Facts<'a> {
    fn of(instance: &'a FluxInstance, nothing: &'a FluxInstanceStatus) -> Self {
        let status = instance.status.as_ref().unwrap_or(nothing);
        let reachable = find(&status.conditions, REACHABLE).map(|c| (c.status == "True", c.last_transition_time.0));
        Self { instance, status, reachable }
    }

    fn is_lost(&self) -> bool {
        matches!(self.reachable, Some((false, _)))
    }

    /// Applied completely and seen healthy after that, as the status says of this very digest: what is left in it of a time when
    /// the digest ran before does not count, since the conditions spoke of another one then, or a change was begun since.
    fn is_at(&self, digest: &str) -> bool {
        let status = self.status;
        let is = |revision: &Option<crate::api::Revision>| revision.as_ref().is_some_and(|r| r.digest == digest);
        let plan = status.plan.as_ref().filter(|plan| plan.digest == digest);
        let is_under_way = plan.is_some_and(|plan| plan.steps.iter().any(|step| step.state != StepState::Done));
        // Who does not want to wait for health does not get it.
        let is_good = is(&status.last_good) || !self.instance.spec.wait;
        // What was found in place, with a status that was lost, was never attempted by what is known.
        let is_last = status.attempted.is_none() || is(&status.attempted);
        status.observed_digest.as_deref() == Some(digest) && is_last && is(&status.applied) && is_good && !is_under_way
    }

    /// The digest failed there since it was admitted; what runs now is something else, or broken.
    fn has_failed(&self, digest: &str, since: Timestamp) -> Option<Failure> {
        if let Some(held) = self.status.held.as_ref().filter(|held| held.digest == digest && held.at.0 >= since) {
            return Some(Failure::Held(held.message.clone()));
        }
        let stalled = find(&self.status.conditions, STALLED).filter(|c| c.status == "True");
        stalled
            .filter(|c| self.status.observed_digest.as_deref() == Some(digest) && c.last_transition_time.0 >= since)
            .map(|stalled| Failure::Stalled(stalled.message.clone()))
    }

    /// When the time of an admission is over. It runs while the cluster can be reached, is not suspended, and somebody looks: whoever
    /// was away, the cluster or the hub, the cluster gets its time anew.
    fn until(&self, admitted: &Admitted, view: &View<'_>) -> Timestamp {
        let reconciling = find(&self.status.conditions, RECONCILING);
        if reconciling.is_some_and(|c| c.reason == SUSPENDED) {
            // Not any more, but its operator has not seen that yet.
            return Timestamp::MAX;
        }
        let back = self.reachable.filter(|(reachable, _)| *reachable).map(|(_, since)| since);
        let begun = reconciling.filter(|c| c.status == "True").map(|c| c.last_transition_time.0);
        let since = back.into_iter().chain(begun).fold(admitted.at.0.max(view.since), Timestamp::max);
        since.checked_add(view.rules.deadline).unwrap_or(Timestamp::MAX)
    }

    /// Until when an admission has time, if it still has. After its deadline that is until it is known whose fault it is.
    fn has_until(&self, admitted: &Admitted, view: &View<'_>) -> Option<Timestamp> {
        let until = self.until(admitted, view);
        if view.now < until {
            return Some(until);
        }
        let known = until.checked_add(DOUBT).unwrap_or(Timestamp::MAX);
        (!self.is_lost() && view.now < known).then_some(known)
    }

    /// Until when what an admission began is waited for: not where it has ended, well or badly, or cannot go on.
    fn is_finishing(&self, admitted: &Admitted, view: &View<'_>) -> Option<Timestamp> {
        let is_over = self.is_at(&admitted.digest)
            || self.is_lost()
            || self.has_failed(&admitted.digest, admitted.at.0).is_some();
        self.has_until(admitted, view).filter(|_| !is_over)
    }

    /// On its digest once: healthy still?
    fn settled(&self, admitted: Option<&Admitted>, view: &View<'_>, is_ours: bool) -> State {
        let unhealthy = find(&self.status.conditions, CONTROLLERS_READY).filter(|c| c.status == "False");
        // Who does not want to wait for health is not asked for it.
        let Some(unhealthy) = unhealthy.filter(|_| !self.is_lost() && self.instance.spec.wait) else {
            return State::Done { reachable: !self.is_lost() };
        };
        let patience = self.instance.spec.timeout.get().ok().and_then(|t| SignedDuration::try_from(t).ok());
        let since = unhealthy.last_transition_time.0.max(view.since);
        let since = admitted.map_or(since, |admitted| since.max(admitted.at.0));
        let until = since.checked_add(patience.unwrap_or_default()).unwrap_or(Timestamp::MAX);
        let why = || unhealthy.message.clone();
        match (view.now < until, is_ours) {
            (true, _) => State::Wavering { until },
            (false, true) => State::Failed(Failure::Regressed(why())),
            (false, false) => State::Failed(Failure::Unhealthy(why())),
        }
    }

    /// What its owner says about a target, which holds for what is not on its way.
    fn left_out(&self, target: &Target) -> Option<State> {
        let skip = self.instance.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SKIP));
        if self.instance.spec.suspend {
            return Some(State::Suspended);
        }
        skip.is_some_and(|skip| *skip == target.digest || *skip == target.version).then_some(State::Skipped)
    }

    fn has_errors(&self, digest: &str) -> Option<bool> {
        let found = self.status.preflight.as_ref()?;
        let is_current = found.digest == digest && found.generation == self.instance.metadata.generation;
        is_current.then(|| found.findings.iter().any(|finding| finding.severity == Enforcement::Error))
    }
}

/// The state of an instance that the fleet governs.
pub(super) fn state<'a>(
    instance: &'a FluxInstance,
    aim: Aim<'_>,
    view: &View<'_>,
    versions: &mut Versions<'a>,
) -> State {
    let nothing = FluxInstanceStatus::default();
    let facts = Facts::of(instance, &nothing);
    match aim {
        Aim::Forward(target) => forward(&facts, target, view, instance, versions),
        Aim::Back(held) => back(&facts, held, view),
    }
}

fn forward<'a>(
    facts: &Facts<'_>,
    target: &Target,
    view: &View<'_>,
    instance: &'a FluxInstance,
    versions: &mut Versions<'a>,
) -> State {
    let (status, spec, digest) = (facts.status, &instance.spec, target.digest.as_str());
    let admitted = status.admitted.as_ref();
    // Said about this admission: neither before the target was one, nor before somebody said to go on.
    let is_fresh = |admitted: &Admitted| view.resumed.is_none_or(|resumed| admitted.at.0 > resumed);
    let is_elsewhere = admitted.is_some_and(|a| a.digest != digest);
    let failed_there =
        status.held.as_ref().filter(|h| h.digest == digest && h.back.as_ref().is_none_or(|b| b.digest != digest));
    if !is_elsewhere && facts.is_at(digest) && failed_there.is_none() {
        // Who ran the target before it was one was not moved, and is no reason to stop.
        let is_ours = admitted.is_some_and(|a| a.at.0 >= target.since.0 && is_fresh(a));
        let state = facts.settled(admitted, view, is_ours);
        let is_failed = matches!(state, State::Failed(_));
        return facts.left_out(target).filter(|_| is_failed).unwrap_or(state);
    }
    if spec.suspend {
        return State::Suspended;
    }
    let mut is_retry = false;
    match admitted {
        Some(admitted) if admitted.digest == digest => match on_its_way(facts, admitted, view) {
            State::Failed(_) if facts.left_out(target).is_some() => {}
            State::Failed(_) if !is_fresh(admitted) => is_retry = true,
            state => return state,
        },
        // What another target left is finished first, unless there is nothing to wait for.
        Some(admitted) => {
            if let Some(until) = facts.is_finishing(admitted, view) {
                return State::Moving { until };
            }
        }
        None => {}
    }
    if let Some(state) = facts.left_out(target) {
        return state;
    }
    if !versions.admits(&spec.distribution.version, target) {
        return State::Excluded(Exclusion::Range(spec.distribution.version.clone()));
    }
    if let Some(newer) = newer(instance, |version| versions.is_newer(version, target)) {
        return State::Excluded(Exclusion::Newer(newer.to_owned()));
    }
    match facts.reachable {
        None => State::Unknown,
        Some((false, since)) => State::Deferred(Deferral { since, why: Absence::Unreachable }),
        Some((true, _)) => match facts.has_errors(digest) {
            // It was looked at before it was admitted first, and looks itself when it tries again.
            None if !is_retry => State::Unchecked,
            Some(true) => State::Failed(Failure::Refused(refusal(status))),
            None | Some(false) => State::Waiting(Waiting::Turn),
        },
    }
}

/// What an instance runs, or has begun to, that is newer than what it would be moved to.
pub(super) fn newer<'a>(instance: &'a FluxInstance, mut is_newer: impl FnMut(&'a str) -> bool) -> Option<&'a str> {
    let status = instance.status.as_ref().filter(|_| !instance.spec.upgrade.allow_downgrade)?;
    let runs = [status.applied.as_ref(), status.attempted.as_ref()];
    runs.into_iter().flatten().map(|revision| revision.version.as_str()).find(|version| is_newer(version))
}

/// Admitted to the target, and not there yet.
fn on_its_way(facts: &Facts<'_>, admitted: &Admitted, view: &View<'_>) -> State {
    if let Some(failure) = facts.has_failed(&admitted.digest, admitted.at.0) {
        return State::Failed(failure);
    }
    if facts.has_errors(&admitted.digest) == Some(true) {
        return State::Failed(Failure::Refused(refusal(facts.status)));
    }
    if let Some(until) = facts.has_until(admitted, view) {
        return State::Moving { until };
    }
    match (facts.reachable, view.rules.unreachable) {
        (Some((false, since)), Unreachable::Defer) => State::Deferred(Deferral { since, why: Absence::Left }),
        (Some((false, since)), Unreachable::Fail) => State::Failed(Failure::Unreachable(since)),
        _ => State::Failed(Failure::Late(view.rules.deadline)),
    }
}

fn refusal(status: &FluxInstanceStatus) -> String {
    let findings = status.preflight.iter().flat_map(|found| &found.findings);
    findings
        .filter(|finding| finding.severity == Enforcement::Error)
        .map(|finding| match &finding.object {
            Some(object) => format!("{}: {object}: {}", finding.rule, finding.message),
            None => format!("{}: {}", finding.rule, finding.message),
        })
        .next()
        .unwrap_or_default()
}

/// What a rollback is to an instance.
fn back(facts: &Facts<'_>, held: &FleetHeld, view: &View<'_>) -> State {
    let (status, bad) = (facts.status, held.digest.as_str());
    let admitted = status.admitted.as_ref();
    // Who ran it before was not moved.
    let is_moved = admitted.is_some_and(|a| a.digest == bad);
    if facts.instance.spec.suspend {
        return State::Suspended;
    }
    if let Some(admitted) = admitted.filter(|a| a.rollback && a.digest != bad && a.at.0 >= held.at.0) {
        return if facts.is_at(&admitted.digest) {
            facts.settled(Some(admitted), view, true)
        } else if let Some(failure) = facts.has_failed(&admitted.digest, admitted.at.0) {
            State::Failed(failure)
        } else if let Some(until) = facts.has_until(admitted, view) {
            State::Moving { until }
        } else if let Some((false, since)) = facts.reachable {
            State::Deferred(Deferral { since, why: Absence::Left })
        } else {
            State::Failed(Failure::Late(view.rules.deadline))
        };
    }
    // Whatever it is on its way to, it finishes.
    if let Some(until) = admitted.and_then(|admitted| facts.is_finishing(admitted, view)) {
        return State::Moving { until };
    }
    if !is_moved {
        return State::Excluded(Exclusion::Untouched);
    }
    match (way_back(facts.instance, bad), facts.reachable) {
        (None, _) => State::Failed(Failure::NoWayBack),
        (_, Some((false, since))) => State::Deferred(Deferral { since, why: Absence::Unreachable }),
        (Some(_), _) => State::Waiting(Waiting::Turn),
    }
}

/// What was good on a cluster before a digest.
pub fn way_back(instance: &FluxInstance, bad: &str) -> Option<Pinned> {
    let status = instance.status.as_ref()?;
    let held = status.held.as_ref().filter(|h| h.digest == bad).and_then(|h| h.back.as_ref());
    let back = held.filter(|back| back.digest != bad);
    if let Some(back) = back {
        return Some(Pinned::of(&back.version, &back.digest));
    }
    goal::good(status).find(|entry| entry.digest != bad).map(|entry| Pinned::of(&entry.version, &entry.digest))
}

/// Since when an instance runs what is good on it. That its spec changed meanwhile is another try for it, and none for its fleet.
pub(super) fn good_since(instance: &FluxInstance) -> Option<Timestamp> {
    let status = instance.status.as_ref()?;
    let good = status.last_good.as_ref()?;
    let of_this = status.history.iter().take_while(|entry| entry.digest == good.digest);
    let first = of_this.filter(|entry| entry.outcome == Outcome::Succeeded).filter_map(|entry| entry.finished.as_ref());
    first.map(|time| time.0).chain([good.at.0]).min()
}

/// Whether nothing has ever been installed by us, and nothing is about to be.
pub(super) fn is_new(instance: &FluxInstance) -> bool {
    let Some(status) = &instance.status else { return true };
    status.admitted.is_none() && status.applied.is_none() && status.attempted.is_none()
}
