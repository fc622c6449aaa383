use serde_json::{Value, json};

use super::*;
use crate::plan::{BundleRef, Desired, Foreign, Live, Observed, Owner, Policy, Stored, plan};
use crate::render::{Object, render};

const REGISTRY: &str = "makers.example/web";

/// A bundle of one controller with one CRD, whose versions are given as JSON.
fn bundle(version: &str, crd_versions: &Value) -> Bundle {
    let manifest = format!(
        "formatVersion: headwater.dev/bundle/v1\nname: tiny\nversion: {version}\nappVersion: v{version}\n\
         kubernetes: {{refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}}\nupgrade: {{from: '>=1.5.0'}}\n\
         components:\n- {{name: web, registry: {REGISTRY}, image: web, tag: v1, default: true, images: [{{name: job, tag: v3}}],\n\
         \x20   flags: {{concurrent: '4', feature-gates: ''}}, featureGates: {{Fast: false}},\n\
         \x20   crds: [{{name: sites.example.org, served: {}, stored: {}}}]}}\n",
        served(crd_versions),
        storage(crd_versions),
    );
    let files = [
        ("bundle.yaml", manifest),
        ("crds/sites.yaml", crd(crd_versions).to_string()),
        (
            "templates/a.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: web}\nrules: []\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: web}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: flux-system}\n\
             spec: {replicas: 2, selector: {}, template: {spec: {containers: [{name: manager, image: makers.example/web/web:v1, \
             args: [--concurrent=9], resources: {requests: {cpu: 100m, memory: 64Mi}}}]}}}\n"
                .to_owned(),
        ),
    ];
    Bundle::parse(&files.map(|(path, text)| (path.to_owned(), text.into_bytes())).into()).unwrap()
}

fn version(name: &str, served: bool, storage: bool) -> Value {
    json!({"name": name, "served": served, "storage": storage, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }}})
}

fn crd(versions: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "sites.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"kind": "Site", "plural": "sites"}, "versions": versions},
    })
}

fn live(versions: &Value, stored: &[&str]) -> Value {
    let mut live = crd(versions);
    live["status"] = json!({"storedVersions": stored});
    live
}

fn served(versions: &Value) -> Value {
    versions.as_array().unwrap().iter().filter(|v| v["served"] == true).map(|v| v["name"].clone()).collect()
}

fn storage(versions: &Value) -> &str {
    versions.as_array().unwrap().iter().find(|v| v["storage"] == true).unwrap()["name"].as_str().unwrap()
}

/// A change that is to be judged, and what was seen.
struct Change {
    bundle: Bundle,
    settings: Settings,
    desired: DesiredSet,
    plan: Plan,
    installed: Option<Version>,
    survey: Survey,
    rules: Preflight,
    no_way: Option<NoWay>,
    facts: Facts,
}

impl Change {
    /// From an installation of 1.5.0 with this live CRD to this bundle; the patches are those of the spec.
    fn upgrade(live: Value, bundle: Bundle, patches: &[(&str, Value)]) -> Self {
        let mut observed = Observed::default();
        observed.inventory.bundle = Some(BundleRef { version: "1.5.0".to_owned(), digest: "sha256:old".to_owned() });
        let mut change = Self::to(bundle, patches, observed, true);
        change.survey.crds.insert("sites.example.org".to_owned(), live);
        change.installed = Some(Version::new(1, 5, 0));
        change.compare();
        change
    }

    /// To this bundle on an empty cluster.
    fn first(bundle: Bundle) -> Self {
        Self::to(bundle, &[], Observed::default(), false)
    }

