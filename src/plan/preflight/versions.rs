//! The rules about versions: Kubernetes, the way from what is installed, and everything about CRDs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Case, Facts, Findings, Rule};
use crate::api::Enforcement;
use crate::plan::crd_safety::{self, Severity};
use crate::plan::migration::NoWay;
use crate::plan::upgrade::{Way, way};
use crate::plan::{CRD, Definition, Desired, Reason, Step};
use crate::render::{Kind, ObjectKey};

/// Names in a sentence before the rest is counted.
const NAMED: usize = 3;

pub(super) fn kubernetes(case: &Case, facts: &Facts, found: &mut Findings) {
    let range = &case.bundle.manifest().kubernetes;
    let minor = |text: &str| {
        let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    };
    let (title, version) = (case.title(), &facts.kubernetes);
    let rule = Rule::KubernetesVersion;
    // A version that cannot be read is no reason to refuse a cluster.
    let Some(is) = minor(version) else {
        found.unknown(rule, None, format!("the API server says that its version is {version:?}, which is none"));
        return;
    };
    if Some(is) < minor(&range.refused_below) {
        found.add(
            rule,
            Enforcement::Error,
            None,
            format!("{title} needs Kubernetes {} or newer, the cluster has {version}", range.refused_below),
            "upgrade the cluster or choose an older bundle with spec.distribution.version",
        );
    } else if Some(is) < minor(&range.minimum) || Some(is) > minor(&range.maximum) {
        found.add(
            rule,
            Enforcement::Warn,
            None,
            format!(
                "{title} is tested with Kubernetes {} to {}, the cluster has {version}",
                range.minimum, range.maximum
            ),
            "it most likely works; choose a bundle made for this Kubernetes where there is one",
        );
    }
}

pub(super) fn path(case: &Case, found: &mut Findings) {
    let Some(installed) = case.installed else { return };
    if let Way::Closed { from } = way(installed, case.bundle) {
        let name = &case.bundle.manifest().name;
        found.add(
            Rule::UpgradePath,
            Enforcement::Error,
            None,
            format!(
                "{name} {installed} is installed, and {} can be reached only from {}",
                case.title(),
                from.join(" or ")
            ),
            "choose a version in between with spec.distribution.version first",
        );
    }
}

/// A CRD that the plan changes.
struct Pair<'a> {
    now: Definition,
    wanted: &'a Arc<Desired>,
    next: Definition,
}

/// The live CRDs that the plan changes, with what takes their place.
fn pairs<'a>(case: &Case<'a>) -> impl Iterator<Item = Pair<'a>> {
    let survey = case.survey;
    let changes = case.plan.steps.iter().filter_map(|step| match step {
        Step::Apply { object, reason: Reason::Missing | Reason::TakenOver | Reason::Changed, .. }
            if object.key.kind == CRD =>
        {
            Some(object)
        }
        _ => None,
    });
    changes.filter_map(move |wanted| {
        let next = wanted.definition.clone()?;
        Some(Pair { now: Definition::of(survey.crds.get(&wanted.key.name)?)?, wanted, next })
    })
}

/// CRDs to compare with the live ones.
pub(super) fn changed(case: &Case) -> Vec<Arc<Desired>> {
    pairs(case).map(|pair| Arc::clone(pair.wanted)).collect()
}

/// What a CRD loses: versions that are served now.
struct Loss {
    kind: Kind,
    crd: ObjectKey,
    versions: BTreeSet<String>,
}

fn losses(case: &Case) -> Vec<Loss> {
    let lost = pairs(case).map(|pair| Loss {
        versions: pair.now.served.difference(&pair.next.served).cloned().collect(),
        kind: pair.now.kind,
        crd: pair.wanted.key.clone(),
    });
    lost.filter(|loss| !loss.versions.is_empty()).collect()
}

/// The migration is planned elsewhere; where there is no way for it, the change cannot be made.
pub(super) fn stored(case: &Case, found: &mut Findings) {
    if let Some(no_way) = case.no_way {
        found.add(
            Rule::StoredVersions,
            Enforcement::Error,
            Some(&Kind::crd().key(None, no_way.crd.clone())),
            no_way.found(),
            NoWay::REMEDY,
        );
    }
}

/// What an object that applies others has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applier {
    /// The object.
    pub key: ObjectKey,
    /// What it has applied.
    pub entries: Vec<Applied>,
}

/// One object that was applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Version, as its manifest says it.
    pub version: String,
    /// `NAMESPACE/NAME`
    pub name: String,
}

