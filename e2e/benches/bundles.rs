//! `make bench`: what bundles cost: their size, building, pulling with verification, parsing and rendering, in time and memory.

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

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headwater::bundle::{pack, read_folder, versions};
use headwater::render::{Bundle, Settings, render, source};

use headwater_e2e::sigstore::{Algorithm, Cosign, Format};

use harness::{NEW, in_repository, world};

/// A figure is the median of so many.
const RUNS: usize = 15;
/// Clusters rendered from one bundle.
const CLUSTERS: u32 = 1000;

fn main() {
    // This program measures the memory of rendering in a process of its own: itself.
    if std::env::args().any(|arg| arg == "--render-only") {
        let bundle = Bundle::parse(&composed(NEW)).unwrap();
        for cluster in 0..CLUSTERS {
            render(&bundle, &settings(&bundle, cluster)).unwrap();
        }
        return;
    }
    let files = composed(NEW);
    let bundle = Bundle::parse(&files).unwrap();
    let objects = render(&bundle, &settings(&bundle, 0)).unwrap().len();
    println!("\nBundle of Flux {NEW} with all its components, {objects} objects; medians of {RUNS} runs.\n");
    println!("| figure | time | peak memory | size | aim |\n|---|---|---|---|---|");

    for version in versions(&read_folder(in_repository("bundles/flux").as_ref()).unwrap()) {
        let size = pack(&composed(&version.to_string())).unwrap().bytes.len();
        row(&format!("{version}, compressed"), "", "", &kilobytes(size), "60 KB");
    }
    if let Some(published) = std::env::var_os("HEADWATER_PUBLISHED") {
        let file = std::path::Path::new(&published).join(format!("flux-{NEW}.tar.gz"));
        let size = std::fs::metadata(file).unwrap().len();
        row(&format!("{NEW} with descriptions, compressed"), "", "", &kilobytes(size.try_into().unwrap()), "200 KB");
    }
    let binary = std::fs::metadata(&world().binary).unwrap().len();
    row("binary with all bundles in it", "", "", &format!("{:.1} MB", binary as f64 / 1e6), "20 MB");

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let build = ["bundle", "build", &in_repository("bundles/flux"), "--version", NEW, "-o", out];
    command("build, validate in all ways and pack (command)", &build);
    let cosign = Cosign::new().unwrap();
    let key = sign(&cosign);
    let repository = world().repository("flux");
    let verify = ["bundle", "verify", &repository, "--version", NEW, "--insecure", "--key", &key];
    command("resolve, verify, pull, check and unpack (command)", &verify);
    command("nothing (command: `--version`)", &["--version"]);
    row("compose and pack", &time(|| drop(pack(&composed(NEW)).unwrap())), "", "", "");
    row("parse", &time(|| drop(Bundle::parse(&files).unwrap())), "", "", "");

    let mut firsts = Vec::new();
    let mut nexts = Vec::new();
    for _ in 0..RUNS {
        let bundle = Bundle::parse(&files).unwrap();
        let begin = Instant::now();
        render(&bundle, &settings(&bundle, 0)).unwrap();
        firsts.push(begin.elapsed());
        let begin = Instant::now();
        for cluster in 1..CLUSTERS / 10 {
            render(&bundle, &settings(&bundle, cluster)).unwrap();
        }
        nexts.push(begin.elapsed() / (CLUSTERS / 10 - 1));
    }
    row("render for the first cluster", &milliseconds(median(firsts)), "", "", "");
    row("render for each next cluster", &milliseconds(median(nexts)), "", "", "");
    let alone = std::env::current_exe().unwrap();
    let (time, memory) = run(Command::new(alone).args(["--render-only", "--bench"]));
    row(&format!("parse once and render for {CLUSTERS} clusters (this process)"), &milliseconds(time), &memory, "", "");
}

/// Signs [`NEW`] in the repository `flux`, and gives the file of the public key.
fn sign(cosign: &Cosign) -> String {
    let key = cosign.generate_key("bench", Algorithm::P256).unwrap().display().to_string();
    let artifact = format!("{}/flux@{}", world().registry.address(), world().digests[NEW]);
    cosign.sign(&artifact, "bench", Format::Bundle).unwrap();
    key
}

fn composed(version: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
    source::compose(&read_folder(in_repository("bundles/flux").as_ref()).unwrap(), version).unwrap()
}

/// All components, on a cluster of its own.
fn settings(bundle: &Bundle, cluster: u32) -> Settings {
    Settings {
        namespace: "flux-system".to_owned(),
        components: Some(bundle.manifest().components.iter().map(|c| c.name.clone()).collect()),
        owner_labels: [("headwater.dev/name".to_owned(), format!("cluster-{cluster}"))].into(),
        ..Settings::default()
    }
}

fn row(figure: &str, time: &str, memory: &str, size: &str, aim: &str) {
    println!("| {figure} | {time} | {memory} | {size} | {aim} |");
}

fn kilobytes(bytes: usize) -> String {
    format!("{:.1} KB", bytes as f64 / 1e3)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}

fn time(mut work: impl FnMut()) -> String {
    let times = (0..RUNS).map(|_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    });
    milliseconds(median(times.collect()))
}

fn command(figure: &str, args: &[&str]) {
    let runs: Vec<_> = (0..RUNS).map(|_| run(Command::new(&world().binary).args(args))).collect();
    let time = median(runs.iter().map(|(time, _)| *time).collect());
    row(figure, &milliseconds(time), &runs.last().unwrap().1, "", "");
}

/// Runs a program to its end: wall time, and the most memory it had, as the kernel counts it.
fn run(command: &mut Command) -> (Duration, String) {
    let begin = Instant::now();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut child = child;
    let mut peak = String::new();
    // The figure is gone with the process, so it is read until then.
    let ended = loop {
        if let Ok(text) = std::fs::read_to_string(&status)
            && let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        {
            line.trim().clone_into(&mut peak);
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_micros(300));
    };
    assert!(ended.success(), "{command:?}");
    let kilobytes: f64 = peak.trim_end_matches(" kB").parse().unwrap_or_default();
    (begin.elapsed(), format!("{:.1} MB", kilobytes * 1024.0 / 1e6))
}
