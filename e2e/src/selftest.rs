//! The bed tests itself. Tests share API servers where they can: one of each kind.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Kind, Options, Token, shared};
use crate::process::{Launch, Process, alive};
use crate::proxy::{Fault, Faults, Phase, Proxy};
use crate::registry::{Registry, RegistryOptions};
use crate::{AuditMark, http};

fn eventually(what: &str, patience: Duration, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !look() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn deployment(name: &str, image: &str) -> String {
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
    .to_string()
}

fn on_its_own(cluster: &Cluster, kubeconfig: &str, args: &[&str]) -> anyhow::Result<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig).unwrap();
    cluster.kubectl_as(file.path(), args, None)
}

#[test]
fn plain_knows_service_accounts_and_audits_them() {
    let cluster = shared(Kind::Plain).unwrap();
    let mark = cluster.audit_mark();
    let kubeconfig = cluster.service_account("audited", "reader").unwrap();
    assert!(kubeconfig.contains("certificate-authority-data: "));
    let refused = on_its_own(&cluster, &kubeconfig, &["get", "configmaps", "-n", "audited"]);
    assert!(refused.unwrap_err().to_string().contains("Forbidden"));
    cluster.kubectl(&["create", "role", "r", "-n", "audited", "--verb=list", "--resource=configmaps"]).unwrap();
    cluster
        .kubectl(&["create", "rolebinding", "r", "-n", "audited", "--role=r", "--serviceaccount=audited:reader"])
        .unwrap();
    // The authorizer learns of new bindings by a watch, so a moment later.
    eventually("the binding counts", Duration::from_secs(3), || {
        on_its_own(&cluster, &kubeconfig, &["get", "configmaps", "-n", "audited"]).is_ok()
    });

    let user = "system:serviceaccount:audited:reader";
    let listed = |code: u16| {
        cluster
            .audit_wait(mark, Duration::from_secs(3), |e| {
                e.user == user && e.resource == "configmaps" && e.code == code
            })
            .unwrap()
    };
    assert_eq!(listed(403).verb, "list");
    let event = listed(200);
    assert_eq!((event.namespace.as_str(), event.user_agent.contains("kubectl")), ("audited", true));
    assert!(!event.writes());
    assert!(cluster.audit(cluster.audit_mark()).unwrap().iter().all(|e| e.user != user));
    assert!(!cluster.audit(AuditMark::default()).unwrap().is_empty());
}

#[test]
fn service_account_token_ends_with_its_secret() {
    let cluster = shared(Kind::Plain).unwrap();
    cluster.service_account("rotated", "sa").unwrap();
    let token = cluster.service_account_token("rotated", "sa", Some("first")).unwrap();
    let kubeconfig = cluster.kubeconfig_with("sa", &token);
    let valid = || on_its_own(&cluster, &kubeconfig, &["auth", "whoami"]).is_ok();
    assert!(valid());
    cluster.revoke_bound("rotated", "first").unwrap();
    eventually("the token is refused", Duration::from_secs(14), || !valid());
}

#[test]
fn api_server_can_freeze_stop_and_learn_tokens() {
    let cluster = Cluster::start(&Options::new(Kind::Plain)).unwrap();
    let get = || cluster.kubectl(&["get", "ns", "default", "--request-timeout=1s"]);
    get().unwrap();
    cluster.pause().unwrap();
    let frozen = Instant::now();
    get().unwrap_err();
    assert!(frozen.elapsed() > Duration::from_millis(900), "it must accept and not answer");
    cluster.resume().unwrap();
    get().unwrap();

    cluster.kubectl(&["create", "configmap", "kept", "-n", "default"]).unwrap();
    cluster.stop_api();
    assert!(get().unwrap_err().to_string().contains("refused"));
    cluster.start_api().unwrap();
    cluster.kubectl(&["get", "configmap", "kept", "-n", "default"]).unwrap();

    let token = cluster.add_token("jane", &["system:masters"]).unwrap();
    let kubeconfig = cluster.kubeconfig_with("jane", &token);
    on_its_own(&cluster, &kubeconfig, &["get", "ns"]).unwrap();
    cluster.revoke_token(&token).unwrap();
    on_its_own(&cluster, &kubeconfig, &["get", "ns"]).unwrap_err();

    cluster.pause().unwrap();
    let pids = cluster.pids();
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(pids.iter().all(|&pid| !alive(pid)), "nothing outlives a cluster, frozen or not");
    assert!(!dir.exists());
}

