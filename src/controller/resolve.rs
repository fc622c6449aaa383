//! Step 2, client required (registry, and Secrets of the hub): from the version asked for to a bundle.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::secrets::{missing, read_secret};
use super::{Ctx, StepError};
use crate::api::{Distribution, FluxInstance, REQUESTED_AT, TrustedRootKind, TrustedRootRef, Verify};
use crate::bundle::{ArtifactError, Origin, Request, Resolved, Verification};
use crate::cluster::with_deadline;
use crate::registry::{Access, Address, Credentials, Proxy, RegistryError};

/// How long one question to a registry may take where nobody says.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Finds the bundle of an instance.
pub(super) async fn resolve(ctx: &Ctx, instance: &FluxInstance) -> Result<Resolved, StepError> {
    let timeout = instance.spec.timeout.get().map_err(|e| StepError::Spec(format!("spec.timeout: {e}")))?;
    let handled = instance.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
    let max_age = max_age(interval(instance)?, instance.annotations(), handled);
    bundle(ctx, &instance.spec.distribution, max_age, timeout).await
}

/// How old what is known of tags may be: as the interval says, and nothing when somebody asks to look now.
pub(super) fn max_age(
    interval: Duration,
    annotations: &BTreeMap<String, String>,
    handled: Option<&String>,
) -> Duration {
    match annotations.get(REQUESTED_AT) {
        Some(requested) if Some(requested) != handled => Duration::ZERO,
        _ => interval,
    }
}

/// Finds a bundle; what is known of tags may be as old as `max_age`, and a question to the registry take `timeout`.
pub(super) async fn bundle(
    ctx: &Ctx,
    distribution: &Distribution,
    max_age: Duration,
    timeout: Duration,
) -> Result<Resolved, StepError> {
    let request = Request {
        origin: origin(ctx, distribution, timeout).await?,
        version: &distribution.version,
        // A little younger than the pass that asks, else every other pass would find it just fresh enough.
        max_age: max_age.mul_f64(0.8),
    };
    Ok(ctx.bundles.resolve(&request).await?)
}

/// Where the bundle comes from, with all that the spec refers to read.
async fn origin(ctx: &Ctx, distribution: &Distribution, timeout: Duration) -> Result<Origin, StepError> {
    let Some(artifact) = &distribution.artifact else { return Ok(Origin::Embedded) };
    let address = Address::parse(artifact).map_err(|e| StepError::Spec(format!("spec.distribution.artifact: {e}")))?;
    let verification = match &distribution.verify {
        None => None,
        Some(verify) => Some(Box::new(verification(ctx, verify).await?)),
    };
    let mut access = access(ctx, distribution).await?;
    access.timeout = timeout;
    Ok(Origin::Repository { address, access: Box::new(access), verification })
}

/// How the registry is reached.
pub(super) async fn access(ctx: &Ctx, distribution: &Distribution) -> Result<Access, StepError> {
    let mut access = Access::from_environment().map_err(ArtifactError::from)?;
    access.insecure = distribution.insecure;
    access.credentials_hint = "spec.distribution.artifactPullSecret";
    access.realms.clone_from(&ctx.bundles.demands().realms);
    if let Some(reference) = &distribution.artifact_pull_secret {
        const FIELD: &str = "spec.distribution.artifactPullSecret";
        const KEY: &str = ".dockerconfigjson";
        let secret = Material::of_secret(ctx, &reference.name, FIELD).await?;
        let json = secret.required(KEY, "; create it with `kubectl create secret docker-registry`")?;
        let what = format!("Secret {}, key {KEY}", reference.name);
        access.credentials = Credentials::parse(&json, &what).map_err(|e| unusable(FIELD, &e))?;
    }
    if let Some(reference) = &distribution.cert_secret_ref {
        let secret = Material::of_secret(ctx, &reference.name, "spec.distribution.certSecretRef").await?;
        access.ca = secret.get("ca.crt");
        access.identity = match (secret.get("tls.crt"), secret.get("tls.key")) {
            (None, None) => None,
            _ => Some((
                secret.required("tls.crt", "; it is needed with tls.key")?,
                secret.required("tls.key", "; it is needed with tls.crt")?,
            )),
        };
        if access.ca.is_none() && access.identity.is_none() {
            secret.required("ca.crt", "; there has to be ca.crt, or tls.crt with tls.key")?;
        }
    }
    if let Some(reference) = &distribution.proxy_secret_ref {
        const FIELD: &str = "spec.distribution.proxySecretRef";
        let secret = Material::of_secret(ctx, &reference.name, FIELD).await?;
        let text = |key: &str| secret.get(key).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        secret.required("address", "")?;
        let what = format!("Secret {}, key address", reference.name);
        let mut proxy = Proxy::parse(&text("address").unwrap_or_default(), &what, text("noProxy").unwrap_or_default())
            .map_err(|e| unusable(FIELD, &e))?;
        if let Some(user) = text("username") {
            proxy.login = Some((user, text("password").unwrap_or_default()));
        }
        access.proxy = Some(proxy);
    }
    Ok(access)
}

