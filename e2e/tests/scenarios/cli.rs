//! The command line: round trips, exit codes, and the operator as a process.

use std::collections::BTreeMap;

use headwater_e2e::{Registry, RegistryOptions};
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, Tenant, headwater, in_repository, shared_hub, world};

/// The same sources give the same bytes, wherever and whenever they are built.
#[test]
fn bundles_are_reproducible() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let build = |folder: &tempfile::TempDir| {
        let to = folder.path().display().to_string();
        let built = headwater(&["bundle", "build", &in_repository("bundles/flux"), "-o", &to], &[]);
        assert_eq!(built.code, 0, "{built:?}");
        let digests = built.stdout.lines().map(|line| line.rsplit_once("  ").unwrap());
        let named = digests.map(|(file, digest)| (file.rsplit('/').next().unwrap().to_owned(), digest.to_owned()));
        named.collect::<BTreeMap<_, _>>()
    };
    let digests = build(&one);
    assert_eq!(digests, build(&two));
    for version in [OLD, NEW] {
        let name = format!("flux-{version}.tar.gz");
        assert_eq!(digests[&name], world().digests[version], "and it is the digest in registries");
        assert_eq!(std::fs::read(one.path().join(&name)).unwrap(), std::fs::read(two.path().join(&name)).unwrap());
    }
}

/// A patch release is written from the version before; what is there already is left alone.
#[test]
fn a_new_version_is_written_from_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in headwater::bundle::read_folder(in_repository("bundles/flux").as_ref()).unwrap() {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    let sources = folder.path().display().to_string();
    let new = || headwater(&["bundle", "new", &sources, "2.9.5", "--image", "source-controller=v1.9.5"], &[]);
    let first = new();
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(first.stdout, format!("{sources}/2.9.5/crds.txt\n{sources}/2.9.5/version.yaml\n"));
    assert!(first.stderr.contains("- digests missing: source-controller:v1.9.5,"), "{first:?}");
    let written = std::fs::read(folder.path().join("2.9.5/version.yaml")).unwrap();

    let again = new();
    assert_eq!(again.code, 2, "{again:?}");
    assert_eq!(again.stderr, format!("error: {sources}: 2.9.5/ exists already; edit it, or remove it first\n"));
    assert_eq!(std::fs::read(folder.path().join("2.9.5/version.yaml")).unwrap(), written);

    // What is left to do is named by what comes next, too.
    let built = headwater(&["bundle", "build", &sources, "--version", "2.9.5", "-o", &sources], &[]);
    assert_eq!(built.code, 2, "{built:?}");
    assert!(built.stderr.contains("is not in 2.9.5/crds/; generate it with bundles/generate-crds.sh"), "{built:?}");
}

/// Push, list, inspect and pull give back what was put in, through a registry that wants a password.
#[test]
fn bundles_go_through_a_registry_with_a_password() {
    let login = Some(("robot".to_owned(), "secret".to_owned()));
    let registry = Registry::start(&RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
    let repository = format!("oci://{}/team/flux", registry.address());
    let home = tempfile::tempdir().unwrap();
    let config = json!({"auths": {registry.address(): {"username": "robot", "password": "secret"}}});
    std::fs::write(home.path().join("config.json"), config.to_string()).unwrap();
    let docker = home.path().display().to_string();
    let env = [("DOCKER_CONFIG", docker.as_str())];
    let (old, new) = (world().bundle(OLD), world().bundle(NEW));

    let refused = headwater(&["bundle", "push", &new, "--to", &repository, "--insecure"], &[]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.stderr.contains("the registry wants a user name and a password; check `docker login`"),
        "{refused:?}"
    );
    let pushed = headwater(&["bundle", "push", &old, &new, "--to", &repository, "--insecure"], &env);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let listed = headwater(&["bundle", "list", &repository, "--insecure", "-o", "json"], &env);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let rows: Vec<(&str, &str)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["version"].as_str().unwrap(), r["digest"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [(NEW, world().digests[NEW].as_str()), (OLD, world().digests[OLD].as_str())]);
    let inspected = headwater(&["bundle", "inspect", &format!("{repository}@2.8.x"), "--insecure", "-o", "json"], &env);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["digest"], world().digests[OLD].as_str());
    assert_eq!(inspected["manifest"]["version"], OLD);
    let out = home.path().join("out").display().to_string();
    let pulled = headwater(&["bundle", "pull", &repository, "--version", "2.9", "-o", &out, "--insecure"], &env);
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert!(pulled.stdout.trim().ends_with(&world().digests[NEW]), "{}", pulled.stdout);
    assert_eq!(std::fs::read(format!("{out}/flux-{NEW}.tar.gz")).unwrap(), std::fs::read(&new).unwrap());
    let none = headwater(&["bundle", "pull", &repository, "--version", "3.x", "--insecure"], &env);
    assert_eq!(
        (none.code, none.stderr.trim()),
        (2, format!("error: no version in {repository} matches \"3.x\" (found: 2.9.4, 2.8.8)").as_str())
    );
}

