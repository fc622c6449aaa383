//! Child processes that never outlive this one.
//!
//! Two nets hold them. A [`Process`] kills its child when dropped, which covers tests that end,
//! fail or panic. And the kernel kills the child when this process ends in any other way, SIGKILL
//! and Ctrl-C included: `setpriv --pdeathsig KILL` asks for that before it becomes the program.
//!
//! The kernel takes the death of the *thread* that started the child for the parent's death, and
//! test threads end early, so one thread that lives as long as the process starts them all. A
//! parent that dies before the request is made is caught by comparing parent process ids.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What to start. The child sees only the variables in `env`, so that a user's settings
/// (KUBECONFIG, proxies) cannot leak into a test.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// A name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// All of its environment, apart from PATH.
    pub env: Vec<(String, String)>,
    /// Its working folder.
    pub dir: PathBuf,
    /// File for stdout and stderr, appended to.
    pub log: PathBuf,
}

/// A running child; dropped means killed and reaped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawner() -> &'static mpsc::Sender<Job> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            // The sender is in a static, so this ends with the process and never before.
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    })
}

impl Process {
    /// Starts the program.
    pub fn spawn(launch: &Launch) -> Result<Self> {
        let log = File::options().create(true).append(true).open(&launch.log).context("open log file")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "sh", "-c", "[ \"$PPID\" = \"$0\" ] || exit 125; exec \"$@\""])
            .arg(std::process::id().to_string())
            .arg(&launch.program)
            .args(&launch.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .envs(launch.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&launch.dir)
            // A group of its own: a terminal's Ctrl-C goes to the owner, whose end ends the child.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let (reply, answer) = mpsc::channel();
        spawner().send((command, reply)).map_err(|_| anyhow!("the spawner thread is gone"))?;
        let child =
            answer.recv()?.with_context(|| format!("start {} (it needs `setpriv` of util-linux)", launch.name))?;
        Ok(Self { name: launch.name.clone(), child, log: launch.log.clone() })
    }

    /// Its name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Fails, with the end of its log, when it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, tail(&self.log, 15)),
        }
    }

    /// Asks it to end, and kills it when it has not after `patience`.
    pub fn terminate(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if self.signal(Signal::SIGTERM).is_ok() {
            while self.running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process with this id exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