    fn to(bundle: Bundle, patches: &[(&str, Value)], mut observed: Observed, exists: bool) -> Self {
        let settings = Settings { namespace: "flux-system".to_owned(), ..Settings::default() };
        let objects = render(&bundle, &settings).unwrap();
        let desired = objects.into_iter().map(|object| {
            let kind = bundle.kind_of(&object).unwrap();
            let mut value = object.into_value();
            for (pointer, change) in patches {
                if let Some(place) = value.pointer_mut(pointer) {
                    *place = change.clone();
                }
            }
            Desired::new(&Object::try_from(value).unwrap(), kind)
        });
        let desired: Vec<Desired> = desired.collect();
        if exists {
            let one = |object: &Desired| (object.key.clone(), Live { uid: "u".to_owned(), ..Live::default() });
            observed.live = desired.iter().map(one).collect();
        }
        let reference = BundleRef { version: bundle.version().to_string(), digest: "sha256:new".to_owned() };
        let desired = DesiredSet::new(reference, desired);
        let owner = Owner { namespace: "n".into(), name: "a".into(), uid: "u".into() };
        let plan = plan(&owner, &desired, &observed, &Policy::default());
        Self {
            bundle,
            settings,
            desired,
            plan,
            installed: None,
            survey: Survey::default(),
            rules: Preflight::default(),
            no_way: None,
            facts: Facts { kubernetes: "v1.33.1".to_owned(), ..Facts::default() },
        }
    }

    fn case(&self) -> Case<'_> {
        Case {
            bundle: &self.bundle,
            settings: &self.settings,
            desired: &self.desired,
            plan: &self.plan,
            installed: self.installed.as_ref(),
            no_way: self.no_way.as_ref(),
            survey: &self.survey,
            rules: &self.rules,
        }
    }

    /// As the controller does it.
    fn compare(&mut self) {
        for wanted in questions(&self.case()).crds {
            let next: Value = serde_json::from_slice(&wanted.body).unwrap();
            let found = crd_safety::compare(&self.survey.crds[&wanted.key.name], &next);
            self.facts.crds.insert(wanted.key.name.clone(), Arc::new(found));
        }
    }

    fn report(&self) -> Report {
        report(&self.case(), &self.facts)
    }

    /// `Error rule object: message`
    fn said(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let object = finding.object.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
            format!("{:?} {}{object}: {}", finding.severity, finding.rule.name(), finding.message)
        };
        self.report().findings.iter().map(line).collect()
    }

    fn key(&self, kind: &str) -> ObjectKey {
        self.desired.objects.iter().find(|o| o.key.kind == kind).unwrap().key.clone()
    }
}

fn v1() -> Value {
    json!([version("v1", true, true)])
}

/// From v1 alone to v1 alone: nothing about CRDs changes.
fn plain() -> Change {
    Change::upgrade(live(&v1(), &["v1"]), bundle("2.0.0", &v1()), &[])
}

#[test]
fn a_change_in_whose_way_nothing_stands_is_said_so() {
    let change = plain();
    assert_eq!(change.said(), Vec::<String>::new());
    assert_eq!(change.report().summary(), "nothing stands in the way");
    assert_eq!(change.report().refusal("a"), None);
    assert_eq!(Change::first(bundle("2.0.0", &v1())).said(), Vec::<String>::new());
}

#[test]
fn kubernetes_has_to_be_what_the_bundle_is_made_for() {
    let mut change = plain();
    for (version, expected) in [
        (
            "v1.29.9",
            Some("Error kubernetesVersion: bundle tiny 2.0.0 needs Kubernetes 1.30 or newer, the cluster has v1.29.9"),
        ),
        (
            "v1.30.0",
            Some(
                "Warn kubernetesVersion: bundle tiny 2.0.0 is tested with Kubernetes 1.31 to 1.34, the cluster has v1.30.0",
            ),
        ),
        ("v1.31.0-rc.1+k3s1", None),
        (
            "v1.35.0",
            Some(
                "Warn kubernetesVersion: bundle tiny 2.0.0 is tested with Kubernetes 1.31 to 1.34, the cluster has v1.35.0",
            ),
        ),
        ("hello", Some("Warn kubernetesVersion: the API server says that its version is \"hello\", which is none")),
    ] {
        change.facts.kubernetes = version.to_owned();
        assert_eq!(change.said(), expected.into_iter().collect::<Vec<_>>(), "{version}");
    }
    // The sentence by which users know it.
    change.facts.kubernetes = "v1.20.0".to_owned();
    assert_eq!(
        change.report().refusal("a").unwrap().text,
        "bundle tiny 2.0.0 needs Kubernetes 1.30 or newer, the cluster has v1.20.0; upgrade the cluster or choose an older bundle \
         with spec.distribution.version"
    );
}

