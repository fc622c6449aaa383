//! What the real cosign leaves in a real registry, judged by `headwater::trust`. Signatures of yesterday's cosign are in
//! `src/trust/testdata`; this is today's, with keys of its own.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic and says why")]

use headwater::trust::{Identity, Policy, PublicKey, Signature, TrustedRoot, verify};
use headwater_e2e::sigstore::{self, Algorithm, Cosign, Format};
use headwater_e2e::{Registry, RegistryOptions};

struct Shop {
    cosign: Cosign,
    registry: Registry,
}

impl Shop {
    fn open() -> Self {
        Self { cosign: Cosign::new().unwrap(), registry: Registry::start(&RegistryOptions::default()).unwrap() }
    }

    fn key(&self, name: &str, algorithm: Algorithm) -> PublicKey {
        let file = self.cosign.generate_key(name, algorithm).unwrap();
        PublicKey::parse(&format!("{name}.pub"), &std::fs::read(file).unwrap()).unwrap()
    }

    /// Pushes an artifact and returns its digest and its full name.
    fn push(&self, repository: &str) -> (String, String) {
        let digest = sigstore::push_artifact(&self.registry, repository).unwrap();
        let name = format!("{}/{repository}@{digest}", self.registry.address());
        (digest, name)
    }

    fn signatures(&self, repository: &str, digest: &str) -> Vec<Signature> {
        let found = sigstore::signatures(&self.registry, repository, digest).unwrap();
        let signature = |found: sigstore::Found| match found.media_type.as_str() {
            sigstore::BUNDLE => Signature::SigstoreBundle(found.content.into()),
            _ => Signature::SimpleSigning { payload: found.content.into(), annotations: found.annotations },
        };
        found.into_iter().map(signature).collect()
    }
}

fn trusting(key: PublicKey) -> Policy {
    Policy::public_keys(vec![key], None).unwrap()
}

#[test]
fn keys_of_every_kind_sign_in_both_formats() {
    let shop = Shop::open();
    let stranger = trusting(shop.key("stranger", Algorithm::P256));
    for (name, algorithm) in [("p256", Algorithm::P256), ("p384", Algorithm::P384), ("rsa", Algorithm::Rsa)] {
        let policy = trusting(shop.key(name, algorithm));
        for (format, repository) in [(Format::Bundle, "bundle"), (Format::Older, "older")] {
            let repository = format!("{name}/{repository}");
            let (digest, artifact) = shop.push(&repository);
            assert!(shop.signatures(&repository, &digest).is_empty());
            shop.cosign.sign(&artifact, name, format).unwrap();
            let signatures = shop.signatures(&repository, &digest);
            let [signature] = signatures.as_slice() else { panic!("{name} {format:?}: {signatures:?}") };
            assert_eq!(matches!(signature, Signature::SigstoreBundle(_)), format == Format::Bundle);

            let verified = verify(&policy, &digest, &signatures).unwrap();
            assert!(verified.by().starts_with(&format!("key {name}.pub (SHA256:")), "{verified}");
            let refusal = verify(&stranger, &digest, &signatures).unwrap_err().to_string();
            assert!(refusal.contains("; found one by another key"), "{refusal}");
            let refusal = verify(&policy, &format!("sha256:{}", "0".repeat(64)), &signatures).unwrap_err().to_string();
            assert!(refusal.ends_with(&format!("; found one for another digest, {digest}")), "{refusal}");
        }
    }
}

#[test]
fn one_of_several_signatures_is_enough_and_an_attestation_is_none() {
    let shop = Shop::open();
    let (release, team) = (shop.key("release", Algorithm::P256), shop.key("team", Algorithm::P256));
    let (release, team) = (trusting(release), trusting(team));
    let (digest, artifact) = shop.push("several");
    shop.cosign.attest(&artifact, "release").unwrap();
    shop.cosign.sign(&artifact, "team", Format::Bundle).unwrap();
    let signatures = shop.signatures("several", &digest);
    assert_eq!(signatures.len(), 2);
    verify(&team, &digest, &signatures).unwrap();
    let refusal = verify(&release, &digest, &signatures).unwrap_err().to_string();
    assert!(
        refusal.ends_with(
            "; found 2, the nearest: an attestation (https://slsa.dev/provenance/v1), which is no signature"
        ),
        "{refusal}"
    );
    shop.cosign.sign(&artifact, "release", Format::Older).unwrap();
    verify(&release, &digest, &shop.signatures("several", &digest)).unwrap();
}

#[test]
fn a_virtual_sigstore_signs_for_an_identity() {
    let (issuer, subject) = ("https://issuer.example", "https://ci.example/acme/release@refs/tags/v1");
    let shop = Shop::open();
    let (digest, _) = shop.push("keyless");
    let folder = tempfile::tempdir().unwrap();
    shop.cosign.keyless(&digest, subject, issuer, folder.path()).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let root = TrustedRoot::parse(&read("trusted-root.json")).unwrap();
    let signatures = [Signature::SigstoreBundle(read("keyless.sigstore.json").into())];
    let policy =
        |subject: &str| Policy::keyless(vec![Identity::parse(issuer, subject).unwrap()], root.clone()).unwrap();
    verify(&policy(r"^https://ci\.example/acme/release@refs/tags/v[0-9]+$"), &digest, &signatures).unwrap();
    let refusal = verify(&policy("https://ci.example/acme/other"), &digest, &signatures).unwrap_err().to_string();
    assert!(refusal.ends_with(&format!("; found identity {subject:?} issuer {issuer:?}")), "{refusal}");
    let late = [Signature::SigstoreBundle(read("keyless-late.sigstore.json").into())];
    let refusal = verify(&policy(subject), &digest, &late).unwrap_err().to_string();
    assert!(refusal.contains("certificate chain is invalid"), "{refusal}");
}
