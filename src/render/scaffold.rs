//! Writes the sources of a new version of a bundle from those of an older one: for a patch release that is all there is to do by
//! hand.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde_json::Value;

use super::source::{self, ComposeError, text};
use super::text::{cut, list, nearest};
use super::yaml::{self, YamlError};
use super::{Bundle, BundleError};
use crate::api::bundle::Manifest;

/// Why there is no new version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaffoldError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
    /// The older version cannot be put together.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The older version is not in order.
    #[error("{from}: {error}")]
    Bundle {
        /// The older version.
        from: String,
        /// What is wrong with it.
        error: BundleError,
    },
    /// A file of the older version is no text or no YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// The sources of a new version.
#[derive(Debug)]
pub struct Scaffold {
    /// The version it was made from.
    pub from: String,
    /// Files to write, by their path in the source folder.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What is left to do by hand, one sentence each.
    pub left: Vec<String>,
}

/// An image with its new tag: `NAME=TAG[@DIGEST]`.
#[derive(Debug, PartialEq, Eq)]
struct NewImage {
    name: String,
    tag: String,
    digest: Option<String>,
}

/// Makes the version `version` from the version `from`, or from the newest one below it. `images` say which images have another
/// tag, each as `NAME=TAG[@DIGEST]`; the API modules that CRDs are generated from follow them.
pub fn scaffold(
    files: &BTreeMap<String, Vec<u8>>,
    version: &str,
    from: Option<&str>,
    images: &[String],
) -> Result<Scaffold, ScaffoldError> {
    let refuse = |problem: String| ScaffoldError::Refused(problem);
    let Ok(new) = Version::parse(version) else {
        return Err(refuse(format!(
            "{version:?} is no version; it has to be a semantic version such as 2.9.5 or 2.9.4+1"
        )));
    };
    if files.keys().any(|path| path.starts_with(&format!("{version}/"))) {
        return Err(refuse(format!("{version}/ exists already; edit it, or remove it first")));
    }
    let from = match from {
        Some(from) => from.to_owned(),
        None => newest_below(files, &new).ok_or_else(|| {
            refuse(format!("there is no version below {version} to start from; name one with --from"))
        })?,
    };
    let composed = source::compose(files, &from)?;
    let bundle = Bundle::parse(&composed).map_err(|error| ScaffoldError::Bundle { from: from.clone(), error })?;
    let images = images
        .iter()
        .map(|image| parse_image(image).and_then(|image| known(bundle.manifest(), image)))
        .collect::<Result<Vec<NewImage>, String>>()
        .map_err(refuse)?;

    let mut written = BTreeMap::new();
    for (path, bytes) in files {
        match path.strip_prefix(&from).and_then(|rest| rest.strip_prefix('/')) {
            Some("version.yaml") => {
                let text = version_yaml(&text(path, bytes)?, path, bundle.manifest(), &new, &images)?;
                written.insert(format!("{version}/version.yaml"), text.into_bytes());
            }
            Some("crds.txt") => {
                let text = crds_txt(&text(path, bytes)?, &images);
                written.insert(format!("{version}/crds.txt"), text.into_bytes());
            }
            Some(rest) if rest.starts_with("templates/") => {
                written.insert(format!("{version}/{rest}"), bytes.clone());
            }
            _ => {}
        }
    }
    if let Some(sums) = files.get(&format!("{from}/go.sum")) {
        let modules = written.get(&format!("{version}/crds.txt")).cloned().unwrap_or_default();
        let kept = still_needed(&text("go.sum", sums)?, &text("crds.txt", &modules)?);
        if !kept.is_empty() {
            written.insert(format!("{version}/go.sum"), kept.into_bytes());
        }
    }
    let left = left(bundle.manifest(), &from, &new, &images);
    Ok(Scaffold { from, files: written, left })
}

fn newest_below(files: &BTreeMap<String, Vec<u8>>, new: &Version) -> Option<String> {
    let versions = files.keys().filter_map(|path| Version::parse(path.strip_suffix("/version.yaml")?).ok());
    versions.filter(|version| version < new).max().map(|version| version.to_string())
}

