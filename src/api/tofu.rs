//! `spec.tofu`: the controller of Terraform objects and the runners it starts.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How tofu-controller is installed. It is installed where `spec.components` names it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tofu {
    /// Namespaces beside `flux-system` in which Terraform objects may be run. The service account `tf-runner` of each is
    /// bound to the role of runners; whoever owns the namespace makes that account.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new("self.all(n, n.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'))")
            .message("each namespace must be a name such as team-a (lower case letters, digits and dashes)")
    )]
    pub allowed_namespaces: Vec<NamespaceName>,

    /// The pods that run the code. Their image is `tf-runner` in `spec.distribution.images`.
    #[serde(default)]
    pub runner: TofuRunner,

    /// Install the branch planner, which plans pull requests and answers them. Its settings are in the config map
    /// `branch-planner`.
    #[serde(default)]
    pub branch_planner: bool,

    /// Install the source of the package of AWS modules, an OCI artifact on ghcr.io.
    #[serde(default)]
    pub aws_package: bool,
}

/// Name of a namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct NamespaceName(#[schemars(length(max = 63))] pub String);

/// The pods that tofu-controller starts.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TofuRunner {
    /// Their service account in `flux-system`.
    #[serde(default)]
    pub service_account: TofuServiceAccount,
}

/// The service account `tf-runner`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct TofuServiceAccount {
    /// Annotations, such as those by which a cloud knows the account (`eks.amazonaws.com/role-arn`).
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}
