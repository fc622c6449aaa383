//! What enumerations of faults run on: one API server behind a proxy, used for one run after the other, and looks at all of it
//! that can be compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater::api::REQUESTED_AT;
use headwater_e2e::{Faults, Proxy, Write};
use serde_json::{Map, Value, json};

use crate::harness::{OPERATOR, SOON, Site, TOKENS, Tenant, crd, in_flux, world};

/// The instance of all runs.
pub(crate) const NAME: &str = "flux";
const NAMESPACES: &str = "/api/v1/namespaces";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Everything but custom resources. Leases and events are nobody's state.
const BUILT_IN: [&str; 13] = [
    NAMESPACES,
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/serviceaccounts",
    "/api/v1/services",
    "/api/v1/resourcequotas",
    "/apis/apps/v1/deployments",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    CRDS,
];

/// A cluster that manages itself, as seen by an operator behind a proxy.
pub(crate) struct Lane<'a> {
    /// The operator.
    pub(crate) tenant: Tenant<'a>,
    /// What fails.
    pub(crate) faults: Faults,
    /// To the hub, and once more to the same cluster, for instances that take it for a remote one.
    proxies: [Proxy; 2],
}

/// The bundles of all versions, in a repository of their own.
fn repository() -> String {
    static PUSHED: std::sync::Once = std::sync::Once::new();
    PUSHED.call_once(|| {
        for version in ["2.7.5", "2.8.8", "2.9.4"] {
            world().push(version, "ladder/flux");
        }
    });
    world().repository("ladder/flux")
}

/// An installation that does not wait for health.
pub(crate) fn spec(version: &str, components: &[&str]) -> Value {
    json!({
        "distribution": {"version": version, "artifact": repository(), "insecure": true},
        "components": components, "wait": false,
    })
}

/// Waits like `eventually`, with less patience between looks: there are hundreds of runs.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(SOON);
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: not within {SOON} s; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(8));
    }
}

impl<'a> Lane<'a> {
    /// On a hub of its own.
    pub(crate) fn new(site: &'a Site) -> Self {
        let faults = Faults::default();
        let proxies = [(); 2].map(|()| Proxy::start(site, &faults).unwrap());
        let [hub, _] = &proxies;
        let tenant = Tenant::without_operator(site, "headwater-system", &hub.kubeconfig(OPERATOR, TOKENS[0]));
        Self { tenant, faults, proxies }
    }

