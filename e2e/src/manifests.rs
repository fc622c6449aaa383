//! What other tools install: the manifests of `flux install`.

use std::path::Path;

use anyhow::Result;
use headwater::render::{Bundle, Object, Settings, render, source};

/// What `flux install` of a version makes, with its default components where none are named, as our bundle renders it:
/// `src/render/conformance.rs` shows that this is the same.
///
/// # Errors
/// When the repository has no bundle of the version, or it has no such component.
pub fn flux_install(version: &str, components: &[&str]) -> Result<Vec<Object>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/flux");
    let bundle = Bundle::parse(&source::compose(&headwater::bundle::read_folder(&sources)?, version)?)?;
    let settings = Settings {
        namespace: "flux-system".to_owned(),
        components: (!components.is_empty()).then(|| components.iter().map(|c| (*c).to_owned()).collect()),
        ..Settings::default()
    };
    Ok(render(&bundle, &settings)?)
}
