//! Which image each component gets: from the bundle, from one registry for all, or from the map of single images.

use std::collections::BTreeMap;

use serde::Serialize;

use super::text::{cut, list, nearest};
use super::{Bundle, RenderError, Settings, select, title};
use crate::api::IMAGE_REFERENCE;
use crate::api::bundle::Component;

/// An image as one cluster uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUse {
    /// The component that uses it.
    pub component: String,
    /// Its name in the bundle: what `spec.distribution.images` calls it.
    pub name: String,
    /// `HOST[:PORT]/PATH`
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Digest, where the bundle or `spec.distribution.images` knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// As manifests have it: with the digest only when the settings ask for it.
    pub written: String,
}

impl ImageUse {
    /// All that is known of it: `REPOSITORY:TAG@DIGEST`.
    pub fn complete(&self) -> String {
        reference(&self.repository, &self.tag, self.digest.as_deref())
    }
}

/// All images of the selected components, those they use at run time included.
pub fn images(bundle: &Bundle, settings: &Settings) -> Result<Vec<ImageUse>, RenderError> {
    let selected = select(bundle, settings)?;
    images_of(bundle, settings, &selected)
}

/// The images of some components, each component's own first.
pub(super) fn images_of(
    bundle: &Bundle,
    settings: &Settings,
    components: &[&Component],
) -> Result<Vec<ImageUse>, RenderError> {
    let elsewhere = elsewhere(bundle, &settings.images).map_err(|problem| RenderError::Images(cut(&problem, 512)))?;
    let mut found = Vec::new();
    for component in components {
        let own = (&component.image, &component.tag, &component.digest);
        let further = component.images.iter().map(|image| (&image.name, &image.tag, &image.digest));
        for (name, tag, digest) in std::iter::once(own).chain(further) {
            let registry = settings.registry.as_ref().unwrap_or(&component.registry);
            let mut image = ImageUse {
                component: component.name.clone(),
                name: name.clone(),
                repository: format!("{}/{name}", registry.trim_end_matches('/')),
                tag: tag.clone(),
                digest: digest.clone(),
                written: String::new(),
            };
            let mut pinned = settings.pin_images;
            if let Some(other) = elsewhere.get(name.as_str()) {
                image.repository.clone_from(&other.repository);
                pinned |= other.digest.is_some();
                if let Some(tag) = other.tag.as_ref().filter(|tag| *tag != &image.tag) {
                    image.tag.clone_from(tag);
                    image.digest = None;
                }
                if other.digest.is_some() {
                    image.digest.clone_from(&other.digest);
                }
            }
            if pinned && image.digest.is_none() {
                return Err(RenderError::Images(format!(
                    "spec.distribution.pinImages: the digest of {}:{} is not known; give it in spec.distribution.images as \
                     {name}: {}:{}@sha256:..., or leave pinImages out",
                    image.repository, image.tag, image.repository, image.tag
                )));
            }
            image.written = reference(&image.repository, &image.tag, image.digest.as_deref().filter(|_| pinned));
            found.push(image);
        }
    }
    Ok(found)
}

fn reference(repository: &str, tag: &str, digest: Option<&str>) -> String {
    match digest {
        Some(digest) => format!("{repository}:{tag}@{digest}"),
        None => format!("{repository}:{tag}"),
    }
}

/// What the reference of an image says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRef {
    /// `HOST[:PORT]/PATH`
    pub repository: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<String>,
}

fn elsewhere<'a>(bundle: &Bundle, images: &'a BTreeMap<String, String>) -> Result<BTreeMap<&'a str, ImageRef>, String> {
    if images.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known: Vec<&String> = bundle
        .manifest()
        .components
        .iter()
        .flat_map(|c| std::iter::once(&c.image).chain(c.images.iter().map(|image| &image.name)))
        .collect();
    images
        .iter()
        .map(|(name, text)| {
            if !known.contains(&name) {
                let near = nearest(name, known.iter().map(|name| (*name).clone()));
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(format!(
                    "spec.distribution.images: {:?} is no image of bundle {}; it has: {}{hint}",
                    cut(name, 63),
                    title(bundle),
                    list(&known)
                ));
            }
            let found = parse(text).ok_or_else(|| {
                format!(
                    "spec.distribution.images.{name} is {:?}; it has to be HOST[:PORT]/PATH[:TAG][@DIGEST] without scheme, such as \
                     mirror.example:5000/flux/{name}",
                    cut(text, 120)
                )
            })?;
            Ok((name.as_str(), found))
        })
        .collect()
}

