//! A fleet on real API servers: clusters move in stages, and stop when they should.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, Site, Tenant, eventually, holds, in_flux, shared_hub, spec, world};
use crate::lane::rolled_out;

const PATIENCE: u64 = 90;

/// Member clusters, and who runs their Deployments.
pub(crate) struct Members {
    pub(crate) sites: Vec<Arc<Site>>,
    /// The clusters that cannot pull the images of the new version.
    broken: Vec<Arc<AtomicBool>>,
    stop: Arc<AtomicBool>,
    nodes: Mutex<Vec<JoinHandle<()>>>,
}

impl Members {
    pub(crate) fn start(count: usize) -> Self {
        let sites: Vec<_> = Site::start_many(Kind::Plain, count).into_iter().map(Arc::new).collect();
        let broken: Vec<_> = sites.iter().map(|_| Arc::<AtomicBool>::default()).collect();
        let stop = Arc::<AtomicBool>::default();
        let nodes = sites.iter().zip(&broken).map(|(site, broken)| {
            let (site, broken, stop) = (Arc::clone(site), Arc::clone(broken), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    run_deployments(&site, broken.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        });
        let nodes = Mutex::new(nodes.collect());
        Self { sites, broken, stop, nodes }
    }

    pub(crate) fn version(&self, member: usize) -> Option<String> {
        let deployment = self.sites[member].get(&in_flux("deployments", "source-controller"))?;
        Some(deployment["metadata"]["labels"]["app.kubernetes.io/version"].as_str()?.trim_start_matches('v').to_owned())
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for node in self.nodes.lock().unwrap().drain(..) {
            let _ = node.join();
        }
    }
}

/// Says of each Deployment that was changed how its rollout ended.
fn run_deployments(site: &Site, is_broken: bool) {
    let Ok(list) = site.request("GET", "/apis/apps/v1/namespaces/flux-system/deployments", None) else { return };
    for mut deployment in list["items"].as_array().into_iter().flatten().cloned() {
        if deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"] {
            continue;
        }
        if is_broken && deployment["metadata"]["labels"]["app.kubernetes.io/version"] == format!("v{NEW}") {
            deployment["spec"]["template"]["pull-fails"] = json!(true);
        }
        let name = deployment["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let status = rolled_out(&deployment);
        site.merge_if_there(&format!("{}/status", in_flux("deployments", &name)), &json!({"status": status}));
    }
}

/// A namespace with a fleet and an instance for each member: `m0` in ring canary, all others in ring rest.
pub(crate) struct Fleet<'a> {
    pub(crate) tenant: Tenant<'a>,
    pub(crate) members: Members,
}

impl Fleet<'_> {
    pub(crate) fn start(namespace: &str, count: usize) -> Self {
        let fleet = Self { tenant: Tenant::new(shared_hub(), namespace), members: Members::start(count) };
        for member in 0..count {
            fleet.join(member, if member == 0 { "canary" } else { "rest" });
        }
        fleet
    }

    fn join(&self, member: usize, ring: &str) {
        let name = format!("m{member}");
        let mut spec = self.tenant.remote(&name, &self.members.sites[member], "2.x");
        spec["admission"] = json!("Fleet");
        spec["wait"] = json!(true);
        spec["timeout"] = json!("6s");
        let mut object = self.tenant.object(&name, &spec);
        object["metadata"]["labels"] = json!({"ring": ring});
        let collection = format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxinstances", self.tenant.namespace);
        self.tenant.hub.create(&collection, &object);
    }

    pub(crate) fn path(&self) -> String {
        format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxfleets/prod", self.tenant.namespace)
    }

    pub(crate) fn create(&self, version: &str, stages: &Value, more: &Value) {
        let mut fleet = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
            "metadata": {"name": "prod", "namespace": self.tenant.namespace},
            "spec": {"selector": {}, "distribution": spec(version)["distribution"], "stages": stages},
        });
        json_patch::merge(&mut fleet["spec"], more);
        self.tenant.hub.create(self.path().trim_end_matches("/prod"), &fleet);
    }

    pub(crate) fn patch(&self, change: &Value) {
        self.tenant.hub.merge(&self.path(), change);
    }

    pub(crate) fn status(&self) -> Value {
        self.tenant.hub.must_get(&self.path())["status"].clone()
    }

    pub(crate) fn phase(&self, wanted: &str) -> Value {
        eventually(&format!("phase {wanted}"), PATIENCE, || {
            let status = self.status();
            if status["phase"] == wanted { Ok(status) } else { Err(format!("{status:#}")) }
        })
    }
}

pub(crate) fn rings() -> Value {
    json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "soak": "2s"},
        {"name": "rest", "concurrency": 1, "approval": "Required"},
    ])
}

