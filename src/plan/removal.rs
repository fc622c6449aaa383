//! Taking an installation away, in an order that strands nothing.

use super::{CRD, Entry, Guard, Live, Observed, Owner, Plan, Stage, Step, stage_of};

/// Everything of the inventory, deleted: controllers first, so that nobody acts on the rest any more; then our own custom
/// resources, whose finalizers nobody is left to serve; CRDs and the namespace last and only when empty.
pub fn removal(owner: &Owner, observed: &Observed) -> Plan {
    let mut steps: Vec<Step> = observed
        .inventory
        .entries
        .iter()
        .filter_map(|(key, entry)| {
            let Some(live) = observed.live.get(key) else {
                return observed
                    .is_as_new_as(&entry.kind, entry.resource_version)
                    .then(|| Step::Forget { key: key.clone(), reason: "it is gone" });
            };
            if let Err(reason) = ours(entry, live) {
                return Some(Step::Forget { key: key.clone(), reason });
            }
            let stage = stage_of(&entry.kind);
            let guard = match key.kind.as_str() {
                CRD => Guard::NoObjects,
                "Namespace" if !entry.created => {
                    return Some(Step::Forget { key: key.clone(), reason: "it was there before us" });
                }
                "Namespace" => Guard::OursAndEmpty,
                _ => Guard::None,
            };
            Some(Step::Delete {
                stage,
                key: key.clone(),
                uid: live.uid.clone(),
                guard,
                drop_finalizers: stage == Stage::CustomResources,
                kind: entry.kind.clone(),
            })
        })
        .collect();
    steps.sort_by_key(deletion_order);
    Plan {
        owner: owner.clone(),
        bundle: None,
        config: String::new(),
        steps,
        drifted: Vec::new(),
        unchanged: 0,
        keeps_definitions: false,
        blocked: None,
        intent: observed.inventory.clone(),
    }
}

/// Whether a live object is the one we recorded; the reason if not. Never delete by name alone.
pub(super) fn ours(entry: &Entry, live: &Live) -> Result<(), &'static str> {
    match &entry.uid {
        Some(uid) if *uid != live.uid => Err("another object has its name now"),
        // Without UID it was intended and perhaps written, and the answer was lost: that it carries our label and has
        // fields of ours tells that the write arrived.
        None if live.fields.is_none() => Err("it was never ours"),
        Some(_) | None => Ok(()),
    }
}

/// Workloads, custom resources, resources, definitions; namespaces after all others.
pub(super) fn deletion_order(step: &Step) -> u8 {
    let Step::Delete { kind, key, .. } = step else { return 0 };
    match stage_of(kind) {
        Stage::Workloads => 1,
        Stage::CustomResources => 2,
        Stage::Resources => 3,
        Stage::Definitions if key.kind == "Namespace" => 6,
        Stage::Definitions if key.kind == CRD => 5,
        Stage::Definitions | Stage::Migration | Stage::Sweep | Stage::Prune => 4,
    }
}
