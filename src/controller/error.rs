//! What can go wrong in a pass: one variant per step, each with a word for programs and what can help.

use std::time::Duration;

use crate::api::ParseDurationError;
use crate::bundle::ArtifactError;
use crate::cluster::{ClusterError, KubeconfigRejected, Trouble};
use crate::plan::Owner;
use crate::plan::migration::NoWay;
use crate::plan::preflight::{Refusal, Rule};
use crate::render::{ObjectKey, RenderError};

/// Why a pass ended early. The text says its own layer's part and is what users read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The spec cannot be understood, though the API server accepted it.
    #[error("{0}")]
    Spec(String),
    /// A Secret that the spec names.
    #[error("{field}: {cause}")]
    Secret {
        /// Path of the field that names it.
        field: &'static str,
        /// What is wrong.
        cause: String,
        /// The hub did not answer, rather than the Secret being wrong.
        transient: bool,
    },
    /// The kubeconfig is not acceptable.
    #[error("spec.kubeConfig: Secret {secret}, key {key}: {cause}")]
    Kubeconfig {
        /// Name of the Secret.
        secret: String,
        /// Key in it.
        key: String,
        /// What is wrong.
        cause: KubeconfigRejected,
    },
    /// Nobody knows yet whether the cluster answers; the pass is made when somebody does.
    #[error("connecting to the cluster")]
    Connecting,
    /// Nobody could even say which cluster it is: whatever the answer was, it cannot be used.
    #[error("{0}")]
    Contact(ClusterError),
    /// The cluster does not answer, or refuses us as a whole.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// The kubeconfig leads to another cluster than before.
    #[error(
        "the kubeconfig leads to another cluster than before (UID of kube-system is {found}, was {expected}); nothing was written. To manage the other cluster, create a FluxInstance of its own"
    )]
    Identity {
        /// Recorded.
        expected: String,
        /// Seen now.
        found: String,
    },
    /// Another instance owns the installation.
    #[error(
        "namespace {namespace} of this cluster belongs to FluxInstance {}/{}; delete that one with deletionPolicy Orphan to hand it over",
        .owner.namespace, .owner.name
    )]
    Claimed {
        /// Namespace of the installation.
        namespace: String,
        /// Who has it.
        owner: Owner,
    },
    /// Finding, pulling or reading the bundle.
    #[error("{0}")]
    Artifact(#[from] ArtifactError),
    /// No fleet has admitted a bundle, and nothing runs.
    #[error("spec.admission is Fleet, and no FluxFleet has admitted a bundle yet")]
    AwaitingAdmission,
    /// The preflight found what stops the change; nothing was written.
    #[error("{}", .0.text)]
    Preflight(Refusal),
    /// Bundle and spec do not fit together.
    #[error("{0}")]
    Render(#[from] RenderError),
    /// Stored objects could not be written anew.
    #[error("objects of {crd} could not all be written anew as {version}: {cause}")]
    Migration {
        /// Name of the CRD.
        crd: String,
        /// API version.
        version: String,
        /// Why.
        cause: ClusterError,
    },
    /// Stored objects cannot be brought to the versions of the bundle.
    #[error("{0}")]
    NoWay(#[from] NoWay),
    /// The version would go down.
    #[error(
        "spec.distribution.version: {wanted} is older than the installed {installed}; to go there all the same, set spec.upgrade.allowDowngrade: true (CRDs stay those of the newer version), or `headwater rollback` to what ran before"
    )]
    Downgrade {
        /// Version of the bundle.
        wanted: String,
        /// What is installed.
        installed: String,
    },
    /// The version would go down, and cannot.
    #[error("spec.distribution.version: {0}; objects are never brought back to older versions")]
    NotServed(String),
    /// An installation of another tool is newer.
    #[error(
        "spec.distribution.version: {wanted} is older than the {installed} that another tool installed here; take it over with a bundle of {installed} or newer first"
    )]
    TakeoverDowngrade {
        /// Version of the bundle.
        wanted: String,
        /// What is installed.
        installed: String,
    },
    /// Some objects were not accepted.
    #[error("{}", failures(.0))]
    Apply(Vec<(ObjectKey, ClusterError)>),
    /// Some objects could not be deleted.
    #[error("{}", failures(.0))]
    Prune(Vec<(ObjectKey, ClusterError)>),
}

