//! Test code: may read files.
//! What holds for every fleet, whatever happens to it: histories of failures, lost writes, stale reads, restarts, clocks that are put
//! back, and people who change their minds, played against made-up clusters. `PROPTEST_CASES=20000` plays more of them.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::lint;
use super::simulate::{Cluster, Fault};
use super::*;
use crate::api::{FleetOnFailure, FluxFleetSpec, Phase, RETRY, ROLLBACK, SKIP, StageState};

/// Histories without `PROPTEST_CASES`.
const CASES: u32 = 128;

/// Something that happens. Clusters are named by a number, which is taken modulo how many there are.
#[derive(Debug, Clone)]
enum Event {
    Passes(u32),
    ClockBack(u32),
    Looks(usize),
    Succeeds(usize),
    AllSucceed,
    Fails(usize, Fault),
    Feels(usize, bool),
    GoesAway(usize),
    ComesBack(usize),
    IsRefused(usize, bool),
    MovesTo(usize, usize),
    Joins(usize),
    Leaves(usize),
    IsSuspended(usize, bool),
    IsSkipped(usize, bool),
    Target(usize),
    Approve(Option<usize>),
    Emergency(Option<usize>),
    SuspendFleet(bool),
    Stages(usize),
    Retry,
    Rollback,
    Restart,
    /// The fleet's status is lost.
    Forgets,
    /// All statuses are lost.
    AllForget,
}

/// How a plan is made and carried out.
#[derive(Debug, Clone)]
struct Weather {
    /// How many writes old what is read may be.
    lag: usize,
    /// How many admissions are written before the operator is killed; nothing means all.
    killed_after: Option<usize>,
    /// The status is not written, so that nothing else is.
    is_status_lost: bool,
}

const RINGS: [&str; 4] = ["canary", "early", "late", "nowhere"];

fn targets() -> [Pinned; 3] {
    [("2.8.8", "sha256:a"), ("2.9.4", "sha256:b"), ("2.9.5", "sha256:c")]
        .map(|(version, digest)| Pinned { version: version.to_owned(), digest: digest.to_owned() })
}

/// Stages of different kinds; the edits of a spec go from one to the other.
fn stages(kind: usize) -> serde_json::Value {
    let ring = |name: &str| json!({"matchLabels": {"ring": name}});
    match kind % 5 {
        0 => json!([
            {"name": "canary", "selector": ring("canary"), "soak": "90s"},
            {"name": "early", "selector": ring("early"), "concurrency": 2, "maxFailures": 1, "approval": "Required"},
            {"name": "late", "selector": ring("late"), "concurrency": "50%", "maxFailures": "20%", "unreachable": "Fail"},
        ]),
        1 => json!([{"name": "all", "concurrency": 3, "maxFailures": 1, "soak": "5m"}]),
        2 => json!([
            {"name": "early", "selector": ring("early"), "soak": "1.5s"},
            {"name": "canary", "selector": ring("canary"), "concurrency": "100%", "progressDeadline": "60s"},
            {"name": "rest", "windows": [{"cron": "0 * * * *", "duration": "20m"}, {"kind": "Deny", "cron": "10 * * * *", "duration": "1m"}]},
        ]),
        3 => json!([
            {"name": "canary", "selector": ring("canary"), "soak": "1h", "maxFailures": 2, "approval": "Required"},
            {"name": "late", "selector": ring("late")},
            {"name": "rest", "concurrency": 1, "soak": "60s"},
        ]),
        _ => json!([
            {"name": "none", "selector": ring("none")},
            {"name": "canary", "selector": ring("canary")},
            {"name": "early", "selector": ring("early"), "soak": "30s", "unreachable": "Fail", "maxFailures": 1},
            {"name": "late", "selector": ring("late"), "concurrency": 2, "windows": [{"cron": "30 * * * *", "duration": "10m"}]},
        ]),
    }
}

struct Tracked {
    cluster: Cluster,
    refusal: Option<&'static str>,
    /// What was written, oldest first.
    versions: Vec<FluxInstance>,
    /// The planner has the answer to its own write, and reads nothing older.
    floor: usize,
    /// When a change ended well, in true time, and to what.
    done: Option<(Timestamp, String)>,
}

