//! Towards the target, stage by stage.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, State, admits, good_since, is_new};
use super::reason::{Absence, Deferral, Exclusion, Failure, Waiting};
use super::window::{Gate, Windows};
use super::{Draft, MAX_IN_FLIGHT, of_stage, recall, target};
use crate::api::{FleetOnFailure, FleetOutcome, Pinned, StageState, Target, Unreachable};

/// What a stage has to reckon with.
#[derive(Default)]
struct Tally {
    /// Selected by the stage, whatever stands in their way: one with none of these is empty.
    selected: usize,
    /// Governed: what shares are of.
    members: usize,
    done: usize,
    moving: usize,
    /// Failed or refused.
    spent: usize,
    refused: usize,
    /// Moved, and never done.
    broken: usize,
    wavering: usize,
    /// Not known enough of to be admitted.
    unchecked: usize,
    waiting: usize,
    /// When the last one was done: a soak cannot have begun before.
    newest: Option<Timestamp>,
}

/// Of the members of one stage.
fn tally(members: &[Member<'_>]) -> Tally {
    let mut tally = Tally::default();
    for member in members {
        tally.selected += 1;
        tally.members += usize::from(member.state.is_governed());
        let mut is_there = false;
        match &member.state {
            State::Done { reachable } => {
                is_there = true;
                tally.done += usize::from(*reachable);
            }
            State::Moving { .. } => tally.moving += 1,
            State::Failed(failure) => {
                is_there = matches!(failure, Failure::Regressed(_) | Failure::Unhealthy(_));
                let is_refused = matches!(failure, Failure::Refused(_) | Failure::Unlooked(_));
                tally.spent += usize::from(failure.spends());
                tally.refused += usize::from(is_refused);
                tally.broken += usize::from(!is_there && !is_refused);
            }
            State::Wavering { .. } => {
                is_there = true;
                tally.wavering += 1;
            }
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
        if is_there {
            tally.newest = tally.newest.max(good_since(member.instance));
        }
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
        let range = of_stage(members, stage);
        let members = &mut members[range];
        is_turn = Stage { draft, members, target, place: stage, moving: &mut moving }.walk(is_turn, was_done);
    }
    // Stages that are empty prove nothing.
    if is_turn && (0..stages).any(|stage| is_done(draft, stage, target)) {
        target::close(&mut draft.status, FleetOutcome::Succeeded, &Time(draft.now));
    }
}

fn is_done(draft: &Draft<'_, '_>, stage: usize, target: &Target) -> bool {
    draft.status.stages[stage].is_through(&target.digest)
}

/// More failures than a stage may have stop the whole fleet. A stage that has not moved anything yet only does not begin.
pub(super) fn stop_if_over_budget(draft: &mut Draft<'_, '_>, members: &[Member<'_>], target: &Target) {
    let stages = draft.rules.stages.len();
    let is_over = |stage| is_done(draft, stage, target) || members[of_stage(members, stage)].is_empty();
    if draft.status.held.is_some() || (0..stages).all(is_over) {
        return;
    }
    for stage in 0..stages {
        let members_of = &members[of_stage(members, stage)];
        let tally = tally(members_of);
        let rules = &draft.rules.stages[stage];
        let budget = rules.budget(tally.members);
        if tally.spent <= budget || tally.spent == tally.refused {
            continue;
        }
        let mut failed = members_of.iter().filter(|member| member.state.spends());
        let first = failed.next().map(|m| format!("{} {}", m.name, m.state)).unwrap_or_default();
        let message = format!(
            "{} of {} in stage {} failed, maxFailures is {}: {first}",
            tally.spent, tally.members, rules.name, rules.max_failures
        );
        let newest = members.iter().filter_map(|m| m.instance.status.as_ref()?.admitted.as_ref()).map(|a| a.at.0);
        let at = newest.fold(draft.now, Timestamp::max);
        // With a status that was lost, it is not known whether somebody had said to go on all the same.
        let rollback = draft.fleet.spec.on_failure == FleetOnFailure::Rollback && !recall::is_first(draft.fleet);
        target::hold(&mut draft.status, draft.fleet, target, message, rollback, &Time(at));
        return;
    }
}

/// One stage of a walk.
struct Stage<'d, 'a, 'r> {
    draft: &'d mut Draft<'a, 'r>,
    /// Its members.
    members: &'d mut [Member<'a>],
    target: &'d Target,
    /// Its place in the spec.
    place: usize,
    /// Clusters of the whole fleet that are on their way.
    moving: &'d mut usize,
}

impl Stage<'_, '_, '_> {
    /// Whether the stage is done after this.
    fn walk(&mut self, is_turn: bool, was_done: bool) -> bool {
        self.admit_new(was_done && is_turn);
        self.look(is_turn);
        let before = tally(self.members);
        let gate = self.gate(&before, is_turn, was_done);
        self.admit_to_target(gate);
        let after = tally(self.members);
        if was_done {
            self.say(if after.selected == 0 { StageState::Empty } else { StageState::Done }, None);
            return is_turn;
        }
        if !is_turn {
            self.say(StageState::Pending, None);
            return false;
        }
        let is_stopped = matches!(gate, Err(Waiting::Stopped | Waiting::Suspended | Waiting::Unresolved));
        if after.selected == 0 {
            // Let by, and not through: whoever joins is the first to try the target here, and approval is asked for as ever.
            self.say(StageState::Empty, None);
            return true;
        }
        if after.moving + after.waiting + after.unchecked > 0 || matches!(gate, Err(Waiting::PreflightFailed(_))) {
            self.say_gate(gate, &after);
            return false;
        }
        self.soak(&after, gate.err().filter(|_| is_stopped))
    }

    /// Clusters that have not been looked at for the target have the time of a change for it, together. After that they count as ones that
    /// cannot be reached: nothing is known of them, and a stage must not wait for ever.
    fn look(&mut self, is_turn: bool) {
        let is_asked = is_turn && self.draft.status.held.is_none();
        let said = &mut self.draft.status.stages[self.place].preflight_since;
        let is_unlooked = |member: &&mut Member<'_>| matches!(member.state, State::Unknown | State::Unchecked);
        let mut unlooked = self.members.iter_mut().filter(is_unlooked).peekable();
        if !is_asked || unlooked.peek().is_none() {
            *said = None;
            return;
        }
        let since = said.get_or_insert(Time(self.draft.now)).0.max(self.draft.since);
        let rules = &self.draft.rules.stages[self.place];
        let until = since.checked_add(rules.deadline).unwrap_or(Timestamp::MAX);
        if self.draft.now < until {
            self.draft.wake.push(until);
            return;
        }
        for member in unlooked {
            member.state = match rules.unreachable {
                Unreachable::Defer => State::Deferred(Deferral { since, why: Absence::Unlooked }),
                Unreachable::Fail => State::Failed(Failure::Unlooked(rules.deadline)),
            };
        }
    }

    /// What stands between the members of the stage that could move, and the target.
    fn gate(&mut self, tally: &Tally, is_turn: bool, was_done: bool) -> Result<(), Waiting> {
        let (status, rules) = (&self.draft.status, &self.draft.rules.stages[self.place]);
        if self.draft.fleet.spec.suspend {
            return Err(Waiting::Suspended);
        }
        if !self.draft.is_wanted {
            return Err(Waiting::Unresolved);
        }
        if status.held.is_some() {
            return Err(Waiting::Stopped);
        }
        if !is_turn {
            return Err(Waiting::Turn);
        }
        if was_done {
            if tally.broken > rules.budget(tally.members) {
                return Err(Waiting::OverBudget(tally.broken));
            }
        } else {
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
        self.open(&rules.windows).map_err(|opens| {
            self.draft.wake.extend(opens);
            Waiting::StageWindow(opens)
        })
    }

    fn is_emergency(&self) -> bool {
        target::is_bound(self.draft.status.emergency.as_ref(), self.target)
    }

    /// Whether windows are open; else when they will be, if that is in sight.
    fn open(&self, windows: &Windows) -> Result<(), Option<Timestamp>> {
        match windows.gate(self.draft.now) {
            Gate::Closed(opens) if !self.is_emergency() => Err(opens),
            Gate::Open | Gate::Closed(_) => Ok(()),
        }
    }

    /// How many of this stage may be on their way at once, and how many more may now.
    fn places(&self) -> (usize, usize) {
        let tally = tally(self.members);
        let limit = self.draft.rules.stages[self.place].slots(tally.members);
        (limit, limit.saturating_sub(tally.moving).min(MAX_IN_FLIGHT.saturating_sub(*self.moving)))
    }

    fn admit_to_target(&mut self, gate: Result<(), Waiting>) {
        let (limit, mut room) = self.places();
        let pinned = Pinned::of(&self.target.version, &self.target.digest);
        for place in 0..self.members.len() {
            let member = &mut self.members[place];
            if member.state == State::Unchecked {
                // Nobody looks at what has not its turn.
                if let Err(waiting @ (Waiting::Turn | Waiting::Stopped)) = gate {
                    member.state = State::Waiting(waiting);
                }
            }
            let member = &self.members[place];
            if !matches!(member.state, State::Waiting(_)) {
                continue;
            }
            let waiting =
                gate.err().or_else(|| self.own_window(member)).or((room == 0).then_some(Waiting::Slot(limit)));
            let member = &mut self.members[place];
            if let Some(waiting) = waiting {
                member.state = State::Waiting(waiting);
            } else {
                let places = usize::from(self.draft.admit(member, &pinned, None));
                *self.moving += places;
                room -= places;
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
        self.open(&windows).err().map(Waiting::OwnWindow)
    }

    /// Clusters with nothing installed get what their stage is through with, rather than wait for what it is not. Where that is the
    /// target, they are as all others.
    fn admit_new(&mut self, is_at_target: bool) {
        let (status, now) = (&self.draft.status, self.draft.now);
        let current = status.stages[self.place].current.clone();
        let current = current.filter(|_| !is_at_target && !self.draft.fleet.spec.suspend);
        let is_held = |digest: &str| status.held.as_ref().is_some_and(|held| held.digest == digest);
        let Some(current) = current.filter(|current| !is_held(&current.digest)) else { return };
        let (_, mut room) = self.places();
        for member in self.members.iter_mut().filter(|member| is_new(member.instance)) {
            let is_free = matches!(
                &member.state,
                State::Waiting(_)
                    | State::Unchecked
                    | State::Failed(Failure::Refused(_))
                    | State::Excluded(Exclusion::Range(_))
            );
            let spec = &member.instance.spec;
            if !is_free || !admits(&spec.distribution.version, &current.version, &current.digest) {
                continue;
            }
            match Windows::read(&spec.upgrade.windows, "spec.upgrade").map(|windows| windows.gate(now)) {
                Ok(Gate::Open) if room > 0 => {
                    let places = usize::from(self.draft.admit(member, &current, None));
                    *self.moving += places;
                    room -= places;
                }
                Ok(Gate::Closed(opens)) => self.draft.wake.extend(opens),
                Ok(Gate::Open) | Err(_) => {}
            }
        }
    }

    fn say(&mut self, state: StageState, message: Option<String>) {
        let said = &mut self.draft.status.stages[self.place];
        said.state = state;
        said.message = message;
    }

    fn say_gate(&mut self, gate: Result<(), Waiting>, after: &Tally) {
        let rules = &self.draft.rules.stages[self.place];
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
            Err(Waiting::Approval) => {
                let name = self.draft.fleet.metadata.name.as_deref().unwrap_or_default();
                let lost = self.draft.status.approved.as_ref().filter(|approved| approved.means_nothing());
                let lost = lost.map_or_else(String::new, |approved| {
                    format!("; the approval of {} was said before the status of this fleet was lost", approved.word)
                });
                let how = format!("`headwater fleet approve {name}` lets them go{lost}");
                (StageState::AwaitingApproval, format!("all {} are ready for {what}; {how}", after.waiting))
            }
            Err(waiting @ Waiting::StageWindow(_)) if after.moving == 0 => {
                (StageState::AwaitingWindow, format!("{} {waiting}", rules.name))
            }
            Err(waiting @ (Waiting::Stopped | Waiting::Suspended | Waiting::Unresolved)) if after.moving == 0 => {
                let rest = after.waiting + after.unchecked;
                (StageState::Stopped, format!("{} done, {rest} left, which {waiting}", after.done))
            }
            _ => (StageState::Updating, format!("{} on their way to {what}, {} wait", after.moving, after.waiting)),
        };
        self.say(state, Some(message));
    }

    /// All that can be are done.
    fn soak(&mut self, tally: &Tally, stopped: Option<Waiting>) -> bool {
        let rules = &self.draft.rules.stages[self.place];
        let now = self.draft.now;
        let is_emergency = self.is_emergency();
        if tally.wavering > 0 {
            self.say(StageState::Updating, Some(format!("{} done and unhealthy since", tally.wavering)));
            return false;
        }
        if tally.done == 0 {
            let version = &self.target.version;
            let text = if tally.members == 0 {
                format!(
                    "{} instances are in it, and none that this fleet governs, so that nobody tries {version}: set spec.admission: \
                     Fleet on them, or take the stage out of the fleet",
                    tally.selected
                )
            } else {
                format!("none of {} is on {version}, and none can be moved", tally.members)
            };
            self.say(StageState::Blocked, Some(text));
            return false;
        }
        let said = &mut self.draft.status.stages[self.place];
        // What came late is watched as long. A clock that was put back must not make a soak begin before what it waits for.
        let begin = said.soak_since.as_ref().map_or(now, |since| since.0);
        let since = begin.max(tally.newest.unwrap_or(begin)).max(self.target.since.0);
        let until = since.checked_add(rules.soak).unwrap_or(Timestamp::MAX);
        said.soak_since = Some(Time(since));
        said.soak_until = Some(Time(until));
        if let Some(stopped) = stopped {
            self.say(StageState::Stopped, Some(format!("{} done; the stage {stopped}", tally.done)));
            return false;
        }
        if now < until && !is_emergency {
            self.draft.wake.push(until);
            self.say(StageState::Soaking, Some(format!("{} done, watched until {until}", tally.done)));
            return false;
        }
        let said = &mut self.draft.status.stages[self.place];
        said.current = Some(Pinned::of(&self.target.version, &self.target.digest));
        self.say(StageState::Done, None);
        true
    }
}
