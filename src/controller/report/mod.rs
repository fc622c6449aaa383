//! Step 7, client required (hub): what happened becomes status, then events; picks when to look again. What is said is
//! decided in [`status`], which has neither client nor clock.

mod drift;
mod removal;
mod status;

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use serde_json::json;

pub(super) use self::removal::is_abandoned;
use self::removal::{abandoned, held, removed, stuck};
use self::status::{Next, begin, compose, effects, kept};
use super::events::{Word, about, publish, unreadable};
use super::execute::{Executed, Going};
use super::remove::Removal;
use super::{Ctx, FINALIZER, Memory, Run, StepError, revisions, version_of};
use crate::api::condition::{self, Verdict, find, set};
use crate::api::{FluxInstance, FluxInstanceStatus};
use crate::cluster::{ClusterError, with_deadline};
use crate::plan::Plan;
use crate::plan::goal::Goal;
use crate::render::ObjectKey;

/// How often a status is written again because something else of its object has changed.
const ATTEMPTS: usize = 3;
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(300);

/// Puts our finalizer on the instance: nothing is written to a cluster before that.
pub(super) async fn add_finalizer(ctx: &Ctx, instance: &FluxInstance, memory: &mut Memory) -> Result<(), StepError> {
    let mut finalizers = instance.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    memory.written.note(patch_finalizers(ctx, instance, finalizers).await?);
    Ok(())
}

/// Returns the resource version after it.
async fn patch_finalizers(ctx: &Ctx, instance: &FluxInstance, finalizers: Vec<String>) -> Result<u64, StepError> {
    let api = Api::<FluxInstance>::namespaced(ctx.hub.clone(), &ctx.namespace);
    let mut metadata = json!({"finalizers": finalizers, "uid": instance.uid()});
    if finalizers.iter().any(|f| f == FINALIZER) {
        metadata["resourceVersion"] = json!(instance.resource_version());
    }
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let name = instance.name_any();
    let params = PatchParams::default();
    let written = with_deadline(api.patch_metadata(&name, &params, &patch)).await?;
    Ok(version_of(&written))
}

/// Says that a change begins, before its first effect.
pub(super) async fn announce(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    run: &mut Run,
    plan: &Plan,
) -> Result<(), StepError> {
    let old = &run.status;
    let now = Time(Timestamp::now());
    let Some(status) = begin(old, instance.metadata.generation, run, plan, &now) else { return Ok(()) };
    let stored = instance.status.clone().unwrap_or_default();
    write(ctx, instance, memory, &stored, &status).await?;
    let from = old.applied.as_ref().map(|r| r.version.clone());
    if let Some(bundle) = &plan.bundle {
        let note = match from {
            Some(from) if from != bundle.version => {
                format!("from {from} to {} ({}): {}", bundle.version, bundle.digest, plan.summary())
            }
            Some(_) => format!("{} ({}): {}", bundle.version, bundle.digest, plan.summary()),
            None => format!("installing {} ({}): {}", bundle.version, bundle.digest, plan.summary()),
        };
        publish(ctx, instance, vec![Word { warning: false, reason: "Progressing", note }]).await;
    }
    run.status = status;
    Ok(())
}

/// Writes status, then events.
pub(super) async fn report(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    run: &Run,
    result: Result<(), StepError>,
) -> Action {
    // `announce` may have written since.
    let old = memory.written.status(instance).cloned().unwrap_or_default();
    let now = Time(Timestamp::now());
    let (status, mut words, next) = compose(&run.status, instance, run, result.as_ref().err(), &now);
    // Before anybody can rely on it: a good revision is one that can be gone back to.
    if run.goal == Goal::Target
        && let Some(good) = status.last_good.as_ref().filter(|good| old.last_good.as_ref() != Some(*good))
        && let Err(error) = revisions::keep(ctx, instance, &good.config, &status).await
    {
        tracing::warn!(instance = %instance.name_any(), %error, "the good revision could not be kept");
        return Action::requeue(backoff(memory));
    }
    words.extend(effects(run));
    ctx.metrics
        .instance(&instance.name_any(), find(&status.conditions, condition::READY).is_some_and(|c| c.status == "True"));
    if let Err(error) = write(ctx, instance, memory, &old, &status).await {
        tracing::warn!(instance = %instance.name_any(), %error, "status could not be written");
        return Action::requeue(backoff(memory));
    }
    publish(ctx, instance, words).await;
    if run.applied {
        say_kept(ctx, instance, memory, &run.executed.kept).await;
    }
    let pause = match next {
        Next::Backoff if ctx.clusters.wakes(instance) => woken(memory),
        Next::Backoff => {
            let asked = result.as_ref().err().and_then(StepError::retry_after);
            memory.patience = asked.map(|wait| Instant::now() + wait);
            backoff(memory).max(asked.unwrap_or_default())
        }
        Next::Interval | Next::Soon(_) => {
            memory.failures = 0;
            let interval = || jitter(super::resolve::interval(instance).unwrap_or(BACKOFF_LAST));
            let pause = if let Next::Soon(pause) = next { pause } else { interval() };
            [run.drift.wake, run.wake].into_iter().flatten().fold(pause, Duration::min)
        }
    };
    Action::requeue(pause)
}

