//! Towards the target, stage by stage.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, State, admits, is_new};
use super::reason::{Failure, Waiting};
use super::window::{Gate, Windows};
use super::{Draft, MAX_IN_FLIGHT, target};
use crate::api::{FleetOnFailure, FleetOutcome, Pinned, StageState, Target};

/// What a stage has to reckon with.
#[derive(Default)]
struct Tally {
    members: usize,
    done: usize,
    moving: usize,
    /// Failed or refused.
    spent: usize,
    refused: usize,
    wavering: usize,
    /// Not known enough of to be admitted.
    unchecked: usize,
    waiting: usize,
    /// The newest instant that is known of its members: a soak cannot have begun before.
    newest: Option<Timestamp>,
}

fn tally(members: &[Member<'_>], stage: usize) -> Tally {
    let mut tally = Tally::default();
    for member in members.iter().filter(|m| m.stage == Some(stage) && !matches!(m.state, State::Ungoverned)) {
        tally.members += 1;
        match &member.state {
            State::Done { reachable } => tally.done += usize::from(*reachable),
            State::Moving { .. } => tally.moving += 1,
            State::Failed(failure) => {
                tally.spent += 1;
                tally.refused += usize::from(matches!(failure, Failure::Refused(_)));
            }
            State::Wavering { .. } => tally.wavering += 1,
            State::Unknown | State::Unchecked => tally.unchecked += 1,
            State::Waiting(_) => tally.waiting += 1,
            State::Deferred(_)
            | State::Excluded(_)
            | State::Suspended
            | State::Skipped
            | State::Conflict(_)
            | State::Ungoverned
            | State::Unassigned => {}
        }
        let admitted = member.instance.status.as_ref().and_then(|s| s.admitted.as_ref());
        tally.newest = tally.newest.max(admitted.map(|a| a.at.0));
    }
    tally
}

/// Admits what may be admitted, and says of each stage where it stands.
pub(super) fn walk<'a>(draft: &mut Draft<'a, '_>, members: &mut [Member<'a>], target: &Target) {
    let stages = draft.rules.stages.len();
    let mut moving = members.iter().filter(|m| matches!(m.state, State::Moving { .. })).count();
    let mut is_turn = true;
    for stage in 0..stages {
        let was_done = is_done(draft, stage, target);
        is_turn = Stage { draft, members, target, stage, moving: &mut moving }.walk(is_turn, was_done);
    }
    if is_turn {
        target::close(&mut draft.status, FleetOutcome::Succeeded, &Time(draft.now));
    }
}

fn is_done(draft: &Draft<'_, '_>, stage: usize, target: &Target) -> bool {
    draft.status.stages[stage].current.as_ref().is_some_and(|current| current.digest == target.digest)
}

/// More failures than a stage may have stop the whole fleet. A stage that has not moved anything yet only does not begin.
pub(super) fn stop_if_over_budget(draft: &mut Draft<'_, '_>, members: &[Member<'_>], target: &Target) {
    let stages = draft.rules.stages.len();
    if draft.status.held.is_some() || (0..stages).all(|stage| is_done(draft, stage, target)) {
        return;
    }
    for stage in 0..stages {
        let tally = tally(members, stage);
        let rules = &draft.rules.stages[stage];
        let budget = rules.budget(tally.members);
        if tally.spent <= budget || tally.spent == tally.refused {
            continue;
        }
        let mut failed = members.iter().filter(|m| m.stage == Some(stage) && matches!(m.state, State::Failed(_)));
        let first = failed.next().map(|m| format!("{} {}", m.name, m.state)).unwrap_or_default();
        let message = format!(
            "{} of {} in stage {} failed, maxFailures is {}: {first}",
            tally.spent, tally.members, rules.name, rules.max_failures
        );
        let rollback = draft.fleet.spec.on_failure == FleetOnFailure::Rollback;
        target::hold(&mut draft.status, draft.fleet, target, message, rollback, &Time(draft.now));
        return;
    }
}

/// One stage of a walk.
struct Stage<'d, 'a, 'r> {
    draft: &'d mut Draft<'a, 'r>,
    members: &'d mut [Member<'a>],
    target: &'d Target,
    stage: usize,
    /// Clusters of the whole fleet that are on their way.
    moving: &'d mut usize,
}

