//! Step 5, client required, no decisions: does what the plan says, in its order, and keeps account of what happened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::StepError;
use crate::api::FLUX_NAMESPACE;
use crate::cluster::{Cluster, ClusterError, InventoryStore, several};
use crate::plan::health::{Health, health};
use crate::plan::{CRD, Desired, Guard, Inventory, Plan, Reason, Stage, Step, foreign};
use crate::render::kinds::builtin;
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
    pub going: Vec<Going>,
    /// How many objects of which CRD were relieved of finalizers.
    pub released: Vec<(ObjectKey, usize)>,
    /// Objects kept on purpose, and why.
    pub kept: Vec<(ObjectKey, &'static str)>,
    /// Number of the plan's steps that are done.
    pub reached: usize,
    /// What the next step waits for.
    pub waiting: Option<(ObjectKey, Health)>,
}

/// An object that is on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Going {
    /// Which.
    pub key: ObjectKey,
    /// Who holds it: finalizers that neither we nor the server clear.
    pub held_by: Vec<String>,
}

impl fmt::Display for Going {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held_by.as_slice() {
            [] => write!(f, "{}", self.key),
            [one] => write!(f, "{}, which finalizer {one} holds", self.key),
            many => write!(f, "{}, which finalizers {} hold", self.key, many.join(", ")),
        }
    }
}

/// Executes a plan. Whatever happens, what was done is in the inventory when this returns, as far as the cluster can be
/// written to.
pub(super) async fn execute(
    cluster: &Cluster,
    plan: &Plan,
    store: &mut InventoryStore,
) -> (Executed, Result<(), StepError>) {
    let mut done = Executed::default();
    let result = recorded(cluster, plan, store, &mut done).await;
    (done, result)
}

async fn recorded(
    cluster: &Cluster,
    plan: &Plan,
    store: &mut InventoryStore,
    done: &mut Executed,
) -> Result<(), StepError> {
    let mut record = plan.intent.clone();
    if plan.is_empty() && record == store.inventory {
        return Ok(());
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
        apply_all(cluster, plan, vec![(Arc::clone(object), None)], &mut record, done).await?;
    }
    store.save(cluster, FLUX_NAMESPACE, &record).await?;

    let result = steps(cluster, plan, &mut record, done).await;
    // With a CRD goes what a removal would have to know of it: no other pass may come for a long time.
    let Inventory { finalizers, entries, .. } = &mut record;
    finalizers.retain(|of| {
        let crd = Kind::crd().key(None, of.crd.clone());
        entries.contains_key(&crd) || !plan.intent.entries.contains_key(&crd)
    });
    // A namespace on its way out takes the inventory in it along; it is the last to go.
    let namespace_goes = done
        .going
        .iter()
        .map(|going| &going.key)
        .chain(&done.deleted)
        .any(|k| k.kind == "Namespace" && k.name == FLUX_NAMESPACE);
    if namespace_goes {
        return result;
    }
    let saved = store.save(cluster, FLUX_NAMESPACE, &record).await;
    result?;
    Ok(saved?)
}

