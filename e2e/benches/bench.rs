//! `make bench`: what Headwater costs, beside a bare client that applies the same objects to the same kind of API server.
//! Prints a table; `BENCHMARKS.md` keeps one. Nothing here passes or fails: figures are for people.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that breaks should say so"
)]

// One harness for scenarios and measurements; this uses a part of it.
#[allow(unused)]
#[path = "../tests/scenarios/harness.rs"]
mod harness;
mod process;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use headwater::cluster::{Cluster, Gate, IN_FLIGHT, Kubeconfig, connect};
use headwater::plan::Desired;
use headwater::render::{Bundle, Settings, render, source};
use headwater_e2e::{AuditEvent, AuditMark, Kind};
use jiff::Timestamp;
use serde_json::json;

use harness::{NEW, OPERATOR, Site, Tenant, block_on, crd, eventually, in_repository, spec, world};
use process::{Memory, cpu, memory};

/// Fresh clusters per figure that is a time.
const RUNS: usize = 5;
/// Passes over which processor time is taken: the kernel counts it in hundredths of a second.
const PASSES: u32 = 300;
/// How long a settled operator is watched.
const REST: Duration = Duration::from_secs(120);

fn main() {
    world();
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for run in 1..=RUNS {
        eprintln!("run {run} of {RUNS}");
        bare.push(bare_install());
        ours.push(install());
    }
    let still = at_rest();
    print(&bare, &ours, &still);
}

/// Milliseconds from the start.
struct Times {
    applied: f64,
    established: f64,
    ready: f64,
    requests: usize,
    writes: usize,
}

/// All times are the API server's own, from its audit log: asking it while it works would slow what is measured.
struct Timeline(Vec<AuditEvent>);

impl Timeline {
    fn of(site: &Site) -> Self {
        Self(site.audit(AuditMark::default()).unwrap())
    }

    /// When the first of some requests arrived.
    fn begin(&self, wanted: impl Fn(&AuditEvent) -> bool) -> Timestamp {
        self.0.iter().filter(|event| wanted(event)).map(|event| event.received).min().unwrap()
    }

    /// Milliseconds from an instant to the last answer to some requests.
    fn until(&self, begin: Timestamp, wanted: impl Fn(&AuditEvent) -> bool) -> f64 {
        let end = self.0.iter().filter(|event| wanted(event)).map(|event| event.answered).max().unwrap();
        end.duration_since(begin).as_secs_f64() * 1000.0
    }

    /// The API server itself writes a CRD's status last when it has established it.
    fn established(&self, begin: Timestamp) -> f64 {
        self.until(begin, |e| {
            let is_flux = e.name.ends_with(".toolkit.fluxcd.io");
            is_flux && e.resource == "customresourcedefinitions" && e.subresource == "status"
        })
    }
}

fn is_apply(event: &AuditEvent) -> bool {
    event.user == OPERATOR && event.verb == "patch" && event.resource != "fluxinstances"
}

/// A cluster that has just come up is busy with itself.
fn settle() {
    std::thread::sleep(Duration::from_secs(6));
}

/// The floor: the same bytes over the same transport, the namespace first, the rest eight at a time in one heap.
fn bare_install() -> Times {
    let site = Site::start(Kind::Plain);
    let files = headwater::bundle::read_folder(Path::new(&in_repository("bundles/flux"))).unwrap();
    let bundle = Bundle::parse(&source::compose(&files, NEW).unwrap()).unwrap();
    let labels = [("headwater.dev/installation".to_owned(), "flux-system".to_owned())];
    let settings = Settings { namespace: "flux-system".to_owned(), owner_labels: labels.into(), ..Settings::default() };
    let mut objects: Vec<Desired> =
        render(&bundle, &settings).unwrap().iter().map(|o| Desired::new(o, bundle.kind_of(o).unwrap())).collect();
    objects.sort_by_key(|o| o.key.kind != "Namespace");
    let config = Kubeconfig::parse(site.for_operator().as_bytes()).unwrap().config();
    settle();
    block_on(async {
        let cluster = Cluster::identify(connect(&config, &Gate::open()).unwrap(), false).await.unwrap();
        cluster.apply(&objects[0]).await.unwrap();
        let cluster = Arc::new(cluster);
        let writes = objects[1..].iter().map(|object| {
            let cluster = Arc::clone(&cluster);
            async move { cluster.apply(object).await.unwrap() }
        });
        let done: Vec<_> = futures_util::stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await;
        assert_eq!(done.len() + 1, objects.len());
    });
    std::thread::sleep(Duration::from_secs(2));
    let timeline = Timeline::of(&site);
    let begin = timeline.begin(|e| e.user == OPERATOR);
    Times {
        applied: timeline.until(begin, is_apply),
        established: timeline.established(begin),
        ready: f64::NAN,
        requests: objects.len() + 2,
        writes: objects.len(),
    }
}

/// From the creation of a `FluxInstance` on a hub with nodes, by an operator that waits for one.
fn install() -> Times {
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    settle();
    let mark = hub.audit_mark();
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    tenant.create("flux", &wanted);
    std::thread::sleep(Duration::from_secs(4));
    tenant.ready("flux");
    let asked = hub.asked(mark);
    let writes = asked.iter().filter(|e| e.writes()).count();
    let timeline = Timeline::of(&hub);
    let is_instance = |e: &AuditEvent, verb: &str| e.resource == "fluxinstances" && e.verb == verb;
    let begin = timeline.begin(|e| is_instance(e, "create"));
    Times {
        applied: timeline.until(begin, is_apply),
        established: timeline.established(begin),
        // The last status write is the one that says so.
        ready: timeline.until(begin, |e| e.user == OPERATOR && is_instance(e, "patch")),
        requests: asked.len(),
        writes,
    }
}