#[test]
fn a_way_that_is_not_declared_is_refused() {
    let mut change = plain();
    change.installed = Some(Version::new(1, 4, 0));
    assert_eq!(
        change.said(),
        ["Error upgradePath: tiny 1.4.0 is installed, and bundle tiny 2.0.0 can be reached only from >=1.5.0"]
    );
    for installed in ["1.5.0", "2.0.0", "2.1.0"] {
        change.installed = Some(Version::parse(installed).unwrap());
        assert_eq!(change.said(), Vec::<String>::new(), "{installed}");
    }
}

#[test]
fn what_is_set_holds_for_the_rule_and_what_is_unknown_stays_a_warning() {
    let mut change = plain();
    change.facts.kubernetes = "v1.29.0".to_owned();
    change.facts.unknown.push((Rule::KubernetesVersion, "no idea".to_owned()));
    let severities = |change: &Change| change.report().findings.iter().map(|f| f.severity).collect::<Vec<_>>();
    for (set, expected) in [
        (None, vec![Enforcement::Error, Enforcement::Warn]),
        (Some(Enforcement::Error), vec![Enforcement::Error, Enforcement::Warn]),
        (Some(Enforcement::Warn), vec![Enforcement::Warn, Enforcement::Warn]),
        (Some(Enforcement::Off), vec![]),
    ] {
        change.rules.kubernetes_version = set;
        assert_eq!(severities(&change), expected, "{set:?}");
    }
}

