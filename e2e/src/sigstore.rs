//! The real cosign, signing what is in a registry of the bed, and a Sigstore that lives for one run.
//!
//! Nothing here asks a service: keys sign without a transparency log, as behind an air gap, and keyless signatures come from a
//! virtual Sigstore (`go/sigstore/main.go`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tools::{Module, Tools, ensure};
use crate::{Registry, RegistryOptions, dirs};

/// Media type of a sigstore bundle, and of the manifest that refers to what it signs.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of a signature in cosign's older format.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A signing configuration that names no service at all.
const OFFLINE: &str = r#"{
  "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
  "caUrls": [], "oidcUrls": [], "rekorTlogUrls": [], "rekorTlogConfig": {"selector": "ANY"},
  "tsaUrls": [], "tsaConfig": {"selector": "ANY"}
}"#;

/// How cosign stores a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As a sigstore bundle that refers to the artifact.
    Bundle,
    /// Under a tag made of the digest, as it was before.
    Older,
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over P-256, which cosign generates.
    P256,
    /// ECDSA over P-384, which cosign imports.
    P384,
    /// RSA with 2048 bits, which cosign imports.
    Rsa,
}

/// A layer of a manifest that belongs to an artifact: a signature, or an attestation.
#[derive(Debug, Clone)]
pub struct Found {
    /// [`BUNDLE`] or [`SIMPLE_SIGNING`].
    pub media_type: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// cosign, with a folder of its own for keys and state; gone when dropped.
#[derive(Debug)]
pub struct Cosign {
    tools: Tools,
    dir: tempfile::TempDir,
}

impl Cosign {
    /// Builds it when it is not in the cache yet.
    pub fn new() -> Result<Self> {
        let tools = ensure(&[Module::Sigstore])?;
        let dir = dirs::run_dir("cosign")?;
        fs::write(dir.path().join("offline.json"), OFFLINE)?;
        fs::write(dir.path().join("predicate.json"), "{}")?;
        Ok(Self { tools, dir })
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let output = Command::new(self.tools.path(program)?)
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("COSIGN_PASSWORD", "")
            .output()
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Makes a key pair; other calls know it by `name`. The file returned is the public key.
    pub fn generate_key(&self, name: &str, algorithm: Algorithm) -> Result<PathBuf> {
        let private = match algorithm {
            Algorithm::P256 => None,
            Algorithm::P384 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
                Some(pair.to_pkcs8v1()?.as_ref().to_vec())
            }
            Algorithm::Rsa => {
                let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048)?;
                let der: Pkcs8V1Der<'_> = pair.as_der()?;
                Some(der.as_ref().to_vec())
            }
        };
        match private {
            None => self.run("cosign", &["generate-key-pair", "--output-key-prefix", name])?,
            Some(der) => {
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
                fs::write(self.dir.path().join("import.pem"), pem)?;
                self.run("cosign", &["import-key-pair", "--key", "import.pem", "--output-key-prefix", name])?;
            }
        }
        Ok(self.dir.path().join(format!("{name}.pub")))
    }

    /// Signs `HOST:PORT/PATH@sha256:...` with a key.
    pub fn sign(&self, artifact: &str, key: &str, format: Format) -> Result<()> {
        let key = format!("{key}.key");
        let mut args = vec!["sign", "--key", &key, "--allow-http-registry", "--yes"];
        match format {
            Format::Bundle => args.extend(["--signing-config", "offline.json"]),
            Format::Older => {
                args.extend(["--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false"]);
            }
        }
        args.push(artifact);
        self.run("cosign", &args)
    }

    /// Attests something about an artifact, which is not to sign it.
    pub fn attest(&self, artifact: &str, key: &str) -> Result<()> {
        let key = format!("{key}.key");
        let args = ["attest", "--key", &key, "--allow-http-registry", "--yes", "--signing-config", "offline.json"];
        self.run(
            "cosign",
            &[&args[..], &["--type", "slsaprovenance1", "--predicate", "predicate.json", artifact]].concat(),
        )
    }

    /// Has a virtual Sigstore sign a digest for an identity. `go/sigstore/main.go` tells which files it writes.
    pub fn keyless(&self, digest: &str, identity: &str, issuer: &str, folder: &Path) -> Result<()> {
        self.run("virtual-sigstore", &[digest, identity, issuer, &folder.display().to_string()])
    }
}

