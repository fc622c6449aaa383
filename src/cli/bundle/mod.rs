//! `headwater bundle`: for those who make, publish, mirror and judge bundles.

mod args;
mod diff;
mod images;
mod inspect;
mod mirror;
mod place;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::{Output, ui};
use crate::bundle::{
    Admitted, Archive, Layout, Provenance, Selector, embedded, pack, push, read_folder, tag_of, versions,
};
use crate::render::scaffold::scaffold;
use crate::render::{Bundle, check, source};
use args::{RegistryArgs, RemoteBundle, TrustArgs};

#[derive(Subcommand)]
pub(super) enum BundleCommand {
    /// Write the sources of a new version from those of an older one, and say what is left to do
    New {
        /// Source folder, such as bundles/flux
        source: PathBuf,
        /// The new version
        version: String,
        /// Version to start from [default: the newest one below]
        #[arg(long)]
        from: Option<String>,
        /// An image that has another tag now; may be given several times
        #[arg(long = "image", value_name = "NAME=TAG[@DIGEST]")]
        images: Vec<String>,
    },
    /// Build bundles from a source folder; the same sources always give the same digest
    Build {
        /// Source folder, such as bundles/flux
        source: PathBuf,
        /// Versions to build [default: all in the folder]
        #[arg(long = "version", value_name = "VERSION")]
        versions: Vec<String>,
        /// Folder to write to
        #[arg(long, short, default_value = "dist")]
        output: PathBuf,
    },
    /// Push built bundles to a repository; the tag is the version
    Push {
        /// Bundle files
        #[arg(required_unless_present = "from_layout")]
        files: Vec<PathBuf>,
        /// OCI layout whose bundles to push: a folder or a .tar file, as `bundle export` writes it
        #[arg(long, value_name = "PATH", conflicts_with = "files")]
        from_layout: Option<PathBuf>,
        /// Repository: <oci://HOST>[:PORT]/PATH
        #[arg(long)]
        to: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Pull a bundle, checking every byte against its digest, and its signature where one is asked for
    Pull {
        #[command(flatten)]
        from: RemoteBundle,
        /// Folder to write to
        #[arg(long, short, default_value = ".")]
        output: PathBuf,
    },
    /// List the bundles of a repository
    List {
        /// Repository: <oci://HOST>[:PORT]/PATH
        repository: String,
        #[command(flatten)]
        registry: RegistryArgs,
        /// Format
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what a bundle holds
    Inspect {
        /// A bundle file, FOLDER@VERSION for a source folder, embedded@VERSION, or <oci://HOST>[:PORT]/PATH@VERSION
        bundle: String,
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        trust: TrustArgs,
        /// Format
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what an upgrade from one bundle to another means. Exits with 0 when nothing breaking is found, 1 when something is
    Diff(diff::DiffArgs),
    /// Print the images of a bundle with their digests, one a line, for tools that mirror images
    Images(images::ImagesArgs),
    /// Verify who has signed a bundle, as the operator does with spec.distribution.verify. Exits with 0 when it is verified
    Verify {
        #[command(flatten)]
        from: RemoteBundle,
        /// Format
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Copy a bundle, its signatures and the images of its components into other repositories; what is there is not sent again
    Mirror(mirror::MirrorArgs),
    /// Write the bundles that come with this binary as an OCI layout
    Export {
        /// Folder, or file that ends in .tar
        output: PathBuf,
        /// Versions to write [default: all]
        #[arg(long = "version", value_name = "VERSION")]
        versions: Vec<String>,
    },
}

pub(super) async fn run(command: BundleCommand) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Diff(args) => return diff::run(args).await,
        BundleCommand::Images(args) => images::run(args).await,
        BundleCommand::New { source, version, from, images } => new(&source, &version, from.as_deref(), &images),
        BundleCommand::Build { source, versions, output } => build(&source, versions, &output),
        BundleCommand::Push { from_layout: Some(layout), to, registry, .. } => {
            let repository = registry.repository(&to)?;
            for (reference, digest) in Layout::read(&layout)?.push(&repository).await? {
                ui::out(format!("{}@{digest}", repository.name(&reference)));
            }
            Ok(())
        }
        BundleCommand::Push { files, to, registry, .. } => {
            let repository = registry.repository(&to)?;
            for file in files {
                let admitted = Admitted::local(Archive::new(args::read(&file)?));
                let bundle = admitted.parse().with_context(|| file.display().to_string())?;
                let tag = tag_of(bundle.version());
                ui::talk(format!("pushing {} ({} KiB)", repository.name(&tag), admitted.archive().bytes.len() / 1024));
                let digest = push(&repository, &tag, admitted.archive()).await?;
                ui::out(format!("{}@{digest}", repository.name(&tag)));
            }
            Ok(())
        }
        BundleCommand::Pull { from, output } => {
            let found = from.open().await?;
            let file = output.join(file_name(&found.bundle.parse()?));
            create(&output)?;
            write(&file, &found.bundle.archive().bytes)?;
            ui::out(format!("{}  {}", file.display(), found.bundle.digest()));
            Ok(())
        }
        BundleCommand::List { repository, registry, output } => {
            inspect::list(&registry.repository(&repository)?, output).await
        }
        BundleCommand::Inspect { bundle, registry, trust, output } => {
            let admitted = place::open(&bundle, &registry, Some(&trust)).await?;
            inspect::inspect(&admitted.parse()?, admitted.digest(), output)
        }
        BundleCommand::Verify { from, output } => {
            if from.trust.verification()?.is_none() {
                bail!(
                    "who has to have signed? Give --key FILE, or --certificate-identity with --certificate-oidc-issuer"
                );
            }
            let found = from.open().await?;
            if let Provenance::Verified(verified) = &found.provenance {
                let name = found.tag.as_deref().map_or(from.repository.clone(), |tag| found.repository.name(tag));
                let digest = found.bundle.digest();
                if output == Output::Table {
                    ui::out(format!("{name}@{digest} is {verified}"));
                } else {
                    ui::value(&json!({"reference": name, "digest": digest, "signedBy": verified.by()}), output)?;
                }
            }
            Ok(())
        }
        BundleCommand::Mirror(args) => mirror::run(args).await,
        BundleCommand::Export { output, versions } => export(&output, &versions),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn new(folder: &Path, version: &str, from: Option<&str>, images: &[String]) -> anyhow::Result<()> {
    let new = scaffold(&read_folder(folder)?, version, from, images).with_context(|| folder.display().to_string())?;
    for (path, bytes) in &new.files {
        let file = folder.join(path);
        create(file.parent().unwrap_or(folder))?;
        write(&file, bytes)?;
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
    create(output)?;
    for version in wanted {
        let composed = source::compose(&files, &version).with_context(|| folder.display().to_string())?;
        let bundle = Bundle::parse(&composed).with_context(|| format!("{} {version}", folder.display()))?;
        check(&bundle).with_context(|| format!("{} {version}", folder.display()))?;
        let archive = pack(&composed)?;
        let file = output.join(file_name(&bundle));
        write(&file, &archive.bytes)?;
        ui::talk(format!("{} has {} bytes", file.display(), archive.bytes.len()));
        ui::out(format!("{}  {}", file.display(), archive.bundle_digest()));
    }
    Ok(())
}

fn export(output: &Path, wanted: &[String]) -> anyhow::Result<()> {
    let mut chosen: Vec<(String, Archive)> = Vec::new();
    let selectors: Vec<Selector> = wanted.iter().map(|w| Selector::parse(w)).collect::<Result<_, _>>()?;
    for (version, digest) in &embedded::list()? {
        let tag = tag_of(version);
        let is_wanted =
            |s: &Selector| s.choose(std::slice::from_ref(&tag)).is_some() || s == &Selector::Digest(digest.clone());
        if selectors.is_empty() || selectors.iter().any(is_wanted) {
            chosen.push((tag.clone(), embedded::archive(digest)?.archive().clone()));
            ui::out(format!("{tag}  {digest}"));
        }
    }
    if chosen.is_empty() {
        let there: Vec<String> = embedded::list()?.keys().map(ToString::to_string).collect();
        bail!("none of the bundles of this binary is {}; it has: {}", wanted.join(" or "), there.join(", "));
    }
    Layout::of(&chosen).write(output)?;
    ui::talk(format!(
        "push them elsewhere with: headwater bundle push --from-layout {} --to oci://HOST/PATH",
        output.display()
    ));
    Ok(())
}

fn file_name(bundle: &Bundle) -> String {
    format!("{}-{}.tar.gz", bundle.manifest().name, tag_of(bundle.version()))
}

fn create(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn write(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}
