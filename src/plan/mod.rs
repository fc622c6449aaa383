//! desired + observed -> plan. Pure: the same input gives the same plan, and the plan leaves no choices to whoever
//! executes it. What `headwater diff` prints is this value, and so is what the operator executes.

pub mod compare;
pub mod crd_safety;
mod definition;
pub mod drift;
pub mod election;
pub mod fields;
pub mod goal;
mod guard;
pub mod health;
mod inventory;
pub mod migration;
mod observed;
pub mod permissions;
mod policy;
pub mod preflight;
pub mod progress;
mod removal;
pub mod replace;
pub mod rollout;
mod steps;
mod survey;
pub mod takeover;
#[cfg(test)]
mod tests;
pub mod upgrade;

use std::sync::Arc;

use crate::render::{Kind, ObjectKey};

pub use definition::Definition;
pub use inventory::{BundleRef, Entry, Finalizers, Inventory, Owner};
pub use observed::{FIELD_MANAGER, INSTALLATION_LABEL, Live, Observed, changed_by, live_of, ownership};
pub use policy::{Drifted, Policy, Treatment};
pub use removal::{foreign, is_ours, removal};
pub use steps::{Blocked, Desired, DesiredSet, Guard, Plan, Reason, Stage, Step};
pub use survey::{Foreign, Stored, Survey};

/// Kind of custom resource definitions.
pub const CRD: &str = "CustomResourceDefinition";

/// In which stage an object is applied.
pub fn stage_of(kind: &Kind) -> Stage {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") | ("apiextensions.k8s.io", _) | ("rbac.authorization.k8s.io", "ClusterRole") => {
            Stage::Definitions
        }
        ("apps" | "batch", _) => Stage::Workloads,
        (group, _) if group.ends_with(".k8s.io") || !group.contains('.') => Stage::Resources,
        _ => Stage::CustomResources,
    }
}

/// Compares what is wanted with what is there.
///
/// An object is left alone when the bytes last applied are those wanted now and the fields we own on the live object are
/// those we owned right after that apply: a value of ours that anybody changes leaves our entry in `managedFields`, so
/// metadata alone tells drift (Kubernetes documentation, "Server-Side Apply", field management).
pub fn plan(owner: &Owner, desired: &DesiredSet, observed: &Observed, policy: &Policy) -> Plan {
    let inventory = &observed.inventory;
    let mut intent = inventory.clone();
    intent.owner = Some(owner.clone());
    intent.bundle = Some(desired.bundle.clone());
    // CRDs never go back: objects may be stored in versions that only the newer ones know.
    intent.definitions = inventory.definitions().filter(|newest| desired.bundle.is_older_than(newest)).cloned();
    let keeps_definitions = intent.definitions.is_some();

    let mut steps = Vec::new();
    let mut drifted = Vec::new();
    let mut unchanged = 0;
    for object in &desired.objects {
        let entry = inventory.entries.get(&object.key);
        if let Some(entry) = intent.entries.get_mut(&object.key) {
            entry.condemned = false;
        }
        if keeps_definitions && object.key.kind == CRD && entry.is_some() && observed.live.contains_key(&object.key) {
            unchanged += 1;
            continue;
        }
        let reason = reason_to_apply(object, entry, observed);
        // Others did it, where what we applied last is what we want now.
        let drift = reason.filter(|_| entry.is_some_and(|e| e.digest.as_ref() == Some(&object.digest)));
        let treatment = drift.and_then(|reason| {
            let treatment = policy.treatment(&object.key)?;
            let by = observed.live.get(&object.key).and_then(|live| live.changed_by.clone());
            drifted.push(Drifted { key: object.key.clone(), reason, by, treatment });
            Some(treatment)
        });
        match reason {
            None => unchanged += 1,
            Some(_) if drift.is_some() && treatment != Some(Treatment::Repair) => unchanged += 1,
            Some(reason) => {
                let slot = intent.entries.entry(object.key.clone()).or_insert_with(|| Entry::intended(&object.kind));
                if reason == Reason::Missing {
                    // What comes will be another incarnation than the one recorded.
                    *slot = Entry::intended(&object.kind);
                }
                slot.kind = object.kind.clone();
                slot.digest = None;
                let (stage, object) = (stage_of(&object.kind), Arc::clone(object));
                steps.push(Step::Apply { stage, reason, object, replaces: None, adoption: None });
            }
        }
    }
    for object in &desired.objects {
        if let Some(entry) = intent.entries.get_mut(&object.key) {
            entry.pods.clone_from(&object.pods);
        }
    }
    intent.finalizers = removal::remembered(desired, inventory);
    steps.sort_by_key(Step::stage);

    let wanted: std::collections::BTreeSet<&ObjectKey> = desired.objects.iter().map(|o| &o.key).collect();
    let mut prune: Vec<Step> = inventory
        .entries
        .iter()
        .filter(|(key, _)| !(wanted.contains(key) || keeps_definitions && key.kind == CRD))
        .filter_map(|(key, entry)| prune_step(key, entry, observed))
        .collect();
    prune.sort_by_key(removal::deletion_order);
    let blocked = guard::guard(&mut prune, &mut intent, policy.confirmed.as_deref());
    steps.extend(prune);

    Plan {
        owner: owner.clone(),
        bundle: Some(desired.bundle.clone()),
        config: desired.config.clone(),
        steps,
        drifted,
        unchanged,
        keeps_definitions,
        blocked,
        intent,
    }
}

fn reason_to_apply(object: &Desired, entry: Option<&Entry>, observed: &Observed) -> Option<Reason> {
    let Some(entry) = entry else {
        return Some(if observed.live.contains_key(&object.key) { Reason::Changed } else { Reason::Missing });
    };
    let Some(live) = observed.live.get(&object.key) else {
        // A watch may lag behind our own write: absent counts only from a look at least as new as that write.
        let settled = entry.digest.as_ref() == Some(&object.digest);
        return (!settled || observed.is_as_new_as(&object.kind, entry.resource_version)).then_some(Reason::Missing);
    };
    if entry.digest.as_ref() != Some(&object.digest) {
        return Some(Reason::Changed);
    }
    if live.resource_version < entry.resource_version {
        return None;
    }
    if entry.uid.as_ref() != Some(&live.uid) {
        return Some(Reason::Drifted);
    }
    (live.fields != entry.fields).then_some(Reason::Drifted)
}

fn prune_step(key: &ObjectKey, entry: &Entry, observed: &Observed) -> Option<Step> {
    let Some(live) = observed.live.get(key) else {
        return observed
            .is_as_new_as(&entry.kind, entry.resource_version)
            .then(|| Step::Forget { key: key.clone(), reason: "it is gone" });
    };
    if key.kind == "Namespace" {
        // A namespace holds what others put there; only an explicit uninstall may take it away.
        return None;
    }
    match removal::ours(entry, live) {
        Err(reason) => Some(Step::Forget { key: key.clone(), reason }),
        Ok(()) => Some(Step::Delete {
            stage: Stage::Prune,
            key: key.clone(),
            uid: live.uid.clone(),
            guard: if key.kind == CRD { Guard::NoObjects } else { Guard::None },
            pods: None,
            kind: entry.kind.clone(),
        }),
    }
}
