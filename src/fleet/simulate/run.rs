//! Plays a rollout: what happens next happens, the planner is asked, and what it says is done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::super::{FleetPlan, Input, Rules, State, plan};
use super::population::{Clusters, Population, populate};
use super::timeline::{Report, Scribe, span};
use super::{Cluster, Fault, Random};
use crate::api::{FluxFleet, FluxInstance, Phase, Pinned};

/// Clusters whose failure is told one by one.
const TOLD: usize = 20;
/// A rollout that takes longer has no end that anybody would wait for.
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Plans of a simulation, so that it ends whatever happens.
const MAX_PLANS: usize = 100_000;

/// What is assumed of the clusters. Probabilities are in a million.
#[derive(Debug, Clone)]
pub struct Assumptions {
    /// Which.
    pub clusters: Clusters,
    /// How many of them fail at the target: go back by themselves, are left broken, take for ever, or fail later.
    pub fail: u32,
    /// How many cannot be reached for some time, from the beginning or in the middle of their change.
    pub unreachable: u32,
    /// Of how many the preflight finds errors.
    pub refuse: u32,
    /// How long a change takes about.
    pub takes: SignedDuration,
    /// How long somebody takes to approve; never, if unset.
    pub approve_after: Option<SignedDuration>,
    /// When it begins.
    pub start: Timestamp,
    /// From which all chance follows.
    pub seed: u64,
}

/// What will happen to a cluster.
struct Fate {
    takes: SignedDuration,
    end: End,
    /// It goes away in the middle of its change, for so long.
    vanishes: Option<SignedDuration>,
    refusal: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum End {
    Well,
    Badly(Fault),
    Never,
    /// Well, and unhealthy after so long.
    Sick(SignedDuration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Looks,
    /// The change that was admitted at that time ends.
    Ends(Timestamp),
    Sickens,
    GoesAway,
    ComesBack,
}

fn fate(random: &mut Random, assumed: &Assumptions) -> Fate {
    let about = assumed.takes.as_secs().max(1);
    let takes = SignedDuration::from_secs(random.between(about / 2, about * 2));
    let end = match (random.happens(assumed.fail), random.between(0, 9)) {
        (false, _) => End::Well,
        (true, 0..=4) => End::Badly(Fault::Back),
        (true, 5) => End::Badly(Fault::Stay),
        (true, 6) => End::Badly(Fault::Stall),
        (true, 7) => End::Never,
        (true, _) => End::Sick(SignedDuration::from_secs(random.between(60, 3600))),
    };
    let (is_away, span) = (random.happens(assumed.unreachable), random.between(600, 12 * 3600));
    let vanishes = is_away.then(|| SignedDuration::from_secs(span));
    Fate { takes, end, vanishes, refusal: random.happens(assumed.refuse).then_some("an error (simulated)") }
}

/// Plays a rollout to its end.
///
/// # Errors
/// The sentence that says what is wrong with the fleet, or with the clusters.
pub fn simulate(fleet: &FluxFleet, assumed: &Assumptions) -> Result<Report, String> {
    let rules = Rules::read(&fleet.spec)?;
    let Population { target, clusters, notes } = populate(fleet, &rules, assumed)?;
    let mut random = Random::new(assumed.seed);
    let fates = clusters.iter().map(|_| fate(&mut random, assumed)).collect();
    let numbers = clusters.iter().enumerate().map(|(number, cluster)| (cluster.instance.name_any(), number)).collect();
    let mut fleet = fleet.clone();
    fleet.status = None;
    fleet.metadata.annotations = None;
    let scribe = Scribe::new(rules.stages.iter().map(|stage| stage.name.as_str()));
    let mut play = Play {
        assumed,
        fleet,
        target,
        clusters,
        numbers,
        fates,
        events: BinaryHeap::new(),
        random,
        now: assumed.start,
        recheck: None,
        approval: None,
        failed: Vec::new(),
        scribe,
    };
    play.begin();
    play.run()?;
    Ok(play.report(notes))
}

struct Play<'p> {
    assumed: &'p Assumptions,
    fleet: FluxFleet,
    target: Pinned,
    clusters: Vec<Cluster>,
    /// The place of each cluster among them, by its name.
    numbers: BTreeMap<String, usize>,
    fates: Vec<Fate>,
    events: BinaryHeap<Reverse<(Timestamp, usize, Event)>>,
    random: Random,
    now: Timestamp,
    recheck: Option<SignedDuration>,
    /// When somebody will approve.
    approval: Option<Timestamp>,
    /// Clusters that have been told to have failed.
    failed: Vec<usize>,
    scribe: Scribe,
}

/// What a plan has decided, without the objects it was made from.
struct Decided {
    admitted: Vec<(usize, crate::api::Admitted)>,
    asked: Vec<usize>,
    failed: Vec<(usize, String)>,
}

impl Play<'_> {
    fn later(&mut self, after: SignedDuration, cluster: usize, event: Event) {
        if let Ok(at) = self.now.checked_add(after) {
            self.events.push(Reverse((at, cluster, event)));
        }
    }

