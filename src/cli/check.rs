//! `headwater check`: what stands in the way of a change, found out by the operator's own preflight.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::found::{Found, find};
use super::{Output, diff, ui};
use crate::api::Enforcement;
use crate::controller::{Checked, Checker};
use crate::plan::preflight::Finding;

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Name of the `FluxInstance` on the hub
    #[arg(required_unless_present = "filename", conflicts_with = "filename")]
    instance: Option<String>,
    /// File with one `FluxInstance`, to check before it is applied; - for standard input
    #[arg(long, short)]
    filename: Option<PathBuf>,
    /// Namespace of the `FluxInstance` [default: that in the file, or of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let Found { hub, namespace, object: instance } = match (&args.instance, &args.filename) {
        (Some(name), _) => find(name, args.namespace.as_ref()).await?,
        (None, Some(filename)) => diff::read(filename, args.namespace).await?,
        (None, None) => bail!("name a FluxInstance, or a file with --filename"),
    };
    ui::talk("looking at bundle, cluster and registries; nothing is written");
    let checked = Checker::new(hub, &namespace).check(&instance).await;
    let checked = checked.map_err(|e| anyhow::anyhow!("{}: {e}", e.reason()))?;
    if args.output == Output::Table {
        page(&checked);
    } else {
        let findings: Vec<_> = checked.report.findings.iter().map(Finding::status).collect();
        let errors = checked.report.errors().count();
        let result = json!({
            "bundle": checked.bundle,
            "kubernetes": checked.cluster.version,
            "plan": checked.plan.summary(),
            "errors": errors,
            "warnings": findings.len() - errors,
            "findings": findings,
        });
        ui::value(&result, args.output)?;
    }
    Ok(ExitCode::from(u8::from(checked.report.errors().next().is_some())))
}

fn page(checked: &Checked) {
    let Checked { cluster, bundle, plan, report } = checked;
    ui::out(format!("bundle   {} ({})", bundle.version, bundle.digest));
    ui::out(format!("cluster  Kubernetes {} (kube-system {})", cluster.version, cluster.uid));
    ui::out(format!("plan     {}", plan.summary()));
    for finding in &report.findings {
        let sign = if finding.severity == Enforcement::Error { "ERROR" } else { "warn " };
        let object = finding.object.as_ref().map(|object| format!("  {object}")).unwrap_or_default();
        ui::out(format!("\n{sign}  {}{object}", finding.rule.name()));
        ui::out(format!("       {}", finding.message));
        ui::out(format!("    -> {}", finding.remedy));
    }
    if !report.findings.is_empty() {
        ui::out("");
    }
    ui::out(format!("result   {}", report.summary()));
}
