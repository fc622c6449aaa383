//! `headwater fleet status --watch`: a page that is drawn again on a terminal, else a line for each change.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::bail;
use jiff::Timestamp;
use kube::ResourceExt;

use super::estimate::{Rough, whole_second};
use super::status::{counted, ends_of, pace_of, page, stage_or_none};
use crate::api::{FluxFleet, FluxFleetStatus};
use crate::cli::found::Found;
use crate::cli::ui;

/// How often a watched fleet is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often its instances are, of which only the pace is wanted: lists of thousands are not read every two seconds.
const PACE: Duration = Duration::from_secs(30);

/// Goes on until it is interrupted, nobody reads any more, or the fleet is deleted.
pub(super) async fn watch(mut found: Found<FluxFleet>) -> anyhow::Result<()> {
    let (mut known, mut seen) = (pace_of(&found).await?, Instant::now());
    let mut before = BTreeMap::new();
    // Since when the hub does not answer, and what it said last.
    let mut away: Option<(Timestamp, String)> = None;
    let mut is_first = true;
    loop {
        let now = Timestamp::now();
        let written = if let Some((width, height)) = ui::screen() {
            let mut lines = page(&found.object, &ends_of(&found.object, known, now), now, Some(width));
            lines.push(String::new());
            lines.extend(ui::wrap(&bottom(away.as_ref(), now), 0, Some(width)));
            let clear = if is_first { "\x1b[2J" } else { "" };
            write(&format!("{clear}{}", frame(&lines, width, height)))
        } else {
            let mut after = told(&found.object);
            after.extend(away.as_ref().map(|(_, why)| (" hub".to_owned(), why.clone())));
            let changes = changes(&before, &after);
            before = after;
            let lines: Vec<String> = changes.iter().map(|line| format!("{}  {line}\n", whole_second(now))).collect();
            write(&lines.concat())
        };
        if !written {
            return Ok(());
        }
        is_first = false;
        tokio::time::sleep(LOOK).await;
        match found.again().await {
            Ok(true) => away = None,
            Ok(false) => bail!("FluxFleet {} is gone from namespace {}", found.object.name_any(), found.namespace),
            Err(error) => {
                let since = away.map_or_else(Timestamp::now, |(since, _)| since);
                away = Some((since, format!("cannot be asked: {error}; what is shown is from before")));
            }
        }
        if away.is_none() && seen.elapsed() > PACE {
            known = pace_of(&found).await.unwrap_or(known);
            seen = Instant::now();
        }
    }
}

/// Whether somebody could still read it.
fn write(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

fn bottom(away: Option<&(Timestamp, String)>, now: Timestamp) -> String {
    let state = away.map(|(since, why)| format!("the hub {why} ({})  ", Rough(now.duration_since(*since))));
    format!("{}  {}(Ctrl-C ends it)", whole_second(now), state.unwrap_or_default())
}

/// Lines as what puts them on a screen in place of what is there, without flicker: each is written over the old one. Of a page that is
/// too long the middle is left out, so that it does not scroll.
fn frame(lines: &[String], width: usize, height: usize) -> String {
    // The cursor stays on a line of its own, where the shell goes on.
    let fits = height.saturating_sub(1).max(2);
    let cut = |line: &String| crate::render::cut(line, width);
    let mut shown: Vec<String> = lines.iter().map(cut).collect();
    if shown.len() > fits {
        let last = shown.pop();
        let left = shown.len() - (fits - 2);
        shown.truncate(fits - 2);
        shown.push(format!("... and {left} more lines"));
        shown.extend(last);
    }
    // To the upper left corner; the rest of each line is cleared, and at last all below.
    format!("\x1b[H{}\x1b[K\n\x1b[J", shown.join("\x1b[K\n"))
}

/// What there is to say, by what it is about.
fn told(fleet: &FluxFleet) -> BTreeMap<String, String> {
    let nothing = FluxFleetStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&nothing);
    let message =
        |message: &Option<String>| message.as_ref().map(|m| format!(": {}", ui::short(m))).unwrap_or_default();
    let mut told = BTreeMap::new();
    let phase = format!("{:?}{}", status.phase.unwrap_or_default(), message(&status.message));
    // Blanks come first, so that the whole comes before its stages.
    told.insert(" fleet".to_owned(), phase);
    for stage in &status.stages {
        let done = format!("{:?}, {}{}", stage.state, counted(&stage.counts), message(&stage.message));
        told.insert(format!("stage {}", stage.name), done);
    }
    for cluster in &status.not_ready {
        let about = format!("{} {}", stage_or_none(cluster.stage.as_ref()), cluster.name);
        told.insert(about, ui::short(&cluster.reason));
    }
    told
}

/// What is new, and what is no more.
fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let new = after.iter().filter(|(what, text)| before.get(*what) != Some(text));
    let gone = before.keys().filter(|what| !after.contains_key(*what));
    let new = new.map(|(what, text)| format!("{}: {text}", what.trim_start()));
    let gone = gone.map(|what| match what.as_str() {
        " hub" => "hub: answers again".to_owned(),
        what => format!("{what}: no longer among those that are not done"),
    });
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, fleet};
    use super::*;

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
        let mut cut_off = before.clone();
        cut_off.insert(" hub".to_owned(), "does not answer: timeout".to_owned());
        assert_eq!(changes(&before, &cut_off), ["hub: does not answer: timeout"]);
        assert_eq!(changes(&cut_off, &before), ["hub: answers again"]);
    }

    #[test]
    fn a_page_is_drawn_over_the_one_before_and_never_scrolls() {
        let lines = ["fleet", "a long line", "c", "d", "bottom"].map(str::to_owned);
        assert_eq!(frame(&lines, 6, 10), "\x1b[Hfleet\x1b[K\na lon…\x1b[K\nc\x1b[K\nd\x1b[K\nbottom\x1b[K\n\x1b[J");
        assert_eq!(
            frame(&lines, 80, 5),
            "\x1b[Hfleet\x1b[K\na long line\x1b[K\n... and 2 more lines\x1b[K\nbottom\x1b[K\n\x1b[J"
        );
        for height in 0..9 {
            assert!(frame(&lines, 80, height).lines().count() <= height.max(3), "{height}");
        }
    }

    #[test]
    fn the_last_line_says_since_when_the_hub_is_away() {
        let now = at("2026-07-01T12:00:10Z");
        assert_eq!(bottom(None, now), "2026-07-01T12:00:10Z  (Ctrl-C ends it)");
        let away = (at("2026-07-01T12:00:00Z"), "does not answer: timeout".to_owned());
        assert_eq!(
            bottom(Some(&away), now),
            "2026-07-01T12:00:10Z  the hub does not answer: timeout (10s)  (Ctrl-C ends it)"
        );
    }
}
