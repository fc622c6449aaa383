//! A kubelet of processes, for [`Kind::Flux`](crate::Kind::Flux): Deployments whose image names a
//! built Flux controller run as that program, with the Deployment's own arguments and environment
//! and a token of their own ServiceAccount, so upstream's manifests and RBAC are what is tested.
//! All other Deployments are reported as available at once, or fail as their image's name says. In [`Kind::Light`](crate::Kind::Light)
//! there are no others.
//!
//! It acts on Deployments, not Pods: there are no Pods in such a cluster.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::http::{Api, now, probe};
use crate::process::{Launch, Process};
use crate::tools::Tools;
use crate::{kubeconfig, ports};

/// Namespace and name of a Deployment.
type Key = (String, String);

/// Between two looks at the Deployments.
const PERIOD: Duration = Duration::from_millis(250);
/// Before a program that ended is started again.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Label of a node.
const ARCHITECTURE: &str = "kubernetes.io/arch";

#[derive(Debug)]
pub(crate) struct Kubelet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    addresses: Mutex<Vec<Key>>,
    pids: Mutex<BTreeMap<Key, u32>>,
    net: ports::Net,
}

impl Shared {
    /// Each Deployment keeps one address, known also before it exists: consumers are given it at
    /// their start.
    fn address(&self, key: &Key) -> String {
        let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let index = all.iter().position(|k| k == key).unwrap_or_else(|| {
            all.push(key.clone());
            all.len() - 1
        });
        format!("{}.{}", self.net.prefix, index + 2)
    }
}

struct Pod {
    template: Value,
    process: Option<Process>,
    failed_at: Option<Instant>,
    rollout: Instant,
    /// What was last written as status.
    told: Option<(i64, i64, State)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    /// The progress deadline has passed.
    Stuck,
}

struct Worker {
    api: Api,
    server: String,
    ca: Vec<u8>,
    tools: Tools,
    dir: PathBuf,
    shared: Arc<Shared>,
    /// Of the node, as its label says.
    architecture: String,
    pods: HashMap<Key, Pod>,
}

