//! Before the first write of a change, client required, read only: looks at what [`questions`] ask, for [`report`] to judge. A look
//! that fails is said in the report; a cluster that does not answer at all ends the pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::{Ctx, Memory, Run, StepError, owner_of, plan, resolve};
use crate::api::condition::Verdict;
use crate::api::{
    Admission, Enforcement, FLUX_NAMESPACE, FluxInstance, FluxInstanceStatus, Pinned, PreflightFinding, PreflightStatus,
};
use crate::cluster::{Cluster, ClusterError, IN_FLIGHT};
use crate::plan::goal::Goal;
use crate::plan::preflight::{
    Applier, Case, Facts, ImageTrial, Need, Questions, Report, Rule, Trial, applied, questions, report,
};
use crate::plan::{BundleRef, Desired, Plan, Survey, crd_safety};
use crate::registry::{Access, Address, RegistryError, Repository};
use crate::render::images::parse;
use crate::render::{Kind, ObjectKey, digest, kinds};

/// A namespace in which nobody has a role of their own: what is allowed there is allowed on the whole cluster. It need not exist.
const ANYWHERE: &str = "headwater-anywhere";

/// A registry that takes longer keeps a change waiting for a look that only warns.
const IMAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Pairs of CRDs kept; a fleet in the middle of an upgrade needs those of one pair of bundles or two.
const KEPT: usize = 64;

/// What is known of pairs of CRDs, by the digests of both: the clusters of a fleet mostly have the same.
#[derive(Default)]
pub struct Compared(Mutex<VecDeque<((String, String), Changes)>>);

type Changes = Arc<Vec<crd_safety::Finding>>;

impl Compared {
    fn get(&self, live: &Value, wanted: &Desired) -> Changes {
        let of_live = serde_json::to_vec(&(&live["spec"], &live["status"]["storedVersions"])).unwrap_or_default();
        let id = (digest(&of_live), wanted.digest.clone());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = lock().iter().find(|(known, _)| *known == id) {
            return Arc::clone(known);
        }
        // What was rendered is JSON.
        let next: Value = serde_json::from_slice(&wanted.body).unwrap_or_default();
        let changes = Arc::new(crd_safety::compare(live, &next));
        let mut kept = lock();
        kept.push_back((id, Arc::clone(&changes)));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        changes
    }
}

/// Looks and judges.
pub(super) async fn look(
    ctx: &Ctx,
    instance: &FluxInstance,
    cluster: &Cluster,
    case: &Case<'_>,
) -> Result<Report, StepError> {
    let Questions { rights, tries, appliers, quotas, priority_classes, images, crds } = questions(case);
    let (rights, trials, appliers, quotas, classes, images) = tokio::join!(
        denied(cluster, rights),
        attempts(cluster, tries),
        inventories(cluster, appliers),
        quotas_of(cluster, quotas),
        missing_classes(cluster, priority_classes),
        look_for(ctx, instance, images),
    );
    let mut facts = Facts { kubernetes: cluster.version.clone(), trials: trials?, images, ..Facts::default() };
    let unknown = &mut facts.unknown;
    facts.denied = known(unknown, Rule::Permissions, "what the account may do", rights)?;
    facts.appliers = known(unknown, Rule::ServedVersions, "what Kustomizations and the like have applied", appliers)?;
    facts.quotas = known(unknown, Rule::Quota, "the resource quotas", quotas)?;
    facts.missing_classes = known(unknown, Rule::Quota, "the priority classes", classes)?;
    for wanted in crds {
        if let Some(live) = case.survey.crds.get(&wanted.key.name) {
            facts.crds.insert(wanted.key.name.clone(), ctx.compared.get(live, &wanted));
        }
    }
    Ok(report(case, &facts))
}

/// A look that failed is said; a cluster that does not answer is another matter.
fn known<T: Default>(
    unknown: &mut Vec<(Rule, String)>,
    rule: Rule,
    what: &str,
    answer: Result<T, ClusterError>,
) -> Result<T, StepError> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) if error.is_unreachable() || matches!(error, ClusterError::Unauthorized) => Err(error.into()),
        Err(error) => {
            unknown.push((rule, format!("{what} could not be looked at: {error}")));
            Ok(T::default())
        }
    }
}

