//! cosign's older format, told as a sigstore bundle of the first version, so that one road leads on from here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sigstore_verify::types::{Bundle, DerCertificate, MediaType, SignatureBytes};

use super::refusal::Finding;

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const LOG: &str = "dev.sigstore.cosign/bundle";

/// The log's promise, in the annotation [`LOG`].
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Promise {
    signed_entry_timestamp: String,
    payload: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// Kind of the logged entry, in its body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    api_version: String,
    kind: String,
}

/// The annotations of a layer as a bundle, and the signature in it. The chain that some carry is not needed: a trusted root has it.
pub(super) fn translate(annotations: &BTreeMap<String, String>) -> Result<(Bundle, SignatureBytes), Finding> {
    let bad = |annotation: &str, why: &str| Finding::Unreadable(format!("its annotation {annotation} {why}"));
    let signature = annotations.get(SIGNATURE).ok_or_else(|| bad(SIGNATURE, "is missing"))?;
    let signature = SignatureBytes::from_base64(signature).map_err(|_| bad(SIGNATURE, "is not base64"))?;
    let mut material = match annotations.get(CERTIFICATE) {
        Some(pem) => {
            let certificate =
                DerCertificate::from_pem(pem).map_err(|_| bad(CERTIFICATE, "is no certificate in PEM"))?;
            json!({"certificate": {"rawBytes": certificate}})
        }
        None => json!({"publicKey": {"hint": ""}}),
    };
    if let Some(promise) = annotations.get(LOG) {
        material["tlogEntries"] = log_entry(promise).map(|e| json!([e])).ok_or_else(|| bad(LOG, "is no log entry"))?;
    }
    let bundle = serde_json::from_value(json!({
        "mediaType": MediaType::Bundle0_1,
        "verificationMaterial": material,
        "messageSignature": {"signature": signature},
    }));
    Ok((bundle.map_err(|error| Finding::Unreadable(format!("its log entry cannot be read: {error}")))?, signature))
}

fn log_entry(promise: &str) -> Option<Value> {
    let Promise { signed_entry_timestamp, payload } = serde_json::from_str(promise).ok()?;
    let Kind { api_version, kind } = serde_json::from_slice(&STANDARD.decode(&payload.body).ok()?).ok()?;
    Some(json!({
        "logIndex": payload.log_index.to_string(),
        "logId": {"keyId": STANDARD.encode(bytes_of_hex(&payload.log_id)?)},
        "kindVersion": {"kind": kind, "version": api_version},
        "integratedTime": payload.integrated_time.to_string(),
        "inclusionPromise": {"signedEntryTimestamp": signed_entry_timestamp},
        "canonicalizedBody": payload.body,
    }))
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}
