//! Where the bed keeps things: tools in the user's cache, running clusters in the temp folder.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

fn from_env(variable: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(value) = std::env::var_os(variable) {
        let path = PathBuf::from(value);
        if path.is_absolute() {
            return Ok(path);
        }
    }
    let home = std::env::var_os("HOME").with_context(|| format!("neither {variable} nor HOME is set"))?;
    Ok(PathBuf::from(home).join(below_home))
}

/// Folder of the built tools: `$XDG_CACHE_HOME/headwater/bin`, by default below `~/.cache`.
pub fn tools() -> Result<PathBuf> {
    Ok(from_env("XDG_CACHE_HOME", ".cache")?.join("headwater/bin"))
}

/// Folder of the state of `bed up`: `$XDG_STATE_HOME/headwater/bed`, by default below
/// `~/.local/state`. `HEADWATER_BED_STATE` names another one, for a second bed beside the first.
pub fn state() -> Result<PathBuf> {
    if let Some(value) = std::env::var_os("HEADWATER_BED_STATE") {
        return std::path::absolute(PathBuf::from(value)).context("HEADWATER_BED_STATE");
    }
    Ok(from_env("XDG_STATE_HOME", ".local/state")?.join("headwater/bed"))
}

/// Folder shared by all beds of one user on this machine, closed to others: it holds tokens.
pub(crate) fn shared() -> Result<PathBuf> {
    let uid = nix::unistd::getuid().as_raw();
    let path = std::env::temp_dir().join(format!("headwater-bed-{uid}"));
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            // The name can be guessed, so make sure that nobody else made it first.
            let meta = fs::symlink_metadata(&path)?;
            if !meta.is_dir() || meta.uid() != uid || meta.permissions().mode() & 0o077 != 0 {
                bail!("{} exists but is not a private folder of this user", path.display());
            }
        }
        Err(e) => return Err(e).with_context(|| format!("create {}", path.display())),
    }
    Ok(path)
}

/// A helper shell that outlives this process by a moment: its standard input is a pipe that only
/// this process holds, so it sees end-of-file however this process ends, SIGKILL included, and
/// then removes the folder.
struct Janitor {
    path: PathBuf,
    _pipe: ChildStdin,
}

/// A folder for everything this process runs; gone when the process is.
pub(crate) fn run_root() -> Result<&'static Path> {
    static ROOT: OnceLock<std::result::Result<Janitor, String>> = OnceLock::new();
    match ROOT.get_or_init(|| start_janitor().map_err(|e| format!("{e:#}"))) {
        Ok(janitor) => Ok(&janitor.path),
        Err(e) => bail!("{e}"),
    }
}

fn start_janitor() -> Result<Janitor> {
    use std::os::unix::process::CommandExt as _;
    let runs = shared()?.join("runs");
    fs::create_dir_all(&runs)?;
    let path = tempfile::Builder::new().prefix(&format!("{}-", std::process::id())).tempdir_in(&runs)?.keep();
    let mut child = Command::new("sh")
        // Killed children may still be writing for a moment, hence the second try.
        .args(["-c", "cat >/dev/null; sleep 0.3; rm -rf -- \"$0\" || { sleep 1; rm -rf -- \"$0\"; }"])
        .arg(&path)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start sh")?;
    let pipe = child.stdin.take().context("no pipe to the janitor")?;
    Ok(Janitor { path, _pipe: pipe })
}

/// A fresh folder below [`run_root`], removed when dropped.
pub(crate) fn run_dir(prefix: &str) -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir_in(run_root()?).context("create run folder")
}
