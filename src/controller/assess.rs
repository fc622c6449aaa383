//! Step 6, client required, read only: is what was applied healthy? Read after the apply, judged at the object's own
//! generation, and asked for only when its resource version is not the one already judged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Memory, StepError};
use crate::api::{ComponentStatus, FLUX_NAMESPACE};
use crate::cluster::Cluster;
use crate::plan::health::{Health, health};
use crate::plan::{CRD, Inventory, Observed, Stage, stage_of};
use crate::render::ObjectKey;

/// Verdict on one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Assessment {
    /// CRDs and workloads that are not as they should be.
    pub controllers: Vec<(ObjectKey, Health)>,
    /// Source and Kustomization that are not ready; `None` when there is no sync.
    pub sync: Option<Vec<(ObjectKey, Health)>>,
    /// Controllers and their images.
    pub components: Vec<ComponentStatus>,
}

/// What was seen of one object, and at which resource version.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    resource_version: u64,
    health: Health,
    image: Option<String>,
}

/// Judgements by object.
pub(super) type Judgements = BTreeMap<ObjectKey, Judged>;

/// Looks at everything that can be healthy or not.
pub(super) async fn assess(
    cluster: &Cluster,
    inventory: &Inventory,
    observed: &Observed,
    memory: &mut Memory,
) -> Result<Assessment, StepError> {
    let judged: Vec<_> = inventory
        .entries
        .iter()
        .filter(|(key, entry)| {
            key.kind == CRD || matches!(stage_of(&entry.kind), Stage::Workloads | Stage::CustomResources)
        })
        .collect();

    let mut ask = BTreeSet::new();
    for (key, entry) in &judged {
        let now = memory
            .mirror
            .as_ref()
            .and_then(|m| m.get(key))
            .or_else(|| observed.live.get(*key).cloned())
            .map(|live| live.resource_version)
            .filter(|rv| *rv >= entry.resource_version);
        if now.is_none() || memory.judgements.get(*key).map(|j| j.resource_version) != now {
            ask.insert(entry.kind.clone());
        }
    }
    for kind in &ask {
        let objects = cluster.list(kind, FLUX_NAMESPACE).await?;
        memory.judgements.retain(|key, _| key.group != kind.group || key.kind != kind.kind);
        for object in &objects {
            let key = kind.key_of(&object["metadata"]);
            memory.judgements.insert(key, judge(object));
        }
    }

    let mut assessment = Assessment::default();
    for (key, entry) in judged {
        let judged = memory.judgements.get(key).cloned().unwrap_or_else(|| Judged {
            resource_version: 0,
            health: Health::InProgress("is not there".to_owned()),
            image: None,
        });
        if let Some(image) = judged.image {
            let ready = judged.health.is_current();
            assessment.components.push(ComponentStatus { name: key.name.clone(), image, ready });
        }
        let is_sync = stage_of(&entry.kind) == Stage::CustomResources;
        if is_sync {
            assessment.sync.get_or_insert_default();
        }
        if !judged.health.is_current() {
            let list = if is_sync { assessment.sync.get_or_insert_default() } else { &mut assessment.controllers };
            list.push((key.clone(), judged.health));
        }
    }
    Ok(assessment)
}

fn judge(object: &Value) -> Judged {
    Judged {
        resource_version: object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0),
        health: health(object),
        image: images(object),
    }
}

fn images(workload: &Value) -> Option<String> {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array()?;
    let images: Vec<&str> = containers.iter().filter_map(|c| c["image"].as_str()).collect();
    Some(images.join(", "))
}

/// One sentence about what is not healthy: the first failure, else the first that is on its way.
pub(super) fn sentence(unhealthy: &[(ObjectKey, Health)]) -> Option<(bool, String)> {
    let failed = unhealthy.iter().find(|(_, h)| matches!(h, Health::Failed(_)));
    let (key, health) = failed.or(unhealthy.first())?;
    let (is_failed, why) = match health {
        Health::Failed(why) => (true, why),
        Health::InProgress(why) => (false, why),
        Health::Current => return None,
    };
    let more = match unhealthy.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    Some((is_failed, format!("{key}: {why}{more}")))
}
