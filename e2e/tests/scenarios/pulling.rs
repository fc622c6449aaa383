//! How bundles are pulled: registries with certificates and passwords, proxies, what administrators demand, and registries that
//! are out of order.

use headwater_e2e::certificates::{Authority, Pem};
use headwater_e2e::{Kind, Registry, RegistryOptions, Tls};
use serde_json::{Value, json};

use crate::harness::{NEW, SOON, Site, Tenant, eventually, headwater, holds, shared_hub, world};
use crate::servers::{Fault, Moody, Proxy};

/// Replaces where the bundle of instance `a` comes from.
fn takes(tenant: &Tenant<'_>, distribution: &Value) {
    let change = json!([{"op": "replace", "path": "/spec/distribution", "value": distribution}]);
    let path = tenant.path("a");
    tenant.hub.request("PATCH", &path, Some(("application/json-patch+json", &change))).unwrap();
}

fn says(tenant: &Tenant<'_>, reason: &str, expected: &str) {
    tenant.wait("a", "Ready", SOON, |c| c.status == "False" && c.reason == reason && c.message == expected);
}

fn push(registry: &Registry, path: &str, more: &[&str], env: &[(&str, &str)]) -> crate::harness::Ended {
    let to = format!("oci://{}/{path}", registry.address());
    headwater(&[&["bundle", "push", &world().bundle(NEW), "--to", &to], more].concat(), env)
}

