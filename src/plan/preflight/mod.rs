//! What stands in the way of a change, found out before its first write. Pure: [`questions`] says what has to be looked at for the
//! rules that are not off, `controller/preflight.rs` looks, and [`report`] judges what it saw.
//!
//! What is so already does not count: CRDs are held against the live ones, and only objects that the plan writes are tried.

mod rights;
#[cfg(test)]
mod tests;
mod versions;
mod workloads;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;
use serde::Serialize;
use serde_json::Value;

use super::migration::NoWay;
use super::{Desired, DesiredSet, Plan, Reason, Step, Survey, crd_safety};
use crate::api::condition::{MESSAGE_LIMIT, cut, cut_to};
use crate::api::{Enforcement, Preflight, PreflightFinding, PreflightStatus};
use crate::render::{Bundle, Kind, ObjectKey, Settings};

pub use rights::{Granted, Need, Subject};
pub use versions::{Applied, Applier, applied};

/// Findings kept in the status; the rest is counted.
const KEPT: usize = 20;

/// What is looked at. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Rule {
    /// The cluster's Kubernetes and the bundle.
    KubernetesVersion,
    /// The way from what is installed.
    UpgradePath,
    /// What the account may do.
    Permissions,
    /// Versions in which objects are stored.
    StoredVersions,
    /// Versions that others still write.
    ServedVersions,
    /// Schemas and definitions of CRDs.
    CrdSchema,
    /// CEL rules of CRDs.
    Validation,
    /// Whether objects are accepted.
    Invalid,
    /// Who else keeps an object.
    ForeignOwners,
    /// Fields that others own.
    FieldConflicts,
    /// Whether pods can be created.
    Quota,
    /// Whether images are there.
    Images,
    /// Command lines of controllers.
    Flags,
}

impl Rule {
    /// As `spec.upgrade.preflight` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubernetesVersion => "kubernetesVersion",
            Self::UpgradePath => "upgradePath",
            Self::Permissions => "permissions",
            Self::StoredVersions => "storedVersions",
            Self::ServedVersions => "servedVersions",
            Self::CrdSchema => "crdSchema",
            Self::Validation => "validation",
            Self::Invalid => "invalid",
            Self::ForeignOwners => "foreignOwners",
            Self::FieldConflicts => "fieldConflicts",
            Self::Quota => "quota",
            Self::Images => "images",
            Self::Flags => "flags",
        }
    }

    /// What the spec says of it.
    fn of(self, rules: &Preflight) -> Option<Enforcement> {
        match self {
            Self::KubernetesVersion => rules.kubernetes_version,
            Self::UpgradePath => rules.upgrade_path,
            Self::Permissions => rules.permissions,
            Self::StoredVersions => rules.stored_versions,
            Self::ServedVersions => rules.served_versions,
            Self::CrdSchema => rules.crd_schema,
            Self::Validation => rules.validation,
            Self::Invalid => rules.invalid,
            Self::ForeignOwners => rules.foreign_owners,
            Self::FieldConflicts => rules.field_conflicts,
            Self::Quota => rules.quota,
            Self::Images => rules.images,
            Self::Flags => rules.flags,
        }
    }

    fn is_off(self, rules: &Preflight) -> bool {
        self.of(rules) == Some(Enforcement::Off)
    }
}

/// Something that stands in the way of a change, or may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Whether it stops the change.
    pub severity: Enforcement,
    /// Which rule found it.
    pub rule: Rule,
    /// The object it is about.
    pub object: Option<ObjectKey>,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that weighs most.
    pub rule: Rule,
    /// What was found, and what to do about it.
    pub text: String,
}

