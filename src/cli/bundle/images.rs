//! `headwater bundle images`: the list that other mirroring tools take.

use anyhow::bail;
use clap::Args;

use super::super::{Output, ui};
use super::args::RegistryArgs;
use super::place;
use crate::render::{Bundle, ImageUse, Settings, images};

#[derive(Args)]
pub(in crate::cli) struct ImagesArgs {
    /// A bundle file, FOLDER@VERSION for a source folder, embedded@VERSION, or <oci://HOST>[:PORT]/PATH@VERSION
    bundle: String,
    /// Only images of this component; may be given more than once [default: all components]
    #[arg(long = "component", value_name = "COMPONENT")]
    components: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: ImagesArgs) -> anyhow::Result<()> {
    let bundle = place::open(&args.bundle, &args.registry, None).await?.parse()?;
    let list = select(&bundle, &args.components)?;
    if args.output != Output::Table {
        return ui::value(&list, args.output);
    }
    for image in &list {
        ui::out(image.complete());
    }
    Ok(())
}

/// All images, or those of some components.
fn select(bundle: &Bundle, components: &[String]) -> anyhow::Result<Vec<ImageUse>> {
    let all: Vec<String> = bundle.manifest().components.iter().map(|c| c.name.clone()).collect();
    if let Some(unknown) = components.iter().find(|name| !all.contains(name)) {
        bail!(
            "--component: {unknown:?} is not in bundle {} {}; it has: {}",
            bundle.manifest().name,
            bundle.manifest().version,
            all.join(", ")
        );
    }
    let mut list = images(bundle, &Settings { components: Some(all), ..Settings::default() })?;
    list.retain(|image| components.is_empty() || components.contains(&image.component));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_all_or_of_some_components() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let manifest = format!(
            "{{formatVersion: headwater.dev/bundle/v1, name: tiny, version: 1.2.3, appVersion: v1.2.3, upgrade: {{from: '*'}},
              kubernetes: {{refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}}, components: [
              {{name: web, registry: r.example/web, image: web, tag: v1, digest: '{digest}'}},
              {{name: jobs, registry: r.example, image: jobs, tag: v2, requires: [web], images: [{{name: runner, tag: v3}}]}}]}}"
        );
        let bundle = Bundle::parse(&[("bundle.yaml".to_owned(), manifest.into_bytes())].into()).unwrap();
        let texts = |components: &[&str]| {
            let components: Vec<String> = components.iter().map(|c| (*c).to_owned()).collect();
            select(&bundle, &components)
                .map(|list| list.iter().map(ImageUse::complete).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        let web = format!("r.example/web/web:v1@{digest}");
        assert_eq!(texts(&[]).unwrap(), [web.as_str(), "r.example/jobs:v2", "r.example/runner:v3"]);
        assert_eq!(texts(&["jobs"]).unwrap(), ["r.example/jobs:v2", "r.example/runner:v3"]);
        assert_eq!(texts(&["job"]).unwrap_err(), "--component: \"job\" is not in bundle tiny 1.2.3; it has: web, jobs");
    }
}
