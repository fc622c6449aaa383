//! Bad input: each with the exact text that says what is wrong and what is allowed, nothing written because of it, and
//! well again as soon as it is corrected.

use std::fmt::Write as _;

use headwater_e2e::{Kind, Registry, RegistryOptions};
use serde_json::{Value, json};

use crate::harness::{NEW, SOON, Site, TOKENS, Tenant, crd, eventually, headwater, holds, shared_hub, spec, world};

/// All differences at once: a table with one wrong line should not need as many runs as it has.
struct Table(String);

impl Table {
    fn row(&mut self, case: &str, found: &str, expected: &str) {
        if found != expected {
            let _ = writeln!(self.0, "{case}\n  expected {expected}\n  found    {found}");
        }
    }

    fn check(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

fn set(spec: &Value, pointer: &str, value: Value) -> Value {
    let mut spec = spec.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    for step in parent.split('/').filter(|s| !s.is_empty()).scan(String::new(), |path, step| {
        path.push('/');
        path.push_str(step);
        Some(path.clone())
    }) {
        if spec.pointer(&step).is_none() {
            let (above, name) = step.rsplit_once('/').unwrap();
            spec.pointer_mut(above).unwrap()[name] = json!({});
        }
    }
    spec.pointer_mut(parent).unwrap()[field] = value;
    spec
}

/// The same of fleets; what only the operator can know, time zones and crontabs, it says in the status, and moves nothing.
#[test]
fn fleets_that_fit_nothing_are_refused_by_field() {
    let tenant = Tenant::new(shared_hub(), "bad-fleets");
    let collection = format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxfleets", tenant.namespace);
    let good = json!({
        "selector": {}, "distribution": {"version": NEW},
        "stages": [{"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}}, {"name": "rest"}],
    });
    let attempt = |spec: &Value| {
        let fleet = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
            "metadata": {"name": "bad", "namespace": tenant.namespace}, "spec": spec,
        });
        let path = format!("{collection}?fieldValidation=Strict");
        match tenant.hub.request("POST", &path, Some(("application/json", &fleet))) {
            Ok(_) => {
                tenant.hub.delete(&format!("{collection}/bad"));
                "accepted".to_owned()
            }
            Err((_, text)) => text,
        }
    };
    let stage = |field: &str, value: Value| set(&good, &format!("/stages/0/{field}"), value);
    let window = |field: &str, value: Value| {
        let window = json!({"cron": "0 22 * * 1-4", "duration": "6h", "timeZone": "Europe/London"});
        stage("windows", json!([set(&window, &format!("/{field}"), value)]))
    };
    let share = "must be a number of clusters, 1 or more, or percent of the stage from 1% to 100%, without blanks; to hold a fleet, set spec.suspend";
    let failures = "must be a number of clusters, 0 or more, or percent of the stage from 0% to 100%, without blanks";
    let cases = [
        (good.clone(), "accepted"),
        (stage("concurrency", json!(5)), "accepted"),
        (stage("concurrency", json!("25%")), "accepted"),
        (stage("concurrency", json!(0)), share),
        (stage("concurrency", json!("0%")), share),
        (stage("concurrency", json!("150%")), share),
        (stage("concurrency", json!("5 %")), share),
        (stage("concurrency", json!("5")), share),
        (stage("maxFailures", json!(0)), "accepted"),
        (stage("maxFailures", json!("100%")), "accepted"),
        (stage("maxFailures", json!(-1)), failures),
        (stage("maxFailures", json!("1.5%")), failures),
        (stage("soak", json!("-1h")), "must be a duration such as 0s, between 0s and 2160h"),
        (stage("progressDeadline", json!("5s")), "must be a duration such as 10m, between 10s and 168h"),
        (stage("approval", json!("Yes")), "supported values: \"Automatic\", \"Required\""),
        (stage("name", json!("Canary")), "must be a name such as canary (lower case letters, digits and dashes)"),
        (stage("name", json!("rest")), "each stage needs a name of its own"),
        (stage("selector", Value::Null), "only the last stage can be one"),
        (stage("selector", json!({})), "only the last stage can be one"),
        (stage("selector", json!({"matchLabels": {}, "matchExpressions": []})), "only the last stage can be one"),
        (set(&good, "/stages", json!([])), "spec.stages"),
        (window("duration", json!("6h")), "accepted"),
        (window("duration", json!("30s")), "must be a duration such as 1h, between 1m and 168h"),
        (
            set(&good, "/distribution/registry", json!("mirror.example")),
            "set them on the FluxInstances, not on the FluxFleet",
        ),
    ];
    for (spec, expected) in cases {
        let answer = attempt(&spec);
        assert!(answer.contains(expected), "{expected}: {answer}\n{spec}");
    }

    let fleet = |spec: Value| json!({"apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "odd"}, "spec": spec});
    tenant.hub.create(&collection, &fleet(window("timeZone", json!("Mars/Base"))));
    let path = format!("{collection}/odd");
    let says = |text: &str| {
        eventually(text, SOON, || {
            let status = tenant.hub.must_get(&path)["status"].clone();
            let message = status["message"].as_str().unwrap_or_default();
            if message.contains(text) { Ok(status.clone()) } else { Err(status.to_string()) }
        })
    };
    let status = says("spec.stages[0].windows[0].timeZone: \"Mars/Base\" is not a name of the IANA time zone database");
    let stalled = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Stalled").unwrap();
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("InvalidSpec")));
    tenant.hub.merge(&path, &json!({"spec": good}));
    says("no stage has an instance yet");
}

/// What the API server refuses by the rules of the CRD, before anything is stored.
#[test]
fn admission_says_what_is_allowed() {
    let hub = shared_hub();
    let tenant = Tenant::without_operator(hub, "admission", &hub.for_operator());
    let good = spec(NEW);
    tenant.try_create("good", &good).unwrap();
    let mut table = Table(String::new());
    let refused = |spec: &Value| match tenant.try_create("bad", spec) {
        Ok(()) => {
            tenant.delete("bad");
            "accepted".to_owned()
        }
        Err(text) => {
            let text = text.replace("FluxInstance.headwater.dev \"bad\" is invalid: ", "");
            // The server adds this where it did not come to the rules that are written in CEL.
            match text
                .strip_prefix('[')
                .and_then(|t| t.split_once(", <nil>: Invalid value: null: some validation rules"))
            {
                Some((first, _)) => first.to_owned(),
                None => text,
            }
        }
    };

    let git = json!({"kind": "GitRepository", "url": "https://example.com/x", "ref": "refs/heads/main"});
    let oci = json!({"kind": "OCIRepository", "url": "oci://example.com/x", "ref": "latest"});
    let bucket = json!({"kind": "Bucket", "url": "s3.example.com", "ref": "bucket"});
    let with = |base: &Value, field: &str, value: Value| {
        let mut value_of = base.clone();
        value_of[field] = value;
        value_of
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    for image in
        ["m.example/s", "m.example:5000/a/s:v1", &format!("m.example/s:v1@{digest}"), &format!("m.example/s@{digest}")]
    {
        let images = json!({"source-controller": image});
        table.row("image that is allowed", &refused(&set(&good, "/distribution/images", images)), "accepted");
    }
    for sync in [&git, &oci, &bucket] {
        table.row("sync that is allowed", &refused(&set(&good, "/sync", sync.clone())), "accepted");
    }
    let artifact = "must be oci://HOST[:PORT]/REPOSITORY without tag or digest, such as oci://ghcr.io/example/headwater/flux; \
                    spec.distribution.version selects the version";
    let registry = "must be HOST[:PORT]/PATH without scheme, such as ghcr.io/fluxcd";
    let images = "each image must be HOST[:PORT]/PATH[:TAG][@DIGEST] without scheme, such as mirror.example:5000/flux/source-controller";
    let component = "each component must be a name such as source-controller (lower case letters, digits and dashes)";
    let interval = "must be a duration such as 10m, between 30s and 24h";
    let timeout = "must be a duration such as 5m, between 1s and 1h";
    let invalid = |field: &str, found: &str, text: &str| format!("spec.{field}: Invalid value: {found}: {text}");
    for (pointer, value, expected) in [
        ("/distribution", json!(null), "spec.distribution: Required value".to_owned()),
        ("/distribution/version", json!(""), invalid("distribution.version", "\"\"", "spec.distribution.version in body should be at least 1 chars long")),
        ("/distribution/version", json!("1".repeat(129)), "spec.distribution.version: Too long: may not be more than 128 bytes".to_owned()),
        ("/distribution/version", json!(2), invalid("distribution.version", "\"integer\"", "spec.distribution.version in body must be of type string: \"integer\"")),
        ("/distribution/registry", json!("https://ghcr.io/fluxcd"), invalid("distribution.registry", "\"https://ghcr.io/fluxcd\"", registry)),
        ("/distribution/registry", json!("ghcr.io/Flux CD"), invalid("distribution.registry", "\"ghcr.io/Flux CD\"", registry)),
        ("/distribution/images", json!({"source-controller": "https://m.example/s"}), format!("spec.distribution.images: Invalid value: {images}")),
        ("/distribution/images", json!({"source-controller": "m.example/s@sha256:12"}), format!("spec.distribution.images: Invalid value: {images}")),
        ("/distribution/pinImages", json!("yes"), invalid("distribution.pinImages", "\"string\"", "spec.distribution.pinImages in body must be of type boolean: \"string\"")),
        ("/distribution/artifact", json!("ghcr.io/x/y"), invalid("distribution.artifact", "\"ghcr.io/x/y\"", artifact)),
        ("/distribution/artifact", json!("oci://ghcr.io"), invalid("distribution.artifact", "\"oci://ghcr.io\"", artifact)),
        ("/distribution/artifact", json!("oci://ghcr.io/x/y:v1"), invalid("distribution.artifact", "\"oci://ghcr.io/x/y:v1\"", artifact)),
        ("/distribution/artifact", json!("oci://u@ghcr.io/x"), invalid("distribution.artifact", "\"oci://u@ghcr.io/x\"", artifact)),
        ("/distribution/artifactPullSecret", json!({}), "spec.distribution.artifactPullSecret.name: Required value".to_owned()),
        ("/distribution/artifactPullSecret", json!({"name": ""}), invalid("distribution.artifactPullSecret.name", "\"\"", "spec.distribution.artifactPullSecret.name in body should be at least 1 chars long")),
        ("/distribution/insecure", json!("yes"), invalid("distribution.insecure", "\"string\"", "spec.distribution.insecure in body must be of type boolean: \"string\"")),
        ("/components", json!([]), invalid("components", "0", "spec.components in body should have at least 1 items")),
        ("/components", json!(["Source"]), format!("spec.components: Invalid value: {component}")),
        ("/components", json!(["a", "a"]), "spec.components[1]: Duplicate value: \"a\"".to_owned()),
        ("/cluster/domain", json!("Cluster_local"), invalid("cluster.domain", "\"Cluster_local\"", "must be a DNS domain such as cluster.local")),
        ("/cluster/networkPolicy", json!("no"), invalid("cluster.networkPolicy", "\"string\"", "spec.cluster.networkPolicy in body must be of type boolean: \"string\"")),
        ("/cluster/size", json!("huge"), "spec.cluster.size: Unsupported value: \"huge\": supported values: \"small\", \"medium\", \"large\"".to_owned()),
        ("/tofu", json!({"allowedNamespaces": ["team-a", "Team_B"]}), "spec.tofu.allowedNamespaces: Invalid value: each namespace must be a name such as team-a (lower case letters, digits and dashes)".to_owned()),
        ("/tofu", json!({"allowedNamespaces": ["team-a", "team-a"]}), "spec.tofu.allowedNamespaces[1]: Duplicate value: \"team-a\"".to_owned()),
        ("/tofu", json!({"branchPlanner": "yes"}), invalid("tofu.branchPlanner", "\"string\"", "spec.tofu.branchPlanner in body must be of type boolean: \"string\"")),
        ("/interval", json!("10"), invalid("interval", "\"10\"", interval)),
        ("/interval", json!("5s"), invalid("interval", "\"5s\"", interval)),
        ("/interval", json!("25h"), invalid("interval", "\"25h\"", interval)),
        ("/interval", json!("-5m"), invalid("interval", "\"-5m\"", interval)),
        ("/interval", json!("99999999h"), invalid("interval", "\"99999999h\"", interval)),
        ("/timeout", json!("0s"), invalid("timeout", "\"0s\"", timeout)),
        ("/timeout", json!("2h"), invalid("timeout", "\"2h\"", timeout)),
        ("/suspend", json!("yes"), invalid("suspend", "\"string\"", "spec.suspend in body must be of type boolean: \"string\"")),
        ("/wait", json!(1), invalid("wait", "\"integer\"", "spec.wait in body must be of type boolean: \"integer\"")),
        ("/deletionPolicy", json!("Keep"), "spec.deletionPolicy: Unsupported value: \"Keep\": supported values: \"Orphan\", \"Uninstall\"".to_owned()),
        ("/kubeConfig", json!({}), "spec.kubeConfig.secretRef: Required value".to_owned()),
        ("/kubeConfig", json!({"secretRef": {"name": ""}}), invalid("kubeConfig.secretRef.name", "\"\"", "spec.kubeConfig.secretRef.name in body should be at least 1 chars long")),
        ("/kubeConfig", json!({"secretRef": {"name": "a", "key": ""}}), invalid("kubeConfig.secretRef.key", "\"\"", "spec.kubeConfig.secretRef.key in body should be at least 1 chars long")),
        ("/commonMetadata", json!({"labels": {"a": 1}}), invalid("commonMetadata.labels.a", "\"integer\"", "spec.commonMetadata.labels.a in body must be of type string: \"integer\"")),
        ("/kustomize", json!({"patches": [{"patch": ""}]}), invalid("kustomize.patches[0].patch", "\"\"", "spec.kustomize.patches[0].patch in body should be at least 1 chars long")),
        ("/sync", with(&git, "kind", json!("Helm")), "spec.sync.kind: Unsupported value: \"Helm\": supported values: \"GitRepository\", \"OCIRepository\", \"Bucket\"".to_owned()),
        ("/sync", with(&git, "ref", json!("")), invalid("sync.ref", "\"\"", "spec.sync.ref in body should be at least 1 chars long")),
        ("/sync", with(&git, "url", json!("git@example.com:x")), "spec.sync: Invalid value: url of a GitRepository must start with https://, http:// or ssh://".to_owned()),
        ("/sync", with(&oci, "url", json!("https://example.com/x")), "spec.sync: Invalid value: url of an OCIRepository must start with oci://".to_owned()),
        ("/sync", with(&bucket, "url", json!("https://s3.example.com")), "spec.sync: Invalid value: url of a Bucket is its endpoint without scheme, such as s3.example.com".to_owned()),
        ("/sync", with(&git, "provider", json!("gcp")), "spec.sync: Invalid value: provider gcp needs kind OCIRepository or Bucket".to_owned()),
        ("/sync", with(&oci, "provider", json!("github")), "spec.sync: Invalid value: provider github needs kind GitRepository".to_owned()),
        ("/sync", with(&git, "insecure", json!(true)), "spec.sync: Invalid value: insecure is for kind OCIRepository or Bucket; write http:// for a GitRepository".to_owned()),
        ("/sync", with(&git, "interval", json!("1s")), invalid("sync.interval", "\"1s\"", interval)),
        ("/sync", with(&git, "timeout", json!("2h")), invalid("sync.timeout", "\"2h\"", timeout)),
        ("/sync", with(&git, "provider", json!("x")), "spec.sync.provider: Unsupported value: \"x\": supported values: \"generic\", \"aws\", \"azure\", \"gcp\", \"github\", \"null\"".to_owned()),
    ] {
        let found = refused(&set(&good, pointer, value.clone()));
        table.row(&format!("{pointer}: {value}"), &found, &expected);
    }
    let unknown = refused(&set(&good, "/intervall", json!("1m")));
    table.row("unknown field", &unknown, "FluxInstance in version \"v1alpha1\" cannot be handled as a FluxInstance: strict decoding error: unknown field \"spec.intervall\"");

    // What may not change.
    tenant.patch("good", &json!({"spec": {"sync": with(&git, "name", json!("one"))}}));
    let path = tenant.path("good");
    let change = json!({"spec": {"sync": {"name": "two"}}});
    let found = hub.request("PATCH", &path, Some(("application/merge-patch+json", &change))).unwrap_err().1;
    table.row(
        "sync.name",
        &found,
        "FluxInstance.headwater.dev \"good\" is invalid: spec.sync: Invalid value: name cannot be changed once sync is set; remove sync first",
    );
    // The same text from the command line.
    let file = tenant.file("bad.yaml", &tenant.object("bad", &set(&good, "/interval", json!("10"))).to_string());
    let kubeconfig = tenant.kubeconfig();
    let said = headwater(&["diff", "-f", &file], &[("KUBECONFIG", &kubeconfig)]);
    table.row(
        "diff",
        said.stderr.trim(),
        &format!("error: FluxInstance.headwater.dev \"bad\" is invalid: {}", invalid("interval", "\"10\"", interval)),
    );
    table.check();
}

fn kubeconfig(site: &Site) -> Value {
    let text = site.for_operator();
    let value = headwater::render::yaml::parse_one("kubeconfig", &text).unwrap();
    let mut cluster = value["clusters"][0]["cluster"].clone();
    cluster["server"] = json!(site.server());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": TOKENS[0]}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    })
}

/// A kubeconfig can run programs and read files of whoever loads it: everything but inline data is refused by name, before
/// anything is connected to. What was installed last keeps running, and the right Secret heals.
#[test]
fn kubeconfigs_are_inline_data_only() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "kubeconfigs");
    tenant.installed("a", &target, NEW);
    let good = kubeconfig(&target);
    tenant.secret("a-kubeconfig", "value", &good.to_string());
    tenant.poke("a");
    tenant.ready("a");
    let mut mark = None;
    let mut table = Table(String::new());

    let user = |value: Value| set(&good, "/users/0/user", value).to_string();
    let cluster = |field: &str, value: Value| set(&good, &format!("/clusters/0/cluster/{field}"), value).to_string();
    let without = |field: &str| {
        let mut changed = good.clone();
        changed["clusters"][0]["cluster"].as_object_mut().unwrap().remove(field);
        changed.to_string()
    };
    let token = |field: &str, value: Value| {
        let mut of = json!({"token": "t"});
        of[field] = value;
        user(of)
    };
    let paths = "is a file path, which is not allowed; use";
    let server = "cluster \"c\": server must be https://HOST[:PORT][/PATH]";
    let cases: Vec<(&str, String, String)> = vec![
        ("exec", token("exec", json!({"command": "touch", "args": ["/tmp/owned"]})), "user \"u\": exec plugins are not allowed (they would run a program in the operator); use a token or a client certificate".into()),
        ("auth-provider", token("auth-provider", json!({"name": "gcp"})), "user \"u\": auth-provider is not allowed; use a token or a client certificate".into()),
        ("tokenFile", token("tokenFile", json!("/var/run/secrets/kubernetes.io/serviceaccount/token")), "user \"u\": tokenFile is not allowed; put the token inline (users[].user.token)".into()),
        ("client-certificate", token("client-certificate", json!("/x")), format!("user \"u\": client-certificate {paths} client-certificate-data")),
        ("client-key", token("client-key", json!("/x")), format!("user \"u\": client-key {paths} client-key-data")),
        ("username", user(json!({"username": "u"})), "user \"u\": basic authentication is not allowed; use a token or a client certificate".into()),
        ("password", user(json!({"password": "p"})), "user \"u\": basic authentication is not allowed; use a token or a client certificate".into()),
        ("as", token("as", json!("admin")), "user \"u\": as: impersonation is not allowed in a kubeconfig".into()),
        ("as-groups", token("as-groups", json!(["system:masters"])), "user \"u\": as-groups: impersonation is not allowed in a kubeconfig".into()),
        ("unknown field of a user", token("tokn", json!("x")), "user \"u\": field \"tokn\" is not allowed (allowed: token, client-certificate-data, client-key-data, extensions)".into()),
        ("no credentials", user(json!({})), "user \"u\": no credentials; set token, or client-certificate-data and client-key-data".into()),
        ("both", token("client-key-data", json!("eA==")), "user \"u\": set either token or a client certificate, not both".into()),
        ("no key", user(json!({"client-certificate-data": "eA=="})), "user \"u\": client-key-data is missing".into()),
        ("no certificate", user(json!({"client-key-data": "eA=="})), "user \"u\": client-certificate-data is missing".into()),
        ("not base64", user(json!({"client-certificate-data": "?", "client-key-data": "eA=="})), "user \"u\": client-certificate-data is not base64".into()),
        ("certificate-authority", cluster("certificate-authority", json!("/etc/ca.pem")), format!("cluster \"c\": certificate-authority {paths} certificate-authority-data")),
        ("insecure-skip-tls-verify", cluster("insecure-skip-tls-verify", json!(true)), "cluster \"c\": insecure-skip-tls-verify is not allowed; add certificate-authority-data".into()),
        ("proxy-url", cluster("proxy-url", json!("http://proxy:3128")), "cluster \"c\": proxy-url is not allowed".into()),
        ("http", cluster("server", json!("http://127.0.0.1:1")), format!("{server}; found scheme \"http\"")),
        ("no server", without("server"), format!("{server}; found \"\"")),
        ("user in server", cluster("server", json!("https://me@127.0.0.1:1")), format!("{server}, without user, query or fragment")),
        ("no CA", without("certificate-authority-data"), "cluster \"c\": certificate-authority-data is required".into()),
        ("CA is no base64", cluster("certificate-authority-data", json!("???")), "cluster \"c\": certificate-authority-data is not base64".into()),
        ("CA is no PEM", cluster("certificate-authority-data", json!("eA==")), "cluster \"c\": certificate-authority-data holds no certificate".into()),
        ("unknown field of a cluster", cluster("sever", json!("x")), "cluster \"c\": field \"sever\" is not allowed (allowed: server, certificate-authority-data, tls-server-name, disable-compression, extensions)".into()),
        ("context that is missing", set(&good, "/current-context", json!("y")).to_string(), "current-context \"y\" has no entry in contexts (found: x)".into()),
        ("no context", set(&good, "/current-context", json!("")).to_string(), "current-context is not set (contexts: x)".into()),
        ("user that is missing", set(&good, "/contexts/0/context/user", json!("v")).to_string(), "context \"x\": user \"v\" has no entry in users (found: u)".into()),
        ("cluster that is missing", set(&good, "/clusters", json!([])).to_string(), "context \"x\": cluster \"c\" has no entry in clusters (found: none)".into()),
        ("unknown field", set(&good, "/current_context", json!("x")).to_string(), "kubeconfig: field \"current_context\" is not allowed (allowed: apiVersion, kind, clusters, users, contexts, current-context, preferences, extensions)".into()),
        ("empty", String::new(), "file is empty".into()),
        ("two documents", format!("{good}\n---\n{good}"), "file has 2 YAML documents, one is allowed".into()),
        ("a list", "[]".to_owned(), "kubeconfig is not a map".into()),
        ("too large", format!("#{}", "x".repeat(65 << 10)), "file is 65 KiB, the limit is 64 KiB".into()),
        ("client certificate that is none", user(json!({"client-certificate-data": "eA==", "client-key-data": "eA=="})), "the data cannot be used: rustls tls error: identity PEM is missing a private key: the key must be PKCS8 or RSA/PKCS1".into()),
    ];
    for (case, text, expected) in cases {
        tenant.secret("a-kubeconfig", "value", &text);
        let expected = format!("spec.kubeConfig: Secret a-kubeconfig, key value: {expected}");
        let found = settles(&tenant, "Ready", "KubeconfigRejected", &expected);
        table.row(case, &found, &expected);
        let reachable = tenant.condition("a", "Reachable").unwrap();
        table.row(case, &reachable.message, &expected);
        // From the first refusal on: before it, the right Secret may still be looked at.
        mark.get_or_insert_with(|| target.audit_mark());
    }
    let broken = "{apiVersion: v1\n";
    tenant.secret("a-kubeconfig", "value", broken);
    let found = eventually("YAML that does not parse is refused", SOON, || {
        let said = tenant.condition("a", "Ready").unwrap();
        if said.message.contains("key value: kubeconfig:") { Ok(said.message) } else { Err(said.message) }
    });
    assert!(found.starts_with("spec.kubeConfig: Secret a-kubeconfig, key value: kubeconfig:"), "{found}");

    assert_eq!(target.asked(mark.unwrap()), vec![], "the cluster was not even asked");
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);
    tenant.secret("a-kubeconfig", "value", &good.to_string());
    tenant.wait("a", "Ready", 10, |c| c.status == "True");
    assert!(!std::path::Path::new("/tmp/owned").exists());
    table.check();
}

