//! Requests to one cluster and their answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::member::{Member, Mood};
use super::object::{Object, Pool};
use super::path::{Labels, Query, Resource, Target};
use super::refusal::Refusal;
use super::store::Writer;
use super::watch;

/// An answer's body: at once, or as a stream.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Version that all clusters say they have.
const VERSION: &str = "v1.36.3";
/// Items of a list that is not asked for page by page.
const ALL: usize = usize::MAX;
/// Longest life of a watch that does not say how long.
const WATCH_SECONDS: u64 = 1800;
/// CRDs are established a moment after they are written.
const ESTABLISHED_AFTER: Duration = Duration::from_millis(5);

/// What requests are sorted by when they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Get,
    List,
    Watch,
    Write,
    /// Versions, reviews and dry runs.
    Ask,
}

fn sort_of(method: &Method, target: Option<&Target>, query: &Query) -> Sort {
    match (method, target) {
        (_, None) => Sort::Ask,
        (_, Some(target)) if target.plural.is_empty() || target.group == "authorization.k8s.io" => Sort::Ask,
        (&Method::GET, Some(_)) if query.is_set("watch") => Sort::Watch,
        (&Method::GET, Some(target)) if target.name.is_empty() => Sort::List,
        (&Method::GET, Some(_)) => Sort::Get,
        _ if query.is_set("dryRun") => Sort::Ask,
        _ => Sort::Write,
    }
}

/// What all clusters share.
pub(super) struct Common {
    /// Bodies.
    pub(super) pool: Pool,
    /// Every answer takes this long.
    pub(super) round_trip: Duration,
    /// How long a Deployment takes to roll out.
    pub(super) rollout: Duration,
}

/// Answers a request; an error ends the connection without an answer.
pub(super) async fn answer(
    common: Arc<Common>,
    member: Arc<Member>,
    path: &str,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let target = Target::parse(path);
    member.count(sort_of(&head.method, target.as_ref(), &query));
    let body = body.collect().await?.to_bytes();
    tokio::time::sleep(common.round_trip).await;
    match member.mood() {
        Mood::Well => {}
        Mood::Silent => std::future::pending::<()>().await,
        Mood::Gone => anyhow::bail!("this cluster is gone"),
        Mood::Unauthorized => return Ok(refused(&Refusal::unauthorized())),
        Mood::Failing(code) => return Ok(refused(&Refusal::failing(code))),
    }
    let asked = Asked { common, member, target, query, body, head: &head.headers };
    let result = if path == "/version" { Ok(Asked::version()) } else { asked.answer(&head.method) };
    Ok(result.unwrap_or_else(|refusal| refused(&refusal)))
}

struct Asked<'a> {
    common: Arc<Common>,
    member: Arc<Member>,
    target: Option<Target>,
    query: Query,
    body: Bytes,
    head: &'a HeaderMap,
}