/// What the account may not do. Two questions answer for all rights where rights are roles; what these do not show, another authority
/// may still allow, and is asked one by one.
async fn denied(cluster: &Cluster, needs: Vec<Need>) -> Result<Vec<Need>, ClusterError> {
    if needs.is_empty() {
        return Ok(Vec::new());
    }
    let (here, anywhere) = tokio::try_join!(cluster.granted(FLUX_NAMESPACE), cluster.granted(ANYWHERE))?;
    let is_shown = |need: &Need| {
        let is_here = need.subject.namespace.as_deref() == Some(FLUX_NAMESPACE);
        anywhere.allows(need) || (is_here && here.allows(need))
    };
    let asked = needs.into_iter().filter(|need| !is_shown(need)).map(|need| {
        let cluster = cluster.clone();
        async move { cluster.may(&need).await.map(|may| (may, need)) }
    });
    let answers: Result<Vec<_>, ClusterError> = stream::iter(asked).buffered(IN_FLIGHT).try_collect().await;
    Ok(answers?.into_iter().filter_map(|(may, need)| (!may).then_some(need)).collect())
}

async fn attempts(cluster: &Cluster, objects: Vec<Arc<Desired>>) -> Result<Vec<(ObjectKey, Trial)>, StepError> {
    let asked = objects.into_iter().map(|object| {
        let cluster = cluster.clone();
        async move { Ok((object.key.clone(), cluster.attempt(&object).await?)) }
    });
    stream::iter(asked).buffered(IN_FLIGHT).try_collect().await
}

async fn inventories(cluster: &Cluster, kinds: Vec<Kind>) -> Result<Vec<Applier>, ClusterError> {
    let mut found = Vec::new();
    for kind in kinds {
        let visit = |object: &Value| {
            let key = kind.key_of(&object["metadata"]);
            found.push(Applier { key, entries: applied(object) });
        };
        cluster.each(&kind, None, visit).await?;
    }
    Ok(found)
}

async fn quotas_of(cluster: &Cluster, is_asked: bool) -> Result<Vec<Value>, ClusterError> {
    let mut found = Vec::new();
    if let Some(kind) = kinds::builtin("", "v1", "ResourceQuota").filter(|_| is_asked) {
        cluster.each(&kind, Some(FLUX_NAMESPACE), |quota| found.push(quota.clone())).await?;
    }
    Ok(found)
}

async fn missing_classes(cluster: &Cluster, names: BTreeSet<String>) -> Result<BTreeSet<String>, ClusterError> {
    let Some(kind) = kinds::builtin("scheduling.k8s.io", "v1", "PriorityClass") else { return Ok(BTreeSet::new()) };
    let mut missing = BTreeSet::new();
    for name in names {
        if cluster.get_live(&kind, &kind.key(None, name.clone())).await?.is_none() {
            missing.insert(name);
        }
    }
    Ok(missing)
}

/// Looks for images, as far as the hub may.
async fn look_for(ctx: &Ctx, instance: &FluxInstance, images: BTreeSet<String>) -> BTreeMap<String, ImageTrial> {
    if images.is_empty() {
        return BTreeMap::new();
    }
    let access = match resolve::access(ctx, &instance.spec.distribution).await {
        Ok(access) => Access { timeout: IMAGE_PATIENCE, ..access },
        Err(error) => {
            let unknown = || ImageTrial::Unknown(error.to_string());
            return images.into_iter().map(|image| (image, unknown())).collect();
        }
    };
    let own = instance.spec.distribution.artifact.as_deref().and_then(|artifact| Address::parse(artifact).ok());
    let asked = images.into_iter().map(|image| {
        let (access, own) = (&access, own.as_ref());
        async move {
            let trial = look_for_one(ctx, access, own, &image).await;
            (image, trial)
        }
    });
    stream::iter(asked).buffer_unordered(IN_FLIGHT).collect().await
}

async fn look_for_one(ctx: &Ctx, access: &Access, own: Option<&Address>, image: &str) -> ImageTrial {
    let unknown = |why: &dyn std::fmt::Display| ImageTrial::Unknown(why.to_string());
    let Some(reference) = parse(image) else { return unknown(&"it is not HOST[:PORT]/PATH[:TAG][@DIGEST]") };
    let address = match Address::parse(&reference.repository) {
        Ok(address) => address,
        Err(error) => return unknown(&error),
    };
    // Where bundles may not come from, the operator asks for nothing else either.
    if let Err(error) = ctx.bundles.demands().check_place(&address) {
        return unknown(&error);
    }
    // Plain HTTP and the client certificate are meant for the registry of the bundles alone.
    let is_own = own.is_some_and(|own| own.registry == address.registry);
    let access = if is_own { access.clone() } else { Access { insecure: false, identity: None, ..access.clone() } };
    let wanted = reference.digest.or(reference.tag).unwrap_or_else(|| "latest".to_owned());
    let looked = async { Repository::new(&address, &access)?.find_digest(&wanted).await };
    let looked = tokio::time::timeout(IMAGE_PATIENCE * 2, looked).await;
    let silent = || RegistryError::Failed { registry: address.registry.clone(), cause: "does not answer".to_owned() };
    match looked.unwrap_or_else(|_| Err(silent())) {
        Ok(Some(_)) => ImageTrial::Found,
        Ok(None) => ImageTrial::Missing,
        Err(error) => unknown(&error),
    }
}

