//! Bundles that are none: what is said, that nothing is applied, and that a corrected one is taken by itself.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use headwater::bundle::{CONFIG_MEDIA_TYPE, LAYER_MEDIA_TYPE, pack, read_folder};
use headwater::registry::{Access, Address, Descriptor, INDEX, Index, MANIFEST, Manifest, Repository};
use headwater::render::source::compose;
use headwater::render::yaml;
use headwater_e2e::{Kind, Registry, RegistryOptions};
use serde_json::json;

use crate::harness::{
    NEW, SOON, Site, Tenant, block_on, eventually, headwater, in_flux, in_repository, shared_hub, world,
};

type Files = BTreeMap<String, Vec<u8>>;

/// The version all of them are pushed as, each into a repository of its own.
const VERSION: &str = "2.9.100";

/// The files of [`NEW`] as [`VERSION`].
fn files() -> Files {
    let mut files = compose(&read_folder(in_repository("bundles/flux").as_ref()).unwrap(), NEW).unwrap();
    let text = String::from_utf8(files["bundle.yaml"].clone()).unwrap();
    let mut manifest = yaml::parse_one("bundle.yaml", &text).unwrap();
    manifest["version"] = json!(VERSION);
    files.insert("bundle.yaml".to_owned(), yaml::emit(&manifest).unwrap().into_bytes());
    files
}

fn edit(files: &mut Files, path: &str, from: &str, to: &str) {
    let text = String::from_utf8(files[path].clone()).unwrap();
    assert!(text.contains(from), "{from:?} is not in {path}");
    files.insert(path.to_owned(), text.replacen(from, to, 1).into_bytes());
}

fn add(files: &mut Files, path: &str, text: &str) {
    files.insert(path.to_owned(), text.as_bytes().to_vec());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A tar archive of one entry, as `tar` itself would not make it.
fn entry(path: &str, kind: u8) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(b"00000000001\0");
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend([b'x'].iter().chain(&[0; 511]).chain(&[0; 1024]));
    tar
}

/// What is pushed, and what is said of it. `DIGEST` stands for the digest of the manifest.
struct Case {
    name: &'static str,
    manifest: Bytes,
    media_type: &'static str,
    blobs: Vec<Bytes>,
    said: String,
}

fn of_layer(name: &'static str, layer: Vec<u8>, said: &str) -> Case {
    let layer = Bytes::from(layer);
    let manifest = manifest(vec![Descriptor::of(LAYER_MEDIA_TYPE, &layer)]);
    Case { name, manifest, media_type: MANIFEST, blobs: vec![layer], said: said.to_owned() }
}

fn manifest(layers: Vec<Descriptor>) -> Bytes {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(CONFIG_MEDIA_TYPE, b"{}"),
        layers,
        subject: None,
        annotations: None,
    };
    Bytes::from(serde_json::to_vec(&manifest).unwrap())
}

/// A bundle with one thing wrong in its files.
fn of_files(name: &'static str, change: impl FnOnce(&mut Files), said: &str) -> Case {
    let mut files = files();
    change(&mut files);
    of_layer(name, pack(&files).unwrap().bytes.to_vec(), said)
}

