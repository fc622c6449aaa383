//! `headwater fleet simulate`: what a rollout would be like.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use jiff::{SignedDuration, Timestamp, Unit};

use super::status;
use crate::api::{FluxFleet, FluxInstance};
use crate::cli::file::{self, Form};
use crate::cli::{Output, ui};
use crate::fleet::simulate::{Assumptions, Clusters, Entry, Report, StageReport, simulate, span};

#[derive(Args)]
pub(in crate::cli) struct SimulateArgs {
    /// File with one `FluxFleet`; - for standard input
    #[arg(long, short)]
    filename: PathBuf,
    /// How many made-up clusters; each stage gets a share, later ones more
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "instances")]
    clusters: u32,
    /// File with real `FluxInstances` to take the place of made-up clusters, as from `kubectl get fluxinstances -o yaml`; - for standard input. Their labels, specs, what runs on them and whether they can be reached are as they are
    #[arg(long, value_name = "FILE")]
    instances: Option<PathBuf>,
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

/// The instances of a file; what else is in it is left out.
fn read(file: &Path) -> anyhow::Result<Vec<FluxInstance>> {
    let (name, form) = (file.display(), Form::<FluxInstance>::new()?);
    let all = file::all(file)?;
    let found = all.len();
    let instances = all.into_iter().filter(Form::<FluxInstance>::is_for).map(|object| {
        let place = format!("{name}: {}", object["metadata"]["name"].as_str().unwrap_or_default());
        form.read(&place, object)
    });
    let instances = instances.collect::<anyhow::Result<Vec<_>>>()?;
    match (instances.len(), found) {
        (0, _) => bail!(
            "{name}: none of its {found} objects is a FluxInstance of headwater.dev/v1alpha1; `kubectl get fluxinstances -o yaml` prints them"
        ),
        (of_ours, found) if of_ours < found => {
            ui::talk(format!("{name}: {} objects of other kinds are left out", found - of_ours));
        }
        _ => {}
    }
    Ok(instances)
}

pub(super) fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    let name = args.filename.display().to_string();
    if args.instances.as_ref().is_some_and(|instances| *instances == args.filename) {
        bail!("--filename and --instances are both {name}: the fleet and its instances are in files of their own");
    }
    let fleet = Form::<FluxFleet>::new()?.read(&name, file::one(&args.filename)?)?;
    let now = Timestamp::now().round(Unit::Second)?;
    let assumed = Assumptions {
        clusters: match &args.instances {
            Some(file) => Clusters::Real(read(file)?),
            None => Clusters::MadeUp(usize::try_from(args.clusters)?),
        },
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
    print(&report, status::width());
    Ok(())
}

fn print(report: &Report, width: Option<usize>) {
    let stages: Vec<Vec<String>> = report.stages.iter().map(|stage| row(stage, report.started)).collect();
    let head = ["STAGE", "CLUSTERS", "BEGINS", "TAKES", "AT ONCE", "DONE", "FAILED", "DEFERRED", "LEFT OUT", "STATE"];
    ui::table(&head, &stages);
    ui::out("");
    let entries: Vec<Vec<String>> = report.timeline.iter().map(|entry| line(entry, report.started)).collect();
    let head = ["TIME", "AFTER", "STAGE", "DONE", "MOVING", "FAILED", "DEFERRED", "WHAT"];
    let mut lines = ui::lay_out(&head, &entries, 1, width);
    lines.push(String::new());
    let end = format!("{:?} after {}: {}", report.phase, report.took, ui::short(&report.message));
    lines.extend(ui::wrap(&end, 2, width));
    lines.extend(report.notes.iter().flat_map(|note| ui::wrap(&format!("note: {note}"), 2, width)));
    lines.into_iter().for_each(ui::out);
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
        ui::short(&entry.what),
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
