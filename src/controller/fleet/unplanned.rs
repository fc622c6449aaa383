//! Says of fleets that nobody plans them. Only an operator without a shard does, and those with one may be all there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::{Resource, ResourceExt};

use super::super::events::{Word, about};
use super::super::{Ctx, GuardedFleet};
use super::readable;
use crate::api::FluxFleet;

/// Time to plan a fleet before somebody says that nobody does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again, in an operator that plans no fleets itself. Never ends.
pub(in crate::controller) async fn watch_unplanned(ctx: Arc<Ctx>) {
    let mut unplanned = Unplanned::default();
    loop {
        tokio::time::sleep(PATIENCE).await;
        for fleet in unplanned.look(&ctx.fleets.state()) {
            let note =
                "nobody plans this fleet: an operator without --shard does that, and none has looked at it".to_owned();
            tracing::warn!(fleet = %fleet.name_any(), "{note}");
            about(&ctx, &fleet.object_ref(&()), vec![Word { warning: true, reason: "NotPlanned", note }]).await;
        }
    }
}

/// Fleets whose status speaks of an older spec, by UID and generation.
#[derive(Default)]
struct Unplanned {
    before: BTreeSet<(String, i64)>,
    said: BTreeSet<(String, i64)>,
}

impl Unplanned {
    /// Those that were so at the last look too, once each.
    fn look(&mut self, fleets: &[Arc<GuardedFleet>]) -> Vec<FluxFleet> {
        let id = |fleet: &FluxFleet| (fleet.uid().unwrap_or_default(), fleet.metadata.generation.unwrap_or_default());
        let is_planned = |fleet: &&FluxFleet| {
            fleet.metadata.deletion_timestamp.is_some()
                || fleet.status.as_ref().and_then(|status| status.observed_generation) == fleet.metadata.generation
        };
        let unplanned: Vec<&FluxFleet> = readable(fleets).filter(|fleet| !is_planned(fleet)).collect();
        let now = unplanned.iter().map(|fleet| id(fleet)).collect();
        let before = std::mem::replace(&mut self.before, now);
        self.said.retain(|said| self.before.contains(said));
        unplanned
            .into_iter()
            .filter(|fleet| before.contains(&id(fleet)) && self.said.insert(id(fleet)))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_nobody_plans_is_said_once() {
        let fleet = |generation: i64, observed: Option<i64>| -> Vec<Arc<GuardedFleet>> {
            let object = serde_json::json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
                "metadata": {"name": "prod", "namespace": "n", "uid": "u", "generation": generation},
                "spec": {"selector": {}, "distribution": {"version": "2.x"}, "stages": [{"name": "all"}]},
                "status": {"observedGeneration": observed},
            });
            vec![Arc::new(serde_json::from_value(object).unwrap())]
        };
        let mut unplanned = Unplanned::default();
        let table = [
            (fleet(1, None), 0, "it has just come"),
            (fleet(1, None), 1, "nobody came"),
            (fleet(1, None), 0, "once"),
            (fleet(1, Some(1)), 0, "somebody came"),
            (fleet(2, Some(1)), 0, "it has just changed"),
            (fleet(2, Some(1)), 1, "and nobody saw it"),
            (fleet(3, Some(1)), 0, "it has just changed again"),
            (fleet(3, Some(3)), 0, "in time"),
            (vec![], 0, "gone"),
        ];
        for (fleets, said, what) in table {
            assert_eq!(unplanned.look(&fleets).len(), said, "{what}");
        }
    }
}