#[test]
fn deployments_roll_out_or_fail_on_full() {
    let cluster = shared(Kind::Full).unwrap();
    for (name, image) in [
        ("fine", "registry.example/fine/app:v1"),
        ("pull", "registry.example/pull-fails/app:v1"),
        ("crash", "registry.example/crash-loops/app:v1"),
        ("never", "registry.example/never-ready/app:v1"),
    ] {
        cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &deployment(name, image)).unwrap();
    }
    cluster.kubectl(&["-n", "default", "wait", "--for=condition=Available", "deploy/fine", "--timeout=10s"]).unwrap();
    let pod = |app: &str, path: &str| {
        let selector = format!("-lapp={app}");
        let output = format!("-ojsonpath={{.items[0].status{path}}}");
        cluster.kubectl(&["-n", "default", "get", "pods", &selector, &output]).unwrap_or_default()
    };
    let reason = ".containerStatuses[0].state.waiting.reason";
    let patience = Duration::from_secs(10);
    eventually("pull fails", patience, || pod("pull", reason) == "ImagePullBackOff");
    eventually("crashes", patience, || pod("crash", reason) == "CrashLoopBackOff");
    let restarts = || pod("crash", ".containerStatuses[0].restartCount").parse::<u32>().unwrap_or(0);
    eventually("crashes again", patience, || restarts() >= 2);
    eventually("runs unready", patience, || pod("never", ".phase") == "Running");
    assert_eq!(pod("never", ".containerStatuses[0].ready"), "false");
    for name in ["pull", "crash", "never"] {
        let available = cluster
            .kubectl(&["-n", "default", "get", "deploy", name, "-ojsonpath={.status.availableReplicas}"])
            .unwrap();
        assert_eq!(available, "", "{name}");
    }
    // A failed rollout can be mended.
    cluster
        .kubectl_with(&["apply", "--server-side", "-f", "-"], &deployment("pull", "registry.example/app:v2"))
        .unwrap();
    cluster.kubectl(&["-n", "default", "wait", "--for=condition=Available", "deploy/pull", "--timeout=10s"]).unwrap();
}

#[test]
fn images_for_another_architecture_fail_on_light() {
    let cluster = Cluster::start(&Options::new(Kind::Light)).unwrap();
    let apply = |name: &str, image: &str| {
        cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &deployment(name, image)).unwrap();
        cluster.kubectl(&["-n", "default", "rollout", "status", &format!("deploy/{name}"), "--timeout=5s"])
    };
    apply("fine", "registry.example/only-amd64/app:v1").unwrap();
    apply("pull", "registry.example/pull-fails/app:v1").unwrap_err();
    cluster.kubectl(&["label", "node", "bed", "kubernetes.io/arch=arm64", "--overwrite"]).unwrap();
    apply("other", "registry.example/only-amd64/app:v1").unwrap_err();
    apply("other", "registry.example/all/app:v1").unwrap();
}

#[test]
fn namespaces_finish_and_secrets_get_tokens_on_full() {
    let cluster = shared(Kind::Full).unwrap();
    cluster.service_account("ending", "sa").unwrap();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t", "namespace": "ending", "annotations": {"kubernetes.io/service-account.name": "sa"}},
    });
    cluster.kubectl_with(&["create", "-f", "-"], &secret.to_string()).unwrap();
    eventually("the Secret has a token", Duration::from_secs(10), || {
        let token = cluster.kubectl(&["-n", "ending", "get", "secret", "t", "-ojsonpath={.data.token}"]);
        token.is_ok_and(|t| !t.is_empty())
    });
    cluster.kubectl(&["delete", "ns", "ending", "--timeout=14s"]).unwrap();
}

#[test]
fn registry_asks_for_its_password_and_restarts() {
    let open = Registry::start(&RegistryOptions::default()).unwrap();
    let url = format!("http://{}/v2/", open.address());
    assert_eq!(http::probe(&url), Some(200));
    open.stop();
    assert_eq!(http::probe(&url), None);
    open.resume().unwrap();
    assert_eq!(http::probe(&url), Some(200));

    let closed = Registry::start(&RegistryOptions {
        login: Some(("user".into(), "secret".into())),
        ..RegistryOptions::default()
    })
    .unwrap();
    let url = |login: &str| format!("http://{login}{}/v2/", closed.address());
    assert_eq!(http::probe(&url("")), Some(401));
    assert_eq!(http::probe(&url("user:secret@")), Some(200));
    assert_eq!(http::probe(&url("user:wrong@")), Some(401));
    let pid = closed.pid().unwrap();
    drop(closed);
    assert!(!alive(pid));
}