/// Waits for a message, and gives what is there when it does not come.
fn settles(tenant: &Tenant<'_>, type_: &str, reason: &str, expected: &str) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(8);
    loop {
        let found = tenant.condition("a", type_);
        let text = found.as_ref().map_or("nothing".to_owned(), |c| c.message.clone());
        if found.is_some_and(|c| c.reason == reason && c.message == expected) {
            return text;
        }
        if std::time::Instant::now() > deadline {
            return format!("{text} (or another reason than {reason})");
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
}

/// What the API server cannot know: refused in the pass with the field's name, while everything stays as it was installed.
#[test]
fn specs_that_fit_nothing_are_refused_by_field() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "specs");
    let login = Some(("robot".to_owned(), "secret".to_owned()));
    let locked = Registry::start(&RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
    let wrong = json!({"auths": {locked.address(): {"username": "robot", "password": "wrong"}}}).to_string();
    tenant.secret("wrong", ".dockerconfigjson", &wrong);
    tenant.secret("other-key", "config.json", &wrong);
    tenant.secret("no-json", ".dockerconfigjson", "{");
    tenant.installed("a", &target, NEW);
    let good = tenant.hub.must_get(&tenant.path("a"))["spec"].clone();
    let mark = target.audit_mark();
    let mut table = Table(String::new());

    let here = world().registry.address();
    let there = locked.address();
    let patches = |patch: &str, target: Value| json!({"patches": [{"patch": patch, "target": target}]});
    let neither = |text: &str| {
        format!(
            "spec.distribution.version: {text:?} is neither a version nor a semver range nor a digest (expected e.g. \
             \"2.9.4\", \"2.x\", \"2.9.x\", \">=2.8 <3\", \"sha256:<64 hex digits>\")"
        )
    };
    let pull = "spec.distribution.artifactPullSecret";
    let zeros = format!("sha256:{}", "0".repeat(64));
    let cases: Vec<(&str, Value, &str, String)> = vec![
        ("/distribution/version", json!("latest"), "InvalidVersion", neither("latest")),
        ("/distribution/version", json!(">="), "InvalidVersion", neither(">=")),
        ("/distribution/version", json!("sha256:abc"), "InvalidVersion", neither("sha256:abc")),
        ("/distribution/version", json!("3.x"), "VersionNotFound", "spec.distribution.version: no version matches \"3.x\"; newest available is 2.9.4".into()),
        ("/distribution/version", json!("2.9.3"), "VersionNotFound", "spec.distribution.version: no version matches \"2.9.3\"; newest available is 2.9.4".into()),
        ("/distribution/version", json!(zeros), "VersionNotFound", format!("{zeros}: not found in {here}/flux")),
        ("/distribution/artifact", json!(world().repository("nothing")), "VersionNotFound", format!("listing tags: not found in {here}/nothing")),
        ("/distribution/artifact", json!("oci://127.0.0.1:1/flux"), "ArtifactFailed", "registry 127.0.0.1:1: listing tags: Connection refused (os error 111)".into()),
        ("/distribution", json!({"version": NEW, "insecure": false, "artifact": world().repository("tls")}), "ArtifactFailed", format!("registry {here}: listing tags: does not speak TLS; plain HTTP has to be allowed with insecure: true (--insecure)")),
        ("/distribution/artifact", json!(format!("oci://{there}/flux")), "ArtifactAccessDenied", format!("registry {there}: listing tags: the registry wants a user name and a password; check {pull}")),
        ("/distribution", json!({"version": NEW, "insecure": true, "artifact": format!("oci://{there}/flux"), "artifactPullSecret": {"name": "wrong"}}), "ArtifactAccessDenied", format!("registry {there}: listing tags: the registry does not accept the credentials, or wants some: authentication required; check {pull}")),
        ("/distribution/artifactPullSecret", json!({"name": "nope"}), "SecretFailed", format!("{pull}: Secret nope does not exist in namespace specs")),
        ("/distribution/artifactPullSecret", json!({"name": "other-key"}), "SecretFailed", format!("{pull}: Secret other-key has no key .dockerconfigjson (found: config.json); create it with `kubectl create secret docker-registry`")),
        ("/distribution/artifactPullSecret", json!({"name": "no-json"}), "SecretFailed", format!("{pull}: Secret no-json, key .dockerconfigjson: is not JSON")),
        ("/components", json!(["source-controler"]), "BuildFailed", "spec.components[0]: \"source-controler\" is not in bundle flux 2.9.4; it has: source-controller, kustomize-controller, helm-controller, notification-controller, image-reflector-controller, image-automation-controller, source-watcher, tofu-controller; did you mean source-controller?".into()),
        ("/distribution/images", json!({"source-controler": "m.example/s"}), "BuildFailed", "spec.distribution.images: \"source-controler\" is no image of bundle flux 2.9.4; it has: source-controller, kustomize-controller, helm-controller, notification-controller, image-reflector-controller, image-automation-controller, source-watcher, tofu-controller, tf-runner, branch-planner; did you mean source-controller?".into()),
        ("/distribution", json!({"version": NEW, "insecure": true, "artifact": world().repository("flux"), "pinImages": true, "images": {"source-controller": "m.example/s:v2"}}), "BuildFailed", "spec.distribution.pinImages: the digest of m.example/s:v2 is not known; give it in spec.distribution.images as source-controller: m.example/s:v2@sha256:..., or leave pinImages out".into()),
        ("/components", json!(["helm-controller"]), "BuildFailed", "spec.components: \"helm-controller\" needs \"source-controller\"; add it to spec.components".into()),
        ("/components", json!(["tofu-controller"]), "BuildFailed", "spec.components: \"tofu-controller\" needs \"source-controller\"; add it to spec.components".into()),
        ("/tofu", json!({}), "BuildFailed", "bundle flux 2.9.4: templates/tofu-controller.yaml:2:4: spec.tofu is set, but tofu-controller is not installed; add it to spec.components, or remove spec.tofu".into()),
        ("/kustomize", patches("{spec: {replicas: 2}}", json!({"kind": "Deployment", "name": "sourc-controller"})), "BuildFailed", "spec.kustomize.patches[0].target: {kind: Deployment, name: sourc-controller} matches none of the 32 objects; the nearest is Deployment flux-system/source-controller".into()),
        ("/kustomize", patches("{spec: [", json!({"kind": "Deployment"})), "BuildFailed", "spec.kustomize.patches[0].patch: line 1, column 8: unclosed bracket '[' at line 1, column 8".into()),
        ("/kustomize", json!({"patches": [{"patch": "[{op: remove, path: /spec}]"}]}), "BuildFailed", "spec.kustomize.patches[0].target: is missing; a JSON patch needs one, such as {kind: Deployment, name: NAME}".into()),
        ("/kustomize", patches("[{op: remove, path: /spec/nope}]", json!({"kind": "Deployment"})), "BuildFailed", "spec.kustomize.patches[0].patch: operation 0 (/spec/nope) on Deployment flux-system/source-controller: path is invalid".into()),
        ("/kustomize", patches("just text", json!({"kind": "Deployment"})), "BuildFailed", "spec.kustomize.patches[0].patch: is neither a map (a merge patch) nor a list (a JSON patch)".into()),
        ("/kubeConfig/secretRef", json!({"name": "nope"}), "SecretFailed", "spec.kubeConfig.secretRef: Secret nope does not exist in namespace specs".into()),
        ("/kubeConfig/secretRef", json!({"name": "a-kubeconfig", "key": "nope"}), "SecretFailed", "spec.kubeConfig.secretRef: Secret a-kubeconfig has no key nope (found: value)".into()),
        ("/kubeConfig/secretRef", json!({"name": "wrong"}), "SecretFailed", "spec.kubeConfig.secretRef: Secret wrong has no key value or value.yaml (found: .dockerconfigjson)".into()),
    ];
    let path = tenant.path("a");
    let replace = |spec: &Value| {
        let change = json!([{"op": "replace", "path": "/spec", "value": spec}]);
        tenant.hub.request("PATCH", &path, Some(("application/json-patch+json", &change))).unwrap();
    };
    for (pointer, value, reason, expected) in cases {
        replace(&set(&good, pointer, value.clone()));
        let found = settles(&tenant, "Ready", reason, &expected);
        table.row(&format!("{pointer}: {value}"), &found, &expected);
    }
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "nothing is written because of bad input");
    let status = tenant.status("a");
    assert_eq!((&status["applied"]["version"], status["history"].as_array().unwrap().len()), (&json!(NEW), 1));
    replace(&good);
    tenant.ready("a");
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "it is still what was installed");
    table.check();
}

