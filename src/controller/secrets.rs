//! Secrets of the hub that instances name, and what is wrong with them.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::StepError;
use crate::cluster::{ClusterError, Gate, Kubeconfig, KubeconfigRejected, connect_member, with_deadline};

/// Reads a Secret of the hub.
pub(super) async fn read_secret(
    hub: &Client,
    namespace: &str,
    name: &str,
    field: &'static str,
) -> Result<Secret, StepError> {
    let api = Api::<Secret>::namespaced(hub.clone(), namespace);
    with_deadline(api.get(name)).await.map_err(|error| missing("Secret", name, namespace, field, &error))
}

/// What to say when an object that a field names could not be read.
pub(super) fn missing(kind: &str, name: &str, namespace: &str, field: &'static str, error: &ClusterError) -> StepError {
    StepError::Secret {
        field,
        cause: match error {
            ClusterError::NotFound(_) => format!("{kind} {name} does not exist in namespace {namespace}"),
            error => format!("{kind} {name}: {error}"),
        },
        transient: !matches!(error, ClusterError::NotFound(_)),
    }
}

/// A client made from the kubeconfig in a Secret.
pub(super) fn client_of(secret: Secret, key: Option<&str>, gate: &Gate) -> Result<Client, StepError> {
    let name = secret.metadata.name.unwrap_or_default();
    let data = secret.data.unwrap_or_default();
    let wanted = key.map_or(vec!["value", "value.yaml"], |key| vec![key]);
    let Some((key, bytes)) = wanted.iter().find_map(|key| data.get_key_value(*key)) else {
        let found: Vec<&str> = data.keys().map(String::as_str).take(8).collect();
        return Err(StepError::Secret {
            field: "spec.kubeConfig.secretRef",
            cause: format!(
                "Secret {name} has no key {} (found: {})",
                wanted.join(" or "),
                if found.is_empty() { "none".to_owned() } else { found.join(", ") }
            ),
            transient: false,
        });
    };
    let rejected = |cause| StepError::Kubeconfig { secret: name.clone(), key: key.clone(), cause };
    let kubeconfig = Kubeconfig::parse(&bytes.0).map_err(rejected)?;
    connect_member(&kubeconfig.config(), gate).map_err(|error| rejected(KubeconfigRejected::unusable(&error)))
}
