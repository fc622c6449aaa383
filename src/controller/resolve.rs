//! Step 2, client required (registry, and a Secret of the hub): from the version asked for to a bundle.

use super::clusters::read_secret;
use super::{Ctx, StepError};
use crate::api::FluxInstance;
use crate::bundle::{Credentials, Request, Resolved};

/// Finds the bundle.
pub(super) async fn resolve(ctx: &Ctx, instance: &FluxInstance) -> Result<Resolved, StepError> {
    let distribution = &instance.spec.distribution;
    let max_age = interval(instance)?;
    let credentials = match &distribution.artifact_pull_secret {
        None => Credentials::default(),
        Some(secret) => pull_secret(ctx, &secret.name).await?,
    };
    let request = Request {
        artifact: &distribution.artifact,
        version: &distribution.version,
        insecure: distribution.insecure,
        credentials: &credentials,
        // A little younger than the pass that asks, else every other pass would find it just fresh enough.
        max_age: max_age.mul_f64(0.8),
    };
    Ok(ctx.bundles.resolve(&request).await?)
}

/// Refuses a cluster that is too old for the bundle: its software would not start there.
pub(crate) fn check_kubernetes(resolved: &Resolved, found: &str) -> Result<(), StepError> {
    let range = &resolved.bundle.manifest().kubernetes;
    let minor = |text: &str| {
        let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    };
    // A version that cannot be read is no reason to refuse a cluster.
    if minor(found) < minor(&range.refused_below) && minor(found).is_some() {
        return Err(StepError::Unsupported {
            bundle: format!("{} {}", resolved.bundle.manifest().name, resolved.reference.version),
            found: found.to_owned(),
            minimum: range.refused_below.clone(),
        });
    }
    Ok(())
}

/// `spec.interval`.
pub(super) fn interval(instance: &FluxInstance) -> Result<std::time::Duration, StepError> {
    instance.spec.interval.get().map_err(|e| StepError::Spec(format!("spec.interval: {e}")))
}

async fn pull_secret(ctx: &Ctx, name: &str) -> Result<Credentials, StepError> {
    const FIELD: &str = "spec.distribution.artifactPullSecret";
    const KEY: &str = ".dockerconfigjson";
    let secret = read_secret(&ctx.hub, &ctx.namespace, name, FIELD).await?;
    let data = secret.data.unwrap_or_default();
    let Some(json) = data.get(KEY) else {
        let found: Vec<&str> = data.keys().map(String::as_str).take(8).collect();
        return Err(StepError::Secret {
            field: FIELD,
            cause: format!(
                "Secret {name} has no key {KEY} (found: {}); create it with `kubectl create secret docker-registry`",
                if found.is_empty() { "none".to_owned() } else { found.join(", ") }
            ),
            transient: false,
        });
    };
    Ok(Credentials::parse(&json.0, &format!("{FIELD}: Secret {name}, key {KEY}"))?)
}