/// Access to a registry belongs to who has the credentials: what one instance was allowed to fetch is not given to another
/// that is not.
#[test]
fn credentials_of_one_instance_do_not_serve_another() {
    let targets = Site::start_many(Kind::Plain, 2);
    let tenant = Tenant::new(shared_hub(), "credentials");
    let login = Some(("robot".to_owned(), "secret".to_owned()));
    let registry = Registry::start(&RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
    let repository = format!("oci://{}/flux", registry.address());
    let config = json!({"auths": {registry.address(): {"username": "robot", "password": "secret"}}}).to_string();
    tenant.secret("pull", ".dockerconfigjson", &config);
    let docker = tempfile::tempdir().unwrap();
    std::fs::write(docker.path().join("config.json"), &config).unwrap();
    let pushed = headwater(
        &["bundle", "push", &world().bundle(NEW), "--to", &repository, "--insecure"],
        &[("DOCKER_CONFIG", docker.path().to_str().unwrap())],
    );
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let distribution = json!({"version": NEW, "artifact": repository, "insecure": true});
    let mut wanted = tenant.remote("allowed", &targets[0], NEW);
    wanted["distribution"] = set(&distribution, "/artifactPullSecret", json!({"name": "pull"}));
    tenant.create("allowed", &wanted);
    tenant.ready("allowed");
    let mut wanted = tenant.remote("other", &targets[1], NEW);
    wanted["distribution"] = distribution;
    tenant.create("other", &wanted);
    tenant.fails("other", "ArtifactAccessDenied");
    assert!(targets[1].get("/api/v1/namespaces/flux-system").is_none());
    tenant.patch("other", &json!({"spec": {"distribution": {"artifactPullSecret": {"name": "pull"}}}}));
    tenant.ready("other");
}

/// A Secret that comes later is noticed by itself.
#[test]
fn missing_secret_that_appears_is_enough() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "later");
    let mut wanted = spec(NEW);
    wanted["kubeConfig"] = json!({"secretRef": {"name": "a-kubeconfig"}});
    tenant.create("a", &wanted);
    assert_eq!(
        tenant.fails("a", "SecretFailed").message,
        "spec.kubeConfig.secretRef: Secret a-kubeconfig does not exist in namespace later"
    );
    assert_eq!(tenant.event("a", "SecretFailed"), tenant.condition("a", "Ready").unwrap().message);
    tenant.secret("a-kubeconfig", "value.yaml", &target.for_operator());
    tenant.wait("a", "Ready", 15, |c| c.status == "True");
}

