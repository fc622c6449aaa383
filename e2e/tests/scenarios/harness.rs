//! What scenarios are written with: clusters, operators of the real binary, and looks at the API server that wait.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use headwater::api::REQUESTED_AT;
use headwater_e2e::process::{Launch, Process};
use headwater_e2e::{AuditEvent, AuditMark, Cluster, Kind, Options, Registry, RegistryOptions, Token};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The user all operators are, on every cluster: what it does can be told apart in audit logs.
pub(crate) const OPERATOR: &str = "operator";
/// Tokens of that user, known to every cluster from its start.
pub(crate) const TOKENS: [&str; 2] = ["operator-token-one", "operator-token-two"];
/// Another user, so that two operators can be told apart, and its token.
pub(crate) const RIVAL: (&str, &str) = ("rival", "rival-token");
/// Longest wait for what should take a second or two; generous, since machines are busy.
pub(crate) const SOON: u64 = 40;
/// Old and new version of the bundles in this repository.
pub(crate) const OLD: &str = "2.8.8";
/// See [`OLD`].
pub(crate) const NEW: &str = "2.9.4";
/// Objects of the default components of [`NEW`].
pub(crate) const OBJECTS: usize = 32;

const INVENTORY: &str = "/api/v1/namespaces/flux-system/configmaps/headwater-inventory";

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// Waits until `look` is content; `Err` says what it saw instead, and is shown when time is up.
pub(crate) fn eventually<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: not within {seconds} s; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `Ok` when it holds; for [`eventually`].
pub(crate) fn holds(condition: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{seen:?}")) }
}

// --- What all scenarios share ---------------------------------------------------------------

/// The binary, a registry, and both bundles in it.
pub(crate) struct World {
    /// The registry.
    pub(crate) registry: Registry,
    /// `headwater`.
    pub(crate) binary: PathBuf,
    /// Built bundles.
    pub(crate) dist: tempfile::TempDir,
    /// Digest by version.
    pub(crate) digests: BTreeMap<String, String>,
}

/// Starts it once.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let binary = std::env::var_os("HEADWATER_BIN").map_or_else(beside_us, PathBuf::from);
        assert!(binary.exists(), "{} is missing: run `cargo build --bin headwater` first", binary.display());
        let registry = Registry::start(&RegistryOptions::default()).unwrap();
        let mut world = World { registry, binary, dist: tempfile::tempdir().unwrap(), digests: BTreeMap::new() };
        let built = run(&world.binary, &["bundle", "build", &in_repository("bundles/flux"), "-o", world.path()], &[]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        for version in [OLD, NEW] {
            world.digests.insert(version.to_owned(), world.push(version, "flux"));
        }
        world
    })
}

impl World {
    fn path(&self) -> &str {
        self.dist.path().to_str().unwrap()
    }

    /// The built bundle of a version.
    pub(crate) fn bundle(&self, version: &str) -> String {
        self.dist.path().join(format!("flux-{version}.tar.gz")).display().to_string()
    }

    /// `oci://` address of a repository.
    pub(crate) fn repository(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.registry.address())
    }

    /// Pushes a version to a repository and returns its digest.
    pub(crate) fn push(&self, version: &str, repository: &str) -> String {
        let to = self.repository(repository);
        let pushed = run(&self.binary, &["bundle", "push", &self.bundle(version), "--to", &to, "--insecure"], &[]);
        assert_eq!(pushed.code, 0, "{}", pushed.stderr);
        pushed.stdout.trim().rsplit('@').next().unwrap().to_owned()
    }
}

fn beside_us() -> PathBuf {
    // target/PROFILE/deps/scenarios-HASH
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("headwater")
}

