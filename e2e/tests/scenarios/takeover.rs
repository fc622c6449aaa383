//! Installations of other tools become ours as they run, and are given back.

use std::collections::BTreeMap;

use headwater::registry::{Access, Address, Repository};
use headwater::render::{Object, yaml};
use headwater_e2e::tools::tool;
use headwater_e2e::{AuditMark, Kind};
use serde_json::{Value, json};

use crate::harness::{
    Ended, NEW, OLD, SOON, Site, Tenant, block_on, crd, eventually, headwater, holds, in_flux, run, shared_hub, spec,
    world,
};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const KUSTOMIZATION: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/flux-system";
const SOURCE: &str = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/ocirepositories/flux-system";

fn manifests(version: &str, components: &[&str]) -> Vec<Object> {
    headwater_e2e::manifests::flux_install(version, components).unwrap()
}

fn text(objects: &[Object]) -> String {
    objects.iter().map(|object| yaml::emit(object.value()).unwrap()).collect::<Vec<_>>().join("---\n")
}

/// `kubectl apply --server-side` under the name of another tool: CRDs first, as all tools do it.
fn apply_as(site: &Site, manager: &str, objects: &[Object]) {
    let manager = format!("--field-manager={manager}");
    let args = ["apply", "--server-side", "--force-conflicts", &manager, "-f", "-"];
    let (first, rest): (Vec<Object>, Vec<Object>) = objects
        .iter()
        .cloned()
        .partition(|o| ["CustomResourceDefinition", "Namespace"].contains(&o.key().kind.as_str()));
    for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
        eventually("all is applied", SOON, || site.kubectl_with(&args, &text(&part)).map_err(|e| e.to_string()));
    }
}

/// UIDs of all of Flux on a cluster, and what is wanted of Deployments: a change of it is a new generation of theirs (and so
/// is one of their annotations, which concerns no pod).
fn standing(site: &Site) -> (BTreeMap<String, String>, BTreeMap<String, Value>) {
    let (mut uids, mut specs) = (BTreeMap::new(), BTreeMap::new());
    for collection in [
        CRDS,
        "/api/v1/namespaces",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "/api/v1/namespaces/flux-system/services",
        "/api/v1/namespaces/flux-system/serviceaccounts",
        "/api/v1/namespaces/flux-system/resourcequotas",
        "/apis/networking.k8s.io/v1/namespaces/flux-system/networkpolicies",
        "/apis/apps/v1/namespaces/flux-system/deployments",
    ] {
        let list = site.must_get(&format!("{collection}?labelSelector=app.kubernetes.io%2Fpart-of%3Dflux"));
        for item in list["items"].as_array().unwrap() {
            let metadata = &item["metadata"];
            let path = format!("{collection}/{}", metadata["name"].as_str().unwrap());
            if collection.ends_with("deployments") {
                specs.insert(path.clone(), item["spec"].clone());
            }
            uids.insert(path, metadata["uid"].as_str().unwrap().to_owned());
        }
    }
    assert!(uids.len() > 20, "{uids:#?}");
    (uids, specs)
}

fn generations(site: &Site) -> BTreeMap<String, u64> {
    let list = site.must_get("/apis/apps/v1/namespaces/flux-system/deployments");
    let one =
        |d: &Value| (d["metadata"]["name"].as_str().unwrap().to_owned(), d["metadata"]["generation"].as_u64().unwrap());
    list["items"].as_array().unwrap().iter().map(one).collect()
}

/// Field managers of an object, apart from the server's own controllers.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let main = entries.filter(|entry| entry["subresource"].is_null());
    main.map(|entry| format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap()))
        .collect()
}

/// `headwater diff` of an instance of a tenant.
fn diff(tenant: &Tenant, name: &str, spec: &Value) -> Ended {
    let file = tenant.file("instance.yaml", &tenant.object(name, spec).to_string());
    headwater(&["diff", "-f", &file], &[("KUBECONFIG", &tenant.kubeconfig())])
}

fn writes_nothing(tenant: &Tenant, name: &str, target: &Site) {
    let mark = target.audit_mark();
    tenant.poke(name);
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
}

