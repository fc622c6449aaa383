//! Whether a digest is signed by somebody who is trusted.
//!
//! Pure: somebody else finds the signatures in a registry, this folder judges them. It opens no connection, not for keyless
//! signatures either: those carry all their proofs with them, and are compared with a [`TrustedRoot`]. (The clock is read by
//! `sigstore-verify` alone, which refuses log entries from the future.)
//!
//! ```text
//! PublicKey, Identity, TrustedRoot ──▶ Policy ─┐
//!                                              ├─▶ verify ──▶ Verified, or Refusal: what was wrong with the nearest candidate
//! Signature ──▶ Candidate (one form for both) ─┘
//! ```
//!
//! | | what decides |
//! |---|---|
//! | keys | the signature over the bytes, checked here; with a trusted root also the log entry, by `sigstore-verify` |
//! | identities | certificate, CT log, signing time, log entry, signature: `sigstore-verify`; then the identity, here |
//! | both | that what was signed is the statement "this digest is signed", and this digest: [`candidate`] |
//!
//! Keys without a log are checked here because `sigstore-verify` insists on a log entry or a timestamp, and a team behind an air
//! gap has neither.

mod candidate;
mod identity;
mod public_key;
mod refusal;
mod simple_signing;
mod trusted_root;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use sigstore_verify::types::Sha256Hash;
use sigstore_verify::{PublicKeyVerificationPolicy, SubjectAltName, VerificationPolicy};

use candidate::Candidate;
use refusal::{Finding, clipped};

pub use identity::Identity;
pub use public_key::PublicKey;
pub use refusal::Refusal;
pub use trusted_root::TrustedRoot;

/// More candidates than anybody makes for one artifact; who can push them must not keep us busy for ever.
pub const MOST_CANDIDATES: usize = 64;
/// A signature is some kilobytes; this is room for the attestations that lie beside it.
pub const MOST_BYTES: usize = 1 << 20;
/// Each key is tried on each candidate.
const MOST_KEYS: usize = 16;

/// A candidate found in a registry. Nothing in it is trusted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// A sigstore bundle (`application/vnd.dev.sigstore.bundle.v0.3+json`), the layer of a referrer: what cosign writes today.
    SigstoreBundle(Bytes),
    /// A layer of cosign's older format (`application/vnd.dev.cosign.simplesigning.v1+json`).
    SimpleSigning {
        /// The layer: what was signed.
        payload: Bytes,
        /// The layer's annotations: signature, certificate, log entry.
        annotations: BTreeMap<String, String>,
    },
}

/// Key material or an identity that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// Who has to have signed.
#[derive(Debug)]
pub struct Policy {
    signers: Signers,
    /// The same in words.
    wanted: String,
}

#[derive(Debug)]
enum Signers {
    Keys { keys: Vec<PublicKey>, log: Option<TrustedRoot> },
    Identities { identities: Vec<Identity>, root: TrustedRoot },
}

impl Policy {
    /// One of these keys has to have signed. With a trusted root, in one of its transparency logs; without, no log is asked for.
    pub fn public_keys(keys: Vec<PublicKey>, log: Option<TrustedRoot>) -> Result<Self, PolicyError> {
        if keys.is_empty() {
            return Err(PolicyError(
                "there is no public key; add one in PEM, as `cosign generate-key-pair` writes it".into(),
            ));
        }
        if keys.len() > MOST_KEYS {
            return Err(PolicyError(format!("there are {} public keys; at most {MOST_KEYS} are allowed", keys.len())));
        }
        let names = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let wanted = if log.is_some() { format!("{names}, in a transparency log") } else { names };
        Ok(Self { signers: Signers::Keys { keys, log }, wanted })
    }

    /// One of these identities has to have signed, with a certificate and a log entry of this root.
    pub fn keyless(identities: Vec<Identity>, root: TrustedRoot) -> Result<Self, PolicyError> {
        if identities.is_empty() {
            return Err(PolicyError("there is no identity; name issuer and subject of one".into()));
        }
        let wanted = identities.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        Ok(Self { signers: Signers::Identities { identities, root }, wanted })
    }