fn digest_of(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Pushes an artifact with one empty layer, always the same, and returns its digest.
pub fn push_artifact(registry: &Registry, repository: &str) -> Result<String> {
    let base = format!("http://{}/v2/{repository}", registry.address());
    let empty = b"{}";
    let blob = digest_of(empty);
    let opened = ureq::post(format!("{base}/blobs/uploads/")).send_empty()?;
    let location = opened.headers().get("location").context("no location")?.to_str()?.to_owned();
    let separator = if location.contains('?') { '&' } else { '?' };
    ureq::put(format!("{location}{separator}digest={blob}")).send(&empty[..])?;
    let descriptor = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob, "size": empty.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.signed",
        "config": descriptor, "layers": [descriptor],
    });
    let manifest = manifest.to_string();
    let digest = digest_of(manifest.as_bytes());
    ureq::put(format!("{base}/manifests/{digest}")).header("content-type", MANIFEST).send(manifest)?;
    Ok(digest)
}

/// All that belongs to an artifact, as it is in the registry: what refers to it (the registry has no referrers API, so an index
/// under a tag lists it), and the older format under a tag of its own.
pub fn signatures(registry: &Registry, repository: &str, digest: &str) -> Result<Vec<Found>> {
    let base = format!("http://{}/v2/{repository}", registry.address());
    let fetch = |path: &str| -> Result<Option<Vec<u8>>> {
        match ureq::get(format!("{base}/{path}")).header("accept", format!("{MANIFEST}, {INDEX}")).call() {
            Ok(mut answer) => Ok(Some(answer.body_mut().read_to_vec()?)),
            Err(ureq::Error::StatusCode(404)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let manifest = |reference: &str| -> Result<Option<Value>> {
        Ok(fetch(&format!("manifests/{reference}"))?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tag = digest.replace(':', "-");
    let mut manifests = Vec::new();
    for referrer in list(&manifest(&tag)?.unwrap_or_default()["manifests"]) {
        let digest = referrer["digest"].as_str().context("a referrer without digest")?;
        manifests.extend(manifest(digest)?);
    }
    manifests.extend(manifest(&format!("{tag}.sig"))?);
    let mut found = Vec::new();
    for layer in manifests.iter().flat_map(|manifest| list(&manifest["layers"])) {
        let blob = layer["digest"].as_str().context("a layer without digest")?;
        found.push(Found {
            media_type: layer["mediaType"].as_str().unwrap_or_default().to_owned(),
            content: fetch(&format!("blobs/{blob}"))?.context("a layer that is not there")?,
            annotations: serde_json::from_value(layer["annotations"].clone()).unwrap_or_default(),
        });
    }
    Ok(found)
}

/// Writes the signatures that the unit tests of `src/trust` read, all of the same digest, all with new keys.
pub fn write_fixtures(folder: &Path) -> Result<()> {
    const IDENTITY: &str = "https://github.com/acme/bundles/.github/workflows/release.yml@refs/tags/v1.2.3";
    const ISSUER: &str = "https://token.actions.githubusercontent.com";
    let cosign = Cosign::new()?;
    let registry = Registry::start(&RegistryOptions::default())?;
    let folder = std::path::absolute(folder)?;
    let write = |name: &str, content: &[u8]| -> Result<()> {
        fs::write(folder.join(name), content).with_context(|| format!("write {}", folder.join(name).display()))
    };
    let in_json = |value: &Value| serde_json::to_vec_pretty(value);

    let mut digest = String::new();
    for (name, algorithm) in
        [("cosign", Algorithm::P256), ("release", Algorithm::P256), ("p384", Algorithm::P384), ("rsa", Algorithm::Rsa)]
    {
        write(&format!("{name}.pub"), &fs::read(cosign.generate_key(name, algorithm)?)?)?;
        for format in [Format::Bundle, Format::Older] {
            // A repository each, so that there is one signature in it.
            let repository = format!("{name}/{}", if format == Format::Bundle { "bundle" } else { "older" });
            digest = push_artifact(&registry, &repository)?;
            let artifact = format!("{}/{repository}@{digest}", registry.address());
            cosign.sign(&artifact, name, format)?;
            for found in signatures(&registry, &repository, &digest)? {
                if found.media_type == SIMPLE_SIGNING {
                    write(&format!("{name}-old.payload.json"), &found.content)?;
                    write(&format!("{name}-old.annotations.json"), &in_json(&json!(found.annotations))?)?;
                } else {
                    write(&format!("{name}.sigstore.json"), &found.content)?;
                }
            }
        }
    }
    push_artifact(&registry, "cosign/attested")?;
    cosign.attest(&format!("{}/cosign/attested@{digest}", registry.address()), "cosign")?;
    for found in signatures(&registry, "cosign/attested", &digest)? {
        write("cosign-attestation.sigstore.json", &found.content)?;
    }
    write("digest", digest.as_bytes())?;
    cosign.keyless(&digest, IDENTITY, ISSUER, &folder)
}
