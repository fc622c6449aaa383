//! A cluster that is made up: its instance, and what the operator would write into the status of it. The same words in the same
//! fields as a pass writes, for the planner sees nothing else.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::condition::{self, CONTROLLERS_READY, REACHABLE, RECONCILING, STALLED, Verdict, find};
use crate::api::{
    Admitted, Enforcement, FluxInstance, FluxInstanceStatus, Held, HistoryEntry, Outcome, Pinned, PlanStatus, PlanStep,
    PreflightFinding, PreflightStatus, Revision, StepState,
};
use crate::plan::goal::{self, Goal};

/// Entries of an instance's history.
const HISTORY: usize = 10;

/// How a change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is held, and what was good before runs again.
    Back,
    /// It is held, and left as it is.
    Stay,
    /// Something stands in the way that only people can put right.
    Stall,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its instance.
    pub instance: FluxInstance,
    /// It cannot be reached.
    pub is_away: bool,
    /// What a fleet asks about cannot be looked at there.
    pub is_blind: bool,
    /// No operator looks after it.
    pub is_alone: bool,
}

/// Status of an instance; every instance here has one.
fn status(instance: &mut FluxInstance) -> &mut FluxInstanceStatus {
    instance.status.get_or_insert_default()
}

fn revision(pinned: &Pinned, now: Timestamp) -> Revision {
    let config = format!("config of {}", pinned.digest);
    Revision { version: pinned.version.clone(), digest: pinned.digest.clone(), config, at: Time(now) }
}

impl Cluster {
    /// A cluster that runs a bundle, or nothing yet, and was not looked at.
    pub fn new(mut instance: FluxInstance, running: Option<&Pinned>, now: Timestamp) -> Self {
        let mut status = FluxInstanceStatus::default();
        if let Some(running) = running {
            let good = revision(running, now);
            status.history.push(HistoryEntry {
                version: good.version.clone(),
                digest: good.digest.clone(),
                config: good.config.clone(),
                outcome: Outcome::Succeeded,
                started: Time(now),
                finished: Some(Time(now)),
            });
            status.observed_digest = Some(good.digest.clone());
            status.attempted = Some(good.clone());
            status.applied = Some(good.clone());
            status.last_good = Some(good);
        }
        instance.status = Some(status);
        Self { instance, is_away: false, is_blind: false, is_alone: false }
    }

    fn say(&mut self, type_: &str, verdict: Verdict, now: Timestamp) {
        let generation = self.instance.metadata.generation;
        condition::set(&mut status(&mut self.instance).conditions, type_, verdict, generation, &Time(now));
    }

    /// What its passes work towards: what is admitted, else what runs.
    fn wanted(&self) -> Option<Pinned> {
        let status = self.instance.status.as_ref()?;
        let admitted = status.admitted.as_ref().map(|a| Pinned::of(&a.version, &a.digest));
        let runs = status.applied.as_ref().map(|r| Pinned::of(&r.version, &r.digest));
        admitted.or(runs)
    }

    /// Whether a change is under way: begun, neither ended nor held.
    pub fn is_changing(&self) -> bool {
        let Some(status) = &self.instance.status else { return false };
        let is_running = status.plan.iter().flat_map(|plan| &plan.steps).any(|step| step.state == StepState::Running);
        !self.is_away && !self.instance.spec.suspend && status.held.is_none() && is_running
    }

    /// A fleet admits.
    pub fn admit(&mut self, admitted: Admitted) {
        status(&mut self.instance).admitted = Some(admitted);
    }