impl Asked<'_> {
    fn version() -> Response<Body> {
        let git = VERSION;
        json_answer(
            200,
            &json!({
                "major": "1", "minor": "36", "gitVersion": git, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
                "goVersion": "", "compiler": "gc", "platform": "linux/amd64",
            }),
        )
    }

    fn header(&self, name: hyper::header::HeaderName) -> &str {
        self.head.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn answer(&self, method: &Method) -> Result<Response<Body>, Refusal> {
        if self.header(AUTHORIZATION).strip_prefix("Bearer ") != Some(self.member.token.as_str()) {
            return Err(Refusal::unauthorized());
        }
        let target = self.target.as_ref().ok_or_else(Refusal::unknown)?;
        if target.group == "authorization.k8s.io" {
            return self.review(target);
        }
        if target.plural.is_empty() {
            return self.discovery(target);
        }
        let is_named = !target.name.is_empty();
        match *method {
            Method::GET if self.query.is_set("watch") => self.watch(target),
            Method::GET if is_named => {
                let object = self.member.with(|store| store.get(target))?;
                Ok(self.object(200, &object))
            }
            Method::GET => self.list(target),
            Method::POST if !is_named => {
                let object = self.member.with(|store| store.create(target, self.json()?, &self.writer()))?;
                let target = Target { name: object.content.name.clone(), ..target.clone() };
                self.follow(&target, &object);
                Ok(self.object(201, &object))
            }
            Method::PUT if is_named && target.subresource.is_empty() => {
                let object = self.member.with(|store| store.replace(target, self.json()?, &self.writer()))?;
                self.follow(target, &object);
                Ok(self.object(200, &object))
            }
            Method::PATCH if is_named => self.patch(target),
            Method::DELETE if is_named => {
                let options = if self.body.is_empty() { json!({}) } else { self.json()? };
                let object = self.member.with(|store| store.delete(target, &options))?;
                Ok(self.object(200, &object))
            }
            _ => Err(Refusal::unplayed(&format!("{method} of {}", target.resource()))),
        }
    }

    fn writer(&self) -> Writer<'_> {
        let manager = match self.query.get("fieldManager") {
            "" => self.header(USER_AGENT).split('/').next().unwrap_or_default(),
            manager => manager,
        };
        Writer { manager, force: self.query.is_set("force"), dry_run: self.query.is_set("dryRun") }
    }

    fn json(&self) -> Result<Value, Refusal> {
        let value: Option<Value> = serde_json::from_slice(&self.body).ok();
        value.filter(Value::is_object).ok_or_else(|| Refusal::bad("the body is no JSON object"))
    }

    fn patch(&self, target: &Target) -> Result<Response<Body>, Refusal> {
        let media_type = self.header(CONTENT_TYPE);
        let (object, created) = match media_type {
            "application/apply-patch+yaml" => {
                let body = self.common.pool.applied(&self.body);
                let body = body.ok_or_else(|| Refusal::bad("the body is no JSON object"))?;
                self.member.with(|store| store.apply(target, &body, &self.writer()))?
            }
            "application/merge-patch+json" => {
                (self.member.with(|store| store.merge(target, &self.json()?, &self.writer()))?, false)
            }
            other => return Err(Refusal::unplayed(&format!("a patch of type {other}"))),
        };
        self.follow(target, &object);
        Ok(self.object(if created { 201 } else { 200 }, &object))
    }

    /// Controllers look at what was written.
    fn follow(&self, target: &Target, object: &Object) {
        let is_crd = target.plural == "customresourcedefinitions";
        let seen = object.status()["observedGeneration"].as_u64();
        let is_due = match target.plural.as_str() {
            "customresourcedefinitions" => object.status()["conditions"].is_null(),
            "deployments" => seen != object.generation,
            _ => false,
        };
        if !is_due || self.query.is_set("dryRun") || !target.subresource.is_empty() {
            return;
        }
        let (member, target) = (Arc::clone(&self.member), target.clone());
        let pause = if is_crd { ESTABLISHED_AFTER } else { self.common.rollout };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            member.with(|store| store.settle(&target));
        });
    }

    fn wants_metadata(&self) -> bool {
        self.header(ACCEPT).contains("as=PartialObjectMetadata")
    }

    fn object(&self, code: u16, object: &Object) -> Response<Body> {
        let mut text = String::with_capacity(1024);
        object.write(self.wants_metadata(), false, &mut text);
        respond(code, text)
    }

    fn list(&self, target: &Target) -> Result<Response<Body>, Refusal> {
        let limit = self.query.number("limit").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(ALL);
        let after = match self.query.get("continue") {
            "" => None,
            token => Some(read_token(token).ok_or_else(|| Refusal::bad("continue key is not valid"))?),
        };
        let labels = Labels::parse(self.query.get("labelSelector"));
        let (resource, objects, more, version) = self.member.with(|store| {
            let resource = store.resource(target)?;
            let (objects, more) = store.list(target, &labels, limit, after.as_ref());
            Ok::<_, Refusal>((resource, objects, more, store.version()))
        })?;
        let only_metadata = self.wants_metadata();
        let (kind, api_version) = self.kind_of_list(target, &resource);
        let last = objects.last().filter(|_| more);
        let next = last.map(|o| format!(",\"continue\":\"{}\"", token(&o.content.namespace, &o.content.name)));
        let mut text = format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{version}\"{}}},\"items\":",
            next.unwrap_or_default()
        );
        if objects.is_empty() && only_metadata {
            // As real servers say it.
            text.push_str("null}");
            return Ok(respond(200, text));
        }
        text.push('[');
        for (index, object) in objects.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            object.write(only_metadata, !resource.is_custom, &mut text);
        }
        text.push_str("]}");
        Ok(respond(200, text))
    }

    fn kind_of_list(&self, target: &Target, resource: &Resource) -> (String, String) {
        if self.wants_metadata() {
            return ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned());
        }
        let version = &target.version;
        let api_version = if target.group.is_empty() { version.clone() } else { format!("{}/{version}", target.group) };
        (format!("{}List", resource.kind), api_version)
    }

    fn watch(&self, target: &Target) -> Result<Response<Body>, Refusal> {
        self.member.with(|store| store.resource(target))?;
        let asked = watch::Asked {
            member: Arc::clone(&self.member),
            target: target.clone(),
            labels: Labels::parse(self.query.get("labelSelector")),
            from: self.query.number("resourceVersion").filter(|version| *version > 0),
            lasts: Duration::from_secs(self.query.number("timeoutSeconds").unwrap_or(WATCH_SECONDS)),
            bookmarks: self.query.is_set("allowWatchBookmarks"),
            metadata_only: self.wants_metadata(),
        };
        let (sender, body) = Channel::new(4);
        tokio::spawn(asked.run(sender));
        Ok(with_type(Response::new(Either::Right(body))))
    }

    /// Whoever asks may do everything.
    fn review(&self, target: &Target) -> Result<Response<Body>, Refusal> {
        let mut review = self.json()?;
        review["status"] = match target.plural.as_str() {
            "selfsubjectrulesreviews" => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            }),
            "selfsubjectaccessreviews" => json!({"allowed": true}),
            other => return Err(Refusal::unplayed(other)),
        };
        Ok(json_answer(201, &review))
    }

    /// Of groups that CRDs define: with the version in which objects are stored.
    fn discovery(&self, target: &Target) -> Result<Response<Body>, Refusal> {
        let crds = Target {
            group: "apiextensions.k8s.io".to_owned(),
            version: "v1".to_owned(),
            plural: "customresourcedefinitions".to_owned(),
            ..Target::default()
        };
        let (all, _) = self.member.with(|store| store.list(&crds, &Labels::default(), ALL, None));
        let definitions = all.iter().filter_map(|crd| crd.content.definition());
        let served = definitions.filter(|d| d.kind.group == target.group && d.served.contains(&target.version));
        let resources: Vec<Value> = served
            .map(|d| {
                let kind = &d.kind;
                let hash = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
                json!({
                    "name": kind.plural, "kind": kind.kind, "namespaced": kind.namespaced,
                    "storageVersionHash": BASE64_STANDARD.encode(&hash[..8]),
                })
            })
            .collect();
        if resources.is_empty() {
            return Err(Refusal::unknown());
        }
        let group = format!("{}/{}", target.group, target.version);
        Ok(json_answer(200, &json!({"kind": "APIResourceList", "groupVersion": group, "resources": resources})))
    }
}

/// Where the next page begins.
fn token(namespace: &str, name: &str) -> String {
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(format!("{namespace}/{name}"))
}

fn read_token(token: &str) -> Option<(Box<str>, Box<str>)> {
    let text = String::from_utf8(base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (namespace, name) = text.split_once('/')?;
    Some((namespace.into(), name.into()))
}

fn with_type(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn respond(code: u16, text: String) -> Response<Body> {
    let mut answer = with_type(Response::new(Either::Left(Full::new(Bytes::from(text)))));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

fn json_answer(code: u16, value: &Value) -> Response<Body> {
    respond(code, value.to_string())
}

pub(super) fn refused(refusal: &Refusal) -> Response<Body> {
    respond(refusal.code, refusal.body())
}
