//! Finds the signatures of a digest in its repository and has them judged.

use std::collections::BTreeMap;

use super::{ArtifactError, Provenance};
use crate::registry::{Manifest, RegistryError, Repository};
use crate::trust::{self, Identity, Policy, PolicyError, PublicKey, Refusal, Signature, TrustedRoot};

/// Who has to have signed, as a spec or a command line says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verification {
    /// Public keys, PEM, by the name they are known by. One of them has to have signed.
    pub keys: BTreeMap<String, Vec<u8>>,
    /// Issuer and subject of certificates, texts or anchored expressions. One of them has to have signed.
    pub identities: Vec<(String, String)>,
    /// A `trusted_root.json` in place of that of the public Sigstore.
    pub trusted_root: Option<Vec<u8>>,
    /// Signatures of keys have to be in a transparency log.
    pub transparency_log: bool,
}

impl Verification {
    /// The same with its material read. That of the public Sigstore is parsed only here: most installations never need it.
    fn policy(&self) -> Result<Policy, PolicyError> {
        let root = || self.trusted_root.as_deref().map_or_else(TrustedRoot::embedded, TrustedRoot::parse);
        if self.identities.is_empty() {
            let keys = self.keys.iter().map(|(name, pem)| PublicKey::parse(name, pem)).collect::<Result<_, _>>()?;
            return Policy::public_keys(keys, if self.transparency_log { Some(root()?) } else { None });
        }
        let identities = self.identities.iter().map(|(issuer, subject)| Identity::parse(issuer, subject));
        Policy::keyless(identities.collect::<Result<_, _>>()?, root()?)
    }
}

/// Media type of a sigstore bundle, and of the manifest that refers to what it signs.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of the layers of cosign's older format.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// More signatures than anybody makes; who can push to the repository must not keep us busy for ever.
const MOST: usize = trust::MOST_CANDIDATES;
const SIGNATURE_LIMIT: u64 = trust::MOST_BYTES as u64;

/// Has the signatures of `digest` judged.
pub(super) async fn verify(
    repository: &Repository,
    digest: &str,
    verification: &Verification,
) -> Result<Provenance, ArtifactError> {
    let policy = verification.policy().map_err(|e| ArtifactError::Policy(format!("spec.distribution.verify: {e}")))?;
    let signatures = find(repository, digest).await?;
    let refused = |refusal: Refusal| ArtifactError::Unverified { digest: digest.to_owned(), why: refusal.to_string() };
    Ok(Provenance::Verified(trust::verify(&policy, digest, &signatures).map_err(refused)?))
}

/// All signatures of a digest: sigstore bundles that refer to it, and cosign's older format under a tag made of it. What cannot
/// be read is no signature, and does no harm to others.
async fn find(repository: &Repository, digest: &str) -> Result<Vec<Signature>, RegistryError> {
    let mut places: Vec<String> =
        repository.referrers(digest, BUNDLE).await?.into_iter().map(|referrer| referrer.digest).take(MOST).collect();
    places.extend(repository.find_digest(&format!("{}.sig", digest.replace(':', "-"))).await?);
    let mut found = Vec::new();
    for place in places {
        match layers(repository, &place).await {
            Ok(layers) => found.extend(layers),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => tracing::warn!(%error, "what refers to a bundle cannot be read"),
        }
    }
    Ok(found)
}

/// The signatures in a manifest.
async fn layers(repository: &Repository, digest: &str) -> Result<Vec<Signature>, RegistryError> {
    let fetched = repository.manifest(digest).await?;
    if fetched.is_index() {
        return Ok(Vec::new());
    }
    let mut signatures = Vec::new();
    for layer in fetched.parse::<Manifest>()?.layers.into_iter().take(MOST) {
        let is_bundle = layer.media_type == BUNDLE;
        if !is_bundle && layer.media_type != SIMPLE_SIGNING {
            continue;
        }
        let bytes = repository.blob(&layer, SIGNATURE_LIMIT).await?;
        signatures.push(if is_bundle {
            Signature::SigstoreBundle(bytes)
        } else {
            Signature::SimpleSigning { payload: bytes, annotations: layer.annotations }
        });
    }
    Ok(signatures)
}