fn parse_image(text: &str) -> Result<NewImage, String> {
    let wrong = || {
        format!(
            "--image {:?}: it has to be NAME=TAG or NAME=TAG@sha256:..., such as source-controller=v1.9.5",
            cut(text, 120)
        )
    };
    let (name, reference) = text.split_once('=').ok_or_else(wrong)?;
    let (tag, digest) = match reference.split_once('@') {
        Some((tag, digest)) => (tag, Some(digest)),
        None => (reference, None),
    };
    let is_tag = !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let is_digest = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit()))
    };
    if !is_tag || !digest.is_none_or(is_digest) {
        return Err(wrong());
    }
    Ok(NewImage { name: name.to_owned(), tag: tag.to_owned(), digest: digest.map(str::to_owned) })
}

/// All images of a bundle with tag and digest.
fn all_images(manifest: &Manifest) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
    manifest.components.iter().flat_map(|c| {
        let further = c.images.iter().map(|i| (i.name.as_str(), i.tag.as_str(), i.digest.as_deref()));
        std::iter::once((c.image.as_str(), c.tag.as_str(), c.digest.as_deref())).chain(further)
    })
}

/// The image is one of the bundle; with the tag it had it keeps its digest.
fn known(manifest: &Manifest, mut image: NewImage) -> Result<NewImage, String> {
    let Some((_, tag, digest)) = all_images(manifest).find(|(name, _, _)| *name == image.name) else {
        let names = || all_images(manifest).map(|(name, _, _)| name.to_owned());
        let hint = nearest(&image.name, names()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Err(format!("--image {:?} is no image of the bundle; it has: {}{hint}", image.name, list(names())));
    };
    if image.digest.is_none() && image.tag == tag {
        image.digest = digest.map(str::to_owned);
    }
    Ok(image)
}

/// `version.yaml` with another version and other images. Its comments stay if it is written line by line; what the text then
/// says is compared with what it has to say, and a file that is written otherwise is written anew.
fn version_yaml(
    old: &str,
    path: &str,
    manifest: &Manifest,
    version: &Version,
    images: &[NewImage],
) -> Result<String, YamlError> {
    let app_version = manifest.app_version.replace(&core(&manifest.version), &core(&version.to_string()));
    let mut expected = yaml::parse_one(path, old)?;
    expected["version"] = version.to_string().into();
    expected["appVersion"] = app_version.clone().into();
    for component in expected["components"].as_array_mut().into_iter().flatten() {
        let name = component["name"].as_str().unwrap_or_default().to_owned();
        let Some(whole) = manifest.components.iter().find(|c| c.name == name) else { continue };
        if let Some(image) = images.iter().find(|image| image.name == whole.image) {
            set_image(component, image);
        }
        if whole.images.iter().any(|own| images.iter().any(|image| image.name == own.name)) {
            // A list replaces the shared one, so it has to be there as a whole.
            component["images"] = serde_json::to_value(&whole.images).unwrap_or_default();
            for own in component["images"].as_array_mut().into_iter().flatten() {
                if let Some(image) = images.iter().find(|image| own["name"] == image.name.as_str()) {
                    set_image(own, image);
                }
            }
        }
    }
    let edited = edit(old, version, &app_version, manifest, images);
    match yaml::parse_one(path, &edited) {
        Ok(value) if value == expected => Ok(edited),
        _ => yaml::emit(&expected),
    }
}

fn set_image(entry: &mut Value, image: &NewImage) {
    entry["tag"] = image.tag.clone().into();
    match &image.digest {
        Some(digest) => entry["digest"] = digest.clone().into(),
        None => drop(entry.as_object_mut().map(|entry| entry.remove("digest"))),
    }
}

fn edit(old: &str, version: &Version, app_version: &str, manifest: &Manifest, images: &[NewImage]) -> String {
    let mut text = String::with_capacity(old.len());
    let mut current: Option<&NewImage> = None;
    for line in old.lines() {
        let bare = line.trim_start();
        let indent = &line[..line.len() - bare.len()];
        if let Some(name) = bare.strip_prefix("- name: ") {
            let component = manifest.components.iter().find(|c| c.name == name.trim());
            let image = component.map_or(name.trim(), |c| &c.image);
            current = images.iter().find(|new| new.name == image);
        }
        let lines = if line.starts_with("version:") {
            vec![format!("version: {version}")]
        } else if line.starts_with("appVersion:") {
            vec![format!("appVersion: {app_version}")]
        } else {
            match current {
                Some(image) if bare.starts_with("tag:") => {
                    let digest = image.digest.as_ref().map(|digest| format!("{indent}digest: {digest}"));
                    std::iter::once(format!("{indent}tag: {}", image.tag)).chain(digest).collect()
                }
                Some(_) if bare.starts_with("digest:") => vec![],
                _ => vec![line.to_owned()],
            }
        };
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// A version without what tells rebuilds apart.
fn core(version: &str) -> String {
    version.split('+').next().unwrap_or_default().to_owned()
}

/// The API module of an image has its name in its path, and the version of its tag.
fn crds_txt(old: &str, images: &[NewImage]) -> String {
    let follow = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let module = words.next().filter(|_| !line.starts_with('#'))?;
        let image = images.iter().find(|image| module.split('/').any(|part| part == image.name))?;
        let file = words.nth(1).map(|file| format!(" {file}")).unwrap_or_default();
        Some(format!("{module} v{}{file}", image.tag.trim_start_matches('v')))
    };
    let mut text = String::with_capacity(old.len());
    for line in old.lines() {
        text.push_str(&follow(line).unwrap_or_else(|| line.to_owned()));
        text.push('\n');
    }
    text
}

fn first_two_words(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?))
}

