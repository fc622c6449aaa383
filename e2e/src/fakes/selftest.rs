//! The stand-in answers as a real API server does: the same requests go to both, and what the operator relies on has to be the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater::cluster::{ClusterError, Gate, Kubeconfig, connect, connect_member, several};
use headwater::plan::live_of;
use serde_json::{Value, json};

use super::{Fakes, Mood, Options};
use crate::cluster::{Cluster, Kind};
use crate::http::Api;

const WHOLE: &str = "application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

const MAPS: &str = "/api/v1/namespaces/tried/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/tried/things";
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and names for what only it knows: UIDs, resource versions and field sets are called by the order in which they come.
struct Side {
    api: Api,
    known: BTreeMap<(&'static str, String), usize>,
    /// UID and resource version of the last object that was seen, by path.
    last: BTreeMap<String, (String, String)>,
    /// The last answer as it came.
    raw: String,
}

impl Side {
    fn new(server: &str, ca: &[u8], token: &str) -> Self {
        let api = Api::new(server, ca, token, PATIENCE).unwrap();
        Self { api, known: BTreeMap::new(), last: BTreeMap::new(), raw: String::new() }
    }

    fn call(&mut self, what: &'static str, value: &str) -> String {
        let next = self.known.keys().filter(|(known, _)| *known == what).count();
        format!("{what}{}", self.known.entry((what, value.to_owned())).or_insert(next))
    }

