//! How the command line names one bundle: a file, a version in a source folder, or one in a registry.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{RegistryArgs, RemoteBundle, bundle};
use crate::bundle::{read_folder, unpack, versions};
use crate::render::{Bundle, source};

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BundleRef {
    File(PathBuf),
    Source { folder: PathBuf, version: String },
    Repository { repository: String, version: String },
}

impl BundleRef {
    fn parse(text: &str, is_file: bool) -> Self {
        let (place, version) = text.rsplit_once('@').map_or((text, None), |(place, version)| (place, Some(version)));
        if place.starts_with("oci://") {
            let version = version.unwrap_or("*").to_owned();
            return Self::Repository { repository: place.to_owned(), version };
        }
        match version {
            Some(version) if !is_file => Self::Source { folder: place.into(), version: version.to_owned() },
            _ => Self::File(text.into()),
        }
    }
}

impl fmt::Display for BundleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Source { folder, version } => write!(f, "{}@{version}", folder.display()),
            Self::Repository { repository, version } => write!(f, "{repository}@{version}"),
        }
    }
}

/// Reads the bundle that a text names, with all checks.
pub(super) async fn load(text: &str, registry: &RegistryArgs) -> anyhow::Result<Bundle> {
    let place = BundleRef::parse(text, Path::new(text).is_file());
    match &place {
        BundleRef::File(file) if file.is_dir() => {
            let found = versions(&read_folder(file)?);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            bail!("{place} is a folder; say which version of it, as {place}@VERSION; it has: {}", found.join(", "));
        }
        BundleRef::File(file) => Ok(bundle::read(file)?.1),
        BundleRef::Source { folder, version } => {
            let files = source::compose(&read_folder(folder)?, version).with_context(|| place.to_string())?;
            Bundle::parse(&files).with_context(|| place.to_string())
        }
        BundleRef::Repository { repository, version } => {
            let from = RemoteBundle {
                repository: repository.clone(),
                version: version.clone(),
                registry: RegistryArgs { insecure: registry.insecure },
            };
            let (archive, _) = bundle::pull(&from).await?;
            Bundle::parse(&unpack(&archive.bytes)?).with_context(|| place.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_a_file_a_version_of_a_folder_or_of_a_repository() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let source =
            |folder: &str, version: &str| BundleRef::Source { folder: folder.into(), version: version.to_owned() };
        let repository = |version: &str| BundleRef::Repository {
            repository: "oci://r.example:5000/flux".to_owned(),
            version: version.to_owned(),
        };
        for (text, is_file, expected) in [
            ("dist/flux-2.9.4.tar.gz", true, BundleRef::File("dist/flux-2.9.4.tar.gz".into())),
            ("a@b.tar.gz", true, BundleRef::File("a@b.tar.gz".into())),
            ("missing.tar.gz", false, BundleRef::File("missing.tar.gz".into())),
            ("bundles/flux@2.9.4", false, source("bundles/flux", "2.9.4")),
            ("a@b/flux@2.9.4+1", false, source("a@b/flux", "2.9.4+1")),
            ("oci://r.example:5000/flux", false, repository("*")),
            ("oci://r.example:5000/flux@2.8.x", false, repository("2.8.x")),
            (&format!("oci://r.example:5000/flux@{digest}"), false, repository(&digest)),
        ] {
            assert_eq!(BundleRef::parse(text, is_file), expected);
        }
    }
}
