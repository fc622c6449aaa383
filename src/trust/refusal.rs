//! What is said when no signature is accepted.

use std::fmt;

use sigstore_verify::types::Sha256Hash;
use sigstore_verify::{Error, TransparencyLogError};

use super::MOST_CANDIDATES;
use super::candidate::Candidate;

/// Conditions and events are read by people; what others wrote into a registry must not fill them.
const LONGEST: usize = 512;

/// Why no signature is accepted. The same input gives the same text, in whatever order a registry lists signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// What is wrong with one candidate, from the farthest to the nearest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    /// No signature, or of a form we do not know.
    Unreadable(String),
    /// A certificate, where a key is wanted.
    Certified,
    /// Another key, or any where an identity is wanted.
    OtherKey {
        /// What it says about the key; empty in the older format.
        hint: String,
    },
    /// Claims to be by a key of ours, but the signature is not over these bytes.
    Altered {
        /// Ours.
        key: String,
    },
    /// The signature does not belong to the certificate it comes with.
    Broken,
    /// Certificate, signing time or log entry.
    Untrusted(String),
    /// There is no log entry, or no instant that anybody vouches for.
    NotLogged(String),
    /// Well signed, but says something else.
    OtherStatement(String),
    /// Well signed, but for something else.
    OtherDigest(String),
    /// All is well, but it is somebody else.
    OtherIdentity {
        /// Who.
        subject: String,
        /// Who vouches for that.
        issuer: String,
    },
}

impl Finding {
    /// Sorts what the sigstore crates say.
    pub(super) fn of(error: &Error, candidate: &Candidate, digest: &Sha256Hash) -> Self {
        use sigstore_verify::bundle::Error as Shape;
        match error {
            Error::ArtifactMismatch(_) => {
                candidate.names(digest).err().unwrap_or_else(|| Self::Untrusted(error.to_string()))
            }
            Error::SignatureInvalid(_) => Self::Broken,
            Error::Bundle(
                Shape::MissingInclusionPromise(_) | Shape::MissingInclusionProof(_) | Shape::MissingSigningTimeEvidence,
            ) => Self::NotLogged("no transparency log entry".into()),
            // Says what time it is now, which is another text each time; conditions are written when their text changes.
            Error::TransparencyLog(TransparencyLogError::IntegratedTime(why)) => {
                Self::Untrusted(why.split(" (current time").next().unwrap_or_default().to_owned())
            }
            Error::Timestamp(_) => Self::NotLogged(format!("no signing time to trust: {error}")),
            Error::Certificate(_) | Error::TransparencyLog(_) | Error::InvalidTrustRoot(_) => {
                Self::Untrusted(error.to_string())
            }
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "one that cannot be used: {}", clipped(why, 160)),
            Self::Certified => f.write_str("one made with a certificate, not with a key"),
            Self::OtherKey { hint } if hint.is_empty() => f.write_str("one by another key"),
            Self::OtherKey { hint } => write!(f, "one by another key (SHA256:{})", clipped(hint, 64)),
            Self::Altered { key } => write!(f, "one that says it is by {}, but is altered", clipped(key, 120)),
            Self::Broken => f.write_str("one that does not belong to its certificate, or is altered"),
            Self::Untrusted(why) => write!(f, "one that cannot be trusted: {}", clipped(why, 160)),
            Self::NotLogged(why) => write!(f, "one with {}", clipped(why, 160)),
            Self::OtherStatement(what) => write!(f, "{}, which is no signature", clipped(what, 160)),
            Self::OtherDigest(digest) => write!(f, "one for another digest, {}", clipped(digest, 100)),
            Self::OtherIdentity { subject, issuer } => {
                write!(f, "identity {:?} issuer {:?}", clipped(subject, 120), clipped(issuer, 60))
            }
        }
    }
}

impl Refusal {
    pub(super) fn unusable_digest(digest: &str) -> Self {
        Self(format!("{:?} is no digest to verify; expected sha256: and 64 hexadecimal digits", clipped(digest, 100)))
    }

    pub(super) fn of(wanted: &str, findings: Vec<Finding>, candidates: usize) -> Self {
        let wanted = clipped(wanted, 240);
        let text = match findings.into_iter().max() {
            None => format!("no signature matches {wanted}; found no signature at all"),
            Some(nearest) if candidates == 1 => format!("no signature matches {wanted}; found {nearest}"),
            Some(nearest) if candidates <= MOST_CANDIDATES => {
                format!("no signature matches {wanted}; found {candidates}, the nearest: {nearest}")
            }
            Some(nearest) => format!(
                "no signature matches {wanted}; found {candidates}, of which {MOST_CANDIDATES} were tried, the nearest: {nearest}"
            ),
        };
        Self(clipped(&text, LONGEST))
    }
}

/// At most `longest` bytes of a text that others wrote, without control characters.
pub(super) fn clipped(text: &str, longest: usize) -> String {
    const CUT: &str = "…";
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= longest {
        return clean;
    }
    let end = (0..=longest - CUT.len()).rev().find(|&end| clean.is_char_boundary(end)).unwrap_or(0);
    format!("{}{CUT}", &clean[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Candidate;
    use crate::trust::tests::fixtures::{DIGEST, by_cosign};

    #[test]
    fn the_same_refusal_is_the_same_text_at_any_time() {
        let [bundle, _] = by_cosign();
        let candidate = Candidate::read(&bundle).unwrap_or_else(|finding| panic!("{finding}"));
        let digest = Sha256Hash::from_hex(&DIGEST[7..]).unwrap();
        let error = |now: &str| {
            let why = format!("integrated time 2026-01-01T00:00:00Z is in the future (current time: {now})");
            Finding::of(&Error::TransparencyLog(TransparencyLogError::IntegratedTime(why)), &candidate, &digest)
        };
        assert_eq!(error("2025-01-01T00:00:00Z"), error("2025-01-02T00:00:00Z"));
        assert!(error("").to_string().ends_with("integrated time 2026-01-01T00:00:00Z is in the future"));
    }

    #[test]
    fn texts_of_others_are_cut_and_cleaned() {
        assert_eq!(clipped("abc", 3), "abc");
        assert_eq!(clipped("a\u{1b}\nb", 9), "a  b");
        assert_eq!(clipped("abcdefgh", 7), "abcd…");
        assert_eq!(clipped("ääääääää", 8), "ää…");
    }
}