    /// Half of those that will be away are so from the beginning.
    fn begin(&mut self) {
        for number in 0..self.clusters.len() {
            let is_there = !self.clusters[number].is_away;
            if self.fates[number].vanishes.is_some() && self.random.happens(500_000) && is_there {
                let away = self.fates[number].vanishes.take().unwrap_or_default();
                self.clusters[number].is_away = true;
                self.later(away, number, Event::ComesBack);
            }
            self.clusters[number].pass(None, None, self.now);
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..MAX_PLANS {
            self.plan()?;
            let next = self.events.peek().map(|Reverse((at, ..))| *at);
            let woken = self.recheck.and_then(|recheck| self.now.checked_add(recheck).ok());
            let Some(next) = [next, woken, self.approval].into_iter().flatten().min() else { return Ok(()) };
            if next.duration_since(self.assumed.start) > HORIZON {
                return Ok(());
            }
            // What happens within one tick is planned for once, as an operator does with a burst of events.
            let tick = SignedDuration::from_secs(i64::try_from(self.clusters.len() / 500).unwrap_or(0));
            self.now = next.checked_add(tick).unwrap_or(next).max(self.now);
            while let Some(Reverse((at, number, event))) =
                self.events.peek().copied().filter(|Reverse((at, ..))| *at <= self.now)
            {
                self.events.pop();
                self.happen(at, number, event);
            }
            if self.approval.is_some_and(|at| at <= self.now) {
                self.approval = None;
                self.fleet.spec.approved = Some(self.target.digest.clone());
                let counts = self.fleet.status.as_ref().map(|status| status.counts).unwrap_or_default();
                self.scribe.say(self.now, None, "somebody approves".to_owned(), counts);
            }
        }
        Err(format!("the rollout has not ended after {MAX_PLANS} plans, at {}", self.now))
    }

    fn happen(&mut self, at: Timestamp, number: usize, event: Event) {
        let cluster = &mut self.clusters[number];
        match event {
            Event::Looks => cluster.pass(Some(&self.target), self.fates[number].refusal, at),
            Event::GoesAway => {
                cluster.is_away = true;
                cluster.pass(None, None, at);
            }
            Event::ComesBack => {
                cluster.is_away = false;
                cluster.pass(None, None, at);
                let admitted = cluster.instance.status.as_ref().and_then(|s| s.admitted.as_ref()).map(|a| a.at.0);
                if let Some(admitted) = admitted.filter(|_| cluster.is_changing()) {
                    let left = self.fates[number].takes / 2;
                    self.events.push(Reverse((at.checked_add(left).unwrap_or(at), number, Event::Ends(admitted))));
                }
            }
            Event::Sickens => cluster.feel(false, at),
            Event::Ends(of) => {
                let admitted = cluster.instance.status.as_ref().and_then(|s| s.admitted.as_ref());
                if admitted.is_none_or(|admitted| admitted.at.0 != of) {
                    return;
                }
                // A way back ends well.
                let is_target = admitted.is_some_and(|admitted| admitted.digest == self.target.digest);
                match if is_target { self.fates[number].end } else { End::Well } {
                    End::Well => cluster.succeed(at),
                    End::Badly(fault) => cluster.fail(fault, at),
                    End::Never => {}
                    End::Sick(after) => {
                        cluster.succeed(at);
                        self.events.push(Reverse((at.checked_add(after).unwrap_or(at), number, Event::Sickens)));
                    }
                }
            }
        }
    }

    fn plan(&mut self) -> Result<(), String> {
        let instances: Vec<&FluxInstance> = self.clusters.iter().map(|cluster| &cluster.instance).collect();
        let input = Input {
            fleet: &self.fleet,
            resolved: Some(&self.target),
            instances: &instances,
            others: &[],
            now: self.now,
            since: self.assumed.start,
        };
        let plan = plan(&input)?;
        let decided = decided(&plan, &self.numbers, &self.failed);
        let FleetPlan { status, recheck, .. } = plan;
        self.recheck = recheck;
        for (number, why) in decided.failed {
            self.failed.push(number);
            if self.failed.len() <= TOLD {
                self.scribe.say(self.now, None, why, status.counts);
            }
        }
        self.scribe.note(self.now, &status);
        if status.phase == Some(Phase::AwaitingApproval) && self.approval.is_none() {
            self.approval = self.assumed.approve_after.and_then(|after| self.now.checked_add(after).ok());
        }
        self.fleet.status = Some(status);
        for number in decided.asked {
            let preflight = SignedDuration::from_secs(self.random.between(2, 20));
            self.later(preflight, number, Event::Looks);
        }
        for (number, admitted) in decided.admitted {
            let at = admitted.at.0;
            let (takes, vanishes) = (self.fates[number].takes, self.fates[number].vanishes.take());
            self.clusters[number].admit(admitted);
            self.clusters[number].pass(None, None, self.now);
            self.later(takes, number, Event::Ends(at));
            if let Some(away) = vanishes {
                self.later(takes / 2, number, Event::GoesAway);
                self.later(takes / 2 + away, number, Event::ComesBack);
            }
        }
        Ok(())
    }

    fn report(self, notes: Vec<String>) -> Report {
        let status = self.fleet.status.unwrap_or_default();
        let mut notes = notes;
        if self.failed.len() > TOLD {
            notes.push(format!("{} more clusters failed", self.failed.len() - TOLD));
        }
        if status.phase == Some(Phase::AwaitingApproval) {
            notes.push("nobody approves in this simulation; --approve-after 2h does".to_owned());
        }
        Report {
            seed: self.assumed.seed,
            target: self.target.version,
            started: self.assumed.start,
            ended: self.now,
            took: span(self.now.duration_since(self.assumed.start)),
            phase: status.phase.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            counts: status.counts,
            peak: self.scribe.peak,
            stages: self.scribe.stages,
            timeline: self.scribe.entries,
            notes,
        }
    }
}

fn decided(plan: &FleetPlan<'_>, numbers: &BTreeMap<String, usize>, known: &[usize]) -> Decided {
    let number = |name: &str| numbers.get(name).copied();
    let name = |instance: &FluxInstance| number(instance.metadata.name.as_deref().unwrap_or_default());
    let of = |wanted: fn(&State) -> bool| plan.members.iter().filter(move |member| wanted(&member.state));
    Decided {
        admitted: plan
            .admissions
            .iter()
            .filter_map(|made| Some((name(made.instance)?, made.admitted.clone())))
            .collect(),
        asked: of(|state| matches!(state, State::Unchecked)).filter_map(|member| number(member.name)).collect(),
        failed: of(|state| matches!(state, State::Failed(_)))
            .filter_map(|member| Some((number(member.name)?, format!("{} {}", member.name, member.state))))
            .filter(|(number, _)| !known.contains(number))
            .collect(),
    }
}
