//! What stands in the way of a change is found before its first write, and what runs keeps running.

use headwater_e2e::{AuditMark, Kind};
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, SOON, Site, Tenant, eventually, headwater, holds, in_flux, shared_hub, world};
use crate::unknown_bundle::Sources;

const ALERTS: &str = "alerts.notification.toolkit.fluxcd.io";
const CRDS_OF_ALERTS: &str = "crds/notification.toolkit.fluxcd.io_alerts.yaml";
const REPOSITORY: &str = "preflight/flux";

/// An instance `a`, and its cluster.
struct Stand<'a> {
    tenant: Tenant<'a>,
    target: Site,
}

impl Stand<'_> {
    fn change(&self, spec: &Value) {
        self.tenant.patch("a", &json!({"spec": spec}));
    }

    /// The change is refused with this sentence: nothing is written, and what was applied is what is applied.
    fn stops(&self, spec: &Value, reason: &str, expected: &str) {
        let before = self.tenant.status("a")["applied"].clone();
        let mark = self.target.audit_mark();
        self.change(spec);
        assert_eq!(self.tenant.fails("a", reason).message, expected);
        let said = self.tenant.condition("a", "Preflight").unwrap();
        assert_eq!(
            (said.status.as_str(), said.reason.as_str(), said.message.as_str()),
            ("False", "PreflightFailed", expected)
        );
        assert_eq!(self.tenant.condition("a", "Stalled").unwrap().status, "True");
        assert_eq!(self.written(mark), Vec::<String>::new(), "{spec}");
        assert_eq!(self.tenant.status("a")["applied"], before);
    }

    /// The same is made when the rule is not to stop it.
    fn passes(&self, rule: &str, enforcement: &str) {
        let before = self.tenant.status("a")["applied"]["config"].clone();
        self.change(&json!({"upgrade": {"preflight": {rule: enforcement}}}));
        self.tenant.ready("a");
        let status = self.tenant.status("a");
        assert_ne!(status["applied"]["config"], before, "{rule}");
        let found = findings(&status, rule);
        assert_eq!(found.is_empty(), enforcement == "Off", "{rule}: {found:?}");
        assert!(found.iter().all(|f| f["severity"] == "Warn"), "{found:?}");
        assert_eq!(self.tenant.condition("a", "Preflight").unwrap().status, "True");
        self.change(&json!({"upgrade": {"preflight": null}}));
    }

    /// Writes of operators, whichever account they have.
    fn written(&self, since: AuditMark) -> Vec<String> {
        let ours =
            |user: &str| user == crate::harness::OPERATOR || user.starts_with("system:serviceaccount:flux-system:");
        let all = self.target.settled(since);
        all.iter().filter(|e| ours(&e.user) && e.writes()).map(crate::harness::text_of).collect()
    }
}

fn findings(status: &Value, rule: &str) -> Vec<Value> {
    let all = status["preflight"]["findings"].as_array().unwrap();
    all.iter().filter(|finding| finding["rule"] == rule).cloned().collect()
}

fn patched(kind: &str, name: &str, patch: &str) -> Value {
    json!({"kustomize": {"patches": [{"target": {"kind": kind, "name": name}, "patch": patch}]}})
}

/// A bundle like the newest, with something that stands in the way.
fn push(version: &str, change: impl FnOnce(&mut Sources)) -> Value {
    let mut sources = Sources::newest();
    sources.version(version);
    sources.edit("bundle.yaml", |manifest| manifest["upgrade"] = json!({"from": ">=2.7.0"}));
    change(&mut sources);
    sources.push(version, REPOSITORY);
    json!({"distribution": {"artifact": world().repository(REPOSITORY), "version": version}})
}

