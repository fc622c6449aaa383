//! `make bench-fleet`: what Headwater costs with a hundred and a thousand clusters. The hub is a real API server, the operator is the
//! release binary, the clusters are stand-ins (`e2e/src/fakes`) that are 20 ms away. Prints a table; nothing here passes or fails.
//!
//! `FLEET=100` measures one size only.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a measurement that breaks should say so, and figures are for people"
)]

// One harness for scenarios and measurements; this uses a part of it.
#[allow(unused)]
#[path = "../tests/scenarios/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use headwater::cluster::{Gate, Kubeconfig, connect};
use headwater_e2e::Kind;
use headwater_e2e::fakes::{Counts, Fakes, Mood, Options};
use jiff::Timestamp;
use serde_json::{Value, json};

use harness::{NEW, OLD, OPERATOR, Site, Tenant, block_on, spec, world};

/// How far away the clusters are.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// How long a settled operator is watched.
const REST: Duration = Duration::from_secs(60);
/// Idle connections are closed after a while; before that memory is not at rest.
const SETTLE: Duration = Duration::from_secs(30);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);
/// Requests of ours to the hub at a time.
const IN_FLIGHT: usize = 16;
/// Clusters of the measurement with dead ones among them, and how many of these are dead.
const AMONG: (usize, usize) = (200, 60);
const NAMESPACE: &str = "fleet";

