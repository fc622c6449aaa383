//! What scenarios of fleets are written with: member clusters behind lines that can fail, nodes that can be slow or broken, a fleet, and
//! a record of everything its operators write on the hub.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_e2e::{Faults, Kind, Proxy, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::{NEW, OPERATOR, Site, TOKENS, Tenant, eventually, shared_hub, spec};
use crate::lane::rolled_out;

/// Seconds for what takes several clusters their time.
pub(crate) const PATIENCE: u64 = 90;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/flux-system/deployments";

/// An admission of a member, as [`Fleet::admissions`] tells it.
pub(crate) fn of(member: usize, version: &str) -> String {
    format!("m{member} {version}")
}

/// An instant of a status.
pub(crate) fn instant(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_default().parse().unwrap_or_else(|e| panic!("{value}: {e}"))
}

/// A member cluster, and who runs its Deployments.
pub(crate) struct Member {
    /// The cluster.
    pub(crate) site: Arc<Site>,
    /// It cannot pull the images of [`NEW`].
    pub(crate) broken: AtomicBool,
    /// It starts nothing for now.
    pub(crate) slow: AtomicBool,
    /// The way of operators to it.
    pub(crate) line: Proxy,
    /// What becomes of their writes on that way.
    pub(crate) faults: Faults,
}

impl Member {
    fn of(site: Arc<Site>) -> Self {
        let faults = Faults::default();
        let line = Proxy::start(&site, &faults).unwrap();
        Self { site, broken: AtomicBool::default(), slow: AtomicBool::default(), line, faults }
    }

    /// Says of each Deployment that was changed how its rollout ended.
    fn run_deployments(&self) {
        if self.slow.load(Ordering::Relaxed) {
            return;
        }
        let Ok(list) = self.site.request("GET", DEPLOYMENTS, None) else { return };
        for mut deployment in list["items"].as_array().into_iter().flatten().cloned() {
            if deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"] {
                continue;
            }
            if self.broken.load(Ordering::Relaxed) && version_of(&deployment) == Some(NEW) {
                deployment["spec"]["template"]["pull-fails"] = json!(true);
            }
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let status = rolled_out(&deployment);
            self.site.merge_if_there(&format!("{DEPLOYMENTS}/{name}/status"), &json!({"status": status}));
        }
    }

    /// The version that all Deployments have, if they have the same and there are any.
    pub(crate) fn version(&self) -> Option<String> {
        let list = self.site.must_get(DEPLOYMENTS);
        let versions: BTreeSet<_> = list["items"].as_array()?.iter().map(version_of).collect();
        let mut versions = versions.into_iter();
        versions.next()?.filter(|_| versions.next().is_none()).map(str::to_owned)
    }
}

fn version_of(deployment: &Value) -> Option<&str> {
    Some(deployment["metadata"]["labels"]["app.kubernetes.io/version"].as_str()?.trim_start_matches('v'))
}

/// Member clusters, whose Deployments are run for as long as this lives.
pub(crate) struct Members {
    /// The clusters.
    pub(crate) sites: Vec<Arc<Site>>,
    all: Vec<Arc<Member>>,
    stop: Arc<AtomicBool>,
    nodes: Mutex<Vec<JoinHandle<()>>>,
}

impl Members {
    /// Starts so many.
    pub(crate) fn start(count: usize) -> Self {
        let sites: Vec<_> = Site::start_many(Kind::Plain, count).into_iter().map(Arc::new).collect();
        let all: Vec<_> = sites.iter().map(|site| Arc::new(Member::of(Arc::clone(site)))).collect();
        let stop = Arc::<AtomicBool>::default();
        let nodes = all.iter().map(|member| {
            let (member, stop) = (Arc::clone(member), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    member.run_deployments();
                    std::thread::sleep(Duration::from_millis(150));
                }
            })
        });
        let nodes = Mutex::new(nodes.collect());
        Self { sites, all, stop, nodes }
    }

    /// The version that all Deployments of a cluster have.
    pub(crate) fn version(&self, member: usize) -> Option<String> {
        self[member].version()
    }
}

