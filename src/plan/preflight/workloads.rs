//! The rules about what is to run: quotas and priority classes, images, command lines.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Case, Facts, Findings, ImageTrial, Rule};
use crate::api::bundle::Component;
use crate::api::{Enforcement, FLUX_NAMESPACE};
use crate::plan::{Desired, Reason, Stage, stage_of};
use crate::render::{ImageUse, ObjectKey, images as images_of, nearest};

/// Priority classes of this prefix are part of Kubernetes: they are there, but a cluster may limit them to namespaces with a quota.
const CRITICAL: &str = "system-";

/// A workload that the plan writes.
struct Workload {
    key: ObjectKey,
    reason: Reason,
    body: Value,
}

impl Workload {
    fn pod(&self) -> &Value {
        &self.body["spec"]["template"]["spec"]
    }

    fn containers(&self) -> impl Iterator<Item = &Value> {
        let list = |field: &str| self.pod()[field].as_array().map(Vec::as_slice).unwrap_or_default();
        list("initContainers").iter().chain(list("containers"))
    }

    fn priority_class(&self) -> Option<&str> {
        self.pod()["priorityClassName"].as_str()
    }

    fn replicas(&self) -> f64 {
        self.body["spec"]["replicas"].as_f64().unwrap_or(1.0)
    }

    /// What one pod takes of a resource that quotas count.
    fn takes(&self, resource: &str) -> f64 {
        let (field, name) = match resource {
            "pods" | "count/pods" => return 1000.0,
            "cpu" | "memory" => ("requests", resource),
            _ => match resource.split_once('.') {
                Some((field @ ("requests" | "limits"), name)) => (field, name),
                _ => return 0.0,
            },
        };
        let containers = self.pod()["containers"].as_array().into_iter().flatten();
        containers.filter_map(|c| quantity(c["resources"][field][name].as_str()?)).sum()
    }
}

fn value(object: &Desired) -> Value {
    // What was rendered is JSON.
    serde_json::from_slice(&object.body).unwrap_or_default()
}

fn workloads(case: &Case) -> Vec<Workload> {
    case.applies()
        .filter(|(object, reason)| stage_of(&object.kind) == Stage::Workloads && *reason != Reason::Drifted)
        .map(|(object, reason)| Workload { key: object.key.clone(), reason, body: value(object) })
        .collect()
}

/// A number as Kubernetes writes it (`100m`, `64Mi`, `2`) in thousandths, which add up without rounding.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
    ];
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)));
    let (number, factor) = suffix.unwrap_or((text, &1.0));
    number.parse::<f64>().ok().map(|number| (number * factor * 1000.0).round())
}

pub(super) fn asks_for_quotas(case: &Case) -> bool {
    let is_made = case.applies().any(|(object, reason)| {
        object.key.kind == "Namespace" && object.key.name == FLUX_NAMESPACE && reason == Reason::Missing
    });
    !is_made && !workloads(case).is_empty()
}

pub(super) fn priority_classes(case: &Case) -> BTreeSet<String> {
    let workloads = workloads(case);
    let named = workloads.iter().filter_map(Workload::priority_class);
    named.filter(|class| !class.starts_with(CRITICAL)).map(str::to_owned).collect()
}

/// The priority classes a quota is about; none means all pods. `Err` for a quota of another scope, of which nothing is said.
fn classes(quota: &Value) -> Result<Option<BTreeSet<&str>>, ()> {
    let spec = &quota["spec"];
    let expressions = spec["scopeSelector"]["matchExpressions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if spec["scopes"].as_array().is_some_and(|scopes| !scopes.is_empty()) {
        return Err(());
    }
    let mut classes = None;
    for expression in expressions {
        if expression["scopeName"] != "PriorityClass" || expression["operator"] != "In" {
            return Err(());
        }
        let values = expression["values"].as_array().into_iter().flatten();
        classes = Some(values.filter_map(Value::as_str).collect());
    }
    Ok(classes)
}