async fn steps(cluster: &Cluster, plan: &Plan, record: &mut Inventory, done: &mut Executed) -> Result<(), StepError> {
    // Applies of one stage that stand together go out side by side; everything else is a step of its own.
    let mut batch: Vec<(Arc<Desired>, Option<String>)> = Vec::new();
    let mut stage = Stage::Migration;
    // API servers have had time to learn of the CRDs since one was changed.
    let mut rested = false;
    for (index, step) in plan.steps.iter().enumerate() {
        if is_deletion(step) {
            break;
        }
        let is_alone = step.stage() == Stage::Migration || !matches!(step, Step::Apply { .. });
        if is_alone || step.stage() != stage {
            apply_all(cluster, plan, std::mem::take(&mut batch), record, done).await?;
            done.reached = index;
        }
        // What runs already is replaced only when its CRDs answer; what comes for the first time waits for them by itself.
        let needs_definitions = step.stage() == Stage::CustomResources
            || (step.stage() == Stage::Workloads && plan.steps.iter().any(|s| matches!(s, Step::Await { .. })));
        if stage != step.stage() && needs_definitions {
            established(cluster, record).await?;
        }
        stage = step.stage();
        match step {
            Step::Apply { object, .. } if done.applied.contains(&object.key) && stage != Stage::Migration => {}
            Step::Apply { object, replaces, reason, .. } => {
                rested &= object.key.kind != CRD;
                batch.push((Arc::clone(object), replaces.clone()));
                if *reason == Reason::Detour {
                    apply_all(cluster, plan, std::mem::take(&mut batch), record, done).await?;
                    // It is not what is wanted in the end.
                    done.applied.retain(|key| *key != object.key);
                }
            }
            Step::Migrate { key, kind, mixed, .. } => {
                let migrated = cluster.migrate(key, kind, *mixed, !rested).await.map_err(|cause| {
                    StepError::Migration { crd: key.name.clone(), version: kind.version.clone(), cause }
                })?;
                tracing::info!(crd = %key.name, version = %kind.version, objects = migrated.objects, written = migrated.written, "migrated");
                rested |= *mixed;
                if stage == Stage::Sweep {
                    record.sweep.remove(&key.name);
                }
            }
            Step::Detach { key, secrets, .. } => {
                let namespace = key.namespace.as_deref().unwrap_or_default();
                cluster.detach(namespace, secrets).await.map_err(|e| StepError::Apply(vec![(key.clone(), e)]))?;
            }
            Step::Await { keys, .. } => {
                done.waiting = unhealthy(cluster, keys).await?;
                if done.waiting.is_some() {
                    return Ok(());
                }
            }
            Step::Delete { .. } | Step::Release { .. } | Step::Forget { .. } => {}
        }
    }
    apply_all(cluster, plan, batch, record, done).await?;
    done.reached = plan.steps.iter().position(is_deletion).unwrap_or(plan.steps.len());
    delete_all(cluster, plan, record, done).await?;
    done.reached = plan.steps.len();
    Ok(())
}

/// Deletions come after everything else.
fn is_deletion(step: &Step) -> bool {
    matches!(step, Step::Delete { .. } | Step::Release { .. } | Step::Forget { .. })
}

/// The first of some objects that is not healthy, and why.
async fn unhealthy(cluster: &Cluster, keys: &[ObjectKey]) -> Result<Option<(ObjectKey, Health)>, StepError> {
    let mut kinds: Vec<(&str, &str)> = keys.iter().map(|key| (key.group.as_str(), key.kind.as_str())).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut live = Vec::new();
    for (group, kind) in kinds {
        // Only kinds of Kubernetes itself run anything.
        let Some(kind) = builtin(group, "v1", kind) else { continue };
        live.extend(cluster.list(&kind, FLUX_NAMESPACE).await?);
    }
    let judged = keys.iter().map(|key| {
        let found = live.iter().find(|o| o["kind"] == key.kind.as_str() && o["metadata"]["name"] == key.name.as_str());
        (key, found.map_or_else(|| Health::InProgress("is not there".to_owned()), health))
    });
    let mut bad: Vec<_> = judged.filter(|(_, health)| !health.is_current()).collect();
    bad.sort_by_key(|(_, health)| !matches!(health, Health::Failed(_)));
    Ok(bad.into_iter().next().map(|(key, health)| (key.clone(), health)))
}