#[test]
fn rights_that_are_not_there_are_named() {
    let change = plain();
    let review = |rules: Value| Granted::of(&json!({"status": {"resourceRules": rules}}));
    let needs = questions(&change.case()).rights;
    let all = review(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
    assert_eq!(needs.iter().filter(|need| !all.allows(need)).count(), 0);
    let some = review(json!([
        {"verbs": ["create", "patch", "get", "list", "watch", "bind"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["other"]},
    ]));
    let mut change = plain();
    change.facts.denied = needs.iter().filter(|need| !some.allows(need)).cloned().collect();
    assert_eq!(
        change.said(),
        ["Error permissions ClusterRole web: the account may not escalate clusterroles.rbac.authorization.k8s.io web"]
    );
    change.facts.denied = needs
        .iter()
        .filter(|need| need.object.as_ref().is_some_and(|o| o.kind == "ClusterRoleBinding"))
        .cloned()
        .collect();
    assert_eq!(
        change.said(),
        [
            "Error permissions ClusterRoleBinding web: the account may not bind clusterroles.rbac.authorization.k8s.io cluster-admin",
            "Error permissions ClusterRoleBinding web: the account may not patch clusterrolebindings.rbac.authorization.k8s.io web",
        ]
    );
    // What is created takes a verb more.
    let verbs = |change: &Change| -> BTreeSet<&str> {
        let needs = questions(&change.case()).rights;
        needs.iter().filter(|n| n.object.as_ref().is_some_and(|o| o.kind == "Deployment")).map(|n| n.verb).collect()
    };
    assert_eq!(verbs(&plain()), ["patch"].into());
    assert_eq!(verbs(&Change::first(bundle("2.0.0", &v1()))), ["create", "patch"].into());
}

#[test]
fn subresources_and_names_are_read_from_rules() {
    let need = |subresource: &str, name: Option<&str>| Need {
        verb: "patch",
        subject: Subject {
            group: "apiextensions.k8s.io".into(),
            resource: "customresourcedefinitions".into(),
            subresource: subresource.into(),
            namespace: None,
            name: name.map(str::to_owned),
        },
        object: None,
    };
    let rule = |resource: &str, names: &[&str]| {
        let rule = json!({"verbs": ["patch"], "apiGroups": ["apiextensions.k8s.io"], "resources": [resource], "resourceNames": names});
        Granted::of(&json!({"status": {"resourceRules": [rule]}}))
    };
    for (granted, subresource, name, expected) in [
        (rule("customresourcedefinitions", &[]), "", Some("a"), true),
        (rule("customresourcedefinitions", &[]), "status", Some("a"), false),
        (rule("customresourcedefinitions/status", &["a"]), "status", Some("a"), true),
        (rule("*/status", &[]), "status", Some("a"), true),
        (rule("customresourcedefinitions", &["a"]), "", Some("b"), false),
        (rule("customresourcedefinitions", &["a"]), "", None, false),
    ] {
        assert_eq!(granted.allows(&need(subresource, name)), expected, "{granted:?} {subresource:?} {name:?}");
    }
}

/// From v1beta1 and v1 to v1 alone.
fn losing() -> Change {
    let both = json!([version("v1beta1", true, false), version("v1", true, true)]);
    Change::upgrade(live(&both, &["v1"]), bundle("2.0.0", &v1()), &[])
}

#[test]
fn versions_that_go_while_others_write_them_are_found() {
    let mut change = losing();
    assert_eq!(change.said(), Vec::<String>::new(), "nobody writes it");
    let stored =
        Stored { objects: 7, recorded: [("v1beta1".to_owned(), 3)].into(), managers: ["kubectl".to_owned()].into() };
    change.survey.stored.insert("sites.example.org".to_owned(), stored);
    let entry = |id: &str, v: &str| json!({"id": id, "v": v});
    let status = json!({"status": {"inventory": {"entries": [
        entry("team_one_example.org_Site", "v1beta1"), entry("team_two_example.org_Site", "v1"),
        entry("_x__Namespace", "v1"), entry("broken", "v1"),
    ]}}});
    let kind = Kind {
        group: "apply.example".into(),
        version: "v1".into(),
        kind: "Applier".into(),
        plural: "appliers".into(),
        namespaced: true,
    };
    let key = kind.key(Some("team".to_owned()), "apps".to_owned());
    change.facts.appliers = vec![Applier { key, entries: applied(&status) }];
    assert_eq!(change.facts.appliers.iter().map(|a| a.entries.len()).sum::<usize>(), 3);
    assert_eq!(
        change.said(),
        [
            "Error servedVersions Applier team/apps: Applier team/apps applies Site team/one as example.org/v1beta1, which bundle tiny 2.0.0 no longer serves: its next apply would fail",
            "Warn servedVersions CustomResourceDefinition sites.example.org: 3 objects of Site have fields that were written as example.org/v1beta1, which bundle tiny 2.0.0 no longer serves; managers of such fields are kubectl",
        ]
    );
    // What is not served now cannot be written now: that is so already.
    let mut known = plain();
    known.facts.appliers.clone_from(&change.facts.appliers);
    known.survey.stored.clone_from(&change.survey.stored);
    assert_eq!(known.said(), Vec::<String>::new());
}

#[test]
fn objects_that_have_no_way_are_said() {
    let mut change = losing();
    change.no_way = Some(NoWay {
        crd: "sites.example.org".to_owned(),
        stored: "v1alpha1".to_owned(),
        wanted: "v1".to_owned(),
        tried: String::new(),
    });
    assert_eq!(
        change.said(),
        [
            "Error storedVersions CustomResourceDefinition sites.example.org: sites.example.org stores objects as v1alpha1, which the wanted one does not know (it has v1), and the bundle names no version to go through"
        ]
    );
    // What is to be migrated first cannot be tried.
    assert!(!questions(&change.case()).tries.iter().any(|object| object.key.kind == crate::plan::CRD));
}

#[test]
fn kinds_that_keep_inventories_are_known_by_their_schemas() {
    let mut with_inventory = version("v1", true, true);
    with_inventory["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({"type": "object", "properties": {"inventory": {
        "type": "object", "properties": {"entries": {"type": "array", "items": {"type": "object", "properties": {
            "id": {"type": "string"}, "v": {"type": "string"}}}}}}}});
    let both = json!([version("v1beta1", true, false), with_inventory]);
    let change = Change::upgrade(live(&both, &["v1"]), bundle("2.0.0", &v1()), &[]);
    let kinds: Vec<String> =
        questions(&change.case()).appliers.iter().map(|k| format!("{} {}", k.api_version(), k.kind)).collect();
    assert_eq!(kinds, ["example.org/v1 Site"]);
    assert!(questions(&losing().case()).appliers.is_empty());
    let same = Change::upgrade(live(&json!([with_inventory]), &["v1"]), bundle("2.0.0", &json!([with_inventory])), &[]);
    assert!(questions(&same.case()).appliers.is_empty(), "no version goes, so nobody is asked");
}