impl Deref for Members {
    type Target = [Arc<Member>];
    fn deref(&self) -> &Self::Target {
        &self.all
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

/// A namespace with a fleet `prod`, which selects every instance with a ring, and instances `m0`, `m1`, ... of a cluster each.
pub(crate) struct Fleet<'a> {
    /// Its namespace, and its operator.
    pub(crate) tenant: Tenant<'a>,
    /// Its clusters.
    pub(crate) members: Members,
    /// What operators write on the hub, and what becomes of that.
    pub(crate) faults: Faults,
    /// The way of operators to the hub.
    pub(crate) hub: Proxy,
    /// What the specs of all instances have in common.
    common: Value,
}

impl Fleet<'_> {
    /// A cluster for each of these rings, and an instance where the ring has a name.
    pub(crate) fn start(namespace: &str, rings: &[&str], more: &Value) -> Self {
        let fleet = Self::without_operator(namespace, rings.len(), more);
        fleet.run();
        for (number, ring) in rings.iter().enumerate().filter(|(_, ring)| !ring.is_empty()) {
            fleet.join(number, ring);
        }
        fleet
    }

    /// Clusters without instances, and nobody at work.
    pub(crate) fn without_operator(namespace: &str, count: usize, more: &Value) -> Self {
        let members = Members::start(count);
        let faults = Faults::default();
        let hub = Proxy::start(shared_hub(), &faults).unwrap();
        let tenant = Tenant::without_operator(shared_hub(), namespace, &hub.kubeconfig(OPERATOR, TOKENS[0]));
        let mut common = spec("2.x");
        // What matters is that they move, not how much there is to move.
        json_patch::merge(
            &mut common,
            &json!({
                "admission": "Fleet", "wait": true, "timeout": "60s", "components": ["image-reflector-controller"],
            }),
        );
        json_patch::merge(&mut common, more);
        Self { tenant, members, faults, hub, common }
    }

    /// Starts the operator; it is the one that faults kill.
    pub(crate) fn run(&self) {
        self.tenant.start();
        self.faults.victim(self.tenant.pid());
    }

    /// Creates the instance of a cluster.
    pub(crate) fn join(&self, number: usize, ring: &str) {
        self.join_as(number, ring, &json!({}));
    }

    /// The same with something else in its spec.
    pub(crate) fn join_as(&self, number: usize, ring: &str, more: &Value) {
        let kubeconfig = self.members[number].line.kubeconfig(OPERATOR, TOKENS[0]);
        self.add(&format!("m{number}"), &kubeconfig, &json!({"ring": ring}), more);
    }

    /// Creates an instance of any cluster, and its Secret.
    pub(crate) fn add(&self, name: &str, kubeconfig: &str, labels: &Value, more: &Value) {
        let secret = format!("{name}-kubeconfig");
        self.tenant.secret(&secret, "value", kubeconfig);
        let mut spec = self.common.clone();
        spec["kubeConfig"] = json!({"secretRef": {"name": secret}});
        json_patch::merge(&mut spec, more);
        let mut object = self.tenant.object(name, &spec);
        object["metadata"]["labels"] = labels.clone();
        let path = self.tenant.path(name);
        self.tenant.hub.create(path.rsplit_once('/').unwrap().0, &object);
    }

    /// Writes the Secret of a cluster. The name of the user says nothing to the server: with another one the content is another, the
    /// access the same.
    pub(crate) fn connect(&self, number: usize, user: &str, token: &str) {
        let kubeconfig = self.members[number].line.kubeconfig(user, token);
        self.tenant.secret(&format!("m{number}-kubeconfig"), "value", &kubeconfig);
    }

    /// Puts an instance into another ring, or out of the fleet.
    pub(crate) fn label(&self, number: usize, ring: &Value) {
        self.tenant.patch(&format!("m{number}"), &json!({"metadata": {"labels": {"ring": ring}}}));
    }

    fn path_of(&self, fleet: &str) -> String {
        format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxfleets/{fleet}", self.tenant.namespace)
    }

    /// Path of `prod`.
    pub(crate) fn path(&self) -> String {
        self.path_of("prod")
    }

    /// Creates `prod`.
    pub(crate) fn create(&self, version: &str, stages: &Value, more: &Value) {
        self.create_as("prod", version, stages, more);
    }

