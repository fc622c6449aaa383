use super::super::testing::{bundle, sources};
use super::*;

const DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

fn new(version: &str, from: Option<&str>, images: &[&str]) -> Result<Scaffold, ScaffoldError> {
    let images: Vec<String> = images.iter().map(|image| (*image).to_owned()).collect();
    scaffold(&sources(), version, from, &images)
}

fn file<'a>(scaffold: &'a Scaffold, path: &str) -> &'a str {
    std::str::from_utf8(&scaffold.files[path]).unwrap()
}

/// The new version with the CRDs of the old one, as if they had been generated without a change.
fn built(scaffold: &Scaffold, version: &str) -> Bundle {
    let mut files = sources();
    let crds = format!("{}/crds/", scaffold.from);
    let old: Vec<_> =
        files.iter().filter(|(path, _)| path.starts_with(&crds)).map(|(p, b)| (p.clone(), b.clone())).collect();
    files.extend(old.into_iter().map(|(path, bytes)| (path.replace(&crds, &format!("{version}/crds/")), bytes)));
    files.extend(scaffold.files.clone());
    Bundle::parse(&source::compose(&files, version).unwrap()).unwrap()
}

#[test]
fn a_patch_release_is_one_command() {
    let new = new("2.9.5", None, &["source-controller=v1.9.5", &format!("helm-controller=v1.6.4@{DIGEST}")]).unwrap();
    assert_eq!(new.from, "2.9.4");
    assert_eq!(new.files.keys().collect::<Vec<_>>(), ["2.9.5/crds.txt", "2.9.5/version.yaml"]);
    assert!(file(&new, "2.9.5/version.yaml").contains("# 2.9 removes"), "comments stay");
    let crds = file(&new, "2.9.5/crds.txt");
    assert!(crds.contains("github.com/fluxcd/source-controller/api v1.9.5\n"), "{crds}");
    assert!(crds.contains("github.com/fluxcd/kustomize-controller/api v1.9.4\n"), "{crds}");
    assert!(crds.contains("sigs.k8s.io/controller-tools v0.21.0\n"), "{crds}");
    assert_eq!(
        new.left,
        [
            "images kept from 2.9.4: kustomize-controller v1.9.4, notification-controller v1.9.3, \
             image-reflector-controller v1.2.4, image-automation-controller v1.2.4, source-watcher v2.2.3, tofu-controller v0.16.5, \
             tf-runner v0.16.5, branch-planner v0.16.5; change those that are newer",
            "digests missing: source-controller:v1.9.5, tofu-controller:v0.16.5, tf-runner:v0.16.5, branch-planner:v0.16.5; look them up in the registry of their makers and write them beside \
             the tags",
            "generate the CRDs: bundles/generate-crds.sh flux/2.9.5",
            "hold it against upstream: cargo test conformance",
        ]
    );

    let built = built(&new, "2.9.5");
    let (old, new) = (bundle("2.9.4"), built.manifest());
    assert_eq!((new.version.as_str(), new.app_version.as_str()), ("2.9.5", "v2.9.5"));
    for (old, new) in old.manifest().components.iter().zip(&new.components) {
        let (tag, digest) = match new.name.as_str() {
            "source-controller" => ("v1.9.5", None),
            "helm-controller" => ("v1.6.4", Some(DIGEST)),
            _ => (old.tag.as_str(), old.digest.as_deref()),
        };
        assert_eq!((new.tag.as_str(), new.digest.as_deref()), (tag, digest), "{}", new.name);
        assert_eq!(new.flags, old.flags);
    }
}

