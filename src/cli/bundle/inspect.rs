//! `headwater bundle inspect` and `list`: what bundles there are and what they hold.

use serde_json::json;

use super::super::{Output, ui};
use crate::bundle::version_of;
use crate::registry::Repository;
use crate::render::{Bundle, Settings, images};

/// The bundles of a repository, newest first.
pub(super) async fn list(repository: &Repository, output: Output) -> anyhow::Result<()> {
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
    let keyed = |row: &Vec<String>| match row.as_slice() {
        [version, digest, reference] => json!({"version": version, "digest": digest, "reference": reference}),
        _ => json!(row),
    };
    ui::value(&rows.iter().map(keyed).collect::<Vec<_>>(), output)
}

/// What a bundle says of itself.
pub(super) fn inspect(bundle: &Bundle, digest: &str, output: Output) -> anyhow::Result<()> {
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