    /// What the operator reads of an object.
    fn object(&mut self, object: &Value) -> Value {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let live = live_of(metadata);
        let mut managers: Vec<String> = metadata["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            // Who made a map or applied an empty one has a share in it, whatever becomes of it: that is not played.
            .filter(|m| owns_values(&m["fieldsV1"]))
            .map(|m| format!("{} {} {}", m["manager"], m["operation"], m["subresource"]))
            // The bed's clusters differ in who sets a status; the operator does not look at it.
            .filter(|m| !m.contains("status"))
            .collect();
        managers.sort();
        let version = format!("{}/{} {}", text("namespace"), text("name"), text("resourceVersion"));
        json!({
            "kind": object["kind"],
            "apiVersion": object["apiVersion"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": self.call("uid", &text("uid")),
            "version": self.call("version", &version),
            "fields": live.fields.map(|fields| self.call("fields", &fields)),
            "generation": metadata["generation"],
            "deleting": live.deleting,
            "finalizers": live.finalizers,
            "label": metadata["labels"]["headwater.dev/installation"],
            "managers": managers,
            "data": object["data"].as_object().filter(|data| !data.is_empty()),
            "replicas": object["spec"]["replicas"],
            "stored": object["status"]["storedVersions"],
        })
    }

    fn ask(&mut self, request: &Request) -> Value {
        let mut body = request.body.clone();
        if let (Some(body), Some((uid, version))) = (&mut body, self.last.get(&request.object)) {
            fill(body, uid, version);
        }
        let answer =
            self.api.ask(&request.method, &request.path, request.content, request.accept, body.as_ref()).unwrap();
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        self.raw.clone_from(&answer.body);
        if answer.code >= 300 {
            let mut causes: Vec<String> = value["details"]["causes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|cause| cause["reason"] == "FieldManagerConflict")
                .map(|cause| format!("{} {}", cause["field"], cause["message"].as_str().unwrap().contains(" with \"")))
                .collect();
            causes.sort();
            return json!({"code": answer.code, "reason": value["reason"], "conflicts": causes});
        }
        // What is said of a deletion is not read.
        if request.method == "DELETE" {
            return json!({"code": answer.code});
        }
        if !value["status"]["resourceRules"].is_null() {
            let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
            let rules = value["status"]["resourceRules"].as_array().unwrap();
            return json!({"code": answer.code, "everything": rules.iter().any(|rule| *rule == all[0])});
        }
        if !value["resources"].is_null() {
            let found = value["resources"].as_array().unwrap().iter().find(|r| r["name"] == "things").unwrap();
            return json!([found["kind"], found["namespaced"], found["storageVersionHash"]]);
        }
        if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
            let items = value["items"].as_array().cloned().unwrap_or_default();
            let items: Vec<Value> = items.iter().map(|item| self.object(item)).collect();
            let more = value["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty());
            let is_versioned = value["metadata"]["resourceVersion"].as_str().is_some_and(|v| v.parse::<u64>().is_ok());
            return json!({
                "code": answer.code, "kind": value["kind"], "apiVersion": value["apiVersion"], "items": items,
                "isNull": value["items"].is_null(), "more": more, "versioned": is_versioned,
            });
        }
        if value["kind"] == "SelfSubjectAccessReview" {
            return json!({"code": answer.code, "allowed": value["status"]["allowed"]});
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
        if !request.path.contains("dryRun") {
            self.last.insert(request.object.clone(), (text("uid"), text("resourceVersion")));
            return json!({"code": answer.code, "object": self.object(&value)});
        }
        // What nobody stored has no lasting name.
        json!({"code": answer.code, "data": value["data"], "name": value["metadata"]["name"]})
    }
}

/// Whether any field is owned that is no map.
fn owns_values(fields: &Value) -> bool {
    fields.as_object().into_iter().flatten().any(|(key, inside)| {
        let is_map = ["f:data", "f:metadata", "f:labels", "f:annotations"].contains(&key.as_str());
        key != "." && (!is_map || owns_values(inside))
    })
}

fn fill(value: &mut Value, uid: &str, version: &str) {
    match value {
        Value::String(text) if text == "$UID" => *text = uid.to_owned(),
        Value::String(text) if text == "$VERSION" => *text = version.to_owned(),
        Value::Object(map) => map.values_mut().for_each(|v| fill(v, uid, version)),
        _ => {}
    }
}

#[derive(Clone)]
struct Request {
    method: String,
    path: String,
    /// The path without its query: whose UID and version `$UID` and `$VERSION` are.
    object: String,
    content: &'static str,
    accept: &'static str,
    body: Option<Value>,
}

fn request(method: &str, path: &str, content: &'static str, accept: &'static str, body: Option<Value>) -> Request {
    let object = path.split('?').next().unwrap().to_owned();
    Request { method: method.to_owned(), path: path.to_owned(), object, content, accept, body }
}

fn get(path: &str) -> Request {
    request("GET", path, JSON, METADATA, None)
}

fn whole(path: &str) -> Request {
    request("GET", path, JSON, WHOLE, None)
}

fn list(path: &str) -> Request {
    request("GET", path, JSON, METADATA_LIST, None)
}

fn apply(path: &str, manager: &str, force: bool, body: Value) -> Request {
    let path = format!("{path}?fieldManager={manager}&force={force}&fieldValidation=Strict");
    request("PATCH", &path, APPLY, METADATA, Some(body))
}

fn merge(path: &str, manager: &str, body: Value) -> Request {
    request("PATCH", &format!("{path}?fieldManager={manager}"), MERGE, METADATA, Some(body))
}

fn delete(path: &str, uid: &str) -> Request {
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "propagationPolicy": "Background",
    });
    request("DELETE", path, JSON, METADATA, Some(options))
}

fn map(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "tried", "labels": {"headwater.dev/installation": "tried"}},
        "data": data,
    })
}