/// The registry goes away: what is installed stays healthy, and drift is still repaired; only what is not known yet waits, and
/// goes on by itself when the registry is back.
#[test]
fn registry_outage() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "outage");
    let registry = Registry::start(&RegistryOptions::default()).unwrap();
    let repository = format!("oci://{}/flux", registry.address());
    let pushed = headwater(&["bundle", "push", &world().bundle(NEW), "--to", &repository, "--insecure"], &[]);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let mut wanted = tenant.remote("a", &target, "2.x");
    wanted["distribution"]["artifact"] = json!(repository);
    tenant.create("a", &wanted);
    tenant.ready("a");
    registry.stop();
    let deployment = crate::harness::in_flux("deployments", "source-controller");
    target.delete(&deployment);
    eventually("drift is repaired", 10, || holds(target.get(&deployment).is_some(), "it is not"));
    tenant.ready("a");
    tenant.patch("a", &json!({"spec": {"distribution": {"version": "2.9.x"}}}));
    let said = tenant.fails("a", "ArtifactFailed");
    assert_eq!(
        said.message,
        format!("registry {}: listing tags: Connection refused (os error 111)", registry.address())
    );
    registry.resume().unwrap();
    tenant.ready("a");
}

/// An object that was stored before a rule existed, and cannot even be read: said on the object; the others go on.
#[test]
fn malformed_instance_never_stops_the_others() {
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::without_operator(&hub, "headwater-system", &hub.for_operator());
    let path = crd("fluxinstances.headwater.dev");
    let strict = hub.must_get(&path);
    let mut lax = strict.clone();
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let replace = |definition: &Value| {
        hub.merge(&path, &json!({"spec": {"versions": definition["spec"]["versions"]}}));
    };
    replace(&lax);
    // A field that no rule of ours reads: the API server then takes changes of the status all the same.
    let broken = json!({"distribution": {"version": NEW}, "wait": "oops"});
    eventually("the rules are off", SOON, || tenant.try_create("broken", &broken));
    eventually("so are those for an interval", SOON, || {
        let mut wanted = spec(NEW);
        wanted["interval"] = json!("1s");
        tenant.try_create("hasty", &wanted)
    });
    let mut wanted = spec(NEW);
    wanted["interval"] = json!(5);
    tenant.try_create("unwritable", &wanted).unwrap();
    replace(&strict);
    eventually("the rules are on again", SOON, || match tenant.try_create("refused", &broken) {
        Ok(()) => {
            tenant.delete("refused");
            Err("accepted".to_owned())
        }
        Err(_) => Ok(()),
    });
    tenant.start();

    let said = eventually("the broken one is told", SOON, || {
        let object = hub.must_get(&tenant.path("broken"));
        let ready =
            object["status"]["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready")).cloned();
        ready.ok_or_else(|| object.to_string())
    });
    assert_eq!((said["status"].as_str(), said["reason"].as_str()), (Some("False"), Some("InvalidSpec")));
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("the object cannot be read: ") && message.ends_with("; correct or delete it"),
        "{message}"
    );
    // The server refuses every change of this one, its status included, so it can only be said beside it.
    let note = tenant.event("unwritable", "InvalidSpec");
    assert!(note.starts_with("the object cannot be read: ") && note.ends_with("; correct or delete it"), "{note}");
    let hasty = tenant.fails("hasty", "InvalidSpec");
    assert_eq!(hasty.message, "spec.interval: \"1s\" must be a duration such as 10m, between 30s and 24h");
    assert!(hub.get("/api/v1/namespaces/flux-system").is_none(), "nothing is installed for either");

    tenant.create("good", &spec(NEW));
    tenant.ready("good");
    tenant.stop();
    tenant.start();
    tenant.poke("good");
    tenant.delete("unwritable");
    tenant.gone("unwritable", SOON);
    tenant.delete("broken");
    tenant.gone("broken", SOON);
}