    /// Creates a fleet.
    pub(crate) fn create_as(&self, name: &str, version: &str, stages: &Value, more: &Value) {
        let mut distribution = self.common["distribution"].clone();
        distribution["version"] = json!(version);
        let selector = json!({"matchExpressions": [{"key": "ring", "operator": "Exists"}]});
        let mut fleet = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
            "metadata": {"name": name, "namespace": self.tenant.namespace},
            "spec": {"selector": selector, "distribution": distribution, "stages": stages},
        });
        json_patch::merge(&mut fleet["spec"], more);
        self.tenant.hub.create(self.path_of("").trim_end_matches('/'), &fleet);
    }

    /// Changes `prod`.
    pub(crate) fn patch(&self, change: &Value) {
        self.tenant.hub.merge(&self.path(), change);
    }

    /// Changes the version of `prod`; what was written on the hub before is forgotten.
    pub(crate) fn target(&self, version: &str) {
        self.faults.clear();
        self.patch(&json!({"spec": {"distribution": {"version": version}}}));
    }

    /// Deletes a fleet.
    pub(crate) fn delete(&self, fleet: &str) {
        self.tenant.hub.delete(&self.path_of(fleet));
    }

    /// Status of `prod`.
    pub(crate) fn status(&self) -> Value {
        self.status_of("prod")
    }

    /// Status of a fleet.
    pub(crate) fn status_of(&self, fleet: &str) -> Value {
        self.tenant.hub.must_get(&self.path_of(fleet))["status"].clone()
    }

    /// Waits until `prod` says this.
    pub(crate) fn phase(&self, wanted: &str) -> Value {
        self.until(wanted, |status| status["phase"] == wanted)
    }

    /// Waits until `prod` says this of this version.
    pub(crate) fn reaches(&self, wanted: &str, version: &str) -> Value {
        self.until(&format!("{wanted} of {version}"), |status| {
            status["phase"] == wanted && status["target"]["version"] == version
        })
    }

    /// Waits for a status of `prod`.
    pub(crate) fn until(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE, || {
            let status = self.status();
            if is_wanted(&status) { Ok(status) } else { Err(format!("{status:#}")) }
        })
    }

    /// What all clusters run, `-` where nothing or not the same.
    pub(crate) fn versions(&self) -> Vec<String> {
        self.members.iter().map(|member| member.version().unwrap_or("-".to_owned())).collect()
    }

    /// State and reason that `prod` has for an instance which is not done.
    pub(crate) fn reason(&self, number: usize) -> (String, String) {
        let status = self.status();
        let mut all = status["notReady"].as_array().into_iter().flatten();
        let found = all.find(|entry| entry["name"] == format!("m{number}")).cloned().unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }

    /// The admissions that were written since the record began, as `m0 2.9.4`, and `m0 back to 2.8.8`.
    pub(crate) fn admissions(&self) -> Vec<String> {
        let of = |(name, admitted): (String, Value)| {
            let how = if admitted["rollback"] == true { "back to " } else { "" };
            format!("{name} {how}{}", admitted["version"].as_str().unwrap())
        };
        self.admitted().into_iter().map(of).collect()
    }

    /// The same with all that was written.
    pub(crate) fn admitted(&self) -> Vec<(String, Value)> {
        let all = self.faults.writes().into_iter().filter(Write::committed);
        all.filter(is_admission).map(|w| (instance_of(&w), w.body["status"]["admitted"].clone())).collect()
    }

    /// Who was on the way after each of these admissions: admitted, and not yet said to be good at that digest.
    pub(crate) fn under_way(&self) -> Vec<Vec<String>> {
        let mut moving: Vec<(String, Value)> = vec![];
        let mut found = vec![];
        for write in self.faults.writes().iter().filter(|w| w.committed() && w.path.contains("/fluxinstances/")) {
            let (name, status) = (instance_of(write), &write.body["status"]);
            if is_admission(write) {
                moving.push((name, status["admitted"]["digest"].clone()));
                found.push(moving.iter().map(|(name, _)| name.clone()).collect());
            } else {
                moving.retain(|(other, digest)| *other != name || status["lastGood"]["digest"] != *digest);
            }
        }
        found
    }
}

fn instance_of(write: &Write) -> String {
    write.path.trim_end_matches("/status").rsplit('/').next().unwrap_or_default().to_owned()
}

/// Whether a write admits.
pub(crate) fn is_admission(write: &Write) -> bool {
    write.path.contains("/fluxinstances/") && write.body["status"]["admitted"]["digest"].is_string()
}

/// Whether a write is a fleet's: an admission, or what it says of itself.
pub(crate) fn is_of_fleet(write: &Write) -> bool {
    is_admission(write) || write.path.contains("/fluxfleets/")
}
