//! A fleet with all that its plan is made from, as the operator sees it.

use anyhow::{anyhow, bail};
use jiff::Timestamp;
use kube::ResourceExt;

use super::Named;
use crate::api::{FluxFleet, FluxInstance, Selector, Target};
use crate::cli::found::Found;
use crate::fleet::{self, FleetPlan, Input, Other};

/// A fleet and its namespace.
pub(super) struct World {
    /// The fleet.
    pub(super) found: Found<FluxFleet>,
    /// All instances of its namespace.
    pub(super) instances: Vec<FluxInstance>,
    others: Vec<Other>,
}

impl World {
    /// Reads all of it.
    pub(super) async fn look(named: &Named) -> anyhow::Result<Self> {
        let found = named.find().await?;
        let instances = found.all::<FluxInstance>().await?;
        let fleets = found.all::<FluxFleet>().await?;
        let others = fleets.iter().filter(|fleet| fleet.name_any() != named.name);
        let others = others.filter_map(|fleet| {
            let selector = fleet.spec.selector.clone().try_into().ok()?;
            Some(Other { name: fleet.name_any(), selector })
        });
        let others = others.collect();
        Ok(Self { found, instances, others })
    }

    /// The instances as a plan wants them.
    pub(super) fn members(&self) -> Vec<&FluxInstance> {
        self.instances.iter().collect()
    }

    /// The operator's own plan for now. The fleet may be a changed copy of the one that was found.
    pub(super) fn plan<'a>(
        &'a self,
        fleet: &'a FluxFleet,
        instances: &'a [&'a FluxInstance],
    ) -> anyhow::Result<FleetPlan<'a>> {
        // Since when the operator looks is not known here: as if it always had.
        let (now, since) = (Timestamp::now(), Timestamp::UNIX_EPOCH);
        let input = Input { fleet, resolved: None, instances, others: &self.others, now, since };
        fleet::plan(&input).map_err(|error| anyhow!("the fleet cannot be planned: {error}"))
    }
}

/// The target that the operator has recorded.
pub(super) fn target(fleet: &FluxFleet) -> anyhow::Result<&Target> {
    let Some(target) = fleet.status.as_ref().and_then(|s| s.target.as_ref()) else {
        bail!(
            "{} has no target yet: the operator has not found {:?} in its repository; the condition Resolved says why (kubectl describe fluxfleet {})",
            fleet.name_any(),
            fleet.spec.distribution.version,
            fleet.name_any()
        );
    };
    Ok(target)
}

/// What of the spec the status does not know yet.
pub(super) fn lag(fleet: &FluxFleet) -> Option<String> {
    let status = fleet.status.as_ref()?;
    let target = status.target.as_ref()?;
    let wanted = &fleet.spec.distribution.version;
    let is_meant = match Selector::read(wanted) {
        Some(Selector::Digest(digest)) => digest == target.digest,
        Some(selector) => target.version.parse().is_ok_and(|version| selector.admits(&version)),
        None => true,
    };
    if !is_meant {
        return Some(format!(
            "the spec asks for {wanted:?}, which the operator has not resolved yet: this is about {}, the target until then",
            target.version
        ));
    }
    let is_behind = status.observed_generation != fleet.metadata.generation;
    is_behind.then(|| "the operator has not seen the newest spec yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fleet::tests::fleet;

    #[test]
    fn a_spec_that_is_ahead_of_the_status_is_told() {
        let mut fleet = fleet();
        assert_eq!(lag(&fleet), None);
        fleet.metadata.generation = Some(8);
        assert_eq!(lag(&fleet).unwrap(), "the operator has not seen the newest spec yet");
        fleet.spec.distribution.version = "2.10.x".into();
        assert!(
            lag(&fleet).unwrap().contains("\"2.10.x\", which the operator has not resolved yet: this is about 2.9.4")
        );
        fleet.status = None;
        assert!(target(&fleet).unwrap_err().to_string().contains("has no target yet"));
    }
}
