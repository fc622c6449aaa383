//! What keyless signatures and log entries are compared with.

use std::fmt;
use std::sync::{Arc, OnceLock};

use sigstore_verify::Verifier;
use sigstore_verify::trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TrustedRoot as Root};

use super::PolicyError;

/// Certificate authorities, transparency logs and timestamp authorities that are trusted. Cheap to clone.
#[derive(Clone)]
pub struct TrustedRoot(Arc<Verifier>);

impl TrustedRoot {
    /// Parses a `trusted_root.json`, as `cosign trusted-root create` writes it or the TUF repository of a Sigstore publishes it.
    pub fn parse(json: &[u8]) -> Result<Self, PolicyError> {
        let refuse = |why: &dyn fmt::Display| {
            PolicyError(format!(
                "the trusted root cannot be used ({why}); expected a trusted_root.json, as `cosign trusted-root create` writes it"
            ))
        };
        let text = str::from_utf8(json).map_err(|_| refuse(&"it is no text"))?;
        let root = Root::from_json(text).map_err(|error| refuse(&error))?;
        if root.certificate_authorities.is_empty() && root.tlogs.is_empty() {
            return Err(refuse(&"it names neither a certificate authority nor a transparency log"));
        }
        Ok(Self(Arc::new(Verifier::new(&root).map_err(|error| refuse(&error))?)))
    }

    /// The root of the public Sigstore as it was when this program was built. Parsed at the first use, and then shared.
    pub fn embedded() -> Result<Self, PolicyError> {
        static EMBEDDED: OnceLock<Result<TrustedRoot, PolicyError>> = OnceLock::new();
        EMBEDDED.get_or_init(|| Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())).clone()
    }

    pub(super) fn verifier(&self) -> &Verifier {
        &self.0
    }
}

impl fmt::Debug for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustedRoot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_root_is_parsed_once() {
        let (one, other) = (TrustedRoot::embedded().unwrap(), TrustedRoot::embedded().unwrap());
        assert!(Arc::ptr_eq(&one.0, &other.0));
    }

    #[test]
    fn what_is_no_trusted_root_is_refused() {
        for json in [
            &b""[..],
            b"{}",
            b"\xff",
            b"[]",
            br#"{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#,
        ] {
            let error = TrustedRoot::parse(json).unwrap_err().to_string();
            assert!(error.starts_with("the trusted root cannot be used ("), "{error}");
            assert!(
                error.ends_with("); expected a trusted_root.json, as `cosign trusted-root create` writes it"),
                "{error}"
            );
        }
    }
}
