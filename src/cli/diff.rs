//! `headwater diff`: the operator's own plan, printed instead of executed.

use std::path::Path;
use std::process::ExitCode;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::found::Found;
use super::{DiffArgs, Output, file, ui};
use crate::api::FluxInstance;
use crate::cluster::{Cluster, Gate, connect, hub_config, with_deadline};
use crate::controller::preview;
use crate::plan::takeover::{Adoption, Tool};
use crate::plan::{Plan, Reason, Step, Treatment};
use crate::render::{ObjectKey, yaml};

pub(super) async fn run(args: DiffArgs) -> anyhow::Result<ExitCode> {
    let Found { hub, namespace, object: instance } = read(&args.filename, args.namespace.clone()).await?;
    let preview =
        Box::pin(preview(hub, &instance, &namespace)).await.map_err(|e| anyhow::anyhow!("{}: {e}", e.reason()))?;
    let plan = &preview.plan;
    if args.output != Output::Table {
        ui::value(plan, args.output)?;
        return Ok(exit(plan.is_empty()));
    }
    let bundle = &preview.desired.bundle;
    ui::out(format!("bundle   {} ({})", bundle.version, bundle.digest));
    ui::out(format!("cluster  Kubernetes {} (kube-system {})", preview.cluster.version, preview.cluster.uid));
    for step in &plan.steps {
        ui::out(line(plan, step));
        if let Step::Apply { reason: Reason::Changed | Reason::Drifted | Reason::TakenOver, object, .. } = step
            && args.fields
        {
            fields(&preview.cluster, object).await?;
        }
    }
    for drift in plan.drifted.iter().filter(|drift| drift.treatment == Treatment::Warn) {
        ui::out(format!("! {drift}  (left so: spec.drift.mode is Warn)"));
    }
    if let Some(blocked) = &plan.blocked {
        for key in &blocked.deletions {
            ui::out(format!("- {key}  (waits for a word)"));
        }
    }
    ui::out(format!("plan     {}", plan.summary()));
    ui::out(format!("digest   {}", plan.digest()));
    Ok(exit(plan.is_empty()))
}

fn taken_from(adoption: Option<&Adoption>) -> String {
    let from: Vec<String> = adoption.iter().flat_map(|a| &a.from).map(ToString::to_string).collect();
    if from.is_empty() {
        "  (was there before us)".to_owned()
    } else {
        format!("  (taken over from {})", from.join(", "))
    }
}

fn detached(release: &Tool, left: &[ObjectKey]) -> String {
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    let and = if left.is_empty() {
        String::new()
    } else {
        format!("; of it stays, and belongs to nobody: {}", left.join(", "))
    };
    format!("  ({release}: Helm will not find it any more{and})")
}

/// A step as people read it.
fn line(plan: &Plan, step: &Step) -> String {
    let (sign, key, why) = match step {
        Step::Apply { object, replaces: Some(_), .. } => {
            ('±', &object.key, "  (deleted and created anew: a field of it cannot be changed)".to_owned())
        }
        Step::Apply { reason: Reason::Missing, object, .. } => ('+', &object.key, String::new()),
        Step::Apply { reason: Reason::TakenOver, object, adoption, .. } => {
            ('^', &object.key, taken_from(adoption.as_ref()))
        }
        Step::Apply { reason: Reason::Changed, object, .. } => ('~', &object.key, String::new()),
        Step::Apply { reason: Reason::Drifted, object, .. } => {
            let by = plan.drifted.iter().find(|drift| drift.key == object.key).and_then(|drift| drift.by.as_deref());
            ('!', &object.key, format!("  (changed by {})", by.unwrap_or("somebody else")))
        }
        Step::Apply { reason: Reason::Detour, object, .. } => {
            ('~', &object.key, "  (of a version in between, so that objects can be migrated)".to_owned())
        }
        Step::Detach { key, release, left, .. } => ('^', key, detached(release, left)),
        Step::Migrate { key, kind, .. } => ('>', key, format!("  (objects written anew as {})", kind.version)),
        Step::Delete { key, .. } => ('-', key, String::new()),
        Step::Release { key, finalizers } => {
            ('-', key, format!("  (finalizers of its objects: {})", finalizers.join(", ")))
        }
        Step::Forget { key, reason, .. } => ('?', key, format!("  (no longer ours: {reason})")),
        Step::Await { keys, .. } => {
            let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
            return format!(". wait until healthy: {}", names.join(", "));
        }
    };
    format!("{sign} {key}{why}")
}

fn exit(unchanged: bool) -> ExitCode {
    ExitCode::from(u8::from(!unchanged))
}

/// The instance of a file, as it would be on the hub. The API server knows all rules and defaults: a dry run tells the same text that
/// `kubectl apply` would.
pub(super) async fn read(filename: &Path, namespace: Option<String>) -> anyhow::Result<Found<FluxInstance>> {
    let mut instance = file::one_of::<FluxInstance>(filename)?;
    let config = hub_config().await?;
    let in_file = instance["metadata"]["namespace"].as_str().map(str::to_owned);
    let namespace = namespace.or(in_file).unwrap_or_else(|| config.default_namespace.clone());
    let hub = connect(&config, &Gate::open())?;
    let name = instance["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    instance["metadata"]["namespace"] = namespace.clone().into();
    let api = Api::<FluxInstance>::namespaced(hub.clone(), &namespace);
    let params = PatchParams { dry_run: true, ..PatchParams::apply("headwater-diff").force().validation_strict() };
    let object = with_deadline(api.patch(&name, &params, &Patch::Apply(&instance))).await?;
    Ok(Found { hub, namespace, object })
}

async fn fields(cluster: &Cluster, object: &crate::plan::Desired) -> anyhow::Result<()> {
    let live = cluster.get(&object.kind, &object.key).await?.unwrap_or(Value::Null);
    let merged = cluster.dry_run(object).await?;
    let text = |mut value: Value| {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            for noise in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
                metadata.remove(noise);
            }
        }
        if let Some(map) = value.as_object_mut() {
            map.remove("status");
        }
        yaml::emit(&value)
    };
    let (before, after) = (text(live)?, text(merged)?);
    let diff = similar::TextDiff::from_lines(&before, &after);
    for line in diff.unified_diff().context_radius(2).to_string().lines() {
        ui::out(format!("    {line}"));
    }
    Ok(())
}
