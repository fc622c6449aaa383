//! Deletions that are many, or of what holds what others made, wait for a word.

use super::{Blocked, CRD, Inventory, Step};
use crate::render::{ObjectKey, digest};

/// A pass may delete so many objects without a word.
const FEW: usize = 5;

/// Takes deletions out of a plan that are more than [`FEW`] and more than a fifth of all, or touch what holds what others
/// made, unless the word has been given for exactly these. The word is recorded, since deletions take more than one pass.
pub(super) fn guard(prune: &mut Vec<Step>, intent: &mut Inventory, confirmed: Option<&str>) -> Option<Blocked> {
    let is_condemned = |intent: &Inventory, key: &ObjectKey| intent.entries.get(key).is_some_and(|e| e.condemned);
    let deletions: Vec<(ObjectKey, String)> = prune
        .iter()
        .filter_map(|step| match step {
            Step::Delete { key, uid, .. } if !is_condemned(intent, key) => Some((key.clone(), uid.clone())),
            _ => None,
        })
        .collect();
    let of = intent.entries.len();
    let holds_others = |key: &ObjectKey| matches!(key.kind.as_str(), CRD | "Namespace" | "PersistentVolumeClaim");
    if deletions.len() <= FEW.max(of / 5) && !deletions.iter().any(|(key, _)| holds_others(key)) {
        return None;
    }
    let digest = digest(&serde_json::to_vec(&deletions).unwrap_or_default());
    if confirmed == Some(digest.as_str()) {
        for (key, _) in &deletions {
            if let Some(entry) = intent.entries.get_mut(key) {
                entry.condemned = true;
            }
        }
        return None;
    }
    prune.retain(|step| !matches!(step, Step::Delete { key, .. } if !is_condemned(intent, key)));
    Some(Blocked { digest, deletions: deletions.into_iter().map(|(key, _)| key).collect(), of })
}