#[test]
fn changes_of_crds_weigh_by_what_they_do() {
    let properties = |change: &dyn Fn(&mut Value)| {
        let mut version = version("v1", true, true);
        change(&mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]);
        json!([version])
    };
    let pattern = properties(&|spec| spec["properties"]["a"]["pattern"] = json!("^a$"));
    let rule = properties(&|spec| spec["x-kubernetes-validations"] = json!([{"rule": "size(self.a) > 1"}]));
    let no_longer = properties(&|spec| spec["properties"] = json!({}));
    let said =
        |before: &Value, after: &Value| Change::upgrade(live(before, &["v1"]), bundle("2.0.0", after), &[]).said();
    let found = said(&v1(), &pattern);
    assert_eq!(found.len(), 1);
    assert!(
        found
            .concat()
            .starts_with("Warn crdSchema CustomResourceDefinition sites.example.org: sites.example.org v1 spec.a:"),
        "{found:?}"
    );
    let found = said(&v1(), &rule);
    assert!(found.concat().starts_with("Warn validation CustomResourceDefinition sites.example.org:"), "{found:?}");
    assert!(said(&v1(), &no_longer).concat().starts_with("Warn crdSchema"));
    // What is so on the cluster does not count.
    assert_eq!(said(&pattern, &pattern), Vec::<String>::new());

    let mut cluster_wide = live(&v1(), &["v1"]);
    cluster_wide["spec"]["scope"] = json!("Cluster");
    let mut change = Change::upgrade(cluster_wide, bundle("2.0.0", &v1()), &[]);
    let key = change.key(crate::plan::CRD);
    change.facts.trials = vec![(key, Trial::Refused("spec.scope: field is immutable".to_owned()))];
    let found = change.said();
    assert_eq!(found.len(), 1, "said once: {found:?}");
    assert!(
        found.concat().starts_with(
            "Error crdSchema CustomResourceDefinition sites.example.org: sites.example.org: scope changes"
        )
    );

    let newer = json!([version("v1", true, false), version("v2", true, true)]);
    let both = json!([version("v1", true, true), version("v2", true, false)]);
    let found = Change::upgrade(live(&newer, &["v2"]), bundle("2.0.0", &both), &[]).said();
    assert!(found.iter().any(|f| f.starts_with("Error crdSchema") && f.contains("is older than v2")), "{found:?}");
}

#[test]
fn objects_are_tried_where_something_is_to_be_lost() {
    let kinds = |change: &Change| -> Vec<String> {
        questions(&change.case()).tries.iter().map(|object| object.key.kind.clone()).collect()
    };
    assert_eq!(
        kinds(&plain()),
        ["CustomResourceDefinition", "Namespace", "ClusterRole", "ClusterRoleBinding", "Deployment"]
    );
    assert_eq!(kinds(&Change::first(bundle("2.0.0", &v1()))), Vec::<String>::new());
    let mut without = plain();
    without.rules.invalid = Some(Enforcement::Off);
    without.rules.field_conflicts = Some(Enforcement::Off);
    assert_eq!(kinds(&without), Vec::<String>::new());
}

#[test]
fn what_the_api_server_says_to_objects_is_passed_on() {
    let mut change = plain();
    let key = change.key("Deployment");
    let conflicts = [("kubectl-edit", ".spec.replicas"), ("kubectl-edit", ".spec.paused"), ("headwater", ".spec.x")];
    change.facts.trials = vec![
        (change.key("Namespace"), Trial::Accepted),
        (key.clone(), Trial::Conflicts(conflicts.map(|(a, b)| (a.to_owned(), b.to_owned())).into())),
        (key.clone(), Trial::Refused("admission webhook \"x\" denied the request: no".to_owned())),
        (key, Trial::Unknown("the API server failed".to_owned())),
    ];
    assert_eq!(
        change.said(),
        [
            "Error invalid Deployment flux-system/web: the API server refuses Deployment flux-system/web: admission webhook \"x\" denied the request: no",
            "Warn invalid Deployment flux-system/web: whether the API server takes Deployment flux-system/web is not known: the API server failed",
            "Warn fieldConflicts Deployment flux-system/web: fields of Deployment flux-system/web are taken over: kubectl-edit owns .spec.replicas and 1 more",
        ]
    );
}