/// Reads `HOST[:PORT]/PATH[:TAG][@DIGEST]`.
pub fn parse(text: &str) -> Option<ImageRef> {
    // The API server has held it against the same pattern; the CLI reads files that no server has seen.
    if !regex::Regex::new(IMAGE_REFERENCE).is_ok_and(|pattern| pattern.is_match(text)) {
        return None;
    }
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest.to_owned())),
        None => (text, None),
    };
    // A colon before the last slash is that of a port.
    let path = text.rfind('/')?;
    let (repository, tag) = match text[path..].find(':') {
        Some(colon) => (&text[..path + colon], Some(text[path + colon + 1..].to_owned())),
        None => (text, None),
    };
    Some(ImageRef { repository: repository.to_owned(), tag, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";
    const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000002";

    fn bundle() -> Bundle {
        let manifest = format!(
            "{{formatVersion: headwater.dev/bundle/v1, name: tiny, version: 1.2.3, appVersion: v1.2.3, upgrade: {{from: '*'}},
              kubernetes: {{refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}}, components: [
              {{name: web, registry: makers.example/web, image: web, tag: v1, digest: '{DIGEST}', default: true}},
              {{name: jobs, registry: other.example, image: jobs, tag: v2, digest: '{DIGEST}', default: true,
                images: [{{name: team/runner, tag: v3}}]}}]}}"
        );
        Bundle::parse(&[("bundle.yaml".to_owned(), manifest.into_bytes())].into()).unwrap()
    }

    fn settings(registry: Option<&str>, images: &[(&str, &str)], pin_images: bool) -> Settings {
        let images = images.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Settings { registry: registry.map(str::to_owned), images, pin_images, ..Settings::default() }
    }

    fn written(registry: Option<&str>, images: &[(&str, &str)], pin_images: bool) -> Vec<String> {
        let found = super::images(&bundle(), &settings(registry, images, pin_images)).unwrap();
        found.into_iter().map(|image| image.written).collect()
    }

    #[test]
    fn images_come_from_their_makers_or_from_one_registry_or_one_by_one() {
        assert_eq!(
            written(None, &[], false),
            ["makers.example/web/web:v1", "other.example/jobs:v2", "other.example/team/runner:v3"]
        );
        assert_eq!(
            written(Some("mirror.example:5000/a/"), &[("jobs", "x.example/y")], false),
            ["mirror.example:5000/a/web:v1", "x.example/y:v2", "mirror.example:5000/a/team/runner:v3"]
        );
        let found = images(&bundle(), &settings(None, &[], false)).unwrap();
        assert_eq!(
            found.iter().map(|i| (i.component.as_str(), i.name.as_str(), i.complete())).collect::<Vec<_>>(),
            [
                ("web", "web", format!("makers.example/web/web:v1@{DIGEST}")),
                ("jobs", "jobs", format!("other.example/jobs:v2@{DIGEST}")),
                ("jobs", "team/runner", "other.example/team/runner:v3".to_owned()),
            ]
        );
    }

    #[test]
    fn what_an_override_leaves_out_is_kept() {
        let one =
            |text: &str, pin| written(None, &[("web", text), ("team/runner", &format!("r.example/r@{OTHER}"))], pin);
        let runner = format!("r.example/r:v3@{OTHER}");
        assert_eq!(
            one("localhost:5000/w", true),
            [format!("localhost:5000/w:v1@{DIGEST}"), format!("other.example/jobs:v2@{DIGEST}"), runner.clone()]
        );
        assert_eq!(one("localhost:5000/w", false)[0], "localhost:5000/w:v1");
        assert_eq!(
            one("r.example/w:v1", true)[0],
            format!("r.example/w:v1@{DIGEST}"),
            "the same tag is the same image"
        );
        assert_eq!(one("r.example/w:v9", false)[0], "r.example/w:v9");
        assert_eq!(
            one(&format!("r.example/w@{OTHER}"), false)[0],
            format!("r.example/w:v1@{OTHER}"),
            "a digest that is given is written"
        );
        assert_eq!(one(&format!("r.example:1/w:v9@{OTHER}"), true)[0], format!("r.example:1/w:v9@{OTHER}"));
        assert_eq!(one("r.example/w", false)[2], runner);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |components: Option<&str>, images: &[(&str, &str)], pin| {
            let components = components.map(|name| vec![name.to_owned()]);
            super::images(&bundle(), &Settings { components, ..settings(None, images, pin) }).unwrap_err().to_string()
        };
        assert_eq!(
            error(None, &[], true),
            "spec.distribution.pinImages: the digest of other.example/team/runner:v3 is not known; give it in \
             spec.distribution.images as team/runner: other.example/team/runner:v3@sha256:..., or leave pinImages out"
        );
        assert_eq!(
            error(Some("web"), &[("web", "m.example/w:v9")], true),
            "spec.distribution.pinImages: the digest of m.example/w:v9 is not known; give it in spec.distribution.images as \
             web: m.example/w:v9@sha256:..., or leave pinImages out"
        );
        assert_eq!(
            error(None, &[("team/runer", "m.example/r")], false),
            "spec.distribution.images: \"team/runer\" is no image of bundle tiny 1.2.3; it has: web, jobs, team/runner; did you \
             mean team/runner?"
        );
        for text in [
            "https://m.example/w",
            "m.example",
            "m.example/w:",
            "m.example/w@sha256:12",
            "m.example/W",
            "m.example/w:v1 ",
            "",
        ] {
            assert_eq!(
                error(None, &[("web", text)], false),
                format!(
                    "spec.distribution.images.web is {text:?}; it has to be HOST[:PORT]/PATH[:TAG][@DIGEST] without scheme, such \
                     as mirror.example:5000/flux/web"
                )
            );
        }
        // What is not installed needs no digest.
        assert_eq!(
            images(&bundle(), &Settings { components: Some(vec!["web".to_owned()]), ..settings(None, &[], true) })
                .unwrap()
                .len(),
            1
        );
    }
}