async fn apply_all(
    cluster: &Cluster,
    plan: &Plan,
    objects: Vec<(Arc<Desired>, Option<String>)>,
    record: &mut Inventory,
    done: &mut Executed,
) -> Result<(), StepError> {
    let writes = objects.into_iter().map(|(object, replaces)| {
        let cluster = cluster.clone();
        async move {
            let answer = async {
                if let Some(adoption) = plan.adoption(&object.key) {
                    cluster.adopt(&object, adoption).await?;
                }
                if let Some(uid) = replaces {
                    make_way(&cluster, &object, &uid).await?;
                }
                cluster.apply(&object).await
            };
            let answer = answer.await;
            (object, answer)
        }
    });
    // All in flight are waited for even when one fails: their answers have to be recorded.
    let mut failures = Vec::new();
    for (object, answer) in several(writes).await {
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

/// Deletes what cannot be changed into what is wanted. Whoever is killed after it finds the object missing, and makes it.
async fn make_way(cluster: &Cluster, object: &Desired, uid: &str) -> Result<(), ClusterError> {
    cluster.delete(&object.kind, &object.key, uid, false).await?;
    for pause in [20, 50, 100, 200, 500, 1000] {
        match cluster.get_live(&object.kind, &object.key).await? {
            Some(live) if live.uid == uid => tokio::time::sleep(Duration::from_millis(pause)).await,
            _ => return Ok(()),
        }
    }
    Err(ClusterError::Conflict("the object that has to make way for it is still being deleted".to_owned()))
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

/// Deletions run group by group (all steps of one kind); a group begins when the one before is verified to be gone.
async fn delete_all(
    cluster: &Cluster,
    plan: &Plan,
    record: &mut Inventory,
    done: &mut Executed,
) -> Result<(), StepError> {
    let mut failures = Vec::new();
    let mut group: Option<String> = None;
    for step in &plan.steps {
        let this = match step {
            Step::Delete { kind, .. } => format!("{}/{}", kind.group, kind.kind),
            Step::Release { .. } => "finalizers".to_owned(),
            _ => group.clone().unwrap_or_default(),
        };
        if group.as_ref().is_some_and(|g| *g != this) && (!done.going.is_empty() || !failures.is_empty()) {
            break;
        }
        match step {
            Step::Apply { .. } | Step::Detach { .. } | Step::Migrate { .. } | Step::Await { .. } => continue,
            Step::Forget { key, .. } => {
                record.entries.remove(key);
                continue;
            }
            Step::Release { key, finalizers } => match cluster.release(key, finalizers).await {
                Ok(0) => {}
                Ok(count) => done.released.push((key.clone(), count)),
                Err(failure) => failures.push(failure),
            },
            Step::Delete { key, uid, guard, pods, kind, .. } => {
                if let Some(reason) = guard_holds(cluster, *guard, key, record).await? {
                    done.kept.push((key.clone(), reason));
                } else {
                    match delete(cluster, kind, key, uid, pods.as_deref()).await {
                        Ok(None) => {
                            record.entries.remove(key);
                            done.deleted.push(key.clone());
                        }
                        Ok(Some(going)) => done.going.push(going),
                        Err(error) => failures.push((key.clone(), error)),
                    }
                }
            }
        }
        group = Some(this);
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

/// Deletes and looks whether it is gone; if not, what is waited for.
async fn delete(
    cluster: &Cluster,
    kind: &Kind,
    key: &ObjectKey,
    uid: &str,
    pods: Option<&str>,
) -> Result<Option<Going>, ClusterError> {
    // Pods have to be gone with their Deployment, else a controller that is being ended still puts finalizers back.
    let foreground = kind.group == "apps";
    let refused = match cluster.delete(kind, key, uid, foreground).await {
        Ok(()) => None,
        // A namespace that is being deleted cannot be deleted again.
        Err(error @ ClusterError::Conflict(_)) => Some(error),
        Err(error) => return Err(error),
    };
    let mut left = None;
    for pause in [0, 20, 100] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        left = cluster.get_live(kind, key).await?.filter(|live| live.uid == uid);
        if left.is_none() {
            break;
        }
    }
    if let (Some(error), Some(live)) = (refused, &left)
        && !live.deleting
    {
        return Err(error);
    }
    if let (Some(pods), Some(namespace)) = (pods, &key.namespace)
        && let Some((key, pod)) = cluster.running_pod(namespace, pods).await?
    {
        return Ok(Some(Going { key, held_by: foreign(&pod.finalizers) }));
    }
    let Some(live) = left else { return Ok(None) };
    if key.kind == CRD
        && let Some((key, held_by)) = cluster.held_object(key).await?
    {
        return Ok(Some(Going { key, held_by }));
    }
    Ok(Some(Going { key: key.clone(), held_by: foreign(&live.finalizers) }))
}
