//! When clusters may move. [`plan`] looks at a fleet, its instances and the time, and says which instances are admitted now, what the
//! fleet's status is, and when to look again. Pure: no client, no clock; the same input gives the same plan.
//!
//! Nothing is remembered but what is in the objects: the state of a cluster follows from its instance ([`member`]), the stages that
//! are done and the instants of soaks are in the fleet's status. Losing that status makes it wait longer, or stop ([`recall`]).

mod admission;
#[cfg(test)]
mod answers;
mod asked;
mod back;
mod discover;
mod forward;
#[cfg(test)]
mod lint;
mod member;
mod policy;
#[cfg(test)]
mod properties;
mod reason;
mod recall;
mod report;
pub mod simulate;
mod target;
#[cfg(test)]
mod tests;
mod window;
#[cfg(test)]
mod world;

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{Selector, SelectorExt};

pub use self::admission::{Allowed, allowed};
pub use self::asked::{Question, asked, selecting};
pub use self::discover::{Change, Discovery, Problem, Source, discover};
pub use self::member::{Member, State, way_back};
pub use self::policy::{MAX_IN_FLIGHT, Rules, StageRules};
pub use self::reason::{Absence, Deferral, Exclusion, Failure, Waiting};
pub use self::window::{Gate, Windows};
use crate::api::{Admission, Admitted, FleetHeld, FluxFleet, FluxFleetStatus, FluxInstance, Pinned};
use member::{Aim, Versions, View};

/// What a plan is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The fleet, with the status it has.
    pub fleet: &'a FluxFleet,
    /// What its version means now; `None` while that cannot be found out: the recorded target stays.
    pub resolved: Option<&'a Pinned>,
    /// All instances of its namespace.
    pub instances: &'a [&'a FluxInstance],
    /// The other fleets of its namespace.
    pub others: &'a [Other],
    /// Now.
    pub now: Timestamp,
    /// Since when this process looks at the instances: time in which nobody does is nobody's delay.
    pub since: Timestamp,
}

/// Another fleet of the same namespace.
pub struct Other {
    /// Its name.
    pub name: String,
    /// What it selects.
    pub selector: Selector,
}

/// What is to be done now.
pub struct FleetPlan<'a> {
    /// Instances to admit, in order. The status is to be written first: it holds why.
    pub admissions: Vec<Move<'a>>,
    /// The status of the fleet, as it is when all admissions are written.
    pub status: FluxFleetStatus,
    /// When to look again, whatever happens.
    pub recheck: Option<SignedDuration>,
    /// What each instance that the fleet selects is to it, by name.
    pub members: Vec<Member<'a>>,
}

impl FleetPlan<'_> {
    /// Since when the cluster that is deferred longest cannot be reached.
    pub fn oldest_deferred(&self) -> Option<Timestamp> {
        let since = |member: &Member<'_>| match &member.state {
            State::Deferred(deferral) => Some(deferral.since),
            _ => None,
        };
        self.members.iter().filter_map(since).min()
    }
}

/// One admission.
#[derive(Debug, Clone, PartialEq)]
pub struct Move<'a> {
    /// The instance, as it was when this was decided: its `resourceVersion` is the precondition of the write.
    pub instance: &'a FluxInstance,
    /// What its `status.admitted` becomes.
    pub admitted: Admitted,
}

/// Plans.
///
/// # Errors
/// The sentence that says what is wrong with the spec. Nothing moves then.
pub fn plan<'a>(input: &Input<'a>) -> Result<FleetPlan<'a>, String> {
    let rules = Rules::read(&input.fleet.spec)?;
    // Stored times have whole seconds; what is decided must not depend on whether a time was stored yet.
    let now = Time(Timestamp::from_second(input.now.as_second()).unwrap_or(input.now));
    let status = target::begin(input, &now);
    let since = Timestamp::from_second(input.since.as_second()).unwrap_or(input.since);
    let mut draft = Draft {
        fleet: input.fleet,
        rules: &rules,
        status,
        now: now.0,
        since,
        is_wanted: input.resolved.is_some(),
        admissions: Vec::new(),
        wake: Vec::new(),
    };
    draft.stages();
    let Some(target) = draft.status.target.clone() else {
        return Ok(draft.finish(Vec::new()));
    };
    draft.is_wanted |= member::admits(&input.fleet.spec.distribution.version, &target.version, &target.digest);
    let is_back = |draft: &Draft<'_, '_>| draft.status.held.clone().filter(|held| held.rollback);
    let mut members = Vec::new();
    if is_back(&draft).is_none() {
        members = draft.members(input, Aim::Forward(&target));
        recall::stop_if_nothing_is_known(&mut draft, input, &members, &target);
        forward::stop_if_over_budget(&mut draft, &members, &target);
    }
    match is_back(&draft) {
        Some(held) => {
            members = draft.members(input, Aim::Back(&held));
            back::walk(&mut draft, &mut members, &held);
        }
        None => forward::walk(&mut draft, &mut members, &target),
    }
    Ok(draft.finish(members))
}