/// A private authority, client certificates, and passwords by path: each works when it is named, and is asked for by name when
/// it is not. A Secret that is corrected is enough.
#[test]
fn registries_want_certificates_and_passwords() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "certificates");
    let (ours, stranger) = (Authority::new("ours").unwrap(), Authority::new("stranger").unwrap());
    let (server, robot) = (ours.issue("127.0.0.1").unwrap(), ours.issue("robot").unwrap());
    let start = |client_ca| {
        let tls = Some(Tls { identity: server.clone(), client_ca });
        Registry::start(&RegistryOptions { tls, ..RegistryOptions::default() }).unwrap()
    };
    let (open, strict) = (start(None), start(Some(ours.certificate())));
    let unknown = "listing tags: the certificate is of an unknown authority; give its CA with certSecretRef (key ca.crt), or --ca-file";
    let nameless = "the registry wants a client certificate; give one with certSecretRef (keys tls.crt and tls.key), or --cert-file and --key-file";

    // The command line.
    let file = |name: &str, content: &str| tenant.file(name, content);
    let (ca, certificate, key) =
        (file("ca.crt", &ours.certificate()), file("tls.crt", &robot.certificate), file("tls.key", &robot.key));
    let with_ca = ["--ca-file", &ca];
    let with_all = [with_ca.as_slice(), &["--cert-file", &certificate, "--key-file", &key]].concat();
    let ended = push(&open, "flux", &[], &[]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains(&unknown["listing tags: ".len()..]), "{ended:?}");
    assert_eq!(push(&open, "flux", &with_ca, &[]).code, 0);
    let ended = push(&strict, "flux", &with_ca, &[]);
    assert!(ended.code == 2 && ended.stderr.contains(nameless), "{ended:?}");
    assert_eq!(push(&strict, "flux", &with_all, &[]).code, 0);

    // The operator.
    tenant.installed("a", &target, NEW);
    let mark = target.audit_mark();
    let at = |registry: &Registry, cert: Option<&str>| {
        json!({
            "version": NEW, "artifact": format!("oci://{}/flux", registry.address()),
            "certSecretRef": cert.map(|name| json!({"name": name})),
        })
    };
    let failed = |registry: &Registry, text: &str| {
        says(&tenant, "ArtifactFailed", &format!("registry {}: {text}", registry.address()));
    };
    takes(&tenant, &at(&open, None));
    failed(&open, unknown);
    tenant.secret("ca", "ca.crt", &stranger.certificate());
    takes(&tenant, &at(&open, Some("ca")));
    failed(&open, unknown);
    tenant.secret("ca", "ca.crt", &ours.certificate());
    tenant.ready("a");
    takes(&tenant, &at(&strict, Some("ca")));
    failed(&strict, &format!("listing tags: {nameless}"));
    let all =
        |client: &Pem| json!({"ca.crt": ours.certificate(), "tls.crt": client.certificate, "tls.key": client.key});
    tenant.secret_of("all", &all(&stranger.issue("robot").unwrap()));
    takes(&tenant, &at(&strict, Some("all")));
    failed(
        &strict,
        "listing tags: the registry does not accept the client certificate; it may be of another authority",
    );
    tenant.secret_of("all", &all(&robot));
    tenant.ready("a");
    // Plain HTTP where it is not spoken, and the other way round.
    let mut plain = at(&open, None);
    plain["insecure"] = json!(true);
    takes(&tenant, &plain);
    let text = format!("registry {}: listing tags: speaks HTTPS only; leave insecure (--insecure) out", open.address());
    says(&tenant, "ArtifactRejected", &text);
    takes(&tenant, &at(&world().registry, None));
    failed(
        &world().registry,
        "listing tags: does not speak TLS; plain HTTP has to be allowed with insecure: true (--insecure)",
    );

    // Passwords, the most specific path first.
    let login = Some(("robot".to_owned(), "secret".to_owned()));
    let locked = Registry::start(&RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
    let host = locked.address();
    let auth = |password: &str| json!({"username": "robot", "password": password});
    let config = json!({"auths": {&host: auth("wrong"), format!("{host}/team"): auth("secret")}}).to_string();
    tenant.file("config.json", &config);
    let folder = std::path::Path::new(&ca).parent().unwrap().display().to_string();
    let pushed = push(&locked, "team/flux", &["--insecure"], &[("DOCKER_CONFIG", &folder)]);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    tenant.secret("pull", ".dockerconfigjson", &config);
    let at = |path: &str| {
        let artifact = format!("oci://{host}/{path}");
        json!({"version": NEW, "artifact": artifact, "insecure": true, "artifactPullSecret": {"name": "pull"}})
    };
    takes(&tenant, &at("team/flux"));
    tenant.ready("a");
    takes(&tenant, &at("teams/flux"));
    says(
        &tenant,
        "ArtifactAccessDenied",
        &format!(
            "registry {host}: listing tags: the registry does not accept the credentials, or wants some: authentication required; check spec.distribution.artifactPullSecret"
        ),
    );
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "it is the same bundle everywhere");
}