impl<'a> Stage<'_, 'a, '_> {
    /// Whether the stage is done after this.
    fn walk(&mut self, is_turn: bool, was_done: bool) -> bool {
        let before = tally(self.members, self.stage);
        let gate = self.gate(&before, is_turn, was_done);
        self.admit_to_target(gate);
        self.admit_new(was_done);
        let after = tally(self.members, self.stage);
        if was_done {
            self.say(if after.members == 0 { StageState::Empty } else { StageState::Done }, None);
            return is_turn;
        }
        if !is_turn {
            self.say(StageState::Pending, None);
            return false;
        }
        if after.members == 0 {
            self.pass(StageState::Empty);
            return true;
        }
        if after.moving + after.waiting + after.unchecked > 0 {
            self.say_gate(gate, &after);
            return false;
        }
        self.soak(&after, gate)
    }

    /// What stands between the members of the stage that could move, and the target.
    fn gate(&mut self, tally: &Tally, is_turn: bool, was_done: bool) -> Result<(), Waiting> {
        let (status, rules) = (&self.draft.status, &self.draft.rules.stages[self.stage]);
        if self.draft.fleet.spec.suspend {
            return Err(Waiting::Suspended);
        }
        if status.held.is_some() {
            return Err(Waiting::Stopped);
        }
        if !was_done {
            if !is_turn {
                return Err(Waiting::Turn);
            }
            if tally.unchecked > 0 {
                return Err(Waiting::Preflight(tally.unchecked));
            }
            if tally.spent > rules.budget(tally.members) {
                return Err(Waiting::PreflightFailed(tally.refused));
            }
            if rules.needs_approval && !target::is_bound(status.approved.as_ref(), self.target) {
                return Err(Waiting::Approval);
            }
        }
        let closed = self.closed(&rules.windows);
        match closed {
            None => Ok(()),
            Some(opens) => {
                self.draft.wake.extend(opens);
                Err(Waiting::StageWindow(opens))
            }
        }
    }

    fn is_emergency(&self) -> bool {
        target::is_bound(self.draft.status.emergency.as_ref(), self.target)
    }

    /// Whether windows are closed, and until when.
    fn closed(&self, windows: &Windows) -> Option<Option<Timestamp>> {
        match windows.gate(self.draft.now) {
            Gate::Closed(opens) if !self.is_emergency() => Some(opens),
            Gate::Open | Gate::Closed(_) => None,
        }
    }

    /// How many more of this stage may be on their way.
    fn room(&self) -> usize {
        let tally = tally(self.members, self.stage);
        let slots = self.draft.rules.stages[self.stage].slots(tally.members);
        slots.saturating_sub(tally.moving).min(MAX_IN_FLIGHT.saturating_sub(*self.moving))
    }

    fn admit_to_target(&mut self, gate: Result<(), Waiting>) {
        let mut room = self.room();
        let limit = self.draft.rules.stages[self.stage].slots(tally(self.members, self.stage).members);
        let pinned = Pinned { version: self.target.version.clone(), digest: self.target.digest.clone() };
        for place in 0..self.members.len() {
            let member = &self.members[place];
            if member.stage != Some(self.stage) || !matches!(member.state, State::Waiting(_)) {
                continue;
            }
            let waiting =
                gate.err().or_else(|| self.own_window(member)).or((room == 0).then_some(Waiting::Slot(limit)));
            let member = &mut self.members[place];
            match waiting {
                Some(waiting) => member.state = State::Waiting(waiting),
                None => {
                    self.draft.admit(member, &pinned, false);
                    *self.moving += 1;
                    room -= 1;
                }
            }
            if let State::Waiting(Waiting::OwnWindow(Some(opens))) = member.state {
                self.draft.wake.push(opens);
            }
        }
    }

    /// The window of the cluster's owner. One that cannot be read is closed: the instance says why.
    fn own_window(&self, member: &Member<'_>) -> Option<Waiting> {
        let windows = &member.instance.spec.upgrade.windows;
        if windows.is_empty() {
            return None;
        }
        let Ok(windows) = Windows::read(windows, "spec.upgrade") else { return Some(Waiting::OwnWindow(None)) };
        self.closed(&windows).map(Waiting::OwnWindow)
    }