/// Changes within a version, one rule after the other: each is stopped with the sentence that says what to do, and made when the rule
/// is not to stop it.
#[test]
fn each_rule_stops_a_change_before_its_first_write() {
    let stand = Stand { tenant: Tenant::new(shared_hub(), "preflight"), target: Site::start(Kind::Plain) };
    let mark = stand.target.audit_mark();
    stand.tenant.installed("a", &stand.target, OLD);
    // Where nothing is to be lost, two questions are all it takes.
    let asked = stand.target.asked(mark);
    assert_eq!(asked.iter().filter(|e| e.resource.starts_with("selfsubject")).count(), 2);
    assert!(!asked.iter().any(|e| e.uri.contains("dryRun")), "{asked:?}");

    stand.stops(
        &patched("Deployment", "source-controller", "[{op: add, path: /spec/template/spec/containers/0/args/-, value: --concurent=9}]"),
        "PreflightFailed",
        "Deployment flux-system/source-controller has flag --concurent, which source-controller of bundle flux 2.8.8 does not know; \
         did you mean concurrent?; correct or remove the patch in spec.kustomize.patches that adds it",
    );
    stand.passes("flags", "Warn");

    stand.stops(
        &patched("Service", "webhook-receiver", "[{op: replace, path: /spec/ports/0/port, value: 99999}]"),
        "PreflightFailed",
        "the API server refuses Service flux-system/webhook-receiver: Service \"webhook-receiver\" is invalid: spec.ports[0].port: Invalid \
         value: 99999: must be between 1 and 65535, inclusive; correct spec.kustomize.patches, or what refuses it (an admission \
         policy, a webhook, a quota)",
    );
    stand.change(&json!({"upgrade": {"preflight": {"invalid": "Off"}}}));
    stand.tenant.fails("a", "ReconciliationFailed");
    stand.change(&json!({"kustomize": null, "upgrade": {"preflight": null}}));
    stand.tenant.ready("a");

    let quota = json!({"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}});
    stand.target.create("/api/v1/namespaces/flux-system/resourcequotas", &quota);
    let defaults = ["source-controller", "kustomize-controller", "helm-controller", "notification-controller"];
    let with = |more: &[&str]| json!({ "components": ([&defaults[..], more].concat()) });
    stand.stops(
        &with(&["image-reflector-controller"]),
        "PreflightFailed",
        "ResourceQuota flux-system/team has 0 of 0 pods in use, and the pods of this change do not fit in; raise the quota, or lower what \
         the controllers ask for with spec.cluster.size or spec.kustomize.patches",
    );
    stand.passes("quota", "Off");
    stand.target.delete("/api/v1/namespaces/flux-system/resourcequotas/team");

    let owner = json!([{"apiVersion": "v1", "kind": "Thing", "name": "keeper", "uid": "1", "controller": true}]);
    let account = json!({"metadata": {"name": "source-watcher", "ownerReferences": owner}});
    stand.target.create("/api/v1/namespaces/flux-system/serviceaccounts", &account);
    stand.stops(
        &with(&["image-reflector-controller", "source-watcher"]),
        "PreflightFailed",
        "ServiceAccount flux-system/source-watcher cannot be taken over from Thing keeper; its owner reference says that \
         Thing keeper controls it and would put it back or delete it: make that let go of it, or remove the owner reference",
    );
    stand.passes("foreignOwners", "Off");

    let replicas = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "helm-controller"}, "spec": {"replicas": 1}});
    let deployment = in_flux("deployments", "helm-controller");
    let apply = Some(("application/apply-patch+yaml", &replicas));
    stand.target.request("PATCH", &format!("{deployment}?fieldManager=somebody"), apply).unwrap();
    stand.change(&json!({"upgrade": {"preflight": {"fieldConflicts": "Error"}}}));
    stand.stops(
        &patched("Deployment", "helm-controller", "[{op: replace, path: /spec/replicas, value: 2}]"),
        "PreflightFailed",
        "fields of Deployment flux-system/helm-controller are taken over: somebody owns .spec.replicas; they get the values of the bundle; \
         to keep others, say them in spec.kustomize.patches, and stop who writes them",
    );
    stand.passes("fieldConflicts", "Warn");
    assert_eq!(stand.target.must_get(&deployment)["spec"]["replicas"], 2);

    let image = format!("{}/no/such:v1", world().registry.address());
    stand.stops(
        &json!({"distribution": {"images": {"helm-controller": image}}}),
        "PreflightFailed",
        &format!(
            "image {image} is not in its registry: pods that use it would not start; mirror it (`headwater bundle images` lists all), or \
             correct spec.distribution.registry or images"
        ),
    );
    stand.passes("images", "Warn");
    // What nobody can look at is said, and stops nothing.
    stand.change(&json!({"distribution": {"images": {"helm-controller": "registry.example/x:v1"}}}));
    stand.tenant.ready("a");
    let found = findings(&stand.tenant.status("a"), "images");
    assert!(
        found[0]["message"].as_str().unwrap().starts_with("image registry.example/x:v1 could not be looked for: "),
        "{found:?}"
    );
}

