//! `headwater bundle`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use super::{BundleCommand, Output, RemoteBundle, bundle_diff, bundle_images, ui};
use crate::bundle::{
    Archive, Credentials, Repository, Selector, pack, read_folder, tag_of, unpack, version_of, versions,
};
use crate::render::digest as digest_of;
use crate::render::scaffold::scaffold;
use crate::render::{Bundle, Settings, check, images, source};

pub(super) async fn run(command: BundleCommand) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Diff(args) => return bundle_diff::run(args).await,
        BundleCommand::Images(args) => bundle_images::run(args).await,
        BundleCommand::New { source, version, from, images } => new(&source, &version, from.as_deref(), &images),
        BundleCommand::Build { source, versions, output } => build(&source, versions, &output),
        BundleCommand::Push { files, to, registry } => {
            let repository = repository(&to, registry.insecure)?;
            for file in files {
                let (archive, bundle) = read(&file)?;
                let tag = tag_of(bundle.version());
                ui::talk(format!("pushing {} ({} KiB)", repository.name(&tag), archive.bytes.len() / 1024));
                let digest = repository.push(&tag, &archive).await?;
                ui::out(format!("{}@{digest}", repository.name(&tag)));
            }
            Ok(())
        }
        BundleCommand::Pull { from, output } => {
            let (archive, digest) = pull(&from).await?;
            let bundle = Bundle::parse(&unpack(&archive.bytes)?)?;
            let file = output.join(file_name(&bundle));
            std::fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
            std::fs::write(&file, &archive.bytes).with_context(|| format!("cannot write {}", file.display()))?;
            ui::out(format!("{}  {digest}", file.display()));
            Ok(())
        }
        BundleCommand::List { repository: address, registry, output } => {
            list(&repository(&address, registry.insecure)?, output).await
        }
        BundleCommand::Inspect { bundle, version, registry, output } => {
            let (archive, digest) = if bundle.starts_with("oci://") {
                pull(&RemoteBundle { repository: bundle, version, registry }).await?
            } else {
                let (archive, _) = read(Path::new(&bundle))?;
                let digest = archive.bundle_digest();
                (archive, digest)
            };
            inspect(&Bundle::parse(&unpack(&archive.bytes)?)?, &digest, output)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn new(folder: &Path, version: &str, from: Option<&str>, images: &[String]) -> anyhow::Result<()> {
    let new = scaffold(&read_folder(folder)?, version, from, images).with_context(|| folder.display().to_string())?;
    for (path, bytes) in &new.files {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        ui::out(file.display());
    }
    ui::talk(format!("made from {}; left to do:", new.from));
    for sentence in &new.left {
        ui::talk(format!("- {sentence}"));
    }
    Ok(())
}

fn build(folder: &Path, wanted: Vec<String>, output: &Path) -> anyhow::Result<()> {
    let files = read_folder(folder)?;
    let all = versions(&files);
    let wanted = if wanted.is_empty() { all.iter().map(ToString::to_string).collect() } else { wanted };
    if wanted.is_empty() {
        bail!("{} holds no versions: a version is a sub-folder named like 2.9.4 with a version.yaml", folder.display());
    }
    std::fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    for version in wanted {
        let composed = source::compose(&files, &version).with_context(|| folder.display().to_string())?;
        let bundle = Bundle::parse(&composed).with_context(|| format!("{} {version}", folder.display()))?;
        check(&bundle).with_context(|| format!("{} {version}", folder.display()))?;
        let archive = pack(&composed)?;
        let file = output.join(file_name(&bundle));
        std::fs::write(&file, &archive.bytes).with_context(|| format!("cannot write {}", file.display()))?;
        ui::talk(format!("{} has {:.1} KB", file.display(), kilobytes(&archive)));
        ui::out(format!("{}  {}", file.display(), archive.bundle_digest()));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn kilobytes(archive: &Archive) -> f64 {
    archive.bytes.len() as f64 / 1000.0
}

fn file_name(bundle: &Bundle) -> String {
    format!("{}-{}.tar.gz", bundle.manifest().name, tag_of(bundle.version()))
}

pub(super) fn read(file: &Path) -> anyhow::Result<(Archive, Bundle)> {
    let bytes = bytes::Bytes::from(std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    let archive = Archive { digest: digest_of(&bytes), bytes };
    let bundle = Bundle::parse(&unpack(&archive.bytes)?).with_context(|| file.display().to_string())?;
    Ok((archive, bundle))
}

/// Credentials of `docker login`: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
fn repository(address: &str, insecure: bool) -> anyhow::Result<Repository> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    let file = folder.map(|f| f.join("config.json")).filter(|f| f.exists());
    let credentials = match file {
        None => Credentials::default(),
        Some(file) => {
            let json = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            Credentials::parse(&json, &file.display().to_string())?
        }
    };
    Ok(Repository::new(address, insecure, &credentials)?)
}

pub(super) async fn pull(from: &RemoteBundle) -> anyhow::Result<(Archive, String)> {
    let repository = repository(&from.repository, from.registry.insecure)?;
    let selector = Selector::parse(&from.version)?;
    let digest = match &selector {
        Selector::Digest(digest) => digest.clone(),
        Selector::Exact(_) | Selector::Range(_) => {
            let tags = repository.tags().await?;
            let Some((_, tag)) = selector.choose(&tags) else {
                bail!("no version in {} matches {:?} (found: {})", from.repository, from.version, found(&tags));
            };
            ui::talk(format!("pulling {}", repository.name(&tag)));
            repository.digest(&tag).await?
        }
    };
    Ok((repository.pull(&digest).await?, digest))
}

fn found(tags: &[String]) -> String {
    let mut versions: Vec<semver::Version> = tags.iter().filter_map(|t| version_of(t)).collect();
    versions.sort();
    let newest: Vec<String> = versions.iter().rev().take(8).map(ToString::to_string).collect();
    if newest.is_empty() { "none".to_owned() } else { newest.join(", ") }
}

async fn list(repository: &Repository, output: Output) -> anyhow::Result<()> {
    let mut bundles: Vec<(semver::Version, String)> =
        repository.tags().await?.into_iter().filter_map(|tag| Some((version_of(&tag)?, tag))).collect();
    bundles.sort();
    let mut rows = Vec::new();
    for (version, tag) in bundles.into_iter().rev() {
        rows.push(vec![version.to_string(), repository.digest(&tag).await?, repository.name(&tag)]);
    }
    if output == Output::Table {
        ui::table(&["VERSION", "DIGEST", "REFERENCE"], &rows);
        return Ok(());
    }
    let values: Vec<_> = rows.iter().map(|r| json!({"version": r[0], "digest": r[1], "reference": r[2]})).collect();
    ui::value(&values, output)
}

fn inspect(bundle: &Bundle, digest: &str, output: Output) -> anyhow::Result<()> {
    let manifest = bundle.manifest();
    if output != Output::Table {
        return ui::value(&json!({"digest": digest, "manifest": manifest}), output);
    }
    let range = &manifest.kubernetes;
    ui::out(format!("name:        {} {}", manifest.name, manifest.version));
    ui::out(format!("digest:      {digest}"));
    ui::out(format!("kubernetes:  {} to {}, refused below {}", range.minimum, range.maximum, range.refused_below));
    ui::out(format!("reached from {}", manifest.upgrade.from));
    for detour in &manifest.upgrade.via {
        ui::out(format!("         and {} through the CRDs of {}", detour.from, detour.through.join(", then ")));
    }
    for step in &manifest.rollout {
        ui::out(format!("first:       {}: {}", step.components.join(", "), step.reason));
    }
    ui::out("");
    let rows: Vec<Vec<String>> = manifest
        .components
        .iter()
        .map(|c| {
            vec![
                c.name.clone(),
                if c.default { "yes" } else { "no" }.to_owned(),
                c.crds.len().to_string(),
                c.feature_gates.len().to_string(),
                c.flags.len().to_string(),
                if c.requires.is_empty() { "-".to_owned() } else { c.requires.join(", ") },
            ]
        })
        .collect();
    ui::table(&["COMPONENT", "DEFAULT", "CRDS", "GATES", "FLAGS", "REQUIRES"], &rows);
    ui::out("");
    let all = Settings {
        components: Some(manifest.components.iter().map(|c| c.name.clone()).collect()),
        ..Settings::default()
    };
    let rows: Vec<Vec<String>> =
        images(bundle, &all)?.into_iter().map(|image| vec![image.component.clone(), image.complete()]).collect();
    ui::table(&["COMPONENT", "IMAGE"], &rows);
    ui::out("");
    let rows: Vec<Vec<String>> = bundle
        .served_kinds()
        .iter()
        .map(|k| vec![k.kind.clone(), k.group.clone(), k.versions.join(", "), k.storage.clone()])
        .collect();
    ui::table(&["KIND", "GROUP", "SERVED", "STORED"], &rows);
    Ok(())
}
