//! What others may put into a registry: a refusal each time, short, and never a panic.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::*;
use super::{annotated, edited, found, refusal};
use crate::trust::{MOST_BYTES, MOST_CANDIDATES, MOST_KEYS, Policy, PublicKey, Signature, verify};

#[test]
fn unusable_candidates_are_told_apart() {
    let policy = trusting_key("cosign.pub", COSIGN_PUB);
    let [bundle, older] = by_cosign();
    let large = Signature::SigstoreBundle(vec![b' '; MOST_BYTES + 1].into());
    let message = edited(&bundle, |bundle| {
        bundle.as_object_mut().unwrap().remove("dsseEnvelope");
        bundle["messageSignature"] = json!({"signature": "AAAA"});
    });
    for (signature, why) in [
        (large, "it has 1048577 bytes; at most 1048576 are read"),
        (Signature::SigstoreBundle(Bytes::new()), "it is no sigstore bundle: EOF"),
        (Signature::SigstoreBundle("<html>".into()), "it is no sigstore bundle: expected value"),
        (message, "it signs bytes, as `cosign sign-blob` does"),
        (
            changed(&bundle, "bundle.v0.3+json", "bundle+json;version=0.1"),
            "its format is application/vnd.dev.sigstore.bundle+json;version=0.1",
        ),
        (changed(&bundle, "bundle.v0.3+json", "bundle.v9+json"), "it is no sigstore bundle: "),
        (
            annotated(&older, "dev.cosignproject.cosign/signature", None),
            "its annotation dev.cosignproject.cosign/signature is missing",
        ),
        (
            annotated(&older, "dev.cosignproject.cosign/signature", Some("%")),
            "its annotation dev.cosignproject.cosign/signature is not base64",
        ),
        (
            annotated(&older, "dev.sigstore.cosign/certificate", Some("x")),
            "its annotation dev.sigstore.cosign/certificate is no certificate",
        ),
        (
            annotated(&older, "dev.sigstore.cosign/bundle", Some("{}")),
            "its annotation dev.sigstore.cosign/bundle is no log entry",
        ),
    ] {
        let told = found(&policy, DIGEST, &[signature]);
        assert!(told.starts_with("one that cannot be used: ") && told.contains(why), "{why}: {told}");
    }
}

#[test]
fn candidates_are_counted_and_texts_short() {
    let policy = trusting_key("release.pub", RELEASE_PUB);
    let [bundle, _] = by_cosign();
    let many = vec![bundle; MOST_CANDIDATES + 1];
    assert!(found(&policy, DIGEST, &many).starts_with("65, of which 64 were tried, the nearest: one by another key"));
    let good = by_keys()[1].2[0].clone();
    let mut late = many.clone();
    late.push(good);
    assert!(verify(&policy, DIGEST, &late).is_err(), "beyond the bound nothing is looked at");

    // Long and hostile texts of others.
    let loud = edited(&by_cosign()[0], |bundle| {
        bundle["verificationMaterial"]["publicKey"]["hint"] = "\u{1b}[31m\n…".repeat(500).into();
    });
    let told = refusal(&policy, DIGEST, &[loud]);
    assert!(told.contains(" [31m ") && told.ends_with("…)"), "{told}");
    let keys = (0..MOST_KEYS).map(|n| PublicKey::parse(&format!("{n}.pub"), RELEASE_PUB).unwrap()).collect();
    refusal(&Policy::public_keys(keys, None).unwrap(), DIGEST, &by_cosign());
}

fn policies() -> [Policy; 3] {
    [
        trusting_key("cosign.pub", COSIGN_PUB),
        Policy::public_keys(vec![PublicKey::parse("logged.pub", logged().0).unwrap()], Some(root())).unwrap(),
        trusting_identity(ISSUER, SUBJECT),
    ]
}

/// All texts in a JSON value that are base64.
fn encoded(value: &mut Value) -> Vec<&mut String> {
    match value {
        Value::String(text) if STANDARD.decode(&*text).is_ok_and(|bytes| !bytes.is_empty()) => vec![text],
        Value::Array(values) => values.iter_mut().flat_map(encoded).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(encoded).collect(),
        _ => vec![],
    }
}

/// One byte changed below the JSON: in a certificate, a timestamp, a log entry, a key. Others parse those.
fn changed_below(signature: &Signature, which: prop::sample::Index, at: prop::sample::Index, flip: u8) -> Signature {
    let change = |bytes: &mut Vec<u8>| {
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
    };
    match signature {
        Signature::SigstoreBundle(_) => edited(signature, |bundle| {
            let texts = encoded(bundle);
            let which = which.index(texts.len());
            let Some(text) = texts.into_iter().nth(which) else { return };
            let mut bytes = STANDARD.decode(&*text).unwrap();
            change(&mut bytes);
            *text = STANDARD.encode(bytes);
        }),
        Signature::SimpleSigning { payload, annotations } => {
            let mut annotations = annotations.clone();
            let which = which.index(annotations.len());
            if let Some(text) = annotations.values_mut().nth(which) {
                let mut bytes = text.clone().into_bytes();
                change(&mut bytes);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            Signature::SimpleSigning { payload: payload.clone(), annotations }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,100}") {
        let annotations: BTreeMap<String, String> =
            ["dev.cosignproject.cosign/signature", "dev.sigstore.cosign/certificate", "dev.sigstore.cosign/bundle"]
                .map(|name| (name.to_owned(), text.clone()))
                .into();
        let bytes = Bytes::from(bytes);
        for policy in policies() {
            refusal(&policy, DIGEST, &[Signature::SigstoreBundle(bytes.clone())]);
            refusal(&policy, DIGEST, &[Signature::SimpleSigning { payload: bytes.clone(), annotations: annotations.clone() }]);
        }
    }

    #[test]
    fn changed_bytes_never_panic_and_never_name_another_digest(
        which in any::<[prop::sample::Index; 2]>(), at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()
    ) {
        let [which, part] = which;
        let all = all();
        let original = which.get(&all);
        let broken = match original {
            Signature::SigstoreBundle(bytes) => {
                let mut bytes = bytes.to_vec();
                let at = at.index(bytes.len());
                if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
                Signature::SigstoreBundle(bytes.into())
            }
            Signature::SimpleSigning { payload, annotations } => {
                let mut payload = payload.to_vec();
                let at = at.index(payload.len());
                if cut { payload.truncate(at) } else { payload[at] ^= flip }
                Signature::SimpleSigning { payload: payload.into(), annotations: annotations.clone() }
            }
        };
        let below = changed_below(original, part, at, flip);
        for policy in policies() {
            refusal(&policy, &other_digest(), &[broken.clone(), below.clone()]);
            // Harmless changes (a blank in the JSON, a hint) may leave it good.
            let _ = verify(&policy, DIGEST, &[broken.clone(), below.clone()]);
        }
    }
}
