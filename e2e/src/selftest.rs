//! The bed tests itself. Tests share API servers where they can: one of each kind.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Kind, Options, shared};
use crate::process::alive;
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
    cluster
        .kubectl(&[
            "create",
            "rolebinding",
            "r",
            "-n",
            "audited",
            "--clusterrole=view",
            "--serviceaccount=audited:reader",
        ])
        .unwrap();
    on_its_own(&cluster, &kubeconfig, &["get", "configmaps", "-n", "audited"]).unwrap();

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

    let closed = Registry::start(&RegistryOptions { login: Some(("user".into(), "secret".into())) }).unwrap();
    let url = |login: &str| format!("http://{login}{}/v2/", closed.address());
    assert_eq!(http::probe(&url("")), Some(401));
    assert_eq!(http::probe(&url("user:secret@")), Some(200));
    assert_eq!(http::probe(&url("user:wrong@")), Some(401));
    let pid = closed.pid().unwrap();
    drop(closed);
    assert!(!alive(pid));
}

/// Not a test of its own: the child process of the next one.
#[test]
#[ignore = "runs until it is killed"]
fn victim() {
    let cluster = Cluster::start(&Options::new(Kind::Plain)).unwrap();
    let seen = serde_json::json!({"pids": cluster.pids(), "dir": cluster.dir()});
    std::fs::write(std::env::var("BED_VICTIM").unwrap(), seen.to_string()).unwrap();
    std::thread::park();
}

#[test]
fn nothing_outlives_a_killed_test() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "selftest::victim", "--ignored"])
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
