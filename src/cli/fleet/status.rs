//! `headwater fleet status` and `history`: what the operator has written down.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::estimate::{End, Rough, ends, pace, whole_second};
use super::{Named, world};
use crate::api::{Counts, FluxFleet, FluxFleetStatus, FluxInstance};
use crate::cli::found::Found;
use crate::cli::{Output, ui};

/// How often a watched fleet is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often its instances are, of which only the pace is wanted: lists of thousands are not read every two seconds.
const PACE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    fleet: Named,
    /// Go on until interrupted: a page that is drawn again on a terminal, else a line for each change
    #[arg(long, short, conflicts_with = "output")]
    watch: bool,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args)]
pub(in crate::cli) struct HistoryArgs {
    #[command(flatten)]
    fleet: Named,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn status(args: StatusArgs) -> anyhow::Result<()> {
    let found = args.fleet.find().await?;
    if args.watch {
        return watch(found).await;
    }
    let (now, pace) = (Timestamp::now(), pace_of(&found).await?);
    let ends = ends_of(&found.object, pace, now);
    if args.output == Output::Table {
        page(&found.object, &ends, now).into_iter().for_each(ui::out);
        return Ok(());
    }
    let value = json!({
        "fleet": found.object.name_any(), "namespace": found.namespace, "status": found.object.status, "ends": ends,
    });
    ui::value(&value, args.output)
}

async fn pace_of(found: &Found<FluxFleet>) -> anyhow::Result<Option<SignedDuration>> {
    let Some(target) = found.object.status.as_ref().and_then(|s| s.target.as_ref()) else { return Ok(None) };
    let name = found.object.name_any();
    let is_ours = |instance: &&FluxInstance| {
        let admitted = instance.status.as_ref().and_then(|s| s.admitted.as_ref());
        admitted.is_some_and(|admitted| admitted.by == name)
    };
    Ok(pace(found.all::<FluxInstance>().await?.iter().filter(is_ours), target))
}

/// A spec that cannot be read has a condition that says so, and no ends.
fn ends_of(fleet: &FluxFleet, pace: Option<SignedDuration>, now: Timestamp) -> BTreeMap<String, End> {
    ends(fleet, pace, whole_second(now)).unwrap_or_default()
}

async fn watch(mut found: Found<FluxFleet>) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let (mut known, mut seen) = (pace_of(&found).await?, Instant::now());
    let mut before = BTreeMap::new();
    loop {
        let now = Timestamp::now();
        if is_terminal {
            // To the upper left corner, and everything from there on is cleared.
            let lines = page(&found.object, &ends_of(&found.object, known, now), now);
            ui::out(format!("\x1b[H\x1b[2J{}\n\n{}  (Ctrl-C ends it)", lines.join("\n"), whole_second(now)));
        } else {
            let after = told(&found.object);
            for line in changes(&before, &after) {
                ui::out(format!("{}  {line}", whole_second(now)));
            }
            before = after;
        }
        tokio::time::sleep(LOOK).await;
        if let Err(error) = found.again().await {
            ui::talk(format!("{error:#}; looking again"));
        }
        if seen.elapsed() > PACE {
            known = pace_of(&found).await.unwrap_or(known);
            seen = Instant::now();
        }
    }
}

/// What there is to say, by what it is about.
fn told(fleet: &FluxFleet) -> BTreeMap<String, String> {
    let nothing = FluxFleetStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&nothing);
    let message = |message: &Option<String>| message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
    let mut told = BTreeMap::new();
    let phase = format!("{:?}{}", status.phase.unwrap_or_default(), message(&status.message));
    // Blanks come first, so that the whole comes before its stages.
    told.insert(" fleet".to_owned(), phase);
    for stage in &status.stages {
        let done = format!("{:?}, {}{}", stage.state, counted(&stage.counts), message(&stage.message));
        told.insert(format!("stage {}", stage.name), done);
    }
    for cluster in &status.not_ready {
        told.insert(format!("{} {}", stage_or_none(cluster.stage.as_ref()), cluster.name), cluster.reason.clone());
    }
    told
}

/// What is new, and what is no more.
fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let new = after.iter().filter(|(what, text)| before.get(*what) != Some(text));
    let gone = before.keys().filter(|what| !after.contains_key(*what));
    let new = new.map(|(what, text)| format!("{}: {text}", what.trim_start()));
    new.chain(gone.map(|what| format!("{what}: no longer among those that are not done"))).collect()
}

fn stage_or_none(stage: Option<&String>) -> &str {
    stage.map_or("-", String::as_str)
}

/// Counts as a sentence, of those that there are.
pub(super) fn counted(counts: &Counts) -> String {
    let rest = [
        (counts.updating, "updating"),
        (counts.failed, "failed"),
        (counts.deferred, "deferred"),
        (counts.waiting, "waiting"),
        (counts.left_out, "left out"),
        (counts.unassigned, "in no stage"),
        (counts.conflicts, "in conflict"),
        (counts.ungoverned, "ungoverned"),
    ];
    let rest = rest.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    format!("{} of {} done{}", counts.done, counts.total, rest.collect::<String>())
}

/// The first lines about a fleet.
pub(super) fn head(fleet: &FluxFleet) -> Vec<String> {
    let nothing = FluxFleetStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&nothing);
    let target = status.target.as_ref().map_or_else(
        || format!("none yet; the spec asks for {:?}", fleet.spec.distribution.version),
        |target| format!("{} ({}) since {}", target.version, target.digest, target.since.0),
    );
    let mut lines = vec![
        format!("fleet     {} in {}", fleet.name_any(), fleet.namespace().unwrap_or_default()),
        format!("target    {target}"),
        format!("phase     {:?}", status.phase.unwrap_or_default()),
    ];
    lines.extend(status.message.as_ref().map(|message| format!("          {message}")));
    lines.extend(world::lag(fleet).map(|lag| format!("note      {lag}")));
    lines
}

