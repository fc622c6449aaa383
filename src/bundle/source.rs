//! Bundle sources on disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::ArtifactError;
use super::archive::Files;

/// All files below a folder, by relative path.
pub fn read_folder(root: &Path) -> Result<Files, ArtifactError> {
    let mut files = BTreeMap::new();
    read_into(root, root, &mut files)?;
    Ok(files)
}

fn read_into(root: &Path, folder: &Path, files: &mut Files) -> Result<(), ArtifactError> {
    let fail = |path: &Path, e: &std::io::Error| ArtifactError::Rejected(format!("{}: {e}", path.display()));
    let entries = std::fs::read_dir(folder).map_err(|e| fail(folder, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| fail(folder, &e))?.path();
        if path.is_dir() {
            read_into(root, &path, files)?;
        } else {
            let content = std::fs::read(&path).map_err(|e| fail(&path, &e))?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, content);
        }
    }
    Ok(())
}

/// Versions a source folder holds, oldest first: its sub-folders that are named like a version.
pub fn versions(files: &Files) -> Vec<semver::Version> {
    let folders: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split_once('/').map(|(folder, _)| folder)).collect();
    let mut versions: Vec<semver::Version> =
        folders.into_iter().filter_map(|folder| semver::Version::parse(folder).ok()).collect();
    versions.sort();
    versions
}