/// What `flux install` made is taken over as it runs: same UIDs, no pod template changes but where it differs. What people did by
/// hand stays, leftovers of older manifests go. Given back, it has none of our marks; and can be taken over again.
#[test]
fn what_flux_installed_is_taken_over_and_given_back() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "from-flux");
    apply_as(&target, "flux", &manifests(OLD, &[]));
    // Flux 2.6 set it; nobody wants it any more. Somebody restarted the pods, and labelled the namespace.
    let deployment = in_flux("deployments", "kustomize-controller");
    let older = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kustomize-controller", "namespace": "flux-system"},
        "spec": {"template": {"spec": {"containers": [{"name": "manager", "env": [{"name": "GOMAXPROCS", "value": "1"}]}]}}},
    });
    target
        .kubectl_with(
            &["apply", "--server-side", "--field-manager=kubectl", "--force-conflicts", "-f", "-"],
            &older.to_string(),
        )
        .unwrap();
    let restart =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "then"}}}}});
    let body = Some(("application/strategic-merge-patch+json", &restart));
    let restarted = in_flux("deployments", "helm-controller");
    target.request("PATCH", &format!("{restarted}?fieldManager=kubectl-rollout"), body).unwrap();
    target.merge("/api/v1/namespaces/flux-system", &json!({"metadata": {"labels": {"team": "infra"}}}));
    let (uids, mut specs) = standing(&target);
    let mut numbers = generations(&target);

    let wanted = tenant.remote("a", &target, OLD);
    let said = diff(&tenant, "a", &wanted);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("^ Deployment flux-system/source-controller  (taken over from flux install)\n"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("32 to take over, 0 unchanged"), "{}", said.stdout);
    tenant.create("a", &wanted);
    tenant.ready("a");
    let event = tenant.event("a", "TakenOver");
    assert_eq!(event, "took over 32 objects that were there from flux install, kubectl");

    let env = specs.get_mut(&deployment).unwrap().pointer_mut("/template/spec/containers/0/env").unwrap();
    env.as_array_mut().unwrap().retain(|variable| variable["name"] != "GOMAXPROCS");
    *numbers.get_mut("kustomize-controller").unwrap() += 1;
    assert_eq!(standing(&target), (uids.clone(), specs.clone()));
    assert_eq!(generations(&target), numbers);
    let live = target.must_get(&deployment);
    assert!(!live.to_string().contains("GOMAXPROCS"), "{live}");
    assert_eq!(managers(&live), ["headwater Apply"]);
    let live = target.must_get(&restarted);
    assert_eq!(live["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"], "then");
    assert_eq!(managers(&live), ["headwater Apply", "kubectl-rollout Update"]);
    assert_eq!(target.must_get("/api/v1/namespaces/flux-system")["metadata"]["labels"]["team"], "infra");
    for name in ["gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"] {
        assert_eq!(managers(&target.must_get(&crd(name)))[0], "headwater Apply");
    }
    writes_nothing(&tenant, "a", &target);

    let mark = target.audit_mark();
    tenant.delete("a");
    tenant.gone("a", SOON);
    assert_eq!(standing(&target), (uids.clone(), specs.clone()));
    assert_eq!(generations(&target), numbers);
    assert!(target.inventory().is_none());
    for path in uids.keys() {
        let live = target.must_get(path).to_string();
        assert!(!live.contains("headwater"), "{path}: {live}");
        assert!(!live.contains("toolkit.fluxcd.io/prune") && !live.contains("toolkit.fluxcd.io/ssa"), "{path}: {live}");
    }
    let written = target.written_texts(mark);
    assert_eq!(written.len(), uids.len() + 1, "{written:#?}");

    let wanted = tenant.remote("b", &target, OLD);
    tenant.create("b", &wanted);
    tenant.ready("b");
    assert_eq!(standing(&target), (uids, specs));
    assert_eq!(generations(&target), numbers);
    writes_nothing(&tenant, "b", &target);
}

/// Runs `helm` on a cluster.
fn helm(site: &Site, args: &[&str]) -> Ended {
    let kubeconfig = site.kubeconfig_path().display().to_string();
    let namespace = ["--namespace", "flux-system"];
    run(&tool("helm").unwrap(), &[args, &namespace].concat(), &[("KUBECONFIG", &kubeconfig)])
}