impl Kubelet {
    pub(crate) fn start(api: Api, server: &str, ca: Vec<u8>, tools: Tools, dir: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            addresses: Mutex::default(),
            pids: Mutex::default(),
            net: ports::net()?,
        });
        let mut worker = Worker {
            api,
            server: server.to_owned(),
            ca,
            tools,
            dir: dir.join("pods"),
            shared: shared.clone(),
            architecture: String::new(),
            pods: HashMap::new(),
        };
        fs::create_dir_all(&worker.dir)?;
        let log = dir.join("kubelet.log");
        let thread = std::thread::spawn(move || {
            while !worker.shared.stop.load(Ordering::Relaxed) {
                // The API server may be stopped or frozen by a test: try again.
                if let Err(e) = worker.sync() {
                    note(&log, &format!("{e:#}"));
                }
                std::thread::sleep(PERIOD);
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    pub(crate) fn address(&self, namespace: &str, name: &str) -> String {
        self.shared.address(&(namespace.to_owned(), name.to_owned()))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn note(log: &Path, line: &str) {
    use std::io::Write as _;
    if let Ok(mut file) = fs::File::options().create(true).append(true).open(log) {
        let _ = writeln!(file, "{} {line}", now());
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `source-controller` of `registry.example/flux/source-controller:v1@sha256:…`.
fn program(image: &str) -> &str {
    let last = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// Whether an image never runs: as its name says, or since it is for one architecture and the node has another.
fn doomed(image: &str, architecture: &str) -> bool {
    let other =
        image.split(['/', ':', '@']).find_map(|part| part.strip_prefix("only-")).is_some_and(|a| a != architecture);
    other || ["pull-fails", "crash-loops", "never-ready"].iter().any(|word| image.contains(word))
}

/// `1Gi` in bytes, `1000m` in whole units.
fn quantity(text: &str) -> String {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or(0);
    match &text[digits.len()..] {
        "Ki" => (number << 10).to_string(),
        "Mi" => (number << 20).to_string(),
        "Gi" => (number << 30).to_string(),
        "m" => number.div_ceil(1000).to_string(),
        _ => number.to_string(),
    }
}

impl Worker {
    fn sync(&mut self) -> Result<()> {
        let list = self.api.get("/apis/apps/v1/deployments")?;
        let nodes = self.api.get("/api/v1/nodes")?;
        let node = nodes["items"].as_array().into_iter().flatten().next().unwrap_or(&Value::Null);
        let architecture = node["metadata"]["labels"][ARCHITECTURE].as_str().unwrap_or("amd64");
        architecture.clone_into(&mut self.architecture);
        let mut seen = Vec::new();
        for deployment in list["items"].as_array().into_iter().flatten() {
            let key =
                (text(deployment, "/metadata/namespace").to_owned(), text(deployment, "/metadata/name").to_owned());
            seen.push(key.clone());
            if let Err(e) = self.sync_one(&key, deployment) {
                note(&self.dir.join("../kubelet.log"), &format!("{}/{}: {e:#}", key.0, key.1));
            }
        }
        let gone: Vec<Key> = self.pods.keys().filter(|key| !seen.contains(key)).cloned().collect();
        for key in gone {
            self.end(&key);
            self.pods.remove(&key);
        }
        let running = self.pods.iter().filter_map(|(k, p)| Some((k.clone(), p.process.as_ref()?.pid()))).collect();
        *self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner) = running;
        Ok(())
    }

    fn end(&mut self, key: &Key) {
        if let Some(process) = self.pods.get_mut(key).and_then(|pod| pod.process.take()) {
            process.terminate(Duration::from_secs(3));
        }
    }

    fn sync_one(&mut self, key: &Key, deployment: &Value) -> Result<()> {
        let template = &deployment["spec"]["template"];
        let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        if self.pods.get(key).is_some_and(|pod| pod.template != *template) {
            self.end(key);
            self.pods.remove(key);
        }
        let pod = self.pods.entry(key.clone()).or_insert_with(|| Pod {
            template: template.clone(),
            process: None,
            failed_at: None,
            rollout: Instant::now(),
            told: None,
        });
        if let Some(process) = &mut pod.process
            && !process.running()
        {
            pod.process = None;
            pod.failed_at = Some(Instant::now());
        }
        let container = &template["spec"]["containers"][0];
        let image = text(container, "/image").to_owned();
        let mut ready = !doomed(&image, &self.architecture);
        if replicas == 0 {
            self.end(key);
        } else if ready && let Some(exe) = self.tools.find(program(&image)) {
            let waiting = pod.failed_at.is_some_and(|at| at.elapsed() < BACK_OFF);
            if pod.process.is_none() && !waiting {
                // A status first: a rollout is seen as one, even when the program is ready soon.
                self.tell(key, deployment, replicas, State::Starting)?;
                let process = self.launch(key, deployment, &exe)?;
                if let Some(pod) = self.pods.get_mut(key) {
                    pod.process = Some(process);
                }
            }
            let port = named_port(container, "/readinessProbe/httpGet/port");
            let path = text(container, "/readinessProbe/httpGet/path");
            let url = format!("http://{}:{port}{path}", self.shared.address(key));
            let running = self.pods.get(key).is_some_and(|pod| pod.process.is_some());
            ready = running && probe(&url).is_some_and(|code| code < 400);
        }
        let patience = deployment.pointer("/spec/progressDeadlineSeconds").and_then(Value::as_u64).unwrap_or(600);
        let late = self.pods.get(key).is_some_and(|pod| {
            let complete = matches!(pod.told, Some((_, _, State::Ready)));
            !complete && pod.rollout.elapsed() > Duration::from_secs(patience)
        });
        let state = match (ready, late) {
            (true, _) => State::Ready,
            (false, true) => State::Stuck,
            (false, false) => State::Starting,
        };
        self.tell(key, deployment, replicas, state)
    }

    /// Writes the Deployment's status when it differs from what was written last.
    fn tell(&mut self, key: &Key, deployment: &Value, replicas: i64, state: State) -> Result<()> {
        let generation = deployment.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let Some(pod) = self.pods.get_mut(key) else { return Ok(()) };
        if pod.told == Some((generation, replicas, state)) {
            return Ok(());
        }
        let ready = if state == State::Ready { replicas } else { 0 };
        let all_ready = ready == replicas;
        let (progressing, reason) = match state {
            State::Ready => ("True", "NewReplicaSetAvailable"),
            State::Starting => ("True", "ReplicaSetUpdated"),
            State::Stuck => ("False", "ProgressDeadlineExceeded"),
        };
        let (available, why) =
            if all_ready { ("True", "MinimumReplicasAvailable") } else { ("False", "MinimumReplicasUnavailable") };
        let time = now();
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "written by the test bed",
                   "lastUpdateTime": time, "lastTransitionTime": time})
        };
        let status = json!({"status": {
            "observedGeneration": generation,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": replicas - ready,
            "conditions": [condition("Available", available, why), condition("Progressing", progressing, reason)],
        }});
        self.api.merge(&format!("/apis/apps/v1/namespaces/{}/deployments/{}/status", key.0, key.1), &status)?;
        pod.told = Some((generation, replicas, state));
        Ok(())
    }

    fn launch(&self, key: &Key, deployment: &Value, exe: &Path) -> Result<Process> {
        let (namespace, name) = key;
        let spec = &deployment["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let home = self.dir.join(format!("{namespace}.{name}"));
        let (data, tmp) = (home.join("data"), home.join("tmp"));
        fs::create_dir_all(&data)?;
        fs::create_dir_all(&tmp)?;
        let address = self.shared.address(key);
        let other =
            |name: &str, port: u16| format!("{}:{port}", self.shared.address(&(namespace.clone(), name.to_owned())));

        let account = match text(spec, "/serviceAccountName") {
            "" => "default",
            account => account,
        };
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                             "spec": {"expirationSeconds": 86_400}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api.post(&path, &request).context("token of its ServiceAccount")?;
        let config = kubeconfig::with_token(&self.server, &self.ca, account, text(&answer, "/status/token"));
        let config_file = home.join("kubeconfig");
        kubeconfig::write_private(&config_file, &config)?;

        let mut env = environment(container, namespace, name, &address)?;
        for value in env.values_mut() {
            if let Some(rest) = value.strip_prefix("/tmp") {
                *value = format!("{}{rest}", tmp.display());
            }
        }
        for (variable, value) in [
            ("HOME", tmp.display().to_string()),
            ("TMPDIR", tmp.display().to_string()),
            ("KUBECONFIG", config_file.display().to_string()),
            // Artifacts are advertised under the Service's name; this makes consumers ask here.
            ("SOURCE_CONTROLLER_LOCALHOST", other("source-controller", 9090)),
        ] {
            env.insert(variable.to_owned(), value);
        }

        let mut args = Vec::new();
        for arg in container["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let mut arg = arg.to_owned();
            for (variable, value) in &env {
                arg = arg.replace(&format!("$({variable})"), value);
            }
            if arg.starts_with("--events-addr=") {
                arg = format!("--events-addr=http://{}/", other("notification-controller", 9090));
            }
            // One of them only: `data` itself is below /tmp.
            for (from, to) in [("=/data", &data), ("=/tmp", &tmp)] {
                if arg.contains(from) {
                    arg = arg.replacen(from, &format!("={}", to.display()), 1);
                    break;
                }
            }
            args.push(arg);
        }
        // The last one counts. Leader election reads its namespace from a mounted volume only.
        args.extend([
            format!("--metrics-addr={address}:8080"),
            format!("--health-addr={address}:9440"),
            "--enable-leader-election=false".to_owned(),
        ]);
        match program(text(container, "/image")) {
            "source-controller" => args.push(format!("--storage-addr={address}:9090")),
            "notification-controller" => args.extend([
                // For this controller it is where it listens.
                format!("--events-addr={address}:9090"),
                format!("--receiverAddr={address}:9292"),
            ]),
            _ => {}
        }
        Process::spawn(&Launch {
            name: name.clone(),
            program: exe.to_owned(),
            args,
            env: env.into_iter().collect(),
            dir: home.clone(),
            log: home.join("log"),
        })
    }
}

/// The number of a port that a probe names.
fn named_port(container: &Value, pointer: &str) -> i64 {
    let port = container.pointer(pointer).unwrap_or(&Value::Null);
    let by_name = || container["ports"].as_array()?.iter().find(|p| p["name"] == *port)?["containerPort"].as_i64();
    port.as_i64().or_else(by_name).unwrap_or(9440)
}

fn environment(container: &Value, namespace: &str, name: &str, address: &str) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let field = text(entry, "/valueFrom/fieldRef/fieldPath");
        let resource = text(entry, "/valueFrom/resourceFieldRef/resource");
        let value = if !field.is_empty() {
            match field {
                "metadata.namespace" => namespace.to_owned(),
                "metadata.name" => name.to_owned(),
                "status.podIP" => address.to_owned(),
                other => bail!("field {other} is not known here"),
            }
        } else if !resource.is_empty() {
            let (list, what) = resource.split_once('.').unwrap_or(("limits", resource));
            let text = container["resources"][list][what].as_str();
            let Some(text) = text else { continue };
            quantity(text)
        } else {
            text(entry, "/value").to_owned()
        };
        env.insert(text(entry, "/name").to_owned(), value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_its_program() {
        for image in
            ["source-controller", "r.example:5000/a/source-controller:v1.9.4", "a/source-controller:v1@sha256:0"]
        {
            assert_eq!(program(image), "source-controller");
        }
    }

    #[test]
    fn images_fail_as_their_name_says() {
        assert!(!doomed("ghcr.io/fluxcd/source-controller:v1.9.4", "arm64"));
        assert!(doomed("registry.example/pull-fails/source-controller:v1.9.4", "amd64"));
        assert!(doomed("registry.example/only-amd64/source-controller:v1.9.4@sha256:0", "arm64"));
        assert!(!doomed("registry.example/only-amd64/source-controller:v1.9.4@sha256:0", "amd64"));
    }

    #[test]
    fn quantities_become_numbers() {
        assert_eq!(quantity("1Gi"), "1073741824");
        assert_eq!(quantity("1000m"), "1");
        assert_eq!(quantity("2"), "2");
    }
}