/// Says what was left on purpose, once for as long as it stays the same.
pub(super) async fn say_kept(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    list: &[(ObjectKey, &'static str)],
) {
    let keys: Vec<ObjectKey> = list.iter().map(|(key, _)| key.clone()).collect();
    if memory.kept != keys {
        memory.kept = keys;
        publish(ctx, instance, kept(list).into_iter().collect()).await;
    }
}

fn backoff(memory: &mut Memory) -> Duration {
    memory.failures = memory.failures.saturating_add(1);
    let factor = 2u32.saturating_pow(memory.failures.saturating_sub(1).min(16));
    jitter(BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_LAST))
}

/// The pause of an instance that is woken when its cluster answers again: the way to the cluster has a back-off of its own.
fn woken(memory: &mut Memory) -> Duration {
    memory.failures = 0;
    jitter(BACKOFF_LAST)
}

/// Ten per cent around, so that a thousand clusters do not march in step.
fn jitter(pause: Duration) -> Duration {
    let nanos = Timestamp::now().subsec_nanosecond().unsigned_abs();
    pause.mul_f64(0.9 + 0.2 * f64::from(nanos % 1_000_000) / 1_000_000.0)
}

/// Reports on a removal; takes the finalizer away when it is done.
pub(super) async fn removal(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    removal: &Result<Removal, StepError>,
) -> Action {
    if !instance.finalizers().iter().any(|f| f == FINALIZER) {
        return Action::await_change();
    }
    let generation = instance.metadata.generation;
    let now = Time(Timestamp::now());
    let old = instance.status.clone().unwrap_or_default();
    let mut status = old.clone();
    let (verdict, pause) = match removal {
        Ok(Removal::Done) => {
            ctx.metrics.forget(&instance.name_any());
            let rest = instance.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
            return match patch_finalizers(ctx, instance, rest).await {
                Ok(_) | Err(StepError::Cluster(ClusterError::NotFound(_))) => Action::await_change(),
                Err(_) => Action::requeue(backoff(memory)),
            };
        }
        Ok(Removal::Waiting(text)) => {
            // What others hold may take days.
            memory.waits = memory.waits.saturating_add(1);
            (Verdict::unknown("Uninstalling", text), Duration::from_secs(if memory.waits < 60 { 1 } else { 10 }))
        }
        Err(error) => {
            tracing::warn!(instance = %instance.name_any(), reason = error.reason(), %error, "removal failed");
            let text = stuck(error, instance);
            if error.is_about_reaching() {
                set(
                    &mut status.conditions,
                    condition::REACHABLE,
                    Verdict::no(error.reason(), error.to_string()),
                    generation,
                    &now,
                );
            }
            let pause = if ctx.clusters.wakes(instance) { woken(memory) } else { backoff(memory) };
            (Verdict::no(error.reason(), text), pause)
        }
    };
    set(
        &mut status.conditions,
        condition::RECONCILING,
        Verdict::yes("Uninstalling", &verdict.message),
        generation,
        &now,
    );
    set(&mut status.conditions, condition::READY, verdict, generation, &now);
    if let Err(error) = write(ctx, instance, memory, &old, &status).await {
        tracing::warn!(instance = %instance.name_any(), %error, "status could not be written");
    }
    Action::requeue(pause)
}

/// Says what a removal has done.
pub(super) async fn say_removed(ctx: &Ctx, instance: &FluxInstance, executed: &Executed) {
    publish(ctx, instance, removed(executed).into_iter().collect()).await;
}

/// Says who holds a removal up.
pub(super) async fn say_held(ctx: &Ctx, instance: &FluxInstance, by: &[Going]) {
    publish(ctx, instance, held(by).into_iter().collect()).await;
}

/// Says what is left behind on a cluster that is let go of.
pub(super) async fn say_abandoned(ctx: &Ctx, instance: &FluxInstance) {
    publish(ctx, instance, vec![abandoned(instance)]).await;
}

/// An object that does not even parse: said on the object itself, and nothing else stops.
pub(super) async fn malformed(ctx: &Ctx, invalid: &InvalidObject) -> Action {
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let text = format!("the object cannot be read: {}; correct or delete it", invalid.error);
    tracing::warn!(instance = %name, error = %invalid.error, "malformed instance");
    let mut conditions = Vec::new();
    let now = Time(Timestamp::now());
    let generation = invalid.metadata.generation;
    set(&mut conditions, condition::READY, Verdict::no("InvalidSpec", &text), generation, &now);
    set(&mut conditions, condition::STALLED, Verdict::yes("InvalidSpec", &text), generation, &now);
    let api = Api::<kube::api::DynamicObject>::namespaced_with(
        ctx.hub.clone(),
        &ctx.namespace,
        &kube::api::ApiResource::erase::<FluxInstance>(&()),
    );
    let patch = Patch::Merge(json!({"metadata": {"uid": invalid.metadata.uid}, "status": {"conditions": conditions}}));
    let Err(error) = with_deadline(api.patch_status(&name, &PatchParams::default(), &patch)).await else {
        return Action::await_change();
    };
    if error.is_transient() {
        return Action::requeue(BACKOFF_FIRST * 10);
    }
    // The server evaluates its rules on the whole object and may refuse even a status: an event is always possible.
    about(ctx, &unreadable::<FluxInstance>(invalid), vec![Word { warning: true, reason: "InvalidSpec", note: text }])
        .await;
    Action::await_change()
}

/// Writes the status if it differs from what is stored, and only over what it was made from: what comes late, from an operator
/// that does not lead any more or has not this shard any more, is refused.
async fn write(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    old: &FluxInstanceStatus,
    new: &FluxInstanceStatus,
) -> Result<(), StepError> {
    let stored = memory.written.status(instance).map(|_| old);
    let change = change(stored, new);
    // A first status has to be written even where it says nothing yet.
    if stored.is_some() && change == json!({}) {
        return Ok(());
    }
    let api = Api::<FluxInstance>::namespaced(ctx.hub.clone(), &ctx.namespace);
    let name = instance.name_any();
    let mut version = memory.written.version(instance);
    let mut attempts = 0..ATTEMPTS;
    loop {
        let mut patch = json!({"status": change});
        patch["metadata"] = json!({"uid": instance.uid(), "resourceVersion": version.to_string()});
        let failure = match with_deadline(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))).await
        {
            Ok(written) => {
                memory.written.note_status(&written);
                return Ok(());
            }
            Err(ClusterError::Conflict(_)) if attempts.next().is_some() => None,
            // Written or not, nobody has said. The watch may tell only after the next pass has begun.
            Err(error) if error.is_unreachable() => Some(error),
            Err(error) => return Err(error.into()),
        };
        // Users change what they want at any time, and that is no matter here.
        let now = with_deadline(api.get(&name)).await?;
        let there = now.status.clone().unwrap_or_default();
        if self::change(Some(&there), new) == json!({}) {
            memory.written.note_status(&now);
            return Ok(());
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
        let since = self::change(stored, &there);
        let ours = change.as_object();
        if ours.is_some_and(|ours| ours.keys().any(|field| since.get(field).is_some())) {
            return Err(ClusterError::Conflict("the status was changed by another operator".to_owned()).into());
        }
        version = version_of(&now);
    }
}