/// A fleet installs, upgrades its canary, watches it, waits for an approval of this very target, and goes on one by one; the conditions that
/// clusters have from before do not count.
#[test]
fn stages_move_one_after_the_other() {
    let fleet = Fleet::start("fleet-stages", 3);
    for member in 0..3 {
        fleet.tenant.wait(&format!("m{member}"), "Admitted", PATIENCE, |c| c.reason == "NoFleet");
        assert_eq!(fleet.members.version(member), None, "nothing is installed without a fleet's word");
    }
    fleet.create(OLD, &rings(), &json!({"approved": OLD}));
    let status = fleet.phase("Complete");
    assert_eq!(status["progress"], "3/3", "{status:#}");

    fleet.patch(&json!({"spec": {"distribution": {"version": NEW}}}));
    let status = fleet.phase("AwaitingApproval");
    assert_eq!(status["target"]["digest"], world().digests[NEW].as_str());
    assert_eq!(fleet.members.version(0).as_deref(), Some(NEW));
    for member in [1, 2] {
        assert_eq!(fleet.members.version(member).as_deref(), Some(OLD), "not before its stage");
    }
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(NEW) && message.contains(&world().digests[NEW]), "{message}");
    fleet.patch(&json!({"spec": {"approved": NEW}}));
    let status = fleet.phase("Complete");
    assert_eq!(status["progress"], "3/3", "{status:#}");
    for member in 0..3 {
        assert_eq!(fleet.members.version(member).as_deref(), Some(NEW));
    }
    let events: Vec<String> = fleet.tenant.events("prod").into_iter().map(|(reason, _)| reason).collect();
    for wanted in ["TargetChanged", "StageStarted", "StageSoaking", "StageDone", "ApprovalRequired", "Complete"] {
        assert!(events.contains(&wanted.to_owned()), "{wanted}: {events:?}");
    }
    // At rest nothing is written.
    let mark = fleet.tenant.hub.audit_mark();
    std::thread::sleep(Duration::from_secs(3));
    let written: Vec<String> =
        fleet.tenant.hub.written_texts(mark).into_iter().filter(|w| w.contains("fleet-stages")).collect();
    assert!(written.is_empty(), "{written:?}");

    // Deleting the fleet moves nothing.
    fleet.tenant.hub.delete(&fleet.path());
    fleet.tenant.wait("m0", "Admitted", PATIENCE, |c| c.reason == "NoFleet");
    assert_eq!(fleet.members.version(0).as_deref(), Some(NEW));
}

/// A cluster on which the target does not become healthy stops the fleet; every cluster that was moved goes back, the target is held, and a
/// newer one gets all of them out of it.
#[test]
fn too_many_failures_take_everything_back() {
    let fleet = Fleet::start("fleet-back", 3);
    fleet.create(OLD, &json!([{"name": "all", "concurrency": 1}]), &json!({"onFailure": "Rollback"}));
    fleet.phase("Complete");
    fleet.members.broken[1].store(true, Ordering::Relaxed);
    fleet.patch(&json!({"spec": {"distribution": {"version": NEW}}}));
    let status = fleet.phase("RolledBack");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("1 of 3 in stage all failed, maxFailures is 0: m1"), "{message}");
    assert_eq!(status["history"][0]["outcome"], "RolledBack");
    for member in 0..3 {
        assert_eq!(fleet.members.version(member).as_deref(), Some(OLD), "m{member}");
    }
    assert_eq!(fleet.tenant.status("m2")["admitted"]["version"], OLD, "it was never moved");
    // Held, whatever else happens.
    let mark = fleet.tenant.hub.audit_mark();
    fleet.tenant.poke("m0");
    fleet.tenant.stop();
    fleet.tenant.start();
    std::thread::sleep(Duration::from_secs(2));
    let admissions = |w: &String| w.contains("fluxinstances/status fleet-back");
    let written: Vec<String> = fleet.tenant.hub.written_texts(mark).into_iter().filter(admissions).collect();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(fleet.status()["phase"], "RolledBack");

    // What was wrong is put right, and a word tries it again.
    fleet.members.broken[1].store(false, Ordering::Relaxed);
    fleet.patch(&json!({"metadata": {"annotations": {"headwater.dev/retry": "1"}}}));
    let status = fleet.phase("Complete");
    assert_eq!(status["progress"], "3/3");
    eventually("all on the new version", 5, || {
        let versions: Vec<_> = (0..3).map(|member| fleet.members.version(member)).collect();
        holds(versions.iter().all(|v| v.as_deref() == Some(NEW)), versions)
    });
}