fn deployment(image: &str, replicas: u64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "tried", "labels": {"headwater.dev/installation": "tried"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

fn definition(versions: &[(&str, bool)]) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions: Vec<Value> = versions
        .iter()
        .map(|(name, storage)| {
            json!({"name": name, "served": true, "storage": storage, "schema": schema, "subresources": {"status": {}}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com", "labels": {"headwater.dev/installation": "tried"}},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"kind": "Thing", "listKind": "ThingList", "plural": "things", "singular": "thing"},
        },
    })
}

fn both() -> (std::sync::Arc<Cluster>, Fakes, [Side; 2]) {
    let cluster = crate::cluster::shared(Kind::Plain).unwrap();
    let fakes = Fakes::start(&Options { rollout: Duration::from_secs(3600), ..Options::default() }).unwrap();
    let real = Side::new(&cluster.server(), cluster.ca(), cluster.admin_token());
    let member = &fakes.members.all[0];
    let server = format!("{}/clusters/{}", fakes.server, member.name);
    let fake = Side::new(&server, fakes.ca.as_bytes(), &member.token);
    (cluster, fakes, [real, fake])
}

fn compare(sides: &mut [Side; 2], number: usize, asked: &Request) -> Value {
    let [real, fake] = sides.each_mut().map(|side| side.ask(asked));
    let body = asked.body.as_ref().map(Value::to_string).unwrap_or_default();
    let [raw_real, raw_fake] = sides.each_ref().map(|side| &side.raw);
    assert_eq!(
        fake, real,
        "request {number}: {} {} {body}\nleft: the stand-in: {raw_fake}\nright: the API server: {raw_real}",
        asked.method, asked.path
    );
    real
}

/// Until the CRD is as it should be; API servers take a moment.
fn established(sides: &mut [Side; 2]) {
    for side in sides {
        let deadline = Instant::now() + PATIENCE;
        let path = format!("{CRDS}/things.example.com");
        loop {
            let crd = side.api.get(&path).unwrap();
            let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let names = crd["status"]["acceptedNames"]["kind"] == "Thing";
            if names && conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
                break;
            }
            assert!(Instant::now() < deadline, "{crd}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // It answers for them a moment later.
        while side.api.get(THINGS).is_err() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What the operator asks for, and a little more.
#[allow(clippy::too_many_lines, reason = "a table")]
fn requests() -> Vec<Request> {
    let a = &format!("{MAPS}/a");
    let d = "/apis/apps/v1/namespaces/tried/deployments/d";
    let reviews = "/apis/authorization.k8s.io/v1";
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tried", "labels": {"headwater.dev/installation": "tried"}}});
    let inventory = |version: &str, data: &str| {
        let mut map = map("inventory", &json!({"inventory.json": data}));
        map["metadata"]["uid"] = json!("$UID");
        map["metadata"]["resourceVersion"] = json!(version);
        map
    };
    let mut fresh = map("inventory", &json!({"inventory.json": "{}"}));
    fresh["metadata"].as_object_mut().unwrap().remove("namespace");
    let mut stale = inventory("$VERSION", "{2}");
    stale["metadata"]["resourceVersion"] = json!("1");
    let mut other = inventory("$VERSION", "{3}");
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let put = |body: &Value| request("PUT", &format!("{MAPS}/inventory"), JSON, METADATA, Some(body.clone()));
    let post = |body: &Value| request("POST", MAPS, JSON, METADATA, Some(body.clone()));
    let dry = |body: Value| {
        request("PATCH", &format!("{a}?fieldManager=headwater&force=true&dryRun=All"), APPLY, WHOLE, Some(body))
    };
    vec![
        // Nothing is there.
        get(a),
        list(MAPS),
        list(THINGS),
        apply(a, "headwater", true, map("a", &json!({"x": "1"}))),
        post(&fresh),
        // A namespace, and in it a map: made, the same again, changed.
        apply("/api/v1/namespaces/tried", "headwater", true, namespace.clone()),
        apply("/api/v1/namespaces/tried", "headwater", true, namespace),
        dry(map("a", &json!({"x": "1"}))),
        get(a),
        apply(a, "headwater", true, map("a", &json!({"x": "1", "y": "1"}))),
        apply(a, "headwater", true, map("a", &json!({"x": "1", "y": "1"}))),
        apply(a, "headwater", true, map("a", &json!({"x": "2"}))),
        whole(a),
        // Others change what is ours, what is not ours, and nothing.
        merge(a, "kubectl", json!({"data": {"x": "3"}})),
        merge(a, "kubectl", json!({"data": {"z": "1"}})),
        merge(a, "kubectl", json!({"data": {"z": "1"}})),
        apply(a, "headwater", false, map("a", &json!({"x": "2", "z": "2"}))),
        dry(map("a", &json!({"x": "9"}))),
        apply(a, "headwater", true, map("a", &json!({"x": "2"}))),
        whole(a),
        merge(a, "kubectl", json!({"data": {"x": null}})),
        merge(a, "kubectl", json!({"metadata": {"annotations": {"n": "1"}}})),
        merge(a, "kubectl", json!({"metadata": {"uid": "$UID", "resourceVersion": "$VERSION", "labels": {"l": "1"}}})),
        merge(a, "kubectl", json!({"metadata": {"resourceVersion": "1", "labels": {"l": "2"}}})),
        merge(a, "kubectl", json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000", "labels": {"l": "2"}}})),
        get(a),
        // The inventory: made once, replaced only as the one that was read.
        post(&fresh),
        post(&fresh),
        whole(&format!("{MAPS}/inventory")),
        put(&inventory("$VERSION", "{1}")),
        put(&stale),
        put(&other),
        put(&inventory("$VERSION", "{1}")),
        request("PUT", &format!("{MAPS}/missing"), JSON, METADATA, Some(map("missing", &json!({})))),
        // Lists.
        list(MAPS),
        list(&format!("{MAPS}?labelSelector=headwater.dev/installation%3Dtried")),
        list(&format!("{MAPS}?labelSelector=headwater.dev/installation%3Dother")),
        list(&format!("{MAPS}?limit=1")),
        request("GET", &format!("{MAPS}?labelSelector=l%3D1"), JSON, WHOLE, None),
        // A finalizer holds an object; the UID says which is meant.
        merge(a, "kubectl", json!({"metadata": {"finalizers": ["example.com/f"]}})),
        delete(a, "00000000-0000-0000-0000-000000000000"),
        whole(a),
        delete(a, "$UID"),
        get(a),
        merge(a, "kubectl", json!({"metadata": {"finalizers": null}})),
        get(a),
        delete(a, "$UID"),
        apply(a, "headwater", true, map("a", &json!({"x": "1"}))),
        // A workload: its generation counts what its controller has to see.
        apply(d, "headwater", true, deployment("i:1", 1)),
        apply(d, "headwater", true, deployment("i:1", 1)),
        apply(d, "headwater", true, deployment("i:2", 1)),
        merge(d, "kubectl", json!({"spec": {"replicas": 3}})),
        merge(d, "kubectl", json!({"metadata": {"labels": {"l": "1"}}})),
        apply(d, "headwater", true, deployment("i:2", 1)),
        get(d),
        // Who may do what; we may do everything.
        request(
            "POST",
            &format!("{reviews}/selfsubjectrulesreviews"),
            JSON,
            WHOLE,
            Some(
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "tried"}}),
            ),
        ),
        request(
            "POST",
            &format!("{reviews}/selfsubjectaccessreviews"),
            JSON,
            WHOLE,
            Some(
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
            ),
        ),
        // Kinds nobody knows, and names nobody knows.
        get("/apis/example.com/v1/namespaces/tried/things/t"),
        apply(
            "/apis/example.com/v1/namespaces/tried/things/t",
            "headwater",
            true,
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}),
        ),
    ]
}

#[test]
fn answers_are_those_of_a_real_api_server() {
    let (_cluster, _fakes, mut sides) = both();
    for (number, asked) in requests().iter().enumerate() {
        compare(&mut sides, number, asked);
    }

    // A CRD, and objects of it.
    let crd = &format!("{CRDS}/things.example.com");
    let thing = |size: u64| json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "tried"}, "spec": {"replicas": size}});
    let t = &format!("{THINGS}/t");
    // Asked for as a whole they show no version: the server writes the status when it likes.
    let made = compare_loosely(&mut sides, &apply(crd, "headwater", true, definition(&[("v1", true)])));
    assert_eq!(made["code"], 201);
    established(&mut sides);
    let storage = |side: &Side| side.api.get(crd).unwrap()["status"]["storedVersions"].clone();
    let [real, fake] = sides.each_ref().map(storage);
    assert_eq!(fake, real);
    let settled = [
        get(crd),
        apply(crd, "headwater", true, definition(&[("v1", true)])),
        list(CRDS),
        list(THINGS),
        whole("/apis/example.com/v1"),
        apply(t, "headwater", true, thing(1)),
        apply(t, "headwater", true, thing(2)),
        list(THINGS),
        list(&format!("{THINGS}?limit=1")),
        list("/apis/example.com/v1/things?limit=500"),
        list("/apis/example.com/v2/things"),
    ];
    for (number, asked) in settled.iter().enumerate() {
        compare(&mut sides, 100 + number, asked);
    }
    // Another version is stored from now on, and the old one may not go before somebody has said that nothing is stored in it.
    compare_loosely(&mut sides, &apply(crd, "headwater", true, definition(&[("v1", false), ("v2", true)])));
    established(&mut sides);
    let [real, fake] = sides.each_ref().map(storage);
    assert_eq!((fake, real), (json!(["v1", "v2"]), json!(["v1", "v2"])));
    compare_loosely(&mut sides, &apply(crd, "headwater", true, definition(&[("v2", true)])));
    let trim = request(
        "PATCH",
        &format!("{crd}/status?fieldManager=headwater"),
        MERGE,
        METADATA,
        Some(json!({"status": {"storedVersions": ["v2"]}})),
    );
    compare_loosely(&mut sides, &trim);
    let last = compare_loosely(&mut sides, &apply(crd, "headwater", true, definition(&[("v2", true)])));
    assert_eq!(last["code"], 200);
}

