//! The programs of the bed, built from pinned Go modules into the user's cache.
//!
//! `go.mod` and `go.sum` of each module are part of this crate's binary, and the cache folder
//! carries their hash: what is built is what is committed, and a second clone builds nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::dirs;
use crate::process::tail;
use crate::say::say;

/// A Go module that yields one or more programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and etcd.
    Kubernetes,
    /// kwok, which plays the kubelet.
    Kwok,
    /// The OCI registry.
    Registry,
    /// Flux's source-controller.
    SourceController,
    /// Flux's kustomize-controller.
    KustomizeController,
    /// Flux's notification-controller.
    NotificationController,
    /// crane and oras.
    OciTools,
    /// flux, the command line.
    FluxCli,
    /// helm.
    Helm,
    /// cosign, and a Sigstore that lives for one run.
    Sigstore,
    /// The CRDs of the Prometheus operator that `config/monitoring` needs.
    PrometheusOperator,
}

struct Spec {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// A program of our own in package main, where the module has one; else empty.
    main_go: &'static str,
    /// Package and the name of its program.
    packages: &'static [(&'static str, &'static str)],
    ldflags: &'static str,
    /// Files that are taken from a module as they are: the module with its version, and the path in it.
    files: &'static [(&'static str, &'static str)],
    /// Module and file that its release process makes, without which it does not compile; an empty one will do.
    missing: Option<(&'static str, &'static str)>,
    /// On two cores with nothing cached.
    about: &'static str,
}

macro_rules! spec {
    ($name:literal, $packages:expr, $ldflags:expr, $about:literal) => {
        spec!($name, "", $packages, $ldflags, $about)
    };
    ($name:literal, $main_go:expr, $packages:expr, $ldflags:expr, $about:literal) => {
        Spec {
            name: $name,
            go_mod: include_str!(concat!("../go/", $name, "/go.mod")),
            go_sum: include_str!(concat!("../go/", $name, "/go.sum")),
            main_go: $main_go,
            packages: $packages,
            ldflags: $ldflags,
            files: &[],
            missing: None,
            about: $about,
        }
    };
}

static KUBERNETES: Spec = spec!(
    "kubernetes",
    &[
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        ("go.etcd.io/etcd/server/v3", "etcd"),
        ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
        ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ],
    // Without these the API server reports v0.0.0-master.
    "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
    "6 min"
);
static KWOK: Spec = spec!("kwok", &[("sigs.k8s.io/kwok/cmd/kwok", "kwok")], "-s -w", "1 min");
static REGISTRY: Spec =
    spec!("registry", &[("github.com/distribution/distribution/v3/cmd/registry", "registry")], "-s -w", "1 min");
static SOURCE: Spec =
    spec!("source-controller", &[("github.com/fluxcd/source-controller", "source-controller")], "-s -w", "3 min");
static KUSTOMIZE: Spec = spec!(
    "kustomize-controller",
    &[("github.com/fluxcd/kustomize-controller", "kustomize-controller")],
    "-s -w",
    "2 min"
);
static NOTIFICATION: Spec = spec!(
    "notification-controller",
    &[("github.com/fluxcd/notification-controller", "notification-controller")],
    "-s -w",
    "2 min"
);
static OCI_TOOLS: Spec = spec!(
    "oci-tools",
    &[("github.com/google/go-containerregistry/cmd/crane", "crane"), ("oras.land/oras/cmd/oras", "oras")],
    "-s -w",
    "1 min"
);
static FLUX_CLI: Spec = Spec {
    // The manifests that `flux install` applies.
    missing: Some(("github.com/fluxcd/flux2/v2", "cmd/flux/manifests/none.yaml")),
    ..spec!("flux-cli", &[("github.com/fluxcd/flux2/v2/cmd/flux", "flux")], "-s -w -X main.VERSION=2.9.4", "3 min")
};
static HELM: Spec = spec!("helm", &[("helm.sh/helm/v3/cmd/helm", "helm")], "-s -w", "2 min");
static SIGSTORE: Spec = spec!(
    "sigstore",
    include_str!("../go/sigstore/main.go"),
    &[("github.com/sigstore/cosign/v3/cmd/cosign", "cosign"), ("headwater.local/e2e/sigstore", "virtual-sigstore"),],
    "-s -w",
    "2 min"
);
static PROMETHEUS_OPERATOR: Spec = Spec {
    files: &[
        (
            "github.com/prometheus-operator/prometheus-operator@v0.85.0",
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        ),
        (
            "github.com/prometheus-operator/prometheus-operator@v0.85.0",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
    ],
    ..spec!("prometheus-operator", &[], "", "10 s")
};

impl Module {
    /// All of them, in the order in which they are built.
    pub const ALL: [Self; 11] = [
        Self::Kubernetes,
        Self::Kwok,
        Self::Registry,
        Self::SourceController,
        Self::KustomizeController,
        Self::NotificationController,
        Self::OciTools,
        Self::FluxCli,
        Self::Helm,
        Self::Sigstore,
        Self::PrometheusOperator,
    ];

    fn spec(self) -> &'static Spec {
        match self {
            Self::Kubernetes => &KUBERNETES,
            Self::Kwok => &KWOK,
            Self::Registry => &REGISTRY,
            Self::SourceController => &SOURCE,
            Self::KustomizeController => &KUSTOMIZE,
            Self::NotificationController => &NOTIFICATION,
            Self::OciTools => &OCI_TOOLS,
            Self::FluxCli => &FLUX_CLI,
            Self::Helm => &HELM,
            Self::Sigstore => &SIGSTORE,
            Self::PrometheusOperator => &PROMETHEUS_OPERATOR,
        }
    }
}