/// All that was found, the worst first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Errors, then warnings; each by rule and object.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What stops the change.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == Enforcement::Error)
    }

    /// What to say when the change is not made: the worst, what to do about it, and how to see the rest. `None` when nothing
    /// stops it.
    pub fn refusal(&self, instance: &str) -> Option<Refusal> {
        let worst = self.errors().next()?;
        let hint = match self.errors().count() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more: `headwater check {instance}`)"),
        };
        // The hint is not what is cut off.
        let text = cut_to(format!("{}; {}", worst.message, worst.remedy), MESSAGE_LIMIT.saturating_sub(hint.len()));
        Some(Refusal { rule: worst.rule, text: text + &hint })
    }

    /// Counts for people.
    pub fn summary(&self) -> String {
        let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let errors = self.errors().count();
        match (errors, self.findings.len() - errors) {
            (0, 0) => "nothing stands in the way".to_owned(),
            (0, warnings) => format!("nothing stands in the way; {}", count(warnings, "warning")),
            (errors, 0) => count(errors, "error"),
            (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
        }
    }

    /// As the status has it.
    pub fn status(&self, desired: &DesiredSet, generation: Option<i64>) -> PreflightStatus {
        PreflightStatus {
            digest: desired.bundle.digest.clone(),
            generation,
            config: desired.config.clone(),
            findings: self.findings.iter().take(KEPT).map(Finding::status).collect(),
            more: i64::try_from(self.findings.len().saturating_sub(KEPT)).unwrap_or(i64::MAX),
        }
    }
}

impl Finding {
    /// As the status and `headwater check` have it.
    pub fn status(&self) -> PreflightFinding {
        PreflightFinding {
            severity: self.severity,
            rule: self.rule.name().to_owned(),
            object: self.object.as_ref().map(ToString::to_string),
            message: self.message.clone(),
            remedy: self.remedy.clone(),
        }
    }
}

/// A change to be judged.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The bundle it leads to.
    pub bundle: &'a Bundle,
    /// What the spec wants of it.
    pub settings: &'a Settings,
    /// The objects that are wanted.
    pub desired: &'a DesiredSet,
    /// What would be done.
    pub plan: &'a Plan,
    /// The version that is installed, by whomever.
    pub installed: Option<&'a Version>,
    /// Why stored objects cannot be brought to the versions of the bundle.
    pub no_way: Option<&'a NoWay>,
    /// The cluster, as seen before the change.
    pub survey: &'a Survey,
    /// How seriously each rule is taken.
    pub rules: &'a Preflight,
}

impl Case<'_> {
    /// Objects that are written, and why.
    fn applies(&self) -> impl Iterator<Item = (&Arc<Desired>, Reason)> {
        self.plan.steps.iter().filter_map(|step| match step {
            Step::Apply { object, reason, .. } => Some((object, *reason)),
            _ => None,
        })
    }

    /// Nothing is there yet: what is refused costs nobody anything, so it is not tried first.
    fn is_first(&self) -> bool {
        self.installed.is_none() && self.survey.crds.is_empty() && self.survey.foreign.is_empty()
    }

    fn title(&self) -> String {
        format!("bundle {} {}", self.bundle.manifest().name, self.bundle.version())
    }
}

/// What has to be looked at. Rules that are off ask nothing.
#[derive(Debug, Default)]
pub struct Questions {
    /// May the account do this?
    pub rights: Vec<Need>,
    /// Would the API server take these?
    pub tries: Vec<Arc<Desired>>,
    /// What have objects of these kinds applied?
    pub appliers: Vec<Kind>,
    /// Which quotas are there?
    pub quotas: bool,
    /// Are these priority classes there?
    pub priority_classes: BTreeSet<String>,
    /// Are these images there?
    pub images: BTreeSet<String>,
    /// Live and wanted CRDs to compare, by name: what depends on nothing but the two need not be found out twice.
    pub crds: Vec<Arc<Desired>>,
}

/// What the API server said to an object that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It would take it.
    Accepted,
    /// It would take it, and fields of others with it: manager and fields.
    Conflicts(Vec<(String, String)>),
    /// It refuses it, and says why.
    Refused(String),
    /// It was not able to say.
    Unknown(String),
}

