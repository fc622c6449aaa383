//! One cluster: etcd, a real kube-apiserver, and what its [`Kind`] adds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::audit::{self, AuditEvent, AuditMark};
use crate::http::Api;
use crate::kubelet::Kubelet;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::say::say;
use crate::tools::{Module, Tools, ensure};
use crate::{dirs, kubeconfig, ports};

/// What runs in a [`Cluster`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// etcd and kube-apiserver: objects, RBAC, tokens and audit, but nothing acts on them.
    #[default]
    Plain,
    /// Plus one node in name only: Deployments become available at once, or fail as their image's name says, for instance
    /// since it is `only-amd64` and the node's label `kubernetes.io/arch` is another. Nothing runs.
    Light,
    /// Plus kube-controller-manager, kube-scheduler and kwok with one node: Deployments get
    /// ReplicaSets and Pods, and roll out or fail as their image's name says.
    Full,
    /// Plus kube-controller-manager without workloads, and the real source-, kustomize- and
    /// notification-controller as processes for the Deployments that name their images.
    Flux,
}

/// A bearer token and the user it stands for.
#[derive(Debug, Clone)]
pub struct Token {
    /// The secret part.
    pub token: String,
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// How to start a [`Cluster`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What runs in it.
    pub kind: Kind,
    /// Static tokens known from the start (later ones cost a restart of the API server).
    pub tokens: Vec<Token>,
}

impl Options {
    /// Of this kind, all else by default.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// A running cluster; dropped means that all of its processes and files are gone.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in this order. The API server must go before etcd: without etcd it would not
    // end on SIGTERM, and both are killed anyway.
    api: Mutex<Option<Process>>,
    others: Vec<Process>,
    kubelet: Option<Kubelet>,
    kind: Kind,
    client: Api,
    ca: Vec<u8>,
    admin: String,
    tokens: Mutex<Vec<Token>>,
    api_launch: Launch,
    api_port: Port,
    _ports: Vec<Port>,
    tools: Tools,
    dir: tempfile::TempDir,
}

const ADMIN: &str = "admin";
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
"omitStages": ["RequestReceived", "ResponseStarted"], "rules": [{"level": "Metadata"}]}"#;
const START_PATIENCE: Duration = Duration::from_secs(60);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicking test must still be able to clean up.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn secret() -> Result<String> {
    let mut bytes = [0_u8; 24];
    aws_lc_rs::rand::fill(&mut bytes).context("random bytes")?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Makes the key pair of ServiceAccount tokens. The API server reads the public key from a private
/// one only in older formats than this, so it gets a file of its own.
fn make_signing_key(dir: &Path) -> Result<()> {
    let pem = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
    };
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).context("generate signing key")?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).context("read signing key")?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().context("encode public key")?;
    kubeconfig::write_private(&dir.join("sa.key"), &pem("PRIVATE KEY", der.as_ref()))?;
    kubeconfig::write_private(&dir.join("sa.pub"), &pem("PUBLIC KEY", public.as_ref()))
}

/// What has to be built for a cluster of this kind.
pub fn modules(kind: Kind) -> &'static [Module] {
    match kind {
        Kind::Plain | Kind::Light => &[Module::Kubernetes],
        Kind::Full => &[Module::Kubernetes, Module::Kwok],
        Kind::Flux => {
            &[Module::Kubernetes, Module::SourceController, Module::KustomizeController, Module::NotificationController]
        }
    }
}

/// Whether kube-controller-manager runs.
fn has_manager(kind: Kind) -> bool {
    match kind {
        Kind::Plain | Kind::Light => false,
        Kind::Full | Kind::Flux => true,
    }
}

/// kube-controller-manager gives up on an API server that is not healthy after 10 s.
fn is_worth_another_try(error: &str) -> bool {
    error.contains("address already in use") || error.contains("failed to wait for apiserver being healthy")
}

fn wait<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

impl Cluster {
    /// Starts a cluster and waits until it can be used.
    pub fn start(options: &Options) -> Result<Self> {
        // Ports are reserved among beds, but any other program may take one just before us.
        let mut failure = None;
        for _ in 0..3 {
            match Self::try_start(options) {
                Ok(cluster) => return Ok(cluster),
                Err(e) if is_worth_another_try(&format!("{e:#}")) => {
                    say("a port was taken by another program, or the machine is too busy; starting again");
                    failure = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("the cluster did not start")))
    }

    /// Starts several of one kind at once.
    pub fn start_many(options: &Options, count: usize) -> Result<Vec<Self>> {
        Self::start_all(&vec![options.clone(); count])
    }

    /// Starts several at once, each as it is wanted.
    pub fn start_all(options: &[Options]) -> Result<Vec<Self>> {
        for one in options {
            ensure(modules(one.kind))?;
        }
        std::thread::scope(|scope| {
            let starts: Vec<_> = options.iter().map(|one| scope.spawn(|| Self::start(one))).collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap_or_else(|_| bail!("starting a cluster panicked")))
                .collect()
        })
    }

