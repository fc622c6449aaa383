//! A wall clock that goes wrong, for one program: `clock/clock.c`, compiled by the C compiler that building Headwater needs anyway.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// The time of day as a program sees it that was started with [`Clock::env`], and that is linked dynamically.
#[derive(Debug)]
pub struct Clock {
    dir: TempDir,
    wrong_by: File,
}

impl Clock {
    /// One that is right.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("a folder for a clock")?;
        let source = dir.path().join("clock.c");
        std::fs::write(&source, include_str!("../clock/clock.c"))?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([dir.path().join("clock.so"), source])
            .output()
            .context("start cc, a C compiler, which has to be installed")?;
        if !output.status.success() {
            bail!("cc does not compile the clock: {}", String::from_utf8_lossy(&output.stderr));
        }
        let wrong_by = File::create(dir.path().join("wrong-by"))?;
        let clock = Self { dir, wrong_by };
        clock.is_wrong_by(0)?;
        Ok(clock)
    }

    /// So many seconds fast from now on; slow when negative.
    pub fn is_wrong_by(&self, seconds: i64) -> Result<()> {
        self.wrong_by.write_all_at(&seconds.to_ne_bytes(), 0).context("set a clock")
    }

    /// What a program needs in its environment to go by this clock.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        [("LD_PRELOAD", file("clock.so")), ("HEADWATER_CLOCK", file("wrong-by"))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_by_it() {
        let clock = Clock::start().unwrap();
        let now = || -> i64 {
            let told = Command::new("date").arg("+%s").envs(clock.env()).output().unwrap();
            String::from_utf8(told.stdout).unwrap().trim().parse().unwrap()
        };
        let right = jiff::Timestamp::now().as_second();
        assert!((now() - right).abs() < 60);
        for seconds in [3600, -3600, 0] {
            clock.is_wrong_by(seconds).unwrap();
            assert!((now() - right - seconds).abs() < 60, "{seconds}");
        }
    }
}
