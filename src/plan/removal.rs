//! Taking an installation away, in an order that strands nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    CRD, Desired, DesiredSet, Entry, Finalizers, Guard, Inventory, Live, Observed, Owner, Plan, Stage, Step, stage_of,
};
use crate::api::bundle::Component;
use crate::render::Kind;

/// Finalizers that the API server and its garbage collector put on objects and clear themselves.
const SERVED: &[&str] = &["foregroundDeletion", "orphan", "customresourcecleanup.apiextensions.k8s.io", "kubernetes"];

/// Everything of the inventory, deleted. Controllers first, and their pods gone, so that nobody acts on the rest any more: what is
/// deleted after that is only deleted, nothing that it once made. Then the finalizers that only these controllers would have
/// cleared, our own custom resources, and all else; CRDs late and only when no object of them lives, or when
/// `delete_crds` says that the objects are to go too; the namespace last and only when it is empty.
pub fn removal(owner: &Owner, observed: &Observed, delete_crds: bool) -> Plan {
    let inventory = &observed.inventory;
    let mut steps: Vec<Step> = inventory
        .entries
        .iter()
        .filter_map(|(key, entry)| {
            let live = observed.live.get(key);
            let uid = match (live, &entry.uid) {
                (Some(live), _) => {
                    if let Err(reason) = ours(entry, live) {
                        return Some(Step::Forget { key: key.clone(), reason });
                    }
                    live.uid.clone()
                }
                (None, _) if !observed.is_as_new_as(&entry.kind, entry.resource_version) => return None,
                // Its pods may outlive it.
                (None, Some(uid)) if entry.pods.is_some() => uid.clone(),
                (None, _) => return Some(Step::Forget { key: key.clone(), reason: "it is gone" }),
            };
            let guard = match key.kind.as_str() {
                CRD if delete_crds => Guard::None,
                CRD => Guard::NoObjects,
                "Namespace" if !entry.created => {
                    return Some(Step::Forget { key: key.clone(), reason: "it was there before us" });
                }
                "Namespace" => Guard::OursAndEmpty,
                _ => Guard::None,
            };
            let stage = stage_of(&entry.kind);
            let pods = entry.pods.clone();
            Some(Step::Delete { stage, key: key.clone(), uid, guard, pods, kind: entry.kind.clone() })
        })
        .collect();
    let doomed = |name: &str| {
        let delete = |step: &&Step| matches!(step, Step::Delete { key, .. } if key.kind == CRD && key.name == name);
        steps.iter().find(delete).and_then(|step| step.key().cloned())
    };
    let releases: Vec<Step> = inventory
        .finalizers
        .iter()
        .filter_map(|f| Some(Step::Release { key: doomed(&f.crd)?, finalizers: f.finalizers.clone() }))
        .collect();
    steps.extend(releases);
    // What is recorded in an order is released, and deleted, in it; the sort is stable.
    let place: BTreeMap<&str, usize> =
        inventory.finalizers.iter().enumerate().map(|(i, f)| (f.crd.as_str(), i)).collect();
    steps.sort_by_key(|step| (deletion_order(step), step.key().and_then(|key| place.get(key.name.as_str())).copied()));
    Plan {
        owner: owner.clone(),
        bundle: None,
        config: String::new(),
        steps,
        drifted: Vec::new(),
        unchanged: 0,
        keeps_definitions: false,
        blocked: None,
        intent: inventory.clone(),
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

/// Workloads, finalizers, custom resources, resources, definitions; namespaces after all others.
pub(super) fn deletion_order(step: &Step) -> u8 {
    let of = |kind: &Kind| match stage_of(kind) {
        Stage::Workloads => 1,
        Stage::CustomResources => 3,
        Stage::Resources => 4,
        Stage::Definitions if kind.kind == "Namespace" => 7,
        Stage::Definitions if kind.kind == CRD => 6,
        Stage::Definitions | Stage::Migration | Stage::Sweep | Stage::Prune => 5,
    };
    match step {
        Step::Delete { kind, .. } => of(kind),
        Step::Release { .. } => 2,
        Step::Apply { .. } | Step::Detach { .. } | Step::Migrate { .. } | Step::Await { .. } | Step::Forget { .. } => 0,
    }
}

/// Which finalizers the controllers of a bundle serve on the CRDs among `objects`: first those of components that others do not
/// need, so that what depends on something is released before it.
pub(super) fn finalizers(components: &[Component], objects: &[Arc<Desired>]) -> Vec<Finalizers> {
    let depths = depths(components);
    let mut order: Vec<&Component> = components.iter().rev().collect();
    order.sort_by_key(|component| std::cmp::Reverse(depths.get(component.name.as_str()).copied()));
    let of = |component: &Component| {
        let finalizers = component.finalizers.clone();
        let is_wanted = |name: &str| objects.iter().any(|o| o.key.kind == CRD && o.key.name == name);
        let crds = component.crds.iter().filter(|crd| is_wanted(&crd.name)).map(|crd| crd.name.clone());
        crds.map(|crd| Finalizers { crd, finalizers: finalizers.clone() }).collect::<Vec<_>>()
    };
    order.into_iter().filter(|component| !component.finalizers.is_empty()).flat_map(of).collect()
}

/// How many components stand below each, one on the other. Those that require each other in a circle have no order.
fn depths(components: &[Component]) -> BTreeMap<&str, usize> {
    let mut depths: BTreeMap<&str, usize> = components.iter().map(|c| (c.name.as_str(), 0)).collect();
    for _ in components {
        for component in components {
            let below = component.requires.iter().filter_map(|required| depths.get(required.as_str())).max();
            let depth = below.map_or(0, |below| below + 1).min(components.len());
            depths.insert(&component.name, depth);
        }
    }
    depths
}

/// What is wanted now, after what is still there of earlier bundles.
pub(super) fn remembered(desired: &DesiredSet, inventory: &Inventory) -> Vec<Finalizers> {
    let is_new = |crd: &str| desired.finalizers.iter().any(|f| f.crd == crd);
    let is_there = |crd: &str| inventory.entries.keys().any(|key| key.kind == CRD && key.name == crd);
    let left = inventory.finalizers.iter().filter(|f| !is_new(&f.crd) && is_there(&f.crd));
    left.chain(&desired.finalizers).cloned().collect()
}

/// Whether a finalizer is one of these: exact names, or beginnings that end in `*`.
pub fn is_ours(finalizer: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => finalizer.starts_with(beginning),
        None => finalizer == pattern,
    })
}

/// Those finalizers that somebody else has to clear.
pub fn foreign(finalizers: &[String]) -> Vec<String> {
    finalizers.iter().filter(|f| !SERVED.contains(&f.as_str())).cloned().collect()
}
