//! What is said of a removal. Neither client nor clock.

use kube::ResourceExt;

use super::super::StepError;
use super::super::events::Word;
use super::super::execute::{Executed, Going};
use super::status::first;
use crate::api::{ABANDON, FluxInstance, condition};

/// What a removal has done in this pass.
pub(super) fn removed(executed: &Executed) -> Option<Word> {
    let mut texts = Vec::new();
    if let [one, rest @ ..] = executed.deleted.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        texts.push(format!("deleted {one}{more}"));
    }
    for (crd, count) in &executed.released {
        texts.push(format!("cleared finalizers of {count} of {}", crd.name));
    }
    (!texts.is_empty()).then(|| Word { warning: false, reason: "Uninstalling", note: texts.join("; ") })
}

/// Who holds a removal up.
pub(super) fn held(by: &[Going]) -> Option<Word> {
    let texts: Vec<String> = by.iter().map(ToString::to_string).collect();
    let note = format!("waiting for {}; whoever put it there has to clear it", first(&texts));
    (!texts.is_empty()).then_some(Word { warning: true, reason: "FinalizerRemains", note })
}

/// What lets go of a cluster: its UID; that of the instance when the cluster was never seen.
fn word_to_abandon(instance: &FluxInstance) -> String {
    let cluster = instance.status.as_ref().and_then(|s| s.cluster.as_ref()).map(|c| c.uid.clone());
    cluster.or_else(|| instance.metadata.uid.clone()).unwrap_or_default()
}

/// Whether a user has said that the cluster of this instance is to be let go of.
pub(crate) fn is_abandoned(instance: &FluxInstance) -> bool {
    let word = word_to_abandon(instance);
    !word.is_empty() && instance.annotations().get(ABANDON) == Some(&word)
}

/// What is left behind on a cluster that is let go of.
pub(super) fn abandoned(instance: &FluxInstance) -> Word {
    let status = instance.status.clone().unwrap_or_default();
    let objects = status.objects.map_or("whatever was installed".to_owned(), |objects| format!("{objects} objects"));
    let uid = status.cluster.map_or("that was never seen".to_owned(), |c| format!("with UID {}", c.uid));
    let note = format!("{objects} left behind on the cluster {uid}: they run on, and nobody manages them");
    Word { warning: true, reason: "Abandoned", note }
}

/// Why a removal does not go on, and how it can.
pub(super) fn stuck(error: &StepError, instance: &FluxInstance) -> String {
    if !error.is_about_reaching() {
        return format!(
            "{error}. Nothing is forgotten: removal goes on when this is solved; set deletionPolicy to Orphan to leave the cluster as it is"
        );
    }
    let word = word_to_abandon(instance);
    let wrong = match instance.annotations().get(ABANDON) {
        Some(found) => format!(" (found: {})", condition::cut(found.chars().take(64).collect())),
        None => String::new(),
    };
    format!(
        "{error}. Nothing is forgotten: removal goes on when this is solved. To let go of a cluster that is gone for ever, annotate the instance with {ABANDON}={word}{wrong}"
    )
}
