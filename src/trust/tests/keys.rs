//! Signatures by keys, and what holds for all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::fixtures::*;
use super::{edited, found, refusal};
use crate::trust::{MOST_KEYS, Policy, PublicKey, Signature, verify};

#[test]
fn what_cosign_signed_with_a_key_is_accepted() {
    for (name, pem, signatures) in by_keys() {
        for signature in signatures {
            let verified = verify(&trusting_key(name, pem), DIGEST, &[signature]).unwrap();
            assert_eq!(verified.digest(), DIGEST);
            let fingerprint = PublicKey::parse(name, pem).unwrap().fingerprint().to_owned();
            assert_eq!(verified.to_string(), format!("signed by key {name} (SHA256:{fingerprint})"));
        }
    }
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let keys = || by_keys().map(|(name, pem, _)| PublicKey::parse(name, pem).unwrap());
    let mut signatures = all();
    signatures.insert(0, Signature::SigstoreBundle(Bytes::from_static(b"broken")));
    for (name, pem, _) in by_keys() {
        let verified = verify(&trusting_key(name, pem), DIGEST, &signatures).unwrap();
        assert!(verified.by().starts_with(&format!("key {name} ")), "{verified}");
    }
    let any = Policy::public_keys(keys().into(), None).unwrap();
    for signature in by_keys().into_iter().flat_map(|(_, _, signatures)| signatures) {
        verify(&any, DIGEST, &[signature]).unwrap();
    }
    assert!(verify(&trusting_identity(ISSUER, SUBJECT), DIGEST, &signatures).is_ok());
}

#[test]
fn a_signature_by_another_key_is_refused_with_its_fingerprint() {
    let policy = trusting_key("release.pub", RELEASE_PUB);
    let [bundle, older] = by_cosign();
    let cosign = PublicKey::parse("cosign.pub", COSIGN_PUB).unwrap();
    let release = PublicKey::parse("release.pub", RELEASE_PUB).unwrap();
    assert_eq!(
        refusal(&policy, DIGEST, &[bundle]),
        format!(
            "no signature matches key release.pub (SHA256:{}); found one by another key (SHA256:{})",
            release.fingerprint(),
            cosign.fingerprint()
        )
    );
    assert_eq!(found(&policy, DIGEST, &[older]), "one by another key");
    assert_eq!(found(&policy, DIGEST, &[]), "no signature at all");
    // The nearest of several is told, whatever the order.
    let mut signatures = all();
    signatures.retain(|signature| !by_keys()[1].2.contains(signature));
    let told = found(&policy, DIGEST, &signatures);
    signatures.reverse();
    assert_eq!(found(&policy, DIGEST, &signatures), told);
    assert!(told.starts_with("16, the nearest: one by another key"), "{told}");
}

