//! How long a plan takes: `cargo bench --bench planner`. Prints a table in Markdown, as the other benchmarks do.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops when something is wrong")]

use std::time::{Duration, Instant};

use headwater::api::{FluxFleet, FluxInstance, Pinned};
use headwater::fleet::simulate::Cluster;
use headwater::fleet::{Input, plan};
use jiff::Timestamp;
use serde_json::json;

const RUNS: usize = 50;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

fn main() {
    println!("| one plan of {RUNS}: instances | median | slowest | memory per instance | aim |");
    println!("|---|---|---|---|---|");
    for (count, aim) in [(100_u32, ""), (1_000, ""), (10_000, "10 ms")] {
        let now: Timestamp = "2026-06-01T09:00:00Z".parse().unwrap();
        let stages: Vec<_> = (0..5)
            .map(|n| json!({"name": format!("s{n}"), "selector": {"matchLabels": {"ring": n.to_string()}}, "soak": "1h"}))
            .collect();
        let mut fleet: FluxFleet = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "prod"},
            "spec": {"selector": {"matchLabels": {"env": "prod"}}, "distribution": {"version": "2.x"}, "stages": stages},
        }))
        .unwrap();
        let before = Pinned { version: "1.0.0".to_owned(), digest: "sha256:a".to_owned() };
        let target = Pinned { version: "2.0.0".to_owned(), digest: "sha256:b".to_owned() };
        let empty = resident();
        let instances: Vec<FluxInstance> = (0..count)
            .map(|number| {
                let instance = serde_json::from_value(json!({
                    "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
                    "metadata": {"name": format!("cluster-{number:05}"), "labels": {"env": "prod", "ring": (number % 5).to_string()}},
                    "spec": {"distribution": {"version": "2.x"}, "admission": "Fleet"},
                }))
                .unwrap();
                let mut cluster = Cluster::new(instance, Some(&before), now);
                cluster.pass(Some(&target), None, now);
                cluster.instance
            })
            .collect();
        let memory = resident().saturating_sub(empty) / u64::from(count);
        let seen: Vec<&FluxInstance> = instances.iter().collect();
        let mut took: Vec<Duration> = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let begun = Instant::now();
            let input =
                Input { fleet: &fleet, resolved: Some(&target), instances: &seen, others: &[], now, since: now };
            let made = plan(&input).unwrap();
            took.push(begun.elapsed());
            fleet.status = Some(made.status);
        }
        took.sort();
        let (median, slowest) = (took[RUNS / 2], took[RUNS - 1]);
        let [median, slowest] = [median, slowest].map(|took| took.as_secs_f64() * 1e3);
        println!("| {count} | {median:.2} ms | {slowest:.2} ms | {memory} B | {aim} |");
    }
}
