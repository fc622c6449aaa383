//! What no plan may do, found from the plan and what it was made from, by other ways than the planner goes. Every test of the
//! planner asks this of every plan.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::SelectorExt;

use super::*;
use crate::api::condition::{REACHABLE, STALLED, find};
use crate::api::{Counts, Outcome, Selector as Range, StageState, Target};

/// A status of ten thousand clusters has to be storable many times over.
const MAX_STATUS: usize = 64 * 1024;

/// What is wrong with a plan.
pub(super) fn lint(input: &Input<'_>, plan: &FleetPlan<'_>) -> Vec<String> {
    let mut lint = Lint { input, plan, rules: Rules::read(&input.fleet.spec).unwrap(), found: Vec::new() };
    for made in &plan.admissions {
        lint.admission(made);
        lint.lost(made);
    }
    lint.concurrency();
    lint.budget();
    lint.counts();
    lint.reasons();
    lint.recheck();
    lint.fixpoint();
    let size = serde_json::to_string(&plan.status).unwrap().len();
    if size > MAX_STATUS {
        lint.say(format!("the status has {size} bytes"));
    }
    lint.found
}

/// Panics with what is wrong.
pub(super) fn check(input: &Input<'_>, plan: &FleetPlan<'_>) {
    let found = lint(input, plan);
    assert!(found.is_empty(), "{}\nstatus: {:#?}", found.join("\n"), plan.status);
}

/// Whether an instance has been admitted to something and may be working on it, as its objects alone tell.
pub(super) fn is_in_flight(
    instance: &FluxInstance,
    deadline: SignedDuration,
    since: Timestamp,
    now: Timestamp,
) -> bool {
    let Some(status) = &instance.status else { return false };
    let Some(admitted) = &status.admitted else { return false };
    let is = |revision: &Option<crate::api::Revision>| revision.as_ref().is_some_and(|r| r.digest == admitted.digest);
    let is_held = status.held.as_ref().is_some_and(|held| held.digest == admitted.digest && held.at.0 >= admitted.at.0);
    let reachable = find(&status.conditions, REACHABLE).filter(|c| c.status == "True");
    let is_stalled = find(&status.conditions, STALLED).is_some_and(|c| c.status == "True");
    let is_refused = status.preflight.as_ref().is_some_and(|p| p.digest == admitted.digest && !p.findings.is_empty());
    let begun = admitted.at.0.max(since);
    let is_there = is(&status.attempted) && is(&status.applied) && is(&status.last_good);
    let is_idle = instance.spec.suspend || is_refused || is_held || is_stalled || is_there;
    // Nobody knows for a minute more whether it is late or gone.
    !is_idle && reachable.is_some() && now < begun.checked_add(deadline).unwrap() + SignedDuration::from_mins(1)
}

struct Lint<'l, 'a> {
    input: &'l Input<'a>,
    plan: &'l FleetPlan<'a>,
    rules: Rules,
    found: Vec<String>,
}

impl Lint<'_, '_> {
    fn say(&mut self, text: impl Into<String>) {
        self.found.push(text.into());
    }

    fn is_through(&self, stage: usize, target: &Target) -> bool {
        self.plan.status.stages[stage].current.as_ref().is_some_and(|current| current.digest == target.digest)
    }

    fn is_empty(&self, stage: usize) -> bool {
        let instances = self.input.instances.iter().filter(|i| i.metadata.deletion_timestamp.is_none());
        let mut labels = instances.map(|instance| instance.metadata.labels.clone().unwrap_or_default());
        !labels.any(|labels| self.rules.selector.matches(&labels) && self.rules.stage_of(&labels) == Some(stage))
    }