/// Installs Flux with Helm, and gives the chart.
pub(crate) fn install_by_helm(site: &Site) -> tempfile::TempDir {
    let chart = tempfile::tempdir().unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    std::fs::write(chart.path().join("Chart.yaml"), "{apiVersion: v2, name: flux2, version: 2.18.3}\n").unwrap();
    let mut objects = manifests(OLD, &[]);
    objects.retain(|object| object.key().kind != "Namespace");
    let extra = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"a": "b"}});
    objects.push(Object::try_from(extra).unwrap());
    let templates = text(&objects);
    assert!(!templates.contains("{{"));
    std::fs::write(chart.path().join("templates/all.yaml"), templates).unwrap();
    let installed = helm(site, &["install", "flux2", &chart.path().display().to_string(), "--create-namespace"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    chart
}

/// A chart has Flux's CRDs among its templates, so `helm uninstall` would delete them with every object of theirs. Once taken over,
/// Helm finds no release any more; its Secrets are all there, and what else was of it is said.
#[test]
fn a_helm_release_is_detached() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "from-helm");
    let chart = install_by_helm(&target);
    let chart = chart.path().display().to_string();
    let upgraded = helm(&target, &["upgrade", "flux2", &chart]);
    assert_eq!(upgraded.code, 0, "{upgraded:?}");
    let (uids, specs) = standing(&target);

    let wanted = tenant.remote("a", &target, OLD);
    let said = diff(&tenant, "a", &wanted).stdout;
    let step = "^ Secret flux-system/sh.helm.release.v1.flux2.v2  (Helm release flux-system/flux2: Helm will not find it any more; of it \
                stays, and belongs to nobody: ConfigMap extra)\n";
    assert!(said.contains(step), "{said}");
    assert!(said.contains("(taken over from Helm release flux-system/flux2)"), "{said}");
    tenant.create("a", &wanted);
    tenant.ready("a");
    assert!(tenant.event("a", "TakenOver").ends_with("belongs to nobody: ConfigMap extra"));

    let listed = helm(&target, &["list", "--all", "--short"]);
    assert_eq!((listed.code, listed.stdout.as_str()), (0, ""), "{listed:?}");
    let uninstalled = helm(&target, &["uninstall", "flux2"]);
    assert!(uninstalled.code != 0 && uninstalled.stderr.contains("not found"), "{uninstalled:?}");
    let (after, now) = standing(&target);
    assert_eq!(now, specs);
    for (path, uid) in &uids {
        assert_eq!(after.get(path), Some(uid), "{path}");
        let live = target.must_get(path);
        assert!(!live["metadata"].to_string().contains("helm.sh"), "{path}: {live}");
    }
    assert!(target.get(&in_flux("configmaps", "extra")).is_some());
    let kept = target.must_get(&format!(
        "{}?labelSelector=owner%3Dheadwater%2Cname%3Dflux2",
        in_flux("secrets", "").trim_end_matches('/')
    ));
    assert_eq!(kept["items"].as_array().unwrap().len(), 2);
    writes_nothing(&tenant, "a", &target);

    // As the documentation says: it can be undone.
    target
        .kubectl(&[
            "label",
            "secrets",
            "-n",
            "flux-system",
            "-l",
            "owner=headwater,name=flux2",
            "owner=helm",
            "--overwrite",
        ])
        .unwrap();
    let listed = helm(&target, &["list", "--all", "--short"]);
    assert_eq!(listed.stdout.trim(), "flux2", "{listed:?}");
}