/// Whether an image is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageTrial {
    /// It is.
    Found,
    /// The registry answers and does not have it.
    Missing,
    /// Nobody could tell.
    Unknown(String),
}

/// Answers to [`Questions`].
#[derive(Debug, Default)]
pub struct Facts {
    /// Version of the API server.
    pub kubernetes: String,
    /// What the account may not do.
    pub denied: Vec<Need>,
    /// Objects that were tried.
    pub trials: Vec<(ObjectKey, Trial)>,
    /// What objects have applied.
    pub appliers: Vec<Applier>,
    /// Quotas in the namespace of the installation.
    pub quotas: Vec<Value>,
    /// Priority classes that are not there.
    pub missing_classes: BTreeSet<String>,
    /// Images that were looked for.
    pub images: BTreeMap<String, ImageTrial>,
    /// What changes in CRDs, by name.
    pub crds: BTreeMap<String, Arc<Vec<crd_safety::Finding>>>,
    /// What could not be looked at, and why.
    pub unknown: Vec<(Rule, String)>,
}

/// What has to be looked at.
pub fn questions(case: &Case) -> Questions {
    let on = |rule: Rule| !rule.is_off(case.rules);
    let mut asked = Questions::default();
    if on(Rule::Permissions) {
        asked.rights = rights::needs(case);
    }
    if on(Rule::Invalid) || on(Rule::FieldConflicts) {
        asked.tries = writes::tries(case);
    }
    if on(Rule::ServedVersions) {
        asked.appliers = versions::appliers(case);
    }
    if on(Rule::CrdSchema) || on(Rule::Validation) {
        asked.crds = versions::changed(case);
    }
    if on(Rule::Quota) {
        asked.quotas = workloads::asks_for_quotas(case);
        asked.priority_classes = workloads::priority_classes(case);
    }
    if on(Rule::Images) {
        asked.images = workloads::images(case);
    }
    asked
}

/// Judges a change.
pub fn report(case: &Case, facts: &Facts) -> Report {
    let mut found = Findings { rules: case.rules, list: Vec::new() };
    versions::kubernetes(case, facts, &mut found);
    versions::path(case, &mut found);
    rights::judge(facts, &mut found);
    versions::stored(case, &mut found);
    versions::served(case, facts, &mut found);
    versions::schemas(facts, &mut found);
    writes::judge(case, facts, &mut found);
    writes::owners(case, &mut found);
    workloads::judge_quotas(case, facts, &mut found);
    workloads::judge_images(facts, &mut found);
    workloads::judge_flags(case, &mut found);
    for (rule, why) in &facts.unknown {
        found.unknown(*rule, None, why.clone());
    }
    let mut findings = found.list;
    findings.sort();
    findings.dedup();
    Report { findings }
}

/// Findings in the making.
struct Findings<'a> {
    rules: &'a Preflight,
    list: Vec<Finding>,
}

impl Findings<'_> {
    /// Adds one; the spec may want it to weigh differently, or not at all.
    fn add(
        &mut self,
        rule: Rule,
        default: Enforcement,
        object: Option<&ObjectKey>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let severity = rule.of(self.rules).unwrap_or(default);
        self.push(rule, severity, object, message.into(), remedy.into());
    }

    /// What could not be looked at weighs as a warning, whatever the rule does: it is no finding of the rule.
    fn unknown(&mut self, rule: Rule, object: Option<&ObjectKey>, why: String) {
        if !rule.is_off(self.rules) {
            let remedy = format!(
                "look at it yourself, or set spec.upgrade.preflight.{} to Off where it can never be looked at",
                rule.name()
            );
            self.push(rule, Enforcement::Warn, object, why, remedy);
        }
    }

    fn push(&mut self, rule: Rule, severity: Enforcement, object: Option<&ObjectKey>, message: String, remedy: String) {
        if severity != Enforcement::Off {
            let (message, remedy) = (cut(message), cut(remedy));
            self.list.push(Finding { severity, rule, object: object.cloned(), message, remedy });
        }
    }
}