    fn try_start(options: &Options) -> Result<Self> {
        let tools = ensure(modules(options.kind))?;
        let dir = dirs::run_dir("cluster")?;
        let path = dir.path();
        fs::write(path.join("audit-policy.json"), AUDIT_POLICY)?;
        make_signing_key(path)?;
        let mut tokens = vec![];
        for user in [ADMIN, "bed:controller-manager", "bed:scheduler", "bed:kwok", "bed:kubelet"] {
            tokens.push(Token { token: secret()?, user: user.into(), groups: vec!["system:masters".into()] });
        }
        let token_of = |user: &str| tokens.iter().find(|t| t.user == user).map(|t| t.token.clone()).unwrap_or_default();
        let (admin, of_manager, of_scheduler, of_kwok, of_kubelet) = (
            token_of(ADMIN),
            token_of("bed:controller-manager"),
            token_of("bed:scheduler"),
            token_of("bed:kwok"),
            token_of("bed:kubelet"),
        );
        tokens.extend(options.tokens.iter().cloned());
        write_tokens(path, &tokens)?;

        let (api_port, etcd, peer) = (ports::port()?, ports::port()?, ports::port()?);
        let mut reserved = vec![];
        let mut others = vec![Process::spawn(&etcd_launch(&tools, path, &etcd, &peer)?)?];
        reserved.extend([etcd, peer]);
        let api_launch = api_launch(&tools, path, options.kind, &api_port, &reserved[0])?;
        let mut api = Process::spawn(&api_launch)?;

        // The API server makes its certificate first of all; everything else needs only that.
        let certificate = path.join("certs/apiserver.crt");
        let ca = wait("the API server's certificate", START_PATIENCE, || {
            api.check()?;
            let pem = fs::read_to_string(&certificate).unwrap_or_default();
            // Server certificate and its CA: the file is complete with the second one.
            Ok((pem.matches("-----END CERTIFICATE-----").count() >= 2).then(|| pem.into_bytes()))
        })?;
        let server = format!("https://127.0.0.1:{}", api_port.number);
        let file_for = |user: &str, token: &str| -> Result<PathBuf> {
            let file = path.join(format!("{}.kubeconfig", user.rsplit(':').next().unwrap_or(user)));
            kubeconfig::write_private(&file, &kubeconfig::with_token(&server, &ca, user, token))?;
            Ok(file)
        };
        file_for(ADMIN, &admin)?;
        if has_manager(options.kind) {
            let port = ports::port()?;
            let file = file_for("bed:controller-manager", &of_manager)?;
            others.push(Process::spawn(&manager_launch(&tools, path, options.kind, &file, &port, &certificate)?)?);
            reserved.push(port);
        }
        let client = Api::new(&server, &ca, &admin, Duration::from_secs(10))?;
        wait_ready(&client, &mut api)?;
        let mut kubelet = None;
        match options.kind {
            Kind::Plain => {}
            Kind::Light => {
                make_node(&client)?;
                let api = Api::new(&server, &ca, &of_kubelet, Duration::from_secs(5))?;
                kubelet = Some(Kubelet::start(api, &server, ca.clone(), tools.clone(), path)?);
            }
            Kind::Full => {
                let (port, kwok) = (ports::port()?, ports::port()?);
                let file = file_for("bed:scheduler", &of_scheduler)?;
                others.push(Process::spawn(&scheduler_launch(&tools, path, &file, &port)?)?);
                make_node(&client)?;
                let file = file_for("bed:kwok", &of_kwok)?;
                others.push(Process::spawn(&kwok_launch(&tools, path, &file, &kwok)?)?);
                reserved.extend([port, kwok]);
            }
            Kind::Flux => {
                let api = Api::new(&server, &ca, &of_kubelet, Duration::from_secs(5))?;
                kubelet = Some(Kubelet::start(api, &server, ca.clone(), tools.clone(), path)?);
            }
        }
        let mut cluster = Self {
            api: Mutex::new(Some(api)),
            others,
            kubelet,
            kind: options.kind,
            client,
            ca,
            admin,
            tokens: Mutex::new(tokens),
            api_launch,
            api_port,
            _ports: reserved,
            tools,
            dir,
        };
        cluster.wait_usable()?;
        Ok(cluster)
    }