    /// A pass: looks whether the cluster is there, looks at what the fleet asks about, and begins what is to be done.
    pub fn pass(&mut self, asked: Option<&Pinned>, refusal: Option<&str>, now: Timestamp) {
        if self.is_alone {
            return;
        }
        let generation = self.instance.metadata.generation;
        status(&mut self.instance).observed_generation = generation;
        if self.instance.spec.suspend {
            self.say(RECONCILING, Verdict::no("Suspended", "spec.suspend is true"), now);
            return;
        }
        let wanted = self.wanted();
        if let Some(wanted) = &wanted {
            status(&mut self.instance).observed_digest = Some(wanted.digest.clone());
        }
        if self.is_away {
            self.say(REACHABLE, Verdict::no("Unreachable", "no answer"), now);
            if find(&status(&mut self.instance).conditions, CONTROLLERS_READY).is_some() {
                self.say(CONTROLLERS_READY, Verdict::unknown("Unreachable", "the cluster cannot be looked at"), now);
            }
            return;
        }
        self.say(REACHABLE, Verdict::yes("Connected", "the API server answers"), now);
        if let Some(asked) = asked.filter(|_| !self.is_changing() && !self.is_blind) {
            self.preflight(asked, refusal);
        }
        if let Some(wanted) = wanted {
            self.towards(&wanted, generation, now);
        }
    }

    fn preflight(&mut self, asked: &Pinned, refusal: Option<&str>) {
        let finding = |message: &str| PreflightFinding {
            severity: Enforcement::Error,
            rule: "simulated".to_owned(),
            object: None,
            message: message.to_owned(),
            remedy: String::new(),
        };
        let generation = self.instance.metadata.generation;
        status(&mut self.instance).preflight = Some(PreflightStatus {
            digest: asked.digest.clone(),
            generation,
            config: revision(asked, Timestamp::UNIX_EPOCH).config,
            findings: refusal.map(finding).into_iter().collect(),
            more: 0,
        });
    }

    fn towards(&mut self, wanted: &Pinned, generation: Option<i64>, now: Timestamp) {
        let is_changing = self.is_changing();
        let status = status(&mut self.instance);
        let held = status.held.as_ref().map(|held| held.digest.clone());
        if goal::goal(status, &wanted.digest, generation) != Goal::Target {
            return;
        }
        let is_new = status.attempted.as_ref().is_none_or(|attempted| attempted.digest != wanted.digest);
        if is_new || held.as_ref() == Some(&wanted.digest) {
            self.begin(wanted, now);
        } else if held.is_some() {
            self.say(STALLED, Verdict::no("Done", "nothing stands in the way"), now);
        } else if find(&status.conditions, RECONCILING).is_some_and(|c| c.reason == "Suspended") {
            let word =
                if is_changing { Verdict::yes("Progressing", "goes on") } else { Verdict::no("Done", "nothing to do") };
            self.say(RECONCILING, word, now);
        } else if find(&status.conditions, CONTROLLERS_READY).is_none_or(|c| c.status == "Unknown") && !is_changing {
            self.say(CONTROLLERS_READY, Verdict::yes("Healthy", "available"), now);
        }
    }

    fn begin(&mut self, wanted: &Pinned, now: Timestamp) {
        let status = status(&mut self.instance);
        let revision = revision(wanted, now);
        let step =
            PlanStep { name: "health".to_owned(), state: StepState::Running, since: Some(Time(now)), message: None };
        status.plan = Some(PlanStatus {
            from: status.applied.as_ref().map(|r| r.version.clone()),
            version: wanted.version.clone(),
            digest: wanted.digest.clone(),
            config: revision.config.clone(),
            steps: vec![step],
        });
        let entry = HistoryEntry {
            version: wanted.version.clone(),
            digest: wanted.digest.clone(),
            config: revision.config.clone(),
            outcome: Outcome::Progressing,
            started: Time(now),
            finished: None,
        };
        status.history.insert(0, entry);
        status.history.truncate(HISTORY);
        status.attempted = Some(revision);
        self.say(RECONCILING, Verdict::yes("Progressing", "applying"), now);
        self.say(STALLED, Verdict::no("Progressing", "nothing stands in the way"), now);
        self.say(CONTROLLERS_READY, Verdict::no("Progressing", "rolling out"), now);
    }