/// A path in this repository.
pub(crate) fn in_repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path).display().to_string()
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs a program with this environment only.
pub(crate) fn run(binary: &Path, args: &[&str], env: &[(&str, &str)]) -> Ended {
    let output = Command::new(binary)
        .args(args)
        .env_clear()
        .env("HOME", std::env::temp_dir())
        .envs(env.iter().copied())
        .output()
        .unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `headwater`.
pub(crate) fn headwater(args: &[&str], env: &[(&str, &str)]) -> Ended {
    run(&world().binary, args, env)
}

// --- Clusters -------------------------------------------------------------------------------

/// Clusters at a time: each takes a third of a gigabyte, and a busy processor to start.
const CLUSTERS: usize = 12;
static IN_USE: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

struct Slot;

impl Slot {
    /// All at once, else tests that hold one each and want another would wait for each other.
    fn take(count: usize) -> Vec<Self> {
        let used = IN_USE.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = IN_USE.1.wait_while(used, |used| *used + count > CLUSTERS).unwrap();
        *used += count;
        (0..count).map(|_| Self).collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *IN_USE.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        IN_USE.1.notify_all();
    }
}

/// A cluster, and requests to it as its administrator.
pub(crate) struct Site {
    cluster: Cluster,
    client: kube::Client,
    _slot: Option<Slot>,
}

impl Deref for Site {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// An answer that is no success: code and message.
pub(crate) type Refused = (u16, String);

impl Site {
    /// Starts one.
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_many(kind, 1).remove(0)
    }

    /// Starts several.
    pub(crate) fn start_many(kind: Kind, count: usize) -> Vec<Self> {
        Self::start_in(kind, Slot::take(count).into_iter().map(Some).collect())
    }

    fn start_in(kind: Kind, slots: Vec<Option<Slot>>) -> Vec<Self> {
        let users = TOKENS.map(|token| (OPERATOR, token)).into_iter().chain([RIVAL]);
        let tokens = users.map(|(user, token)| Token {
            token: token.to_owned(),
            user: user.to_owned(),
            groups: vec!["system:masters".to_owned()],
        });
        let options = Options { kind, tokens: tokens.collect() };
        let clusters = Cluster::start_many(&options, slots.len()).unwrap();
        clusters.into_iter().zip(slots).map(|(cluster, slot)| Self::of(cluster, slot)).collect()
    }

    fn of(cluster: Cluster, slot: Option<Slot>) -> Self {
        let config = headwater::cluster::Kubeconfig::parse(cluster.kubeconfig().as_bytes()).unwrap().config();
        let _inside = RUNTIME.enter();
        let client = headwater::cluster::connect(&config, &headwater::cluster::Gate::open()).unwrap();
        Self { cluster, client, _slot: slot }
    }

    /// One with our CRDs, so that it can be a hub.
    pub(crate) fn hub(kind: Kind) -> Self {
        let site = Self::start(kind);
        site.install_crds();
        site
    }

    fn install_crds(&self) {
        self.kubectl(&["apply", "--server-side", "-k", &in_repository("crds")]).unwrap();
        eventually("our CRD is served", SOON, || {
            self.request("GET", "/apis/headwater.dev/v1alpha1/fluxfleets", None).map_err(|e| format!("{e:?}"))
        });
    }

    /// The kubeconfig operators use.
    pub(crate) fn for_operator(&self) -> String {
        self.kubeconfig_with(OPERATOR, TOKENS[0])
    }

    /// Any request.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Value, Refused> {
        let mut request = http::Request::builder().method(method).uri(path);
        let mut bytes = vec![];
        if let Some((media_type, body)) = body {
            request = request.header("content-type", media_type);
            bytes = body.to_string().into_bytes();
        }
        let request = request.body(bytes).unwrap();
        let sent = async { tokio::time::timeout(Duration::from_secs(10), self.client.request::<Value>(request)).await };
        match RUNTIME.block_on(sent) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) => Err((status.code, status.message.clone())),
            Ok(Err(error)) => Err((0, error.to_string())),
            Err(_) => Err((0, "no answer within 10 s".to_owned())),
        }
    }

    /// The object, if there is one.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        match self.request("GET", path, None) {
            Ok(value) => Some(value),
            Err((404, _)) => None,
            Err(error) => panic!("GET {path}: {error:?}"),
        }
    }

    /// The object.
    pub(crate) fn must_get(&self, path: &str) -> Value {
        self.get(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    /// Creates an object in a collection.
    pub(crate) fn create(&self, collection: &str, object: &Value) -> Value {
        self.request("POST", collection, Some(("application/json", object))).unwrap()
    }

    /// Merge patch, as `kubectl patch` and `kubectl label` do it.
    pub(crate) fn merge(&self, path: &str, change: &Value) -> Value {
        self.request("PATCH", path, Some(("application/merge-patch+json", change))).unwrap()
    }

    /// The same, if the object is there.
    pub(crate) fn merge_if_there(&self, path: &str, change: &Value) {
        match self.request("PATCH", path, Some(("application/merge-patch+json", change))) {
            Ok(_) | Err((404, _)) => {}
            Err(error) => panic!("PATCH {path}: {error:?}"),
        }
    }

    /// Deletes an object, if it is there.
    pub(crate) fn delete(&self, path: &str) {
        match self.request("DELETE", path, None) {
            Ok(_) | Err((404, _)) => {}
            Err(error) => panic!("DELETE {path}: {error:?}"),
        }
    }

    /// UID of an object.
    pub(crate) fn uid(&self, path: &str) -> Option<String> {
        self.get(path).map(|o| o["metadata"]["uid"].as_str().unwrap().to_owned())
    }

    /// Everything in the audit log since then; what was answered before this call is in it.
    pub(crate) fn settled(&self, since: AuditMark) -> Vec<AuditEvent> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let name = format!("sentinel-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let _ = self.request("GET", &format!("/api/v1/namespaces/{name}"), None);
        self.audit_wait(since, Duration::from_secs(10), |e| e.name == name).unwrap();
        self.audit(since).unwrap().into_iter().filter(|e| e.name != name).collect()
    }

    /// What operators asked of this cluster since then, apart from watches, and from who leads.
    pub(crate) fn asked(&self, since: AuditMark) -> Vec<AuditEvent> {
        let all = self.settled(since).into_iter();
        all.filter(|e| e.user == OPERATOR && e.verb != "watch" && e.resource != "leases").collect()
    }

    /// What operators wrote on this cluster since then, apart from instances, their revisions and events: those belong to hubs.
    pub(crate) fn written(&self, since: AuditMark) -> Vec<AuditEvent> {
        let all = self.asked(since).into_iter();
        let is_of_hub = |e: &AuditEvent| {
            matches!(e.group.as_str(), "headwater.dev" | "events.k8s.io") || e.resource == "controllerrevisions"
        };
        all.filter(|e| e.writes() && !is_of_hub(e)).collect()
    }

    /// The same as short texts: `patch deployments flux-system/source-controller`.
    pub(crate) fn written_texts(&self, since: AuditMark) -> Vec<String> {
        self.written(since).iter().map(text_of).collect()
    }

    /// The stored inventory.
    pub(crate) fn inventory(&self) -> Option<Value> {
        let map = self.get(INVENTORY)?;
        Some(serde_json::from_str(map["data"]["inventory.json"].as_str().unwrap()).unwrap())
    }

    /// `Kind/name` and UID of all entries of the inventory, each verified to be the UID of the live object.
    pub(crate) fn inventory_uids(&self) -> BTreeMap<String, String> {
        self.inventory_uids_without(&[])
    }

    /// The same, without some.
    pub(crate) fn inventory_uids_without(&self, skipped: &[&str]) -> BTreeMap<String, String> {
        let inventory = self.inventory().expect("there is an inventory");
        let entries = inventory["entries"].as_array().unwrap();
        let uids = entries.iter().filter_map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let key = format!("{}/{}", text("kind"), text("name"));
            if skipped.contains(&key.as_str()) {
                return None;
            }
            let root = match text("group").as_str() {
                "" => "/api".to_owned(),
                group => format!("/apis/{group}"),
            };
            let inside = entry["namespace"].as_str().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
            let path = format!("{root}/{}{inside}/{}/{}", text("version"), text("plural"), text("name"));
            let live = self.uid(&path).unwrap_or_else(|| panic!("{path} is in the inventory but not there"));
            assert_eq!(text("uid"), live, "{path}: UID in the inventory");
            Some((key, live))
        });
        uids.collect()
    }
}