/// By status alone.
fn compare_loosely(sides: &mut [Side; 2], asked: &Request) -> Value {
    let [real, fake] = sides.each_mut().map(|side| side.ask(asked));
    for field in ["code", "reason"] {
        assert_eq!(fake[field], real[field], "{} {}: {fake} {real}", asked.method, asked.path);
    }
    real
}

/// A sequence that is different for every seed and the same for one.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn a_random_trace_ends_where_a_real_api_server_ends() {
    let (_cluster, _fakes, mut sides) = both();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "traced"}});
    let maps = "/api/v1/namespaces/traced/configmaps";
    compare(&mut sides, 0, &apply("/api/v1/namespaces/traced", "headwater", true, namespace));
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for number in 1..=400 {
        let name = ["a", "b"][usize::try_from(dice.roll(2)).unwrap()];
        let path = format!("{maps}/{name}");
        let manager = ["headwater", "kubectl", "other"][usize::try_from(dice.roll(3)).unwrap()];
        let mut data = serde_json::Map::new();
        for key in ["x", "y", "z"] {
            if dice.roll(2) == 0 {
                data.insert(key.to_owned(), dice.roll(3).to_string().into());
            }
        }
        let data = Value::Object(data);
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "traced", "labels": {manager: "1"}}, "data": data,
        });
        let asked = match dice.roll(10) {
            0..=2 => apply(&path, manager, true, object),
            3 => apply(&path, manager, false, object),
            4 => merge(&path, manager, json!({"data": data})),
            5 => {
                let key = ["x", "y", "z"][usize::try_from(dice.roll(3)).unwrap()];
                merge(&path, manager, json!({"data": {key: null}}))
            }
            6 => {
                object["metadata"]["resourceVersion"] = json!("$VERSION");
                request("PUT", &format!("{path}?fieldManager={manager}"), JSON, METADATA, Some(object))
            }
            7 if dice.roll(3) == 0 => delete(&path, "$UID"),
            7 => request("POST", &format!("{maps}?fieldManager={manager}"), JSON, METADATA, Some(object)),
            8 => list(maps),
            _ => whole(&path),
        };
        compare(&mut sides, number, &asked);
    }
}

