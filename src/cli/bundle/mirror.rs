//! `headwater bundle mirror`: everything a cluster without the internet needs, in one registry.

use std::collections::BTreeSet;

use anyhow::Context;
use clap::Args;

use super::super::ui;
use super::args::RemoteBundle;
use crate::registry::{Address, Copied, Repository, copy};
use crate::render::{ImageUse, Settings, images};

#[derive(Args)]
pub(in crate::cli) struct MirrorArgs {
    #[command(flatten)]
    from: RemoteBundle,
    /// Where to: <oci://HOST>[:PORT]/PATH. The bundle becomes PATH/NAME, images become PATH/IMAGE
    #[arg(long)]
    to: String,
    /// Speak plain HTTP to the mirror
    #[arg(long)]
    to_insecure: bool,
    /// Component whose images to copy; may be repeated [default: all]
    #[arg(long = "component", value_name = "NAME", conflicts_with = "no_images")]
    components: Vec<String>,
    /// Copy no images
    #[arg(long)]
    no_images: bool,
    /// Where images are taken from instead of their own registries: HOST[:PORT]/PATH, such as another mirror
    #[arg(long, value_name = "PLACE", conflicts_with = "no_images")]
    images_from: Option<String>,
    /// Speak plain HTTP to where images are taken from
    #[arg(long, requires = "images_from")]
    images_insecure: bool,
}

pub(super) async fn run(args: MirrorArgs) -> anyhow::Result<()> {
    let to = args.to.trim_end_matches('/');
    let target = args.from.registry.with_insecure(args.to_insecure);
    let found = args.from.open().await?;
    let bundle = found.bundle.parse()?;
    let name = bundle.manifest().name.clone();
    let settings = Settings {
        components: Some(if args.components.is_empty() {
            bundle.manifest().components.iter().map(|c| c.name.clone()).collect()
        } else {
            args.components.clone()
        }),
        registry: args.images_from.as_ref().map(|place| place.trim_start_matches("oci://").to_owned()),
        ..Settings::default()
    };
    let wanted = if args.no_images { Vec::new() } else { images(&bundle, &settings)? };

    // The bundle last: whoever finds it in the mirror finds its images too.
    let mut total = Copied::default();
    let mut done = BTreeSet::new();
    for image in &wanted {
        if done.insert((&image.repository, &image.tag)) {
            let source = args.from.registry.with_insecure(args.images_insecure).repository(&image.repository)?;
            let target = target.repository(&format!("{to}/{}", image.name))?;
            total += copy_image(image, &source, &target).await.with_context(|| image.name.clone())?;
        }
    }
    let repository = target.repository(&format!("{to}/{name}"))?;
    let copied = copy(&found.repository, &repository, found.bundle.digest(), found.tag.as_deref()).await?;
    said(&format!("{name} {}", bundle.version()), &copied);
    total += copied;

    let place = Address::parse(to)?;
    ui::out(format!("{}@{}", repository.name(found.tag.as_deref().unwrap_or("-")), found.bundle.digest()));
    ui::talk(format!(
        "{} manifests and {} blobs copied ({} KiB), {} were there. In FluxInstances:\n  distribution:\n    artifact: oci://{place}/{name}\n    registry: {place}",
        total.manifests,
        total.blobs,
        total.bytes / 1024,
        total.present
    ));
    Ok(())
}

/// Copies an image with all its platforms and signatures.
async fn copy_image(image: &ImageUse, from: &Repository, to: &Repository) -> anyhow::Result<Copied> {
    let digest = if let Some(digest) = &image.digest {
        digest.clone()
    } else {
        let digest = from.digest(&image.tag).await?;
        ui::talk(format!(
            "{}:{}: the bundle has no digest for it; {digest} is what the tag names now",
            image.name, image.tag
        ));
        digest
    };
    let copied = copy(from, to, &digest, Some(&image.tag)).await?;
    said(&format!("{}:{}@{digest}", image.name, image.tag), &copied);
    Ok(copied)
}

fn said(what: &str, copied: &Copied) {
    let sent = if copied.manifests == 0 { "was there".to_owned() } else { format!("{} KiB", copied.bytes / 1024) };
    ui::talk(format!("{what}: {sent}"));
}
