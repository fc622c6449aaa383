//! What is said of what others changed. Neither client nor clock.

use super::super::Run;
use super::super::events::Word;
use super::status::first;
use crate::api::condition::Verdict;
use crate::plan::Treatment;

/// Whether something is not as it was installed, and stays so for now; `None` when there is nothing to say.
pub(super) fn verdict(run: &Run) -> Option<Verdict> {
    let fights: Vec<String> = run
        .drift
        .contested
        .iter()
        .map(|contest| {
            let by = contest.by.as_deref().unwrap_or("somebody else");
            format!("{} is changed by {by} as often as it is repaired, so it is repaired less often", contest.key)
        })
        .collect();
    if !fights.is_empty() {
        let hint = "find out who that is, or leave the field to them with spec.drift.ignore";
        return Some(Verdict::yes("DriftDamped", format!("{}; {hint}", first(&fights))));
    }
    let drifted = run.plan.iter().flat_map(|plan| &plan.drifted);
    let left: Vec<String> = drifted.filter(|d| d.treatment == Treatment::Warn).map(ToString::to_string).collect();
    let text = format!("{}; it is left so, since spec.drift.mode is Warn", first(&left));
    (!left.is_empty()).then(|| Verdict::yes("DriftFound", text))
}

/// What is worth an event.
pub(super) fn words(run: &Run) -> Vec<Word> {
    let repaired = run.drift.repaired.iter().map(|text| Word {
        warning: false,
        reason: "DriftCorrected",
        note: format!("repaired: {text}"),
    });
    let found =
        run.drift.found.iter().map(|text| Word { warning: true, reason: "DriftFound", note: format!("left: {text}") });
    repaired.chain(found).collect()
}
