//! Free ports and loopback addresses, reserved among all beds of the user.
//!
//! Asking the OS for port 0 and closing it again is a race, also against outgoing connections,
//! which take their ports from the same range. So: ports *below* that range, a lock file per port
//! (held as long as the cluster lives, also while its API server is stopped), and a bind as check.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;

use anyhow::{Context as _, Result, bail};

const FIRST: u16 = 18_000;
/// Below Linux's default range of ephemeral ports (32768–60999).
const LAST: u16 = 32_000;

/// A port of 127.0.0.1 that no other bed uses.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

/// A /24 of 127.0.0.0/8 that no other bed uses: one address for each pod.
#[derive(Debug)]
pub(crate) struct Net {
    /// Like `127.17.203`.
    pub(crate) prefix: String,
    _lock: File,
}

fn random(below: u64) -> u64 {
    // RandomState is seeded by the OS: enough to spread beds, and no crate for it.
    RandomState::new().hash_one(std::process::id()) % below
}

fn lock(kind: &str, name: &str) -> Result<Option<File>> {
    let dir = crate::dirs::shared()?.join(kind);
    fs::create_dir_all(&dir)?;
    let file = File::options().create(true).append(true).open(dir.join(name)).context("open lock file")?;
    Ok(file.try_lock().is_ok().then_some(file))
}

pub(crate) fn port() -> Result<Port> {
    let span = u64::from(LAST - FIRST);
    for _ in 0..500 {
        let number = FIRST + u16::try_from(random(span)).unwrap_or(0);
        if let Some(file) = lock("ports", &number.to_string())?
            && TcpListener::bind(("127.0.0.1", number)).is_ok()
        {
            return Ok(Port { number, _lock: file });
        }
    }
    bail!("no free port found between {FIRST} and {LAST}")
}

pub(crate) fn net() -> Result<Net> {
    for _ in 0..500 {
        let (a, b) = (64 + random(128), random(256));
        if let Some(file) = lock("nets", &format!("{a}.{b}"))? {
            return Ok(Net { prefix: format!("127.{a}.{b}"), _lock: file });
        }
    }
    bail!("no free loopback network found")
}
