//! `headwater fleet status` and `history`: what the operator has written down.

use std::collections::BTreeMap;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::estimate::{End, Rough, ends, pace, whole_second};
use super::{Named, world};
use crate::api::{
    Counts, FleetHistoryEntry, FluxFleet, FluxFleetStatus, FluxInstance, NotReady, StageFinding, StageStatus,
};
use crate::cli::found::Found;
use crate::cli::{Output, ui};

/// Where the text of a line begins, behind what it is about.
pub(super) const LABEL: usize = 10;

#[derive(Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    pub(super) fleet: Named,
    /// Go on until interrupted: a page that is drawn again on a terminal, else a line for each change
    #[arg(long, short, conflicts_with = "output")]
    pub(super) watch: bool,
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
    let (now, pace) = (Timestamp::now(), pace_of(&found).await?);
    let ends = ends_of(&found.object, pace, now);
    if args.output == Output::Table {
        page(&found.object, &ends, now, width()).into_iter().for_each(ui::out);
        return Ok(());
    }
    let value = json!({
        "fleet": found.object.name_any(), "namespace": found.namespace, "status": found.object.status, "ends": ends,
    });
    ui::value(&value, args.output)
}

/// Columns of the terminal.
pub(super) fn width() -> Option<usize> {
    ui::screen().map(|(width, _)| width)
}

pub(super) async fn pace_of(found: &Found<FluxFleet>) -> anyhow::Result<Option<SignedDuration>> {
    let Some(target) = found.object.status.as_ref().and_then(|s| s.target.as_ref()) else { return Ok(None) };
    let name = found.object.name_any();
    let is_ours = |instance: &&FluxInstance| {
        let admitted = instance.status.as_ref().and_then(|s| s.admitted.as_ref());
        admitted.is_some_and(|admitted| admitted.by == name)
    };
    Ok(pace(found.all::<FluxInstance>().await?.iter().filter(is_ours), target))
}

/// A spec that cannot be read has a condition that says so, and no ends.
pub(super) fn ends_of(fleet: &FluxFleet, pace: Option<SignedDuration>, now: Timestamp) -> BTreeMap<String, End> {
    ends(fleet, pace, whole_second(now)).unwrap_or_default()
}

pub(super) fn stage_or_none(stage: Option<&String>) -> &str {
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
pub(super) fn head(fleet: &FluxFleet, width: Option<usize>) -> Vec<String> {
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
    lines.extend(status.message.as_ref().map(|message| format!("          {}", ui::short(message))));
    lines.extend(world::lag(fleet).map(|lag| format!("note      {lag}")));
    lines.iter().flat_map(|line| ui::wrap(line, LABEL, width)).collect()
}

/// The whole page.
pub(super) fn page(
    fleet: &FluxFleet,
    ends: &BTreeMap<String, End>,
    now: Timestamp,
    width: Option<usize>,
) -> Vec<String> {
    let nothing = FluxFleetStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&nothing);
    let mut lines = head(fleet, width);
    lines.extend(ui::wrap(&format!("clusters  {}", counted(&status.counts)), LABEL, width));
    if !status.stages.is_empty() {
        lines.push(String::new());
        lines.extend(stages(status, ends, now, width));
    }
    let findings: Vec<String> = status.stages.iter().flat_map(findings).collect();
    if !findings.is_empty() {
        lines.push(String::new());
        lines.extend(findings.iter().flat_map(|line| ui::wrap(line, 7, width)));
    }
    if !status.not_ready.is_empty() {
        lines.push(String::new());
        let row = |cluster: &NotReady| {
            let stage = stage_or_none(cluster.stage.as_ref()).to_owned();
            vec![cluster.name.clone(), stage, cluster.state.clone(), ui::short(&cluster.reason)]
        };
        let rows: Vec<Vec<String>> = status.not_ready.iter().map(row).collect();
        lines.extend(ui::lay_out(&["NOT DONE", "STAGE", "STATE", "WHY"], &rows, 1, width));
    }
    if status.more > 0 {
        lines.push(format!("and {} more", status.more));
    }
    lines
}

fn stages(status: &FluxFleetStatus, ends: &BTreeMap<String, End>, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let head = ["STAGE", "STATE", "DONE", "UPDATING", "FAILED", "DEFERRED", "WAITING", "END", "WHAT"];
    let row = |stage: &StageStatus| {
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
            stage.message.as_deref().map(ui::short).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = status.stages.iter().map(row).collect();
    ui::lay_out(&head, &rows, 2, width)
}

fn findings(stage: &StageStatus) -> Vec<String> {
    let tell = |found: &StageFinding| {
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
    past(&status, width()).into_iter().for_each(ui::out);
    Ok(())
}

fn past(status: &FluxFleetStatus, width: Option<usize>) -> Vec<String> {
    let row = |entry: &FleetHistoryEntry| {
        let finished = entry.finished.as_ref();
        vec![
            entry.version.clone(),
            format!("{:?}", entry.outcome),
            entry.started.0.to_string(),
            finished.map(|finished| finished.0.to_string()).unwrap_or_default(),
            finished.map(|f| Rough(f.0.duration_since(entry.started.0)).to_string()).unwrap_or_default(),
            entry.digest.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = status.history.iter().map(row).collect();
    ui::lay_out(&["VERSION", "OUTCOME", "STARTED", "FINISHED", "TOOK", "DIGEST"], &rows, 1, width)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, fleet};
    use super::*;

    #[test]
    fn a_rollout_is_one_page() {
        let (fleet, now) = (fleet(), at("2026-07-01T12:00:00.25Z"));
        let ends = ends_of(&fleet, Some(SignedDuration::from_secs(60)), now);
        insta::assert_snapshot!(page(&fleet, &ends, now, None).join("\n"));
        insta::assert_snapshot!(past(fleet.status.as_ref().unwrap(), None).join("\n"));
        insta::assert_snapshot!("eighty_columns", page(&fleet, &ends, now, Some(80)).join("\n"));
        let new = FluxFleet { status: None, ..fleet };
        insta::assert_snapshot!(page(&new, &BTreeMap::new(), now, None).join("\n"));
    }
}