const FLAGS: &[&str] = &["-mod=readonly", "-trimpath", "-buildvcs=false"];

impl Spec {
    fn folder(&self) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        let missing = self.missing.iter().flat_map(|(module, file)| [module, file]);
        for part in [&self.go_mod, &self.go_sum, &self.ldflags].into_iter().chain(FLAGS).chain(missing) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        for (from, what) in self.packages.iter().chain(self.files) {
            hash.update(format!("{from}={what}\n").as_bytes());
        }
        hash.update(self.main_go.as_bytes());
        let hash = hash.finalize();
        let short = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(dirs::tools()?.join(format!("{}-{short:016x}", self.name)))
    }

    /// Names of its programs and files in the cache.
    fn products(&self) -> impl Iterator<Item = &'static str> {
        let files = self.files.iter().filter_map(|(_, path)| path.rsplit('/').next());
        self.packages.iter().map(|(_, program)| *program).chain(files)
    }
}

/// Built programs, and files.
#[derive(Debug, Clone)]
pub struct Tools {
    folders: Vec<PathBuf>,
}

impl Tools {
    /// Path of a program such as `kube-apiserver`.
    pub fn path(&self, program: &str) -> Result<PathBuf> {
        self.find(program).with_context(|| format!("{program} is not among the tools asked for"))
    }

    /// Same, or nothing when it is not among the tools asked for.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }
}

/// Makes sure that the programs of these modules exist, building what is missing.
pub fn ensure(modules: &[Module]) -> Result<Tools> {
    let mut folders = Vec::new();
    let missing: Vec<&Spec> =
        modules.iter().map(|m| m.spec()).filter(|s| !s.folder().is_ok_and(|folder| folder.is_dir())).collect();
    if !missing.is_empty() {
        check_go()?;
    }
    let started = Instant::now();
    for (index, spec) in missing.iter().enumerate() {
        build_once(spec, index + 1, missing.len())?;
    }
    if missing.len() > 1 {
        say(&format!("all tools built in {}", clock(started.elapsed())));
    }
    for module in modules {
        folders.push(module.spec().folder()?);
    }
    Ok(Tools { folders })
}

/// Path of a program such as `cosign`, building it when it is not in the cache yet.
pub fn tool(program: &str) -> Result<PathBuf> {
    let all = || Module::ALL.into_iter().flat_map(|m| m.spec().products().map(move |name| (m, name)));
    let Some((module, _)) = all().find(|(_, name)| *name == program) else {
        let names: Vec<&str> = all().map(|(_, name)| name).collect();
        bail!("{program} is no tool of the test bed; there is: {}", names.join(", "))
    };
    ensure(&[module])?.path(program)
}

