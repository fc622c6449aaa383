//! Which instances a fleet is about: those that it selects, and those that are to be looked at for what it is about to admit.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt};

use super::policy::Rules;
use crate::api::{Admission, FluxFleet, FluxInstance, Pinned, StageState};

/// The fleets that select an instance, by their place among those given.
pub fn selecting<'f>(instance: &FluxInstance, fleets: impl Iterator<Item = &'f FluxFleet>) -> Vec<&'f FluxFleet> {
    let nothing = BTreeMap::new();
    let labels = instance.metadata.labels.as_ref().unwrap_or(&nothing);
    let selects = |fleet: &&FluxFleet| Selector::try_from(fleet.spec.selector.clone()).is_ok_and(|s| s.matches(labels));
    fleets.filter(selects).collect()
}

/// The bundle that an instance is to be looked at for, since its fleet is about to admit it: the target, once the stages before its own are done.
pub fn asked(instance: &FluxInstance, fleet: &FluxFleet) -> Option<Pinned> {
    Question::of(fleet)?.is_for(instance).cloned()
}

/// What a fleet asks its instances, with its rules read once for all of them.
pub struct Question {
    rules: Rules,
    target: Pinned,
    /// Names of the stages whose turn has come.
    stages: BTreeSet<String>,
}

impl Question {
    /// Of a fleet, if it asks anything.
    pub fn of(fleet: &FluxFleet) -> Option<Self> {
        let status = fleet.status.as_ref()?;
        let target = status.target.as_ref()?;
        let is_held = status.held.as_ref().is_some_and(|held| held.digest == target.digest);
        let begun = status.stages.iter().filter(|stage| !is_held && stage.state != StageState::Pending);
        let stages: BTreeSet<String> = begun.map(|stage| stage.name.clone()).collect();
        if stages.is_empty() {
            return None;
        }
        let rules = Rules::read(&fleet.spec).ok()?;
        Some(Self { rules, target: Pinned::of(&target.version, &target.digest), stages })
    }

    /// The bundle that an instance of the fleet is asked about, if it is asked.
    pub fn is_for(&self, instance: &FluxInstance) -> Option<&Pinned> {
        let nothing = BTreeMap::new();
        let labels = instance.metadata.labels.as_ref().unwrap_or(&nothing);
        let admitted = instance.status.as_ref().and_then(|status| status.admitted.as_ref());
        if instance.spec.admission != Admission::Fleet || admitted.is_some_and(|a| a.digest == self.target.digest) {
            return None;
        }
        let stage = &self.rules.stages[self.rules.stage_of(labels)?];
        self.stages.contains(&stage.name).then_some(&self.target)
    }
}
