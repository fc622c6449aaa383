//! A bundle as an OCI artifact: what its manifest has to look like, pulled and pushed.

use bytes::Bytes;

use super::ArtifactError;
use super::archive::Archive;
use crate::registry::{Descriptor, MANIFEST, Manifest, Repository};
use crate::render::{cut, digest as digest_of};

/// Media types of `flux push artifact`, so that Flux's and other OCI tools read bundles too.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.cncf.flux.config.v1+json";
/// See [`CONFIG_MEDIA_TYPE`].
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.cncf.flux.content.v1.tar+gzip";

/// Says nothing, but in the form in which tools for images expect it, as that of `flux push artifact` does.
const CONFIG: &[u8] = br#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

/// `oras pull` writes only layers that have a name.
const TITLE: &str = "org.opencontainers.image.title";
const FILE_NAME: &str = "bundle.tar.gz";

/// Bundles are some ten kilobytes, some hundred with descriptions; this is room for a hundred times as much.
const LAYER_LIMIT: u64 = 16 << 20;

/// A bundle as it lies in a registry.
pub(super) struct Artifact {
    /// The config, [`CONFIG`].
    pub(super) config: Bytes,
    /// The manifest, whose digest is the digest of the bundle.
    pub(super) manifest: Bytes,
    /// The only layer.
    pub(super) layer: Bytes,
}

impl Artifact {
    /// Nothing in it depends on when or where it is made.
    pub(super) fn of(archive: &Archive) -> Self {
        let config = Bytes::from_static(CONFIG);
        let mut layer = Descriptor::of(LAYER_MEDIA_TYPE, &archive.bytes);
        layer.annotations.insert(TITLE.to_owned(), FILE_NAME.to_owned());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(CONFIG_MEDIA_TYPE, &config),
            layers: vec![layer],
            subject: None,
            annotations: None,
        };
        // Only maps with keys that are no text cannot be written.
        let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap_or_default());
        Self { config, manifest, layer: archive.bytes.clone() }
    }

    /// The digest of the bundle.
    pub(super) fn digest(&self) -> String {
        digest_of(&self.manifest)
    }
}

impl Archive {
    /// Digest of the bundle: that of the manifest it is pushed with.
    pub fn bundle_digest(&self) -> String {
        Artifact::of(self).digest()
    }
}

/// The layer that a manifest of a bundle points at.
pub(super) fn layer_of(digest: &str, manifest: &Manifest) -> Result<Descriptor, ArtifactError> {
    let reject = |why: String| Err(ArtifactError::Rejected(format!("{digest}: {why}")));
    let [layer] = manifest.layers.as_slice() else {
        return reject(format!("a bundle has one layer, this artifact has {}", manifest.layers.len()));
    };
    if layer.media_type != LAYER_MEDIA_TYPE {
        let found = cut(&layer.media_type, 80);
        return reject(format!("the layer has media type {found:?}, a bundle has {LAYER_MEDIA_TYPE:?}"));
    }
    if layer.size == 0 {
        return reject("the layer is empty, a bundle is a gzipped tar archive".to_owned());
    }
    Ok(layer.clone())
}

/// Pulls the archive behind a digest: every byte checked, nothing parsed but the manifest.
pub(super) async fn pull(repository: &Repository, digest: &str) -> Result<Archive, ArtifactError> {
    let fetched = repository.manifest(digest).await?;
    if fetched.is_index() {
        return Err(ArtifactError::Rejected(format!(
            "{digest} is an index of several manifests ({}); a bundle is a single image manifest",
            fetched.media_type
        )));
    }
    let layer = layer_of(digest, &fetched.parse()?)?;
    let bytes = repository.blob(&layer, LAYER_LIMIT).await?;
    Ok(Archive::new(bytes))
}

/// Pushes an archive under a tag; gives the digest of the bundle.
pub async fn push(repository: &Repository, tag: &str, archive: &Archive) -> Result<String, ArtifactError> {
    let artifact = Artifact::of(archive);
    repository.push_blob(&artifact.layer).await?;
    repository.push_blob(&artifact.config).await?;
    repository.push_manifest(tag, MANIFEST, &artifact.manifest).await?;
    Ok(artifact.digest())
}