/// A plan in the making.
struct Draft<'a, 'r> {
    fleet: &'a FluxFleet,
    rules: &'r Rules,
    status: FluxFleetStatus,
    now: Timestamp,
    /// Since when instances are looked at.
    since: Timestamp,
    /// The recorded target is what the spec asks for, as far as is known.
    is_wanted: bool,
    admissions: Vec<Move<'a>>,
    /// Instants at which something changes by itself.
    wake: Vec<Timestamp>,
}

impl<'a> Draft<'a, '_> {
    /// One status for each stage of the spec, in its order, with what is remembered under its name.
    fn stages(&mut self) {
        let mut known: BTreeMap<String, _> =
            std::mem::take(&mut self.status.stages).into_iter().map(|s| (s.name.clone(), s)).collect();
        self.status.stages = self
            .rules
            .stages
            .iter()
            .map(|rules| {
                let mut stage = known.remove(&rules.name).unwrap_or_default();
                stage.name.clone_from(&rules.name);
                stage
            })
            .collect();
    }

    fn view<'v>(&self, rules: &'v StageRules) -> View<'v> {
        let resumed = self.status.resumed.as_ref().map(|time| time.0);
        View { rules, resumed, since: self.since, now: self.now }
    }

    /// Those of no stage first, then stage by stage, by name.
    fn members(&self, input: &Input<'a>, aim: Aim<'_>) -> Vec<Member<'a>> {
        let nothing = BTreeMap::new();
        let mut versions = Versions::default();
        let mut members: Vec<Member<'a>> = input
            .instances
            .iter()
            .filter(|instance| instance.metadata.deletion_timestamp.is_none())
            .filter_map(|instance| {
                let instance: &'a FluxInstance = instance;
                let labels = instance.metadata.labels.as_ref().unwrap_or(&nothing);
                if !self.rules.selector.matches(labels) {
                    return None;
                }
                let place = self.rules.stage_of(labels);
                let others = input.others.iter().filter(|other| other.selector.matches(labels));
                let others: Vec<String> = others.map(|other| other.name.clone()).collect();
                let state = match place {
                    _ if instance.spec.admission == Admission::Own => State::Ungoverned,
                    _ if !others.is_empty() => State::Conflict(others),
                    None => State::Unassigned,
                    Some(place) => member::state(instance, aim, &self.view(&self.rules.stages[place]), &mut versions),
                };
                Some(Member {
                    instance,
                    name: instance.metadata.name.as_deref().unwrap_or_default(),
                    stage: place,
                    state,
                })
            })
            .collect();
        members.sort_unstable_by_key(|member| (member.stage, member.name));
        members
    }

    /// Admits one, on its way back from what is held or forward. Whether it is on its way from now on; else it is there already.
    fn admit(&mut self, member: &mut Member<'a>, to: &Pinned, from: Option<&FleetHeld>) -> bool {
        let at = self.instant(member);
        let by = self.fleet.metadata.name.clone().unwrap_or_default();
        let (version, digest) = (to.version.clone(), to.digest.clone());
        let from = from.map(|held| held.digest.clone());
        let admitted = Admitted { version, digest, by, at: Time(at), rollback: from.is_some(), from };
        if let Some(stage) = member.stage {
            member.state = member::admitted(member.instance, &admitted, &self.view(&self.rules.stages[stage]));
        }
        self.admissions.push(Move { instance: member.instance, admitted });
        matches!(member.state, State::Moving { .. })
    }

    /// Now, but, whatever a clock says, later than what this admission is to be later than: the word that lets it be tried again, the try
    /// before and how that ended; and not before what it follows from.
    fn instant(&self, member: &Member<'a>) -> Timestamp {
        let status = member.instance.status.as_ref();
        let (before, held) = (status.and_then(|s| s.admitted.as_ref()), status.and_then(|s| s.held.as_ref()));
        let after = [self.status.resumed.as_ref(), before.map(|a| &a.at), held.map(|h| &h.at)];
        let after =
            after.into_iter().flatten().filter_map(|time| time.0.checked_add(SignedDuration::from_secs(1)).ok());
        let not_before = [self.status.target.as_ref().map(|t| &t.since), self.status.held.as_ref().map(|h| &h.at)];
        after.chain(not_before.into_iter().flatten().map(|time| time.0)).fold(self.now, Timestamp::max)
    }

    fn finish(mut self, mut members: Vec<Member<'a>>) -> FleetPlan<'a> {
        for member in &members {
            if let State::Moving { until } | State::Wavering { until } = member.state {
                self.wake.push(until);
            }
        }
        report::report(&mut self, &members);
        members.sort_unstable_by_key(|member| member.name);
        let next = self.wake.iter().filter(|at| **at > self.now && **at < Timestamp::MAX).min();
        let recheck = next.map(|at| at.duration_since(self.now));
        FleetPlan { admissions: self.admissions, status: self.status, recheck, members }
    }
}

/// Where the members of a stage are among all.
fn of_stage(members: &[Member<'_>], stage: usize) -> Range<usize> {
    let place = |stage: usize| members.partition_point(|member| member.stage < Some(stage));
    place(stage)..place(stage + 1)
}