/// `patch deployments flux-system/source-controller`
pub(crate) fn text_of(event: &AuditEvent) -> String {
    let place = if event.namespace.is_empty() || event.resource == "namespaces" {
        event.name.clone()
    } else {
        format!("{}/{}", event.namespace, event.name)
    };
    let sub = if event.subresource.is_empty() { String::new() } else { format!("/{}", event.subresource) };
    format!("{} {}{sub} {place}", event.verb, event.resource)
}

/// The hub of scenarios that manage remote clusters. It is never stopped.
pub(crate) fn shared_hub() -> &'static Site {
    static HUB: OnceLock<Site> = OnceLock::new();
    HUB.get_or_init(|| {
        // It lives as long as the process, so it must not count against the scenarios; and scenarios that have all places wait
        // for it.
        let hub = Site::start_in(Kind::Plain, vec![None]).remove(0);
        hub.install_crds();
        hub
    })
}

/// Path of an object in `flux-system`.
pub(crate) fn in_flux(kind: &str, name: &str) -> String {
    match kind {
        "deployments" => format!("/apis/apps/v1/namespaces/flux-system/deployments/{name}"),
        _ => format!("/api/v1/namespaces/flux-system/{kind}/{name}"),
    }
}

/// Path of a CRD.
pub(crate) fn crd(name: &str) -> String {
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
}

