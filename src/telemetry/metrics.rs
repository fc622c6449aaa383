//! What is counted. Names and help texts are the interface: they say what to alert on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::{FluxFleetStatus, Phase};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PassLabels {
    instance: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DriftLabels {
    instance: String,
    kind: String,
    manager: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FleetLabels {
    fleet: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    fleet: String,
    stage: String,
    state: &'static str,
}

/// Field managers that get a label of their own; anybody can invent names for them.
const MANAGERS: usize = 32;
/// All others.
const OTHER: &str = "other";
/// Nobody said who it was.
const UNKNOWN: &str = "unknown";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InstanceLabels {
    instance: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Counters of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    passes: Family<PassLabels, Counter>,
    seconds: Histogram,
    ready: Family<InstanceLabels, Gauge>,
    clusters: Family<StateLabels, Gauge>,
    drift: Family<DriftLabels, Counter>,
    fleet: Fleets,
    notifications: Family<OutcomeLabels, Counter>,
    seen: Arc<Mutex<Seen>>,
    leader: Gauge,
}

/// Values that labels had so far: what has to be removed with an instance.
#[derive(Default)]
struct Seen {
    outcomes: BTreeSet<&'static str>,
    kinds: BTreeSet<String>,
    managers: BTreeSet<String>,
}

/// What is told of fleets.
#[derive(Clone)]
struct Fleets {
    clusters: Family<StageLabels, Gauge>,
    stopped: Family<FleetLabels, Gauge>,
    since: Family<FleetLabels, Gauge>,
    deferred: Family<FleetLabels, Gauge>,
    seconds: Family<FleetLabels, Histogram>,
}

impl Fleets {
    fn register(registry: &mut Registry) -> Self {
        let fleets = Self {
            clusters: Family::default(),
            stopped: Family::default(),
            since: Family::default(),
            deferred: Family::default(),
            seconds: Family::new_with_constructor(|| {
                Histogram::new([10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0])
            }),
        };
        registry.register(
            "fleet_clusters",
            "Clusters of a fleet by stage and state; alert on failed above 0, and on deferred or waiting that last",
            fleets.clusters.clone(),
        );
        registry.register(
            "fleet_stopped",
            "1 while a fleet admits nothing since too many clusters failed or somebody said so; alert on 1",
            fleets.stopped.clone(),
        );
        registry.register(
            "fleet_target_since_seconds",
            "When the target of a fleet was set (Unix time), 0 when all that can be are on it; alert when long ago",
            fleets.since.clone(),
        );
        registry.register(
            "fleet_oldest_deferred_seconds",
            "Since when the cluster that is deferred longest cannot be reached (Unix time), 0 for none; alert when long ago",
            fleets.deferred.clone(),
        );
        registry.register(
            "fleet_cluster_seconds",
            "Time from a new target until a cluster was done with it",
            fleets.seconds.clone(),
        );
        fleets
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("headwater");
        let passes = Family::default();
        let seconds = Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0]);
        let ready = Family::default();
        registry.register(
            "passes",
            "Reconcile passes by instance and outcome; alert on a lasting rate of outcomes other than ok",
            passes.clone(),
        );
        registry.register("pass_seconds", "Duration of reconcile passes", seconds.clone());
        registry.register(
            "instance_ready",
            "1 while the instance is Ready; alert on 0 for longer than spec.timeout",
            ready.clone(),
        );
        let clusters = Family::default();
        registry.register(
            "clusters",
            "Remote clusters by the state of the connection: connecting, connected, backing_off, unauthorised, refused (the kubeconfig), identity_changed; alert on all but the first two",
            clusters.clone(),
        );
        let drift = Family::default();
        registry.register(
            "drift",
            "Changes of installed objects by others, by kind and by the field manager that did it; alert on a lasting rate",
            drift.clone(),
        );
        let fleet = Fleets::register(&mut registry);
        let notifications = Family::default();
        registry.register(
            "notifications",
            "Messages about fleets (--events-addr) by outcome: sent, refused, failed, dropped; alert on a lasting rate of others than sent",
            notifications.clone(),
        );
        let leader = Gauge::default();
        registry.register(
            "leader",
            "1 in the replica that leads; alert when the sum over the replicas of a shard is not 1 for longer than a minute",
            leader.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            passes,
            seconds,
            ready,
            clusters,
            drift,
            fleet,
            notifications,
            seen: Arc::default(),
            leader,
        }
    }
}

