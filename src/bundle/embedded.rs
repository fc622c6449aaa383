//! The bundles that come with the binary, for clusters without a registry. Their sources are in it, packed; what is composed of
//! them has the digest that `headwater bundle build` gives, and so the digest of what is published.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use semver::Version;

use super::archive::{Archive, pack, unpack};
use super::version::no_match;
use super::{Admitted, ArtifactError, Selector, tag_of};
use crate::render::source;

/// Versions and the packed sources of each, written by `build.rs`. Apart from each other, so that one costs no memory for all.
static PACKED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Digests that are known.
static DIGESTS: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());

fn compose(version: &str, packed: &[u8]) -> Result<Archive, ArtifactError> {
    let files = unpack(packed)?;
    pack(&source::compose(&files, version).map_err(|e| ArtifactError::Rejected(e.to_string()))?)
}

/// The digest of a version, composed at its first use.
fn digest(version: &'static str, packed: &[u8]) -> Result<String, ArtifactError> {
    let known = || DIGESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = known().get(version) {
        return Ok(digest.clone());
    }
    let digest = compose(version, packed)?.bundle_digest();
    known().insert(version, digest.clone());
    Ok(digest)
}

fn entries() -> impl Iterator<Item = (Version, &'static str, &'static [u8])> {
    PACKED.iter().filter_map(|(name, packed)| Some((Version::parse(name).ok()?, *name, *packed)))
}

/// Versions and digests.
pub fn list() -> Result<BTreeMap<Version, String>, ArtifactError> {
    entries().map(|(version, name, packed)| Ok((version, digest(name, packed)?))).collect()
}

/// The digest of the newest one that is admitted.
pub fn choose(selector: &Selector, wanted: &str) -> Result<String, ArtifactError> {
    if let Selector::Digest(digest) = selector {
        return Ok(digest.clone());
    }
    let tags: Vec<String> = entries().map(|(version, ..)| tag_of(&version)).collect();
    let chosen = selector.choose(&tags).and_then(|(version, _)| entries().find(|(known, ..)| *known == version));
    match chosen {
        Some((_, name, packed)) => digest(name, packed),
        None => Err(no_match(wanted, entries().map(|(version, ..)| version))),
    }
}

/// The archive of a digest.
pub fn archive(wanted: &str) -> Result<Admitted, ArtifactError> {
    let known = DIGESTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut all: Vec<_> = entries().collect();
    // What was chosen is known by now: the others need not be composed.
    all.sort_by_key(|(_, name, _)| known.get(name).map(String::as_str) != Some(wanted));
    for (_, name, packed) in all {
        if digest(name, packed)? == wanted {
            return Ok(Admitted::local(compose(name, packed)?));
        }
    }
    let there: Vec<String> = list()?.iter().map(|(version, digest)| format!("{version} ({digest})")).collect();
    Err(ArtifactError::NoMatch(format!(
        "spec.distribution.version: {wanted} is not among the bundles of this operator; it has: {}",
        there.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_repository_is_there_under_its_digest() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/flux");
        let files = super::super::read_folder(&folder).unwrap();
        let from_folder = |version: &Version| pack(&source::compose(&files, &version.to_string()).unwrap()).unwrap();
        let list = list().unwrap();
        assert_eq!(list.keys().cloned().collect::<Vec<_>>(), super::super::versions(&files));
        for (version, digest) in &list {
            assert_eq!(&from_folder(version).bundle_digest(), digest);
            assert_eq!(archive(digest).unwrap().parse().unwrap().version(), version);
        }
        let newest = list.last_key_value().unwrap();
        assert_eq!(&choose(&Selector::parse("*").unwrap(), "*").unwrap(), newest.1);
        let error = choose(&Selector::parse("1.x").unwrap(), "1.x").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("spec.distribution.version: no version matches \"1.x\"; newest available is {}", newest.0)
        );
    }
}