pub(super) fn judge_quotas(case: &Case, facts: &Facts, found: &mut Findings) {
    if Rule::Quota.is_off(case.rules) {
        return;
    }
    let workloads = workloads(case);
    for workload in &workloads {
        if let Some(class) = workload.priority_class().filter(|class| facts.missing_classes.contains(*class)) {
            let message = format!("{} has priority class {class}, which the cluster does not have", workload.key);
            let remedy = "create the class, or take it out with spec.kustomize.patches";
            found.add(Rule::Quota, Enforcement::Error, Some(&workload.key), message, remedy);
        }
    }
    let wanted: Vec<Value> =
        case.desired.objects.iter().filter(|o| o.key.kind == "ResourceQuota").map(|o| value(o)).collect();
    critical(&workloads, &wanted, facts, found);
    for quota in &facts.quotas {
        // Those of the bundle are about to be what it wants them to be.
        if !wanted.iter().any(|own| own["metadata"]["name"] == quota["metadata"]["name"]) {
            used_up(&workloads, quota, found);
        }
    }
}

/// Some clusters take pods of critical priority only in namespaces where a quota speaks of them.
fn critical(workloads: &[Workload], wanted: &[Value], facts: &Facts, found: &mut Findings) {
    let mut missing: BTreeMap<&str, Vec<&ObjectKey>> = BTreeMap::new();
    for workload in workloads {
        let Some(class) = workload.priority_class().filter(|class| class.starts_with(CRITICAL)) else { continue };
        let speaks_of_it =
            |quota: &Value| classes(quota).is_ok_and(|classes| classes.is_some_and(|classes| classes.contains(class)));
        if !wanted.iter().chain(&facts.quotas).any(speaks_of_it) {
            missing.entry(class).or_default().push(&workload.key);
        }
    }
    for (class, keys) in missing {
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        found.add(
            Rule::Quota,
            Enforcement::Warn,
            None,
            format!(
                "{} have priority class {class}, and no ResourceQuota in {FLUX_NAMESPACE} speaks of it: clusters that limit it \
                 create none of their pods",
                names.join(", ")
            ),
            "leave the quota of the bundle in, or take the priority class out with spec.kustomize.patches",
        );
    }
}

fn used_up(workloads: &[Workload], quota: &Value, found: &mut Findings) {
    let Ok(classes) = classes(quota) else { return };
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let key = ObjectKey {
        group: String::new(),
        kind: "ResourceQuota".to_owned(),
        namespace: Some(FLUX_NAMESPACE.to_owned()),
        name: name.to_owned(),
    };
    let concerned: Vec<&Workload> = workloads
        .iter()
        .filter(|w| {
            classes.as_ref().is_none_or(|classes| w.priority_class().is_some_and(|class| classes.contains(class)))
        })
        .collect();
    let hard = quota["status"]["hard"].as_object().or(quota["spec"]["hard"].as_object()).into_iter().flatten();
    for (resource, most) in hard {
        let amount = |value: &Value| value.as_str().and_then(quantity);
        let Some(limit) = amount(most) else { continue };
        let used = amount(&quota["status"]["used"][resource]).unwrap_or(0.0);
        let new: f64 =
            concerned.iter().filter(|w| w.reason == Reason::Missing).map(|w| w.replicas() * w.takes(resource)).sum();
        // A rolling update starts the new pod beside the old one.
        let beside = concerned
            .iter()
            .filter(|w| w.reason != Reason::Missing && w.body["spec"]["strategy"]["type"] != "Recreate")
            .map(|w| w.takes(resource))
            .fold(0.0, f64::max);
        let left = limit - used;
        let (severity, what) = if new > left {
            (Enforcement::Error, "the pods of this change do not fit in")
        } else if new + beside > left {
            (Enforcement::Warn, "a new pod does not fit in beside the old one: the rollout waits until one is gone")
        } else {
            continue;
        };
        let text = |value: &Value| value.as_str().unwrap_or("0").to_owned();
        let (is, most) = (text(&quota["status"]["used"][resource]), text(most));
        found.add(
            Rule::Quota,
            severity,
            Some(&key),
            format!("{key} has {is} of {most} {resource} in use, and {what}"),
            "raise the quota, or lower what the controllers ask for with spec.cluster.size or spec.kustomize.patches",
        );
    }
}

