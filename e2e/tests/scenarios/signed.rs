//! Who has to have signed a bundle: the real cosign signs, the operator decides.

use bytes::Bytes;
use headwater::registry::{Access, Address, Descriptor, MANIFEST, Manifest, Repository};
use headwater_e2e::Kind;
use headwater_e2e::sigstore::{Algorithm, BUNDLE, Cosign, Format};
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, Site, Tenant, block_on, headwater, in_flux, in_repository, shared_hub, world};

/// A bundle of another version that nobody has signed: the sources of [`NEW`] with another number.
fn unsigned(version: &str, repository: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("flux");
    let copied = std::process::Command::new("cp").args(["-r", &in_repository("bundles/flux")]).arg(&sources).status();
    assert!(copied.unwrap().success());
    std::fs::rename(sources.join(NEW), sources.join(version)).unwrap();
    let file = sources.join(version).join("version.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("version: {NEW}"), &format!("version: {version}"))).unwrap();
    let out = folder.path().join("dist").display().to_string();
    let built = headwater(&["bundle", "build", sources.to_str().unwrap(), "--version", version, "-o", &out], &[]);
    assert_eq!(built.code, 0, "{built:?}");
    let bundle = format!("{out}/flux-{version}.tar.gz");
    let pushed = headwater(&["bundle", "push", &bundle, "--to", &world().repository(repository), "--insecure"], &[]);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    pushed.stdout.trim().rsplit('@').next().unwrap().to_owned()
}

fn at(repository: &str, digest: &str) -> String {
    format!("{}/{repository}@{digest}", world().registry.address())
}

/// In both formats of cosign; what is not signed, or by another key, changes nothing, and is taken once it is signed.
#[test]
fn bundles_signed_by_the_key_are_taken_and_no_others() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "signed");
    let cosign = Cosign::new().unwrap();
    let keys: Vec<String> = ["ours", "theirs"]
        .map(|name| std::fs::read_to_string(cosign.generate_key(name, Algorithm::P256).unwrap()).unwrap())
        .into();
    for (version, format) in [(OLD, Format::Bundle), (NEW, Format::Older)] {
        let digest = world().push(version, "signed/flux");
        cosign.sign(&at("signed/flux", &digest), "ours", format).unwrap();
    }
    tenant.secret("cosign", "cosign.pub", &keys[0]);
    let mut wanted = tenant.remote("a", &target, OLD);
    wanted["interval"] = json!("30s");
    wanted["distribution"]["artifact"] = json!(world().repository("signed/flux"));
    wanted["distribution"]["verify"] = json!({"provider": "cosign", "secretRef": {"name": "cosign"}});
    tenant.create("a", &wanted);
    tenant.ready("a");
    let verified = tenant.condition("a", "Verified").unwrap();
    assert_eq!((verified.status.as_str(), verified.reason.as_str()), ("True", "Verified"));
    assert!(verified.message.starts_with("the bundle is signed by key"), "{verified:?}");
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.wait("a", "Ready", 60, |c| c.status == "True" && c.message.contains(NEW));

    // Nobody has signed it: nothing is applied, and what runs is untouched.
    let deployment = in_flux("deployments", "source-controller");
    let before = target.must_get(&deployment)["metadata"]["resourceVersion"].clone();
    let digest = unsigned("2.9.9", "signed/flux");
    tenant.patch("a", &json!({"spec": {"distribution": {"version": "2.9.9"}}}));
    let said = tenant.fails("a", "ArtifactUnverified");
    assert!(said.message.starts_with(&format!("{digest}: no signature matches key")), "{said:?}");
    assert!(said.message.ends_with("found no signature at all; nothing was applied"), "{said:?}");
    assert_eq!(tenant.condition("a", "Verified").unwrap().message, said.message);
    assert_eq!(tenant.condition("a", "Stalled").unwrap().status, "True");
    assert_eq!(tenant.event("a", "ArtifactUnverified"), said.message);
    // By somebody else.
    cosign.sign(&at("signed/flux", &digest), "theirs", Format::Bundle).unwrap();
    tenant.wait("a", "Ready", 60, |c| c.message.contains("by another key"));
    assert_eq!(target.must_get(&deployment)["metadata"]["resourceVersion"], before);
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);
    // By us, beside the other one; nobody touches the instance.
    cosign.sign(&at("signed/flux", &digest), "ours", Format::Bundle).unwrap();
    tenant.wait("a", "Ready", 60, |c| c.status == "True" && c.message.contains("2.9.9"));

    // The key is changed: what was good under the old one is no longer.
    tenant.secret("cosign", "cosign.pub", &keys[1]);
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.fails("a", "ArtifactUnverified");
    assert_eq!(tenant.status("a")["applied"]["version"], "2.9.9");

    // Keys that are none are named.
    tenant.secret("cosign", "cosign.pub", "not a key");
    let said = tenant.fails("a", "InvalidVerification");
    assert!(said.message.starts_with("spec.distribution.verify: "), "{said:?}");
}

