//! What is looked at only before a change, client required, read only: see [`Survey`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::StepError;
use crate::api::FLUX_NAMESPACE;
use crate::cluster::{Cluster, ClusterError, IN_FLIGHT};
use crate::plan::replace::is_replaceable;
use crate::plan::{CRD, Definition, Desired, DesiredSet, Foreign, Plan, Reason, Step, Stored, Survey, live_of};
use crate::render::{Kind, ObjectKey};

/// Looks at what the steps of a plan would meet.
pub(super) async fn survey(cluster: &Cluster, desired: &DesiredSet, plan: &Plan) -> Result<Survey, StepError> {
    let mut survey = Survey::default();
    foreign(cluster, plan, &mut survey).await?;
    survey.others = cluster.others(&survey.foreign).await?;
    definitions(cluster, desired, plan, &mut survey).await?;
    survey.refused = refused(cluster, plan, &survey).await?;
    Ok(survey)
}

/// What would be refused, of objects that exist and may be created anew.
async fn refused(
    cluster: &Cluster,
    plan: &Plan,
    survey: &Survey,
) -> Result<BTreeMap<ObjectKey, (String, String)>, StepError> {
    let mut tries = Vec::new();
    for step in &plan.steps {
        let Step::Apply { object, reason, .. } = step else { continue };
        let foreign = survey.foreign.get(&object.key).map(|foreign| foreign.live.uid.clone());
        let ours = || plan.intent.entries.get(&object.key).and_then(|entry| entry.uid.clone());
        let uid = foreign.or_else(|| (*reason == Reason::Changed).then(ours).flatten());
        if let Some(uid) = uid.filter(|_| is_replaceable(&object.key)) {
            tries.push((Arc::clone(object), uid));
        }
    }
    let tries = tries.into_iter().map(|(object, uid): (Arc<Desired>, String)| {
        let cluster = cluster.clone();
        async move {
            match cluster.dry_run(&object).await {
                Err(ClusterError::Invalid(refusal)) => Ok(Some((object.key.clone(), (uid, refusal)))),
                // Whatever else there is to say is said when it is done.
                Ok(_) | Err(_) => Ok::<_, StepError>(None),
            }
        }
    });
    let found: Vec<_> = stream::iter(tries).buffer_unordered(IN_FLIGHT).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Objects that are there although our label does not tell.
async fn foreign(cluster: &Cluster, plan: &Plan, survey: &mut Survey) -> Result<(), StepError> {
    let missing: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Apply { reason: Reason::Missing, object, .. } => Some(object),
            _ => None,
        })
        .collect();
    let mut kinds: Vec<Kind> = missing.iter().map(|object| object.kind.clone()).collect();
    kinds.sort();
    kinds.dedup();
    let (namespaced, of_cluster): (Vec<Kind>, Vec<Kind>) = kinds.into_iter().partition(|kind| kind.namespaced);
    let mut found = metadata(cluster, of_cluster).await?;
    let is_namespace = |key: &ObjectKey| key.kind == "Namespace" && key.name == FLUX_NAMESPACE;
    let is_new = missing.iter().any(|object| is_namespace(&object.key)) && !found.keys().any(is_namespace);
    if !is_new {
        found.extend(metadata(cluster, namespaced).await?);
    }
    found.retain(|key, _| missing.iter().any(|object| object.key == *key));
    survey.foreign =
        found.into_iter().map(|(key, metadata)| (key, Foreign { live: live_of(&metadata), metadata })).collect();
    Ok(())
}

/// Metadata of all objects of some kinds.
async fn metadata(cluster: &Cluster, kinds: Vec<Kind>) -> Result<BTreeMap<ObjectKey, Value>, StepError> {
    let lists = kinds.into_iter().map(|kind| {
        let cluster = cluster.clone();
        async move {
            let list = cluster.list_metadata(&kind, kind.namespaced.then_some(FLUX_NAMESPACE)).await?;
            Ok::<_, StepError>((kind, list))
        }
    });
    let lists: Vec<_> = stream::iter(lists).buffer_unordered(IN_FLIGHT).try_collect().await?;
    let keyed =
        |(kind, list): (Kind, Vec<Value>)| list.into_iter().map(move |metadata| (kind.key_of(&metadata), metadata));
    Ok(lists.into_iter().flat_map(keyed).collect())
}

/// CRDs that would change or are kept although the bundle has older ones, and what is stored of those that lose a version.
async fn definitions(
    cluster: &Cluster,
    desired: &DesiredSet,
    plan: &Plan,
    survey: &mut Survey,
) -> Result<(), StepError> {
    let changes = |step: &Step| matches!(step, Step::Apply { object, .. } if object.key.kind == CRD);
    if !plan.steps.iter().any(changes) && plan.intent.sweep.is_empty() && !plan.keeps_definitions {
        return Ok(());
    }
    let all = desired.objects.iter().filter(|object| object.key.kind == CRD);
    // Collected: a borrowing iterator must not live across an await.
    let looked: Vec<_> = all
        .filter(|object| {
            let is_new = plan.steps.iter().any(
                |step| matches!(step, Step::Apply { reason: Reason::Missing, object: o, .. } if o.key == object.key),
            );
            !is_new || survey.foreign.contains_key(&object.key)
        })
        .cloned()
        .collect();
    let reads = looked.into_iter().map(|object: Arc<Desired>| {
        let cluster = cluster.clone();
        async move {
            let live = cluster.get(&Kind::crd(), &object.key).await?;
            Ok::<_, StepError>((object, live))
        }
    });
    let reads: Vec<_> = stream::iter(reads).buffer_unordered(IN_FLIGHT).try_collect().await?;

    let mut counted = Vec::new();
    for (object, live) in reads {
        let Some(live) = live else { continue };
        if let (Some(now), Some(next)) = (Definition::of(&live), &object.definition)
            && (now.loses_versions(next) || plan.intent.sweep.contains(&now.name))
            && !plan.keeps_definitions
        {
            counted.push(now);
        }
        survey.crds.insert(object.key.name.clone(), live);
    }
    let counts = counted.into_iter().map(|definition: Definition| {
        let cluster = cluster.clone();
        async move {
            let objects = cluster.list_metadata(&definition.kind, None).await?;
            Ok::<_, StepError>((definition.name.clone(), stored(&definition, &objects)))
        }
    });
    survey.stored = stream::iter(counts).buffer_unordered(2).try_collect().await?;
    Ok(())
}

fn stored(definition: &Definition, objects: &[Value]) -> Stored {
    let mut stored = Stored { objects: objects.len(), ..Stored::default() };
    let storage = definition.kind.api_version();
    for metadata in objects {
        let fields = metadata["managedFields"].as_array().into_iter().flatten();
        let others: Vec<&Value> = fields.filter(|entry| entry["apiVersion"] != storage.as_str()).collect();
        let versions: BTreeSet<&str> =
            others.iter().filter_map(|e| e["apiVersion"].as_str()?.rsplit('/').next()).collect();
        for version in versions {
            *stored.recorded.entry(version.to_owned()).or_default() += 1;
        }
        stored.managers.extend(others.iter().filter_map(|e| Some(e["manager"].as_str()?.to_owned())));
    }
    stored
}