#[rustfmt::skip] // a row a case
fn cases() -> Vec<Case> {
    let broken = |name, change: fn(&mut Files), said: &str| of_files(name, change, said);
    let hostile = |name, tar: Vec<u8>, said: &str| of_layer(name, gzip(&tar), said);
    let empty = Descriptor::of(LAYER_MEDIA_TYPE, b"");
    let raw = |name, manifest: Bytes, media_type, blobs, said: &str| Case {
        name,
        manifest,
        media_type,
        blobs,
        said: said.to_owned(),
    };
    let index = Bytes::from(serde_json::to_vec(&Index::new(Vec::new())).unwrap());
    let other = Bytes::from_static(b"other");
    let mut two = pack(&files()).unwrap().bytes.to_vec();
    two.extend(gzip(b"more"));
    vec![
        raw("an index", index, INDEX, vec![], "DIGEST is an index of several manifests (application/vnd.oci.image.index.v1+json); a bundle is a single image manifest"),
        raw("no layer", manifest(vec![]), MANIFEST, vec![], "DIGEST: a bundle has one layer, this artifact has 0"),
        raw("an empty layer", manifest(vec![empty]), MANIFEST, vec![Bytes::new()], "DIGEST: the layer is empty, a bundle is a gzipped tar archive"),
        raw("a layer of another type", manifest(vec![Descriptor::of("application/wasm", &other)]), MANIFEST, vec![other.clone()], "DIGEST: the layer has media type \"application/wasm\", a bundle has \"application/vnd.cncf.flux.content.v1.tar+gzip\""),
        of_layer("no gzip", other.to_vec(), "archive is damaged: unexpected end of file"),
        of_layer("two members", two, "archive has 24 bytes after the end of its gzip stream"),
        hostile("a path that escapes", entry("../etc/x", b'0'), "entry \"../etc/x\": path escapes the archive or is not normal"),
        hostile("a symlink", entry("crds", b'2'), "entry \"crds\": symlinks are not allowed (regular files only)"),
        hostile("a device", entry("crds", b'3'), "entry \"crds\": devices are not allowed (regular files only)"),
        hostile("files twice", [&entry("a", b'0')[..1024], &entry("A", b'0')].concat(), "duplicate entry \"A\""),
        of_layer("a bomb", gzip(&vec![0; 101 << 20]), "unpacked size exceeds 100 MiB (compressed "),
        broken("no manifest", |f| drop(f.remove("bundle.yaml")), "DIGEST: bundle.yaml is missing: this is not a bundle, or its files are below a folder instead of at the top"),
        broken("a stray file", |f| add(f, "README.md", ""), "DIGEST: README.md has no place in a bundle; allowed are bundle.yaml, crds/NAME.yaml and templates/NAME.yaml"),
        broken("no YAML", |f| add(f, "bundle.yaml", "a: ["), "DIGEST: bundle.yaml:1:"),
        broken("a key twice", |f| edit(f, "bundle.yaml", "name: flux", "name: flux\nname: other"), "DIGEST: bundle.yaml:"),
        broken("an unknown field", |f| edit(f, "bundle.yaml", "name: flux", "name: flux\nnames: other"), "DIGEST: bundle.yaml: names is not a field; allowed are: "),
        broken("a missing CRD", |f| drop(f.remove("crds/helm.toolkit.fluxcd.io_helmreleases.yaml")), "DIGEST: bundle.yaml: components[2].crds[0].name is \"helmreleases.helm.toolkit.fluxcd.io\", which is not in crds/; there is: "),
        broken("a CRD without component", |f| edit(f, "crds/helm.toolkit.fluxcd.io_helmreleases.yaml", "name: helmreleases.helm.toolkit.fluxcd.io", "name: x.helm.toolkit.fluxcd.io"), "DIGEST: bundle.yaml: components[2].crds[0].name is \"helmreleases.helm.toolkit.fluxcd.io\", which is not in crds/; there is: "),
        broken("an object without name", |f| add(f, "templates/x.yaml", "apiVersion: v1\nkind: ConfigMap\n"), "bundle flux VERSION: output of templates/x.yaml: metadata"),
        broken("an object twice", |f| add(f, "templates/x.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n"), "bundle flux VERSION: Namespace flux-system is rendered twice"),
        broken("an unknown variable", |f| add(f, "templates/x.yaml", "a: {{ tenat }}"), "bundle flux VERSION: templates/x.yaml:1:"),
        broken("an unknown function", |f| add(f, "templates/x.yaml", "a: {{ get_env(name=\"HOME\") }}"), "DIGEST: error: Unknown function `get_env`"),
        broken("an unclosed block", |f| add(f, "templates/x.yaml", "{% if sync %}"), "DIGEST: templates/x.yaml"),
        broken("a version under another tag", |f| edit(f, "bundle.yaml", "version: ", "version: 2.9.50 # "), "DIGEST: is under tag \"VERSION\", but is version 2.9.50; push it as \"2.9.50\""),
    ]
}

