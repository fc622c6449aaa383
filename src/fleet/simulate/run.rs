//! Plays a rollout: what happens next happens, the planner is asked, and what it says is done.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::{SignedDuration, Timestamp};
use semver::{Op, Version};
use serde_json::json;

use super::super::{FleetPlan, Input, Rules, State, plan};
use super::labels::labels;
use super::timeline::{Report, Scribe, span};
use super::{Cluster, Fault, Random};
use crate::api::{FluxFleet, FluxInstance, Phase, Pinned, Selector};
use crate::render::digest;

/// Clusters whose failure is told one by one.
const TOLD: usize = 20;
/// A rollout that takes longer has no end that anybody would wait for.
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Plans of a simulation, so that it ends whatever happens.
const MAX_PLANS: usize = 100_000;

/// What is assumed of the clusters. Probabilities are in a million.
#[derive(Debug, Clone)]
pub struct Assumptions {
    /// How many.
    pub clusters: usize,
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

/// The lowest version that a fleet could mean, for the registry is not asked.
fn lowest(wanted: &str) -> Option<Version> {
    match Selector::read(wanted)? {
        Selector::Exact(version) => Some(version),
        Selector::Digest(_) => Some(Version::new(1, 0, 0)),
        selector @ Selector::Range(_) => {
            let Selector::Range(ranges) = &selector else { return None };
            let low = |c: &semver::Comparator| {
                let patch = c.patch.unwrap_or(0) + u64::from(c.op == Op::Greater);
                Version { pre: c.pre.clone(), ..Version::new(c.major, c.minor.unwrap_or(0), patch) }
            };
            ranges.iter().flat_map(|range| &range.comparators).map(low).find(|version| selector.admits(version))
        }
    }
}

/// How many clusters each stage gets: later stages three times as many as those before, up to a point, but each at least one.
fn shares(clusters: usize, stages: &[usize]) -> Vec<usize> {
    let weights: Vec<usize> =
        (0..stages.len()).map(|place| 3_usize.pow(u32::try_from(place.min(3)).unwrap_or(3))).collect();
    let whole: usize = weights.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = weights.iter().map(|weight| (clusters * weight / whole).max(1)).collect();
    let given: usize = shares.iter().sum();
    if let Some(last) = shares.last_mut() {
        *last = (*last + clusters).saturating_sub(given);
    }
    shares
}

/// Plays a rollout to its end.
///
/// # Errors
/// The sentence that says what is wrong with the fleet.
pub fn simulate(fleet: &FluxFleet, assumed: &Assumptions) -> Result<Report, String> {
    let mut notes = Vec::new();
    let rules = Rules::read(&fleet.spec)?;
    let wanted = &fleet.spec.distribution.version;
    let version = lowest(wanted).ok_or_else(|| {
        format!(
            "spec.distribution.version: {wanted:?} must be a version (2.9.4), a range (2.9.x) or a digest (sha256:...)"
        )
    })?;
    let is_digest = wanted.trim().starts_with("sha256:");
    let target = Pinned {
        version: version.to_string(),
        digest: if is_digest { wanted.trim().to_owned() } else { digest(version.to_string().as_bytes()) },
    };
    let before = Pinned { version: "0.0.1".to_owned(), digest: digest(b"before") };
    let found: Vec<_> = (0..rules.stages.len()).map(|stage| labels(&fleet.spec, &rules, stage)).collect();
    for (stage, _) in rules.stages.iter().zip(&found).filter(|(_, labels)| labels.is_none()) {
        notes.push(format!(
            "no cluster can be in stage {}: stages before it, or spec.selector, leave nothing to it",
            stage.name
        ));
    }
    let usable: Vec<usize> = (0..found.len()).filter(|stage| found[*stage].is_some()).collect();
    if assumed.clusters < usable.len() {
        return Err(format!(
            "{} clusters are fewer than the {} stages that need one each",
            assumed.clusters,
            usable.len()
        ));
    }
    let mut clusters = Vec::new();
    for (stage, share) in usable.iter().zip(shares(assumed.clusters, &usable)) {
        for _ in 0..share {
            let name = format!("cluster-{:05}", clusters.len() + 1);
            let instance = json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
                "metadata": {"name": name, "labels": found[*stage]},
                "spec": {"distribution": {"version": wanted}, "admission": "Fleet"},
            });
            let instance: FluxInstance = serde_json::from_value(instance).map_err(|error| error.to_string())?;
            clusters.push(Cluster::new(instance, Some(&before), assumed.start));
        }
    }
    let mut random = Random::new(assumed.seed);
    let fates = clusters.iter().map(|_| fate(&mut random, assumed)).collect();
    let mut fleet = fleet.clone();
    fleet.status = None;
    fleet.metadata.annotations = None;
    let scribe = Scribe::new(rules.stages.iter().map(|stage| stage.name.as_str()));
    let mut play = Play {
        assumed,
        fleet,
        target,
        clusters,
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
            if self.fates[number].vanishes.is_some() && self.random.happens(500_000) {
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
        let decided = decided(&plan, &self.failed);
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

fn decided(plan: &FleetPlan<'_>, known: &[usize]) -> Decided {
    // Names are numbers from one.
    let number = |name: &str| name.rsplit('-').next().and_then(|digits| digits.parse::<usize>().ok()).unwrap_or(1) - 1;
    let name = |instance: &FluxInstance| number(instance.metadata.name.as_deref().unwrap_or_default());
    let of = |wanted: fn(&State) -> bool| plan.members.iter().filter(move |member| wanted(&member.state));
    Decided {
        admitted: plan.admissions.iter().map(|made| (name(made.instance), made.admitted.clone())).collect(),
        asked: of(|state| matches!(state, State::Unchecked)).map(|member| number(member.name)).collect(),
        failed: of(|state| matches!(state, State::Failed(_)))
            .map(|member| (number(member.name), format!("{} {}", member.name, member.state)))
            .filter(|(number, _)| !known.contains(number))
            .collect(),
    }
}
