//! Test code: may read files.
//! A small world for tests of the planner: a fleet, made-up clusters, and a clock. Every plan that is made in it is linted.

use serde_json::json;

use super::simulate::{Cluster, Fault};
use super::*;
use crate::api::Phase;

/// Nobody was admitted.
pub(super) const NOBODY: [&str; 0] = [];

/// A fleet and its clusters in a world where seconds are counted from the beginning.
pub(super) struct World {
    pub(super) fleet: FluxFleet,
    pub(super) clusters: Vec<Cluster>,
    pub(super) target: Pinned,
    pub(super) others: Vec<Other>,
    pub(super) second: i64,
}

pub(super) fn pinned(version: &str) -> Pinned {
    Pinned { version: version.to_owned(), digest: format!("sha256:{version}") }
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn ring(name: &str) -> serde_json::Value {
    json!({"matchLabels": {"ring": name}})
}

impl World {
    /// Clusters are named after their rings: the rings of their labels with a number.
    pub(super) fn new(stages: serde_json::Value, rings: &[&str]) -> Self {
        let mut fleet = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
            "metadata": {"name": "prod", "namespace": "n", "generation": 1},
            "spec": {"selector": {}, "distribution": {"version": "2.x"}},
        });
        fleet["spec"]["stages"] = stages;
        let fleet = serde_json::from_value(fleet).unwrap();
        let mut world = Self { fleet, clusters: vec![], target: pinned("2.9.4"), others: vec![], second: 0 };
        for ring in rings {
            world.join(ring, Some("2.8.8"));
        }
        world
    }

    /// The only cluster of the first of two stages, `a-0`, is done, and the stage begins to soak for an hour; `b-1` waits behind it.
    pub(super) fn soaking() -> Self {
        let stages = json!([{"name": "one", "selector": ring("a"), "soak": "1h"}, {"name": "two"}]);
        let mut world = Self::new(stages, &["a", "b"]);
        world.settle();
        assert_eq!(world.succeed(&["a-0"]), NOBODY);
        world
    }

    pub(super) fn join(&mut self, ring: &str, running: Option<&str>) {
        let name = format!("{ring}-{}", self.clusters.len());
        let instance = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 1, "labels": {"ring": ring}},
            "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
        }))
        .unwrap();
        self.clusters.push(Cluster::new(instance, running.map(pinned).as_ref(), at(-1000)));
    }

    pub(super) fn of(&mut self, name: &str) -> &mut Cluster {
        self.clusters.iter_mut().find(|c| c.instance.metadata.name.as_deref() == Some(name)).unwrap()
    }

    pub(super) fn edit(&mut self, name: &str, edit: impl FnOnce(&mut FluxInstance)) {
        let instance = &mut self.of(name).instance;
        edit(instance);
        *instance.metadata.generation.as_mut().unwrap() += 1;
    }

    pub(super) fn word(&mut self, word: &str, value: &str) {
        self.fleet.metadata.annotations.get_or_insert_default().insert(word.to_owned(), value.to_owned());
    }

    /// Everybody looks, it is planned, and everybody looks again, until nothing more happens at this second. Who was admitted?
    pub(super) fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..10 {
            self.look();
            let admitted = self.plan();
            let is_calm = admitted.is_empty() && !self.clusters.iter().any(|c| self.is_asked(c));
            all.extend(admitted);
            if is_calm {
                break;
            }
        }
        self.look();
        all
    }

    fn is_asked(&self, cluster: &Cluster) -> bool {
        let found = cluster.instance.status.as_ref().and_then(|s| s.preflight.as_ref());
        asked(&cluster.instance, &self.fleet)
            .is_some_and(|asked| found.is_none_or(|found| found.digest != asked.digest))
            && !(cluster.is_away || cluster.is_blind || cluster.is_alone)
            && !cluster.instance.spec.suspend
    }

    pub(super) fn look(&mut self) {
        for cluster in &mut self.clusters {
            let asked = asked(&cluster.instance, &self.fleet);
            cluster.pass(asked.as_ref(), None, at(self.second));
        }
    }

    pub(super) fn plan(&mut self) -> Vec<String> {
        let (status, moves) = {
            let instances: Vec<&FluxInstance> = self.clusters.iter().map(|c| &c.instance).collect();
            let (fleet, now) = (&self.fleet, at(self.second));
            let input = Input {
                fleet,
                resolved: Some(&self.target),
                instances: &instances,
                others: &self.others,
                now,
                since: at(0),
            };
            let plan = plan(&input).unwrap();
            lint::check(&input, &plan);
            let name = |made: &Move<'_>| made.instance.metadata.name.clone().unwrap();
            let moves: Vec<_> = plan.admissions.iter().map(|made| (name(made), made.admitted.clone())).collect();
            (plan.status, moves)
        };
        self.fleet.status = Some(status);
        let names = moves.iter().map(|(name, admitted)| format!("{name}={}", admitted.version)).collect();
        for (name, admitted) in moves {
            self.of(&name).admit(admitted);
        }
        names
    }

    pub(super) fn pass(&mut self, seconds: i64) -> Vec<String> {
        self.second += seconds;
        self.settle()
    }

    pub(super) fn succeed(&mut self, names: &[&str]) -> Vec<String> {
        let now = at(self.second);
        for name in names {
            self.of(name).succeed(now);
        }
        self.settle()
    }

    pub(super) fn fail(&mut self, name: &str) -> Vec<String> {
        let now = at(self.second);
        self.of(name).fail(Fault::Back, now);
        self.settle()
    }

    pub(super) fn away(&mut self, name: &str, is_away: bool) -> Vec<String> {
        self.of(name).is_away = is_away;
        self.settle()
    }

    pub(super) fn status(&self) -> &FluxFleetStatus {
        self.fleet.status.as_ref().unwrap()
    }

    pub(super) fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    /// `State: reason` of a cluster that is not done.
    pub(super) fn reason(&self, name: &str) -> String {
        let found = self.status().not_ready.iter().find(|n| n.name == name);
        found.map_or_else(|| "Done".to_owned(), |n| format!("{}: {}", n.state, n.reason))
    }
}

pub(super) fn one_stage(stage: serde_json::Value, rings: &[&str]) -> World {
    let mut named = stage;
    named["name"] = "all".into();
    World::new(json!([named]), rings)
}