fn failures(list: &[(ObjectKey, ClusterError)]) -> String {
    match list {
        [] => String::new(),
        [(key, error)] => format!("{key}: {error}"),
        [(key, error), rest @ ..] => format!("{key}: {error} (and {} more)", rest.len()),
    }
}

impl From<ParseDurationError> for StepError {
    fn from(error: ParseDurationError) -> Self {
        Self::Spec(error.to_string())
    }
}

fn reason_of(error: &ClusterError) -> &'static str {
    match error {
        ClusterError::Unreachable(_) | ClusterError::Timeout(_) => "ClusterUnreachable",
        ClusterError::Unauthorized => "AuthFailed",
        ClusterError::Forbidden(_) => "PermissionDenied",
        ClusterError::NotFound(_)
        | ClusterError::Conflict(_)
        | ClusterError::Expired
        | ClusterError::Invalid(_)
        | ClusterError::Throttled(_)
        | ClusterError::Failed(_)
        | ClusterError::NotLeading
        | ClusterError::Unreadable(_) => "ReconciliationFailed",
    }
}

impl StepError {
    /// A word for condition reasons, event reasons and metric labels: a bounded set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Spec(_) => "InvalidSpec",
            Self::Secret { .. } => "SecretFailed",
            Self::Kubeconfig { .. } => "KubeconfigRejected",
            Self::Connecting => "Connecting",
            Self::Contact(error) => match reason_of(error) {
                "ReconciliationFailed" => "ClusterUnreachable",
                reason => reason,
            },
            Self::Cluster(error) => reason_of(error),
            Self::Identity { .. } => "ClusterIdentityMismatch",
            Self::Claimed { .. } => "NamespaceClaimed",
            Self::Artifact(error) => error.reason(),
            Self::Render(_) => "BuildFailed",
            Self::Preflight(refusal) if refusal.rule == Rule::KubernetesVersion => "KubernetesUnsupported",
            Self::Preflight(_) => "PreflightFailed",
            Self::AwaitingAdmission => "AwaitingAdmission",
            Self::Migration { cause, .. } => match reason_of(cause) {
                "ReconciliationFailed" => "MigrationFailed",
                reason => reason,
            },
            Self::NoWay(_) => "NoUpgradePath",
            Self::Downgrade { .. } | Self::NotServed(_) | Self::TakeoverDowngrade { .. } => "DowngradeRefused",
            Self::Apply(list) => list.first().map_or("ReconciliationFailed", |(_, e)| reason_of(e)),
            Self::Prune(_) => "PruneFailed",
        }
    }

    /// Whether waiting may help; if not, only a change of what is named in the text can.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Spec(_)
            | Self::Kubeconfig { .. }
            | Self::Identity { .. }
            | Self::Claimed { .. }
            | Self::Preflight(_)
            | Self::AwaitingAdmission
            | Self::NoWay(_)
            | Self::Downgrade { .. }
            | Self::TakeoverDowngrade { .. }
            | Self::NotServed(_)
            | Self::Render(_) => false,
            Self::Secret { transient, .. } => *transient,
            Self::Connecting | Self::Contact(_) => true,
            // Rights can be granted and credentials be renewed without anything of ours changing.
            Self::Cluster(error) | Self::Migration { cause: error, .. } => {
                error.is_transient() || matches!(error, ClusterError::Unauthorized | ClusterError::Forbidden(_))
            }
            Self::Artifact(error) => error.is_transient(),
            Self::Apply(list) | Self::Prune(list) => list
                .iter()
                .any(|(_, e)| e.is_transient() || matches!(e, ClusterError::Forbidden(_) | ClusterError::NotFound(_))),
        }
    }

    /// Whether the cluster answers that we may not.
    pub fn is_refusal(&self) -> bool {
        let refused = |error: &ClusterError| matches!(error, ClusterError::Forbidden(_));
        match self {
            Self::Contact(error) | Self::Cluster(error) => refused(error),
            Self::Apply(list) | Self::Prune(list) => list.iter().all(|(_, error)| refused(error)),
            _ => false,
        }
    }

    /// How long the API server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Contact(error) | Self::Cluster(error) | Self::Migration { cause: error, .. } => error.retry_after(),
            Self::Apply(list) | Self::Prune(list) => list.iter().filter_map(|(_, e)| e.retry_after()).max(),
            _ => None,
        }
    }

    /// Whether it says that we cannot talk to the cluster.
    pub fn is_about_reaching(&self) -> bool {
        matches!(self, Self::Identity { .. }) || self.trouble().is_some()
    }

    /// Whether the API server failed at a request: one request, or it can do nothing at all. Only asking it something simple tells.
    pub fn is_doubtful(&self) -> bool {
        let failed = |error: &ClusterError| matches!(error, ClusterError::Failed(_) | ClusterError::Throttled(_));
        match self {
            Self::Cluster(error) | Self::Migration { cause: error, .. } => failed(error),
            Self::Apply(list) | Self::Prune(list) => list.iter().any(|(_, error)| failed(error)),
            _ => false,
        }
    }

    /// What it says of the way to the cluster.
    pub fn trouble(&self) -> Option<Trouble> {
        let of = |error: &ClusterError| match error {
            ClusterError::Unauthorized => Some(Trouble::Unauthorised),
            error => error.is_unreachable().then_some(Trouble::Unreachable),
        };
        match self {
            Self::Kubeconfig { .. } => Some(Trouble::Refused),
            Self::Secret { field, transient, .. } => field.starts_with("spec.kubeConfig").then_some(if *transient {
                Trouble::Unreachable
            } else {
                Trouble::Refused
            }),
            Self::Contact(ClusterError::Unauthorized) => Some(Trouble::Unauthorised),
            Self::Contact(_) => Some(Trouble::Unreachable),
            Self::Cluster(error) | Self::Migration { cause: error, .. } => of(error),
            Self::Apply(list) | Self::Prune(list) => list.first().and_then(|(_, error)| of(error)),
            Self::Spec(_)
            | Self::Connecting
            | Self::Identity { .. }
            | Self::Claimed { .. }
            | Self::Artifact(_)
            | Self::Preflight(_)
            | Self::AwaitingAdmission
            | Self::NoWay(_)
            | Self::Downgrade { .. }
            | Self::TakeoverDowngrade { .. }
            | Self::NotServed(_)
            | Self::Render(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failures_say_of_the_way_to_the_cluster() {
        let failed = || ClusterError::Failed("no backend".to_owned());
        let wait = Duration::from_secs(7);
        let throttled = || ClusterError::Throttled(Some(wait));
        let forbidden = || ClusterError::Forbidden("get namespaces".to_owned());
        let silent = || ClusterError::Timeout(wait);
        let one = |error| vec![(crate::render::Kind::crd().key(None, "x".to_owned()), error)];
        let down = Some(Trouble::Unreachable);
        let table = [
            // Whoever cannot say who it is cannot be used, whatever it answers instead.
            (StepError::Contact(failed()), "ClusterUnreachable", down, false),
            (StepError::Contact(throttled()), "ClusterUnreachable", down, false),
            (StepError::Contact(ClusterError::NotFound("a page".to_owned())), "ClusterUnreachable", down, false),
            (StepError::Contact(ClusterError::Unreadable("<html>".to_owned())), "ClusterUnreachable", down, false),
            (StepError::Contact(silent()), "ClusterUnreachable", down, false),
            (StepError::Contact(forbidden()), "PermissionDenied", down, false),
            (StepError::Contact(ClusterError::Unauthorized), "AuthFailed", Some(Trouble::Unauthorised), false),
            // A request that failed may be all that is wrong.
            (StepError::Cluster(failed()), "ReconciliationFailed", None, true),
            (StepError::Cluster(throttled()), "ReconciliationFailed", None, true),
            (StepError::Apply(one(failed())), "ReconciliationFailed", None, true),
            (StepError::Cluster(forbidden()), "PermissionDenied", None, false),
            (StepError::Cluster(silent()), "ClusterUnreachable", down, false),
        ];
        for (error, reason, trouble, doubtful) in table {
            let found = (error.reason(), error.trouble(), error.is_doubtful());
            assert_eq!(found, (reason, trouble, doubtful), "{error:?}");
            assert_eq!((error.is_about_reaching(), error.is_transient()), (trouble.is_some(), true), "{error:?}");
        }
        assert_eq!(StepError::Contact(throttled()).retry_after(), Some(wait));
    }
}