/// Uploads one blob and returns its descriptor.
fn push_blob(repository: &str, media_type: &str, content: &[u8]) -> serde_json::Value {
    use std::fmt::Write as _;

    use sha2::{Digest as _, Sha256};
    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(content) {
        write!(digest, "{byte:02x}").unwrap();
    }
    let opened = ureq::post(format!("{repository}/blobs/uploads/")).send_empty().unwrap();
    let location = opened.headers()["location"].to_str().unwrap().to_owned();
    let separator = if location.contains('?') { '&' } else { '?' };
    ureq::put(format!("{location}{separator}digest={digest}")).send(content).unwrap();
    serde_json::json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

/// Pushes a folder of manifests as `flux push artifact` would.
fn push_artifact(registry: &Registry, name: &str, files: &std::path::Path) {
    let tar = Command::new("tar").arg("-C").arg(files).args(["-cz", "."]).output().unwrap();
    assert!(tar.status.success());
    let repository = format!("http://{}/v2/{name}", registry.address());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": push_blob(&repository, "application/vnd.cncf.flux.config.v1+json", b"{}"),
        "layers": [push_blob(&repository, "application/vnd.cncf.flux.content.v1.tar+gzip", &tar.stdout)],
    });
    ureq::put(format!("{repository}/manifests/latest"))
        .header("content-type", "application/vnd.oci.image.manifest.v1+json")
        .send(manifest.to_string())
        .unwrap();
}

/// A controller as Flux's own manifests have it, as far as it matters to a kubelet.
fn flux_controller(name: &str) -> serde_json::Value {
    let mut args = vec!["--watch-all-namespaces=true", "--log-level=info", "--enable-leader-election"];
    if name != "notification-controller" {
        args.push("--events-addr=http://notification-controller.flux-system.svc.cluster.local./");
    }
    if name == "source-controller" {
        args.push("--storage-path=/data");
        args.push("--storage-adv-addr=source-controller.$(RUNTIME_NAMESPACE).svc.cluster.local.");
    }
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "flux-system"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "serviceAccountName": name,
                "containers": [{
                    "name": "manager", "image": format!("registry.example/fluxcd/{name}:v1"), "args": args,
                    "env": [{"name": "RUNTIME_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
                    "ports": [{"name": "healthz", "containerPort": 9440}],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": "healthz"}},
                }],
            }},
        },
    })
}

#[test]
fn real_controllers_reconcile_on_flux() {
    let cluster = shared(Kind::Flux).unwrap();
    let registry = Registry::start(&RegistryOptions::default()).unwrap();
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/flux/2.9.4/crds");
    cluster.kubectl(&["apply", "--server-side", "-f", crds]).unwrap();
    let controllers = ["source-controller", "kustomize-controller", "notification-controller", "helm-controller"];
    for name in controllers {
        let account = format!("--serviceaccount=flux-system:{name}");
        cluster.service_account("flux-system", name).unwrap();
        cluster.kubectl(&["create", "clusterrolebinding", name, "--clusterrole=cluster-admin", &account]).unwrap();
        let deployment = flux_controller(name).to_string();
        cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &deployment).unwrap();
    }
    let wait = |what: &str, condition: &str| {
        let condition = format!("--for=condition={condition}");
        cluster.kubectl(&["-n", "flux-system", "wait", &condition, what, "--timeout=20s"]).unwrap();
    };
    for name in controllers {
        wait(&format!("deploy/{name}"), "Available");
    }

    let files = tempfile::tempdir().unwrap();
    let config_map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo", "namespace": "default"}, "data": {"v": "one"},
    });
    std::fs::write(files.path().join("cm.yaml"), config_map.to_string()).unwrap();
    push_artifact(&registry, "app", files.path());
    let source = serde_json::json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository",
        "metadata": {"name": "app", "namespace": "flux-system"},
        "spec": {"url": format!("oci://{}/app", registry.address()), "ref": {"tag": "latest"}, "insecure": true,
                 "interval": "10m"},
    });
    let sync = serde_json::json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": {"name": "app", "namespace": "flux-system"},
        "spec": {"sourceRef": {"kind": "OCIRepository", "name": "app"}, "path": "./", "prune": true, "interval": "10m"},
    });
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &source.to_string()).unwrap();
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &sync.to_string()).unwrap();
    wait("ocirepository/app", "Ready");
    wait("kustomization/app", "Ready");
    let value = cluster.kubectl(&["-n", "default", "get", "configmap", "demo", "-ojsonpath={.data.v}"]).unwrap();
    assert_eq!(value, "one");

    // A controller that ends, or goes away, is noticed.
    let running = cluster.pids().len();
    cluster.kubectl(&["-n", "flux-system", "delete", "deploy", "notification-controller"]).unwrap();
    eventually("its process ends", Duration::from_secs(8), || cluster.pids().len() == running - 1);
}

