//! `spec.distribution`: which bundle, where it comes from, who has to have signed it, and where images come from.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance::LocalSecretRef;

/// The bundle to install.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.artifact) || !(has(self.artifactPullSecret) || has(self.verify) || has(self.certSecretRef) || has(self.proxySecretRef) || (has(self.insecure) && self.insecure))")
        .message("artifactPullSecret, verify, certSecretRef, proxySecretRef and insecure are about artifact; set it, or remove them: the bundles that come with the operator need none")
)]
pub struct Distribution {
    /// A version (`2.9.4`) or a semver range (`2.x`, `2.9.x`, `>=2.8 <3`) over the tags of the repository, or a
    /// digest (`sha256:...`).
    #[schemars(length(min = 1, max = 128))]
    pub version: String,

    /// Where all images come from, without scheme: `HOST[:PORT]/PATH`. Unset means where the makers of each component
    /// publish them, as the bundle says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$')")
            .message("must be HOST[:PORT]/PATH without scheme, such as ghcr.io/fluxcd")
    )]
    pub registry: Option<String>,

    /// Single images from elsewhere: name of the image in the bundle, such as `source-controller`, to
    /// `HOST[:PORT]/PATH[:TAG][@DIGEST]`. What is left out is kept from the bundle; another tag leaves its digest behind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new(format!("self.all(name, self[name].matches('{IMAGE_REFERENCE}'))"))
        .message("each image must be HOST[:PORT]/PATH[:TAG][@DIGEST] without scheme, such as mirror.example:5000/flux/source-controller"))]
    pub images: BTreeMap<String, ImageReference>,

    /// Write images as `REPOSITORY:TAG@DIGEST`. An image whose digest is not known is an error then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_images: bool,

    /// The bundle repository: `oci://HOST[:PORT]/REPOSITORY`, without tag. Unset means the bundles that come with the
    /// operator, which need no registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^oci://[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$')")
            .message("must be oci://HOST[:PORT]/REPOSITORY without tag or digest, such as oci://ghcr.io/example/headwater/flux; spec.distribution.version selects the version")
    )]
    pub artifact: Option<String>,

    /// Secret of type `kubernetes.io/dockerconfigjson` with credentials for the bundle repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_pull_secret: Option<LocalSecretRef>,

    /// Who has to have signed the bundle. Unset means that nobody has to, and the condition `Verified` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,

    /// Secret with the certificates of the bundle registry: `ca.crt` of a private authority, and `tls.crt` and `tls.key` to
    /// present to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<LocalSecretRef>,

    /// Secret with the HTTP proxy to the bundle registry: `address` (`http://HOST:PORT`), and optionally `username`,
    /// `password` and `noProxy`. Unset means the proxy of the operator's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_secret_ref: Option<LocalSecretRef>,

    /// Speak plain HTTP to the bundle registry. Never fallen back to; meant for tests and local mirrors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// Who has to have signed the bundle.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretRef) != has(self.matchOIDCIdentity)")
        .message("set either secretRef (public keys) or matchOIDCIdentity (identities of keyless signatures)"),
    validation = Rule::new("!has(self.trustedRootRef) || has(self.matchOIDCIdentity) || (has(self.transparencyLog) && self.transparencyLog)")
        .message("trustedRootRef is for matchOIDCIdentity or transparencyLog: a public key alone needs no trusted root")
)]
pub struct Verify {
    /// How signatures are made and stored.
    #[serde(default)]
    pub provider: VerifyProvider,

    /// Secret with public keys in PEM, each under a key that ends in `.pub`. One of them has to have signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalSecretRef>,

    /// Identities of keyless signatures. One of them has to have signed.
    #[serde(rename = "matchOIDCIdentity", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub match_oidc_identity: Option<Vec<OidcIdentity>>,

    /// The trusted root (`trusted_root.json`) to use in place of that of the public Sigstore, which comes with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_root_ref: Option<TrustedRootRef>,

    /// Signatures of public keys have to be in a transparency log. Keyless signatures always have to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transparency_log: bool,
}

/// How signatures are made and stored.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerifyProvider {
    /// By cosign, as a Sigstore bundle that refers to the bundle, or in cosign's older format.
    #[default]
    Cosign,
}

/// An identity of a keyless signature. Each field is an exact text, or an expression from `^` to `$`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
pub struct OidcIdentity {
    /// Who vouched for the identity: `https://token.actions.githubusercontent.com`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('^') == self.endsWith('$')")
            .message("an expression has to start with ^ and end with $")
    )]
    pub issuer: String,
    /// Who signed: a workflow, an account, an e-mail address.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('^') == self.endsWith('$')")
            .message("an expression has to start with ^ and end with $")
    )]
    pub subject: String,
}

/// Where a trusted root is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct TrustedRootRef {
    /// Kind of the object in the same namespace.
    pub kind: TrustedRootKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[serde(default = "default_trusted_root_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_trusted_root_key() -> String {
    "trusted_root.json".to_owned()
}

/// Kind of the object that holds a trusted root.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[allow(missing_docs)]
pub enum TrustedRootKind {
    ConfigMap,
    Secret,
}

/// What [`ImageReference`] has to match; the API server and the CLI hold against the same.
pub const IMAGE_REFERENCE: &str = "^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$";

/// An image elsewhere: `HOST[:PORT]/PATH[:TAG][@DIGEST]`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ImageReference(#[schemars(length(min = 1, max = 512))] pub String);
