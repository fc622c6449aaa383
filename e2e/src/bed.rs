//! Clusters that stay up in the background (`bed up`), and clusters that a user brings.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Kind, Options};
use crate::process::alive;
use crate::registry::{Registry, RegistryOptions};
use crate::tools::{Module, ensure};
use crate::{dirs, kubeconfig};

/// What `bed up` has started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The process that owns everything: it ends, all ends.
    pub supervisor: u32,
    /// Its clusters.
    pub clusters: Vec<ClusterState>,
    /// `127.0.0.1:PORT` of the registry, when there is one.
    pub registry: Option<String>,
    /// Process id of the registry.
    pub registry_pid: Option<u32>,
    /// Path of kubectl.
    pub kubectl: PathBuf,
}

/// One cluster of `bed up`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterState {
    /// `plain`, `light`, `full` or `flux`.
    pub kind: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// URL of its API server.
    pub server: String,
    /// Folder of its logs.
    pub logs: PathBuf,
    /// Its API server.
    pub api: u32,
    /// Its processes when it came up.
    pub pids: Vec<u32>,
}

/// Runs kubectl, apart from the user's own configuration and caches.
pub(crate) fn kubectl(
    program: &Path,
    kubeconfig: &Path,
    home: &Path,
    args: &[&str],
    stdin: Option<&str>,
) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl")?;
    let input = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Written beside reading, so that neither side waits for the other's full pipe.
        scope.spawn(|| {
            if let (Some(mut pipe), Some(text)) = (input, stdin) {
                let _ = pipe.write_all(text.as_bytes());
            }
        });
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The supervisor holds this lock for as long as it lives, so a stale state file fools nobody.
fn lock_file() -> Result<File> {
    let dir = dirs::state()?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    File::options().create(true).append(true).open(dir.join("lock")).context("open lock file")
}

fn state_file() -> Result<PathBuf> {
    Ok(dirs::state()?.join("state.json"))
}

/// What is up now.
pub fn current() -> Result<Option<State>> {
    if lock_file()?.try_lock().is_ok() {
        return Ok(None);
    }
    match fs::read(state_file()?) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(_) => Ok(None),
    }
}

/// Starts everything and keeps it until the process is ended (`bed supervise`, started by `bed up`).
/// It needs no signal handler: its children die with it by the kernel's doing.
pub fn supervise(clusters: &[Options], registry: bool) -> Result<()> {
    nix::unistd::setsid().context("setsid")?;
    let lock = lock_file()?;
    if lock.try_lock().is_err() {
        bail!("a bed is already up; see `bed status`");
    }
    let dir = dirs::state()?;
    let _ = fs::remove_file(state_file()?);
    let registry = if registry { Some(Registry::start(&RegistryOptions::default())?) } else { None };
    let clusters = Cluster::start_all(clusters)?;
    let mut state = State {
        supervisor: std::process::id(),
        clusters: vec![],
        registry: registry.as_ref().map(Registry::address),
        registry_pid: registry.as_ref().and_then(Registry::pid),
        kubectl: ensure(&[Module::Kubernetes])?.path("kubectl")?,
    };
    for (index, cluster) in clusters.iter().enumerate() {
        let file = dir.join(format!("cluster-{}.kubeconfig", index + 1));
        kubeconfig::write_private(&file, &cluster.kubeconfig())?;
        state.clusters.push(ClusterState {
            kind: format!("{:?}", cluster.kind()).to_lowercase(),
            kubeconfig: file,
            server: cluster.server(),
            logs: cluster.dir().to_owned(),
            api: cluster.api_pid().context("an API server has ended")?,
            pids: cluster.pids(),
        });
    }
    // Written whole or not at all: `bed up` waits for this file.
    let draft = dir.join("state.json.new");
    fs::write(&draft, serde_json::to_vec_pretty(&state)?)?;
    fs::rename(draft, state_file()?)?;
    loop {
        std::thread::park();
    }
}

