//! OCI image layouts, as a folder or a tar file: how bundles travel without a network.
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::archive::{Archive, read_tar, write_tar};
use super::artifact::{Artifact, layer_of};
use super::{Admitted, ArtifactError, read_folder, tag_of};
use crate::registry::{Descriptor, INDEX, Index, MANIFEST, Manifest, Repository};
use crate::render::digest as digest_of;

/// The annotation that holds the tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// Files of a layout by path.
pub struct Layout(BTreeMap<String, Bytes>);

impl Layout {
    /// A layout of these bundles, each under its tag.
    pub fn of(bundles: &[(String, Archive)]) -> Self {
        let mut files = BTreeMap::new();
        let mut manifests = Vec::new();
        for (tag, archive) in bundles {
            let artifact = Artifact::of(archive);
            let mut descriptor = Descriptor::of(MANIFEST, &artifact.manifest);
            descriptor.annotations.insert(TAG.to_owned(), tag.clone());
            manifests.push(descriptor);
            for blob in [artifact.config, artifact.manifest, artifact.layer] {
                files.insert(blob_path(&digest_of(&blob)), blob);
            }
        }
        let index = serde_json::to_vec(&Index::new(manifests)).unwrap_or_default();
        files.insert("index.json".to_owned(), index.into());
        files.insert("oci-layout".to_owned(), Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#));
        Self(files)
    }

    /// Writes a folder, or a tar file when the name ends in `.tar`.
    pub fn write(&self, path: &Path) -> Result<(), ArtifactError> {
        let fail = |path: &Path, e: std::io::Error| ArtifactError::Rejected(format!("{}: {e}", path.display()));
        if path.extension().is_some_and(|e| e == "tar") {
            let bytes = write_tar(self.0.iter().map(|(name, content)| (name, content.as_ref())))?;
            return std::fs::write(path, bytes).map_err(|e| fail(path, e));
        }
        for (name, content) in &self.0 {
            let file = path.join(name);
            let folder = file.parent().unwrap_or(path);
            std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
            std::fs::write(&file, content).map_err(|e| fail(&file, e))?;
        }
        Ok(())
    }

    /// Reads a folder or a tar file.
    pub fn read(path: &Path) -> Result<Self, ArtifactError> {
        let fail = |e: std::io::Error| ArtifactError::Rejected(format!("{}: {e}", path.display()));
        let files: BTreeMap<String, Bytes> = if path.is_dir() {
            read_folder(path)?.into_iter().map(|(name, content)| (name, Bytes::from(content))).collect()
        } else {
            let bytes = std::fs::read(path).map_err(fail)?;
            let files = read_tar(&bytes)?;
            files.into_iter().map(|(name, content)| (name, Bytes::from(content))).collect()
        };
        if !files.contains_key("oci-layout") || !files.contains_key("index.json") {
            return Err(ArtifactError::Rejected(format!(
                "{}: is no OCI layout (oci-layout or index.json is missing); `headwater bundle export` makes one",
                path.display()
            )));
        }
        Ok(Self(files))
    }

    /// Pushes every manifest of the layout with its blobs; each byte is compared with its digest before. Gives what was pushed:
    /// tag, or digest where there is none, and digest.
    pub async fn push(&self, to: &Repository) -> Result<Vec<(String, String)>, ArtifactError> {
        let index: Index = serde_json::from_slice(&self.0["index.json"])
            .map_err(|e| ArtifactError::Rejected(format!("index.json: {e}")))?;
        let mut pushed = Vec::new();
        for descriptor in &index.manifests {
            if descriptor.media_type == INDEX {
                return Err(ArtifactError::Rejected(format!(
                    "index.json: {} is an index of several manifests; a bundle is a single image manifest",
                    descriptor.digest
                )));
            }
            let bytes = self.blob(&descriptor.digest)?;
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|e| ArtifactError::Rejected(format!("{}: {e}", descriptor.digest)))?;
            for blob in manifest.blobs() {
                to.push_blob(&self.blob(&blob.digest)?).await?;
            }
            let reference = self.tag(descriptor).unwrap_or_else(|| descriptor.digest.clone());
            to.push_manifest(&reference, MANIFEST, &bytes).await?;
            pushed.push((reference, descriptor.digest.clone()));
        }
        Ok(pushed)
    }

    /// The tag that the layout has for a manifest, else that of the bundle in it; `None` for what is no bundle.
    fn tag(&self, descriptor: &Descriptor) -> Option<String> {
        // Some tools write the tag there, others what they pulled.
        let name = descriptor.annotations.get(TAG).filter(|name| !name.contains('@'));
        if let Some(name) = name {
            return name.rsplit([':', '/']).next().map(str::to_owned);
        }
        let manifest = serde_json::from_slice(&self.blob(&descriptor.digest).ok()?).ok()?;
        let layer = layer_of(&descriptor.digest, &manifest).ok()?;
        let bundle = Admitted::local(Archive::new(self.blob(&layer.digest).ok()?)).parse().ok()?;
        Some(tag_of(bundle.version()))
    }

    fn blob(&self, digest: &str) -> Result<Bytes, ArtifactError> {
        let path = blob_path(digest);
        let bytes =
            self.0.get(&path).ok_or_else(|| ArtifactError::Rejected(format!("{path} is missing in the layout")))?;
        let found = digest_of(bytes);
        if found != digest {
            return Err(ArtifactError::Rejected(format!("{path}: digest mismatch: the content is {found}")));
        }
        Ok(bytes.clone())
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}