/// Identities of certificates, with a trusted root of one's own, and without a network.
#[test]
fn keyless_signatures_are_verified_offline() {
    const IDENTITY: &str = "https://github.com/acme/bundles/.github/workflows/release.yml@refs/tags/v1.0.0";
    const ISSUER: &str = "https://token.actions.githubusercontent.com";
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "keyless");
    let digest = world().push(NEW, "keyless/flux");
    let folder = tempfile::tempdir().unwrap();
    Cosign::new().unwrap().keyless(&digest, IDENTITY, ISSUER, folder.path()).unwrap();
    let file = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    attach("keyless/flux", &digest, &file("keyless.sigstore.json"));

    shared_hub().create(
        "/api/v1/namespaces/keyless/configmaps",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "root"}, "data": {"trusted_root.json": file("trusted-root.json")}}),
    );
    let verify = |identity: &str| {
        json!({
            "matchOIDCIdentity": [{"issuer": ISSUER, "subject": identity}],
            "trustedRootRef": {"kind": "ConfigMap", "name": "root"},
        })
    };
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"]["artifact"] = json!(world().repository("keyless/flux"));
    wanted["distribution"]["verify"] =
        verify("https://github.com/acme/bundles/.github/workflows/other.yml@refs/tags/v1.0.0");
    tenant.create("a", &wanted);
    let said = tenant.fails("a", "ArtifactUnverified").message;
    assert!(said.contains(&format!("found identity {IDENTITY:?} issuer {ISSUER:?}")), "{said}");
    let exact = "^https://github\\.com/acme/bundles/\\.github/workflows/release\\.yml@refs/tags/v.*$";
    tenant.patch("a", &json!({"spec": {"distribution": {"verify": verify(exact)}}}));
    tenant.ready("a");
    let verified = tenant.condition("a", "Verified").unwrap().message;
    assert_eq!(verified, format!("the bundle is signed by identity {IDENTITY:?} issuer {ISSUER:?}"));

    // The command line says the same.
    let root = folder.path().join("trusted-root.json").display().to_string();
    let repository = world().repository("keyless/flux");
    let verify = |identity: &str, root: &str| {
        let args = ["bundle", "verify", &repository, "--insecure", "--certificate-identity", identity];
        headwater(&[&args[..], &["--certificate-oidc-issuer", ISSUER, "--trusted-root", root]].concat(), &[])
    };
    let said = verify(IDENTITY, &root);
    assert_eq!(
        (said.code, said.stdout.trim_end().ends_with(&verified["the bundle is ".len()..])),
        (0, true),
        "{said:?}"
    );
    let args = ["bundle", "verify", &repository, "--insecure", "--certificate-identity", IDENTITY, "-o", "json"];
    let said = headwater(&[&args[..], &["--certificate-oidc-issuer", ISSUER, "--trusted-root", &root]].concat(), &[]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(said["digest"], digest.as_str());
    assert_eq!(said["signedBy"], format!("identity {IDENTITY:?} issuer {ISSUER:?}"));
    let said = verify("release.yml", &root);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("no signature matches identity \"release.yml\""), "{said:?}");
}

/// Puts a sigstore bundle beside what it signs, as cosign does.
fn attach(repository: &str, digest: &str, bundle: &str) {
    let access = Access { insecure: true, ..Access::default() };
    let repository = Repository::new(&Address::parse(&world().repository(repository)).unwrap(), &access).unwrap();
    let (config, layer) = (Bytes::from_static(b"{}"), Bytes::from(bundle.to_owned()));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        artifact_type: Some(BUNDLE.to_owned()),
        config: Descriptor::of("application/vnd.oci.empty.v1+json", &config),
        layers: vec![Descriptor::of(BUNDLE, &layer)],
        subject: Some(block_on(repository.manifest(digest)).unwrap().descriptor()),
        annotations: None,
    };
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    block_on(async {
        repository.push_blob(&config).await?;
        repository.push_blob(&layer).await?;
        repository.push_manifest(&Descriptor::of(MANIFEST, &bytes).digest, MANIFEST, &bytes).await
    })
    .unwrap();
}

/// Without `verify` the condition says so; and it is about the bundle, so it is no reason not to be ready.
#[test]
fn that_nobody_was_asked_is_said() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "unasked");
    tenant.create("a", &tenant.remote("a", &target, NEW));
    tenant.ready("a");
    let said = tenant.condition("a", "Verified").unwrap();
    let expected =
        ("False", "NotConfigured", "spec.distribution.verify is not set: nobody has to have signed the bundle");
    assert_eq!((said.status.as_str(), said.reason.as_str(), said.message.as_str()), expected);
}
