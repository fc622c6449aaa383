//! `make bench-fleet`: what Headwater costs with a hundred and a thousand clusters. The hub is a real API server, the operator is the
//! release binary, the clusters are stand-ins (`e2e/src/fakes`) that are 20 ms away. Prints a table; nothing here passes or fails.
//!
//! `FLEET=100` measures one size only, `PARTS=plain,stages,dead` only a part of it.

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
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use headwater::cluster::{Gate, Kubeconfig, connect};
use headwater_e2e::fakes::{Counts, Fakes, Mood, Options};
use headwater_e2e::{AuditEvent, AuditMark, Kind};
use serde_json::{Value, json};

use harness::{NEW, OLD, OPERATOR, Site, Tenant, block_on, spec, world};
use process::{Memory, cpu, memory};

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
const API: &str = "/apis/headwater.dev/v1alpha1";

/// The stages of a fleet: names, and how many of a hundred clusters are in it and those before it.
const STAGES: [(&str, usize); 3] = [("canary", 5), ("early", 30), ("rest", 100)];

fn main() {
    world();
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (sizes, parts) = (variable("FLEET", "100,1000"), variable("PARTS", "plain,stages,dead"));
    let has = |part: &str| parts.split(',').any(|p| p == part);
    println!(
        "\nFleets of stand-ins {} ms away, Flux {OLD}, then {NEW}; hub: a real API server on the same cores.\n",
        ROUND_TRIP.as_millis()
    );
    for size in sizes.split(',').filter_map(|n| n.parse().ok()) {
        if has("plain") {
            print(&measure(size));
        }
        if has("stages") {
            print_stages(size, &in_stages(size));
        }
    }
    if has("dead") {
        print_dead(&with_dead(AMONG.0 - AMONG.1, 0), &with_dead(AMONG.0, AMONG.1));
    }
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
    fn new(hub: &'a Site, fakes: &'a Fakes, more: &Value) -> Self {
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
        fleet.for_all(|n, name| {
            let mut spec = spec(OLD);
            spec["wait"] = json!(true);
            spec["kubeConfig"] = json!({"secretRef": {"name": format!("{name}-kubeconfig")}});
            json_patch::merge(&mut spec, more);
            let mut object = fleet.tenant.object(name, &spec);
            let stage = STAGES.iter().find(|(_, until)| n * 100 < until * fakes.count());
            object["metadata"]["labels"] = json!({"ring": stage.map(|(name, _)| name)});
            ("POST", format!("{API}/namespaces/{NAMESPACE}/fluxinstances"), object)
        });
        fleet
    }

    /// Starts the operator. It leads without an election, since a busy machine may cost it the lease.
    fn start(&self) {
        self.tenant.start_with(&["--leader-elect", "false"]);
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

    /// By the hub's audit log: when each instance was last written by the operator, in seconds from a place in it, sorted.
    fn reported(&self, since: AuditMark, wanted: impl Fn(&str) -> bool) -> Vec<f64> {
        let events = self.asked_of_hub(since);
        let Some(begin) = events.iter().map(|event| event.received).min() else { return Vec::new() };
        let mut last: BTreeMap<&str, f64> = BTreeMap::new();
        for event in events.iter().filter(|e| e.resource == "fluxinstances" && e.verb == "patch" && wanted(&e.name)) {
            last.insert(&event.name, event.answered.duration_since(begin).as_secs_f64());
        }
        let mut all: Vec<f64> = last.into_values().collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn asked_of_hub(&self, since: AuditMark) -> Vec<AuditEvent> {
        self.hub.audit(since).unwrap().into_iter().filter(|event| event.user == OPERATOR).collect()
    }

    /// What the operator asked of the hub, per cluster.
    fn hub_requests(&self, since: AuditMark) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for AuditEvent { verb, resource, subresource, .. } in self.asked_of_hub(since) {
            *counts.entry(format!("{verb} {resource} {subresource}").trim_end().to_owned()).or_default() += 1;
        }
        let size = self.names.len() as f64;
        let texts = counts.iter().map(|(what, n)| format!("{what} {:.1}", *n as f64 / size));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// How many instances have a version applied and are Ready.
    fn arrived(&self, version: &str) -> usize {
        let path = format!("{API}/namespaces/{NAMESPACE}/fluxinstances");
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
    let fleet = Fleet::new(&hub, &fakes, &json!({}));
    let mark = hub.audit_mark();
    let install = fleet.spent("first install", || fleet.start(), || fleet.ready() == size);
    let install_p50 = percentile(&fleet.reported(mark, |_| true), 50);
    eprintln!("    of the hub: {}", fleet.hub_requests(mark));
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
    let restart = fleet.spent("restart", || fleet.start(), || passed(&none) && fleet.ready() == size);

    let change = json!({"spec": {"distribution": {"version": NEW}}});
    let mark = hub.audit_mark();
    let upgrade = fleet.spent(
        "new digest",
        || fleet.patch_all(&change),
        || {
            std::thread::sleep(Duration::from_millis(900));
            fleet.arrived(NEW) == size
        },
    );
    eprintln!("    of the hub: {}", fleet.hub_requests(mark));
    eprintln!("    of clusters: {:?}", fleet.asked());
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

/// First install and a new digest, both through a `FluxFleet` whose stages are open: nothing is waited for but its own rules.
fn in_stages(size: usize) -> [Spent; 2] {
    eprintln!("{size} clusters in {} stages", STAGES.len());
    let hub = Site::hub(Kind::Plain);
    let fakes = fakes(size);
    let by_fleet = json!({"admission": "Fleet", "distribution": {"version": ">=2.0.0"}});
    let fleet = Fleet::new(&hub, &fakes, &by_fleet);
    let stages = STAGES
        .map(|(name, _)| json!({"name": name, "selector": {"matchLabels": {"ring": name}}, "concurrency": "100%"}));
    let path = format!("{API}/namespaces/{NAMESPACE}/fluxfleets");
    let object = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "all", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchExpressions": [{"key": "ring", "operator": "Exists"}]},
            "distribution": spec(OLD)["distribution"], "stages": stages,
        },
    });
    hub.create(&path, &object);
    let path = format!("{path}/all");
    let is_complete = |version: &str| {
        std::thread::sleep(Duration::from_millis(400));
        let status = &hub.must_get(&path)["status"];
        status["target"]["version"] == version && status["phase"] == "Complete"
    };
    let mut mark = hub.audit_mark();
    let install = fleet.spent("first install", || fleet.start(), || is_complete(OLD));
    eprintln!("    of the hub: {}", fleet.hub_requests(mark));
    mark = hub.audit_mark();
    let change = json!({"spec": {"distribution": {"version": NEW}}});
    let upgrade = fleet.spent("new digest", || drop(hub.merge(&path, &change)), || is_complete(NEW));
    eprintln!("    of the hub: {}", fleet.hub_requests(mark));
    assert_eq!(fleet.arrived(NEW), size);
    [install, upgrade]
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
    let fleet = Fleet::new(&hub, &fakes, &json!({}));
    let mark = hub.audit_mark();
    fleet.spent("first install", || fleet.start(), || fleet.ready() == size - dead);
    let healthy: BTreeSet<&str> = (0..size).filter(|n| !is_dead(*n)).map(|n| fakes.name(n)).collect();
    let all = fleet.reported(mark, |name| healthy.contains(name));
    eprintln!("  healthy: p50 {:.2} s, p99 {:.2} s", percentile(&all, 50), percentile(&all, 99));
    all
}

/// The head of a table of [`row`]s.
fn head(title: &str) {
    println!(
        "| {title} | wall | our CPU | hub's CPU | stand-ins' CPU | requests per cluster | aim |\n|---|---|---|---|---|---|---|"
    );
}

fn row(what: &str, spent: &Spent, aim: &str) {
    let Spent { wall, ours, hub, stand_ins, asked } = spent;
    println!("| {what} | {wall:.1} s | {ours:.2} s | {hub:.1} s | {stand_ins:.1} s | {asked:.1} | {aim} |");
}

fn print(f: &Figures) {
    let n = f.size;
    let aim = |small: &'static str, large: &'static str| if n >= 1000 { large } else { small };
    head(&format!("{n} clusters"));
    row("first install of all, to Ready", &f.install, aim("2 s", "15 s"));
    row("pass without a change over all", &f.sweep, aim("", "1 s CPU"));
    row("restart, until all were looked at", &f.restart, aim("", "30 s"));
    row("new digest everywhere, to Ready", &f.upgrade, aim("", "30 s"));
    println!("\n| {n} clusters | figure | aim |\n|---|---|---|");
    println!("| half of them Ready after | {:.1} s | |", f.install_p50);
    println!(
        "| peak resident in the first install | {:.0} MB ({:.0} MB private at its end) | |",
        f.peak.peak, f.peak.own
    );
    println!("| resident at rest | {:.0} MB ({:.0} MB private) | {} |", f.rest.resident, f.rest.own, aim("", "100 MB"));
    println!("| resident after restart and new digest | {:.0} MB (peak {:.0} MB) | |", f.after.resident, f.after.peak);
    println!("| sockets at rest | {} | |", f.sockets);
    println!(
        "| in a minute at rest: our CPU; requests per cluster (what an hour takes is measured by `rest`) | {:.2} s; {:.2} | |\n",
        f.cpu_per_minute, f.asked_at_rest
    );
}

fn print_stages(size: usize, [install, upgrade]: &[Spent; 2]) {
    head(&format!("{size} clusters by a fleet of {} stages, all open", STAGES.len()));
    row("first install of all", install, "");
    row("new digest everywhere", upgrade, if size >= 1000 { "30 s" } else { "" });
    println!();
}

fn print_dead(alone: &[f64], among: &[f64]) {
    let (healthy, dead) = (AMONG.0 - AMONG.1, AMONG.1);
    println!("| {healthy} healthy clusters, time to Ready | p50 | p99 | aim |\n|---|---|---|---|");
    println!("| alone | {:.2} s | {:.2} s | |", percentile(alone, 50), percentile(alone, 99));
    println!(
        "| with {dead} dead ones (silent, hanging up, or answering 503) | {:.2} s | {:.2} s | +0 % |",
        percentile(among, 50),
        percentile(among, 99)
    );
}
