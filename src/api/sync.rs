//! `spec.sync`: what Flux starts from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance::yes;
use super::{Interval, Timeout};

/// Kind of the source that Flux starts from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum SyncKind {
    /// A Git repository.
    GitRepository,
    /// An OCI artifact.
    OCIRepository,
    /// An S3-compatible bucket.
    Bucket,
}

/// Cloud provider that gives the credentials of the source.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum SyncProvider {
    Generic,
    Aws,
    Azure,
    Gcp,
    Github,
}

/// The source and Kustomization that Flux starts from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.kind != 'GitRepository' || self.url.matches('^(https?|ssh)://.+')")
        .message("url of a GitRepository must start with https://, http:// or ssh://"),
    validation = Rule::new("self.kind != 'OCIRepository' || self.url.startsWith('oci://')")
        .message("url of an OCIRepository must start with oci://"),
    validation = Rule::new("self.kind != 'Bucket' || !self.url.contains('://')")
        .message("url of a Bucket is its endpoint without scheme, such as s3.example.com"),
    validation = Rule::new("!has(self.provider) || self.provider != 'gcp' || self.kind in ['OCIRepository', 'Bucket']")
        .message("provider gcp needs kind OCIRepository or Bucket"),
    validation = Rule::new("!has(self.provider) || self.provider != 'github' || self.kind == 'GitRepository'")
        .message("provider github needs kind GitRepository"),
    validation = Rule::new("!(has(self.insecure) && self.insecure) || self.kind in ['OCIRepository', 'Bucket']")
        .message("insecure is for kind OCIRepository or Bucket; write http:// for a GitRepository"),
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
        .message("name cannot be changed once sync is set; remove sync first")
)]
pub struct Sync {
    /// Kind of the source.
    pub kind: SyncKind,
    /// Name of the source and the Kustomization. Unset means `flux-system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Address of the source.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Git reference (`refs/heads/main`), OCI tag, or bucket name.
    #[schemars(length(min = 1, max = 255))]
    pub r#ref: String,
    /// Folder in the source that holds the manifests.
    #[serde(default = "default_path")]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// Secret in `flux-system` on the target cluster with credentials for the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pull_secret: Option<String>,
    /// Cloud provider that gives the credentials. Unset means generic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SyncProvider>,
    /// How often the source is fetched and the manifests are applied.
    #[serde(default = "one_minute")]
    pub interval: Interval,
    /// Speak plain HTTP to the source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Delete objects that left the source.
    #[serde(default = "yes")]
    pub prune: bool,
    /// Kustomization waits for what it applied to become healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
    /// How long fetching and applying may take. Unset means Flux's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

fn default_path() -> String {
    "./".to_owned()
}

fn one_minute() -> Interval {
    Interval("1m".to_owned())
}
