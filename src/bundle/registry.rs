//! One repository in a registry. A tag is resolved to a digest once; after that everything goes by digest, and bytes are
//! compared with their digest and size before anybody reads them.

use std::time::Duration;

use futures::TryStreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::archive::Archive;
use super::{ArtifactError, Credentials};
use crate::render::digest as digest_of;

/// Media types of `flux push artifact`, so that Flux's and other OCI tools read bundles too.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.cncf.flux.config.v1+json";
/// See [`CONFIG_MEDIA_TYPE`].
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.cncf.flux.content.v1.tar+gzip";
const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Longest wait for one exchange with a registry.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bundles are some ten kilobytes; this is room for a hundred of today's.
const LAYER_LIMIT: usize = 16 << 20;
const MANIFEST_LIMIT: usize = 4 << 20;
const PAGE: usize = 1_000;
const PAGES_LIMIT: usize = 100;

/// A bundle repository.
#[derive(Clone)]
pub struct Repository {
    client: Client,
    registry: String,
    path: String,
    auth: RegistryAuth,
}

impl Repository {
    /// `address` is `oci://HOST[:PORT]/PATH`; plain HTTP only where `insecure` says so.
    pub fn new(address: &str, insecure: bool, credentials: &Credentials) -> Result<Self, ArtifactError> {
        let refuse = || {
            ArtifactError::Rejected(format!("{address:?} must be oci://HOST[:PORT]/REPOSITORY without tag or digest"))
        };
        let place = address.strip_prefix("oci://").ok_or_else(refuse)?;
        let (registry, path) = place.split_once('/').ok_or_else(refuse)?;
        if registry.is_empty() || path.is_empty() || path.contains([':', '@']) {
            return Err(refuse());
        }
        let config = ClientConfig {
            protocol: if insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(Duration::from_secs(10)),
            read_timeout: Some(Duration::from_secs(30)),
            user_agent: concat!("headwater/", env!("CARGO_PKG_VERSION")),
            platform_resolver: None,
            use_monolithic_push: true,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| ArtifactError::Rejected(e.to_string()))?;
        Ok(Self {
            client,
            registry: registry.to_owned(),
            path: path.to_owned(),
            auth: credentials.for_repository(place),
        })
    }