/// Upgrades: what runs keeps running while manifests, Kubernetes, the declared path or the CRDs say no; `headwater check` shows the same.
#[test]
fn upgrades_are_stopped_while_what_runs_keeps_running() {
    let stand = Stand { tenant: Tenant::new(shared_hub(), "preflight-up"), target: Site::start(Kind::Plain) };
    let Stand { tenant, target } = &stand;
    tenant.installed("a", target, OLD);
    let path = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/default/kustomizations";
    let spec = json!({"interval": "1m", "prune": true, "sourceRef": {"kind": "GitRepository", "name": "x"}});
    let kustomization = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": {"name": "apps"}, "spec": spec});
    target.create(path, &kustomization);
    let entries = json!([
        {"id": "default_one_notification.toolkit.fluxcd.io_Alert", "v": "v1beta2"},
        {"id": "default_two_notification.toolkit.fluxcd.io_Alert", "v": "v1beta3"},
    ]);
    target.merge(&format!("{path}/apps/status"), &json!({"status": {"inventory": {"entries": entries}}}));
    let alert = json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta2", "kind": "Alert", "metadata": {"name": "one"},
        "spec": {"providerRef": {"name": "x"}, "eventSources": [{"kind": "Kustomization", "name": "*"}]},
    });
    target
        .create("/apis/notification.toolkit.fluxcd.io/v1beta2/namespaces/default/alerts?fieldManager=somebody", &alert);

    let expected = "Kustomization default/apps applies Alert default/one as notification.toolkit.fluxcd.io/v1beta2, which bundle flux 2.9.4 \
                    no longer serves: its next apply would fail; change apiVersion in the source of these manifests first, as `flux \
                    migrate -f` does it";
    stand.stops(&json!({"distribution": {"version": NEW}}), "PreflightFailed", expected);
    assert_eq!(tenant.event("a", "PreflightFailed"), expected);

    let mark = target.audit_mark();
    let kubeconfig = tenant.kubeconfig();
    let check = |more: &[&str]| {
        headwater(&[&["check", "a", "-n", &tenant.namespace], more].concat(), &[("KUBECONFIG", &kubeconfig)])
    };
    let table = check(&[]);
    assert_eq!(table.code, 1, "{table:?}");
    assert!(
        table
            .stdout
            .contains("\nERROR  servedVersions  Kustomization default/apps\n       Kustomization default/apps applies"),
        "{table:?}"
    );
    assert!(table.stdout.contains("\n    -> change apiVersion in the source"), "{table:?}");
    assert!(table.stdout.contains("\nresult   1 error, "), "{table:?}");
    let result: Value = serde_json::from_str(&check(&["-o", "json"]).stdout).unwrap();
    assert_eq!((&result["errors"], &result["bundle"]["version"]), (&json!(1), &json!(NEW)));
    let found = result["findings"].as_array().unwrap();
    assert_eq!(found.len(), 1 + usize::try_from(result["warnings"].as_u64().unwrap()).unwrap());
    let managers = found.iter().find(|f| f["severity"] == "Warn" && f["rule"] == "servedVersions").unwrap();
    assert!(managers["message"].as_str().unwrap().ends_with("managers of such fields are somebody"), "{managers}");
    let object = tenant.hub.must_get(&tenant.path("a"));
    let file = tenant.file("a.json", &tenant.object("a", &object["spec"]).to_string());
    let of_file = headwater(&["check", "-f", &file], &[("KUBECONFIG", &kubeconfig)]);
    assert_eq!((of_file.code, &of_file.stdout), (1, &table.stdout));
    assert_eq!(check(&["--namespace", "nowhere"]).code, 2);
    assert_eq!(stand.written(mark), Vec::<String>::new());

    // Corrected at the source, as the sentence says; the sentence goes when the way is free.
    target.merge(&format!("{path}/apps/status"), &json!({"status": {"inventory": {"entries": []}}}));
    tenant.poke("a");
    tenant.wait("a", "Ready", SOON, |c| c.status == "True" && c.message.contains(NEW));
    assert_eq!(tenant.condition("a", "Preflight").unwrap().status, "True");
    let passed = check(&[]);
    assert_eq!(passed.code, 0, "{passed:?}");
    assert!(passed.stdout.ends_with("result   nothing stands in the way\n"), "{passed:?}");

    let refused = push("2.9.100", |sources| {
        sources.edit("bundle.yaml", |m| {
            m["kubernetes"] = json!({"refusedBelow": "1.90", "minimum": "1.91", "maximum": "1.92"});
        });
    });
    let version = tenant.status("a")["cluster"]["kubernetesVersion"].as_str().unwrap().to_owned();
    stand.stops(
        &refused,
        "KubernetesUnsupported",
        &format!(
            "bundle flux 2.9.100 needs Kubernetes 1.90 or newer, the cluster has {version}; upgrade the cluster or choose an older bundle \
             with spec.distribution.version"
        ),
    );
    stand.passes("kubernetesVersion", "Off");

    stand.stops(
        &push("2.9.101", |sources| {
            sources.edit("bundle.yaml", |m| m["upgrade"] = json!({"from": ">=2.9.101, <3.0.0"}));
        }),
        "PreflightFailed",
        "flux 2.9.100 is installed, and bundle flux 2.9.101 can be reached only from >=2.9.101, <3.0.0; choose a version in between with \
         spec.distribution.version first",
    );
    stand.passes("upgradePath", "Off");

    // What the API server would refuse, or lose, stops with no word from users that could let it pass.
    stand.stops(
        &push("2.9.102", |sources| sources.edit(CRDS_OF_ALERTS, |crd| crd["spec"]["scope"] = json!("Cluster"))),
        "PreflightFailed",
        &format!(
            "{ALERTS}: scope changes from Namespaced to Cluster: the API server refuses it until the CRD is deleted, and all objects with it; \
             nothing that Headwater may do on its own makes this safe; choose another bundle"
        ),
    );
    stand.stops(
        &push("2.9.103", |sources| {
            sources.edit(CRDS_OF_ALERTS, |crd| {
                for version in crd["spec"]["versions"].as_array_mut().unwrap() {
                    version["name"] = json!("v9");
                }
            });
            sources.edit("bundle.yaml", |manifest| {
                for component in manifest["components"].as_array_mut().unwrap() {
                    for crd in component["crds"].as_array_mut().into_iter().flatten().filter(|crd| crd["name"] == ALERTS) {
                        *crd = json!({"name": ALERTS, "served": ["v9"], "stored": "v9"});
                    }
                }
            });
        }),
        "PreflightFailed",
        &format!(
            "{ALERTS} stores objects as v1beta3, which the wanted one does not know (it has v9), and the bundle names no version to go through; \
             upgrade to a version in between first"
        ),
    );
    // Back to what runs: nothing is left to say.
    stand.change(&json!({"distribution": {"version": "2.9.101"}}));
    tenant.ready("a");
    assert!(tenant.condition("a", "Preflight").is_none());
    assert_eq!(tenant.status("a")["preflight"], Value::Null);
}