    fn judge(&self, digest: &Sha256Hash, signature: &Signature) -> Result<String, Finding> {
        let candidate = Candidate::read(signature)?;
        match &self.signers {
            Signers::Keys { keys, log } => by_key(keys, log.as_ref(), &candidate, digest),
            Signers::Identities { identities, root } => by_identity(identities, root, &candidate, digest),
        }
    }
}

/// A digest that is signed as wanted. [`verify`] alone makes one: pull what it names, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    digest: String,
    by: String,
}

impl Verified {
    /// The digest that was looked at.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Who signed.
    pub fn by(&self) -> &str {
        &self.by
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signed by {}", self.by)
    }
}

/// Looks for a signature of `digest` that the policy accepts. One is enough; broken ones beside it do no harm.
pub fn verify(policy: &Policy, digest: &str, signatures: &[Signature]) -> Result<Verified, Refusal> {
    let Some(hash) = digest.strip_prefix("sha256:").and_then(|hex| Sha256Hash::from_hex(hex).ok()) else {
        return Err(Refusal::unusable_digest(digest));
    };
    let mut findings = Vec::new();
    for signature in signatures.iter().take(MOST_CANDIDATES) {
        match policy.judge(&hash, signature) {
            Ok(by) => return Ok(Verified { digest: digest.to_owned(), by }),
            Err(finding) => findings.push(finding),
        }
    }
    Err(Refusal::of(&policy.wanted, findings, signatures.len()))
}

fn by_key(
    keys: &[PublicKey],
    log: Option<&TrustedRoot>,
    candidate: &Candidate,
    digest: &Sha256Hash,
) -> Result<String, Finding> {
    let Some(hint) = candidate.key_hint() else { return Err(Finding::Certified) };
    let Some(key) = keys.iter().find(|key| key.has_signed(candidate.signed(), candidate.signature())) else {
        return Err(match keys.iter().find(|key| key.fingerprint() == hint) {
            Some(key) => Finding::Altered { key: key.to_string() },
            None => Finding::OtherKey { hint: hint.to_owned() },
        });
    };
    candidate.names(digest)?;
    if let Some(root) = log {
        let policy = PublicKeyVerificationPolicy::new(key.der().clone());
        root.verifier()
            .verify(candidate.artifact(digest), candidate.bundle(), &policy)
            .map_err(|error| Finding::of(&error, candidate, digest))?;
    }
    Ok(key.to_string())
}

fn by_identity(
    identities: &[Identity],
    root: &TrustedRoot,
    candidate: &Candidate,
    digest: &Sha256Hash,
) -> Result<String, Finding> {
    if let Some(hint) = candidate.key_hint() {
        return Err(Finding::OtherKey { hint: hint.to_owned() });
    }
    // Any identity, since several may be wanted, and as expressions; which one it is, is compared below.
    let result = root
        .verifier()
        .verify(candidate.artifact(digest), candidate.bundle(), &VerificationPolicy::any_identity())
        .map_err(|error| Finding::of(&error, candidate, digest))?;
    if !(result.certificate_verified() && result.sct_verified() && result.tlog_verified()) {
        return Err(Finding::Untrusted("its proofs are not complete".into()));
    }
    candidate.names(digest)?;
    // A certificate without one of the two is nobody's, whatever an expression says to an empty text.
    let (subject, issuer) = (result.identity().map(SubjectAltName::as_str), result.issuer());
    let known = subject.zip(issuer).filter(|(subject, issuer)| identities.iter().any(|i| i.admits(issuer, subject)));
    let Some((subject, issuer)) = known else {
        let told = |text: Option<&str>| text.unwrap_or("(none)").to_owned();
        return Err(Finding::OtherIdentity { subject: told(subject), issuer: told(issuer) });
    };
    Ok(format!("identity {:?} issuer {:?}", clipped(subject, 200), clipped(issuer, 100)))
}
