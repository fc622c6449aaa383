//! Signatures by identities.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sigstore_verify::trust_root::SIGSTORE_STAGING_TRUSTED_ROOT;

use super::fixtures::*;
use super::{annotated, edited, found, refusal};
use crate::trust::{Identity, Policy, TrustedRoot, verify};

#[test]
fn keyless_signatures_are_accepted_by_text_and_expression() {
    for signature in keyless() {
        for (issuer, subject) in
            [(ISSUER, SUBJECT), (r"^https://token\..+$", r"^https://github\.com/acme/bundles/.+@refs/tags/v[0-9.]+$")]
        {
            let verified =
                verify(&trusting_identity(issuer, subject), DIGEST, std::slice::from_ref(&signature)).unwrap();
            assert_eq!(verified.to_string(), format!("signed by identity {SUBJECT:?} issuer {ISSUER:?}"));
        }
    }
}

#[test]
fn other_identities_and_issuers_are_refused_and_told() {
    for signature in keyless() {
        for (issuer, subject) in [
            (ISSUER, "https://github.com/acme/bundles"),
            (ISSUER, "^https://github\\.com/acme/bundles/.+@refs/heads/main$"),
            ("https://accounts.example", SUBJECT),
            (SUBJECT, ISSUER),
        ] {
            assert_eq!(
                refusal(&trusting_identity(issuer, subject), DIGEST, std::slice::from_ref(&signature)),
                format!(
                    "no signature matches identity {subject:?} issuer {issuer:?}; found identity {SUBJECT:?} issuer {ISSUER:?}"
                )
            );
        }
    }
}

#[test]
fn certificates_that_are_not_good_are_refused() {
    let policy = trusting_identity(ISSUER, SUBJECT);
    let told = found(&policy, DIGEST, &[keyless_late()]);
    assert!(
        told.starts_with("one that cannot be trusted: certificate chain is invalid: ") && told.contains("xpired"),
        "{told}"
    );
    let told = found(&policy, DIGEST, &[keyless_without_sct()]);
    assert!(told.starts_with("one that cannot be trusted: invalid signed certificate timestamp"), "{told}");
}

#[test]
fn the_embedded_root_knows_what_the_public_sigstore_made() {
    let trusting = |root: TrustedRoot| Policy::keyless(vec![Identity::parse(ISSUER, SUBJECT).unwrap()], root).unwrap();
    let public = trusting(TrustedRoot::embedded().unwrap());
    let staging = trusting(TrustedRoot::parse(SIGSTORE_STAGING_TRUSTED_ROOT.as_bytes()).unwrap());
    for (policy, attestation) in [&public, &staging].into_iter().zip(public_attestations()) {
        // Certificate, log, instant and signature are good, or it would not have come to this.
        let told = found(policy, PUBLIC_DIGEST, std::slice::from_ref(&attestation));
        assert!(told.starts_with("an attestation (https://schemas.conda.org/"), "{told}");
        let other = trusting(root());
        let told = found(&other, PUBLIC_DIGEST, std::slice::from_ref(&attestation));
        assert!(told.contains("cannot be trusted") || told.contains("no signing time to trust"), "{told}");
        let forged = edited(&attestation, |bundle| {
            let zeros = STANDARD.encode([0; 70]);
            for signature in bundle["dsseEnvelope"]["signatures"].as_array_mut().unwrap() {
                signature["sig"] = zeros.clone().into();
            }
        });
        let told = found(policy, PUBLIC_DIGEST, &[forged]);
        assert!(!told.contains("an attestation"), "{told}");
    }
    for signature in keyless() {
        let told = found(&public, DIGEST, &[signature]);
        assert!(told.contains("cannot be trusted") || told.contains("no signing time to trust"), "{told}");
    }
}

/// A policy whose trusted root has been changed.
fn with_root(edit: impl FnOnce(&mut Value)) -> Policy {
    let mut root: Value = serde_json::from_slice(TRUSTED_ROOT).unwrap();
    edit(&mut root);
    let root = TrustedRoot::parse(root.to_string().as_bytes()).unwrap();
    Policy::keyless(vec![Identity::parse(ISSUER, SUBJECT).unwrap()], root).unwrap()
}

#[test]
fn what_the_trusted_root_does_not_vouch_for_is_refused() {
    let long_ago = json!({"start": "2020-01-01T00:00:00Z", "end": "2020-12-31T00:00:00Z"});
    let expired = |list: &str, at: &str| {
        with_root(|root| {
            for authority in root[list].as_array_mut().unwrap() {
                *authority.pointer_mut(at).unwrap() = long_ago.clone();
            }
        })
    };
    for (policy, why) in [
        (expired("certificateAuthorities", "/validFor"), "no trusted certificate authority is valid at "),
        (expired("timestampAuthorities", "/validFor"), "outside the validity period"),
        (expired("tlogs", "/publicKey/validFor"), "No log key valid at integrated time"),
        (expired("ctlogs", "/publicKey/validFor"), "invalid signed certificate timestamp"),
        (with_root(|root| root["certificateAuthorities"] = json!([])), "no trusted certificate authority is valid at "),
        (with_root(|root| root["tlogs"] = json!([])), "No log key valid at integrated time"),
        (with_root(|root| root["timestampAuthorities"] = json!([])), "no timestamp authorities configured"),
        (with_root(|root| root["ctlogs"] = json!([])), "no CT log keys in trusted root"),
    ] {
        let told = found(&policy, DIGEST, &keyless()[..1]);
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn keyless_signatures_need_a_log_entry_and_an_instant() {
    let policy = trusting_identity(ISSUER, SUBJECT);
    let [bundle, older] = keyless();
    let material = |name: &str, value: Value| edited(&bundle, |bundle| bundle["verificationMaterial"][name] = value);
    let without_log = material("tlogEntries", json!([]));
    assert_eq!(found(&policy, DIGEST, &[without_log]), "one with no transparency log entry");
    // The log's own promise is an instant too.
    verify(&policy, DIGEST, &[material("timestampVerificationData", json!({}))]).unwrap();
    let without_instant = edited(&bundle, |bundle| {
        let material = &mut bundle["verificationMaterial"];
        material["timestampVerificationData"] = json!({});
        for entry in material["tlogEntries"].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().remove("inclusionPromise");
        }
    });
    let told = found(&policy, DIGEST, &[without_instant]);
    assert!(told.starts_with("one with no signing time to trust"), "{told}");
    let told = found(&policy, DIGEST, &[annotated(&older, "dev.sigstore.cosign/bundle", None)]);
    assert_eq!(told, "one with no transparency log entry");
}

#[test]
fn a_log_entry_that_is_not_this_one_is_refused() {
    let policy = trusting_identity(ISSUER, SUBJECT);
    let entry = |edit: &dyn Fn(&mut Value)| {
        edited(&keyless()[0], |bundle| {
            bundle["verificationMaterial"]["tlogEntries"].as_array_mut().unwrap().iter_mut().for_each(edit);
        })
    };
    let zeros = STANDARD.encode([0; 32]);
    for signature in [
        entry(&|e| e["integratedTime"] = "1700000000".into()),
        entry(&|e| e["inclusionPromise"]["signedEntryTimestamp"] = zeros.clone().into()),
        entry(&|e| e["inclusionProof"]["rootHash"] = zeros.clone().into()),
        entry(&|e| e["logId"]["keyId"] = zeros.clone().into()),
        entry(&|e| e["canonicalizedBody"] = STANDARD.encode("{}").into()),
    ] {
        let told = found(&policy, DIGEST, &[signature]);
        assert!(told.contains("cannot be"), "{told}");
    }
}
