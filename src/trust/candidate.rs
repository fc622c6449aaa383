//! One form for both kinds of signatures, and what has to have been signed.

use bytes::Bytes;
use serde::Deserialize;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Artifact, Bundle, MediaType, Sha256Hash, SignatureBytes, SignatureContent, Statement};

use super::refusal::Finding;
use super::{MOST_BYTES, Signature, simple_signing};

/// Payload of a DSSE envelope: an in-toto statement.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate by which cosign says "this is signed"; attestations have others, and say something else.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// The same in the older format.
const SIGNED_SIMPLY: &str = "cosign container image signature";

/// A signature that has the right shape. Nothing in it is trusted yet.
pub(super) struct Candidate {
    bundle: Bundle,
    signature: SignatureBytes,
    signed: Vec<u8>,
    content: Content,
}

enum Content {
    /// The payload of the envelope.
    Statement(Vec<u8>),
    /// The layer.
    SimpleSigning(Bytes),
}

/// What the older format signs, as far as it matters.
#[derive(Deserialize)]
struct SimpleSigning {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Candidate {
    pub(super) fn read(signature: &Signature) -> Result<Self, Finding> {
        let size = match signature {
            Signature::SigstoreBundle(bytes) => bytes.len(),
            Signature::SimpleSigning { payload, annotations } => {
                payload.len() + annotations.values().map(String::len).sum::<usize>()
            }
        };
        if size > MOST_BYTES {
            return Err(Finding::Unreadable(format!("it has {size} bytes; at most {MOST_BYTES} are read")));
        }
        match signature {
            Signature::SigstoreBundle(bytes) => Self::of_bundle(bytes),
            Signature::SimpleSigning { payload, annotations } => {
                let (bundle, signature) = simple_signing::translate(annotations)?;
                let content = Content::SimpleSigning(payload.clone());
                Ok(Self { bundle, signature, signed: payload.to_vec(), content })
            }
        }
    }

    fn of_bundle(bytes: &[u8]) -> Result<Self, Finding> {
        let bundle: Bundle = serde_json::from_slice(bytes)
            .map_err(|error| Finding::Unreadable(format!("it is no sigstore bundle: {error}")))?;
        if bundle.media_type() != MediaType::Bundle0_3 {
            return Err(Finding::Unreadable(format!(
                "its format is {}, not {}",
                bundle.media_type(),
                MediaType::Bundle0_3
            )));
        }
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(Finding::Unreadable(
                "it signs bytes, as `cosign sign-blob` does, not the digest of a manifest".into(),
            ));
        };
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(Finding::Unreadable(format!("it signs {:?}, not {PAYLOAD_TYPE:?}", envelope.payload_type)));
        }
        let (signature, signed) = (envelope.signature.sig.clone(), envelope.pae());
        let content = Content::Statement(envelope.payload.as_bytes().to_vec());
        Ok(Self { bundle, signature, signed, content })
    }

    /// The hint to the key; `None` when it was signed with a certificate.
    pub(super) fn key_hint(&self) -> Option<&str> {
        match &self.bundle.verification_material.content {
            VerificationMaterialContent::PublicKey(key) => Some(&key.hint),
            _ => None,
        }
    }

    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn signature(&self) -> &SignatureBytes {
        &self.signature
    }

    /// The bytes that the signature is over.
    pub(super) fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// What the sigstore crates compare with the bundle: a statement names the artifact, a payload is the artifact.
    pub(super) fn artifact(&self, digest: &Sha256Hash) -> Artifact<'_> {
        match &self.content {
            Content::Statement(_) => Artifact::from_digest(digest),
            Content::SimpleSigning(payload) => Artifact::from_blob(payload),
        }
    }

    /// Whether what was signed says that this digest is signed. To be asked after the signature was found to be good.
    pub(super) fn names(&self, digest: &Sha256Hash) -> Result<(), Finding> {
        let (kind, wanted_kind, named, digests) = match &self.content {
            Content::Statement(json) => {
                let statement: Statement = parse(json)?;
                if statement.predicate_type == SIGNED && statement.type_ != Statement::TYPE_V1 {
                    return Err(Finding::OtherStatement(format!("a statement of type {:?}", statement.type_)));
                }
                let named = statement.matches_sha256(digest);
                let digests = statement.subject.iter().filter_map(|subject| subject.digest.sha256);
                let digests = digests.map(|hash| format!("sha256:{}", hash.to_hex())).collect::<Vec<_>>();
                (statement.predicate_type, SIGNED, named, digests.join(", "))
            }
            Content::SimpleSigning(json) => {
                let SimpleSigning { critical: Critical { image, kind } } = parse(json)?;
                let named = image.digest == format!("sha256:{}", digest.to_hex());
                (kind, SIGNED_SIMPLY, named, image.digest)
            }
        };
        if kind != wanted_kind {
            return Err(Finding::OtherStatement(format!("an attestation ({kind})")));
        }
        if named { Ok(()) } else { Err(Finding::OtherDigest(digests)) }
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Finding> {
    serde_json::from_slice(json).map_err(|error| Finding::Unreadable(format!("what it signs cannot be read: {error}")))
}