#[test]
fn watches_tell_what_real_ones_tell() {
    let (_cluster, _fakes, mut sides) = both();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "watched"}});
    let maps = "/api/v1/namespaces/watched/configmaps";
    let map = |name: &str, label: &str, x: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}, "data": {"x": x}});
    let path = |name: &str| format!("{maps}/{name}");
    compare(&mut sides, 0, &apply("/api/v1/namespaces/watched", "headwater", true, namespace));
    let begin = sides.each_ref().map(|s| s.api.get(maps).unwrap()["metadata"]["resourceVersion"].clone());
    for (number, asked) in [
        apply(&path("a"), "headwater", true, map("a", "1", "1")),
        apply(&path("b"), "headwater", true, map("b", "2", "1")),
        apply(&path("a"), "headwater", true, map("a", "1", "2")),
        apply(&path("b"), "headwater", true, map("b", "1", "2")),
        apply(&path("a"), "headwater", true, map("a", "2", "2")),
        get(&path("b")),
        delete(&path("b"), "$UID"),
    ]
    .iter()
    .enumerate()
    {
        compare(&mut sides, number, asked);
    }
    let seen = |side: &Side, begin: &Value| -> Vec<String> {
        let begin = begin.as_str().unwrap();
        let path = format!(
            "{maps}?watch=true&labelSelector=l%3D1&resourceVersion={begin}&timeoutSeconds=2&allowWatchBookmarks=true"
        );
        let told = side.api.ask("GET", &path, JSON, METADATA, None).unwrap();
        assert_eq!(told.code, 200);
        let events = told.body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let events = events.filter(|event| event["type"] != "BOOKMARK");
        events.map(|e| format!("{} {} {}", e["type"], e["object"]["kind"], e["object"]["metadata"]["name"])).collect()
    };
    let [real, fake] = &sides;
    let (real, fake) = (seen(real, &begin[0]), seen(fake, &begin[1]));
    assert_eq!(fake, real);
    assert_eq!(real.len(), 5, "{real:?}");
}