    /// The cluster.
    pub(crate) fn site(&self) -> &'a Site {
        self.tenant.hub
    }

    /// Creates the instance.
    pub(crate) fn create(&self, spec: &Value) {
        self.tenant.create(NAME, spec);
    }

    /// Makes a spec one of a remote cluster.
    pub(crate) fn remote(&self, mut spec: Value) -> Value {
        let [_, target] = &self.proxies;
        self.tenant.secret("target", "value", &target.kubeconfig(OPERATOR, TOKENS[0]));
        spec["kubeConfig"] = json!({"secretRef": {"name": "target"}});
        spec
    }

    /// Starts the operator; it is the one that faults kill.
    pub(crate) fn start(&self) {
        self.tenant.start();
        self.faults.victim(self.tenant.pid());
    }

    /// What the instance says of a condition, at its newest generation.
    pub(crate) fn says(&self, type_: &str, status: &str, text: &str) -> Result<(), String> {
        match self.tenant.condition(NAME, type_) {
            Some(c) if c.status == status && c.message.contains(text) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    }

    /// One more pass, and one more to know that the first has said all it had to.
    pub(crate) fn poke(&self) {
        for _ in 0..2 {
            self.tenant.poke(NAME);
        }
    }

    /// Everything away, as an administrator would: the start of the next run.
    pub(crate) fn wipe(&self) {
        self.tenant.kill();
        let site = self.site();
        let instance = self.tenant.path(NAME);
        if site.get(&instance).is_some() {
            site.merge(&instance, &json!({"metadata": {"finalizers": null}}));
            site.delete(&instance);
        }
        for (path, object) in self.objects() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let is_flux = path.starts_with(CRDS) && !name.ends_with(".headwater.dev") || is_custom(&path);
            let labels = &object["metadata"]["labels"];
            let is_installed =
                !labels["headwater.dev/installation"].is_null() || labels["app.kubernetes.io/part-of"] == "flux";
            if object["metadata"]["namespace"] == "flux-system"
                || is_flux
                || is_installed && !path.starts_with(NAMESPACES)
            {
                if !object["metadata"]["finalizers"].is_null() && is_custom(&path) {
                    site.merge(&path, &json!({"metadata": {"finalizers": null}}));
                }
                site.delete(&path);
            }
        }
        site.delete(&format!("{NAMESPACES}/flux-system"));
        until("everything is away", || {
            self.settle();
            let left = site.must_get(CRDS)["items"].as_array().map_or(0, Vec::len);
            let namespace = site.get(&format!("{NAMESPACES}/flux-system"));
            if left == 2 && namespace.is_none() { Ok(()) } else { Err(format!("{left} CRDs, {namespace:?}")) }
        });
        self.faults.clear();
    }

    /// What kube-controller-manager does about Deployments and deletions, at once: with it, a namespace takes five seconds to
    /// end.
    pub(crate) fn settle(&self) {
        let site = self.site();
        let deployments = site.must_get("/apis/apps/v1/namespaces/flux-system/deployments");
        for object in deployments["items"].as_array().into_iter().flatten() {
            if object["metadata"]["deletionTimestamp"].is_string() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                site.merge_if_there(&in_flux("deployments", name), &json!({"metadata": {"finalizers": null}}));
            } else if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let status = rolled_out(object);
                site.merge_if_there(&format!("{}/status", in_flux("deployments", name)), &json!({"status": status}));
            }
        }
        let path = format!("{NAMESPACES}/flux-system");
        let Some(mut namespace) = site.get(&path) else { return };
        if namespace["metadata"]["deletionTimestamp"].is_string() {
            for (path, object) in self.objects() {
                if object["metadata"]["namespace"] == "flux-system" {
                    site.delete(&path);
                }
            }
            namespace["spec"]["finalizers"] = json!([]);
            let _ = site.request("PUT", &format!("{path}/finalize"), Some(("application/json", &namespace)));
        }
    }

    /// Every object of the cluster by path, as it is.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        let site = self.site();
        let mut all = BTreeMap::new();
        let mut collections = BUILT_IN.map(str::to_owned).to_vec();
        for definition in site.must_get(CRDS)["items"].as_array().into_iter().flatten() {
            let spec = &definition["spec"];
            let stored = spec["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let version = stored.map(|v| text(&v["name"])).unwrap_or_default();
            collections.push(format!("/apis/{}/{version}/{}", text(&spec["group"]), text(&spec["names"]["plural"])));
        }
        for collection in collections {
            // A CRD on its way out may be gone by now, a new one is not served at once.
            let list = until("a list", || match site.request("GET", &collection, None) {
                Err((404, _)) => Ok(None),
                answer => answer.map(Some).map_err(|e| format!("{e:?}")),
            });
            let Some(mut list) = list else { continue };
            let (root, plural) = collection.rsplit_once('/').unwrap();
            for object in list["items"].as_array_mut().into_iter().flatten().map(Value::take) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let place = object["metadata"]["namespace"].as_str().map(|n| format!("/namespaces/{n}"));
                all.insert(format!("{root}{}/{plural}/{name}", place.unwrap_or_default()), object);
            }
        }
        all
    }

    /// The end of a run: what is on the cluster, without what differs between any two runs.
    pub(crate) fn end(&self) -> End {
        let objects = self.objects();
        let uids = objects
            .iter()
            .map(|(path, object)| (path.clone(), object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()));
        End { uids: uids.collect(), state: objects.into_iter().map(|(path, object)| (path, masked(object))).collect() }
    }
}