fn main() {
    world();
    let sizes = std::env::var("FLEET").unwrap_or_else(|_| "100,1000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').filter_map(|n| n.parse().ok()).collect();
    let all: Vec<Figures> = sizes.iter().map(|size| measure(*size)).collect();
    let alone = with_dead(AMONG.0 - AMONG.1, 0);
    let among = with_dead(AMONG.0, AMONG.1);
    print(&all, &alone, &among);
}

/// User and system time.
fn cpu(pids: &[u32]) -> f64 {
    let of = |pid: &u32| -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    // The kernel counts in hundredths of a second.
    pids.iter().filter_map(of).sum::<u64>() as f64 / 100.0
}

/// Megabytes: all, what is the process's own, and the most there ever was.
#[derive(Clone, Copy, Default)]
struct Memory {
    resident: f64,
    own: f64,
    peak: f64,
}

fn memory(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    Memory { resident: field("VmRSS:"), own: field("RssAnon:"), peak: field("VmHWM:") }
}

fn sockets(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    files.filter(|f| std::fs::read_link(f.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}

/// A hub, an operator, and instances for stand-ins.
struct Fleet<'a> {
    fakes: &'a Fakes,
    hub: &'a Site,
    tenant: Tenant<'a>,
    client: kube::Client,
    names: Vec<String>,
}

/// What something took.
#[derive(Clone, Copy, Default)]
struct Spent {
    /// Seconds until it was done.
    wall: f64,
    /// Processor time of the operator.
    ours: f64,
    /// Processor time of the hub's API server and etcd.
    hub: f64,
    /// Processor time of the stand-ins, and of this measurement itself.
    stand_ins: f64,
    /// Requests per cluster.
    asked: f64,
}

impl<'a> Fleet<'a> {
    /// Everything is there but the operator.
    fn new(hub: &'a Site, fakes: &'a Fakes) -> Self {
        let tenant = Tenant::without_operator(hub, NAMESPACE, &hub.for_operator());
        let config = Kubeconfig::parse(hub.kubeconfig().as_bytes()).unwrap().config();
        let client = block_on(async { connect(&config, &Gate::open()).unwrap() });
        let names = (0..fakes.count()).map(|n| fakes.name(n).to_owned()).collect();
        let fleet = Self { fakes, hub, tenant, client, names };
        fleet.for_all(|n, name| {
            let data = json!({"value": fakes.kubeconfig(n)});
            let secret = json!({"metadata": {"name": format!("{name}-kubeconfig")}, "stringData": data});
            ("POST", format!("/api/v1/namespaces/{NAMESPACE}/secrets"), secret)
        });
        fleet.for_all(|_, name| {
            let mut spec = spec(OLD);
            spec["wait"] = json!(true);
            spec["kubeConfig"] = json!({"secretRef": {"name": format!("{name}-kubeconfig")}});
            let path = format!("/apis/headwater.dev/v1alpha1/namespaces/{NAMESPACE}/fluxinstances");
            ("POST", path, fleet.tenant.object(name, &spec))
        });
        fleet
    }

    /// A request to the hub for each cluster.
    fn for_all(&self, request: impl Fn(usize, &str) -> (&'static str, String, Value)) {
        let all = self.names.iter().enumerate().map(|(n, name)| {
            let (method, path, body) = request(n, name);
            let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            let request = http::Request::builder().method(method).uri(path).header("content-type", content);
            let request = request.body(body.to_string().into_bytes()).unwrap();
            async { self.client.request_text(request).await.unwrap() }
        });
        block_on(futures_util::stream::iter(all).buffer_unordered(IN_FLIGHT).for_each(|_| async {}));
    }

    fn patch_all(&self, change: &Value) {
        self.for_all(|_, name| ("PATCH", self.tenant.path(name), change.clone()));
    }

    /// Values of a metric by instance, all other labels summed up.
    fn metric(&self, name: &str) -> BTreeMap<String, u64> {
        let Some((_, text)) = self.tenant.page("/metrics") else { return BTreeMap::new() };
        let mut found = BTreeMap::new();
        for line in text.lines().filter(|l| l.starts_with(name)) {
            let instance = line.split("instance=\"").nth(1).and_then(|rest| rest.split('"').next());
            let value = line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
            if let (Some(instance), Some(value)) = (instance, value) {
                *found.entry(instance.to_owned()).or_default() += value;
            }
        }
        found
    }

    fn ready(&self) -> usize {
        self.metric("headwater_instance_ready{").values().filter(|ready| **ready == 1).count()
    }

    fn asked(&self) -> Counts {
        let mut sum = Counts::default();
        for n in 0..self.fakes.count() {
            let of = self.fakes.counts(n);
            sum.gets += of.gets;
            sum.lists += of.lists;
            sum.watches += of.watches;
            sum.writes += of.writes;
            sum.asks += of.asks;
        }
        sum
    }

    /// Does something, waits until it is done, and tells what it took. `act` may start the operator.
    fn spent(&self, what: &str, act: impl FnOnce(), mut is_done: impl FnMut() -> bool) -> Spent {
        let pids = self.hub.pids();
        let before = self.tenant_pid().map_or(0.0, |pid| cpu(&[pid]));
        let us = [std::process::id()];
        let (hub, stand_ins, asked, begin) = (cpu(&pids), cpu(&us), self.asked(), Instant::now());
        act();
        while !is_done() {
            assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; {} are ready", self.ready());
            std::thread::sleep(Duration::from_millis(100));
        }
        let wall = begin.elapsed().as_secs_f64();
        // What is on its way still counts, but not as time.
        std::thread::sleep(Duration::from_secs(1));
        let all = f64::from(self.asked().all() - asked.all());
        let ours = cpu(&[self.tenant.pid()]);
        let ours = if ours < before { ours } else { ours - before };
        let spent = Spent {
            wall,
            ours,
            hub: cpu(&pids) - hub,
            stand_ins: cpu(&us) - stand_ins,
            asked: all / self.names.len() as f64,
        };
        eprintln!(
            "  {what}: {:.1} s, our CPU {:.2} s, the hub's {:.2} s, the stand-ins' {:.2} s, {:.1} requests per cluster; {:.0} MB",
            spent.wall,
            spent.ours,
            spent.hub,
            spent.stand_ins,
            spent.asked,
            memory(self.tenant.pid()).resident
        );
        spent
    }

    fn tenant_pid(&self) -> Option<u32> {
        self.tenant.page("/livez").map(|_| self.tenant.pid())
    }

    /// By the hub's audit log: when each instance was last written by the operator, in seconds from an instant.
    fn reported(&self, begin: Timestamp) -> Vec<f64> {
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        for event in self.audit(begin) {
            if event["objectRef"]["resource"] == "fluxinstances" && event["verb"] == "patch" {
                let name = event["objectRef"]["name"].as_str().unwrap().to_owned();
                let at: Timestamp = event["stageTimestamp"].as_str().unwrap().parse().unwrap();
                last.insert(name, at.duration_since(begin).as_secs_f64());
            }
        }
        let mut all: Vec<f64> = last.into_values().collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn audit(&self, begin: Timestamp) -> Vec<Value> {
        let log = std::fs::read_to_string(self.hub.audit_path()).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = events.filter(|e| e["user"]["username"] == OPERATOR && e["stage"] == "ResponseComplete");
        let is_since = |e: &Value| e["stageTimestamp"].as_str().unwrap().parse::<Timestamp>().unwrap() >= begin;
        ours.filter(is_since).collect()
    }

    /// What the operator asked of the hub, per cluster.
    fn hub_requests(&self, begin: Timestamp) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for event in self.audit(begin) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let what = format!("{} {}", text(&event["verb"]), text(&event["objectRef"]["resource"]));
            *counts.entry(what).or_default() += 1;
        }
        let size = self.names.len() as f64;
        let texts = counts.iter().map(|(what, n)| format!("{what} {:.1}", *n as f64 / size));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// How many instances have a version applied and are Ready.
    fn arrived(&self, version: &str) -> usize {
        let path = format!("/apis/headwater.dev/v1alpha1/namespaces/{NAMESPACE}/fluxinstances");
        let list = self.hub.must_get(&path);
        let has_arrived = |i: &&Value| {
            let mut conditions = i["status"]["conditions"].as_array().into_iter().flatten();
            i["status"]["applied"]["version"] == version
                && conditions.any(|c| {
                    c["type"] == "Ready"
                        && c["status"] == "True"
                        && c["observedGeneration"] == i["metadata"]["generation"]
                })
        };
        list["items"].as_array().unwrap().iter().filter(has_arrived).count()
    }
}

/// The value below which so many of a hundred are.
fn percentile(sorted: &[f64], part: usize) -> f64 {
    sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// What was measured with one size.
struct Figures {
    size: usize,
    install: Spent,
    install_p50: f64,
    peak: Memory,
    sweep: Spent,
    rest: Memory,
    sockets: usize,
    asked_at_rest: f64,
    cpu_per_minute: f64,
    restart: Spent,
    upgrade: Spent,
    after: Memory,
}

fn fakes(clusters: usize) -> Fakes {
    Fakes::start(&Options { clusters, round_trip: ROUND_TRIP, ..Options::default() }).unwrap()
}

fn measure(size: usize) -> Figures {
    eprintln!("{size} clusters");
    let hub = Site::hub(Kind::Plain);
    let fakes = fakes(size);
    let fleet = Fleet::new(&hub, &fakes);
    let begin = Timestamp::now();
    let install = fleet.spent("first install", || fleet.tenant.start(), || fleet.ready() == size);
    let install_p50 = percentile(&fleet.reported(begin), 50);
    eprintln!("    of the hub: {}", fleet.hub_requests(begin));
    eprintln!("    of clusters: {:?}", fleet.asked());
    let pid = fleet.tenant.pid();
    let peak = memory(pid);

    let before = fleet.metric("headwater_passes_total{");
    let passed = |before: &BTreeMap<String, u64>| {
        let now = fleet.metric("headwater_passes_total{");
        fleet.names.iter().all(|name| now.get(name) > before.get(name))
    };
    let poke = json!({"metadata": {"annotations": {"test/poke": "1"}}});
    let sweep = fleet.spent("pass without a change", || fleet.patch_all(&poke), || passed(&before));

    std::thread::sleep(SETTLE);
    let (asked, spent, begin) = (fleet.asked(), cpu(&[pid]), Instant::now());
    std::thread::sleep(REST);
    let (minutes, now) = (begin.elapsed().as_secs_f64() / 60.0, fleet.asked());
    let asked_at_rest = f64::from(now.all() - asked.all()) / size as f64 / minutes;
    let cpu_per_minute = (cpu(&[pid]) - spent) / minutes;
    let (rest, sockets) = (memory(pid), sockets(pid));
    eprintln!(
        "  at rest: {asked_at_rest:.2} requests per cluster and minute, {sockets} sockets, {:.0} MB",
        rest.resident
    );

    fleet.tenant.kill();
    let none = BTreeMap::new();
    let restart = fleet.spent("restart", || fleet.tenant.start(), || passed(&none) && fleet.ready() == size);

    let change = json!({"spec": {"distribution": {"version": NEW}}});
    let begin = Timestamp::now();
    let upgrade = fleet.spent(
        "new digest",
        || fleet.patch_all(&change),
        || {
            std::thread::sleep(Duration::from_millis(900));
            fleet.arrived(NEW) == size
        },
    );
    eprintln!("    of the hub: {}", fleet.hub_requests(begin));
    let after = memory(fleet.tenant.pid());
    Figures {
        size,
        install,
        install_p50,
        peak,
        sweep,
        rest,
        sockets,
        asked_at_rest,
        cpu_per_minute,
        restart,
        upgrade,
        after,
    }
}

/// Seconds to Ready of healthy clusters, sorted, when some others are dead.
fn with_dead(size: usize, dead: usize) -> Vec<f64> {
    eprintln!("{size} clusters, {dead} of them dead");
    let hub = Site::hub(Kind::Plain);
    let fakes = fakes(size);
    // Every third, fifth or so, not all at one end.
    let is_dead = |n: usize| dead > 0 && n * dead / size != (n + 1) * dead / size;
    for n in (0..size).filter(|n| is_dead(*n)) {
        fakes.becomes(n, [Mood::Silent, Mood::Gone, Mood::Failing(503)][n % 3]);
    }
    let fleet = Fleet::new(&hub, &fakes);
    let begin = Timestamp::now();
    fleet.spent("first install", || fleet.tenant.start(), || fleet.ready() == size - dead);
    let healthy: Vec<&String> = (0..size).filter(|n| !is_dead(*n)).map(|n| &fleet.names[n]).collect();
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    for event in fleet.audit(begin) {
        let name = event["objectRef"]["name"].as_str().unwrap_or_default().to_owned();
        if event["objectRef"]["resource"] == "fluxinstances" && event["verb"] == "patch" && healthy.contains(&&name) {
            let at: Timestamp = event["stageTimestamp"].as_str().unwrap().parse().unwrap();
            last.insert(name, at.duration_since(begin).as_secs_f64());
        }
    }
    let mut all: Vec<f64> = last.into_values().collect();
    all.sort_by(f64::total_cmp);
    eprintln!("  healthy: p50 {:.2} s, p99 {:.2} s", percentile(&all, 50), percentile(&all, 99));
    all
}

fn print(all: &[Figures], alone: &[f64], among: &[f64]) {
    println!(
        "\nFleets of stand-ins {} ms away, Flux {OLD}, then {NEW}; hub: a real API server on the same cores.\n",
        ROUND_TRIP.as_millis()
    );
    for f in all {
        let n = f.size;
        let aims = |small: &'static str, large: &'static str| if n >= 1000 { large } else { small };
        println!(
            "| {n} clusters | wall | our CPU | hub's CPU | stand-ins' CPU | requests per cluster | aim |\n|---|---|---|---|---|---|---|"
        );
        let row = |what: &str, s: &Spent, aim: &str| {
            let Spent { wall, ours, hub, stand_ins, asked } = s;
            println!("| {what} | {wall:.1} s | {ours:.2} s | {hub:.1} s | {stand_ins:.1} s | {asked:.1} | {aim} |");
        };
        row("first install of all, to Ready", &f.install, aims("2 s", "15 s"));
        row("pass without a change over all", &f.sweep, aims("", "1 s CPU"));
        row("restart, until all were looked at", &f.restart, aims("", "30 s"));
        row("new digest everywhere, to Ready", &f.upgrade, aims("", "30 s"));
        println!("\n| {n} clusters | figure | aim |\n|---|---|---|");
        println!("| half of them Ready after | {:.1} s | |", f.install_p50);
        println!(
            "| peak resident in the first install | {:.0} MB ({:.0} MB private at its end) | |",
            f.peak.peak, f.peak.own
        );
        println!(
            "| resident at rest | {:.0} MB ({:.0} MB private) | {} |",
            f.rest.resident,
            f.rest.own,
            aims("", "100 MB")
        );
        println!(
            "| resident after restart and new digest | {:.0} MB (peak {:.0} MB) | |",
            f.after.resident, f.after.peak
        );
        println!("| sockets at rest | {} | |", f.sockets);
        println!(
            "| in a minute at rest: our CPU; requests per cluster (what an hour takes is measured by `rest`) | {:.2} s; {:.2} | |\n",
            f.cpu_per_minute, f.asked_at_rest
        );
    }
    let (healthy, dead) = (AMONG.0 - AMONG.1, AMONG.1);
    println!("| {healthy} healthy clusters, time to Ready | p50 | p99 | aim |\n|---|---|---|---|");
    println!("| alone | {:.2} s | {:.2} s | |", percentile(alone, 50), percentile(alone, 99));
    println!(
        "| with {dead} dead ones (silent, hanging up, or answering 503) | {:.2} s | {:.2} s | +0 % |",
        percentile(among, 50),
        percentile(among, 99)
    );
}
