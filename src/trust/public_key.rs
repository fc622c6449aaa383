//! Public keys in PEM.

use std::fmt;

use sigstore_verify::crypto::{KeyAlgorithm, VerificationKey};
use sigstore_verify::types::{DerPublicKey, SignatureBytes};

use super::PolicyError;

/// A public key that is trusted, and the name its owner knows it by.
pub struct PublicKey {
    name: String,
    fingerprint: String,
    der: DerPublicKey,
    key: VerificationKey,
}

impl PublicKey {
    /// Parses a PEM block `PUBLIC KEY`: ECDSA (P-256 or P-384) or RSA. `name` is for messages, such as `cosign.pub`.
    pub fn parse(name: &str, pem: &[u8]) -> Result<Self, PolicyError> {
        let refuse = |why: &str| {
            PolicyError(format!(
                "{name}: {why}; expected one public key in PEM (\"-----BEGIN PUBLIC KEY-----\"), as `cosign generate-key-pair` writes it to cosign.pub"
            ))
        };
        let text = str::from_utf8(pem).map_err(|_| refuse("is no text"))?;
        if text.contains("PRIVATE KEY-----") {
            return Err(refuse("holds a private key, which belongs to the one who signs and nowhere else"));
        }
        if text.matches("-----BEGIN ").count() > 1 {
            return Err(refuse("holds more than one PEM block"));
        }
        let der = DerPublicKey::from_pem(text).map_err(|_| refuse("holds no public key in PEM"))?;
        match KeyAlgorithm::from_spki(&der) {
            Ok(KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Rsa) => {}
            // cosign hashes before it signs with these (Ed25519ph), which our crypto library does not know.
            Ok(KeyAlgorithm::Ed25519) => return Err(refuse("is an Ed25519 key; use one of ECDSA or RSA")),
            Ok(_) => return Err(refuse("is a key of an unknown kind; use one of ECDSA or RSA")),
            Err(error) => return Err(refuse(&format!("cannot be used ({error})"))),
        }
        let key = VerificationKey::from_spki(&der).map_err(|error| refuse(&format!("cannot be used ({error})")))?;
        let fingerprint = sigstore_verify::crypto::sha256(der.as_bytes()).to_base64();
        Ok(Self { name: name.to_owned(), fingerprint, der, key })
    }

    /// SHA-256 of the DER form, in base64: what cosign writes into a sigstore bundle as the hint to the key.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn der(&self) -> &DerPublicKey {
        &self.der
    }

    pub(super) fn has_signed(&self, bytes: &[u8], signature: &SignatureBytes) -> bool {
        self.key.verify(bytes, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} (SHA256:{})", self.name, self.fingerprint)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::fixtures::{COSIGN_PUB, RELEASE_PUB};

    #[test]
    fn a_key_is_named_with_its_fingerprint() {
        let key = PublicKey::parse("cosign.pub", COSIGN_PUB).unwrap();
        assert_eq!(key.to_string(), format!("key cosign.pub (SHA256:{})", key.fingerprint()));
        assert_eq!(key.fingerprint().len(), 44);
    }

    #[test]
    fn what_is_no_single_public_key_is_refused() {
        let both = [COSIGN_PUB, RELEASE_PUB].concat();
        let private =
            b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n";
        let no_key = b"-----BEGIN PUBLIC KEY-----\nYWJjZA==\n-----END PUBLIC KEY-----\n";
        let ed25519 = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAUD7j1xgXN+D+SgL6A6mU/9FeU11As/R5IZmKCPTR/SE=\n-----END PUBLIC KEY-----\n";
        for (pem, why) in [
            (&b""[..], "a.pub: holds no public key in PEM; expected"),
            (&b"ssh-ed25519 AAAA"[..], "a.pub: holds no public key in PEM; expected"),
            (&[0xff][..], "a.pub: is no text; expected"),
            (&both[..], "a.pub: holds more than one PEM block; expected"),
            (&private[..], "a.pub: holds a private key, which belongs"),
            (&ed25519[..], "a.pub: is an Ed25519 key; use one of ECDSA or RSA; expected"),
            (&no_key[..], "a.pub: cannot be used ("),
        ] {
            let error = PublicKey::parse("a.pub", pem).unwrap_err().to_string();
            assert!(error.starts_with(why) && !error.contains("c2VjcmV0"), "{error}");
        }
    }
}
