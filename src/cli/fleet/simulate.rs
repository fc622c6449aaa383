//! `headwater fleet simulate`: what a rollout would be like.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp, Unit};

use crate::api::FluxFleet;
use crate::cli::{Output, diff, ui};
use crate::fleet::simulate::{Assumptions, Entry, Report, StageReport, simulate, span};

#[derive(Args)]
pub(in crate::cli) struct SimulateArgs {
    /// File with one `FluxFleet`; - for standard input
    #[arg(long, short)]
    filename: PathBuf,
    /// How many clusters; each stage gets a share, later ones more
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clusters: u32,
    /// How many of them fail at the target: most go back by themselves, some are left broken, take for ever or fail later
    #[arg(long, default_value = "0%", value_name = "PERCENT", value_parser = percent)]
    fail: u32,
    /// How many cannot be reached for some minutes or hours, from the beginning or in the middle of their change
    #[arg(long, default_value = "0%", value_name = "PERCENT", value_parser = percent)]
    unreachable: u32,
    /// How many are refused by their preflight
    #[arg(long, default_value = "0%", value_name = "PERCENT", value_parser = percent)]
    refuse: u32,
    /// About how long a change of one cluster takes: each takes from half of it to twice as long
    #[arg(long, default_value = "3m", value_name = "DURATION", value_parser = duration)]
    takes: SignedDuration,
    /// How long somebody takes to approve a stage that waits for it [default: nobody does]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    approve_after: Option<SignedDuration>,
    /// When it begins, such as 2026-06-01T09:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
    /// Chance follows from this number: the same number, the same rollout
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// `2%` or `0.5%`, as parts of a million.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} must be percent from 0% to 100%, such as 2% or 0.5%");
    let (whole, part) =
        text.strip_suffix('%').ok_or_else(wrong)?.split_once('.').unwrap_or((text.trim_end_matches('%'), ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || part.len() > 4 || !is_number(whole) || !is_number(part) {
        return Err(wrong());
    }
    let parts: u32 = format!("{whole}{part:0<4}").parse().map_err(|_| wrong())?;
    if parts > 1_000_000 { Err(wrong()) } else { Ok(parts) }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let found: Result<SignedDuration, _> = text.parse();
    let wrong = || format!("{text:?} must be a duration such as 90s, 3m or 1h30m, from one second to 90 days");
    let bounds = SignedDuration::from_secs(1)..=SignedDuration::from_hours(24 * 90);
    found.ok().filter(|duration| bounds.contains(duration)).ok_or_else(wrong)
}

pub(super) fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    let name = args.filename.display();
    let value = diff::read_one(&args.filename)?;
    let is_fleet = value["kind"] == "FluxFleet";
    if !is_fleet || !value["apiVersion"].as_str().unwrap_or_default().starts_with("headwater.dev/") {
        let (kind, version) = (&value["kind"], &value["apiVersion"]);
        bail!("{name}: expected one FluxFleet of headwater.dev/v1alpha1, found {kind} of {version}");
    }
    let fleet: FluxFleet = serde_json::from_value(value).with_context(|| format!("{name}: no FluxFleet"))?;
    let now = Timestamp::now().round(Unit::Second)?;
    let assumed = Assumptions {
        clusters: usize::try_from(args.clusters)?,
        fail: args.fail,
        unreachable: args.unreachable,
        refuse: args.refuse,
        takes: args.takes,
        approve_after: args.approve_after,
        start: args.start.unwrap_or(now),
        seed: args.seed,
    };
    let report = simulate(&fleet, &assumed).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    if args.output != Output::Table {
        return ui::value(&report, args.output);
    }
    print(&report);
    Ok(())
}

fn print(report: &Report) {
    let stages: Vec<Vec<String>> = report.stages.iter().map(|stage| row(stage, report.started)).collect();
    let head = ["STAGE", "CLUSTERS", "BEGINS", "TAKES", "AT ONCE", "DONE", "FAILED", "DEFERRED", "LEFT OUT", "STATE"];
    ui::table(&head, &stages);
    ui::out("");
    let entries: Vec<Vec<String>> = report.timeline.iter().map(|entry| line(entry, report.started)).collect();
    ui::table(&["TIME", "AFTER", "STAGE", "DONE", "MOVING", "FAILED", "DEFERRED", "WHAT"], &entries);
    ui::out("");
    ui::out(format!("{:?} after {}: {}", report.phase, report.took, report.message));
    for note in &report.notes {
        ui::out(format!("note: {note}"));
    }
}

fn row(stage: &StageReport, started: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let counts = &stage.counts;
    vec![
        stage.name.clone(),
        counts.total.to_string(),
        stage.began.map_or_else(dash, |at| format!("+{}", span(at.duration_since(started)))),
        stage.took.clone().unwrap_or_else(dash),
        stage.peak.to_string(),
        counts.done.to_string(),
        counts.failed.to_string(),
        counts.deferred.to_string(),
        counts.left_out.to_string(),
        format!("{:?}", stage.state),
    ]
}

fn line(entry: &Entry, started: Timestamp) -> Vec<String> {
    vec![
        entry.at.to_string(),
        format!("+{}", span(entry.at.duration_since(started))),
        entry.stage.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{}/{}", entry.counts.done, entry.counts.total),
        entry.counts.updating.to_string(),
        entry.counts.failed.to_string(),
        entry.counts.deferred.to_string(),
        entry.what.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_has_up_to_four_digits_after_the_point() {
        for (text, expected) in [("2%", 20_000), ("0.5%", 5_000), ("100%", 1_000_000), ("0%", 0), ("0.0001%", 1)] {
            assert_eq!(percent(text), Ok(expected), "{text}");
        }
        for text in ["2", "101%", "-1%", "%", ".5%", "1.23456%", "1 %", "1e2%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_as_people_write_them() {
        assert_eq!(duration("1h30m"), Ok(SignedDuration::from_mins(90)));
        for text in ["", "0s", "-1m", "1", "3000h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