/// Each of them pushed under a version of its own; the instance is told to go there, and stays where it is.
#[test]
fn what_is_no_bundle_is_refused_and_changes_nothing() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "bundles");
    let push = |repository: &str, case: &Case| {
        let access = Access { insecure: true, ..Access::default() };
        let to = Repository::new(&Address::parse(repository).unwrap(), &access).unwrap();
        block_on(async {
            to.push_blob(&Bytes::from_static(b"{}")).await?;
            for blob in &case.blobs {
                to.push_blob(blob).await?;
            }
            to.push_manifest(VERSION, case.media_type, &case.manifest).await
        })
        .unwrap();
    };
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["interval"] = json!("30s");
    tenant.create("a", &wanted);
    tenant.ready("a");
    let deployment = in_flux("deployments", "source-controller");
    let before = target.must_get(&deployment)["metadata"]["resourceVersion"].clone();
    let mark = target.audit_mark();

    let mut wrong = Vec::new();
    let mut last = String::new();
    let mut repository = String::new();
    for (number, case) in cases().into_iter().enumerate() {
        repository = world().repository(&format!("bad/flux-{number}"));
        push(&repository, &case);
        tenant.patch("a", &json!({"spec": {"distribution": {"artifact": repository, "version": VERSION}}}));
        let digest = Descriptor::of(MANIFEST, &case.manifest).digest;
        let expected = case.said.replace("DIGEST", &digest).replace("VERSION", VERSION);
        let said = tenant.wait("a", "Ready", SOON, |c| c.status == "False" && c.message != last);
        if !said.message.starts_with(&expected) || !["ArtifactRejected", "BuildFailed"].contains(&said.reason.as_str())
        {
            wrong.push(format!("{}\n  expected {expected}\n  found    {} {}", case.name, said.reason, said.message));
        }
        last = said.message;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(target.must_get(&deployment)["metadata"]["resourceVersion"], before);
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "nothing was written to the cluster");
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);

    // Corrected under the same tag, and nobody touches the instance.
    push(&repository, &of_files("good", |_| (), ""));
    tenant.wait("a", "Ready", 60, |c| c.status == "True");
    assert_eq!(tenant.status("a")["applied"]["version"], VERSION);
}

/// A byte is flipped where the registry keeps it: in the middle, and after the end mark of the archive.
#[test]
fn a_flipped_byte_is_noticed_wherever_it_is() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "flipped");
    // One of its own: what is broken is broken for all of its repositories.
    let registry = Registry::start(&RegistryOptions::default()).unwrap();
    let repository = format!("oci://{}/flipped/flux", registry.address());
    let pushed = headwater(&["bundle", "push", &world().bundle(NEW), "--to", &repository, "--insecure"], &[]);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let layer = Bytes::from(std::fs::read(world().bundle(NEW)).unwrap());
    let expected = Descriptor::of("", &layer).digest;
    let blob = registry.blob(&expected);
    let mut said = String::new();
    for place in [layer.len() / 2, layer.len() - 1] {
        let mut bytes = layer.to_vec();
        bytes[place] ^= 1;
        let found = Descriptor::of("", &bytes).digest;
        std::fs::write(&blob, bytes).unwrap();
        let name = format!("at-{place}");
        let mut wanted = tenant.remote(&name, &target, NEW);
        wanted["distribution"]["artifact"] = json!(repository);
        wanted["interval"] = json!("30s");
        tenant.create(&name, &wanted);
        said = tenant.fails(&name, "ArtifactDigestMismatch").message;
        assert_eq!(
            said,
            format!(
                "digest mismatch: expected {expected}, got {found} (registry {}); nothing was applied",
                registry.address()
            )
        );
        tenant.delete(&name);
    }
    assert!(target.get("/api/v1/namespaces/flux-system").is_none(), "{said}");
    std::fs::write(&blob, &layer).unwrap();
    let mut wanted = tenant.remote("good", &target, &world().digests[NEW]);
    wanted["distribution"]["artifact"] = json!(repository);
    tenant.create("good", &wanted);
    eventually("the whole bytes are taken", SOON, || match tenant.condition("good", "Ready") {
        Some(ready) if ready.status == "True" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