/// Two bundles are compared and images are listed without a cluster; the exit code tells whether something breaks.
#[test]
fn bundles_are_compared_and_their_images_listed() {
    let at = |version: &str| in_repository(&format!("bundles/flux@{version}"));
    let upgrade = headwater(&["bundle", "diff", &at(OLD), &at(NEW), "-o", "json"], &[]);
    assert_eq!(upgrade.code, 1, "2.9 drops versions: {}", upgrade.stderr);
    let comparison: Value = serde_json::from_str(&upgrade.stdout).unwrap();
    assert_eq!((&comparison["upgrade"]["way"], &comparison["new"]["version"]), (&json!("direct"), &json!(NEW)));
    let same = headwater(&["bundle", "diff", &at(NEW), &world().bundle(NEW)], &[]);
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.stdout.contains("\nbreaking:    nothing\n"), "{same:?}");
    let folder = in_repository("bundles/flux");
    let failed = headwater(&["bundle", "diff", &folder, &at(NEW)], &[]);
    assert_eq!(failed.code, 2);
    assert!(failed.stderr.contains("is a folder; say which version of it"), "{failed:?}");
    let images = headwater(&["bundle", "images", &at(NEW), "--component", "helm-controller"], &[]);
    assert_eq!(images.code, 0, "{images:?}");
    assert!(images.stdout.starts_with("ghcr.io/fluxcd/helm-controller:v1.6.3@sha256:"), "{images:?}");
}

/// What fails exits with 2 and says why; the text for a bad spec is the API server's own.
#[test]
fn failures_exit_with_two() {
    let tenant = Tenant::without_operator(shared_hub(), "cli", &shared_hub().for_operator());
    let kubeconfig = tenant.kubeconfig();
    let env = [("KUBECONFIG", kubeconfig.as_str())];
    let missing = headwater(&["diff", "-f", "/nowhere.yaml"], &env);
    assert_eq!(
        (missing.code, missing.stderr.as_str()),
        (2, "error: cannot read /nowhere.yaml: No such file or directory (os error 2)\n")
    );
    let pod = tenant.file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n");
    let other = headwater(&["diff", "-f", &pod], &env);
    assert_eq!(
        (other.code, other.stderr),
        (2, format!("error: {pod}: expected one FluxInstance of headwater.dev/v1alpha1, found Pod of v1\n"))
    );
    let mut spec = crate::harness::spec(NEW);
    spec["interval"] = json!("1s");
    let bad = tenant.file("bad.yaml", &tenant.object("bad", &spec).to_string());
    let said = headwater(&["diff", "-f", &bad], &env);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("must be a duration such as 10m, between 30s and 24h"), "{said:?}");
    let mut spec = crate::harness::spec("3.x");
    spec["interval"] = json!("30s");
    let bad = tenant.file("none.yaml", &tenant.object("none", &spec).to_string());
    let said = headwater(&["diff", "-f", &bad], &env);
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (
            2,
            "error: VersionNotFound: spec.distribution.version: no version matches \"3.x\"; newest available is 2.9.4\n"
        )
    );
    assert_eq!(headwater(&["bundle", "build", "/nowhere"], &[]).code, 2);
    assert_eq!(headwater(&["no-such-command"], &[]).code, 2);
    assert_eq!(headwater(&["--version"], &[]).code, 0);
    let nobody = tenant.file("empty.kubeconfig", "");
    assert_eq!(headwater(&["diff", "-f", &bad], &[("KUBECONFIG", &nobody)]).code, 2);
}

/// The operator as a process: probes, metrics, and a clean end on SIGTERM.
#[test]
fn operator_answers_probes_and_ends_cleanly() {
    let tenant = Tenant::new(shared_hub(), "process");
    assert_eq!(tenant.page("/livez"), Some((200, "ok".to_owned())));
    let (code, ready) = tenant.page("/readyz").unwrap();
    assert_eq!((code, ready.as_str()), (200, "[+] crd\n[+] fleets\n[+] instances\n[+] lease\n"));
    let (code, metrics) = tenant.page("/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.contains("# HELP headwater_pass_seconds ") && metrics.ends_with("# EOF\n"), "{metrics}");
    let ended = tenant.stop();
    assert!(ended.starts_with("operator ended (exit status: 0)"), "{ended}");
    assert!(tenant.log().contains("operator stopped"));
}