#[test]
fn a_cluster_behaves_as_it_is_told_and_the_others_do_not_notice() {
    let fakes = Fakes::start(&Options { clusters: 3, ..Options::default() }).unwrap();
    let api = |n: usize| {
        let member = &fakes.members.all[n];
        let server = format!("{}/clusters/{}", fakes.server, member.name);
        Api::new(&server, fakes.ca.as_bytes(), &member.token, Duration::from_millis(500)).unwrap()
    };
    let sides: Vec<Api> = (0..3).map(api).collect();
    let look = |n: usize| sides[n].request("GET", "/api/v1/namespaces/kube-system", JSON, None).map(|a| a.code).ok();
    let uid = |n: usize| sides[n].get("/api/v1/namespaces/kube-system").unwrap()["metadata"]["uid"].clone();
    assert_ne!(uid(0), uid(1), "each is a cluster of its own");
    for (mood, expected) in [
        (Mood::Silent, None),
        (Mood::Gone, None),
        (Mood::Unauthorized, Some(401)),
        (Mood::Failing(503), Some(503)),
        (Mood::Well, Some(200)),
    ] {
        fakes.becomes(1, mood);
        assert_eq!((look(0), look(1), look(2)), (Some(200), expected, Some(200)), "{mood:?}");
    }
    let stranger = Api::new(&sides_server(&fakes), fakes.ca.as_bytes(), "wrong", PATIENCE).unwrap();
    assert_eq!(stranger.request("GET", "/api/v1/namespaces/default", JSON, None).unwrap().code, 401);
    assert_eq!((fakes.counts(0).gets, fakes.counts(0).all()), (7, 7));
    assert_eq!(sides[0].request("GET", "/api/v1/nodes", JSON, None).unwrap().code, 404);
    assert_eq!(fakes.counts(0).lists, 1);
}

fn sides_server(fakes: &Fakes) -> String {
    format!("{}/clusters/{}", fakes.server, fakes.name(0))
}

/// Whatever goes on at the same time: one connection for a cluster of many, one for each request on the hub.
#[test]
fn clients_of_members_share_one_connection() {
    let fakes = Fakes::start(&Options { round_trip: Duration::from_millis(50), ..Options::default() }).unwrap();
    let config = Kubeconfig::parse(fakes.kubeconfig(0).as_bytes()).unwrap().config();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connections = |client: fn(&kube::Config, &Gate) -> Result<kube::Client, ClusterError>| {
        let before = fakes.connections();
        runtime.block_on(async {
            let cluster =
                headwater::cluster::Cluster::identify(client(&config, &Gate::open()).unwrap(), false).await.unwrap();
            let asked = (0..4).map(|number| {
                let cluster = cluster.clone();
                async move { (number, cluster.identity().await) }
            });
            assert!(several(asked).await.iter().all(|(_, answer)| answer.is_ok()));
        });
        fakes.connections() - before
    };
    assert_eq!(connections(connect_member), 1);
    assert_eq!(connections(connect), 4);
}