/// Who has to have signed.
async fn verification(ctx: &Ctx, verify: &Verify) -> Result<Verification, StepError> {
    let mut verification = Verification { transparency_log: verify.transparency_log, ..Verification::default() };
    if let Some(reference) = &verify.secret_ref {
        let secret = Material::of_secret(ctx, &reference.name, "spec.distribution.verify.secretRef").await?;
        verification.keys = secret
            .data
            .iter()
            .filter(|(key, _)| Path::new(key).extension().is_some_and(|e| e == "pub"))
            .map(|(k, v)| (k.clone(), v.0.clone()))
            .collect();
        if verification.keys.is_empty() {
            secret.required("cosign.pub", "; public keys are under keys that end in .pub")?;
        }
    }
    let identities = verify.match_oidc_identity.iter().flatten();
    verification.identities = identities.map(|i| (i.issuer.clone(), i.subject.clone())).collect();
    if let Some(reference) = &verify.trusted_root_ref {
        verification.trusted_root = Some(trusted_root(ctx, reference).await?);
    }
    Ok(verification)
}

async fn trusted_root(ctx: &Ctx, reference: &TrustedRootRef) -> Result<Vec<u8>, StepError> {
    const FIELD: &str = "spec.distribution.verify.trustedRootRef";
    let material = match reference.kind {
        TrustedRootKind::Secret => Material::of_secret(ctx, &reference.name, FIELD).await?,
        TrustedRootKind::ConfigMap => Material::of_config_map(ctx, &reference.name, FIELD).await?,
    };
    material.required(&reference.key, "")
}

/// Material that cannot be used: only a change of it can help.
fn unusable(field: &'static str, error: &RegistryError) -> StepError {
    StepError::Secret { field, cause: error.to_string(), transient: false }
}

/// What a Secret or `ConfigMap` holds, and what to call it.
struct Material {
    field: &'static str,
    object: String,
    data: BTreeMap<String, ByteString>,
}

impl Material {
    async fn of_secret(ctx: &Ctx, name: &str, field: &'static str) -> Result<Self, StepError> {
        let secret = read_secret(&ctx.hub, &ctx.namespace, name, field).await?;
        Ok(Self { field, object: format!("Secret {name}"), data: secret.data.unwrap_or_default() })
    }

    async fn of_config_map(ctx: &Ctx, name: &str, field: &'static str) -> Result<Self, StepError> {
        let api = Api::<ConfigMap>::namespaced(ctx.hub.clone(), &ctx.namespace);
        let map =
            with_deadline(api.get(name)).await.map_err(|e| missing("ConfigMap", name, &ctx.namespace, field, &e))?;
        let data = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, ByteString(text.into_bytes())));
        Ok(Self { field, object: format!("ConfigMap {name}"), data: data.collect() })
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.data.get(key).map(|bytes| bytes.0.clone())
    }

    fn required(&self, key: &str, hint: &str) -> Result<Vec<u8>, StepError> {
        self.get(key).ok_or_else(|| {
            let found: Vec<&str> = self.data.keys().map(String::as_str).take(8).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            StepError::Secret {
                field: self.field,
                cause: format!("{} has no key {key} (found: {found}){hint}", self.object),
                transient: false,
            }
        })
    }
}

/// `spec.interval`.
pub(super) fn interval(instance: &FluxInstance) -> Result<Duration, StepError> {
    instance.spec.interval.get().map_err(|e| StepError::Spec(format!("spec.interval: {e}")))
}