/// What an operator is like when nothing happens.
struct Still {
    resident_start: Memory,
    resident_one: Memory,
    resident_three: Memory,
    requests_per_minute: f64,
    writes_per_minute: f64,
    cpu_per_pass: f64,
    requests_per_pass: f64,
    writes_per_pass: usize,
}

/// Our operator of a namespace, by its command line.
fn operator_of(namespace: &str) -> u32 {
    let wanted = format!("operator\0--namespace\0{namespace}\0");
    let us = std::process::id().to_string();
    let of = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(") ").next()?.split_whitespace().nth(1)?;
        (line.contains(&wanted) && parent == us).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().flatten().find_map(of).unwrap()
}

fn at_rest() -> Still {
    eprintln!("one instance at rest, three instances at rest");
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "bench");
    let pid = operator_of("bench");
    let resident_start = memory(pid);
    tenant.create("hub", &spec(NEW));
    tenant.ready("hub");
    eventually("the CRDs are there", 40, || hub.get(&crd("buckets.source.toolkit.fluxcd.io")).ok_or(String::new()));
    // The last events of the installation and connections that are not used any more.
    std::thread::sleep(Duration::from_secs(20));
    let mark = hub.audit_mark();
    std::thread::sleep(REST);
    let events = hub.settled(mark);
    let asked: Vec<_> = events.iter().filter(|e| e.user == OPERATOR).collect();
    let minutes = REST.as_secs_f64() / 60.0;
    let resident_one = memory(pid);

    let mark = hub.audit_mark();
    let (passes, before) = (tenant.passes("hub"), cpu(&[pid]));
    for _ in 0..PASSES {
        tenant.poke("hub");
    }
    let (passes, spent) = (tenant.passes("hub") - passes, cpu(&[pid]) - before);
    let during = hub.asked(mark);

    let targets = Site::start_many(Kind::Plain, 2);
    for (name, target) in ["one", "two"].iter().zip(&targets) {
        tenant.installed(name, target, NEW);
    }
    std::thread::sleep(Duration::from_secs(5));
    #[allow(clippy::cast_precision_loss)]
    let count = |n: usize| n as f64;
    Still {
        resident_start,
        resident_one,
        resident_three: memory(pid),
        requests_per_minute: count(asked.len()) / minutes,
        writes_per_minute: count(asked.iter().filter(|e| e.writes()).count()) / minutes,
        cpu_per_pass: spent * 1000.0 / count(usize::try_from(passes).unwrap()),
        requests_per_pass: count(during.len()) / count(usize::try_from(passes).unwrap()),
        writes_per_pass: during.iter().filter(|e| e.writes()).count(),
    }
}

fn median(all: &[Times], figure: impl Fn(&Times) -> f64) -> f64 {
    let mut figures: Vec<f64> = all.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print(bare: &[Times], ours: &[Times], still: &Still) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown").trim_matches([':', '\t', ' ']);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let size = std::fs::metadata(&world().binary).unwrap().len();
    println!(
        "Machine: {model}, {cores} cores. Kubernetes 1.36.3, Flux {NEW}, 32 objects, loopback; client, API server, etcd"
    );
    println!("and nodes share the cores. Times are medians of {RUNS} runs, each on a fresh cluster.\n");
    println!("| figure | Headwater | bare client | ratio | aim |\n|---|---|---|---|---|");
    let row = |name: &str, figure: &dyn Fn(&Times) -> f64, aim: &str| {
        let (a, b) = (median(ours, figure), median(bare, figure));
        if b.is_nan() {
            println!("| {name} | {a:.0} ms | - | - | {aim} |");
        } else {
            println!("| {name} | {a:.0} ms | {b:.0} ms | {:.2} | {aim} |", a / b);
        }
    };
    row("created to all objects applied", &|t| t.applied, "500 ms");
    row("created to CRDs established", &|t| t.established, "700 ms");
    row("created to Ready", &|t| t.ready, "");
    let last = &ours[ours.len() - 1];
    println!("| requests per install | {} | {} | | |", last.requests, bare[0].requests);
    println!("| of these writes | {} | {} | | |", last.writes, bare[0].writes);
    println!("| requests per pass without a change | {:.2} | | | 0 |", still.requests_per_pass);
    println!("| writes in {PASSES} passes without a change | {} | | | 0 |", still.writes_per_pass);
    println!("| our CPU per pass without a change | {:.2} ms | | | 1 ms |", still.cpu_per_pass);
    println!("| requests per minute at rest, beside watches | {:.1} | | | 10 |", still.requests_per_minute);
    println!("| writes per minute at rest | {:.1} | | | 0 |", still.writes_per_minute);
    let memory = |name: &str, m: &Memory, aim: &str| {
        println!("| {name} | {:.1} MB ({:.1} MB private) | | | {aim} |", m.resident, m.own);
    };
    memory("resident at start", &still.resident_start, "");
    memory("resident at rest, 1 instance", &still.resident_one, "12 MB");
    memory("resident at rest, 3 instances", &still.resident_three, "12 MB");
    println!("| peak resident | {:.1} MB | | | 24 MB |", still.resident_three.peak);
    #[allow(clippy::cast_precision_loss)]
    let megabytes = size as f64 / 1e6;
    println!("| binary | {megabytes:.1} MB | | | |");
}
