//! `make bench`: what a remote cluster is asked while nothing happens, counted in its audit log. Nothing here passes or fails:
//! figures are for people.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that breaks should say so"
)]

// One harness for scenarios and measurements; this uses a part of it.
#[allow(unused)]
#[path = "../tests/scenarios/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_e2e::Kind;
use serde_json::json;

use harness::{NEW, OPERATOR, Site, Tenant};

/// The shortest interval, so that hours at the default one pass in minutes.
const INTERVAL: Duration = Duration::from_secs(30);
/// The default interval.
const DEFAULT: Duration = Duration::from_secs(600);
/// Two turns of what is looked at in every sixth interval.
const INTERVALS: u32 = 12;
/// How long a watch is kept open, see `src/cluster/mirror.rs`.
const WATCH: Duration = Duration::from_secs(3600);

fn main() {
    let target = Site::start(Kind::Plain);
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "rest");
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["interval"] = json!("30s");
    tenant.create("a", &wanted);
    tenant.ready("a");
    std::thread::sleep(INTERVAL);
    let mark = target.audit_mark();
    let passes = tenant.passes("a");
    eprintln!("a remote cluster at rest, {} s", (INTERVAL * INTERVALS).as_secs());
    std::thread::sleep(INTERVAL * INTERVALS);
    let events = target.settled(mark);
    let ours: Vec<_> = events.iter().filter(|e| e.user == OPERATOR).collect();
    let mut kinds = BTreeMap::<String, usize>::new();
    for event in &ours {
        *kinds.entry(format!("{} {}", event.verb, event.resource)).or_default() += 1;
    }
    eprintln!("{} passes; {kinds:?}", tenant.passes("a") - passes);
    // A watch is in the log when it ends: those that ended here were cut off, and had to be opened anew.
    let cut = ours.iter().filter(|e| e.verb == "watch").count();
    let asked = ours.iter().filter(|e| e.verb != "watch").count();
    let hours = DEFAULT.as_secs_f64() * f64::from(INTERVALS) / 3600.0;
    let minutes = INTERVAL.as_secs_f64() * f64::from(INTERVALS) / 60.0;
    let watches = 2.0 * 3600.0 / WATCH.as_secs_f64();
    let per_hour = asked as f64 / hours + watches;
    println!("| figure | Headwater | aim |\n|---|---|---|");
    println!(
        "| requests per remote cluster and hour at rest (interval 10m), {watches:.0} of them watches opened anew | {per_hour:.1} | 15 |"
    );
    println!("| watches that were cut off within {minutes:.0} min | {cut} | 0 |");
}