/// An inventory that somebody has broken is never overwritten: it says what to do, and goes on when that is done.
#[test]
fn unreadable_inventory_is_left_alone() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "inventory");
    tenant.installed("a", &target, NEW);
    let path = crate::harness::in_flux("configmaps", "headwater-inventory");
    let good = target.must_get(&path)["data"].clone();
    target.merge(&path, &json!({"data": {"inventory.json": "{"}}));
    let mark = target.audit_mark();
    tenant.poke("a");
    let said = tenant.fails("a", "ReconciliationFailed");
    assert!(said.message.contains("ConfigMap flux-system/headwater-inventory: inventory.json: "), "{}", said.message);
    assert!(
        said.message.ends_with("; restore it, or delete the ConfigMap to record anew what is installed"),
        "{}",
        said.message
    );
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
    target.merge(&path, &json!({"data": good}));
    tenant.poke("a");
    tenant.ready("a");
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
    // The other way: without it, everything is taken over as it is.
    let before = target.inventory_uids();
    target.delete(&path);
    tenant.poke("a");
    eventually("it is recorded anew", SOON, || target.inventory().map(drop).ok_or_else(|| "it is not".to_owned()));
    tenant.ready("a");
    eventually("all of it", SOON, || holds(!target.inventory().unwrap().to_string().contains("\"uid\":null"), ()));
    assert_eq!(target.inventory_uids(), before);
}