/// What an operator has to write. Compared as it is stored: times have parts of seconds here, and not there. What is admitted is the
/// fleets' to write, and may be newer there than what this pass knows.
fn change(old: Option<&FluxInstanceStatus>, new: &FluxInstanceStatus) -> serde_json::Value {
    let ours = |status: &FluxInstanceStatus| json!(FluxInstanceStatus { admitted: None, ..status.clone() });
    old.map_or_else(|| ours(new), |old| merge_patch(&ours(old), &ours(new)))
}

/// RFC 7396: what turns `old` into `new`; fields that went away become null.
pub(super) fn merge_patch(old: &serde_json::Value, new: &serde_json::Value) -> serde_json::Value {
    let (Some(old), Some(new_map)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch = serde_json::Map::new();
    for (key, value) in new_map {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), merge_patch(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|k| !new_map.contains_key(*k)) {
        patch.insert(key.clone(), serde_json::Value::Null);
    }
    serde_json::Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_never_writes_what_fleets_have_admitted() {
        let status = |value: serde_json::Value| serde_json::from_value::<FluxInstanceStatus>(value).unwrap();
        let admitted = json!({"version": "2.9.4", "digest": "sha256:b", "by": "prod", "at": "2026-01-01T00:00:00Z"});
        let unaware = status(json!({"observedDigest": "sha256:a"}));
        let aware = status(json!({"observedDigest": "sha256:a", "admitted": admitted}));
        for (old, new) in [(&unaware, &aware), (&aware, &unaware)] {
            assert_eq!(change(Some(old), new), json!({}));
            assert_eq!(change(None, new)["admitted"], json!(null));
        }
        let next = status(json!({"observedDigest": "sha256:b"}));
        assert_eq!(change(Some(&aware), &next), json!({"observedDigest": "sha256:b"}));
    }
}
