//! What one instance is to its fleet: derived anew in every plan from the instance alone, never from what was thought before.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use semver::Version;

use super::policy::StageRules;
use super::reason::{Deferral, Exclusion, Failure, Waiting};
use crate::api::condition::{CONTROLLERS_READY, REACHABLE, STALLED, find};
use crate::api::{
    Admitted, Enforcement, FleetHeld, FluxInstance, FluxInstanceStatus, Pinned, SKIP, Selector, StepState, Target,
    Unreachable,
};
use crate::plan::goal;

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
}

/// Where a fleet leads its clusters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim<'a> {
    /// To the target.
    Forward(&'a Target),
    /// Away from it.
    Back(&'a FleetHeld),
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
        status.observed_digest.as_deref() == Some(digest) && is(&status.applied) && is_good && !is_under_way
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

    /// When the time of an admission is over. A cluster that was away gets its time anew when it is back.
    fn until(&self, admitted: &Admitted, rules: &StageRules) -> Timestamp {
        let back = self.reachable.filter(|(reachable, _)| *reachable).map(|(_, since)| since);
        let since = back.map_or(admitted.at.0, |back| back.max(admitted.at.0));
        since.checked_add(rules.deadline).unwrap_or(Timestamp::MAX)
    }

    /// On its digest once: healthy still?
    fn settled(&self, now: Timestamp) -> State {
        let unhealthy = find(&self.status.conditions, CONTROLLERS_READY).filter(|c| c.status == "False");
        let Some(unhealthy) = unhealthy.filter(|_| !self.is_lost()) else {
            return State::Done { reachable: !self.is_lost() };
        };
        let patience = self.instance.spec.timeout.get().ok().and_then(|t| SignedDuration::try_from(t).ok());
        let until = unhealthy.last_transition_time.0.checked_add(patience.unwrap_or_default());
        match until {
            Ok(until) if now < until => State::Wavering { until },
            _ => State::Failed(Failure::Regressed(unhealthy.message.clone())),
        }
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
    let is_elsewhere = admitted.is_some_and(|a| a.digest != digest);
    let failed_there =
        status.held.as_ref().filter(|h| h.digest == digest && h.back.as_ref().is_none_or(|b| b.digest != digest));
    if !is_elsewhere && facts.is_at(digest) && failed_there.is_none() {
        return facts.settled(view.now);
    }
    if spec.suspend {
        return State::Suspended;
    }
    match admitted {
        Some(admitted) if admitted.digest == digest && view.resumed.is_none_or(|resumed| admitted.at.0 > resumed) => {
            return on_its_way(facts, admitted, view);
        }
        // What another target left is finished first, unless there is nothing to wait for.
        Some(admitted) if admitted.digest != digest => {
            let until = facts.until(admitted, view.rules);
            let is_over = facts.is_at(&admitted.digest)
                || facts.is_lost()
                || view.now >= until
                || facts.has_failed(&admitted.digest, admitted.at.0).is_some();
            if !is_over {
                return State::Moving { until };
            }
        }
        _ => {}
    }
    let skip = instance.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SKIP));
    if skip.is_some_and(|skip| skip == digest || *skip == target.version) {
        return State::Skipped;
    }
    if !versions.admits(&spec.distribution.version, target) {
        return State::Excluded(Exclusion::Range(spec.distribution.version.clone()));
    }
    if let Some(applied) = instance.status.as_ref().and_then(|s| s.applied.as_ref())
        && !spec.upgrade.allow_downgrade
        && versions.is_newer(&applied.version, target)
    {
        return State::Excluded(Exclusion::Newer(applied.version.clone()));
    }
    match facts.reachable {
        None => State::Unknown,
        Some((false, since)) => State::Deferred(Deferral { since, admitted: false }),
        Some((true, _)) => match facts.has_errors(digest) {
            None => State::Unchecked,
            Some(true) => State::Failed(Failure::Refused(refusal(status))),
            Some(false) => State::Waiting(Waiting::Turn),
        },
    }
}

/// Admitted to the target, and not there yet.
fn on_its_way(facts: &Facts<'_>, admitted: &Admitted, view: &View<'_>) -> State {
    if let Some(failure) = facts.has_failed(&admitted.digest, admitted.at.0) {
        return State::Failed(failure);
    }
    if facts.has_errors(&admitted.digest) == Some(true) {
        return State::Failed(Failure::Refused(refusal(facts.status)));
    }
    let until = facts.until(admitted, view.rules);
    match (view.now < until, facts.reachable, view.rules.unreachable) {
        (true, ..) => State::Moving { until },
        (false, Some((false, since)), Unreachable::Defer) => State::Deferred(Deferral { since, admitted: true }),
        (false, Some((false, since)), Unreachable::Fail) => State::Failed(Failure::Unreachable(since)),
        (false, ..) => State::Failed(Failure::Late(view.rules.deadline)),
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
    let is_moved = admitted.map_or(facts.is_at(bad), |a| a.digest == bad);
    if facts.instance.spec.suspend {
        return State::Suspended;
    }
    if let Some(admitted) = admitted.filter(|a| a.rollback && a.digest != bad) {
        let until = facts.until(admitted, view.rules);
        return if facts.is_at(&admitted.digest) {
            facts.settled(view.now)
        } else if let Some(failure) = facts.has_failed(&admitted.digest, admitted.at.0) {
            State::Failed(failure)
        } else if view.now < until {
            State::Moving { until }
        } else if let Some((false, since)) = facts.reachable {
            State::Deferred(Deferral { since, admitted: true })
        } else {
            State::Failed(Failure::Late(view.rules.deadline))
        };
    }
    if !is_moved {
        return State::Excluded(Exclusion::Untouched);
    }
    if let Some(admitted) = admitted {
        let until = facts.until(admitted, view.rules);
        let is_over = facts.is_at(bad) || facts.is_lost() || facts.has_failed(bad, admitted.at.0).is_some();
        if !is_over && view.now < until {
            return State::Moving { until };
        }
    }
    match (way_back(facts.instance, bad), facts.reachable) {
        (None, _) => State::Failed(Failure::NoWayBack),
        (_, Some((false, since))) => State::Deferred(Deferral { since, admitted: false }),
        (Some(_), _) => State::Waiting(Waiting::Turn),
    }
}

/// What was good on a cluster before a digest.
pub fn way_back(instance: &FluxInstance, bad: &str) -> Option<Pinned> {
    let status = instance.status.as_ref()?;
    let held = status.held.as_ref().filter(|h| h.digest == bad).and_then(|h| h.back.as_ref());
    let back = held.filter(|back| back.digest != bad);
    if let Some(back) = back {
        return Some(Pinned { version: back.version.clone(), digest: back.digest.clone() });
    }
    goal::good(status)
        .find(|entry| entry.digest != bad)
        .map(|entry| Pinned { version: entry.version.clone(), digest: entry.digest.clone() })
}

/// Whether nothing has ever been installed by us, and nothing is about to be.
pub(super) fn is_new(instance: &FluxInstance) -> bool {
    let Some(status) = &instance.status else { return true };
    status.admitted.is_none() && status.applied.is_none() && status.attempted.is_none()
}