/// Images to look for: those of workloads that change, and those that they start at run time. Makers' own registries are not asked
/// unless the spec says so: they are there, they count who asks, and a hub may have no way to them.
pub(super) fn images(case: &Case) -> BTreeSet<String> {
    let is_of_makers = |image: &str| {
        let components = &case.bundle.manifest().components;
        components.iter().any(|c| image.strip_prefix(c.registry.as_str()).is_some_and(|rest| rest.starts_with('/')))
    };
    let all = case.rules.images.is_some();
    let workloads = workloads(case);
    let uses = uses(case);
    let started = uses.iter().filter(|image| {
        let component = case.bundle.manifest().components.iter().find(|c| c.name == image.component);
        component.is_some_and(|c| c.image != image.name) && workloads.iter().any(|w| w.key.name == image.component)
    });
    let written = workloads.iter().flat_map(Workload::containers).filter_map(|c| c["image"].as_str());
    let written = written.chain(started.map(|image| image.written.as_str()));
    written.filter(|image| all || !is_of_makers(image)).map(str::to_owned).collect()
}

fn uses(case: &Case) -> Vec<ImageUse> {
    // What could not be rendered would not have come here.
    images_of(case.bundle, case.settings).unwrap_or_default()
}

pub(super) fn judge_images(facts: &Facts, found: &mut Findings) {
    for (image, trial) in &facts.images {
        match trial {
            ImageTrial::Found => {}
            ImageTrial::Missing => found.add(
                Rule::Images,
                Enforcement::Error,
                None,
                format!("image {image} is not in its registry: pods that use it would not start"),
                "mirror it (`headwater bundle images` lists all), or correct spec.distribution.registry or images",
            ),
            ImageTrial::Unknown(why) => {
                found.unknown(Rule::Images, None, format!("image {image} could not be looked for: {why}"));
            }
        }
    }
}

/// A controller ends at once when it does not know a flag or a feature gate.
pub(super) fn judge_flags(case: &Case, found: &mut Findings) {
    let uses = uses(case);
    for workload in workloads(case) {
        let components = &case.bundle.manifest().components;
        let Some(component) = components.iter().find(|c| c.name == workload.key.name && !c.flags.is_empty()) else {
            continue;
        };
        let own = uses.iter().find(|image| image.component == component.name && image.name == component.image);
        let is_single = workload.containers().count() == 1;
        let is_its = |container: &&Value| {
            is_single || own.is_some_and(|own| container["image"].as_str().is_some_and(|i| i == own.written))
        };
        for container in workload.containers().filter(is_its).filter(|c| c["command"].is_null()) {
            let args = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
            args.for_each(|arg| judge_argument(case, &workload.key, component, arg, found));
        }
    }
}

fn judge_argument(case: &Case, key: &ObjectKey, component: &Component, argument: &str, found: &mut Findings) {
    let Some(flag) = argument.strip_prefix("--") else { return };
    let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
    let mut unknown = |what: &str, word: &str, near: Option<String>| {
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        found.add(
            Rule::Flags,
            Enforcement::Error,
            Some(key),
            format!("{key} has {what} {word}, which {} of {} does not know{hint}", component.name, case.title()),
            "correct or remove the patch in spec.kustomize.patches that adds it",
        );
    };
    if !component.flags.contains_key(name) {
        unknown("flag", &format!("--{name}"), nearest(name, component.flags.keys().cloned()));
    } else if name == "feature-gates" {
        let gates = value.split(',').filter_map(|gate| gate.split_once('=')).map(|(gate, _)| gate.trim());
        for gate in gates.filter(|gate| !component.feature_gates.contains_key(*gate)) {
            unknown("feature gate", gate, nearest(gate, component.feature_gates.keys().cloned()));
        }
    }
}
