//! Step 5, client required, no decisions: does what the plan says, in its order, and keeps account of what happened.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};

use super::StepError;
use crate::api::FLUX_NAMESPACE;
use crate::cluster::{Cluster, ClusterError, IN_FLIGHT, InventoryStore};
use crate::plan::health::health;
use crate::plan::{CRD, Desired, Guard, Inventory, Plan, Stage, Step};
use crate::render::{Kind, ObjectKey};

/// Longest wait for CRDs to be established before objects of them are written; the next pass goes on from there.
const ESTABLISH_DEADLINE: Duration = Duration::from_secs(10);

/// What execution left undone.
#[derive(Debug, Default)]
pub(super) struct Executed {
    /// Objects written.
    pub applied: Vec<ObjectKey>,
    /// Objects verified to be gone.
    pub deleted: Vec<ObjectKey>,
    /// Objects that are on their way out.
    pub going: Vec<ObjectKey>,
    /// Objects kept on purpose, and why.
    pub kept: Vec<(ObjectKey, &'static str)>,
}

/// Executes a plan. Whatever happens, what was done is in the inventory when this returns, as far as the cluster can be
/// written to.
pub(super) async fn execute(cluster: &Cluster, plan: &Plan, store: &mut InventoryStore) -> Result<Executed, StepError> {
    let mut done = Executed::default();
    let mut record = plan.intent.clone();
    if plan.is_empty() && record == store.inventory {
        return Ok(done);
    }
    // The inventory lives in a namespace of the plan, so that one object has to come before it. It carries our label from
    // its first moment, so it is known as ours even if we die here.
    let namespace = plan.steps.iter().find_map(|step| match step {
        Step::Apply { object, .. } if object.key.kind == "Namespace" && object.key.name == FLUX_NAMESPACE => {
            Some(object)
        }
        _ => None,
    });
    if let Some(object) = namespace {
        apply_all(cluster, vec![Arc::clone(object)], &mut record, &mut done).await?;
    }
    store.save(cluster, FLUX_NAMESPACE, &record).await?;

    let result = steps(cluster, plan, &mut record, &mut done).await;
    // A namespace on its way out takes the inventory in it along; it is the last to go.
    let namespace_goes =
        done.going.iter().chain(&done.deleted).any(|k| k.kind == "Namespace" && k.name == FLUX_NAMESPACE);
    if namespace_goes {
        return result.map(|()| done);
    }
    let saved = store.save(cluster, FLUX_NAMESPACE, &record).await;
    result?;
    saved?;
    Ok(done)
}

async fn steps(cluster: &Cluster, plan: &Plan, record: &mut Inventory, done: &mut Executed) -> Result<(), StepError> {
    for stage in [Stage::Definitions, Stage::Resources, Stage::Workloads, Stage::CustomResources] {
        let objects: Vec<Arc<Desired>> = plan
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Apply { stage: s, object, .. } if *s == stage && !done.applied.contains(&object.key) => {
                    Some(Arc::clone(object))
                }
                _ => None,
            })
            .collect();
        if objects.is_empty() {
            continue;
        }
        if stage == Stage::CustomResources {
            established(cluster, record).await?;
        }
        apply_all(cluster, objects, record, done).await?;
    }
    delete_all(cluster, plan, record, done).await
}

async fn apply_all(
    cluster: &Cluster,
    objects: Vec<Arc<Desired>>,
    record: &mut Inventory,
    done: &mut Executed,
) -> Result<(), StepError> {
    let writes = objects.into_iter().map(|object| {
        let cluster = cluster.clone();
        async move {
            let answer = cluster.apply(&object).await;
            (object, answer)
        }
    });
    // All in flight are waited for even when one fails: their answers have to be recorded.
    let answers: Vec<_> = stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await;
    let mut failures = Vec::new();
    for (object, answer) in answers {
        match answer {
            Ok(written) => {
                if let Some(entry) = record.entries.get_mut(&object.key) {
                    entry.uid = Some(written.live.uid);
                    entry.resource_version = written.live.resource_version;
                    entry.fields = written.live.fields;
                    entry.digest = Some(object.digest.clone());
                    entry.created |= written.created;
                }
                done.applied.push(object.key.clone());
            }
            Err(error) => failures.push((object.key.clone(), error)),
        }
    }
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    if failures.is_empty() { Ok(()) } else { Err(StepError::Apply(failures)) }
}