#[test]
fn a_changed_payload_is_refused() {
    let policy = trusting_key("cosign.pub", COSIGN_PUB);
    let key = PublicKey::parse("cosign.pub", COSIGN_PUB).unwrap();
    let [bundle, older] = by_cosign();
    let other = other_digest();
    let tampered = edited(&bundle, |bundle| {
        let payload = &mut bundle["dsseEnvelope"]["payload"];
        let text = String::from_utf8(STANDARD.decode(payload.as_str().unwrap()).unwrap()).unwrap();
        *payload = STANDARD.encode(text.replace(&DIGEST[7..], &other[7..])).into();
    });
    assert_eq!(found(&policy, &other, &[tampered]), format!("one that says it is by {key}, but is altered"));
    assert_eq!(found(&policy, &other, &[changed(&older, DIGEST, &other)]), "one by another key");

    // The type of the payload is signed too.
    let retyped = edited(&bundle, |bundle| bundle["dsseEnvelope"]["payloadType"] = "text/plain".into());
    assert!(
        found(&policy, DIGEST, &[retyped]).contains(r#"it signs "text/plain", not "application/vnd.in-toto+json""#)
    );
    let doubled = edited(&bundle, |bundle| {
        let signatures = bundle["dsseEnvelope"]["signatures"].as_array_mut().unwrap();
        signatures.extend(signatures.clone());
    });
    assert!(found(&policy, DIGEST, &[doubled]).contains("exactly one signature"));

    let mut tampered = keyless().to_vec();
    tampered.push(edited(&keyless()[0], |bundle| {
        let payload = &mut bundle["dsseEnvelope"]["payload"];
        let text = String::from_utf8(STANDARD.decode(payload.as_str().unwrap()).unwrap()).unwrap();
        *payload = STANDARD.encode(text.replace(&DIGEST[7..], &other[7..])).into();
    }));
    tampered.push(changed(&keyless()[1], DIGEST, &other));
    let policy = trusting_identity(ISSUER, SUBJECT);
    for signature in tampered.split_off(2) {
        assert_eq!(found(&policy, &other, &[signature]), "one that does not belong to its certificate, or is altered");
    }
}

#[test]
fn keys_and_identities_are_not_mixed_up() {
    let [bundle, older] = keyless();
    for signature in [bundle, older] {
        let told = found(&trusting_key("cosign.pub", COSIGN_PUB), DIGEST, &[signature]);
        assert_eq!(told, "one made with a certificate, not with a key");
    }
    for signature in by_cosign() {
        let told = found(&trusting_identity(ISSUER, SUBJECT), DIGEST, &[signature]);
        assert!(told.starts_with("one by another key"), "{told}");
    }
}

#[test]
fn keys_with_a_log_need_an_entry() {
    let (pem, signatures) = logged();
    let policy = Policy::public_keys(vec![PublicKey::parse("logged.pub", pem).unwrap()], Some(root())).unwrap();
    for signature in signatures {
        verify(&policy, DIGEST, std::slice::from_ref(&signature)).unwrap();
        let told = found(&policy, &other_digest(), &[signature]);
        assert_eq!(told, format!("one for another digest, {DIGEST}"));
    }

    let key = || vec![PublicKey::parse("cosign.pub", COSIGN_PUB).unwrap()];
    let policy = Policy::public_keys(key(), Some(root())).unwrap();
    for signature in by_cosign() {
        let told = refusal(&policy, DIGEST, &[signature]);
        assert!(told.contains(", in a transparency log; found one with no transparency log entry"), "{told}");
    }
    // An entry of the right log, but about another signature.
    let Signature::SigstoreBundle(bytes) = &keyless()[0] else { panic!("no bundle") };
    let borrowed: Value = serde_json::from_slice(bytes).unwrap();
    let borrowing = edited(&by_cosign()[0], |bundle| {
        let entries = borrowed["verificationMaterial"]["tlogEntries"].clone();
        bundle["verificationMaterial"]["tlogEntries"] = entries;
    });
    let told = found(&policy, DIGEST, &[borrowing]);
    assert!(told.starts_with("one that cannot be trusted: "), "{told}");
}

#[test]
fn an_attestation_is_no_signature() {
    let told = "an attestation (https://slsa.dev/provenance/v1), which is no signature";
    assert_eq!(found(&trusting_key("cosign.pub", COSIGN_PUB), DIGEST, &[attestation_by_cosign()]), told);
    assert_eq!(found(&trusting_identity(ISSUER, SUBJECT), DIGEST, &[keyless_attestation()]), told);
}

#[test]
fn a_signature_for_another_digest_is_refused() {
    let other = other_digest();
    for signature in by_cosign() {
        let told = found(&trusting_key("cosign.pub", COSIGN_PUB), &other, &[signature]);
        assert_eq!(told, format!("one for another digest, {DIGEST}"));
    }
    for signature in keyless() {
        let told = found(&trusting_identity(ISSUER, SUBJECT), &other, &[signature]);
        assert_eq!(told, format!("one for another digest, {DIGEST}"));
    }
    let policy = trusting_key("cosign.pub", COSIGN_PUB);
    for digest in ["", "sha256:", "sha512:00", &DIGEST[7..], &DIGEST.replace("sha256:", "sha256:0")] {
        assert!(refusal(&policy, digest, &by_cosign()).contains("is no digest to verify"), "{digest}");
    }
}

#[test]
fn policies_need_somebody_to_trust() {
    let none = Policy::public_keys(vec![], None).unwrap_err().to_string();
    assert_eq!(none, "there is no public key; add one in PEM, as `cosign generate-key-pair` writes it");
    let many = (0..=MOST_KEYS).map(|_| PublicKey::parse("a.pub", COSIGN_PUB).unwrap()).collect();
    let many = Policy::public_keys(many, None).unwrap_err().to_string();
    assert_eq!(many, "there are 17 public keys; at most 16 are allowed");
    let none = Policy::keyless(vec![], root()).unwrap_err().to_string();
    assert_eq!(none, "there is no identity; name issuer and subject of one");
}