    fn admission(&mut self, made: &Move<'_>) {
        let (instance, admitted) = (made.instance, &made.admitted);
        let name = instance.metadata.name.clone().unwrap_or_default();
        let labels = instance.metadata.labels.clone().unwrap_or_default();
        let fleet = self.input.fleet;
        let target = self.plan.status.target.clone().unwrap();
        let stage = self.rules.stage_of(&labels);
        let status = instance.status.clone().unwrap_or_default();
        let mut wrong = |is_wrong: bool, what: &str| {
            if is_wrong {
                self.found.push(format!("{name} is admitted to {}, though {what}", admitted.digest));
            }
        };
        wrong(!self.rules.selector.matches(&labels), "the fleet does not select it");
        wrong(instance.spec.admission != Admission::Fleet, "it admits itself");
        wrong(instance.spec.suspend || instance.metadata.deletion_timestamp.is_some(), "it is suspended or going");
        wrong(fleet.spec.suspend, "the fleet is suspended");
        wrong(stage.is_none(), "it is in no stage");
        wrong(self.input.others.iter().any(|other| other.selector.matches(&labels)), "others select it");
        let reachable = find(&status.conditions, REACHABLE).is_some_and(|c| c.status == "True");
        wrong(!reachable, "it cannot be reached");
        wrong(
            status.admitted.as_ref().is_some_and(|a| a.digest == admitted.digest && a.at.0 >= admitted.at.0),
            "that is no news to it",
        );
        let Some(stage) = stage else { return };
        let held = self.plan.status.held.as_ref();
        if admitted.rollback {
            let good = status.history.iter().any(|h| h.outcome == Outcome::Succeeded && h.digest == admitted.digest);
            let back = status.held.as_ref().and_then(|h| h.back.as_ref()).is_some_and(|b| b.digest == admitted.digest);
            wrong(!good && !back, "that was never good there");
            wrong(!held.is_some_and(|held| held.rollback && held.digest != admitted.digest), "nothing goes back");
            wrong(
                status.admitted.as_ref().is_none_or(|a| Some(&a.digest) != held.map(|h| &h.digest)),
                "it was not moved to what is left",
            );
            return;
        }
        wrong(held.is_some_and(|held| held.digest == admitted.digest), "that is held");
        let runs = [status.applied.as_ref(), status.attempted.as_ref()];
        let parse = |version: &str| semver::Version::parse(version).unwrap();
        let is_older = runs.into_iter().flatten().any(|r| parse(&r.version) > parse(&admitted.version));
        wrong(is_older && !instance.spec.upgrade.allow_downgrade, "it runs something newer");
        let admits = match Range::read(&instance.spec.distribution.version) {
            Some(Range::Digest(wanted)) => wanted == admitted.digest,
            Some(range) => range.admits(&parse(&admitted.version)),
            None => false,
        };
        wrong(!admits, "its own range excludes that");
        if admitted.digest != target.digest {
            let current = self.plan.status.stages[stage].current.as_ref();
            wrong(
                current.is_none_or(|current| current.digest != admitted.digest),
                "that is neither target nor current",
            );
            wrong(!runs.iter().all(Option::is_none) || status.admitted.is_some(), "it is not new");
            return;
        }
        let now = self.plan_time();
        let is_new = runs.iter().all(Option::is_none) && status.admitted.is_none();
        let was_through = self.is_through(stage, &target)
            && (0..stage).all(|stage| self.is_empty(stage) || self.is_through(stage, &target));
        let before: Vec<usize> =
            (0..stage).filter(|stage| !self.is_empty(*stage) && !self.is_through(*stage, &target)).collect();
        let mut wrong = |is_wrong: bool, what: &str| {
            if is_wrong {
                self.found.push(format!("{name} is admitted to {}, though {what}", admitted.digest));
            }
        };
        let joins = is_new
            && self.plan.status.stages[stage].current.as_ref().is_some_and(|current| current.digest == target.digest);
        wrong(!before.is_empty() && !joins, &format!("the stages {before:?} are not through with it"));
        let rules = &self.rules.stages[stage];
        let bound = self.plan.status.approved.as_ref();
        let is_approved = bound.is_some_and(|bound| bound.digest == target.digest);
        wrong(rules.needs_approval && !is_approved && !was_through, "it is not approved");
        let is_emergency = self.plan.status.emergency.as_ref().is_some_and(|e| e.digest == target.digest);
        wrong(!is_emergency && rules.windows.gate(now) != Gate::Open && !joins, "the window is closed");
    }

