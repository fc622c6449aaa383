//! The rules about single objects: whether the API server takes them, whose fields they have, and who else keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Case, Facts, Findings, Rule, Trial};
use crate::api::Enforcement;
use crate::plan::{CRD, Desired, FIELD_MANAGER, Reason, Stage, Step, stage_of, takeover};
use crate::render::ObjectKey;

/// Objects to try. Left out is what cannot be tried before the change has begun: what goes into a namespace that is to be made, CRDs
/// whose objects are written anew first, objects that are replaced, and objects of CRDs that are not there as they will
/// be. What is repaired was accepted before.
pub(super) fn tries(case: &Case) -> Vec<Arc<Desired>> {
    if case.is_first() {
        return Vec::new();
    }
    let steps = &case.plan.steps;
    let is_made = |namespace: &str| {
        steps.iter().any(|step| match step {
            Step::Apply { object, reason: Reason::Missing, .. } => {
                object.key.kind == "Namespace" && object.key.name == namespace
            }
            _ => false,
        })
    };
    let is_migrated = |key: &ObjectKey| {
        key.kind == CRD
            && (case.no_way.is_some()
                || steps.iter().any(|step| {
                    matches!(step, Step::Migrate { stage: Stage::Migration, key: migrated, .. } if migrated == key)
                }))
    };
    let tried = steps.iter().filter_map(|step| match step {
        Step::Apply {
            object, reason: Reason::Missing | Reason::TakenOver | Reason::Changed, replaces: None, ..
        } => Some(object),
        _ => None,
    });
    tried
        .filter(|object| !object.key.namespace.as_deref().is_some_and(is_made))
        .filter(|object| !is_migrated(&object.key))
        .filter(|object| stage_of(&object.kind) != Stage::CustomResources || is_served(case, object))
        .cloned()
        .collect()
}

/// Whether the live CRD serves the version in which a custom resource is written.
fn is_served(case: &Case, object: &Desired) -> bool {
    let live = case.survey.crds.get(&format!("{}.{}", object.kind.plural, object.kind.group));
    let served = live.and_then(|crd| crd.pointer("/spec/versions")).and_then(Value::as_array).into_iter().flatten();
    served.filter(|v| v["served"] == true).any(|v| v["name"] == object.kind.version.as_str())
}

pub(super) fn judge(case: &Case, facts: &Facts, found: &mut Findings) {
    for (key, trial) in &facts.trials {
        match trial {
            Trial::Accepted => {}
            Trial::Refused(why) => {
                // Said already, in words of its own: a change that no CRD can make, and a right that is missing.
                let is_known = found.list.iter().any(|f| {
                    matches!(f.rule, Rule::CrdSchema | Rule::Permissions)
                        && f.severity == Enforcement::Error
                        && f.object.as_ref() == Some(key)
                });
                if !is_known {
                    found.add(
                        Rule::Invalid,
                        Enforcement::Error,
                        Some(key),
                        format!("the API server refuses {key}: {why}"),
                        "correct spec.kustomize.patches, or what refuses it (an admission policy, a webhook, a quota)",
                    );
                }
            }
            Trial::Unknown(why) => {
                let is_known = found.list.iter().any(|f| f.rule == Rule::Permissions && f.object.as_ref() == Some(key));
                if is_known {
                    continue;
                }
                found.unknown(
                    Rule::Invalid,
                    Some(key),
                    format!("whether the API server takes {key} is not known: {why}"),
                );
            }
            Trial::Conflicts(list) => {
                // What other tools own of an object that is taken over becomes ours before it is applied.
                let foreign = case.survey.foreign.get(key);
                let is_taken = |manager: &str| foreign.is_some_and(|f| takeover::takes_fields(f, manager));
                let others = list.iter().filter(|(manager, _)| manager != FIELD_MANAGER && !is_taken(manager));
                conflicts(key, others, found);
            }
        }
    }
}

fn conflicts<'a>(key: &ObjectKey, list: impl Iterator<Item = &'a (String, String)>, found: &mut Findings) {
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (manager, field) in list {
        by_manager.entry(manager).or_default().push(field);
    }
    let texts: Vec<String> = by_manager
        .iter()
        .map(|(manager, fields)| match &fields[..] {
            [field, rest @ ..] if !rest.is_empty() => format!("{manager} owns {field} and {} more", rest.len()),
            fields => format!("{manager} owns {}", fields.concat()),
        })
        .collect();
    if !texts.is_empty() {
        found.add(
            Rule::FieldConflicts,
            Enforcement::Warn,
            Some(key),
            format!("fields of {key} are taken over: {}", texts.join("; ")),
            "they get the values of the bundle; to keep others, say them in spec.kustomize.patches, and stop who writes them",
        );
    }
}

/// Objects that somebody else would put back, or delete.
pub(super) fn owners(case: &Case, found: &mut Findings) {
    for takeover::Obstacle { owner, objects } in takeover::obstacles(case.survey) {
        let [first, rest @ ..] = objects.as_slice() else { continue };
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more objects)", rest.len()) };
        found.add(
            Rule::ForeignOwners,
            Enforcement::Error,
            Some(first),
            format!("{first}{more} cannot be taken over from {}", owner.tool),
            owner.remedy.unwrap_or_default(),
        );
    }
}