    /// The default namespace, and with controllers its ServiceAccount and a ready node.
    fn wait_usable(&mut self) -> Result<()> {
        let others = &mut self.others;
        let client = &self.client;
        let kind = self.kind;
        wait("the cluster's first objects", START_PATIENCE, || {
            for process in &mut *others {
                process.check()?;
            }
            let there = |path: &str| client.get(path).ok();
            if !has_manager(kind) {
                return Ok(there("/api/v1/namespaces/default").map(|_| ()));
            }
            if there("/api/v1/namespaces/default/serviceaccounts/default").is_none() {
                return Ok(None);
            }
            if kind == Kind::Full {
                let node = there("/api/v1/nodes/bed").unwrap_or_default();
                let conditions = node.pointer("/status/conditions").and_then(|c| c.as_array().cloned());
                let ready = |c: &serde_json::Value| c["type"] == "Ready" && c["status"] == "True";
                return Ok(conditions.is_some_and(|c| c.iter().any(ready)).then_some(()));
            }
            Ok(Some(()))
        })
    }

    /// What runs in it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `https://127.0.0.1:PORT`.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port.number)
    }

    /// The CA of the API server's certificate, in PEM.
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// Its folder: logs (`*.log`), audit log, kubeconfigs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The administrator's kubeconfig: YAML, inline data only.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(ADMIN, &self.admin)
    }

    /// The administrator's token.
    #[cfg(test)]
    pub(crate) fn admin_token(&self) -> &str {
        &self.admin
    }

    /// The same as a file.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A kubeconfig with this token.
    pub fn kubeconfig_with(&self, user: &str, token: &str) -> String {
        kubeconfig::with_token(&self.server(), &self.ca, user, token)
    }

    /// Path of the kubectl of the same version.
    pub fn kubectl_path(&self) -> Result<PathBuf> {
        self.tools.path("kubectl")
    }

    /// Runs kubectl as administrator and returns its output; fails with its errors.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_as(&self.kubeconfig_path(), args, None)
    }

    /// Runs kubectl as administrator with this on its standard input, as in `apply -f -`.
    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        self.kubectl_as(&self.kubeconfig_path(), args, Some(stdin))
    }

    /// Runs kubectl with any kubeconfig file.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str], stdin: Option<&str>) -> Result<String> {
        crate::bed::kubectl(&self.kubectl_path()?, kubeconfig, self.dir.path(), args, stdin)
    }

    /// Creates the ServiceAccount (and its namespace) when missing, and returns a kubeconfig with
    /// a fresh token of it. It has no rights until something binds it.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<String> {
        for (path, body) in [
            ("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": namespace}})),
            (format!("/api/v1/namespaces/{namespace}/serviceaccounts"), json!({"metadata": {"name": name}})),
        ] {
            let answer = self.client.request("POST", &path, "application/json", Some(&body))?;
            if answer.code != 409 {
                answer.ok()?;
            }
        }
        let token = self.service_account_token(namespace, name, None)?;
        Ok(self.kubeconfig_with(name, &token))
    }

    /// A fresh token of a ServiceAccount (TokenRequest, valid for a day). With `bound_to`, a Secret
    /// of that name is made when missing and the token ends with it: see [`Self::revoke_bound`].
    pub fn service_account_token(&self, namespace: &str, name: &str, bound_to: Option<&str>) -> Result<String> {
        let mut spec = json!({"expirationSeconds": 86_400});
        if let Some(secret) = bound_to {
            let body = json!({"metadata": {"name": secret}});
            let path = format!("/api/v1/namespaces/{namespace}/secrets");
            let answer = self.client.request("POST", &path, "application/json", Some(&body))?;
            if answer.code != 409 {
                answer.ok()?;
            }
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Secret", "name": secret});
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.client.post(&path, &body)?;
        answer.pointer("/status/token").and_then(|t| t.as_str()).map(str::to_owned).context("no token in the answer")
    }

    /// Makes tokens that were bound to this Secret invalid. The API server remembers a token it has
    /// seen for up to 10 s.
    pub fn revoke_bound(&self, namespace: &str, secret: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
        self.client.request("DELETE", &path, "application/json", None)?.ok().map(drop)
    }

    /// Adds a static token for any user and groups, and returns the token. Several tokens can stand
    /// for one user. Restarts the API server (about 2 s), which reads such tokens at its start only.
    pub fn add_token(&self, user: &str, groups: &[&str]) -> Result<String> {
        let token = secret()?;
        let groups = groups.iter().map(|&g| g.to_owned()).collect();
        self.change_tokens(|all| all.push(Token { token: token.clone(), user: user.to_owned(), groups }))?;
        Ok(token)
    }

    /// Makes a static token invalid from now on. Restarts the API server.
    pub fn revoke_token(&self, token: &str) -> Result<()> {
        self.change_tokens(|all| all.retain(|t| t.token != token))
    }

    fn change_tokens(&self, change: impl FnOnce(&mut Vec<Token>)) -> Result<()> {
        let mut tokens = locked(&self.tokens);
        change(&mut tokens);
        write_tokens(self.dir.path(), &tokens)?;
        self.stop_api();
        self.start_api()
    }

    /// Freezes the API server: it accepts connections and never answers.
    pub fn pause(&self) -> Result<()> {
        self.signal_api(Signal::SIGSTOP)
    }

    /// Lets a frozen API server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal_api(Signal::SIGCONT)
    }

    fn signal_api(&self, signal: Signal) -> Result<()> {
        locked(&self.api).as_ref().context("the API server is stopped")?.signal(signal)
    }

    /// Freezes etcd: the API server answers, but knows of nothing and can store nothing. What it was told meanwhile may be
    /// committed later on.
    pub fn pause_etcd(&self) -> Result<()> {
        self.etcd()?.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen etcd go on.
    pub fn resume_etcd(&self) -> Result<()> {
        self.etcd()?.signal(Signal::SIGCONT)
    }

    fn etcd(&self) -> Result<&Process> {
        self.others.iter().find(|process| process.name() == "etcd").context("there is no etcd")
    }

    /// Kills the API server: connections are refused. Its data stay in etcd.
    pub fn stop_api(&self) {
        locked(&self.api).take();
    }

    /// Starts it again, on the same port with the same data and certificate.
    pub fn start_api(&self) -> Result<()> {
        let mut slot = locked(&self.api);
        if slot.is_none() {
            let mut process = Process::spawn(&self.api_launch)?;
            wait_ready(&self.client, &mut process)?;
            *slot = Some(process);
        }
        Ok(())
    }

    /// The end of the audit log as it is now.
    pub fn audit_mark(&self) -> AuditMark {
        audit::mark(&self.audit_path())
    }

    /// Requests finished since then. The server writes an event at the end of a request, a moment
    /// after the client has its answer; watches show up when they end.
    pub fn audit(&self, since: AuditMark) -> Result<Vec<AuditEvent>> {
        audit::read(&self.audit_path(), since)
    }

    /// Waits for an event since then.
    pub fn audit_wait(
        &self,
        since: AuditMark,
        patience: Duration,
        mut wanted: impl FnMut(&AuditEvent) -> bool,
    ) -> Result<AuditEvent> {
        wait("audit event", patience, || Ok(self.audit(since)?.into_iter().find(&mut wanted)))
    }

    /// The audit log, JSON lines.
    pub fn audit_path(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    /// Process id of its API server, unless that is stopped.
    pub fn api_pid(&self) -> Option<u32> {
        locked(&self.api).as_ref().map(Process::pid)
    }

    /// Process ids of everything that runs for it now.
    pub fn pids(&self) -> Vec<u32> {
        let api = self.api_pid();
        let kubelet = self.kubelet.as_ref().map(Kubelet::pids).unwrap_or_default();
        api.into_iter().chain(self.others.iter().map(Process::pid)).chain(kubelet).collect()
    }

    /// The loopback address of a Flux controller's process ([`Kind::Flux`]); its ports are the
    /// container's, such as 9292 for notification-controller's webhooks.
    pub fn pod_address(&self, namespace: &str, deployment: &str) -> Option<String> {
        self.kubelet.as_ref().map(|kubelet| kubelet.address(namespace, deployment))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Without the API server the kubelet's requests fail at once, also when it was frozen.
        self.stop_api();
    }
}

fn write_tokens(dir: &Path, tokens: &[Token]) -> Result<()> {
    let lines: Vec<String> = tokens
        .iter()
        .map(|t| format!("{},\"{}\",\"{}\",\"{}\"\n", t.token, t.user, t.user, t.groups.join(",")))
        .collect();
    kubeconfig::write_private(&dir.join("tokens.csv"), &lines.concat())
}

fn wait_ready(client: &Api, api: &mut Process) -> Result<()> {
    wait("the API server is ready", START_PATIENCE, || {
        api.check()?;
        let answer = client.request("GET", "/readyz", "application/json", None);
        Ok(answer.is_ok_and(|a| a.code == 200).then_some(()))
    })
}

/// One node, big enough for all. Admission taints a new node as not ready, and only the node
/// lifecycle controller, which does not run, would remove that.
fn make_node(client: &Api) -> Result<()> {
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": "bed", "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": "bed"},
        },
        "status": {"allocatable": room, "capacity": room},
    });
    client.post("/api/v1/nodes", &node)?;
    client.merge("/api/v1/nodes/bed", &json!({"spec": {"taints": null}}))?;
    Ok(())
}