/// Kinds whose status has an inventory in the form of `id` and `v`, as Flux writes it: found by their schemas, so that no kind has to be
/// known here. They are looked at where a version goes, in the version that is stored.
pub(super) fn appliers(case: &Case) -> Vec<Kind> {
    if losses(case).is_empty() {
        return Vec::new();
    }
    let keeps_inventory = |crd: &&Value| {
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
        let mut schemas = versions.map(|version| &version["schema"]["openAPIV3Schema"]["properties"]["status"]);
        schemas.any(|status| {
            let entry = &status["properties"]["inventory"]["properties"]["entries"]["items"]["properties"];
            entry["id"].is_object() && entry["v"].is_object()
        })
    };
    let crds = case.survey.crds.values().filter(keeps_inventory);
    crds.filter_map(|crd| Some(Definition::of(crd)?.kind)).collect()
}

/// The inventory in the status of a live object: an id is `NAMESPACE_NAME_GROUP_KIND`.
pub fn applied(object: &Value) -> Vec<Applied> {
    let entries = object.pointer("/status/inventory/entries").and_then(Value::as_array).into_iter().flatten();
    let read = |entry: &Value| {
        let (id, version) = (entry["id"].as_str()?, entry["v"].as_str()?);
        let mut parts = id.rsplitn(3, '_');
        let (kind, group, place) = (parts.next()?, parts.next()?, parts.next()?);
        let (namespace, name) = place.split_once('_')?;
        Some(Applied {
            group: group.to_owned(),
            kind: kind.to_owned(),
            version: version.to_owned(),
            name: if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") },
        })
    };
    entries.filter_map(read).collect()
}

/// Names, a few of them.
fn some(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

pub(super) fn served(case: &Case, facts: &Facts, found: &mut Findings) {
    for Loss { kind, crd, versions } in losses(case) {
        for version in &versions {
            let api = format!("{}/{version}", kind.group);
            for applier in &facts.appliers {
                let is_it = |e: &&Applied| e.group == kind.group && e.kind == kind.kind && e.version == *version;
                let names: Vec<String> =
                    applier.entries.iter().filter(is_it).map(|e| format!("{} {}", e.kind, e.name)).collect();
                if !names.is_empty() {
                    let message = format!(
                        "{} applies {} as {api}, which {} no longer serves: its next apply would fail",
                        applier.key,
                        some(&names),
                        case.title(),
                    );
                    let remedy =
                        "change apiVersion in the source of these manifests first, as `flux migrate -f` does it";
                    found.add(Rule::ServedVersions, Enforcement::Error, Some(&applier.key), message, remedy);
                }
            }
            let stored = case.survey.stored.get(&crd.name);
            if let Some((stored, count)) = stored.and_then(|s| Some((s, s.recorded.get(version).copied()?)))
                && count > 0
            {
                let managers: Vec<String> = stored.managers.iter().cloned().collect();
                let message = format!(
                    "{count} objects of {} have fields that were written as {api}, which {} no longer serves; managers of such \
                     fields are {}",
                    kind.kind,
                    case.title(),
                    some(&managers)
                );
                let remedy = "the objects are written anew before the upgrade; whoever still writes this version has to be changed";
                found.add(Rule::ServedVersions, Enforcement::Warn, Some(&crd), message, remedy);
            }
        }
    }
}

/// Findings of [`crd_safety`], one sentence for each CRD and rule. Versions that go have rules of their own.
pub(super) fn schemas(facts: &Facts, found: &mut Findings) {
    for (name, changes) in &facts.crds {
        let mut groups: BTreeMap<(Rule, Enforcement), Vec<&crd_safety::Finding>> = BTreeMap::new();
        for change in changes.iter().filter(|change| change.severity == Severity::Breaking) {
            use crd_safety::Rule as Kind;
            let class = match change.rule {
                Kind::StoredVersion | Kind::ServedVersion | Kind::Crd => continue,
                Kind::Scope | Kind::Names | Kind::StorageVersion | Kind::Conversion => {
                    (Rule::CrdSchema, Enforcement::Error)
                }
                Kind::Validation => (Rule::Validation, Enforcement::Warn),
                _ => (Rule::CrdSchema, Enforcement::Warn),
            };
            groups.entry(class).or_default().push(change);
        }
        for ((rule, severity), changes) in groups {
            let Some(first) = changes.first() else { continue };
            let more = match changes.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more such changes)"),
            };
            let remedy = match severity {
                Enforcement::Error => "nothing that Headwater may do on its own makes this safe; choose another bundle",
                _ => {
                    "objects that exist stay as they are; compare the bundles with `headwater bundle diff` and correct manifests"
                }
            };
            // The text is the worst there is room for; the count is not to be cut off with it.
            let text = crate::render::cut(&first.to_string(), 440);
            found.add(rule, severity, Some(&Kind::crd().key(None, name.clone())), format!("{text}{more}"), remedy);
        }
    }
}