/// What flux-operator installed is taken over once its object is disabled, which `headwater migrate` does.
#[test]
fn what_flux_operator_installed_is_taken_over() {
    let target = Site::hub(Kind::Full);
    let tenant = Tenant::new(&target, "headwater-system");
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "fluxinstances.fluxcd.controlplane.io"},
        "spec": {
            "group": "fluxcd.controlplane.io", "scope": "Namespaced", "names": {"kind": "FluxInstance", "plural": "fluxinstances"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}}],
        },
    });
    target.create(CRDS, &definition);
    let mut objects = manifests(OLD, &[]);
    for object in &mut objects {
        object.set_label("app.kubernetes.io/managed-by", "flux-operator");
        object.set_label("fluxcd.controlplane.io/name", "flux");
        object.set_label("fluxcd.controlplane.io/namespace", "flux-system");
        object.set_annotation("kustomize.toolkit.fluxcd.io/prune", "Disabled");
    }
    apply_as(&target, "flux-operator", &objects);
    let peer = "/apis/fluxcd.controlplane.io/v1/namespaces/flux-system/fluxinstances";
    let object = json!({
        "apiVersion": "fluxcd.controlplane.io/v1", "kind": "FluxInstance", "metadata": {"name": "flux", "namespace": "flux-system"},
        "spec": {"distribution": {"version": "2.8.x", "registry": "ghcr.io/fluxcd"}},
    });
    eventually("the kind is served", SOON, || {
        target.request("POST", peer, Some(("application/json", &object))).map_err(|e| format!("{e:?}"))
    });
    let operator = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "flux-operator"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "manager", "image": "flux-operator"}]},
        }},
    });
    target.create("/apis/apps/v1/namespaces/flux-system/deployments", &operator);
    let (uids, specs) = standing(&target);

    // While flux-operator is at work, an instance is not enough to take anything from it.
    let mark = target.audit_mark();
    tenant.create("early", &spec(OLD));
    let refused = tenant.fails("early", "PreflightFailed");
    assert!(
        refused.message.contains("cannot be taken over from flux-operator's FluxInstance flux-system/flux"),
        "{}",
        refused.message
    );
    let written: Vec<String> =
        target.written(mark).into_iter().filter(|e| !e.uri.contains("dryRun")).map(|e| e.uri).collect();
    assert_eq!(written, Vec::<String>::new());
    tenant.delete("early");
    tenant.gone("early", SOON);

    let looked = migrate(&tenant, &["--dry-run"]);
    assert!(
        looked.stderr.contains("first: flux-operator's FluxInstance flux-system/flux (32 objects): "),
        "{looked:?}"
    );
    assert!(target.must_get(&format!("{peer}/flux"))["metadata"]["annotations"].is_null());
    files_of_flux_operator_are_told_as_ours(&tenant, &target);
    migrate(&tenant, &[]);
    let annotations = target.must_get(&format!("{peer}/flux"))["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({"fluxcd.controlplane.io/reconcile": "disabled"}));
    tenant.ready("flux");
    // Controllers come one after the other, as the bundle orders them.
    let event = tenant.event("flux", "TakenOver");
    assert!(event.ends_with(" objects that were there from flux-operator's FluxInstance flux-system/flux"), "{event}");
    assert_eq!(standing(&target), (uids.clone(), specs));
    for path in uids.keys() {
        let live = target.must_get(path);
        assert!(!live.to_string().contains("controlplane"), "{path}: {live}");
        assert!(!live.to_string().contains("flux-operator"), "{path}: {live}");
    }
    writes_nothing(&tenant, "flux", &target);
}

