//! The bundles in `bundles/`, for tests.
//!
//! Test code: may read files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Every version there are sources of.
pub(crate) fn versions() -> Vec<String> {
    let versions: Vec<String> =
        sources().keys().filter_map(|path| path.strip_suffix("/version.yaml")).map(str::to_owned).collect();
    assert!(!versions.is_empty());
    versions
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

pub(crate) fn sources() -> BTreeMap<String, Vec<u8>> {
    read_folder(&root().join("bundles/flux"))
}

pub(crate) fn bundle(version: &str) -> Bundle {
    Bundle::parse(&source::compose(&sources(), version).unwrap()).unwrap()
}

/// The components of Flux itself, in every version since 2.7.
pub(super) const FLUX: [&str; 7] = [
    "source-controller",
    "kustomize-controller",
    "helm-controller",
    "notification-controller",
    "image-reflector-controller",
    "image-automation-controller",
    "source-watcher",
];

pub(crate) fn defaults() -> Settings {
    Settings { namespace: "flux-system".to_owned(), ..Settings::default() }
}

pub(crate) fn sync(kind: api::SyncKind, url: &str, reference: &str) -> api::Sync {
    serde_json::from_value(serde_json::json!({"kind": kind, "url": url, "ref": reference})).unwrap()
}
