//! Objects are stored in a version of their CRD, and the API server refuses a CRD that lacks a version in which objects may
//! be stored (`status.storedVersions`). So before such a CRD is applied, all objects are written anew in the version
//! that is stored now; where the wanted CRD does not know that one either, CRDs of bundles in between are applied first.
//!
//! What is to be done follows from the live CRDs alone: whoever is killed half-way finds them as they are, and goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{CRD, Definition, Desired, DesiredSet, Plan, Reason, Stage, Step, Stored, Survey};
use crate::render::Kind;

/// The CRDs of a bundle that others are reached through.
#[derive(Debug, Clone)]
pub struct Detour {
    /// Version of the bundle.
    pub version: String,
    /// Its CRDs.
    pub definitions: Vec<Arc<Desired>>,
}

/// There is no version in which objects could be written so that the wanted CRD knows them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.found(), Self::REMEDY)]
pub struct NoWay {
    /// Name of the CRD.
    pub crd: String,
    /// The version in which objects are stored.
    pub stored: String,
    /// Versions of the wanted CRD.
    pub wanted: String,
    /// Bundles that were tried.
    pub tried: String,
}

impl NoWay {
    /// What can help.
    pub const REMEDY: &str = "upgrade to a version in between first";

    /// What was found.
    pub fn found(&self) -> String {
        let Self { crd, stored, wanted, tried } = self;
        let tried = match tried.as_str() {
            "" => "and the bundle names no version to go through".to_owned(),
            tried => format!("and neither do those it can be reached through ({tried})"),
        };
        format!("{crd} stores objects as {stored}, which the wanted one does not know (it has {wanted}), {tried}")
    }
}

/// One thing to do before the wanted CRD is applied.
#[derive(Debug, Clone)]
enum Hop {
    Migrate { kind: Kind, mixed: bool },
    Apply(Arc<Desired>),
}

/// The live CRDs that the plan would change or sweep, with what they are to become.
fn changing<'a>(
    plan: &'a Plan,
    desired: &'a DesiredSet,
    survey: &'a Survey,
) -> impl Iterator<Item = (Definition, Definition)> + 'a {
    let is_changed = |name: &str| {
        plan.intent.sweep.contains(name)
            || plan.steps.iter().any(|step| step.key().is_some_and(|key| key.kind == CRD && key.name == name))
    };
    desired
        .objects
        .iter()
        .filter(move |object| object.key.kind == CRD && is_changed(&object.key.name))
        .filter_map(|object| Some((Definition::of(survey.crds.get(&object.key.name)?)?, object.definition.clone()?)))
}

/// Whether a CRD in between is needed.
pub fn needs_detour(plan: &Plan, desired: &DesiredSet, survey: &Survey) -> bool {
    !plan.keeps_definitions && changing(plan, desired, survey).any(|(now, next)| !next.versions.contains(now.storage()))
}

/// Puts migrations before the CRDs that need them, and after the controllers once more.
///
/// # Errors
/// When objects of a CRD cannot be written in any version that the wanted one knows.
pub fn migrate(mut plan: Plan, desired: &DesiredSet, survey: &Survey, detours: &[Detour]) -> Result<Plan, NoWay> {
    if plan.keeps_definitions {
        return Ok(plan);
    }
    let mut before = Vec::new();
    let mut after = Vec::new();
    for (now, next) in changing(&plan, desired, survey) {
        let between: Vec<(Definition, Arc<Desired>)> = detours
            .iter()
            .flat_map(|detour| detour.definitions.iter().filter(|d| d.key.name == now.name))
            .filter_map(|desired| Some((desired.definition.clone()?, Arc::clone(desired))))
            .collect();
        let stored = survey.stored.get(&now.name).cloned().unwrap_or_default();
        let key = Kind::crd().key(None, now.name.clone());
        let way = way(&now, &next, &stored, &between).ok_or_else(|| NoWay {
            crd: now.name.clone(),
            stored: now.storage().to_owned(),
            wanted: next.versions.iter().cloned().collect::<Vec<_>>().join(", "),
            tried: detours.iter().map(|d| d.version.clone()).collect::<Vec<_>>().join(", "),
        })?;
        let mut last: BTreeSet<String> = now.stored.clone();
        for hop in way {
            let stage = Stage::Migration;
            match hop {
                Hop::Migrate { kind, mixed } => {
                    last = BTreeSet::from([kind.version.clone()]);
                    before.push(Step::Migrate { stage, key: key.clone(), kind, mixed });
                }
                Hop::Apply(object) => {
                    last.extend(object.definition.as_ref().map(|d| d.storage().to_owned()));
                    before.push(Step::Apply { stage, reason: Reason::Detour, object, replaces: None, adoption: None });
                }
            }
        }
        last.insert(next.storage().to_owned());
        // Until the new controllers run, the old ones write what they know.
        let may_be_written = now.loses_versions(&next) && stored.objects > 0;
        if last.len() > 1 || may_be_written || plan.intent.sweep.contains(&now.name) {
            after.push(Step::Migrate { stage: Stage::Sweep, key, kind: next.kind, mixed: last.len() > 1 });
        }
    }
    plan.intent.sweep = after.iter().filter_map(|step| Some(step.key()?.name.clone())).collect();
    plan.steps.extend(before);
    plan.steps.extend(after);
    plan.steps.sort_by_key(Step::stage);
    Ok(plan)
}

