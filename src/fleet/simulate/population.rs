//! The clusters of a simulation: made up so that every stage has some, or those that there are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use semver::{Op, Version};
use serde_json::json;

use super::super::Rules;
use super::labels::labels;
use super::{Assumptions, Cluster};
use crate::api::{FluxFleet, FluxInstance, Pinned, Selector, condition};
use crate::render::digest;

/// Which clusters take part.
#[derive(Debug, Clone)]
pub enum Clusters {
    /// So many, that each stage gets a share of, later ones more.
    MadeUp(usize),
    /// Those of these instances.
    Real(Vec<FluxInstance>),
}

/// The clusters, before anything has happened.
pub(super) struct Population {
    /// What they are moved to.
    pub(super) target: Pinned,
    /// In the order of their names.
    pub(super) clusters: Vec<Cluster>,
    /// What the simulation cannot know about them.
    pub(super) notes: Vec<String>,
}

pub(super) fn populate(fleet: &FluxFleet, rules: &Rules, assumed: &Assumptions) -> Result<Population, String> {
    match &assumed.clusters {
        Clusters::MadeUp(count) => make_up(fleet, rules, *count, assumed.start),
        Clusters::Real(instances) => take(fleet, instances, assumed.start),
    }
}

fn make_up(fleet: &FluxFleet, rules: &Rules, count: usize, start: Timestamp) -> Result<Population, String> {
    let mut notes = Vec::new();
    let target = target(fleet, &[], &mut notes)?;
    let found: Vec<_> = (0..rules.stages.len()).map(|stage| labels(&fleet.spec, rules, stage)).collect();
    for (stage, _) in rules.stages.iter().zip(&found).filter(|(_, labels)| labels.is_none()) {
        notes.push(format!(
            "no cluster can be in stage {}: stages before it, or spec.selector, leave nothing to it",
            stage.name
        ));
    }
    let usable: Vec<usize> = (0..found.len()).filter(|stage| found[*stage].is_some()).collect();
    if count < usable.len() {
        return Err(format!("{count} clusters are fewer than the {} stages that need one each", usable.len()));
    }
    let mut clusters = Vec::new();
    for (stage, share) in usable.iter().zip(shares(count, &usable)) {
        for _ in 0..share {
            let name = format!("cluster-{:05}", clusters.len() + 1);
            let instance = json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
                "metadata": {"name": name, "labels": found[*stage]},
                "spec": {"distribution": {"version": fleet.spec.distribution.version}, "admission": "Fleet"},
            });
            let instance: FluxInstance = serde_json::from_value(instance).map_err(|error| error.to_string())?;
            clusters.push(Cluster::new(instance, Some(&something()), start));
        }
    }
    Ok(Population { target, clusters, notes })
}

/// What runs where nobody says what does: older than everything.
fn something() -> Pinned {
    Pinned { version: "0.0.1".to_owned(), digest: digest(b"before") }
}

/// How many clusters each stage gets: later stages three times as many as those before, up to a point, but each at least one.
fn shares(clusters: usize, stages: &[usize]) -> Vec<usize> {
    let weights: Vec<usize> =
        (0..stages.len()).map(|place| 3_usize.pow(u32::try_from(place.min(3)).unwrap_or(3))).collect();
    let whole: usize = weights.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = weights.iter().map(|weight| (clusters * weight / whole).max(1)).collect();
    let given: usize = shares.iter().sum();
    if let Some(last) = shares.last_mut() {
        *last = (*last + clusters).saturating_sub(given);
    }
    shares
}

/// The clusters that there are: their labels, what their own specs say, what runs on them, and whether they can be reached.
fn take(fleet: &FluxFleet, instances: &[FluxInstance], start: Timestamp) -> Result<Population, String> {
    let mut notes = Vec::new();
    let is_beside =
        |instance: &&FluxInstance| fleet.namespace().is_none_or(|n| instance.namespace().is_none_or(|i| i == n));
    let beside: Vec<&FluxInstance> = instances.iter().filter(is_beside).collect();
    if beside.len() < instances.len() {
        let namespace = fleet.namespace().unwrap_or_default();
        notes.push(format!("{} instances are not in {namespace} and take no part", instances.len() - beside.len()));
    }
    let target = target(fleet, &beside, &mut notes)?;
    let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
    let mut away = 0;
    for instance in beside {
        let status = instance.status.as_ref();
        // A manifest without a status is from a file: something will run there.
        let runs = match status {
            None => Some(something()),
            Some(status) => status.applied.as_ref().map(|runs| Pinned::of(&runs.version, &runs.digest)),
        };
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let reachable = condition::find(conditions, condition::REACHABLE);
        let mut cluster = Cluster::new(instance.clone(), runs.as_ref(), start);
        cluster.is_away = reachable.is_some_and(|reachable| reachable.status == "False");
        away += usize::from(cluster.is_away);
        if clusters.insert(instance.name_any(), cluster).is_some() {
            return Err(format!(
                "there are two FluxInstances {}; a fleet is about those of one namespace",
                instance.name_any()
            ));
        }
    }
    if away > 0 {
        notes.push(format!("{away} clusters cannot be reached at present, and do not come back in this simulation"));
    }
    Ok(Population { target, clusters: clusters.into_values().collect(), notes })
}

/// What a fleet could mean, for the registry is not asked: what its operator has found; else the newest that runs already; else the lowest
/// version that its spec admits.
fn target(fleet: &FluxFleet, instances: &[&FluxInstance], notes: &mut Vec<String>) -> Result<Pinned, String> {
    let wanted = fleet.spec.distribution.version.trim();
    let wrong = || {
        format!(
            "spec.distribution.version: {wanted:?} must be a version (2.9.4), a range (2.9.x) or a digest (sha256:...)"
        )
    };
    let selector = Selector::read(wanted).ok_or_else(wrong)?;
    let found = fleet.status.iter().filter_map(|status| status.target.as_ref());
    let mut found = found.map(|target| Pinned::of(&target.version, &target.digest));
    let running = instances.iter().filter_map(|instance| instance.status.as_ref()?.applied.as_ref());
    let running = running.map(|runs| Pinned::of(&runs.version, &runs.digest));
    let is_meant = |known: &Pinned| match &selector {
        Selector::Digest(digest) => *digest == known.digest,
        selector => known.version.parse().is_ok_and(|version| selector.admits(&version)),
    };
    let newest = |known: &Pinned| known.version.parse::<Version>().ok();
    if let Some(known) = found.find(&is_meant).or_else(|| running.filter(&is_meant).max_by_key(newest)) {
        return Ok(known);
    }
    let version = lowest(&selector).ok_or_else(wrong)?.to_string();
    if let Selector::Digest(digest) = &selector {
        return Ok(Pinned::of(&version, digest));
    }
    if matches!(selector, Selector::Range(_)) {
        notes.push(format!("{version} stands for what {wanted} will mean: no registry was asked"));
    }
    Ok(Pinned { digest: digest(version.as_bytes()), version })
}

/// The lowest version that is admitted.
fn lowest(selector: &Selector) -> Option<Version> {
    match selector {
        Selector::Exact(version) => Some(version.clone()),
        Selector::Digest(_) => Some(Version::new(1, 0, 0)),
        Selector::Range(ranges) => {
            let low = |c: &semver::Comparator| {
                let patch = c.patch.unwrap_or(0) + u64::from(c.op == Op::Greater);
                Version { pre: c.pre.clone(), ..Version::new(c.major, c.minor.unwrap_or(0), patch) }
            };
            ranges.iter().flat_map(|range| &range.comparators).map(low).find(|version| selector.admits(version))
        }
    }
}
