//! How registries are reached and whom is trusted, on the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::super::ui;
use crate::bundle::{Admitted, Provenance, Selector, Verification, check_tag, version_of};
use crate::registry::{Access, Address, Credentials, Repository};

/// How a registry is reached. Credentials are those of `docker login`, the proxy is that of the environment.
#[derive(Args, Clone)]
pub(in crate::cli) struct RegistryArgs {
    /// Speak plain HTTP
    #[arg(long)]
    insecure: bool,
    /// File with certificates of a private authority (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with a client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// File with the private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Token service that may be given the credentials although it is not of the registry: HOST[:PORT]
    #[arg(long = "registry-realm", value_name = "HOST")]
    realms: Vec<String>,
}

impl RegistryArgs {
    /// A repository reached this way.
    pub(super) fn repository(&self, address: &str) -> anyhow::Result<Repository> {
        let access = Access {
            insecure: self.insecure,
            ca: self.ca_file.as_deref().map(read).transpose()?,
            identity: match (&self.cert_file, &self.key_file) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                _ => None,
            },
            realms: self.realms.clone(),
            credentials: docker_login()?,
            ..Access::from_environment()?
        };
        Ok(Repository::new(&Address::parse(address)?, &access)?)
    }

    /// The same but for plain HTTP.
    pub(super) fn with_insecure(&self, insecure: bool) -> Self {
        Self { insecure, ..self.clone() }
    }
}

/// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
fn docker_login() -> anyhow::Result<Credentials> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    match folder.map(|f| f.join("config.json")).filter(|f| f.exists()) {
        None => Ok(Credentials::default()),
        Some(file) => Ok(Credentials::parse(&read(&file)?, &file.display().to_string())?),
    }
}

/// Who has to have signed; names as cosign's.
#[derive(Args, Clone, Default)]
pub(in crate::cli) struct TrustArgs {
    /// File with a public key (PEM); may be repeated, one of them has to have signed
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Identity of a keyless signature: an exact text, or an expression from ^ to $
    #[arg(long = "certificate-identity", value_name = "IDENTITY", requires = "issuer", conflicts_with = "keys")]
    identity: Option<String>,
    /// Issuer of the identity: an exact text, or an expression from ^ to $
    #[arg(long = "certificate-oidc-issuer", value_name = "ISSUER", requires = "identity")]
    issuer: Option<String>,
    /// File with a trusted root (`trusted_root.json`) [default: that of the public Sigstore]
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// Signatures of keys have to be in a transparency log
    #[arg(long)]
    transparency_log: bool,
}

impl TrustArgs {
    /// What they ask for; `None` when they ask for nothing.
    pub(super) fn verification(&self) -> anyhow::Result<Option<Verification>> {
        if self.keys.is_empty() && self.identity.is_none() {
            return Ok(None);
        }
        let mut keys = std::collections::BTreeMap::new();
        for file in &self.keys {
            keys.insert(file.display().to_string(), read(file)?);
        }
        Ok(Some(Verification {
            keys,
            identities: self.issuer.clone().zip(self.identity.clone()).into_iter().collect(),
            trusted_root: self.trusted_root.as_deref().map(read).transpose()?,
            transparency_log: self.transparency_log,
        }))
    }
}

/// A bundle in a repository.
#[derive(Args, Clone)]
pub(in crate::cli) struct RemoteBundle {
    /// Repository: <oci://HOST>[:PORT]/PATH
    pub(super) repository: String,
    /// Version, range or digest
    #[arg(long, default_value = "*")]
    pub(super) version: String,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
}

/// A bundle that was found.
pub(super) struct Found {
    pub(super) repository: Repository,
    /// The tag it was found by.
    pub(super) tag: Option<String>,
    pub(super) bundle: Admitted,
    pub(super) provenance: Provenance,
}

impl RemoteBundle {
    /// Finds it, verifies it if that is asked for, and pulls it.
    pub(super) async fn open(&self) -> anyhow::Result<Found> {
        let repository = self.registry.repository(&self.repository)?;
        let selector = Selector::parse(&self.version)?;
        let (tag, digest) = match &selector {
            Selector::Digest(digest) => (None, digest.clone()),
            Selector::Exact(_) | Selector::Range(_) => {
                let tags = repository.tags().await?;
                let Some((_, tag)) = selector.choose(&tags) else {
                    bail!("no version in {} matches {:?} (found: {})", self.repository, self.version, versions(&tags));
                };
                let digest = repository.digest(&tag).await?;
                (Some(tag), digest)
            }
        };
        ui::talk(format!("pulling {}@{digest}", repository.name(tag.as_deref().unwrap_or("-"))));
        let verification = self.trust.verification()?;
        let (bundle, provenance) = Admitted::take(&repository, &digest, verification.as_ref()).await?;
        if let Some(tag) = &tag {
            check_tag(tag, &digest, bundle.parse()?.version())?;
        }
        Ok(Found { repository, tag, bundle, provenance })
    }
}

fn versions(tags: &[String]) -> String {
    let mut versions: Vec<semver::Version> = tags.iter().filter_map(|t| version_of(t)).collect();
    versions.sort();
    let newest: Vec<String> = versions.iter().rev().take(8).map(ToString::to_string).collect();
    if newest.is_empty() { "none".to_owned() } else { newest.join(", ") }
}

/// A file, named in the error.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
