//! What strangers write, thrown at what reads it. Each target is a function of bytes that must neither panic nor run away, and
//! checks what has to hold of what it accepts. `make fuzz` runs them under libFuzzer (`e2e/fuzz`), `make test` on the seeds.

use std::collections::BTreeMap;

use crate::bundle::{Admitted, Archive, Selector, tag_of, version_of};
use crate::cluster::Kubeconfig;
use crate::registry::{Address, Credentials, Index, Manifest};
use crate::render::{Bundle, Object, Settings, render};
use crate::trust::{Policy, PublicKey, Signature, verify};

/// A target: what its input is, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the name of the folder of their seeds.
pub const TARGETS: &[Target] = &[
    ("archive", archive),
    ("manifest", manifest),
    ("template", template),
    ("range", range),
    ("reference", reference),
    ("kubeconfig", kubeconfig),
    ("document", document),
    ("signature", signature),
];

/// The archive of a bundle.
fn archive(bytes: &[u8]) {
    let _ = Admitted::local(Archive::new(bytes.to_vec())).parse();
}

/// A bundle of one component and one template.
fn tiny(path: &str, bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let manifest = "formatVersion: headwater.dev/bundle/v1\nname: tiny\nversion: 1.2.3\nappVersion: v1.2.3\n\
                    kubernetes: {refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}\nupgrade: {from: '>=1.0.0'}\n\
                    components:\n- {name: web, registry: r.example/x, image: web, tag: v1, default: true}\n";
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), manifest.as_bytes().to_vec()),
        ("templates/a.yaml".to_owned(), b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n".to_vec()),
    ]);
    files.insert(path.to_owned(), bytes.to_vec());
    files
}

fn bytes(objects: &[Object]) -> Vec<Vec<u8>> {
    objects.iter().map(Object::to_bytes).collect()
}

fn render_all(files: &BTreeMap<String, Vec<u8>>) {
    if let Ok(bundle) = Bundle::parse(files) {
        let settings = Settings { namespace: "flux-system".to_owned(), ..Settings::default() };
        if let Ok(objects) = render(&bundle, &settings) {
            let again = render(&bundle, &settings).map(|again| bytes(&again));
            assert_eq!(again.ok(), Some(bytes(&objects)), "rendering is deterministic");
        }
    }
}

/// `bundle.yaml`.
fn manifest(bytes: &[u8]) {
    render_all(&tiny("bundle.yaml", bytes));
}

/// A template.
fn template(bytes: &[u8]) {
    render_all(&tiny("templates/a.yaml", bytes));
}

/// A version or range, and tags to choose from, a line each.
fn range(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let selector = Selector::parse(lines.next().unwrap_or_default());
    let tags: Vec<String> = lines.map(str::to_owned).collect();
    if let Some((version, tag)) = selector.ok().and_then(|s| s.choose(&tags)) {
        assert!(tags.contains(&tag), "a tag that is there");
        assert_eq!(version_of(&tag).as_ref(), Some(&version));
        assert_eq!(version_of(&tag_of(&version)), Some(version), "and back");
    }
}

/// The address of a repository.
fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = Address::parse(text) {
        let url: http::Uri = format!("https://{address}/x").parse().expect("an address is a part of a URL");
        let authority = url.authority().map(http::uri::Authority::as_str);
        assert_eq!(authority, Some(address.registry.as_str()), "credentials would go to another host");
        assert_eq!(url.path(), format!("/{}/x", address.path));
        assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(&address));
    }
}

/// A kubeconfig.
fn kubeconfig(bytes: &[u8]) {
    let _ = Kubeconfig::parse(bytes);
}

/// JSON that registries and Secrets hold.
fn document(bytes: &[u8]) {
    let _ = Credentials::parse(bytes, "Secret x");
    let _ = serde_json::from_slice::<Manifest>(bytes);
    let _ = serde_json::from_slice::<Index>(bytes);
}

/// What is stored beside a bundle: a sigstore bundle, or annotations of the older format.
fn signature(bytes: &[u8]) {
    let key = PublicKey::parse("key", include_bytes!("trust/testdata/cosign.pub")).expect("a key of our own");
    let policy = Policy::public_keys(vec![key], None).expect("a policy of our own");
    let digest = format!("sha256:{}", "0".repeat(64));
    let bundle = Signature::SigstoreBundle(bytes.to_vec().into());
    let annotations = serde_json::from_slice(bytes).unwrap_or_default();
    let older = Signature::SimpleSigning { payload: bytes.to_vec().into(), annotations };
    assert!(verify(&policy, &digest, &[bundle, older]).is_err(), "nobody has signed this digest");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Every seed through every target: what is wrong for one is a hard case for another.
    #[test]
    fn seeds_do_no_harm() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/fuzz/seeds");
        for (name, _) in TARGETS {
            let files: Vec<_> = std::fs::read_dir(seeds.join(name)).unwrap().map(|f| f.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has no seeds");
            for file in files {
                let bytes = std::fs::read(file).unwrap();
                for (_, target) in TARGETS {
                    target(&bytes);
                }
            }
        }
    }
}
