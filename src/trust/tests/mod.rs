//! Signatures by the real cosign and by a virtual Sigstore, and what becomes of them when anything is changed.

pub(super) mod fixtures;
mod hostile;
mod keyless;
mod keys;

use serde_json::Value;

use super::{Policy, Signature, verify};

pub(super) fn refusal(policy: &Policy, digest: &str, signatures: &[Signature]) -> String {
    let text = verify(policy, digest, signatures).unwrap_err().to_string();
    assert!(text.len() <= 512 && !text.contains(char::is_control), "{text}");
    text
}

/// What was found, without what is wanted.
pub(super) fn found(policy: &Policy, digest: &str, signatures: &[Signature]) -> String {
    let text = refusal(policy, digest, signatures);
    text.rsplit_once("; found ").unwrap().1.to_owned()
}

/// A bundle with something in its JSON changed.
pub(super) fn edited(signature: &Signature, edit: impl FnOnce(&mut Value)) -> Signature {
    let Signature::SigstoreBundle(bytes) = signature else { panic!("no bundle") };
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    edit(&mut value);
    Signature::SigstoreBundle(value.to_string().into())
}

pub(super) fn annotated(signature: &Signature, annotation: &str, value: Option<&str>) -> Signature {
    let Signature::SimpleSigning { payload, annotations } = signature else { panic!("a bundle") };
    let mut annotations = annotations.clone();
    match value {
        Some(value) => annotations.insert(annotation.to_owned(), value.to_owned()),
        None => annotations.remove(annotation),
    };
    Signature::SimpleSigning { payload: payload.clone(), annotations }
}
