//! The bundles that come with the binary, for clusters without a registry. Their sources are in it, packed; what is composed of
//! them has the digest that `headwater bundle build` gives, and so the digest of what is published.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use semver::Version;

use super::archive::{Archive, Files, pack, unpack};
use super::version::no_match;
use super::{Admitted, ArtifactError, Selector, tag_of, versions};
use crate::render::source;

/// All files of `bundles/NAME`, written by `build.rs`.
static SOURCES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bundles.tar.gz"));

/// The name of the only bundle there is.
pub const NAME: &str = "flux";

fn sources() -> Result<Files, ArtifactError> {
    unpack(SOURCES)
}

fn compose(files: &Files, version: &Version) -> Result<Archive, ArtifactError> {
    let composed = source::compose(files, &version.to_string()).map_err(|e| ArtifactError::Rejected(e.to_string()))?;
    pack(&composed)
}

/// Versions and digests, composed once.
pub fn list() -> Result<&'static BTreeMap<Version, String>, ArtifactError> {
    static LIST: OnceLock<BTreeMap<Version, String>> = OnceLock::new();
    if let Some(list) = LIST.get() {
        return Ok(list);
    }
    let files = sources()?;
    let digests: Result<BTreeMap<_, _>, ArtifactError> =
        versions(&files).into_iter().map(|v| Ok((v.clone(), compose(&files, &v)?.bundle_digest()))).collect();
    let digests = digests?;
    Ok(LIST.get_or_init(|| digests))
}

/// The digest of the newest one that is admitted.
pub fn choose(selector: &Selector, wanted: &str) -> Result<String, ArtifactError> {
    let list = list()?;
    if let Selector::Digest(digest) = selector {
        return Ok(digest.clone());
    }
    let tags: Vec<String> = list.keys().map(tag_of).collect();
    let chosen = selector.choose(&tags).and_then(|(version, _)| list.get(&version));
    chosen.cloned().ok_or_else(|| no_match(wanted, list.keys().cloned()))
}

/// The archive of a digest.
pub fn archive(digest: &str) -> Result<Admitted, ArtifactError> {
    let list = list()?;
    let Some((version, _)) = list.iter().find(|(_, known)| *known == digest) else {
        return Err(ArtifactError::NoMatch(format!(
            "spec.distribution.version: {digest} is not among the bundles of this operator; it has: {}",
            list.iter().map(|(version, digest)| format!("{version} ({digest})")).collect::<Vec<_>>().join(", ")
        )));
    };
    Ok(Admitted::local(compose(&sources()?, version)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_repository_is_there_under_its_digest() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(NAME);
        let files = super::super::read_folder(&folder).unwrap();
        let list = list().unwrap();
        assert_eq!(list.keys().cloned().collect::<Vec<_>>(), versions(&files));
        for (version, digest) in list {
            assert_eq!(&compose(&files, version).unwrap().bundle_digest(), digest);
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