    /// Clusters with nothing installed get what their stage is through with, rather than wait for what it is not.
    fn admit_new(&mut self, was_done: bool) {
        let (status, now) = (&self.draft.status, self.draft.now);
        let Some(current) =
            status.stages[self.stage].current.clone().filter(|_| !was_done && !self.draft.fleet.spec.suspend)
        else {
            return;
        };
        if status.held.as_ref().is_some_and(|held| held.digest == current.digest) {
            return;
        }
        let mut room = self.room();
        for member in self.members.iter_mut().filter(|m| m.stage == Some(self.stage) && is_new(m.instance)) {
            let is_free =
                matches!(member.state, State::Waiting(_) | State::Unchecked | State::Failed(Failure::Refused(_)))
                    || matches!(&member.state, State::Excluded(super::Exclusion::Range(_)));
            let spec = &member.instance.spec;
            let is_open = Windows::read(&spec.upgrade.windows, "").is_ok_and(|windows| windows.gate(now) == Gate::Open);
            if room > 0 && is_free && is_open && admits(&spec.distribution.version, &current.version, &current.digest) {
                self.draft.admit(member, &current, false);
                *self.moving += 1;
                room -= 1;
            }
        }
    }

    fn say(&mut self, state: StageState, message: Option<String>) {
        let stage = &mut self.draft.status.stages[self.stage];
        stage.state = state;
        stage.message = message;
    }

    fn say_gate(&mut self, gate: Result<(), Waiting>, after: &Tally) {
        let rules = &self.draft.rules.stages[self.stage];
        let target = self.target;
        let what = format!("{} ({})", target.version, target.digest);
        let (state, message) = match gate {
            // Clusters finish whatever the gate says by now.
            Err(Waiting::Preflight(count)) => {
                (StageState::Preflight, format!("{count} of {} are being looked at for {what}", after.members))
            }
            Err(Waiting::PreflightFailed(count)) => (
                StageState::PreflightFailed,
                format!(
                    "the preflight for {what} refuses {count} of {}, maxFailures is {}",
                    after.members, rules.max_failures
                ),
            ),
            Err(Waiting::Approval) => (
                StageState::AwaitingApproval,
                format!(
                    "all {} are ready for {what}; `headwater fleet approve {}` lets them go",
                    after.waiting,
                    self.draft.fleet.metadata.name.as_deref().unwrap_or_default()
                ),
            ),
            Err(waiting @ Waiting::StageWindow(_)) if after.moving == 0 => {
                (StageState::AwaitingWindow, format!("{} {waiting}", rules.name))
            }
            _ => (StageState::Updating, format!("{} on their way to {what}, {} wait", after.moving, after.waiting)),
        };
        self.say(state, Some(message));
    }

    /// All that can be are done.
    fn soak(&mut self, tally: &Tally, gate: Result<(), Waiting>) -> bool {
        let rules = &self.draft.rules.stages[self.stage];
        let now = self.draft.now;
        let is_emergency = self.is_emergency();
        if tally.wavering > 0 {
            self.say(StageState::Updating, Some(format!("{} done and unhealthy since", tally.wavering)));
            return false;
        }
        if tally.done == 0 {
            let text = format!("none of {} is on {}, and none can be moved", tally.members, self.target.version);
            self.say(StageState::Blocked, Some(text));
            return false;
        }
        let stage = &mut self.draft.status.stages[self.stage];
        // A clock that was put back must not make a soak begin before what it waits for.
        let begin = now.max(tally.newest.unwrap_or(now)).max(self.target.since.0);
        let since = stage.soak_since.get_or_insert(Time(begin)).0;
        let until = since.checked_add(rules.soak).unwrap_or(Timestamp::MAX);
        stage.soak_until = Some(Time(until));
        let is_stopped = matches!(gate, Err(Waiting::Stopped | Waiting::Suspended));
        if (now < until && !is_emergency) || is_stopped || matches!(gate, Err(Waiting::PreflightFailed(_))) {
            self.draft.wake.push(until);
            self.say(StageState::Soaking, Some(format!("{} done, watched until {until}", tally.done)));
            return false;
        }
        self.pass(StageState::Done);
        true
    }

    fn pass(&mut self, state: StageState) {
        let stage = &mut self.draft.status.stages[self.stage];
        stage.current = Some(Pinned { version: self.target.version.clone(), digest: self.target.digest.clone() });
        self.say(state, None);
    }
}
