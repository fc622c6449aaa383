//! `headwater fleet preflight`: the preflight of every cluster of a stage, for the target of the fleet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use futures::{StreamExt, stream};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::Named;
use super::plan::stage_of;
use super::world::{World, lag, target};
use crate::api::{Admission, Enforcement, FluxFleet, FluxInstance, PreflightFinding, RETRY, ROLLBACK, Target};
use crate::cli::{Output, ui};
use crate::controller::{Checked, Checker};
use crate::fleet::State;
use crate::plan::preflight::Finding;
use crate::render::{did_you_mean, meant};

/// Clusters looked at at once: each look is some forty requests, and a developer's machine is no hub.
const AT_ONCE: usize = 4;

/// Clusters named of those with the same finding.
const NAMES: usize = 5;

#[derive(Args)]
pub(in crate::cli) struct PreflightArgs {
    #[command(flatten)]
    fleet: Named,
    /// Stage whose clusters are looked at [default: the next one that is not done]
    #[arg(long)]
    stage: Option<String>,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: PreflightArgs) -> anyhow::Result<ExitCode> {
    let world = World::look(&args.fleet).await?;
    let fleet = &world.found.object;
    let target = target(fleet)?;
    if let Some(lag) = lag(fleet) {
        ui::talk(format!("note: {lag}"));
    }
    let stage = stage(fleet, args.stage.as_deref())?;
    let members = world.members();
    let plan = world.plan(fleet, &members)?;
    let of_stage: Vec<_> = plan.members.iter().filter(|member| stage_of(fleet, member) == Some(stage)).collect();
    let (meant, left): (Vec<_>, Vec<_>) = of_stage.into_iter().partition(|member| is_meant(&member.state));
    for member in left.iter().filter(|member| !matches!(member.state, State::Done { .. })) {
        ui::talk(format!("{} is not looked at: it {}", member.name, member.state));
    }
    let instances: Vec<&FluxInstance> = meant.iter().map(|member| member.instance).collect();
    ui::talk(format!(
        "looking at {} clusters of stage {stage} for {} ({})",
        instances.len(),
        target.version,
        target.digest
    ));
    let summary = look(&world, &instances, target).await;
    if args.output == Output::Table {
        summary.page(stage, target).into_iter().for_each(ui::out);
    } else {
        ui::value(&summary.value(stage, target), args.output)?;
    }
    Ok(ExitCode::from(u8::from(summary.has_errors())))
}

/// The stage by its name, else the one whose turn it is.
fn stage<'f>(fleet: &'f FluxFleet, name: Option<&'f str>) -> anyhow::Result<&'f str> {
    let all: Vec<&str> = fleet.spec.stages.iter().map(|stage| stage.name.as_str()).collect();
    if let Some(name) = name {
        if !all.contains(&name) {
            let near = did_you_mean(meant(name, all.iter().map(ToString::to_string)));
            bail!("{} has no stage {name} (its stages: {}){near}", fleet.name_any(), all.join(", "));
        }
        return Ok(name);
    }
    let status = fleet.status.iter().flat_map(|status| &status.stages);
    let done: Vec<&str> = status.filter(|stage| stage.lets_by()).map(|stage| stage.name.as_str()).collect();
    let next = all.iter().find(|name| !done.contains(name)).copied();
    next.ok_or_else(|| anyhow!("all stages of {} are done; --stage names one of: {}", fleet.name_any(), all.join(", ")))
}

/// Whether the target is meant for a member that does not have it yet.
fn is_meant(state: &State) -> bool {
    match state {
        State::Moving { .. }
        | State::Failed(_)
        | State::Deferred(_)
        | State::Unknown
        | State::Unchecked
        | State::Waiting(_) => true,
        State::Done { .. }
        | State::Wavering { .. }
        | State::Excluded(_)
        | State::Suspended
        | State::Skipped
        | State::Conflict(_)
        | State::Ungoverned
        | State::Unassigned => false,
    }
}

/// The instance as it would be with the target admitted, and nothing said or remembered of earlier tries.
fn at_target(instance: &FluxInstance, target: &Target) -> FluxInstance {
    let mut instance = instance.clone();
    instance.spec.admission = Admission::Own;
    instance.spec.upgrade.windows.clear();
    instance.spec.distribution.version.clone_from(&target.digest);
    if let Some(annotations) = &mut instance.metadata.annotations {
        annotations.retain(|name, _| name != RETRY && name != ROLLBACK);
    }
    if let Some(status) = &mut instance.status {
        status.held = None;
    }
    instance
}

async fn look(world: &World, instances: &[&FluxInstance], target: &Target) -> Summary {
    let checker = Checker::new(world.found.hub.clone(), &world.found.namespace);
    let checks = instances.iter().map(|instance| {
        let (checker, instance) = (&checker, at_target(instance, target));
        async move { (instance.name_any(), Box::pin(checker.check(&instance)).await) }
    });
    let mut checks = stream::iter(checks).buffer_unordered(AT_ONCE);
    let mut summary = Summary::default();
    let (mut seen, all) = (0, instances.len());
    while let Some((name, ended)) = checks.next().await {
        seen += 1;
        let result = match ended {
            Ok(Checked { report, .. }) => {
                summary.add(&name, report.findings.iter().map(Finding::status).collect());
                report.summary()
            }
            Err(error) => {
                let text = format!("{}: {error}", error.reason());
                summary.unknown.insert(name.clone(), text.clone());
                format!("could not be looked at: {text}")
            }
        };
        ui::talk(format!("{seen}/{all}  {name}  {result}"));
    }
    summary
}