/// Path of a cluster role.
pub(crate) fn cluster_role(name: &str) -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}")
}

// --- Tenants --------------------------------------------------------------------------------

/// A namespace of a hub with an operator of its own.
pub(crate) struct Tenant<'a> {
    /// The hub.
    pub(crate) hub: &'a Site,
    /// The namespace.
    pub(crate) namespace: String,
    dir: tempfile::TempDir,
    running: Mutex<Option<(Process, u16)>>,
}

impl<'a> Tenant<'a> {
    /// Makes the namespace and starts the operator.
    pub(crate) fn new(hub: &'a Site, namespace: &str) -> Self {
        let tenant = Self::without_operator(hub, namespace, &hub.for_operator());
        tenant.start();
        tenant
    }

    /// Makes the namespace; [`Tenant::start`] starts an operator with this kubeconfig.
    pub(crate) fn without_operator(hub: &'a Site, namespace: &str, kubeconfig: &str) -> Self {
        let path = "/api/v1/namespaces";
        if hub.get(&format!("{path}/{namespace}")).is_none() {
            hub.create(path, &json!({"metadata": {"name": namespace}}));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { hub, namespace: namespace.to_owned(), dir, running: Mutex::default() }
    }

    /// Path of the kubeconfig of the operator, which points to the hub.
    pub(crate) fn kubeconfig(&self) -> String {
        self.dir.path().join("kubeconfig").display().to_string()
    }

    /// Path for a file of the test.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// The operator's log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("operator.log")).unwrap_or_default()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<(Process, u16)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the operator and waits until it is ready.
    pub(crate) fn start(&self) {
        self.start_with(&[]);
    }

    /// The same with more arguments.
    pub(crate) fn start_with(&self, more: &[&str]) {
        self.start_in(more, &[]);
    }

    /// The same with more in its environment.
    pub(crate) fn start_in(&self, more: &[&str], env: &[(&str, &str)]) {
        let mut running = self.running();
        for _ in 0..3 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{port}");
            let own =
                ["operator", "--namespace", &self.namespace, "--metrics-addr", &address, "--health-addr", &address];
            let launch = Launch {
                name: "operator".into(),
                program: world().binary.clone(),
                args: [&own, more].concat().into_iter().map(str::to_owned).collect(),
                env: [
                    ("KUBECONFIG", self.kubeconfig().as_str()),
                    // Who is started again has its lease at once.
                    ("HEADWATER_IDENTITY", "operator"),
                    ("HOME", self.dir.path().display().to_string().as_str()),
                    ("RUST_LOG", "info,headwater=debug"),
                ]
                .iter()
                .chain(env)
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
                dir: self.dir.path().to_owned(),
                log: self.dir.path().join("operator.log"),
            };
            let mut process = Process::spawn(&launch).unwrap();
            let deadline = Instant::now() + Duration::from_secs(SOON);
            while process.running() && Instant::now() < deadline {
                if probe(&format!("http://{address}/readyz")).is_some_and(|(code, _)| code == 200) {
                    *running = Some((process, port));
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("the operator did not become ready:\n{}", self.log());
    }

    /// Process id of the operator.
    pub(crate) fn pid(&self) -> u32 {
        self.running().as_ref().map(|(process, _)| process.pid()).expect("the operator was started")
    }

    /// SIGKILL: no chance to finish anything.
    pub(crate) fn kill(&self) {
        self.running().take();
    }

    /// SIGTERM; returns how it ended.
    pub(crate) fn stop(&self) -> String {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running().as_ref().expect("the operator was started").0.signal(signal).unwrap();
    }

    /// Waits until it ends by itself; returns how.
    pub(crate) fn ended(&self) -> String {
        let (mut process, _) = self.running().take().unwrap();
        eventually("the operator ends", SOON, || match process.check() {
            Ok(()) => Err("it runs".to_owned()),
            Err(error) => Ok(error.to_string()),
        })
    }

    /// A page of its HTTP server.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let port = self.running().as_ref()?.1;
        probe(&format!("http://127.0.0.1:{port}{path}"))
    }

    /// Passes this operator has made over an instance.
    pub(crate) fn passes(&self, instance: &str) -> u64 {
        let (_, text) = self.page("/metrics").expect("the operator answers");
        let wanted = format!("instance=\"{instance}\"");
        let lines = text.lines().filter(|l| l.starts_with("headwater_passes_total{") && l.contains(&wanted));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Makes the operator look again, and waits until it has: a whole pass that began after everything that was said before.
    pub(crate) fn poke(&self, instance: &str) {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        self.patch(instance, &json!({"metadata": {"annotations": {REQUESTED_AT: count}}}));
        eventually("the pass that was asked for", SOON, || {
            let handled = self.status(instance)["lastHandledReconcileAt"].clone();
            holds(handled == count.as_str(), handled)
        });
    }

    /// Path of an instance.
    pub(crate) fn path(&self, instance: &str) -> String {
        format!("{}/{instance}", self.collection())
    }

    fn collection(&self) -> String {
        format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxinstances", self.namespace)
    }

    /// The instance as an object.
    pub(crate) fn object(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        })
    }

    /// Creates an instance.
    pub(crate) fn create(&self, name: &str, spec: &Value) {
        self.hub.create(&self.collection(), &self.object(name, spec));
    }

    /// Tries to; the server's text when it is refused.
    pub(crate) fn try_create(&self, name: &str, spec: &Value) -> Result<(), String> {
        let path = format!("{}?fieldValidation=Strict", self.collection());
        let object = self.object(name, spec);
        self.hub.request("POST", &path, Some(("application/json", &object))).map(drop).map_err(|(_, text)| text)
    }

    /// Changes an instance.
    pub(crate) fn patch(&self, name: &str, patch: &Value) {
        self.hub.merge(&self.path(name), patch);
    }

    /// Asks for its deletion.
    pub(crate) fn delete(&self, name: &str) {
        self.hub.delete(&self.path(name));
    }

    /// Waits until it is gone.
    pub(crate) fn gone(&self, name: &str, seconds: u64) {
        eventually(&format!("{name} is gone"), seconds, || match self.hub.get(&self.path(name)) {
            None => Ok(()),
            Some(object) => Err(object["status"]["conditions"].to_string()),
        });
    }

    /// Its status.
    pub(crate) fn status(&self, name: &str) -> Value {
        self.hub.must_get(&self.path(name))["status"].clone()
    }

    /// The status without the answer to who asked for a look.
    pub(crate) fn said(&self, name: &str) -> Value {
        let mut status = self.status(name);
        status.as_object_mut().unwrap().remove("lastHandledReconcileAt");
        status
    }

    /// A condition, with what it says of the newest generation only.
    pub(crate) fn condition(&self, name: &str, type_: &str) -> Option<Condition> {
        let object = self.hub.get(&self.path(name))?;
        let list = object["status"]["conditions"].as_array()?.clone();
        let found = list.into_iter().find(|c| c["type"] == type_)?;
        (found["observedGeneration"] == object["metadata"]["generation"]).then(|| {
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            Condition { status: text("status"), reason: text("reason"), message: text("message") }
        })
    }

    /// Waits for a condition.
    pub(crate) fn wait(&self, name: &str, type_: &str, seconds: u64, wanted: impl Fn(&Condition) -> bool) -> Condition {
        eventually(&format!("{name}: {type_}"), seconds, || match self.condition(name, type_) {
            Some(condition) if wanted(&condition) => Ok(condition),
            _ => Err(self.hub.get(&self.path(name)).map_or("nothing".to_owned(), |o| o["status"].to_string())),
        })
    }

    /// Waits until Ready is True.
    pub(crate) fn ready(&self, name: &str) -> Condition {
        self.wait(name, "Ready", SOON, |c| c.status == "True")
    }

    /// Waits until Ready is False with this reason.
    pub(crate) fn fails(&self, name: &str, reason: &str) -> Condition {
        self.wait(name, "Ready", SOON, |c| c.status == "False" && c.reason == reason)
    }

    /// Gives the word for the deletions that wait for one.
    pub(crate) fn confirm(&self, name: &str) {
        let blocked = self.fails(name, "PruneBlocked").message;
        let word = blocked.rsplit([' ', '`']).find(|word| word.starts_with("sha256:")).unwrap();
        self.patch(name, &json!({"metadata": {"annotations": {"headwater.dev/confirm": word}}}));
    }

    /// Reason and note of all events of an instance, oldest first.
    pub(crate) fn events(&self, name: &str) -> Vec<(String, String)> {
        let list = self.hub.must_get(&format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace));
        let mut events: Vec<&Value> =
            list["items"].as_array().unwrap().iter().filter(|e| e["regarding"]["name"] == name).collect();
        events.sort_by_key(|e| e["eventTime"].as_str().unwrap_or_default().to_owned());
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        events.into_iter().map(|e| (text(&e["reason"]), text(&e["note"]))).collect()
    }