/// A proxy is used for everything but what is excepted, by operator and command line; it, not we, looks up the names of registries.
#[test]
fn registries_behind_a_proxy() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "proxies");
    let ours = Authority::new("ours").unwrap();
    let tls = Some(Tls { identity: ours.issue("registry.internal").unwrap(), client_ca: None });
    let registry = Registry::start(&RegistryOptions { tls, ..RegistryOptions::default() }).unwrap();
    let (open, locked) =
        (Proxy::start(&registry.address(), None), Proxy::start(&registry.address(), Some(("robot", "s/cr:t"))));
    let repository = "oci://registry.internal/flux";
    let connect = ["CONNECT registry.internal:443"];

    // The command line.
    let ca = tenant.file("ca.crt", &ours.certificate());
    let url = |proxy: &Proxy, login: &str| format!("http://{login}{}", proxy.address);
    let bundle = world().bundle(NEW);
    let args = ["bundle", "push", &bundle, "--to", repository, "--ca-file", &ca];
    let pushed = headwater(&args, &[("HTTPS_PROXY", &url(&open, ""))]);
    assert_eq!((pushed.code, open.asked()), (0, connect.map(str::to_owned).to_vec()), "{pushed:?}");
    let list = ["bundle", "list", repository, "--ca-file", &ca];
    assert_eq!(headwater(&list, &[("https_proxy", &url(&locked, "robot:s%2Fcr%3At@"))]).code, 0);
    let refused = headwater(&list, &[("HTTPS_PROXY", &url(&locked, "robot:wrong@"))]);
    let denied = "listing tags: proxy: it does not accept the user name and password, or wants some (407)";
    assert_eq!(refused.code, 2);
    assert_eq!(refused.stderr.trim(), format!("error: registry registry.internal: {denied}"));
    locked.asked();
    open.asked();

    // The operator.
    tenant.secret("ca", "ca.crt", &ours.certificate());
    tenant.secret_of("proxy", &json!({"address": url(&locked, ""), "username": "robot", "password": "wrong"}));
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"] = json!({
        "version": NEW, "artifact": repository, "certSecretRef": {"name": "ca"}, "proxySecretRef": {"name": "proxy"},
    });
    tenant.create("a", &wanted);
    says(&tenant, "ArtifactFailed", &format!("registry registry.internal: {denied}"));
    tenant.secret_of("proxy", &json!({"address": url(&locked, ""), "username": "robot", "password": "s/cr:t"}));
    tenant.ready("a");
    assert_eq!(locked.asked(), connect);
    assert!(!tenant.log().contains("s/cr:t"), "passwords are in no log");

    // Around it.
    let direct = json!({
        "version": NEW, "artifact": world().repository("flux"), "insecure": true, "proxySecretRef": {"name": "proxy"},
    });
    tenant.secret_of("proxy", &json!({"address": url(&open, ""), "noProxy": "registry.internal,127.0.0.0/8"}));
    takes(&tenant, &direct);
    tenant.ready("a");
    assert_eq!(open.asked(), Vec::<String>::new());
    tenant.secret_of("proxy", &json!({"address": "http://127.0.0.1:1"}));
    let registry = world().registry.address();
    let text = format!("registry {registry}: listing tags: proxy: Connection refused (os error 111)");
    takes(
        &tenant,
        &json!({"version": "2.9.x", "artifact": world().repository("flux"), "insecure": true, "proxySecretRef": {"name": "proxy"}}),
    );
    says(&tenant, "ArtifactFailed", &text);
}

/// What the administrator demands counts whatever an instance says; the bundles of the operator itself need no registry and
/// nobody's signature.
#[test]
fn administrators_decide_where_bundles_come_from() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::without_operator(shared_hub(), "demands", &shared_hub().for_operator());
    let allowed = format!("{}/allowed", world().registry.address());
    tenant.start_with(&["--require-verification", "--allowed-repository", &allowed]);
    let wanted = tenant.remote("a", &target, NEW);
    tenant.create("a", &wanted);
    says(
        &tenant,
        "ArtifactNotAllowed",
        &format!(
            "spec.distribution.artifact: bundles may not come from {}; this operator allows {allowed}",
            world().repository("flux")
        ),
    );
    takes(&tenant, &json!({"version": NEW, "artifact": world().repository("allowed/flux"), "insecure": true}));
    says(
        &tenant,
        "ArtifactNotAllowed",
        "spec.distribution.verify: has to be set, this operator takes only verified bundles (--require-verification)",
    );
    assert!(target.get("/api/v1/namespaces/flux-system").is_none(), "nothing was written");
    takes(&tenant, &json!({"version": NEW}));
    tenant.ready("a");
    let verified = tenant.condition("a", "Verified").unwrap();
    assert_eq!((verified.status.as_str(), verified.reason.as_str()), ("True", "Embedded"));
    // It is the very bundle that is built from the same sources.
    assert_eq!(tenant.status("a")["applied"]["digest"], world().digests[NEW].as_str());
}

