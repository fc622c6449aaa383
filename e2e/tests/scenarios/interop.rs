//! Other people's tools: what they read of ours and we of theirs, and mirrors that are complete.

use std::path::Path;
use std::sync::OnceLock;

use headwater_e2e::process::{Launch, Process};
use headwater_e2e::sigstore::{Algorithm, Cosign, Format};
use headwater_e2e::tools::{Module, Tools, ensure};
use headwater_e2e::{Kind, Registry, RegistryOptions};
use serde_json::Value;

use crate::harness::{
    Ended, NEW, OLD, SOON, Site, Tenant, eventually, headwater, holds, in_repository, run, shared_hub, world,
};
use crate::servers::{Fault, Moody};

/// Runs `crane`, `oras` or `flux`, and gives what it writes; it has to succeed.
fn tool(name: &str, args: &[&str]) -> String {
    let ended = try_tool(name, args);
    assert_eq!(ended.code, 0, "{name} {args:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

fn try_tool(name: &str, args: &[&str]) -> Ended {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| ensure(&[Module::OciTools, Module::FluxCli]).unwrap());
    run(&tools.path(name).unwrap(), args, &[])
}

fn done(args: &[&str]) -> String {
    let ended = headwater(args, &[]);
    assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

/// A bundle's files, in a folder.
pub(crate) fn unpacked(version: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = std::process::Command::new("tar");
    assert!(tar.args(["-xzf", &world().bundle(version), "-C"]).arg(folder.path()).status().unwrap().success());
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `flux`, `crane` and `oras` read what `headwater bundle push` has pushed: the same bytes under the same digest, and copies of
/// it are the same bundle.
#[test]
fn other_tools_read_our_bundles() {
    let registry = world().registry.address();
    let place = format!("{registry}/flux:{NEW}");
    let digest = &world().digests[NEW];
    let folder = tempfile::tempdir().unwrap();

    let out = folder.path().join("pulled");
    std::fs::create_dir(&out).unwrap();
    tool("flux", &["pull", "artifact", &format!("oci://{place}"), "--output", text(&out), "--insecure-registry"]);
    let files = |path: &Path| headwater::bundle::read_folder(path).unwrap();
    assert_eq!(files(&out), files(unpacked(NEW).path()));
    let listed = tool("flux", &["list", "artifacts", &world().repository("flux"), "--insecure-registry"]);
    for version in [OLD, NEW] {
        let artifact = format!("{registry}/flux:{version}");
        let row = listed.lines().find(|line| line.starts_with(&artifact)).unwrap_or_else(|| panic!("{listed}"));
        assert!(row.contains(&world().digests[version]), "{listed}");
    }

    assert_eq!(&tool("crane", &["digest", &place]), digest);
    tool("crane", &["validate", "--remote", &place]);
    let manifest: Value = serde_json::from_str(&tool("crane", &["manifest", &place])).unwrap();
    assert_eq!(manifest["config"]["mediaType"], headwater::bundle::CONFIG_MEDIA_TYPE);
    assert_eq!(manifest["layers"][0]["mediaType"], headwater::bundle::LAYER_MEDIA_TYPE);
    tool("oras", &["pull", &place, "--plain-http", "--output", text(folder.path())]);
    let file = folder.path().join("bundle.tar.gz");
    assert_eq!(std::fs::read(file).unwrap(), std::fs::read(world().bundle(NEW)).unwrap());
    // Image tools that know files in layers only.
    let exported = folder.path().join("exported.tar");
    tool("crane", &["export", &place, text(&exported)]);
    let listed = std::process::Command::new("tar").arg("-tf").arg(&exported).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == "bundle.yaml"));

    let copies = [format!("{registry}/by-crane/flux"), format!("{registry}/by-oras/flux")];
    tool("crane", &["copy", &place, &format!("{}:{NEW}", copies[0])]);
    tool("oras", &["copy", &place, &format!("{}:{NEW}", copies[1]), "--from-plain-http", "--to-plain-http"]);
    for copy in copies {
        let listed = done(&["bundle", "list", &format!("oci://{copy}"), "--insecure", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed[0]["digest"], digest.as_str());
        let out = folder.path().join("ours");
        done(&["bundle", "pull", &format!("oci://{copy}"), "--insecure", "-o", text(&out)]);
        let file = out.join(format!("flux-{NEW}.tar.gz"));
        assert_eq!(std::fs::read(file).unwrap(), std::fs::read(world().bundle(NEW)).unwrap());
    }
}

/// Layouts of ours are read by `oras`, and those of `oras` and `crane` by us, whatever they call what is in them.
#[test]
fn layouts_go_both_ways() {
    let registry = world().registry.address();
    let place = format!("{registry}/flux:{NEW}");
    let digest = &world().digests[NEW];
    let folder = tempfile::tempdir().unwrap();
    for name in ["layout", "layout.tar"] {
        let layout = folder.path().join(name);
        done(&["bundle", "export", text(&layout)]);
        let described =
            tool("oras", &["manifest", "fetch", "--descriptor", "--oci-layout", &format!("{}:{NEW}", text(&layout))]);
        let described: Value = serde_json::from_str(&described).unwrap();
        assert_eq!(described["digest"], digest.as_str(), "{name}");
        let copy = format!("{registry}/from-{name}:{NEW}");
        tool("oras", &["copy", "--from-oci-layout", &format!("{}:{NEW}", text(&layout)), &copy, "--to-plain-http"]);
        assert_eq!(&tool("crane", &["digest", &copy]), digest);
    }

    let made = |name: &str| folder.path().join(name).display().to_string();
    tool("oras", &["copy", &place, "--from-plain-http", "--to-oci-layout", &format!("{}:{NEW}", made("oras"))]);
    tool("crane", &["pull", "--format=oci", &place, &made("crane")]);
    tool("crane", &["pull", "--format=oci", "--annotate-ref", &place, &made("crane-annotated")]);
    for name in ["oras", "crane", "crane-annotated"] {
        let to = world().repository(&format!("layout-of-{name}"));
        let said = done(&["bundle", "push", "--from-layout", &made(name), "--to", &to, "--insecure"]);
        assert_eq!(said, format!("{to}:{NEW}@{digest}"));
    }
}

/// What `flux push artifact` makes of a bundle's files is a bundle: listed, inspected, pulled and installed.
#[test]
fn bundles_pushed_by_flux_are_installed() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "pushed-by-flux");
    let repository = world().repository("pushed-by-flux");
    let files = unpacked(NEW);
    let pushed = tool(
        "flux",
        &[
            &["push", "artifact", &format!("{repository}:{NEW}"), "--path", text(files.path()), "--source", "x"],
            ["--revision", "y", "--insecure-registry", "--output", "json"].as_slice(),
        ]
        .concat(),
    );
    let digest = serde_json::from_str::<Value>(&pushed).unwrap()["digest"].as_str().unwrap().to_owned();
    assert_ne!(digest, world().digests[NEW], "flux packs in its own way");
    let json = |args: &[&str]| {
        let said = done(&[&["bundle"], args, &["--insecure", "-o", "json"]].concat());
        serde_json::from_str::<Value>(&said).unwrap()
    };
    assert_eq!(json(&["list", &repository])[0]["digest"], digest.as_str());
    assert_eq!(json(&["inspect", &repository])["digest"], digest.as_str());
    let out = tempfile::tempdir().unwrap();
    done(&["bundle", "pull", &repository, "--insecure", "-o", text(out.path())]);

    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"]["artifact"] = Value::from(repository);
    tenant.create("a", &wanted);
    tenant.ready("a");
    assert_eq!(tenant.status("a")["applied"]["digest"], digest.as_str());
}

