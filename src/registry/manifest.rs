//! The documents of the [image specification](https://github.com/opencontainers/image-spec) that we read and write.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A media type.
pub type MediaType = str;

/// An image manifest.
pub const MANIFEST: &MediaType = "application/vnd.oci.image.manifest.v1+json";
/// An index of manifests.
pub const INDEX: &MediaType = "application/vnd.oci.image.index.v1+json";
/// Docker's forms of the two, in which many images are still published.
pub(super) const DOCKER_MANIFEST: &MediaType = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_INDEX: &MediaType = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Points at content by digest.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What the content is, where the media type does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, such as the platform: kept when an index is copied.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// Describes bytes.
    pub fn of(media_type: &MediaType, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: crate::render::digest(bytes),
            size: bytes.len() as u64,
            ..Self::default()
        }
    }
}

/// An image manifest: a config and layers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u8,
    /// [`MANIFEST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, where the config does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The content.
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Config and layers.
    pub fn blobs(self) -> impl Iterator<Item = Descriptor> {
        std::iter::once(self.config).chain(self.layers)
    }
}

/// An index: manifests by platform, or referrers of a manifest.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u8,
    /// [`INDEX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// An index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests }
    }
}

/// Whether a text is a digest as we use them.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}