    /// Waits for an event.
    pub(crate) fn event(&self, name: &str, reason: &str) -> String {
        eventually(&format!("{name}: event {reason}"), SOON, || {
            let events = self.events(name);
            let found = events.iter().find(|(r, _)| r == reason).map(|(_, note)| note.clone());
            found.ok_or_else(|| format!("{events:?}"))
        })
    }

    /// Creates or replaces a Secret with one key.
    pub(crate) fn secret(&self, name: &str, key: &str, value: &str) {
        self.secret_of(name, &json!({key: value}));
    }

    /// Creates or replaces a Secret.
    pub(crate) fn secret_of(&self, name: &str, data: &Value) {
        let collection = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let path = format!("{collection}/{name}");
        let object = json!({"metadata": {"name": name}, "stringData": data});
        if self.hub.get(&path).is_some() {
            self.hub.merge(&path, &json!({"data": null, "stringData": data}));
        } else {
            self.hub.create(&collection, &object);
        }
    }

    /// A Secret `NAME-kubeconfig` for a cluster, and the spec of an instance of it.
    pub(crate) fn remote(&self, name: &str, target: &Site, version: &str) -> Value {
        let secret = format!("{name}-kubeconfig");
        self.secret(&secret, "value", &target.for_operator());
        let mut spec = spec(version);
        spec["kubeConfig"] = json!({"secretRef": {"name": secret}});
        spec
    }

    /// A remote instance that is installed; its deployments have nobody to run them.
    pub(crate) fn installed(&self, name: &str, target: &Site, version: &str) {
        let spec = self.remote(name, target, version);
        self.create(name, &spec);
        self.ready(name);
    }
}

impl Drop for Tenant<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|l| !l.contains("\"DEBUG\"")).collect();
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the operator of {} said last:\n{end}", self.namespace);
        }
    }
}

/// A condition of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    /// A word.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

/// A spec that installs a version and does not wait for health.
pub(crate) fn spec(version: &str) -> Value {
    json!({
        "distribution": {"version": version, "artifact": world().repository("flux"), "insecure": true},
        "wait": false,
    })
}

/// Status and body of a plain GET, or nothing when nobody answers.
pub(crate) fn probe(url: &str) -> Option<(u16, String)> {
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(2)))
        .build();
    let mut answer = config.new_agent().get(url).call().ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
}

/// Runs a future of the library.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}