    fn close(&mut self, outcome: Outcome, state: StepState, now: Timestamp) {
        let status = status(&mut self.instance);
        for step in status.plan.iter_mut().flat_map(|plan| &mut plan.steps) {
            step.state = state;
        }
        if let Some(entry) = status.history.first_mut() {
            entry.outcome = outcome;
            entry.finished = Some(Time(now));
        }
    }

    /// The change under way ends well.
    pub fn succeed(&mut self, now: Timestamp) {
        if !self.is_changing() {
            return;
        }
        self.close(Outcome::Succeeded, StepState::Done, now);
        let status = status(&mut self.instance);
        let good = status.attempted.clone().map(|revision| Revision { at: Time(now), ..revision });
        status.applied.clone_from(&good);
        status.last_good = good;
        self.say(RECONCILING, Verdict::no("ReconciliationSucceeded", "nothing to do"), now);
        self.say(STALLED, Verdict::no("ReconciliationSucceeded", "nothing stands in the way"), now);
        self.say(CONTROLLERS_READY, Verdict::yes("Healthy", "available"), now);
    }

    /// The change under way fails. Where there is nothing to go back to, it is tried on.
    pub fn fail(&mut self, fault: Fault, now: Timestamp) {
        if !self.is_changing() {
            return;
        }
        let generation = self.instance.metadata.generation;
        let status = status(&mut self.instance);
        let good = status.last_good.clone();
        let failed = status.attempted.clone();
        let (Some(good), Some(failed), true) = (good, failed, fault != Fault::Stall) else {
            self.say(RECONCILING, Verdict::no("Forbidden", "waiting for a change"), now);
            self.say(STALLED, Verdict::yes("Forbidden", "a right is missing"), now);
            return;
        };
        let back = (fault == Fault::Back).then(|| good.clone());
        status.held = Some(Held {
            version: failed.version,
            digest: failed.digest,
            generation: generation.unwrap_or_default(),
            message: "not healthy within 5m".to_owned(),
            at: Time(now),
            back: back.clone(),
            refused: None,
        });
        self.close(Outcome::Failed, StepState::Failed, now);
        let healthy = match back {
            Some(back) => {
                let pinned = Pinned { version: back.version, digest: back.digest };
                self.begin(&pinned, now);
                self.close(Outcome::Succeeded, StepState::Done, now);
                let status = self::status(&mut self.instance);
                let good = status.attempted.clone();
                status.applied.clone_from(&good);
                status.last_good = good;
                Verdict::yes("Healthy", "available")
            }
            None => Verdict::no("HealthCheckFailed", "not available"),
        };
        self.say(CONTROLLERS_READY, healthy, now);
        self.say(RECONCILING, Verdict::no("UpgradeFailed", "waiting for a change"), now);
        self.say(STALLED, Verdict::yes("UpgradeFailed", "failed"), now);
    }

    /// Its status is lost, and the next pass finds in place what runs.
    pub fn forget(&mut self, now: Timestamp) {
        let runs = self.instance.status.take().and_then(|status| status.applied);
        let found = runs.map(|runs| Revision { at: Time(now), ..runs });
        let observed_digest = found.as_ref().map(|found| found.digest.clone());
        let (attempted, applied, last_good) = (found.clone(), found.clone(), found);
        self.instance.status = Some(FluxInstanceStatus {
            observed_digest,
            attempted,
            applied,
            last_good,
            ..FluxInstanceStatus::default()
        });
        self.pass(None, None, now);
    }

    /// Controllers that were well are not any more, or are again.
    pub fn feel(&mut self, is_well: bool, now: Timestamp) {
        if self.is_away || self.instance.spec.suspend || self.is_changing() {
            return;
        }
        let Some(status) = &self.instance.status else { return };
        if status.held.is_none() && status.applied.is_some() && status.applied == status.last_good {
            let verdict = if is_well {
                Verdict::yes("Healthy", "available")
            } else {
                Verdict::no("Progressing", "a controller is not available")
            };
            self.say(CONTROLLERS_READY, verdict, now);
        }
    }
}