/// The lines of a `go.sum` that speak of modules in a `crds.txt`.
fn still_needed(sums: &str, modules: &str) -> String {
    let modules: BTreeSet<(&str, &str)> = modules.lines().filter_map(first_two_words).collect();
    let needed = |line: &&str| {
        first_two_words(line)
            .is_some_and(|(module, version)| modules.contains(&(module, version.trim_end_matches("/go.mod"))))
    };
    sums.lines().filter(needed).flat_map(|line| [line, "\n"]).collect()
}

fn left(manifest: &Manifest, from: &str, version: &Version, images: &[NewImage]) -> Vec<String> {
    let mut left = Vec::new();
    let given = |name: &str| images.iter().find(|image| image.name == name);
    let kept: Vec<String> =
        all_images(manifest).filter(|i| given(i.0).is_none()).map(|(name, tag, _)| format!("{name} {tag}")).collect();
    if !kept.is_empty() {
        left.push(format!("images kept from {from}: {}; change those that are newer", kept.join(", ")));
    }
    let unknown: Vec<String> = all_images(manifest)
        .map(|(name, tag, digest)| given(name).map_or((name, tag, digest), |i| (name, &i.tag, i.digest.as_deref())))
        .filter(|(_, _, digest)| digest.is_none())
        .map(|(name, tag, _)| format!("{name}:{tag}"))
        .collect();
    if !unknown.is_empty() {
        left.push(format!(
            "digests missing: {}; look them up in the registry of their makers and write them beside the tags",
            unknown.join(", ")
        ));
    }
    let minor = |version: &Version| (version.major, version.minor);
    if Version::parse(from).is_ok_and(|from| minor(&from) != minor(version)) {
        left.push(format!(
            "{version} is another minor than {from}: check kubernetes, upgrade, gates, flags, and the generator in crds.txt"
        ));
    }
    left.push(format!("generate the CRDs: bundles/generate-crds.sh {}/{version}", manifest.name));
    left.push("hold it against upstream: cargo test conformance".to_owned());
    left
}

#[cfg(test)]
mod tests;