impl Metrics {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass ended.
    pub fn pass(&self, instance: &str, outcome: &'static str, took: Duration) {
        self.seen().outcomes.insert(outcome);
        self.passes.get_or_create(&PassLabels { instance: instance.to_owned(), outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// An instance is, or is not, Ready.
    pub fn instance(&self, instance: &str, ready: bool) {
        self.ready.get_or_create(&InstanceLabels { instance: instance.to_owned() }).set(i64::from(ready));
    }

    /// How many clusters there are of each state.
    pub fn clusters(&self, counts: impl IntoIterator<Item = (&'static str, i64)>) {
        for (state, count) in counts {
            self.clusters.get_or_create(&StateLabels { state }).set(count);
        }
    }

    /// Somebody changed or deleted what was installed.
    pub fn drift(&self, instance: &str, kind: &str, manager: Option<&str>) {
        let mut seen = self.seen();
        let manager = match manager {
            None => UNKNOWN,
            Some(manager) if seen.managers.contains(manager) => manager,
            Some(manager) if seen.managers.len() < MANAGERS => {
                seen.managers.insert(manager.to_owned());
                manager
            }
            Some(_) => OTHER,
        };
        if !seen.kinds.contains(kind) {
            seen.kinds.insert(kind.to_owned());
        }
        drop(seen);
        let labels = DriftLabels { instance: instance.to_owned(), kind: kind.to_owned(), manager: manager.to_owned() };
        self.drift.get_or_create(&labels).inc();
    }

    /// This replica leads, or does not.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// An instance is gone.
    pub fn forget(&self, instance: &str) {
        self.ready.remove(&InstanceLabels { instance: instance.to_owned() });
        let seen = self.seen();
        for &outcome in &seen.outcomes {
            self.passes.remove(&PassLabels { instance: instance.to_owned(), outcome });
        }
        for kind in &seen.kinds {
            for manager in seen.managers.iter().map(String::as_str).chain([UNKNOWN, OTHER]) {
                let (kind, manager) = (kind.clone(), manager.to_owned());
                self.drift.remove(&DriftLabels { instance: instance.to_owned(), kind, manager });
            }
        }
    }

    /// Where a fleet stands.
    pub fn fleet(&self, fleet: &str, status: &FluxFleetStatus, oldest_deferred: Option<Timestamp>) {
        let labels = FleetLabels { fleet: fleet.to_owned() };
        self.fleet.stopped.get_or_create(&labels).set(i64::from(status.held.is_some()));
        let is_open = status.phase != Some(Phase::Complete);
        let since = status.target.as_ref().filter(|_| is_open).map_or(0, |target| target.since.0.as_second());
        self.fleet.since.get_or_create(&labels).set(since);
        self.fleet.deferred.get_or_create(&labels).set(oldest_deferred.map_or(0, Timestamp::as_second));
        for stage in &status.stages {
            let counts = &stage.counts;
            for (state, count) in [
                ("done", counts.done),
                ("updating", counts.updating),
                ("failed", counts.failed),
                ("deferred", counts.deferred),
                ("waiting", counts.waiting),
                ("leftOut", counts.left_out),
            ] {
                let labels = StageLabels { fleet: fleet.to_owned(), stage: stage.name.clone(), state };
                self.fleet.clusters.get_or_create(&labels).set(count);
            }
        }
    }

    /// A fleet is gone. Those that are left say themselves anew with their next plan.
    pub fn forget_fleets(&self) {
        self.fleet.clusters.clear();
        for gauges in [&self.fleet.stopped, &self.fleet.since, &self.fleet.deferred] {
            gauges.clear();
        }
    }

    /// A cluster is done with the target of its fleet.
    pub fn cluster_done(&self, fleet: &str, after: Duration) {
        self.fleet.seconds.get_or_create(&FleetLabels { fleet: fleet.to_owned() }).observe(after.as_secs_f64());
    }

    /// A message to notification-controller was sent, or was not.
    pub fn notification(&self, outcome: &'static str) {
        self.notifications.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// `OpenMetrics` text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FleetHeld, StageStatus};

    /// Every series that there can be, by name.
    fn series() -> BTreeSet<String> {
        let metrics = Metrics::default();
        metrics.pass("a", "ok", Duration::from_secs(1));
        metrics.instance("a", true);
        metrics.clusters([("connected", 1)]);
        metrics.drift("a", "Deployment", None);
        metrics.leader(true);
        metrics.notification("sent");
        metrics.cluster_done("f", Duration::from_secs(1));
        let status = FluxFleetStatus { stages: vec![StageStatus::default()], ..FluxFleetStatus::default() };
        metrics.fleet("f", &status, None);
        let text = metrics.text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned())).collect()
    }

    #[test]
    fn alerts_are_about_metrics_that_there_are() {
        let rules =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/monitoring/rules.yaml")).unwrap();
        let rules = crate::render::yaml::parse_one("rules", &rules).unwrap();
        let groups = rules["spec"]["groups"].as_array().unwrap();
        let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        let known = series();
        let mut alerts = BTreeSet::new();
        for rule in rules {
            assert!(alerts.insert(rule["alert"].as_str().unwrap()), "twice: {rule}");
            let words = rule["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let named: Vec<&str> = words.filter(|word| word.starts_with("headwater_")).collect();
            assert!(!named.is_empty(), "{rule}");
            for name in named {
                assert!(known.contains(name), "{} asks for {name}; there are {known:?}", rule["alert"]);
            }
        }
        assert!(alerts.len() >= 8, "{alerts:?}");
    }

    #[test]
    fn a_fleet_that_has_stopped_says_so() {
        let metrics = Metrics::default();
        let held: FleetHeld = serde_json::from_value(serde_json::json!({
            "version": "1.0.0", "digest": "d", "spec": "s", "message": "m", "at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let status = FluxFleetStatus { held: Some(held), ..FluxFleetStatus::default() };
        metrics.fleet("f", &status, None);
        assert!(metrics.text().contains("headwater_fleet_stopped{fleet=\"f\"} 1"), "{}", metrics.text());
    }

    #[test]
    fn nothing_is_left_of_an_instance_that_is_gone() {
        let metrics = Metrics::default();
        let managers: Vec<String> = (0..40).map(|n| format!("manager-{n}")).collect();
        for instance in ["gone", "here"] {
            metrics.pass(instance, "ok", Duration::ZERO);
            metrics.pass(instance, "Unreachable", Duration::ZERO);
            metrics.instance(instance, true);
            metrics.drift(instance, "Deployment", None);
            for manager in &managers {
                metrics.drift(instance, "Service", Some(manager));
            }
        }
        let lines = |instance: &str| metrics.text().lines().filter(|l| l.contains(&format!("{instance:?}"))).count();
        // Beside passes and readiness: 32 managers, all others, and who is not known.
        let all = 2 + 1 + 34;
        assert_eq!((lines("gone"), lines("here")), (all, all));
        metrics.forget("gone");
        assert_eq!((lines("gone"), lines("here")), (0, all));
    }
}