#[test]
fn a_crd_that_is_taken_from_a_file_is_taken_from_the_new_module() {
    let new = new("2.9.5", None, &["tofu-controller=v0.16.6", "tf-runner=v0.16.6"]).unwrap();
    let crds = file(&new, "2.9.5/crds.txt");
    let line = "github.com/flux-iac/tofu-controller v0.16.6 config/crd/bases/infra.contrib.fluxcd.io_terraforms.yaml\n";
    assert!(crds.ends_with(line), "{crds}");
    let built = built(&new, "2.9.5");
    let component = built.manifest().components.iter().find(|c| c.name == "tofu-controller").unwrap();
    let tags: Vec<(&str, &str)> = component.images.iter().map(|i| (i.name.as_str(), i.tag.as_str())).collect();
    assert_eq!(component.tag, "v0.16.6");
    assert_eq!(tags, [("tf-runner", "v0.16.6"), ("branch-planner", "v0.16.5")]);
}

#[test]
fn a_rebuild_keeps_what_it_rebuilds() {
    let new = new("2.8.8+1", None, &["source-controller=v1.8.5"]).unwrap();
    assert!(file(&new, "2.8.8+1/go.sum").contains("image-reflector-controller/api v1.1.2/go.mod h1:"));
    let built = built(&new, "2.8.8+1");
    assert_eq!(built.manifest().app_version, "v2.8.8");
    assert_eq!(built.manifest().components, bundle("2.8.8").manifest().components, "the same tag has the same digest");

    let newer = super::tests::new("2.8.9", Some("2.8.8"), &["image-reflector-controller=v1.1.3"]).unwrap();
    assert!(!newer.files.contains_key("2.8.9/go.sum"), "the hashes were of another version");
}

#[test]
fn a_file_that_cannot_be_edited_is_written_anew() {
    let mut files = sources();
    let path = "2.9.4/version.yaml".to_owned();
    let value = yaml::parse_one(&path, &text(&path, &files[&path]).unwrap()).unwrap();
    files.insert(path, format!("# lost\n{value}\n").into_bytes());
    let new = scaffold(&files, "2.9.5", None, &["source-watcher=v2.2.4".to_owned()]).unwrap();
    assert!(
        file(&new, "2.9.5/version.yaml").contains("\nversion: \"2.9.5\"\n"),
        "{}",
        file(&new, "2.9.5/version.yaml")
    );
    assert_eq!(
        built(&new, "2.9.5").manifest().components.iter().find(|c| c.tag == "v2.2.4").unwrap().name,
        "source-watcher"
    );
}

#[test]
fn mistakes_are_named() {
    for (version, from, image, expected) in [
        ("2.9", None, "", "\"2.9\" is no version; it has to be a semantic version such as 2.9.5 or 2.9.4+1"),
        ("2.9.4", None, "", "2.9.4/ exists already; edit it, or remove it first"),
        ("2.0.0", None, "", "there is no version below 2.0.0 to start from; name one with --from"),
        ("2.9.5", Some("2.9.3"), "", "2.9.3/version.yaml does not exist; there is: 2.7.5, 2.8.8, 2.9.4"),
        (
            "2.9.5",
            None,
            "source-controler=v1",
            "--image \"source-controler\" is no image of the bundle; it has: source-controller, kustomize-controller, \
             helm-controller, notification-controller, image-reflector-controller, image-automation-controller, \
             source-watcher, tofu-controller, tf-runner, branch-planner; did you mean source-controller?",
        ),
        (
            "2.9.5",
            None,
            "source-controller:v1",
            "--image \"source-controller:v1\": it has to be NAME=TAG or NAME=TAG@sha256:..., such as source-controller=v1.9.5",
        ),
        (
            "2.9.5",
            None,
            "source-controller=v1@sha256:1",
            "--image \"source-controller=v1@sha256:1\": it has to be NAME=TAG or NAME=TAG@sha256:..., such as source-controller=v1.9.5",
        ),
    ] {
        let images: Vec<&str> = Some(image).filter(|image| !image.is_empty()).into_iter().collect();
        assert_eq!(new(version, from, &images).unwrap_err().to_string(), expected);
    }
}

#[test]
fn another_minor_needs_a_look() {
    let new = new("2.10.0", None, &[]).unwrap();
    assert!(
        new.left.iter().any(|line| line.starts_with("2.10.0 is another minor than 2.9.4: check kubernetes")),
        "{:?}",
        new.left
    );
}
