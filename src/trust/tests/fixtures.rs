//! Test data, nearly all about one digest, made by the real cosign and by a virtual Sigstore. To make it anew, with other keys:
//! `cargo run -p headwater-e2e -- signatures src/trust/testdata`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::trust::{Identity, Policy, PublicKey, Signature, TrustedRoot};

pub(in crate::trust) const DIGEST: &str = include_str!("../testdata/digest");
pub(in crate::trust) const COSIGN_PUB: &[u8] = include_bytes!("../testdata/cosign.pub");
pub(in crate::trust) const RELEASE_PUB: &[u8] = include_bytes!("../testdata/release.pub");
pub(in crate::trust) const TRUSTED_ROOT: &[u8] = include_bytes!("../testdata/trusted-root.json");

/// Whose the keyless signatures are.
pub(in crate::trust) const SUBJECT: &str =
    "https://github.com/acme/bundles/.github/workflows/release.yml@refs/tags/v1.2.3";
pub(in crate::trust) const ISSUER: &str = "https://token.actions.githubusercontent.com";

macro_rules! bundle {
    ($name:literal) => {
        Signature::SigstoreBundle(Bytes::from_static(include_bytes!(concat!("../testdata/", $name, ".sigstore.json"))))
    };
}

macro_rules! older {
    ($name:literal) => {
        Signature::SimpleSigning {
            payload: Bytes::from_static(include_bytes!(concat!("../testdata/", $name, "-old.payload.json"))),
            annotations: serde_json::from_slice(include_bytes!(concat!(
                "../testdata/",
                $name,
                "-old.annotations.json"
            )))
            .unwrap(),
        }
    };
}

/// Signatures by keys: name of the key, the key, both formats.
pub(in crate::trust) fn by_keys() -> [(&'static str, &'static [u8], [Signature; 2]); 4] {
    [
        ("cosign.pub", COSIGN_PUB, [bundle!("cosign"), older!("cosign")]),
        ("release.pub", RELEASE_PUB, [bundle!("release"), older!("release")]),
        ("p384.pub", include_bytes!("../testdata/p384.pub"), [bundle!("p384"), older!("p384")]),
        ("rsa.pub", include_bytes!("../testdata/rsa.pub"), [bundle!("rsa"), older!("rsa")]),
    ]
}

/// By `cosign.pub`, in both formats.
pub(in crate::trust) fn by_cosign() -> [Signature; 2] {
    [bundle!("cosign"), older!("cosign")]
}

/// `cosign attest` with `cosign.pub`.
pub(in crate::trust) fn attestation_by_cosign() -> Signature {
    bundle!("cosign-attestation")
}

/// A key whose signatures are in the log of [`TRUSTED_ROOT`], and these in both formats.
pub(in crate::trust) fn logged() -> (&'static [u8], [Signature; 2]) {
    (include_bytes!("../testdata/logged.pub"), [bundle!("logged"), older!("logged")])
}

/// Keyless, in both formats.
pub(in crate::trust) fn keyless() -> [Signature; 2] {
    [bundle!("keyless"), older!("keyless")]
}

/// Signed after the certificate had expired.
pub(in crate::trust) fn keyless_late() -> Signature {
    bundle!("keyless-late")
}

/// With a certificate that no CT log has seen.
pub(in crate::trust) fn keyless_without_sct() -> Signature {
    bundle!("keyless-without-sct")
}

/// A statement that is no signature.
pub(in crate::trust) fn keyless_attestation() -> Signature {
    bundle!("keyless-attestation")
}

/// What the attestations by the public Sigstore and its staging instance are about.
pub(in crate::trust) const PUBLIC_DIGEST: &str =
    "sha256:54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f";

/// Attestations of a conda package, by the public Sigstore (Rekor 1) and by its staging instance (Rekor 2). Nobody can make these
/// anew; they are test data of sigstore-verify, Apache-2.0.
pub(in crate::trust) fn public_attestations() -> [Signature; 2] {
    [bundle!("public-rekor1"), bundle!("staging-rekor2")]
}

/// Every signature there is.
pub(in crate::trust) fn all() -> Vec<Signature> {
    let keyless_ones = [keyless_late(), keyless_without_sct(), keyless_attestation(), attestation_by_cosign()]
        .into_iter()
        .chain(keyless())
        .chain(logged().1)
        .chain(public_attestations());
    by_keys().into_iter().flat_map(|(_, _, signatures)| signatures).chain(keyless_ones).collect()
}

/// Another digest.
pub(in crate::trust) fn other_digest() -> String {
    format!("sha256:{}", "0123456789abcdef".repeat(4))
}

pub(in crate::trust) fn root() -> TrustedRoot {
    TrustedRoot::parse(TRUSTED_ROOT).unwrap()
}

pub(in crate::trust) fn trusting_key(name: &str, pem: &[u8]) -> Policy {
    Policy::public_keys(vec![PublicKey::parse(name, pem).unwrap()], None).unwrap()
}

pub(in crate::trust) fn trusting_identity(issuer: &str, subject: &str) -> Policy {
    Policy::keyless(vec![Identity::parse(issuer, subject).unwrap()], root()).unwrap()
}

/// A signature with one text in it replaced by another of the same or another length.
pub(in crate::trust) fn changed(signature: &Signature, from: &str, to: &str) -> Signature {
    let change = |text: &str| text.replace(from, to);
    let of_bytes = |bytes: &Bytes| Bytes::from(change(str::from_utf8(bytes).unwrap()));
    let after = match signature {
        Signature::SigstoreBundle(bytes) => Signature::SigstoreBundle(of_bytes(bytes)),
        Signature::SimpleSigning { payload, annotations } => Signature::SimpleSigning {
            payload: of_bytes(payload),
            annotations: annotations.iter().map(|(k, v)| (change(k), change(v))).collect::<BTreeMap<_, _>>(),
        },
    };
    assert_ne!(&after, signature, "{from:?} is not in it");
    after
}