/// Starts a supervisor in the background and waits until it is ready.
pub fn up(kinds: &str, count: usize, registry: bool) -> Result<State> {
    if current()?.is_some() {
        bail!("a bed is already up; `bed down` ends it");
    }
    let dir = dirs::state()?;
    let _ = fs::remove_file(state_file()?);
    let log_path = dir.join("supervisor.log");
    let log = File::create(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["supervise", "--kind", kinds, "--clusters", &count.to_string()]);
    if registry {
        command.arg("--registry");
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("start the supervisor")?;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the bed did not come up ({status}): {}", fs::read_to_string(&log_path)?);
        }
        if let Some(state) = current()? {
            return Ok(state);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!("the bed did not come up within 2 min; see {}", log_path.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Freezes the API server of a cluster, or lets it go on: it accepts connections and never answers.
pub fn freeze(state: &State, cluster: usize, is_frozen: bool) -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    let one = cluster.checked_sub(1).and_then(|i| state.clusters.get(i));
    let Some(one) = one else { bail!("there is no cluster {cluster}, only {}", state.clusters.len()) };
    let signal = if is_frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    kill(nix::unistd::Pid::from_raw(i32::try_from(one.api)?), signal)
        .with_context(|| format!("{signal} to {}", one.server))
}

/// Ends what `bed up` started, and waits until all of it is gone. Whether there was anything.
pub fn down() -> Result<bool> {
    let Some(state) = current()? else {
        return Ok(false);
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(state.supervisor)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("end the supervisor")?;
    let pids: Vec<u32> = state.clusters.iter().flat_map(|c| c.pids.clone()).chain(state.registry_pid).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while alive(state.supervisor) || pids.iter().any(|&pid| alive(pid)) {
        if Instant::now() > deadline {
            // Its children end with it: the kernel sees to that.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            if Instant::now() > deadline + Duration::from_secs(5) {
                bail!("some processes of the bed did not end: {pids:?}");
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for cluster in &state.clusters {
        let _ = fs::remove_file(&cluster.kubeconfig);
    }
    let _ = fs::remove_file(state_file()?);
    Ok(true)
}

/// A cluster to test against.
#[derive(Debug)]
pub enum Target {
    /// Started by this process.
    Bed(Box<Cluster>),
    /// The user's own, by the path of its kubeconfig.
    Own(PathBuf),
}

impl Target {
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Result<String> {
        match self {
            Self::Bed(cluster) => Ok(cluster.kubeconfig()),
            Self::Own(path) => fs::read_to_string(path).with_context(|| format!("read {}", path.display())),
        }
    }

    /// The same as a file.
    pub fn kubeconfig_path(&self) -> PathBuf {
        match self {
            Self::Bed(cluster) => cluster.kubeconfig_path(),
            Self::Own(path) => path.clone(),
        }
    }

    /// The cluster when it is one of the bed: only those can be paused or audited.
    pub fn bed(&self) -> Option<&Cluster> {
        match self {
            Self::Bed(cluster) => Some(cluster),
            Self::Own(_) => None,
        }
    }
}

/// The user's own clusters when `BED_KUBECONFIGS=a:b:c` names at least `count` of them, else fresh
/// ones of the bed.
pub fn clusters_or_bed(options: &Options, count: usize) -> Result<Vec<Target>> {
    if let Some(list) = std::env::var_os("BED_KUBECONFIGS").filter(|list| !list.is_empty()) {
        let own: Vec<Target> = std::env::split_paths(&list).map(Target::Own).collect();
        if own.len() < count {
            bail!("BED_KUBECONFIGS names {} clusters, {count} are needed", own.len());
        }
        return Ok(own.into_iter().take(count).collect());
    }
    Ok(Cluster::start_many(options, count)?.into_iter().map(|c| Target::Bed(Box::new(c))).collect())
}

/// The kinds of `count` clusters that words such as `plain,flux,light` name; the last one is that of all that remain.
pub fn kinds(words: &str, count: usize) -> Result<Vec<Kind>> {
    let words: Vec<&str> = words.split(',').collect();
    if words.len() > count {
        bail!("{} kinds for {count} clusters: {}", words.len(), words.join(","));
    }
    let last = words.last().copied().unwrap_or_default();
    words.iter().copied().chain(std::iter::repeat(last)).take(count).map(kind).collect()
}

fn kind(word: &str) -> Result<Kind> {
    match word {
        "plain" => Ok(Kind::Plain),
        "light" => Ok(Kind::Light),
        "full" => Ok(Kind::Full),
        "flux" => Ok(Kind::Flux),
        other => bail!("unknown kind {other}: plain, light, full or flux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_kind_is_that_of_all_that_remain() {
        assert_eq!(kinds("plain,flux,light", 4).unwrap(), [Kind::Plain, Kind::Flux, Kind::Light, Kind::Light]);
        assert_eq!(kinds("full", 2).unwrap(), [Kind::Full, Kind::Full]);
        assert!(kinds("plain,flux", 1).unwrap_err().to_string().contains("2 kinds for 1 clusters"));
        assert!(kinds("plain,", 2).unwrap_err().to_string().contains("plain, light, full or flux"));
    }
}