/// What was found, summed up over clusters.
#[derive(Default)]
struct Summary {
    /// Clusters without errors.
    pass: Vec<String>,
    /// What was found, the same on several clusters once.
    found: Vec<Common>,
    /// Clusters that could not be looked at, and why.
    unknown: BTreeMap<String, String>,
}

/// A finding, and all clusters that have it.
#[derive(Serialize)]
struct Common {
    finding: PreflightFinding,
    clusters: BTreeSet<String>,
}

impl Common {
    fn is_error(&self) -> bool {
        self.finding.severity == Enforcement::Error
    }
}

impl Summary {
    fn add(&mut self, name: &str, findings: Vec<PreflightFinding>) {
        if findings.iter().all(|finding| finding.severity != Enforcement::Error) {
            self.pass.push(name.to_owned());
        }
        for finding in findings {
            if let Some(known) = self.found.iter_mut().find(|known| known.finding == finding) {
                known.clusters.insert(name.to_owned());
            } else {
                self.found.push(Common { finding, clusters: BTreeSet::from([name.to_owned()]) });
            }
        }
    }

    fn has_errors(&self) -> bool {
        !self.unknown.is_empty() || self.found.iter().any(Common::is_error)
    }

    /// The worst first, then what is found on most clusters.
    fn findings(&self) -> Vec<&Common> {
        let mut all: Vec<&Common> = self.found.iter().collect();
        all.sort_by_key(|common| (!common.is_error(), Reverse(common.clusters.len())));
        all
    }

    fn page(&self, stage: &str, target: &Target) -> Vec<String> {
        let mut lines = vec![format!("stage    {stage}"), format!("target   {} ({})", target.version, target.digest)];
        for (name, why) in &self.unknown {
            lines.push(format!("\nERROR  {name} could not be looked at: {why}"));
        }
        for common in self.findings() {
            let (finding, names) = (&common.finding, &common.clusters);
            let sign = if common.is_error() { "ERROR" } else { "warn " };
            let object = finding.object.as_ref().map(|object| format!("  {object}")).unwrap_or_default();
            lines.push(format!("\n{sign}  {}{object}", finding.rule));
            lines.push(format!("       {}", finding.message));
            lines.push(format!("    -> {}", finding.remedy));
            let more = names.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let first: Vec<String> = names.iter().take(NAMES).cloned().collect();
            lines.push(format!("       on {}: {}{more}", names.len(), first.join(", ")));
        }
        if lines.len() > 2 {
            lines.push(String::new());
        }
        let all = self.pass.len() + self.refused() + self.unknown.len();
        lines.push(format!(
            "result   {} of {all} pass; refused: {}; could not be looked at: {}",
            self.pass.len(),
            self.refused(),
            self.unknown.len()
        ));
        lines
    }

    /// Clusters with errors.
    fn refused(&self) -> usize {
        let errors = self.found.iter().filter(|common| common.is_error());
        errors.flat_map(|common| &common.clusters).collect::<BTreeSet<_>>().len()
    }

    fn value(&self, stage: &str, target: &Target) -> Value {
        json!({
            "stage": stage, "target": target, "pass": self.pass, "findings": self.findings(), "unknown": self.unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fleet::tests::fleet;

    #[test]
    fn findings_are_summed_up_the_worst_first() {
        let finding = |severity, message: &str| PreflightFinding {
            severity,
            rule: "quota".into(),
            object: None,
            message: message.into(),
            remedy: "raise it".into(),
        };
        let mut summary = Summary::default();
        summary.add("a", vec![]);
        assert!(!summary.has_errors());
        for name in ["g", "b", "c", "d", "e", "f"] {
            summary.add(name, vec![finding(Enforcement::Warn, "is nearly full")]);
        }
        assert!(!summary.has_errors());
        summary.add("x", vec![finding(Enforcement::Error, "is full"), finding(Enforcement::Warn, "is nearly full")]);
        summary.unknown.insert("y".into(), "ClusterUnreachable: no answer".into());
        assert!(summary.has_errors());
        let fleet = fleet();
        insta::assert_snapshot!(summary.page("early", target(&fleet).unwrap()).join("\n"));
    }

    #[test]
    fn the_next_stage_is_the_first_that_is_not_done() {
        let fleet = fleet();
        assert_eq!(stage(&fleet, None).unwrap(), "early");
        assert_eq!(stage(&fleet, Some("rest")).unwrap(), "rest");
        let error = stage(&fleet, Some("late")).unwrap_err().to_string();
        assert_eq!(error, "prod has no stage late (its stages: canary, early, rest)");
        let error = stage(&fleet, Some("cannary")).unwrap_err().to_string();
        assert!(error.ends_with("; did you mean canary?"), "{error}");
    }
}
