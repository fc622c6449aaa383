//! What is counted. Names and help texts are the interface: they say what to alert on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

/// Field managers that get a label of their own; anybody can invent names for them.
const MANAGERS: usize = 32;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InstanceLabels {
    instance: String,
}

/// Counters of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    passes: Family<PassLabels, Counter>,
    seconds: Histogram,
    ready: Family<InstanceLabels, Gauge>,
    drift: Family<DriftLabels, Counter>,
    managers: Arc<Mutex<BTreeSet<String>>>,
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
        let drift = Family::default();
        registry.register(
            "drift",
            "Changes of installed objects by others, by kind and by the field manager that did it; alert on a lasting rate",
            drift.clone(),
        );
        let managers = Arc::default();
        Self { registry: Arc::new(Mutex::new(registry)), passes, seconds, ready, drift, managers }
    }
}

impl Metrics {
    /// A pass ended.
    pub fn pass(&self, instance: &str, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&PassLabels { instance: instance.to_owned(), outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// An instance is, or is not, Ready.
    pub fn instance(&self, instance: &str, ready: bool) {
        self.ready.get_or_create(&InstanceLabels { instance: instance.to_owned() }).set(i64::from(ready));
    }

    /// Somebody changed or deleted what was installed.
    pub fn drift(&self, instance: &str, kind: &str, manager: Option<&str>) {
        let mut known = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        let manager = match manager {
            None => "unknown",
            Some(manager) if known.contains(manager) => manager,
            Some(manager) if known.len() < MANAGERS => {
                known.insert(manager.to_owned());
                manager
            }
            Some(_) => "other",
        };
        let labels = DriftLabels { instance: instance.to_owned(), kind: kind.to_owned(), manager: manager.to_owned() };
        self.drift.get_or_create(&labels).inc();
    }

    /// An instance is gone.
    pub fn forget(&self, instance: &str) {
        self.ready.remove(&InstanceLabels { instance: instance.to_owned() });
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