#[test]
fn objects_that_a_controller_keeps_are_not_taken_over() {
    let mut change = plain();
    let metadata = json!({"ownerReferences": [{"kind": "Thing", "name": "x", "controller": true}, {"kind": "Other", "name": "y"}]});
    let foreign = Foreign { live: Live { uid: "u".to_owned(), ..Live::default() }, metadata };
    change.survey.foreign.insert(change.key("Deployment"), foreign);
    assert_eq!(
        change.said(),
        [
            "Error foreignOwners Deployment flux-system/web: Deployment flux-system/web cannot be taken over from Thing x"
        ]
    );
}

#[test]
fn pods_have_to_fit_into_quotas() {
    let quota = |spec: Value, used: Value| json!({"metadata": {"name": "team"}, "spec": spec, "status": {"hard": spec["hard"], "used": used}});
    let mut first = Change::first(bundle("2.0.0", &v1()));
    let mut upgrade = plain();
    for (spec, used, on_first, on_upgrade) in [
        (json!({"hard": {"pods": "4"}}), json!({"pods": "2"}), None, None),
        (json!({"hard": {"pods": "4"}}), json!({"pods": "3"}), Some("3 of 4 pods in use, and the pods"), None),
        (
            json!({"hard": {"pods": "4"}}),
            json!({"pods": "4"}),
            Some("4 of 4 pods in use, and the pods"),
            Some("4 of 4 pods in use, and a new pod"),
        ),
        (json!({"hard": {"requests.memory": "1Gi"}}), json!({"requests.memory": "900Mi"}), Some("the pods"), None),
        (json!({"hard": {"cpu": "300m"}}), json!({"cpu": "100m"}), None, None),
        (json!({"hard": {"limits.cpu": "1m", "configmaps": "0"}}), json!({}), None, None),
        (json!({"hard": {"pods": "0"}, "scopes": ["Terminating"]}), json!({}), None, None),
        (
            json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["x"]}]}}),
            json!({}),
            None,
            None,
        ),
    ] {
        for (change, expected, severity) in [(&mut first, on_first, "Error"), (&mut upgrade, on_upgrade, "Warn")] {
            change.facts.quotas = vec![quota(spec.clone(), used.clone())];
            let said = change.said();
            match expected {
                None => assert_eq!(said, Vec::<String>::new(), "{spec} {used}"),
                Some(text) => {
                    assert_eq!(said.len(), 1, "{said:?}");
                    let start =
                        format!("{severity} quota ResourceQuota flux-system/team: ResourceQuota flux-system/team has ");
                    assert!(said.concat().starts_with(&start) && said.concat().contains(text), "{said:?}");
                }
            }
        }
    }
}

#[test]
fn priority_classes_have_to_be_there_and_allowed() {
    let with = |class: &str| {
        let containers = "/spec/template/spec";
        let change = plain();
        let deployment = change.desired.objects.iter().find(|o| o.key.kind == "Deployment").unwrap();
        let mut pod = serde_json::from_slice::<Value>(&deployment.body).unwrap().pointer(containers).unwrap().clone();
        pod["priorityClassName"] = json!(class);
        Change::upgrade(live(&v1(), &["v1"]), bundle("2.0.0", &v1()), &[(containers, pod)])
    };
    let mut change = with("gold");
    assert_eq!(questions(&change.case()).priority_classes, ["gold".to_owned()].into());
    change.facts.missing_classes = ["gold".to_owned()].into();
    assert_eq!(
        change.said(),
        [
            "Error quota Deployment flux-system/web: Deployment flux-system/web has priority class gold, which the cluster does not have"
        ]
    );
    let mut change = with("system-cluster-critical");
    assert!(questions(&change.case()).priority_classes.is_empty(), "Kubernetes brings it along");
    assert_eq!(
        change.said(),
        [
            "Warn quota: web have priority class system-cluster-critical, and no ResourceQuota in flux-system speaks of it: clusters that limit it create none of their pods"
        ]
    );
    change.facts.quotas = vec![
        json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "100"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["system-cluster-critical"]}]}}}),
    ];
    assert_eq!(change.said(), Vec::<String>::new());
}