    /// What was given up before statuses were lost stays so.
    fn lost(&mut self, made: &Move<'_>) {
        let (instance, admitted, fleet) = (made.instance, &made.admitted, self.input.fleet);
        let name = instance.metadata.name.clone().unwrap_or_default();
        let status = instance.status.clone().unwrap_or_default();
        let led: Vec<_> = self
            .input
            .instances
            .iter()
            .filter_map(|i| i.status.as_ref()?.admitted.as_ref())
            .filter(|a| Some(&a.by) == fleet.metadata.name.as_ref())
            .collect();
        let is_first = fleet.status.as_ref().is_none_or(|status| status.target.is_none());
        let is_given_up = led.iter().any(|a| a.from.as_ref() == Some(&admitted.digest));
        let mut wrong = |is_wrong: bool, what: &str| {
            if is_wrong {
                self.found.push(format!("{name} is admitted to {}, though {what}", admitted.digest));
            }
        };
        wrong(is_first && is_given_up, "others were taken back from that, and the status of the fleet was lost");
        let has_lost = status.applied.is_some() && status.history.is_empty() && status.admitted.is_none();
        wrong(
            has_lost && led.is_empty() && self.plan.status.resumed.is_none(),
            "all statuses were lost, and nobody has said to go on",
        );
        wrong(is_first && admitted.rollback, "why it goes back is not known any more");
    }

    fn plan_time(&self) -> Timestamp {
        Timestamp::from_second(self.input.now.as_second()).unwrap()
    }

    fn concurrency(&mut self) {
        let (now, mut all) = (self.plan_time(), 0);
        let since = Timestamp::from_second(self.input.since.as_second()).unwrap();
        let mut admitted_somewhere = false;
        for (place, rules) in self.rules.stages.iter().enumerate() {
            let of_stage = || self.plan.members.iter().filter(|m| m.stage == Some(place) && m.state.is_governed());
            let is_new = |m: &&Member<'_>| self.plan.admissions.iter().any(|a| std::ptr::eq(a.instance, m.instance));
            let admitted = of_stage().filter(|m| is_new(m) && m.state.word() == "Updating").count();
            let others = of_stage().filter(|m| !is_new(m) && is_in_flight(m.instance, rules.deadline, since, now));
            let moving = admitted + others.count();
            all += moving;
            admitted_somewhere |= admitted > 0;
            let limit = rules.slots(of_stage().count());
            if admitted > 0 && moving > limit {
                self.found.push(format!("{moving} of stage {} are on their way, the limit is {limit}", rules.name));
            }
        }
        if admitted_somewhere && all > MAX_IN_FLIGHT {
            self.say(format!("{all} are on their way"));
        }
    }

    /// Nobody moves on while a stage has more failures than it may have.
    fn budget(&mut self) {
        let Some(target) = self.plan.status.target.clone() else { return };
        let is_forward =
            self.plan.admissions.iter().any(|m| m.admitted.digest == target.digest && !m.admitted.rollback);
        let is_complete = (0..self.rules.stages.len()).all(|stage| self.is_through(stage, &target));
        if !is_forward || is_complete {
            return;
        }
        for (place, rules) in self.rules.stages.iter().enumerate() {
            let members = self.plan.members.iter().filter(|m| m.stage == Some(place) && m.state.is_governed());
            let failed = members.clone().filter(|m| m.state.spends() && m.state.word() != "Refused").count();
            let budget = rules.budget(members.count());
            if failed > budget {
                self.found.push(format!("{failed} of stage {} failed, and others are admitted", rules.name));
            }
        }
    }