/// Waits until the CRDs of the inventory are established: an object of one that is not is refused.
async fn established(cluster: &Cluster, record: &Inventory) -> Result<(), StepError> {
    let wait = async {
        let mut pause = Duration::from_millis(20);
        loop {
            let definitions = cluster.list(&Kind::crd(), FLUX_NAMESPACE).await?;
            let waiting = record.entries.keys().find(|key| {
                key.kind == CRD
                    && !definitions.iter().any(|d| d["metadata"]["name"] == key.name.as_str() && health(d).is_current())
            });
            match waiting {
                None => return Ok(()),
                Some(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    };
    tokio::time::timeout(ESTABLISH_DEADLINE, wait)
        .await
        .unwrap_or(Err(StepError::Cluster(ClusterError::Failed("CRDs are not established yet".to_owned()))))
}

/// Deletions run group by group (all steps of one kind's stage); a group begins when the one before is verified to be gone.
async fn delete_all(
    cluster: &Cluster,
    plan: &Plan,
    record: &mut Inventory,
    done: &mut Executed,
) -> Result<(), StepError> {
    let mut failures = Vec::new();
    let mut group: Option<String> = None;
    for step in &plan.steps {
        let Step::Delete { key, uid, guard, drop_finalizers, kind, .. } = step else {
            if let Step::Forget { key, .. } = step {
                record.entries.remove(key);
            }
            continue;
        };
        let this = format!("{}/{}", kind.group, kind.kind);
        if group.as_ref().is_some_and(|g| *g != this) && (!done.going.is_empty() || !failures.is_empty()) {
            break;
        }
        group = Some(this);
        if let Some(reason) = guard_holds(cluster, *guard, key, record).await? {
            done.kept.push((key.clone(), reason));
            continue;
        }
        match delete(cluster, kind, key, uid, *drop_finalizers).await {
            Ok(true) => {
                record.entries.remove(key);
                done.deleted.push(key.clone());
            }
            Ok(false) => done.going.push(key.clone()),
            Err(error) => failures.push((key.clone(), error)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(StepError::Prune(failures)) }
}

/// `Some(why)` when the object has to stay.
async fn guard_holds(
    cluster: &Cluster,
    guard: Guard,
    key: &ObjectKey,
    record: &Inventory,
) -> Result<Option<&'static str>, StepError> {
    match guard {
        Guard::None => Ok(None),
        Guard::NoObjects => Ok(cluster.has_objects(key, None).await?.then_some("objects of this CRD exist")),
        Guard::OursAndEmpty => {
            for definition in record.entries.keys().filter(|k| k.kind == CRD) {
                if cluster.has_objects(definition, Some(&key.name)).await? {
                    return Ok(Some("objects of the CRDs that were kept live in it"));
                }
            }
            Ok(None)
        }
    }
}

/// Deletes and looks whether it is gone.
async fn delete(
    cluster: &Cluster,
    kind: &Kind,
    key: &ObjectKey,
    uid: &str,
    drop_finalizers: bool,
) -> Result<bool, ClusterError> {
    // Pods have to be gone with their Deployment, else a controller that is being ended still puts finalizers back.
    let foreground = kind.group == "apps";
    cluster.delete(kind, key, uid, foreground).await?;
    if drop_finalizers {
        cluster.drop_finalizers(kind, key, uid).await?;
    }
    for pause in [0, 20, 100] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match cluster.get_live(kind, key).await? {
            Some(live) if live.uid == uid => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}