/// A file becomes a `FluxInstance` that our API takes, without a look at any cluster; what it cannot say is not created.
fn files_of_flux_operator_are_told_as_ours(tenant: &Tenant, target: &Site) {
    let mut peer = json!({
        "apiVersion": "fluxcd.controlplane.io/v1", "kind": "FluxInstance",
        "metadata": {"name": "flux", "namespace": "flux-system", "annotations": {
            "fluxcd.controlplane.io/reconcileEvery": "1h", "fluxcd.controlplane.io/reconcileTimeout": "10m",
            "fluxcd.controlplane.io/reconcile": "disabled",
        }},
        "spec": {
            "distribution": {"version": "2.8.x", "registry": "ghcr.io/fluxcd", "artifact": "oci://registry.example/manifests:latest"},
            "components": ["source-controller", "kustomize-controller"],
            "commonMetadata": {"labels": {"team": "infra"}},
            "cluster": {"type": "kubernetes", "size": "medium", "domain": "cluster.local", "networkPolicy": true, "multitenant": false},
            "sync": {
                "kind": "GitRepository", "url": "https://git.example/fleet", "ref": "refs/heads/main", "path": "clusters/a",
                "pullSecret": "git", "provider": "github",
            },
            "kustomize": {"patches": [{
                "patch": "- op: add\n  path: /spec/template/spec/containers/0/args/-\n  value: --concurrent=7\n",
                "target": {"kind": "Deployment", "name": "kustomize-controller"},
            }]},
        },
    });
    let file = tenant.file("peer.yaml", &peer.to_string());
    // No cluster: there is none in this environment.
    let told = headwater(&["migrate", "--dry-run", "-f", &file], &[]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stderr.starts_with("spec.distribution.artifact: not carried over: "), "{}", told.stderr);
    let instance = yaml::parse_one("instance", &told.stdout).unwrap();
    assert_eq!(instance["metadata"]["namespace"], "headwater-system");
    assert_eq!(instance["spec"]["timeout"], "10m");
    assert_eq!(instance["spec"]["suspend"], true);
    let list = tenant.path("");
    let strict = format!("{}?fieldValidation=Strict&dryRun=All", list.trim_end_matches('/'));
    target.request("POST", &strict, Some(("application/json", &instance))).unwrap();

    // Without --dry-run it is created, here suspended, and nothing else is written.
    let mark = target.audit_mark();
    migrate(tenant, &["-f", &file, "--name", "told"]);
    assert_eq!(target.must_get(&tenant.path("told"))["spec"], instance["spec"]);
    tenant.delete("told");
    tenant.gone("told", SOON);
    assert_eq!(target.written_texts(mark), Vec::<String>::new());

    peer["spec"]["cluster"]["multitenant"] = true.into();
    let file = tenant.file("peer.yaml", &peer.to_string());
    let refused = headwater(&["migrate", "-f", &file, "--name", "told"], &[("KUBECONFIG", &tenant.kubeconfig())]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("left out: spec.cluster.multitenant: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("nothing was created, as one thing is left out of it"), "{}", refused.stderr);
    assert!(target.get(&tenant.path("told")).is_none());
}

/// Runs `headwater migrate` with the rights of the operator's kubeconfig.
fn migrate(tenant: &Tenant, more: &[&str]) -> Ended {
    let ended = headwater(&[&["migrate"], more].concat(), &[("KUBECONFIG", &tenant.kubeconfig())]);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

/// Whatever people have made of their installation, `headwater migrate` declares it: typed where there is a field, by patches where not.
/// Taking over then changes nothing that is wanted of any object, and no generation.
#[test]
fn migrate_keeps_a_cluster_as_it_is() {
    let target = Site::hub(Kind::Full);
    let tenant = Tenant::new(&target, "headwater-system");
    let mut objects = manifests(OLD, &[]);
    objects.retain(|object| object.key().kind != "NetworkPolicy");
    let changed: Vec<Object> = objects
        .into_iter()
        .map(|object| {
            let text = yaml::emit(object.value()).unwrap();
            let mut value = yaml::parse_one("object", &text.replace("ghcr.io/fluxcd", "mirror.example/flux")).unwrap();
            if value["kind"] == "Deployment" {
                let pod = &mut value["spec"]["template"]["spec"];
                pod["tolerations"] = json!([{"key": "dedicated", "operator": "Exists"}]);
                pod["containers"][0]["resources"]["limits"]["memory"] = json!("3Gi");
                let args = pod["containers"][0]["args"].as_array_mut().unwrap();
                let level = args.iter_mut().find(|arg| **arg == "--log-level=info").unwrap();
                *level = json!("--log-level=debug");
                args.push(json!("--concurrent=7"));
                let env = pod["containers"][0]["env"].as_array_mut().unwrap();
                env.insert(0, json!({"name": "HTTPS_PROXY", "value": "http://proxy.example"}));
                env.retain(|variable| variable["name"] != "GOMEMLIMIT");
            }
            if value["metadata"]["name"] == "webhook-receiver" {
                value["spec"]["type"] = json!("LoadBalancer");
            }
            if value["metadata"]["name"] == "flux-view-flux-system" {
                value["rules"][0]["verbs"] = json!(["get"]);
            }
            Object::try_from(value).unwrap()
        })
        .collect();
    apply_as(&target, "flux", &changed);
    let metadata = json!({"name": "flux-system", "namespace": "flux-system"});
    let sync = [
        json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": metadata,
            "spec": {
                "interval": "2m0s", "url": "ssh://git@git.example/fleet", "ref": {"branch": "main"}, "secretRef": {"name": "flux-system"},
                "ignore": "/docs",
            },
        }),
        json!({
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata,
            "spec": {
                "interval": "10m0s", "path": "./clusters/a", "prune": true, "sourceRef": {"kind": "GitRepository", "name": "flux-system"},
                "decryption": {"provider": "sops", "secretRef": {"name": "sops"}}, "postBuild": {"substitute": {"cluster": "a"}},
            },
        }),
    ]
    .map(|value| Object::try_from(value).unwrap());
    apply_as(&target, "flux", &sync);
    let before = standing(&target);
    let numbers = generations(&target);
    let others = |site: &Site| {
        let service = site.must_get(&in_flux("services", "webhook-receiver"))["spec"].clone();
        let role =
            site.must_get("/apis/rbac.authorization.k8s.io/v1/clusterroles/flux-view-flux-system")["rules"].clone();
        (service, role)
    };
    let wanted = others(&target);

    let looked = migrate(&tenant, &["--dry-run"]);
    assert!(!looked.stderr.contains("cannot be kept"), "{}", looked.stderr);
    let instance = yaml::parse_one("instance", &looked.stdout).unwrap();
    let spec = &instance["spec"];
    assert_eq!(spec["distribution"]["version"], OLD, "{}", looked.stdout);
    assert_eq!(spec["distribution"]["registry"], "mirror.example/flux");
    assert_eq!(spec["cluster"]["networkPolicy"], false);
    assert_eq!(spec["sync"]["ref"], "refs/heads/main");
    assert_eq!(spec["sync"]["pullSecret"], "flux-system");
    assert!(target.get(&tenant.path("flux")).is_none());

    migrate(&tenant, &[]);
    tenant.ready("flux");
    tenant.event("flux", "TakenOver");
    assert_eq!(standing(&target), before);
    assert_eq!(generations(&target), numbers);
    assert_eq!(others(&target), wanted);
    let mut root = target.must_get(KUSTOMIZATION)["spec"].clone();
    assert_eq!(root["deletionPolicy"].take(), "Orphan", "the one thing that is added");
    root.as_object_mut().unwrap().remove("deletionPolicy");
    let mut expected = sync[1].value()["spec"].clone();
    expected["force"] = root["force"].clone();
    root.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    expected.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(root, expected);
    let source = target
        .must_get("/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/flux-system")["spec"]
        .clone();
    assert_eq!(source["ref"], json!({"name": "refs/heads/main"}), "the same branch by its full name");
    assert_eq!((&source["ignore"], &source["interval"]), (&json!("/docs"), &json!("2m0s")));
    writes_nothing(&tenant, "flux", &target);
}

/// Pushes files as what the cluster syncs.
fn publish(name: &str, files: &[(&str, String)]) {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.clone().into_bytes())).collect();
    let archive = headwater::bundle::pack(&files).unwrap();
    let access = Access { insecure: true, ..Access::default() };
    let repository = Repository::new(&Address::parse(&world().repository(name)).unwrap(), &access).unwrap();
    block_on(headwater::bundle::push(&repository, "latest", &archive)).unwrap();
}