/// Whatever a registry does for how long: what was installed stays as it is, why it goes no further is said, and when the registry
/// is well again it goes on by itself.
#[test]
fn registries_out_of_order_change_nothing() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "moody");
    let registry = Moody::start(&world().registry.address());
    let artifact = format!("oci://{}/flux", registry.address);
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"]["artifact"] = json!(artifact);
    wanted["interval"] = json!("30s");
    wanted["timeout"] = json!("5s");
    tenant.create("a", &wanted);
    tenant.ready("a");
    let mark = target.audit_mark();

    // Each with a range of its own, since what was looked up before stays good when a registry is out of order.
    let denied = r#"{"errors": [{"code": "DENIED", "message": "not on Sundays"}]}"#;
    let pull = "check spec.distribution.artifactPullSecret";
    let at = |text: &str| format!("registry {}: listing tags: {text}", registry.address);
    let for_now = [
        (
            "2.x",
            Fault::Answers("200 OK\r\ncontent-type: text/html", "<html>Log in"),
            "ArtifactFailed",
            at("answered with a web page; is this a registry, or is a proxy or a login page in between?"),
        ),
        (
            "2.9.x",
            Fault::Answers("429 Wait\r\nretry-after: 3600", ""),
            "ArtifactFailed",
            at("too many requests (429); it asks for a pause of 3600 s"),
        ),
        (">=2.9", Fault::Silent(""), "ArtifactFailed", at("no answer within 5 s")),
    ];
    for (version, fault, reason, expected) in for_now {
        registry.becomes(fault);
        takes(&tenant, &json!({"version": version, "artifact": artifact, "insecure": true}));
        says(&tenant, reason, &expected);
        registry.becomes(Fault::None);
        tenant.ready("a");
    }
    let until_something_changes = [
        (
            "~2.9.4",
            Fault::Answers("401 Who", ""),
            "ArtifactAccessDenied",
            at(&format!("access denied, and the registry does not say what it wants; {pull}")),
        ),
        (
            "^2.9.4",
            Fault::Answers("404 What", ""),
            "VersionNotFound",
            format!("listing tags: not found in {}/flux", registry.address),
        ),
        (
            ">=2.9.4",
            Fault::Answers("403 No\r\ncontent-type: application/json", denied),
            "ArtifactAccessDenied",
            at(&format!("access denied: not on Sundays; {pull}")),
        ),
    ];
    for (version, fault, reason, expected) in until_something_changes {
        registry.becomes(fault);
        takes(&tenant, &json!({"version": version, "artifact": artifact, "insecure": true}));
        says(&tenant, reason, &expected);
        assert_eq!(tenant.condition("a", "Stalled").unwrap().reason, reason);
    }
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);
    registry.becomes(Fault::None);
    tenant.wait("a", "Ready", 60, |c| c.status == "True");
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "nothing was written all the time");
}

/// Another bundle under a version that was published before is taken, and told as what should not happen.
#[test]
fn versions_that_change_are_told() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "moved");
    let before = world().push(NEW, "moved");
    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"]["artifact"] = json!(world().repository("moved"));
    wanted["interval"] = json!("30s");
    tenant.create("a", &wanted);
    tenant.ready("a");

    let files = crate::interop::unpacked(NEW);
    let manifest = files.path().join("bundle.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}# Another one.\n")).unwrap();
    let archive = headwater::bundle::pack(&headwater::bundle::read_folder(files.path()).unwrap()).unwrap();
    let file = files.path().join("another.tar.gz");
    std::fs::write(&file, &archive.bytes).unwrap();
    let to = world().repository("moved");
    let pushed = headwater(&["bundle", "push", file.to_str().unwrap(), "--to", &to, "--insecure"], &[]);
    assert_eq!(pushed.code, 0, "{pushed:?}");

    // Nobody touches the instance.
    let now = archive.bundle_digest();
    eventually("the other one is applied", 60, || {
        let applied = tenant.status("a")["applied"]["digest"].clone();
        holds(applied == now.as_str(), applied)
    });
    let note = tenant.event("a", "TagMoved");
    assert_eq!(note, format!("version {NEW} names {now} now, was {before}; a published version should not change"));
}
