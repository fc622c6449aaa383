//! How the command line names one bundle: a file, a version in a source folder, one in a registry, or one of this binary.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::args::{RegistryArgs, RemoteBundle, TrustArgs, read};
use crate::bundle::{Admitted, Archive, Selector, embedded, pack, read_folder, versions};
use crate::render::source;

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Source { folder: PathBuf, version: String },
    Repository { repository: String, version: String },
    Embedded { version: String },
}

impl Place {
    fn parse(text: &str, is_file: bool) -> Self {
        let (place, version) = text.rsplit_once('@').map_or((text, None), |(place, version)| (place, Some(version)));
        let any = || version.unwrap_or("*").to_owned();
        match version {
            _ if place.starts_with("oci://") => Self::Repository { repository: place.to_owned(), version: any() },
            Some(_) if is_file => Self::File(text.into()),
            Some(version) if place == "embedded" => Self::Embedded { version: version.to_owned() },
            Some(version) => Self::Source { folder: place.into(), version: version.to_owned() },
            None => Self::File(text.into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Source { folder, version } => write!(f, "{}@{version}", folder.display()),
            Self::Repository { repository, version } => write!(f, "{repository}@{version}"),
            Self::Embedded { version } => write!(f, "embedded@{version}"),
        }
    }
}

/// Opens the bundle that a text names; one in a registry is verified where that is asked for.
pub(super) async fn open(text: &str, registry: &RegistryArgs, trust: Option<&TrustArgs>) -> anyhow::Result<Admitted> {
    let place = Place::parse(text, Path::new(text).is_file());
    match &place {
        Place::File(file) if file.is_dir() => {
            let found = versions(&read_folder(file)?);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            bail!("{place} is a folder; say which version of it, as {place}@VERSION; it has: {}", found.join(", "));
        }
        Place::File(file) => Ok(Admitted::local(Archive::new(read(file)?))),
        Place::Source { folder, version } => {
            let files = source::compose(&read_folder(folder)?, version).with_context(|| place.to_string())?;
            Ok(Admitted::local(pack(&files)?))
        }
        Place::Embedded { version } => Ok(embedded::archive(&embedded::choose(&Selector::parse(version)?, version)?)?),
        Place::Repository { repository, version } => {
            let from = RemoteBundle {
                repository: repository.clone(),
                version: version.clone(),
                registry: registry.clone(),
                trust: trust.cloned().unwrap_or_default(),
            };
            Ok(from.open().await?.bundle)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_a_file_a_version_of_a_folder_or_of_a_repository() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let source = |folder: &str, version: &str| Place::Source { folder: folder.into(), version: version.to_owned() };
        let repository = |version: &str| Place::Repository {
            repository: "oci://r.example:5000/flux".to_owned(),
            version: version.to_owned(),
        };
        for (text, is_file, expected) in [
            ("dist/flux-2.9.4.tar.gz", true, Place::File("dist/flux-2.9.4.tar.gz".into())),
            ("a@b.tar.gz", true, Place::File("a@b.tar.gz".into())),
            ("missing.tar.gz", false, Place::File("missing.tar.gz".into())),
            ("bundles/flux@2.9.4", false, source("bundles/flux", "2.9.4")),
            ("a@b/flux@2.9.4+1", false, source("a@b/flux", "2.9.4+1")),
            ("embedded@2.9.x", false, Place::Embedded { version: "2.9.x".to_owned() }),
            ("oci://r.example:5000/flux", false, repository("*")),
            ("oci://r.example:5000/flux@2.8.x", false, repository("2.8.x")),
            (&format!("oci://r.example:5000/flux@{digest}"), false, repository(&digest)),
        ] {
            assert_eq!(Place::parse(text, is_file), expected);
        }
    }
}