/// The rights that `headwater cluster kubeconfig` gives are enough; one that is taken away is named, and its return noticed.
#[test]
fn rights_that_are_missing_are_named() {
    let stand = Stand { tenant: Tenant::new(shared_hub(), "preflight-may"), target: Site::start(Kind::Plain) };
    let Stand { tenant, target } = &stand;
    let admin = target.kubeconfig_path().display().to_string();
    let made = headwater(&["cluster", "kubeconfig", "edge", "-n", &tenant.namespace], &[("KUBECONFIG", &admin)]);
    assert_eq!(made.code, 0, "{made:?}");
    tenant.hub.kubectl_with(&["apply", "-f", "-"], &made.stdout).unwrap();
    let mut wanted = crate::harness::spec(OLD);
    wanted["kubeConfig"] = json!({"secretRef": {"name": "edge-kubeconfig"}});
    tenant.create("a", &wanted);
    tenant.ready("a");

    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/flux-system/roles/headwater-target";
    let rules = target.must_get(path)["rules"].clone();
    let mut fewer = rules.clone();
    for rule in fewer.as_array_mut().unwrap().iter_mut().filter(|rule| rule["resources"] == json!(["deployments"])) {
        rule["verbs"] = json!(["get", "list", "watch"]);
    }
    target.merge(path, &json!({"rules": fewer}));
    let change = patched("Deployment", "source-controller", "[{op: replace, path: /spec/replicas, value: 2}]");
    let remedy = "give it the rights of this release: `headwater cluster kubeconfig`, or config/rbac/target.yaml";
    stand.stops(
        &change,
        "PreflightFailed",
        &format!("the account may not patch deployments.apps source-controller in namespace flux-system; {remedy}"),
    );
    target.merge(path, &json!({"rules": rules}));
    tenant.poke("a");
    tenant.ready("a");
    eventually("it is changed", SOON, || {
        let replicas = target.must_get(&in_flux("deployments", "source-controller"))["spec"]["replicas"].clone();
        holds(replicas == 2, replicas)
    });
}