/// The whole page.
fn page(fleet: &FluxFleet, ends: &BTreeMap<String, End>, now: Timestamp) -> Vec<String> {
    let nothing = FluxFleetStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&nothing);
    let mut lines = head(fleet);
    lines.push(format!("clusters  {}", counted(&status.counts)));
    if !status.stages.is_empty() {
        lines.push(String::new());
        lines.extend(ui::columns(&stages(status, ends, now)));
    }
    let findings: Vec<String> = status.stages.iter().flat_map(findings).collect();
    if !findings.is_empty() {
        lines.push(String::new());
        lines.extend(findings);
    }
    if !status.not_ready.is_empty() {
        lines.push(String::new());
        let rows = status.not_ready.iter().map(|cluster| {
            let stage = stage_or_none(cluster.stage.as_ref()).to_owned();
            vec![cluster.name.clone(), stage, cluster.state.clone(), cluster.reason.clone()]
        });
        lines.extend(ui::columns(&under(&["NOT DONE", "STAGE", "STATE", "WHY"], rows)));
    }
    if status.more > 0 {
        lines.push(format!("and {} more", status.more));
    }
    lines
}

fn under(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let head = head.iter().map(|text| (*text).to_owned()).collect();
    std::iter::once(head).chain(rows).collect()
}

fn stages(status: &FluxFleetStatus, ends: &BTreeMap<String, End>, now: Timestamp) -> Vec<Vec<String>> {
    let head = ["STAGE", "STATE", "DONE", "UPDATING", "FAILED", "DEFERRED", "WAITING", "END", "WHAT"];
    let rows = status.stages.iter().map(|stage| {
        let counts = &stage.counts;
        let end = ends.get(&stage.name).map(|end| end.tell(now)).unwrap_or_default();
        vec![
            stage.name.clone(),
            format!("{:?}", stage.state),
            format!("{}/{}", counts.done, counts.total),
            counts.updating.to_string(),
            counts.failed.to_string(),
            counts.deferred.to_string(),
            counts.waiting.to_string(),
            end,
            stage.message.clone().unwrap_or_default(),
        ]
    });
    under(&head, rows)
}

fn findings(stage: &crate::api::StageStatus) -> Vec<String> {
    let tell = |found: &crate::api::StageFinding| {
        let finding = &found.finding;
        let object = finding.object.as_ref().map(|object| format!(" {object}")).unwrap_or_default();
        let count = format!("{} of {}, such as {}", found.clusters, stage.counts.total, found.example);
        let what = format!("{:?}  {}{object} ({count}): {}", finding.severity, finding.rule, finding.message);
        [what, format!("    -> {}", finding.remedy)]
    };
    stage.findings.iter().flat_map(tell).collect()
}

pub(super) async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let found = args.fleet.find().await?;
    let status = found.object.status.unwrap_or_default();
    if args.output != Output::Table {
        return ui::value(&status.history, args.output);
    }
    if status.history.is_empty() {
        ui::talk(format!("{} has had no target yet", args.fleet.name));
        return Ok(());
    }
    ui::columns(&past(&status)).into_iter().for_each(ui::out);
    Ok(())
}

fn past(status: &FluxFleetStatus) -> Vec<Vec<String>> {
    let rows = status.history.iter().map(|entry| {
        let finished = entry.finished.as_ref();
        vec![
            entry.version.clone(),
            format!("{:?}", entry.outcome),
            entry.started.0.to_string(),
            finished.map(|finished| finished.0.to_string()).unwrap_or_default(),
            finished.map(|f| Rough(f.0.duration_since(entry.started.0)).to_string()).unwrap_or_default(),
            entry.digest.clone(),
        ]
    });
    under(&["VERSION", "OUTCOME", "STARTED", "FINISHED", "TOOK", "DIGEST"], rows)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, fleet};
    use super::*;

    #[test]
    fn a_rollout_is_one_page() {
        let (fleet, now) = (fleet(), at("2026-07-01T12:00:00.25Z"));
        let ends = ends_of(&fleet, Some(SignedDuration::from_secs(60)), now);
        insta::assert_snapshot!(page(&fleet, &ends, now).join("\n"));
        insta::assert_snapshot!(ui::columns(&past(fleet.status.as_ref().unwrap())).join("\n"));
        let new = FluxFleet { status: None, ..fleet };
        insta::assert_snapshot!(page(&new, &BTreeMap::new(), now).join("\n"));
    }

    #[test]
    fn changes_are_told_line_by_line() {
        let mut fleet = fleet();
        let before = told(&fleet);
        let first = changes(&BTreeMap::new(), &before);
        assert_eq!(first.len(), 6, "{first:#?}");
        assert!(first.first().unwrap().starts_with("fleet: Updating: 15 of 93"), "{first:#?}");
        assert_eq!(changes(&before, &before), [""; 0]);
        let status = fleet.status.as_mut().unwrap();
        status.not_ready.retain(|cluster| cluster.name != "lost");
        let early = status.stages.iter_mut().find(|stage| stage.name == "early").unwrap();
        early.counts.done += 1;
        early.counts.waiting -= 1;
        assert_eq!(
            changes(&before, &told(&fleet)),
            [
                "stage early: Updating, 11 of 40 done, 8 updating, 2 deferred, 19 waiting: 8 on their way to 2.9.4 (sha256:new), 20 wait",
                "- lost: no longer among those that are not done",
            ]
        );
    }
}