impl Tracked {
    fn new(name: &str, ring: &str, running: Option<&Pinned>, now: Timestamp) -> Self {
        let instance: FluxInstance = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 1, "labels": {"ring": ring}},
            "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
        }))
        .unwrap();
        let cluster = Cluster::new(instance, running, now);
        let versions = vec![cluster.instance.clone()];
        Self { cluster, refusal: None, versions, floor: 0, done: None }
    }

    fn name(&self) -> &str {
        self.cluster.instance.metadata.name.as_deref().unwrap()
    }

    fn written(&mut self) {
        if self.versions.last() != Some(&self.cluster.instance) {
            self.versions.push(self.cluster.instance.clone());
        }
    }

    fn changed(&mut self) {
        *self.cluster.instance.metadata.generation.as_mut().unwrap() += 1;
    }

    fn read(&self, lag: usize) -> usize {
        (self.versions.len() - 1).saturating_sub(lag).max(self.floor)
    }
}

struct World {
    fleet: FluxFleet,
    clusters: Vec<Tracked>,
    targets: [Pinned; 3],
    target: usize,
    /// True time, and how far the clock is behind it.
    truth: Timestamp,
    behind: SignedDuration,
    since: Timestamp,
    names: usize,
    words: usize,
    recheck: Option<SignedDuration>,
}