/// What a preflight leads to.
pub(super) struct Outcome {
    /// For the status.
    pub(super) status: PreflightStatus,
    /// For the condition.
    pub(super) verdict: Verdict,
}

/// Before the first write of a change that has not begun: errors stop it, and `run` learns what was found. A way back is not stopped:
/// what it leads to ran before, and what it leads away from is broken.
pub(super) async fn before(
    ctx: &Ctx,
    instance: &FluxInstance,
    prepared: &plan::Prepared,
    run: &mut Run,
) -> Result<(), StepError> {
    let desired = &prepared.desired;
    let attempted = run.status.attempted.as_ref();
    let has_begun = attempted.is_some_and(|r| r.digest == desired.bundle.digest && r.config == desired.config);
    if run.goal == Goal::Target && prepared.survey.is_some() && !has_begun {
        let report = Box::pin(judge(ctx, instance, prepared)).await?;
        let refusal = report.refusal(&instance.name_any());
        let verdict = match &refusal {
            None => Verdict::yes("PreflightPassed", report.summary()),
            Some(refusal) => Verdict::no("PreflightFailed", &refusal.text),
        };
        run.preflight = Some(Outcome { status: report.status(desired, instance.metadata.generation), verdict });
        refusal.map_or(Ok(()), |refusal| Err(StepError::Preflight(refusal)))?;
    }
    prepared.no_way.clone().map_or(Ok(()), |error| Err(error.into()))
}

/// Whether a candidate has to be looked at: the cluster can be, nothing is waited for, and it has not passed yet with this spec. What was
/// left broken, or goes wrong again and again, is no reason not to look: what comes next may be what helps.
pub(super) fn is_due(instance: &FluxInstance, run: &Run, result: &Result<(), StepError>, candidate: &Pinned) -> bool {
    let is_idle = match result {
        Ok(()) => !instance.spec.suspend && run.executed.waiting.is_none(),
        Err(error) => !error.is_about_reaching() && !error.is_doubtful(),
    };
    let found = run.status.preflight.as_ref().filter(|found| found.digest == candidate.digest);
    let has_passed = found.is_some_and(|found| {
        found.generation == instance.metadata.generation
            && found.findings.iter().all(|finding| finding.severity != Enforcement::Error)
    });
    is_idle && !has_passed
}

/// Looks at what stands in the way of a bundle that the fleet is about to admit; writes nothing. That it cannot even be planned is a
/// finding too.
pub(super) async fn candidate(
    ctx: &Ctx,
    instance: &FluxInstance,
    memory: &mut Memory,
    candidate: &Pinned,
) -> Result<Outcome, StepError> {
    let mut there = instance.clone();
    there.spec.admission = Admission::Own;
    there.spec.upgrade.windows.clear();
    there.spec.distribution.version.clone_from(&candidate.digest);
    let status = FluxInstanceStatus { held: None, ..instance.status.clone().unwrap_or_default() };
    let mut run = Run { status, ..Run::default() };
    let judged = async {
        let prepared = Box::pin(plan::prepare(ctx, &there, &owner_of(instance), memory, &mut run)).await?;
        let report = Box::pin(judge(ctx, &there, &prepared)).await;
        let desired = Arc::clone(&prepared.desired);
        memory.inventory = Some(prepared.store);
        Ok::<_, StepError>((report?, desired))
    };
    let generation = instance.metadata.generation;
    match judged.await {
        Ok((report, desired)) => {
            let verdict = match report.refusal(&instance.name_any()) {
                None => Verdict::yes("PreflightPassed", format!("{}: {}", candidate.version, report.summary())),
                Some(refusal) => Verdict::no("PreflightFailed", format!("{}: {}", candidate.version, refusal.text)),
            };
            Ok(Outcome { status: report.status(&desired, generation), verdict })
        }
        Err(error) if error.is_transient() || error.is_about_reaching() => Err(error),
        Err(error) => {
            let finding = PreflightFinding {
                severity: Enforcement::Error,
                rule: error.reason().to_owned(),
                object: None,
                message: crate::api::condition::cut(error.to_string()),
                remedy: "put right what is named".to_owned(),
            };
            let verdict = Verdict::no("PreflightFailed", format!("{}: {error}", candidate.version));
            let config = run.config.unwrap_or_default();
            let digest = candidate.digest.clone();
            Ok(Outcome {
                status: PreflightStatus { digest, generation, config, findings: vec![finding], more: 0 },
                verdict,
            })
        }
    }
}