fn launch(tools: &Tools, dir: &Path, program: &str, args: Vec<String>) -> Result<Launch> {
    Ok(Launch {
        name: program.to_owned(),
        program: tools.path(program)?,
        args,
        env: vec![("HOME".into(), dir.display().to_string())],
        dir: dir.to_owned(),
        log: dir.join(format!("{program}.log")),
    })
}

fn etcd_launch(tools: &Tools, dir: &Path, client: &Port, peer: &Port) -> Result<Launch> {
    let (client, peer) = (format!("http://127.0.0.1:{}", client.number), format!("http://127.0.0.1:{}", peer.number));
    let args = vec![
        "--data-dir=etcd".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    launch(tools, dir, "etcd", args)
}

fn api_launch(tools: &Tools, dir: &Path, kind: Kind, port: &Port, etcd: &Port) -> Result<Launch> {
    let mut args: Vec<String> = [
        "--bind-address=127.0.0.1",
        "--cert-dir=certs",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=sa.pub",
        "--service-account-signing-key-file=sa.key",
        "--token-auth-file=tokens.csv",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
        // There is no network in which the address of this server would mean anything.
        "--endpoint-reconciler-type=none",
        "--audit-policy-file=audit-policy.json",
        "--audit-log-path=audit.log",
        // Megabytes: never rotate, since marks are offsets.
        "--audit-log-maxsize=100000",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--secure-port={}", port.number));
    args.push(format!("--etcd-servers=http://127.0.0.1:{}", etcd.number));
    if !has_manager(kind) {
        // Nobody makes the default ServiceAccount that this plugin asks of every pod.
        args.push("--disable-admission-plugins=ServiceAccount".into());
    }
    launch(tools, dir, "kube-apiserver", args)
}

fn manager_launch(
    tools: &Tools,
    dir: &Path,
    kind: Kind,
    kubeconfig: &Path,
    port: &Port,
    certificate: &Path,
) -> Result<Launch> {
    let mut controllers = vec![
        "serviceaccount-controller",
        "serviceaccount-token-controller",
        "root-ca-certificate-publisher-controller",
        "namespace-controller",
        "garbage-collector-controller",
        "resourcequota-controller",
        "clusterrole-aggregation-controller",
    ];
    if kind == Kind::Full {
        controllers.extend([
            "deployment-controller",
            "replicaset-controller",
            "job-controller",
            "endpoints-controller",
            "endpointslice-controller",
            "disruption-controller",
        ]);
    }
    let args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-ca-file={}", certificate.display()),
        format!("--controllers={}", controllers.join(",")),
        format!("--secure-port={}", port.number),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
        "--service-account-private-key-file=sa.key".into(),
    ];
    launch(tools, dir, "kube-controller-manager", args)
}

fn scheduler_launch(tools: &Tools, dir: &Path, kubeconfig: &Path, port: &Port) -> Result<Launch> {
    let args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--secure-port={}", port.number),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
    ];
    launch(tools, dir, "kube-scheduler", args)
}

fn kwok_launch(tools: &Tools, dir: &Path, kubeconfig: &Path, port: &Port) -> Result<Launch> {
    fs::write(dir.join("stages.yaml"), include_str!("../kwok/stages.yaml"))?;
    let args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--server-address=127.0.0.1:{}", port.number),
        "--config=stages.yaml".into(),
        "--manage-all-nodes=true".into(),
        "--node-ip=127.0.0.1".into(),
    ];
    launch(tools, dir, "kwok", args)
}

/// Shared clusters for tests that do not stop or freeze theirs: one of each kind and process.
pub fn shared(kind: Kind) -> Result<Arc<Cluster>> {
    static SHARED: Mutex<Vec<Arc<Cluster>>> = Mutex::new(Vec::new());
    let mut all = locked(&SHARED);
    if let Some(found) = all.iter().find(|cluster| cluster.kind == kind) {
        return Ok(found.clone());
    }
    let cluster = Arc::new(Cluster::start(&Options::new(kind))?);
    all.push(cluster.clone());
    Ok(cluster)
}
