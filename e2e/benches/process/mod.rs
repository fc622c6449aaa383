//! What the kernel says of processes.

use std::fs;

/// Seconds of user and system time.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn cpu(pids: &[u32]) -> f64 {
    let of = |pid: &u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    // The kernel counts in hundredths of a second.
    pids.iter().filter_map(of).sum::<u64>() as f64 / 100.0
}

/// Megabytes: all, what is the process's own, and the most there ever was.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) own: f64,
    pub(crate) peak: f64,
}

pub(crate) fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    Memory { resident: field("VmRSS:"), own: field("RssAnon:"), peak: field("VmHWM:") }
}