/// The Go version that all modules ask for, as `(major, minor)`.
fn wanted_go() -> (u32, u32) {
    let version = |text: &str| {
        let mut parts = text.split('.').map_while(|part| part.parse().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    Module::ALL
        .iter()
        .filter_map(|m| m.spec().go_mod.lines().find_map(|line| line.strip_prefix("go ")))
        .map(version)
        .max()
        .unwrap_or((1, 26))
}

fn check_go() -> Result<()> {
    let (major, minor) = wanted_go();
    let need = format!("building the test bed needs Go {major}.{minor} or newer");
    let Ok(output) = Command::new("go").args(["env", "GOVERSION", "GOTOOLCHAIN"]).current_dir("/").output() else {
        bail!("{need}: there is no `go` in PATH");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (version, toolchain) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut numbers =
        version.trim_start_matches("go").split(['.', 'r', '-', ' ']).map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // With any other GOTOOLCHAIN an older go fetches the right one itself.
    if found < (major, minor) && toolchain == "local" {
        bail!("{need}: `go` in PATH is {version} and GOTOOLCHAIN=local keeps it from switching");
    }
    Ok(())
}

fn clock(elapsed: Duration) -> String {
    format!("{}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

fn build_once(spec: &Spec, number: usize, of: usize) -> Result<()> {
    let folder = spec.folder()?;
    let parent = dirs::tools()?;
    fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
    let lock = File::create(parent.join(format!("{}.lock", spec.name))).context("open build lock")?;
    if lock.try_lock().is_err() {
        say(&format!("waiting for another build of {}", spec.name));
        lock.lock().context("wait for the build lock")?;
    }
    if folder.is_dir() {
        return Ok(());
    }
    // We hold the lock, so what is there is left over from a build that was cut off.
    let work = parent.join(format!(".building-{}", spec.name));
    let _ = fs::remove_dir_all(&work);
    build(spec, &work, number, of)?;
    fs::rename(work.join("bin"), &folder).with_context(|| format!("move the build to {}", folder.display()))?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}

fn go(work: &Path) -> Command {
    let mut go = Command::new("go");
    // The user's own settings must not change what comes out.
    go.current_dir(work).env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOWORK", "off");
    go.env_remove("GOOS").env_remove("GOARCH");
    go
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// Downloads a module, compares it with go.sum, and says where it is.
fn downloaded(work: &Path, module: &str) -> Result<PathBuf> {
    let download: serde_json::Value =
        serde_json::from_slice(&run(go(work).args(["mod", "download", "-json", module]))?)?;
    download["Dir"].as_str().map(PathBuf::from).context("go does not say where the module is")
}

/// Uses a copy of a module that has one more, empty file. Go itself allows no changes to modules, not even by an overlay.
fn complete(work: &Path, module: &str, file: &str) -> Result<()> {
    let dir = downloaded(work, module)?;
    let copy = work.join("completed");
    run(Command::new("cp").args(["-r", "--no-preserve=mode"]).args([&dir, &copy]))?;
    let file = copy.join(file);
    fs::create_dir_all(file.parent().unwrap_or(&copy))?;
    fs::write(&file, "")?;
    run(go(work).args(["mod", "edit", &format!("-replace={module}=./completed")]))?;
    Ok(())
}

fn build(spec: &Spec, work: &Path, number: usize, of: usize) -> Result<()> {
    let bin = work.join("bin");
    fs::create_dir_all(&bin)?;
    fs::write(work.join("go.mod"), spec.go_mod)?;
    fs::write(work.join("go.sum"), spec.go_sum)?;
    if !spec.main_go.is_empty() {
        fs::write(work.join("main.go"), spec.main_go)?;
    }
    let products = spec.products().collect::<Vec<_>>().join(", ");
    say(&format!("building {products} ({number} of {of}, about {} the first time)", spec.about));
    for (module, path) in spec.files {
        let dir = downloaded(work, module)?;
        // Modules in Go's cache cannot be written to.
        run(Command::new("cp").arg("--no-preserve=mode").args([&dir.join(path), &bin]))?;
    }
    if spec.packages.is_empty() {
        return Ok(());
    }
    let log = work.join("build.log");
    let output = File::create(&log)?;
    let started = Instant::now();
    if let Some((module, file)) = spec.missing {
        complete(work, module, file).with_context(|| format!("add {file} to {module}"))?;
    }
    let mut go = go(work)
        .arg("build")
        .args(FLAGS)
        .args(["-ldflags", spec.ldflags, "-o"])
        .arg(format!("{}/", bin.display()))
        .args(spec.packages.iter().map(|(package, _)| package))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("start go")?;
    let mut told = Instant::now();
    let status = loop {
        if let Some(status) = go.try_wait()? {
            break status;
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            say(&format!("… still building {} ({})", spec.name, clock(started.elapsed())));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        bail!("go build of {} failed ({status}):\n{}", spec.name, tail(&log, 30));
    }
    for (package, program) in spec.packages {
        // Go names the program after the path, apart from a version suffix: `server` for etcd.
        let made = package.rsplit('/').find(|part| *part != "v3").unwrap_or(program);
        if made != *program {
            fs::rename(bin.join(made), bin.join(program))?;
        }
    }
    say(&format!("built {} in {}", spec.name, clock(started.elapsed())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_version_comes_from_the_modules() {
        assert!(wanted_go() >= (1, 26));
    }

    #[test]
    fn every_module_names_its_packages_as_tools() {
        for module in Module::ALL {
            let spec = module.spec();
            for (package, _) in spec.packages {
                assert!(spec.go_mod.contains(package), "{} in go/{}/go.mod", package, spec.name);
            }
        }
    }
}