/// An image of two platforms, in the formats of OCI or of Docker, made with `crane`.
fn image(place: &str, tag: &str, oci: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let layer = folder.path().join("layer.tar.gz");
    let mut index = vec!["index".to_owned(), "append".to_owned(), "-t".to_owned(), format!("{place}:{tag}")];
    if !oci {
        index.push("--docker-empty-base".to_owned());
    }
    for platform in ["amd64", "arm64"] {
        let content = format!("{place} {platform}").into_bytes();
        let packed = headwater::bundle::pack(&[("program".to_owned(), content)].into()).unwrap();
        std::fs::write(&layer, &packed.bytes).unwrap();
        let one = format!("{place}:{tag}-{platform}");
        let base: &[&str] = if oci { &["--oci-empty-base"] } else { &[] };
        tool("crane", &[&["append", "-f", text(&layer), "-t", &one], base].concat());
        tool("crane", &["mutate", &one, "--set-platform", &format!("linux/{platform}"), "-t", &one]);
        index.extend(["-m".to_owned(), one]);
    }
    tool("crane", &index.iter().map(String::as_str).collect::<Vec<_>>());
    tool("crane", &["digest", &format!("{place}:{tag}")])
}

/// The digest of the layer of an image for one platform.
fn layer_of(image: &str, platform: &str) -> String {
    let manifest = tool("crane", &["manifest", image, "--platform", platform]);
    serde_json::from_str::<Value>(&manifest).unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned()
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A mirror has the bundle with its signatures and its images with all platforms, under the same digests. What is there is not sent again, what
/// is missing is; what is damaged is refused by name, and leaves no tag that would lead to it.
#[test]
fn mirrors_are_complete() {
    let (source, target) = (world().registry.address(), Registry::start(&RegistryOptions::default()).unwrap());
    // A bundle of these images: its digests are those of images nobody has here.
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("flux");
    let copied = std::process::Command::new("cp").args(["-r", &in_repository("bundles/flux")]).arg(&sources).status();
    assert!(copied.unwrap().success());
    let said = done(&["bundle", "inspect", &world().bundle(NEW), "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let file = sources.join(NEW).join("version.yaml");
    let mut version = std::fs::read_to_string(&file).unwrap();
    let mut images = Vec::new();
    for (name, oci) in [("source-controller", true), ("kustomize-controller", false)] {
        let component = said["manifest"]["components"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
        let tag = component["tag"].as_str().unwrap();
        let digest = image(&format!("{source}/images/{name}"), tag, oci);
        version = version.replace(component["digest"].as_str().unwrap(), &digest);
        images.push((format!("{name}:{tag}"), digest));
    }
    std::fs::write(&file, version).unwrap();
    let dist = folder.path().join("dist");
    done(&["bundle", "build", text(&sources), "--version", NEW, "-o", text(&dist)]);
    let bundle = dist.join(format!("flux-{NEW}.tar.gz"));
    let from = world().repository("mirrored/flux");
    let pushed = done(&["bundle", "push", text(&bundle), "--to", &from, "--insecure"]);
    let digest = pushed.rsplit('@').next().unwrap();
    let cosign = Cosign::new().unwrap();
    let keys = [("new", Format::Bundle), ("old", Format::Older)].map(|(name, format)| {
        let key = cosign.generate_key(name, Algorithm::P256).unwrap();
        cosign.sign(&format!("{source}/mirrored/flux@{digest}"), name, format).unwrap();
        key
    });

    let images_from = format!("{source}/images");
    let args = |registry: &str, path: &str, images_from: &str| {
        let to = format!("oci://{registry}/{path}");
        let args =
            ["bundle", "mirror", &from, "--insecure", "--to", &to, "--to-insecure", "--images-from", images_from];
        let more = ["--images-insecure", "--component", "source-controller", "--component", "kustomize-controller"];
        [&args[..], &more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mirror = |registry: &str, path: &str| {
        let args = args(registry, path, &images_from);
        headwater(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    };
    let place = target.address();
    let complete = |path: &str| {
        for (image, digest) in &images {
            let image = format!("{place}/{path}/{image}");
            assert_eq!(&tool("crane", &["digest", &image]), digest);
            tool("crane", &["validate", "--remote", &image]);
            for platform in ["linux/amd64", "linux/arm64"] {
                tool("crane", &["validate", "--remote", &image, "--platform", platform]);
            }
        }
        assert_eq!(tool("crane", &["digest", &format!("{place}/{path}/flux:{NEW}")]), digest);
        for key in &keys {
            let bundle = format!("oci://{place}/{path}/flux");
            done(&["bundle", "verify", &bundle, "--insecure", "--key", text(key)]);
        }
    };

    let first = mirror(&place, "mirror");
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(first.stdout.trim(), format!("oci://{place}/mirror/flux:{NEW}@{digest}"));
    complete("mirror");
    // Through a server that lets nothing be written.
    let second = mirror(&Moody::start(&place).address, "mirror");
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.stderr.contains("0 manifests and 0 blobs copied (0 KiB), "), "{second:?}");
    let (one, _) = &images[0];
    let lost = layer_of(&format!("{place}/mirror/{one}"), "linux/arm64");
    std::fs::remove_file(target.blob(&lost)).unwrap();
    let third = mirror(&place, "mirror");
    assert!(third.code == 0 && third.stderr.contains("0 manifests and 1 blobs copied"), "{third:?}");
    complete("mirror");

    let (damaged, _) = &images[1];
    let layer = layer_of(&format!("{images_from}/{damaged}"), "linux/arm64");
    let file = world().registry.blob(&layer);
    flip(&file);
    let fourth = mirror(&place, "other");
    assert_eq!(fourth.code, 2, "{fourth:?}");
    let expected = format!("error: kustomize-controller: digest mismatch: expected {layer}, got sha256:");
    assert!(fourth.stderr.lines().last().unwrap().starts_with(&expected), "{fourth:?}");
    assert_ne!(try_tool("crane", &["digest", &format!("{place}/other/{damaged}")]).code, 0);
    assert_ne!(try_tool("crane", &["digest", &format!("{place}/other/flux:{NEW}")]).code, 0);
    flip(&file);
    assert_eq!(mirror(&place, "other").code, 0);
    complete("other");

    // Killed when the first image is there and the second on its way.
    let stuck = Moody::start(&source);
    stuck.becomes(Fault::Silent("kustomize-controller"));
    let launch = Launch {
        name: "mirror".into(),
        program: world().binary.clone(),
        args: args(&place, "killed", &format!("{}/images", stuck.address)),
        env: vec![("HOME".into(), text(folder.path()).into())],
        dir: folder.path().to_owned(),
        log: folder.path().join("mirror.log"),
    };
    let killed = Process::spawn(&launch).unwrap();
    eventually("the first image is there", SOON, || {
        let looked = try_tool("crane", &["digest", &format!("{place}/killed/{one}")]);
        holds(looked.code == 0, looked)
    });
    drop(killed);
    assert_ne!(try_tool("crane", &["digest", &format!("{place}/killed/flux:{NEW}")]).code, 0);
    let again = mirror(&place, "killed");
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stderr.contains(&format!("{one}@{}: was there", images[0].1)), "{again:?}");
    complete("killed");
}