impl World {
    fn new(kind: usize, on_failure: FleetOnFailure, clusters: &[(usize, bool)]) -> Self {
        let truth = Timestamp::from_second(1_800_000_000).unwrap();
        let mut fleet: FluxFleet = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
            "metadata": {"name": "prod", "namespace": "n", "generation": 1},
            "spec": {"selector": {}, "distribution": {"version": "2.x"}, "stages": stages(kind)},
        }))
        .unwrap();
        fleet.spec.on_failure = on_failure;
        let mut world = Self {
            fleet,
            clusters: Vec::new(),
            targets: targets(),
            target: 1,
            truth,
            behind: SignedDuration::ZERO,
            since: truth,
            names: 0,
            words: 0,
            recheck: None,
        };
        for (ring, is_new) in clusters {
            world.join(*ring, *is_new);
        }
        world
    }

    fn now(&self) -> Timestamp {
        self.truth.checked_sub(self.behind).unwrap()
    }

    fn join(&mut self, ring: usize, is_new: bool) {
        self.names += 1;
        let running = (!is_new).then(|| self.targets[0].clone());
        let name = format!("c{:03}", self.names);
        let now = self.now();
        self.clusters.push(Tracked::new(&name, RINGS[ring % RINGS.len()], running.as_ref(), now));
    }

    fn edit(&mut self, edit: impl FnOnce(&mut FluxFleetSpec)) {
        edit(&mut self.fleet.spec);
        *self.fleet.metadata.generation.as_mut().unwrap() += 1;
    }

    fn say(&mut self, word: &str) {
        self.words += 1;
        let words = self.fleet.metadata.annotations.get_or_insert_default();
        words.insert(word.to_owned(), self.words.to_string());
    }

    fn with(&mut self, number: usize, act: impl FnOnce(&mut Tracked, Timestamp)) {
        let (count, now) = (self.clusters.len(), self.now());
        if count > 0 {
            let tracked = &mut self.clusters[number % count];
            act(tracked, now);
            tracked.written();
        }
    }

    fn look(&mut self, number: usize) {
        let fleet = self.fleet.clone();
        self.with(number, |tracked, now| {
            let asked = asked(&tracked.cluster.instance, &fleet);
            tracked.cluster.pass(asked.as_ref(), tracked.refusal, now);
        });
    }

    fn succeed(&mut self, number: usize) {
        let truth = self.truth;
        self.with(number, |tracked, now| {
            if tracked.cluster.is_changing() {
                tracked.cluster.succeed(now);
                let good = tracked.cluster.instance.status.as_ref().unwrap().last_good.as_ref().unwrap();
                tracked.done = Some((truth, good.digest.clone()));
            }
        });
    }

    fn happen(&mut self, event: &Event) {
        match event.clone() {
            Event::Passes(seconds) => self.truth += SignedDuration::from_secs(seconds.into()),
            Event::ClockBack(seconds) => self.behind += SignedDuration::from_secs(seconds.into()),
            Event::Looks(number) => self.look(number),
            Event::Succeeds(number) => self.succeed(number),
            Event::AllSucceed => {
                for number in 0..self.clusters.len() {
                    self.look(number);
                    self.succeed(number);
                }
            }
            Event::Fails(number, fault) => self.with(number, |tracked, now| tracked.cluster.fail(fault, now)),
            Event::Feels(number, is_well) => self.with(number, |tracked, now| tracked.cluster.feel(is_well, now)),
            Event::GoesAway(number) => {
                self.with(number, |tracked, _| tracked.cluster.is_away = true);
                self.look(number);
            }
            Event::ComesBack(number) => {
                self.with(number, |tracked, _| tracked.cluster.is_away = false);
                self.look(number);
            }
            Event::IsRefused(number, yes) => self.with(number, |t, _| t.refusal = yes.then_some("an error")),
            Event::MovesTo(number, ring) => self.with(number, |tracked, _| {
                let ring = RINGS[ring % RINGS.len()].to_owned();
                tracked.cluster.instance.metadata.labels = Some([("ring".to_owned(), ring)].into());
            }),
            Event::Joins(ring) => self.join(ring, true),
            Event::Leaves(number) => {
                if self.clusters.len() > 1 {
                    self.clusters.remove(number % self.clusters.len());
                }
            }
            Event::IsSuspended(number, yes) => self.with(number, |tracked, _| {
                tracked.cluster.instance.spec.suspend = yes;
                tracked.changed();
            }),
            Event::IsSkipped(number, yes) => {
                let digest = self.targets[self.target].digest.clone();
                self.with(number, |tracked, _| {
                    let words = tracked.cluster.instance.metadata.annotations.get_or_insert_default();
                    words.remove(SKIP);
                    words.extend(yes.then(|| (SKIP.to_owned(), digest)));
                });
            }
            Event::Target(number) => self.target = number % 3,
            Event::Approve(word) => {
                let word = word.map(|number| self.targets[number % 3].version.clone());
                self.edit(|spec| spec.approved = word);
            }
            Event::Emergency(word) => {
                let word = word.map(|number| self.targets[number % 3].digest.clone());
                self.edit(|spec| spec.emergency = word);
            }
            Event::SuspendFleet(yes) => self.edit(|spec| spec.suspend = yes),
            Event::Stages(kind) => self.edit(|spec| spec.stages = serde_json::from_value(stages(kind)).unwrap()),
            Event::Retry => self.say(RETRY),
            Event::Rollback => self.say(ROLLBACK),
            Event::Forgets => self.fleet.status = None,
            Event::AllForget => {
                self.fleet.status = None;
                for number in 0..self.clusters.len() {
                    self.with(number, |tracked, now| tracked.cluster.forget(now));
                }
                self.happen(&Event::Restart);
            }
            Event::Restart => {
                self.since = self.now();
                for tracked in &mut self.clusters {
                    tracked.floor = tracked.versions.len() - 1;
                }
            }
        }
    }

    /// A plan is made from what can be read, and as much of it written as the weather lets.
    fn plan(&mut self, weather: &Weather) {
        let read: Vec<usize> = self.clusters.iter().map(|tracked| tracked.read(weather.lag)).collect();
        let seen: Vec<FluxInstance> =
            self.clusters.iter().zip(&read).map(|(tracked, version)| tracked.versions[*version].clone()).collect();
        let instances: Vec<&FluxInstance> = seen.iter().collect();
        let fleet = self.fleet.clone();
        let resolved = self.targets[self.target].clone();
        let input = Input {
            fleet: &fleet,
            resolved: Some(&resolved),
            instances: &instances,
            others: &[],
            now: self.now(),
            since: self.since,
        };
        let plan = plan(&input).unwrap();
        lint::check(&input, &plan);
        if weather.is_status_lost {
            return;
        }
        self.passed(&plan.status);
        let stored = serde_json::to_string(&plan.status).unwrap();
        self.fleet.status = Some(serde_json::from_str(&stored).unwrap());
        self.recheck = plan.recheck;
        for made in plan.admissions.iter().take(weather.killed_after.unwrap_or(usize::MAX)) {
            let place = self.clusters.iter().position(|t| Some(t.name()) == made.instance.metadata.name.as_deref());
            let place = place.unwrap();
            let tracked = &mut self.clusters[place];
            // A write with the resourceVersion of something older is refused.
            if read[place] + 1 == tracked.versions.len() {
                tracked.cluster.admit(made.admitted.clone());
                tracked.written();
                tracked.floor = tracked.versions.len() - 1;
            }
        }
        if weather.killed_after.is_some() {
            self.happen(&Event::Restart);
        }
    }

    /// A stage that is through was watched for as long as it says, in true time.
    fn passed(&self, after: &FluxFleetStatus) {
        let Some(target) = &after.target else { return };
        if after.emergency.as_ref().is_some_and(|emergency| emergency.digest == target.digest) {
            return;
        }
        let is_through = |status: &FluxFleetStatus, name: &str| {
            let stage = status.stages.iter().find(|stage| stage.name == name);
            stage.and_then(|s| s.current.as_ref()).is_some_and(|current| current.digest == target.digest)
        };
        let rules = Rules::read(&self.fleet.spec).unwrap();
        for (place, stage) in rules.stages.iter().enumerate() {
            let was = self.fleet.status.as_ref().is_some_and(|status| is_through(status, &stage.name));
            if was || !is_through(after, &stage.name) {
                continue;
            }
            for tracked in &self.clusters {
                let labels = tracked.cluster.instance.metadata.labels.as_ref().unwrap();
                let Some((done, _)) = tracked.done.as_ref().filter(|(_, digest)| *digest == target.digest) else {
                    continue;
                };
                if rules.stage_of(labels) == Some(place) {
                    let watched = self.truth.duration_since(*done);
                    let name = tracked.name();
                    assert!(watched >= stage.soak, "{} went on {watched:#} after {name} was done", stage.name);
                }
            }
            let counts = &after.stages[place].counts;
            assert!(counts.done > 0, "{} went on with nothing done: {counts:?}", stage.name);
        }
    }

    fn phase(&self) -> Phase {
        self.fleet.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
    }

    /// All troubles end; time goes on, and whoever stopped is told to go on. It has to come to an end.
    fn calm_down(&mut self) {
        for tracked in &mut self.clusters {
            tracked.cluster.is_away = false;
            tracked.refusal = None;
            tracked.cluster.instance.spec.suspend = false;
            tracked.cluster.instance.metadata.annotations = None;
            tracked.changed();
            tracked.written();
        }
        let digest = self.targets[self.target].digest.clone();
        self.edit(|spec| (spec.suspend, spec.approved) = (false, Some(digest)));
        let calm = Weather { lag: 0, killed_after: None, is_status_lost: false };
        let mut told = 0;
        for _ in 0..600 {
            for number in 0..self.clusters.len() {
                self.look(number);
                self.succeed(number);
                self.with(number, |tracked, now| tracked.cluster.feel(true, now));
            }
            let before = self.fleet.status.clone();
            self.plan(&calm);
            match self.phase() {
                Phase::Complete => return self.is_complete(),
                Phase::Pending => return self.is_in_no_stage(),
                // What was approved before the status was lost has to be said in other words.
                Phase::AwaitingApproval => {
                    let version = self.targets[self.target].version.clone();
                    self.edit(|spec| spec.approved = Some(version));
                }
                Phase::Stopped | Phase::RolledBack if told < 3 => {
                    told += 1;
                    self.say(RETRY);
                }
                Phase::Blocked if before == self.fleet.status => return self.is_blocked_with_reason(),
                _ => {}
            }
            // Only what the plan asked for: who sleeps too long is found out here.
            let step = self.recheck.unwrap_or(SignedDuration::from_secs(1));
            self.truth += step.min(SignedDuration::from_hours(400));
        }
        panic!("no end: {:#?}", self.fleet.status);
    }

    fn is_complete(&self) {
        let status = self.fleet.status.as_ref().unwrap();
        let counts = &status.counts;
        assert_eq!(counts.total, counts.done + counts.left_out + counts.failed, "{status:#?}");
    }

    fn is_in_no_stage(&self) {
        let status = self.fleet.status.as_ref().unwrap();
        assert!(status.target.is_some() && status.counts.total == 0, "{status:#?}");
        assert!(status.stages.iter().all(|stage| stage.state == StageState::Empty), "{status:#?}");
    }

    /// A stage of which nobody can move: there has to be a member, and none that could.
    fn is_blocked_with_reason(&self) {
        let status = self.fleet.status.as_ref().unwrap();
        let stage = status.stages.iter().find(|stage| stage.state == StageState::Blocked).unwrap();
        let (counts, all) = (&stage.counts, stage.counts.total + stage.counts.conflicts);
        assert!(counts.done == 0 && counts.updating == 0 && counts.waiting == 0 && all > 0, "{status:#?}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0..64_usize;
    let fault = prop_oneof![Just(Fault::Back), Just(Fault::Stay), Just(Fault::Stall)];
    prop_oneof![
        6 => (1..900_u32).prop_map(Event::Passes),
        1 => (1..7200_u32).prop_map(Event::ClockBack),
        4 => which.clone().prop_map(Event::Looks),
        6 => which.clone().prop_map(Event::Succeeds),
        8 => Just(Event::AllSucceed),
        3 => (which.clone(), fault).prop_map(|(n, fault)| Event::Fails(n, fault)),
        2 => (which.clone(), any::<bool>()).prop_map(|(n, yes)| Event::Feels(n, yes)),
        2 => which.clone().prop_map(Event::GoesAway),
        2 => which.clone().prop_map(Event::ComesBack),
        1 => (which.clone(), any::<bool>()).prop_map(|(n, yes)| Event::IsRefused(n, yes)),
        1 => (which.clone(), 0..4_usize).prop_map(|(n, ring)| Event::MovesTo(n, ring)),
        1 => (0..4_usize).prop_map(Event::Joins),
        1 => which.clone().prop_map(Event::Leaves),
        1 => (which.clone(), any::<bool>()).prop_map(|(n, yes)| Event::IsSuspended(n, yes)),
        1 => (which, any::<bool>()).prop_map(|(n, yes)| Event::IsSkipped(n, yes)),
        1 => (0..3_usize).prop_map(Event::Target),
        2 => proptest::option::of(0..3_usize).prop_map(Event::Approve),
        1 => proptest::option::of(0..3_usize).prop_map(Event::Emergency),
        1 => any::<bool>().prop_map(Event::SuspendFleet),
        1 => (0..5_usize).prop_map(Event::Stages),
        1 => Just(Event::Retry),
        1 => Just(Event::Rollback),
        1 => Just(Event::Restart),
        1 => Just(Event::Forgets),
        1 => Just(Event::AllForget),
    ]
}

fn weather() -> impl Strategy<Value = Weather> {
    let lag = prop_oneof![6 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let killed = prop_oneof![8 => Just(None), 1 => (0..3_usize).prop_map(Some)];
    let lost = prop_oneof![9 => Just(false), 1 => Just(true)];
    (lag, killed, lost).prop_map(|(lag, killed_after, is_status_lost)| Weather { lag, killed_after, is_status_lost })
}

fn on_failure() -> impl Strategy<Value = FleetOnFailure> {
    prop_oneof![Just(FleetOnFailure::Pause), Just(FleetOnFailure::Rollback)]
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Every plan keeps the rules (see `lint`), every stage its soak; and when the troubles are over, the rollout ends.
    #[test]
    fn whatever_happens_the_rules_are_kept_and_the_rollout_ends(
        kind in 0..5_usize,
        on_failure in on_failure(),
        clusters in proptest::collection::vec((0..3_usize, proptest::bool::weighted(0.1)), 1..12),
        history in proptest::collection::vec((event(), weather()), 1..60),
    ) {
        let mut world = World::new(kind, on_failure, &clusters);
        for (event, weather) in &history {
            world.happen(event);
            world.plan(weather);
        }
        world.calm_down();
    }
}