    fn counts(&mut self) {
        let status = &self.plan.status;
        let governed = |c: &Counts| c.done + c.updating + c.failed + c.deferred + c.waiting + c.left_out;
        let all = |c: &Counts| governed(c) + c.unassigned + c.conflicts + c.ungoverned;
        let mut wrong = Vec::new();
        let selected = self.plan.members.len();
        if usize::try_from(all(&status.counts)).unwrap() != selected || status.counts.total != governed(&status.counts)
        {
            wrong.push(format!("the counts do not add up to {selected}: {:?}", status.counts));
        }
        let of_stages: i64 = status.stages.iter().map(|stage| governed(&stage.counts)).sum();
        if of_stages != status.counts.total {
            wrong.push(format!("the stages have {of_stages} of {}", status.counts.total));
        }
        if status.progress != Some(format!("{}/{}", status.counts.done, status.counts.total)) {
            wrong.push(format!("progress is {:?}", status.progress));
        }
        self.found.extend(wrong);
    }

    fn reasons(&mut self) {
        let status = &self.plan.status;
        let left = self.plan.members.iter().filter(|m| m.state.word() != "Done").count();
        let told = status.not_ready.len() + usize::try_from(status.more).unwrap();
        let is_silent = status.not_ready.iter().any(|n| n.name.is_empty() || n.reason.is_empty() || n.state.is_empty());
        if left != told || is_silent {
            self.say(format!("{left} are not done, {told} are told of"));
        }
    }

    /// Whatever the plan says will happen by itself, it is looked at then.
    fn recheck(&mut self) {
        let now = self.plan_time();
        let mut instants: BTreeMap<Timestamp, String> = BTreeMap::new();
        for member in &self.plan.members {
            let at = match &member.state {
                State::Moving { until } | State::Wavering { until } => Some(*until),
                State::Waiting(Waiting::StageWindow(at) | Waiting::OwnWindow(at)) => *at,
                _ => None,
            };
            instants.extend(at.map(|at| (at, format!("{} {}", member.name, member.state))));
        }
        for stage in self.plan.status.stages.iter().filter(|stage| stage.state == StageState::Soaking) {
            instants.extend(stage.soak_until.as_ref().map(|at| (at.0, format!("{} soaks", stage.name))));
        }
        for (stage, rules) in self.plan.status.stages.iter().zip(&self.rules.stages) {
            let since = stage.preflight_since.as_ref().map(|since| since.0.max(self.input.since));
            let at = since.and_then(|since| since.checked_add(rules.deadline).ok());
            instants.extend(at.map(|at| (at, format!("{} is looked at", stage.name))));
        }
        let next = instants.into_iter().find(|(at, _)| *at > now && *at < Timestamp::MAX);
        if let Some((at, what)) = next
            && self.plan.recheck.is_none_or(|recheck| now.checked_add(recheck).unwrap() > at)
        {
            self.say(format!("{what} until {at}, and nobody looks then"));
        }
    }

    /// The same again, with everything written and read, admits nobody and says the same.
    fn fixpoint(&mut self) {
        let mut fleet = self.input.fleet.clone();
        let stored = serde_json::to_string(&self.plan.status).unwrap();
        fleet.status = Some(serde_json::from_str(&stored).unwrap());
        let mut instances: Vec<FluxInstance> = self.input.instances.iter().map(|i| (*i).clone()).collect();
        for made in &self.plan.admissions {
            let of = |i: &&mut FluxInstance| i.metadata.name == made.instance.metadata.name;
            let instance = instances.iter_mut().find(of).unwrap();
            instance.status.get_or_insert_default().admitted = Some(made.admitted.clone());
        }
        let references: Vec<&FluxInstance> = instances.iter().collect();
        let again = super::plan(&Input { fleet: &fleet, instances: &references, ..*self.input }).unwrap();
        if !again.admissions.is_empty() {
            self.say(format!(
                "planned again, it admits {:?}",
                again.admissions.iter().map(|m| &m.admitted).collect::<Vec<_>>()
            ));
        }
        if Some(&again.status) != fleet.status.as_ref() {
            self.say(format!("planned again, it says {:#?}", again.status));
        }
    }
}