/// How a rollout ends: well, or not when its images cannot be pulled.
pub(crate) fn rolled_out(deployment: &Value) -> Value {
    let is_good = !deployment["spec"]["template"].to_string().contains("pull-fails");
    let ready = i32::from(is_good);
    let condition = |type_: &str, reason: &str| {
        json!({
            "type": type_, "status": if is_good { "True" } else { "False" }, "reason": reason, "message": "",
            "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let progress = if is_good { "NewReplicaSetAvailable" } else { "ProgressDeadlineExceeded" };
    json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready,
        "unavailableReplicas": 1 - ready,
        "conditions": [condition("Available", "Counted"), condition("Progressing", progress)],
    })
}

fn is_custom(path: &str) -> bool {
    ["toolkit.fluxcd.io", "source.extensions.fluxcd.io", "contrib.fluxcd.io"].iter().any(|g| path.contains(g))
        && !path.starts_with(CRDS)
}

/// A look at a whole cluster.
#[derive(Clone)]
pub(crate) struct End {
    /// UID by path.
    pub(crate) uids: BTreeMap<String, String>,
    /// Object by path, masked.
    pub(crate) state: BTreeMap<String, Value>,
}

impl End {
    /// What is not as it was there; empty when all is.
    pub(crate) fn differences(&self, reference: &Self) -> Vec<String> {
        let mut found = vec![];
        let paths: std::collections::BTreeSet<&String> = self.state.keys().chain(reference.state.keys()).collect();
        for path in paths {
            match (self.state.get(path), reference.state.get(path)) {
                (Some(_), None) => found.push(format!("{path} should not be there")),
                (None, Some(_)) => found.push(format!("{path} is not there")),
                (Some(is), Some(was)) => differ(path, is, was, &mut found),
                (None, None) => {}
            }
        }
        found
    }
}

/// Where two values differ, in words.
pub(crate) fn differ(place: &str, is: &Value, was: &Value, found: &mut Vec<String>) {
    match (is, was) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differ(
                    &format!("{place}.{key}"),
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&format!("{place}[{index}]"), a, b, found);
            }
        }
        _ if is == was => {}
        _ => found.push(format!("{place} is {is}, was {was}")),
    }
}

/// Blanks what the server makes up anew in every run: identities, versions, times, addresses. `generation` counts the writes
/// that changed something; of the instance it counts the test's own.
fn masked(mut object: Value) -> Value {
    let is_instance = object["metadata"]["namespace"] == "headwater-system";
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in ["uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(key);
        }
        if is_instance {
            metadata.remove("generation");
            // Which of two writers of one field came last is no matter of ours.
            metadata.remove("managedFields");
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            if is_instance {
                annotations.remove(REQUESTED_AT);
            }
            // The digest of deletions, in which UIDs are.
            annotations.remove("headwater.dev/confirm");
        }
        for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            blank(entry, &["time"]);
        }
        if let Some(Value::Array(list)) = metadata.get_mut("managedFields") {
            list.sort_by_key(ToString::to_string);
        }
    }
    blank(&mut object["spec"], &["clusterIP", "clusterIPs"]);
    let times = ["lastTransitionTime", "at", "since", "started", "finished", "observedGeneration", "uid"];
    blank(&mut object["status"], &times);
    if is_instance {
        // Which of the test's questions was the last.
        blank(&mut object["status"], &["lastHandledReconcileAt"]);
    }
    if let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        // A map by type, kept as a list in the order in which they were first said.
        conditions.sort_by_key(|c| c["type"].to_string());
    }
    if let Some(Value::String(text)) = object.pointer_mut("/data/inventory.json") {
        let mut inventory: Value = serde_json::from_str(text).unwrap();
        let entries = inventory["entries"].as_array().into_iter().flatten();
        let entries: Map<String, Value> = entries.map(|entry| (path_of(entry), entry.clone())).collect();
        inventory["entries"] = Value::Object(entries);
        // That a write created its object is learned from the answer alone. Where that is lost it counts as found there, and
        // an uninstall leaves the namespace.
        blank(&mut inventory, &["uid", "resourceVersion", "created"]);
        object["data"]["inventory.json"] = inventory;
    }
    // Indexing above makes what is not there.
    if let Some(map) = object.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    object
}

fn blank(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if keys.contains(&key.as_str()) {
                    *value = json!("...");
                } else {
                    blank(value, keys);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| blank(value, keys)),
        _ => {}
    }
}

// --- What must hold of the writes of every run -----------------------------------------------

/// Path of the object that a write is about: a created one is named in its body. Subresources belong to their object.
pub(crate) fn object_of(write: &Write) -> String {
    let path = write.path.trim_end_matches("/status");
    match write.method.as_str() {
        "POST" => format!("{path}/{}", write.body["metadata"]["name"].as_str().unwrap_or_default()),
        _ => path.to_owned(),
    }
}