    fn tag(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.clone(), self.path.clone(), tag.to_owned())
    }

    fn at(&self, digest: &str) -> Reference {
        Reference::with_digest(self.registry.clone(), self.path.clone(), digest.to_owned())
    }

    async fn exchange<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, ArtifactError> {
        match tokio::time::timeout(DEADLINE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.sort(what, &error)),
            Err(_) => Err(ArtifactError::Registry {
                registry: self.registry.clone(),
                cause: format!("{what}: no answer within {} s", DEADLINE.as_secs()),
            }),
        }
    }

    fn sort(&self, what: &str, error: &OciDistributionError) -> ArtifactError {
        let registry = self.registry.clone();
        let denied =
            |cause: &str| ArtifactError::Denied { registry: registry.clone(), cause: format!("{what}: {cause}") };
        let missing = || ArtifactError::NoMatch(format!("{what}: not found in {}/{}", self.registry, self.path));
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                denied("the registry does not accept the credentials, or wants some")
            }
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => missing(),
            OciDistributionError::ServerError { code: 401 | 403, .. } => denied("access denied"),
            OciDistributionError::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => missing(),
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => denied("access denied"),
                _ => ArtifactError::Registry { registry, cause: format!("{what}: {error}") },
            },
            OciDistributionError::RequestError(error) => {
                let mut cause: &dyn std::error::Error = error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                ArtifactError::Registry { registry, cause: format!("{what}: {cause}") }
            }
            error => ArtifactError::Registry { registry, cause: format!("{what}: {error}") },
        }
    }

    /// All tags.
    pub async fn tags(&self) -> Result<Vec<String>, ArtifactError> {
        let mut tags: Vec<String> = Vec::new();
        let anywhere = self.tag("latest");
        for _ in 0..PAGES_LIMIT {
            let last = tags.last().cloned();
            let request = self.client.list_tags(&anywhere, &self.auth, Some(PAGE), last.as_deref());
            let page = self.exchange("listing tags", request).await?.tags;
            let fresh: Vec<String> = page.into_iter().filter(|t| !tags.contains(t)).collect();
            let done = fresh.len() < PAGE;
            tags.extend(fresh);
            if done {
                break;
            }
        }
        Ok(tags)
    }

    /// The digest a tag names now.
    pub async fn digest(&self, tag: &str) -> Result<String, ArtifactError> {
        let reference = self.tag(tag);
        self.exchange(&format!("tag {tag:?}"), self.client.fetch_manifest_digest(&reference, &self.auth)).await
    }

    /// The archive behind a digest: every byte checked, nothing parsed but the manifest.
    pub async fn pull(&self, digest: &str) -> Result<Archive, ArtifactError> {
        let reference = self.at(digest);
        let accepted = [MANIFEST_MEDIA_TYPE];
        let (manifest, _) =
            self.exchange(digest, self.client.pull_manifest_raw(&reference, &self.auth, &accepted)).await?;
        self.check(digest, &manifest)?;
        if manifest.len() > MANIFEST_LIMIT {
            return Err(ArtifactError::Rejected("manifest is larger than 4 MiB".to_owned()));
        }
        let manifest: OciImageManifest = serde_json::from_slice(&manifest)
            .map_err(|e| ArtifactError::Rejected(format!("{digest} is not an image manifest: {e}")))?;
        let [layer] = manifest.layers.as_slice() else {
            return Err(ArtifactError::Rejected(format!(
                "a bundle has one layer, this artifact has {}",
                manifest.layers.len()
            )));
        };
        if layer.media_type != LAYER_MEDIA_TYPE {
            return Err(ArtifactError::Rejected(format!(
                "layer has media type {:?}, a bundle has {LAYER_MEDIA_TYPE:?}",
                layer.media_type
            )));
        }
        let bytes = self.blob(&reference, layer).await?;
        Ok(Archive { digest: layer.digest.clone(), bytes })
    }

    async fn blob(&self, reference: &Reference, layer: &OciDescriptor) -> Result<bytes::Bytes, ArtifactError> {
        let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
        if size > LAYER_LIMIT {
            return Err(ArtifactError::Rejected(format!(
                "layer is {} MiB, the limit is {} MiB",
                size >> 20,
                LAYER_LIMIT >> 20
            )));
        }
        let read = async {
            let mut stream = self.client.pull_blob_stream(reference, layer).await?.stream;
            let mut bytes = bytes::BytesMut::with_capacity(size);
            // One byte too many is enough to know that it is not what the manifest says.
            while let Some(chunk) = stream.try_next().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > size {
                    break;
                }
            }
            Ok(bytes.freeze())
        };
        let bytes = match self.exchange("layer", read).await {
            Ok(bytes) => bytes,
            // The client compares digests too; say it in our words.
            Err(ArtifactError::Registry { cause, .. }) if cause.contains("igest") => {
                return Err(ArtifactError::Digest {
                    expected: layer.digest.clone(),
                    found: "other bytes".to_owned(),
                    registry: self.registry.clone(),
                });
            }
            Err(error) => return Err(error),
        };
        self.check(&layer.digest, &bytes)?;
        Ok(bytes)
    }

    fn check(&self, expected: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let found = digest_of(bytes);
        if found == expected {
            return Ok(());
        }
        Err(ArtifactError::Digest { expected: expected.to_owned(), found, registry: self.registry.clone() })
    }

    /// Pushes an archive under a tag; the digest of the manifest is the digest of the bundle.
    pub async fn push(&self, tag: &str, archive: &Archive) -> Result<String, ArtifactError> {
        let reference = self.tag(tag);
        self.client.store_auth_if_needed(&self.registry, &self.auth).await;
        let (config, manifest) = manifest_of(archive);
        let manifest_bytes = serde_json::to_vec(&manifest).map_err(|e| ArtifactError::Rejected(e.to_string()))?;
        let digest = digest_of(&manifest_bytes);
        self.exchange("authentication", self.client.auth(&reference, &self.auth, oci_client::RegistryOperation::Push))
            .await?;
        self.exchange("layer", self.client.push_blob(&reference, archive.bytes.clone(), &archive.digest)).await?;
        self.exchange("config", self.client.push_blob(&reference, config, &manifest.config.digest)).await?;
        let media_type = http::HeaderValue::from_static(MANIFEST_MEDIA_TYPE);
        self.exchange(&format!("tag {tag:?}"), self.client.push_manifest_raw(&reference, manifest_bytes, media_type))
            .await?;
        Ok(digest)
    }

    /// What `tag` is called in full.
    pub fn name(&self, tag: &str) -> String {
        format!("oci://{}/{}:{tag}", self.registry, self.path)
    }
}

/// The manifest of an archive, and its (empty) config: nothing in it depends on when or where it is made.
pub(super) fn manifest_of(archive: &Archive) -> (bytes::Bytes, OciImageManifest) {
    let config = bytes::Bytes::from_static(b"{}");
    let descriptor = |media_type: &str, digest: String, size: usize| OciDescriptor {
        media_type: media_type.to_owned(),
        digest,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    let manifest = OciImageManifest {
        media_type: Some(MANIFEST_MEDIA_TYPE.to_owned()),
        config: descriptor(CONFIG_MEDIA_TYPE, digest_of(&config), config.len()),
        layers: vec![descriptor(LAYER_MEDIA_TYPE, archive.digest.clone(), archive.bytes.len())],
        ..OciImageManifest::default()
    };
    (config, manifest)
}

impl Archive {
    /// Digest of the bundle: that of the manifest it is pushed with.
    pub fn bundle_digest(&self) -> String {
        let (_, manifest) = manifest_of(self);
        digest_of(&serde_json::to_vec(&manifest).unwrap_or_default())
    }
}