/// What has to happen to the objects of one CRD before the wanted one can take its place; `None` when there is no way.
fn way(
    now: &Definition,
    next: &Definition,
    stored: &Stored,
    between: &[(Definition, Arc<Desired>)],
) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut now = now.clone();
    let mut recorded: BTreeSet<String> = stored.recorded.keys().cloned().collect();
    let mut between = between.iter();
    loop {
        let is_direct = next.versions.contains(now.storage());
        let detour = if is_direct {
            None
        } else {
            Some(between.find(|(d, _)| d.versions.contains(now.storage()) && d.storage() != now.storage())?)
        };
        let to = detour.map_or(next, |(definition, _)| definition);
        let is_refused = now.stored.iter().any(|version| !to.versions.contains(version));
        if is_refused || recorded.iter().any(|version| !to.served.contains(version)) {
            hops.push(Hop::Migrate { kind: now.kind.clone(), mixed: now.is_mixed() });
            now.stored = BTreeSet::from([now.storage().to_owned()]);
            recorded.clone_from(&now.stored);
        }
        let Some((definition, desired)) = detour else { return Some(hops) };
        hops.push(Hop::Apply(Arc::clone(desired)));
        // The API server adds the new version by itself.
        let mut stored = now.stored;
        stored.insert(definition.storage().to_owned());
        now = Definition { stored, ..definition.clone() };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::plan::{BundleRef, Observed, Owner, Policy, plan};
    use crate::render::Object;

    /// A CRD whose versions are given as `v1* v1beta2 v1beta1-`: stored, served, not served.
    fn crd(versions: &str, stored: &[&str]) -> Value {
        let list: Vec<Value> = versions
            .split(' ')
            .map(|v| {
                let name = v.trim_end_matches(['*', '-']);
                json!({"name": name, "served": !v.ends_with('-'), "storage": v.ends_with('*')})
            })
            .collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.example.org"},
            "spec": {"group": "example.org", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"}, "versions": list},
            "status": {"storedVersions": stored},
        })
    }

    fn wanted(versions: &str) -> Arc<Desired> {
        let mut value = crd(versions, &[]);
        value.as_object_mut().unwrap().remove("status");
        Arc::new(Desired::new(&Object::try_from(value).unwrap(), Kind::crd()))
    }

    /// The steps from a live CRD to the wanted one, as short texts; with what `managedFields` speak of beside the stored version.
    fn steps(live: &Value, to: &str, recorded: &[&str], detours: &[&str]) -> Result<Vec<String>, String> {
        let owner = Owner { namespace: "fleet".into(), name: "a".into(), uid: "u".into() };
        let bundle = BundleRef { version: "2.0.0".into(), digest: "sha256:b".into() };
        let desired = DesiredSet::new(bundle, vec![wanted(to).as_ref().clone()]);
        let mut survey = Survey::default();
        survey.crds.insert("things.example.org".to_owned(), live.clone());
        let counts: BTreeMap<String, usize> = recorded.iter().map(|v| ((*v).to_owned(), 1)).collect();
        let stored = Stored { objects: 3, recorded: counts, ..Stored::default() };
        survey.stored.insert("things.example.org".to_owned(), stored);
        let detours: Vec<Detour> = detours
            .iter()
            .map(|versions| Detour { version: (*versions).to_owned(), definitions: vec![wanted(versions)] })
            .collect();
        let plan = plan(&owner, &desired, &Observed::default(), &Policy::default());
        assert_eq!(needs_detour(&plan, &desired, &survey), !to.contains(Definition::of(live).unwrap().storage()));
        let plan = migrate(plan, &desired, &survey, &detours).map_err(|e| e.to_string())?;
        let swept: Vec<&String> = plan.intent.sweep.iter().collect();
        assert_eq!(swept.len(), plan.steps.iter().filter(|s| s.stage() == Stage::Sweep).count());
        let text = |step: &Step| match step {
            Step::Migrate { stage, kind, mixed, .. } => {
                format!("{stage:?} to {}{}", kind.version, if *mixed { ", mixed" } else { "" })
            }
            Step::Apply { stage, reason, .. } => format!("{stage:?} {reason:?}"),
            other => format!("{other:?}"),
        };
        Ok(plan.steps.iter().map(text).collect())
    }

    #[test]
    fn the_way_of_stored_objects_follows_from_the_live_crd() {
        let apply = "Definitions Missing";
        for (live, to, recorded, detours, expected) in [
            // Nothing stands in the way.
            (crd("v1*", &["v1"]), "v1*", &[][..], &[][..], vec![apply]),
            // A version goes that nobody has used: whoever still writes it is swept up after.
            (crd("v1* v1beta2", &["v1"]), "v1*", &[], &[], vec![apply, "Sweep to v1"]),
            // Objects may be stored in it.
            (
                crd("v1* v1beta2", &["v1beta2", "v1"]),
                "v1*",
                &[],
                &[],
                vec!["Migration to v1, mixed", apply, "Sweep to v1"],
            ),
            // Or only their managedFields speak of it.
            (crd("v1* v1beta2", &["v1"]), "v1*", &["v1beta2"], &[], vec!["Migration to v1", apply, "Sweep to v1"]),
            // Another version becomes the stored one, the old one stays: objects are written anew at leisure.
            (crd("v1beta2*", &["v1beta2"]), "v1* v1beta2", &[], &[], vec![apply, "Sweep to v1, mixed"]),
            // What is stored is not known to the wanted one: through one in between.
            (
                crd("v1beta2* v1beta1", &["v1beta1", "v1beta2"]),
                "v1*",
                &[],
                &["v1* v1beta2"],
                vec!["Migration to v1beta2, mixed", "Migration Detour", "Migration to v1, mixed", apply, "Sweep to v1"],
            ),
            // Killed after the CRD in between was applied.
            (
                crd("v1* v1beta2", &["v1beta2", "v1"]),
                "v1*",
                &["v1beta2"],
                &["v1* v1beta2"],
                vec!["Migration to v1, mixed", apply, "Sweep to v1"],
            ),
            // Through two.
            (
                crd("v1beta1*", &["v1beta1"]),
                "v1*",
                &[],
                &["v1beta2* v1beta1", "v1* v1beta2"],
                vec![
                    "Migration Detour",
                    "Migration to v1beta2, mixed",
                    "Migration Detour",
                    "Migration to v1, mixed",
                    apply,
                    "Sweep to v1",
                ],
            ),
        ] {
            assert_eq!(steps(&live, to, recorded, detours).unwrap(), expected, "{live} to {to}");
        }
    }

    #[test]
    fn no_way_is_said_before_anything_is_done() {
        let live = crd("v1beta1*", &["v1beta1"]);
        assert_eq!(
            steps(&live, "v1*", &[], &[]).unwrap_err(),
            "things.example.org stores objects as v1beta1, which the wanted one does not know (it has v1), and the bundle names no version to go through; upgrade to a version in between first"
        );
        assert_eq!(
            steps(&live, "v1*", &[], &["v1* v1beta2"]).unwrap_err(),
            "things.example.org stores objects as v1beta1, which the wanted one does not know (it has v1), and neither do those it can be reached through (v1* v1beta2); upgrade to a version in between first"
        );
    }
}