#[test]
fn images_are_looked_for_where_the_spec_says_they_are() {
    let mut change = plain();
    assert!(questions(&change.case()).images.is_empty(), "the makers' own");
    change.rules.images = Some(Enforcement::Error);
    assert_eq!(
        questions(&change.case()).images,
        ["makers.example/web/job:v3".to_owned(), "makers.example/web/web:v1".to_owned()].into()
    );
    change.rules.images = None;
    change.settings.registry = Some("mirror.example/x".to_owned());
    assert_eq!(questions(&change.case()).images, ["mirror.example/x/job:v3".to_owned()].into());
    change.facts.images = [
        ("a.example/found:1".to_owned(), ImageTrial::Found),
        ("a.example/gone:1".to_owned(), ImageTrial::Missing),
        ("a.example/who:1".to_owned(), ImageTrial::Unknown("no credentials".to_owned())),
    ]
    .into();
    assert_eq!(
        change.said(),
        [
            "Error images: image a.example/gone:1 is not in its registry: pods that use it would not start",
            "Warn images: image a.example/who:1 could not be looked for: no credentials",
        ]
    );
}

#[test]
fn flags_and_gates_have_to_be_known_to_the_controller() {
    let said = |args: Value| {
        let change = plain();
        let deployment = change.desired.objects.iter().find(|o| o.key.kind == "Deployment").unwrap();
        let place = "/spec/template/spec/containers";
        let mut containers = serde_json::from_slice::<Value>(&deployment.body).unwrap().pointer(place).unwrap().clone();
        for container in containers.as_array_mut().unwrap() {
            container["args"] = args.clone();
        }
        Change::upgrade(live(&v1(), &["v1"]), bundle("2.0.0", &v1()), &[(place, containers)]).said()
    };
    assert_eq!(
        said(json!(["--concurrent=4", "--feature-gates=Fast=true", "--concurrent", "8", "-v"])),
        Vec::<String>::new()
    );
    assert_eq!(
        said(json!(["--concurent=4", "--feature-gates=Fast=true,Fats=true"])),
        [
            "Error flags Deployment flux-system/web: Deployment flux-system/web has feature gate Fats, which web of bundle tiny 2.0.0 does not know; did you mean Fast?",
            "Error flags Deployment flux-system/web: Deployment flux-system/web has flag --concurent, which web of bundle tiny 2.0.0 does not know; did you mean concurrent?",
        ]
    );
}

/// Every bundle of this repository starts its controllers with what it says that they know.
#[test]
fn our_own_bundles_pass() {
    for version in crate::render::testing::versions() {
        let bundle = crate::render::testing::bundle(&version);
        let mut change = Change::first(bundle);
        let range = &change.bundle.manifest().kubernetes;
        change.facts.kubernetes = format!("v{}.0", range.maximum);
        assert_eq!(change.said(), Vec::<String>::new(), "{version}");
    }
}

#[test]
fn findings_are_ranked_and_capped() {
    let mut change = plain();
    for number in 0..30 {
        change.facts.images.insert(format!("a.example/i{number:02}:1"), ImageTrial::Missing);
    }
    change.facts.unknown.push((Rule::Permissions, "x".repeat(2000)));
    change.facts.kubernetes = "v1.20.0".to_owned();
    let report = change.report();
    let status = report.status(&change.desired, Some(1));
    assert_eq!((report.findings.len(), status.findings.len(), status.more), (32, 20, 12));
    let rules: Vec<&str> = status.findings.iter().map(|f| f.rule.as_str()).take(2).collect();
    assert_eq!(rules, ["kubernetesVersion", "images"]);
    let last = report.findings.last().unwrap();
    assert_eq!((last.severity, last.rule), (Enforcement::Warn, Rule::Permissions));
    assert!(last.message.len() <= 512 && last.message.ends_with('…'));
    let refusal = report.refusal("edge").unwrap();
    assert_eq!(refusal.rule, Rule::KubernetesVersion);
    assert!(refusal.text.ends_with("(and 30 more: `headwater check edge`)"), "{}", refusal.text);
    change.facts.kubernetes = "v1.33.0".to_owned();
    change.facts.images =
        [(format!("a.example/{}:1", "é".repeat(400)), ImageTrial::Missing), ("b:1".to_owned(), ImageTrial::Missing)]
            .into();
    let text = change.report().refusal("edge").unwrap().text;
    assert!(text.len() <= 512 && text.ends_with("… (and 1 more: `headwater check edge`)"), "{text}");
}