/// The child process of the next test, which names a file for it; without one there is nothing to do.
#[test]
fn victim() {
    let Ok(report) = std::env::var("BED_VICTIM") else { return };
    let cluster = Cluster::start(&Options::new(Kind::Plain)).unwrap();
    let seen = serde_json::json!({"pids": cluster.pids(), "dir": cluster.dir()});
    std::fs::write(report, seen.to_string()).unwrap();
    std::thread::park();
}

#[test]
fn nothing_outlives_a_killed_test() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "selftest::victim"])
        .env("BED_VICTIM", &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = serde_json::Value::Null;
    eventually("the victim's cluster is up", Duration::from_secs(20), || {
        seen = serde_json::from_slice(&std::fs::read(&report).unwrap_or_default()).unwrap_or_default();
        !seen.is_null()
    });
    let pids: Vec<u32> = serde_json::from_value(seen["pids"].clone()).unwrap();
    let run_dir = std::path::PathBuf::from(seen["dir"].as_str().unwrap());
    assert!(pids.len() == 2 && pids.iter().all(|&pid| alive(pid)) && run_dir.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let patience = Duration::from_secs(5);
    eventually("its processes are gone", patience, || pids.iter().all(|&pid| !alive(pid)));
    eventually("its files are gone", patience, || !run_dir.exists());
}

#[test]
fn proxy_fails_at_the_write_it_was_told_to() {
    let token = Token { token: "t".into(), user: "tested".into(), groups: vec!["system:masters".into()] };
    let cluster = Cluster::start(&Options { kind: Kind::Plain, tokens: vec![token] }).unwrap();
    let faults = Faults::default();
    let proxies = [Proxy::start(&cluster, &faults).unwrap(), Proxy::start(&cluster, &faults).unwrap()];
    let [api, other] =
        proxies.each_ref().map(|p| http::Api::new(&p.server, p.ca.as_bytes(), "t", Duration::from_secs(2)).unwrap());
    let maps = "/api/v1/namespaces/default/configmaps";
    let write = |api: &http::Api, name: &str| {
        let body = serde_json::json!({"metadata": {"name": name}});
        api.request("POST", maps, "application/json", Some(&body)).map(|a| a.code)
    };
    let there = |name: &str| api.get(&format!("{maps}/{name}")).is_ok();

    // One count for both; reads, dry runs and leases do not count, and neither does what nobody sent.
    assert_eq!(write(&api, "a").unwrap(), 201);
    assert_eq!(write(&other, "b").unwrap(), 201);
    let body = serde_json::json!({"metadata": {"name": "l"}});
    api.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", &body).unwrap();
    api.post(&format!("{maps}?dryRun=All"), &body).unwrap();
    let writes = faults.writes();
    assert_eq!(writes.iter().map(|w| w.code).collect::<Vec<_>>(), [201, 201]);
    assert_eq!(writes[1].path, maps);
    assert_eq!(writes[1].body["metadata"]["name"], "b");

    // Refused so many times, for the same object only.
    faults.arm(2, Fault::Refuse { code: 422, retry_after: None, times: 2 });
    assert_eq!(write(&api, "c").unwrap(), 201);
    assert_eq!([write(&api, "d").unwrap(), write(&api, "d").unwrap(), write(&api, "d").unwrap()], [422, 422, 201]);
    assert_eq!(faults.struck().unwrap(), format!("POST {maps}"));
    assert_eq!(faults.writes().iter().map(|w| w.code).collect::<Vec<_>>(), [201, 0, 0, 201]);

    // Committed, and the answer never comes: at once, or only when patience ends.
    faults.arm(1, Fault::Reset);
    let asked = Instant::now();
    write(&api, "e").unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(1) && there("e"));
    faults.arm(1, Fault::Silence);
    write(&api, "f").unwrap_err();
    assert!(asked.elapsed() > Duration::from_secs(2) && there("f"));
    assert_eq!(write(&api, "g").unwrap(), 201, "others are not held up");

    // Killed at exactly that moment.
    for (phase, name, committed, answered) in
        [(Phase::Before, "h", false, false), (Phase::Committed, "i", true, false), (Phase::Answered, "j", true, true)]
    {
        let launch = Launch {
            name: "victim".into(),
            program: "sleep".into(),
            args: vec!["60".into()],
            dir: cluster.dir().to_owned(),
            log: cluster.dir().join("victim.log"),
            ..Launch::default()
        };
        let victim = Process::spawn(&launch).unwrap();
        faults.victim(victim.pid());
        faults.arm(1, Fault::Kill(phase));
        assert_eq!(write(&api, name).is_ok(), answered, "{phase:?}");
        assert_eq!(there(name), committed, "{phase:?}");
        eventually("it is dead", Duration::from_secs(1), || !alive(victim.pid()));
    }

    // Nothing is left of it.
    drop(proxies);
    write(&api, "k").unwrap_err();
}