/// Path of what an entry of the inventory is about.
fn path_of(entry: &Value) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    let root = if text("group").is_empty() { "/api".to_owned() } else { format!("/apis/{}", text("group")) };
    let inside = entry["namespace"].as_str().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    format!("{root}/{}{inside}/{}/{}", text("version"), text("plural"), text("name"))
}

fn paths_in(inventory: &Value) -> Map<String, Value> {
    let entries = inventory["entries"].as_array().into_iter().flatten();
    entries.map(|entry| (path_of(entry), entry["uid"].clone())).collect()
}

const INVENTORY: &str = "/api/v1/namespaces/flux-system/configmaps/headwater-inventory";

/// Goes over the writes of a run, in their order: an object is named in the inventory before it is touched, a deletion carries
/// the UID that is recorded there or was seen alive, and nothing that was deleted is made again.
pub(crate) fn check_writes(inventory: Option<&Value>, before: &End, writes: &[Write]) -> Result<(), String> {
    let mut named = inventory.map(paths_in).unwrap_or_default();
    let mut deleted: BTreeMap<String, String> = BTreeMap::new();
    for write in writes.iter().filter(|w| w.code != 0) {
        let path = object_of(write);
        let what = format!("{} {path}", write.method);
        if path == INVENTORY {
            if write.committed() && write.method != "DELETE" {
                let text = write.body["data"]["inventory.json"].as_str().ok_or("an inventory without text")?;
                named = paths_in(&serde_json::from_str(text).map_err(|e| e.to_string())?);
            }
            continue;
        }
        // What is on the hub is no part of the installation; the namespace has to be there before the inventory; what users made is migrated.
        let is_known = path.contains("/namespaces/headwater-system/")
            || path == format!("{NAMESPACES}/flux-system") && !write.method.eq("DELETE")
            || is_custom(&path) && before.uids.contains_key(&path) && write.method != "DELETE"
            || named.contains_key(&path);
        if !is_known {
            return Err(format!("{what}: not in the inventory when it was written"));
        }
        if write.method == "DELETE" {
            let Some(uid) = write.body["preconditions"]["uid"].as_str() else {
                return Err(format!("{what}: no precondition: {}", write.body));
            };
            if let Some(recorded) = named.get(&path).and_then(Value::as_str)
                && recorded != uid
            {
                return Err(format!("{what}: UID {uid} is not the recorded {recorded}"));
            }
            if write.committed() && deleted.insert(path.clone(), uid.to_owned()).is_some_and(|other| other != uid) {
                return Err(format!("{what}: two incarnations were deleted"));
            }
        } else if write.code == 201 && deleted.contains_key(&path) {
            return Err(format!("{what}: made again after it was deleted"));
        }
    }
    Ok(())
}

/// What carries our label is in the inventory, and the other way round, with the same UIDs.
pub(crate) fn check_inventory(lane: &Lane<'_>) -> Result<(), String> {
    let named: BTreeMap<String, Value> =
        lane.site().inventory().map(|i| paths_in(&i).into_iter().collect()).unwrap_or_default();
    let mut labelled = BTreeMap::new();
    for (path, object) in lane.objects() {
        if !object["metadata"]["labels"]["headwater.dev/installation"].is_null() && path != INVENTORY {
            labelled.insert(path, object["metadata"]["uid"].clone());
        }
    }
    if named == labelled { Ok(()) } else { Err(format!("recorded: {named:#?}\nlabelled: {labelled:#?}")) }
}

/// What was there before and is to be kept is there, and is the same object.
pub(crate) fn check_identities(before: &End, after: &End, kept: impl Fn(&str) -> bool) -> Result<(), String> {
    for (path, uid) in before.uids.iter().filter(|(path, _)| kept(path)) {
        match after.uids.get(path) {
            Some(now) if now == uid => {}
            Some(_) => return Err(format!("{path} was recreated")),
            None => return Err(format!("{path} is lost")),
        }
    }
    Ok(())
}

/// Path of a CRD, for those who have only its name.
pub(crate) fn is_crd(path: &str) -> bool {
    path.starts_with(&crd(""))
}