/// Number of writes of kustomize-controller to anything but its own Kustomization since then.
fn by_flux(site: &Site, mark: AuditMark) -> Vec<String> {
    site.settled(mark)
        .into_iter()
        .filter(|e| e.user == "system:serviceaccount:flux-system:kustomize-controller" && e.writes())
        .filter(|e| !["events", "leases", "kustomizations"].contains(&e.resource.as_str()) && e.name != "synced")
        .filter(|e| !e.uri.contains("dryRun"))
        .map(|e| format!("{} {} {}", e.verb, e.resource, e.name))
        .collect()
}

/// The Kustomization of a bootstrapped cluster has all of Flux and itself in its source. After the takeover it neither puts its own
/// version back nor prunes what leaves its source, and everything else it brings goes on.
#[test]
fn bootstrapped_flux_neither_fights_nor_prunes() {
    let components = ["source-controller", "kustomize-controller", "notification-controller"];
    let target = Site::hub(Kind::Flux);
    let url = world().repository("bootstrapped");
    let gotk = manifests(NEW, &components);
    let own = |kind: &str, group: &str, spec: Value| {
        let metadata = json!({"name": "flux-system", "namespace": "flux-system"});
        Object::try_from(json!({"apiVersion": format!("{group}.toolkit.fluxcd.io/v1"), "kind": kind, "metadata": metadata, "spec": spec}))
            .unwrap()
    };
    let sync = [
        own(
            "OCIRepository",
            "source",
            json!({"interval": "5s", "url": url, "insecure": true, "ref": {"tag": "latest"}}),
        ),
        own(
            "Kustomization",
            "kustomize",
            json!({
                "interval": "10s", "path": "./", "prune": true, "retryInterval": "5s",
                "sourceRef": {"kind": "OCIRepository", "name": "flux-system"},
            }),
        ),
    ];
    let synced = |text: &str| {
        json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "synced", "namespace": "default"}, "data": {"by": text},
    }).to_string()
    };
    publish(
        "bootstrapped",
        &[("gotk-components.yaml", text(&gotk)), ("gotk-sync.yaml", text(&sync)), ("app.yaml", synced("flux"))],
    );
    apply_as(&target, "flux", &gotk);
    apply_as(&target, "flux", &sync);
    let ready = |what: &str| {
        eventually(what, 90, || {
            let live = target.must_get(KUSTOMIZATION);
            let conditions = live["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let inventory = live["status"]["inventory"].to_string();
            holds(is_ready && inventory.contains("default_synced__ConfigMap"), &live["status"]["conditions"])
        });
    };
    ready("the root Kustomization is ready");
    let deployment = in_flux("deployments", "source-controller");
    assert!(target.must_get(&deployment)["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] == "flux-system");
    let before = standing(&target);
    let numbers = generations(&target);
    let root = target.uid(KUSTOMIZATION);

    let tenant = Tenant::new(&target, "headwater-system");
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    wanted["components"] = json!(components);
    wanted["sync"] = json!({"kind": "OCIRepository", "url": url, "ref": "latest", "insecure": true, "interval": "30s"});
    tenant.create("flux", &wanted);
    tenant.wait("flux", "Ready", 90, |c| c.status == "True");
    tenant.wait("flux", "SyncReady", 60, |c| c.status == "True");
    let event = tenant.event("flux", "TakenOver");
    assert!(
        event.ends_with("from Kustomization flux-system/flux-system, flux install")
            || event.contains("Kustomization flux-system/flux-system"),
        "{event}"
    );
    assert_eq!(standing(&target), before);
    assert_eq!(generations(&target), numbers);
    assert_eq!(target.uid(KUSTOMIZATION), root);
    let live = target.must_get(&deployment);
    assert!(live["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"].is_null(), "{live}");
    assert_eq!(managers(&live), ["headwater Apply"]);

    // The source still has its own versions of all of it. Some intervals later nobody has written any.
    let mark = target.audit_mark();
    publish(
        "bootstrapped",
        &[
            ("gotk-components.yaml", text(&gotk).replace("--log-level=info", "--log-level=debug")),
            ("gotk-sync.yaml", text(&sync)),
            ("app.yaml", synced("again")),
        ],
    );
    let synced_is = |wanted: &str| {
        // Rather than to wait for the interval.
        for now in ["1", "2", "3"] {
            let ask =
                json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": format!("{wanted} {now}")}}});
            target.merge(SOURCE, &ask);
            target.merge(KUSTOMIZATION, &ask);
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        eventually("what is synced is new", 60, || {
            let live = target.must_get("/api/v1/namespaces/default/configmaps/synced")["data"]["by"].clone();
            holds(live == wanted, live)
        });
    };
    synced_is("again");
    ready("the Kustomization is ready again");
    assert_eq!(by_flux(&target, mark), Vec::<String>::new());
    assert_eq!(target.written_texts(mark), Vec::<String>::new());

    // The components leave the source: nothing is pruned.
    publish("bootstrapped", &[("app.yaml", synced("alone"))]);
    synced_is("alone");
    eventually("the inventory of the Kustomization is small", 60, || {
        let live = target.must_get(KUSTOMIZATION);
        let entries = live["status"]["inventory"]["entries"].as_array().map(Vec::len);
        holds(entries == Some(1), entries)
    });
    ready("the Kustomization is ready in the end");
    assert_eq!(by_flux(&target, mark), Vec::<String>::new());
    assert_eq!(standing(&target), before);
    assert_eq!(generations(&target), numbers);
    tenant.wait("flux", "SyncReady", 60, |c| c.status == "True");
    writes_nothing(&tenant, "flux", &target);
}