async fn judge(ctx: &Ctx, instance: &FluxInstance, prepared: &plan::Prepared) -> Result<Report, StepError> {
    let nothing = Survey::default();
    let survey = prepared.survey.as_ref().unwrap_or(&nothing);
    let recorded = prepared.observed.inventory.bundle.as_ref().map(|bundle| bundle.version.as_str());
    let installed = recorded.and_then(|version| semver::Version::parse(version).ok()).or_else(|| survey.installed());
    let case = Case {
        bundle: &prepared.resolved.bundle,
        settings: &super::render::settings(&instance.spec),
        desired: &prepared.desired,
        plan: &prepared.plan,
        installed: installed.as_ref(),
        no_way: prepared.no_way.as_ref(),
        survey,
        rules: &instance.spec.upgrade.preflight,
    };
    look(ctx, instance, &prepared.cluster, &case).await
}

/// What a check found, and of what.
pub struct Checked {
    /// The cluster.
    pub cluster: Cluster,
    /// The bundle.
    pub bundle: BundleRef,
    /// What would be done.
    pub plan: Plan,
    /// What stands in the way.
    pub report: Report,
}

/// Checks clusters. What it learns of bundles and CRDs for one is known for the next.
pub struct Checker(Ctx);

impl Checker {
    /// One that knows nothing yet.
    pub fn new(hub: Client, namespace: &str) -> Self {
        Self(Ctx::aside(hub, namespace))
    }

    /// Makes the plan and looks at what stands in its way, whether it has begun or not; writes nothing.
    pub async fn check(&self, instance: &FluxInstance) -> Result<Checked, StepError> {
        let ctx = &self.0;
        resolve::interval(instance)?;
        let (mut memory, mut run) = (Memory::default(), Run::begin(instance));
        ctx.clusters.connect(instance).await;
        let prepared = Box::pin(plan::prepare(ctx, instance, &owner_of(instance), &mut memory, &mut run)).await?;
        let report = Box::pin(judge(ctx, instance, &prepared)).await?;
        Ok(Checked { cluster: prepared.cluster, bundle: prepared.desired.bundle.clone(), plan: prepared.plan, report })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::ArtifactError;
    use crate::plan::health::Health;

    #[test]
    fn a_candidate_is_looked_at_unless_the_cluster_cannot_be_or_something_is_on_its_way() {
        let instance = |suspend: bool| -> FluxInstance {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance", "metadata": {"name": "a", "generation": 3},
                "spec": {"suspend": suspend, "distribution": {"version": "2.x"}},
            }))
            .unwrap()
        };
        let settled = || Run { applied: true, ..Run::default() };
        // `upgrade.onFailure: Hold`, and a way back that was refused: stopped before a step that never became healthy.
        let left_broken = || Run { goal: Goal::Stay, ..Run::default() };
        let mut waiting = Run::default();
        let key = Kind::crd().key(None, "x".to_owned());
        waiting.executed.waiting = Some((key, Health::InProgress("0 of 1".to_owned())));
        let forbidden = || ClusterError::Forbidden("patch roles".to_owned());
        let silent = ClusterError::Unreachable("no route".to_owned());
        let table = vec![
            ("settled", false, settled(), Ok(()), true),
            ("suspended", true, settled(), Ok(()), false),
            ("left broken", false, left_broken(), Ok(()), true),
            ("something is on its way", false, waiting, Ok(()), false),
            ("nothing admitted", false, Run::default(), Err(StepError::AwaitingAdmission), true),
            ("a right is missing", false, Run::default(), Err(StepError::Cluster(forbidden())), true),
            (
                "its bundle is gone",
                false,
                Run::default(),
                Err(StepError::Artifact(ArtifactError::NoMatch("2.8.8".to_owned()))),
                true,
            ),
            ("silence", false, Run::default(), Err(StepError::Cluster(silent)), false),
            ("who are you", false, Run::default(), Err(StepError::Contact(forbidden())), false),
            ("it fails", false, Run::default(), Err(StepError::Cluster(ClusterError::Failed("?".to_owned()))), false),
        ];
        let candidate = Pinned { version: "2.9.4".to_owned(), digest: "sha256:b".to_owned() };
        for (what, suspend, run, result, due) in table {
            assert_eq!(is_due(&instance(suspend), &run, &result, &candidate), due, "{what}");
        }
        let mut passed = settled();
        passed.status.preflight = Some(PreflightStatus {
            digest: candidate.digest.clone(),
            generation: Some(3),
            config: "c".to_owned(),
            findings: Vec::new(),
            more: 0,
        });
        assert!(!is_due(&instance(false), &passed, &Ok(()), &candidate), "once");
    }
}
