//! Test code: registries that do what no honest one does, played by a server in the test. What honest ones do is tested on a
//! real one, in `e2e/`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::{Response, StatusCode, header};

use super::*;
use crate::render::digest as digest_of;

/// A server that gives prepared answers in turn, the last one for ever, and remembers what it was asked.
struct Stage {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    async fn play(answers: impl FnOnce(&str) -> Vec<Response<Body>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(VecDeque::from(answers(&address))));
        let record = Arc::clone(&asked);
        let router = Router::new().fallback(move |request: Request| {
            let login = request.headers().get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
            let line = format!("{} {} {}", request.method(), request.uri(), login.unwrap_or_else(|| "-".to_owned()));
            record.lock().unwrap().push(line);
            let mut answers = answers.lock().unwrap();
            let answer = match answers.len() {
                1 => copy_of(&mut answers[0]),
                _ => answers.pop_front().unwrap(),
            };
            std::future::ready(answer)
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn repository(&self, access: Access) -> Repository {
        let address = Address::parse(&format!("{}/a/b", self.address)).unwrap();
        Repository::new(&address, &Access { insecure: true, timeout: Duration::from_secs(5), ..access }).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Bodies can be sent once; the prepared ones here are short and known.
fn copy_of(answer: &mut Response<Body>) -> Response<Body> {
    let text = answer.extensions().get::<String>().cloned().unwrap_or_default();
    let mut copy = Response::new(Body::from(text));
    *copy.status_mut() = answer.status();
    copy.headers_mut().clone_from(answer.headers());
    copy
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.extension(body.to_owned()).body(Body::from(body.to_owned())).unwrap()
}

fn login(place: &str) -> Access {
    let json = format!(r#"{{"auths": {{"{place}": {{"username": "u", "password": "p"}}}}}}"#);
    Access { credentials: Credentials::parse(json.as_bytes(), "test").unwrap(), ..Access::default() }
}

async fn tags(answers: Vec<Response<Body>>) -> (String, Vec<String>) {
    let stage = Stage::play(|_| answers).await;
    let said = match stage.repository(Access::default()).tags().await {
        Ok(tags) => tags.join(","),
        Err(error) => error.to_string().replace(&stage.address, "REGISTRY"),
    };
    (said, stage.asked())
}

const TAGS: &str = r#"{"name": "a/b", "tags": ["1.0.0"]}"#;

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    for (response, expected) in [
        (answer(404, &[], ""), "listing tags: not found in REGISTRY/a/b"),
        (
            answer(403, &[], r#"{"errors": [{"code": "DENIED", "message": "not you"}]}"#),
            "registry REGISTRY: listing tags: access denied: not you; check the credentials",
        ),
        (
            answer(200, &[("content-type", "text/html; charset=utf-8")], "<html>log in</html>"),
            "registry REGISTRY: listing tags: answered with a web page; is this a registry, or is a proxy or a login page in between?",
        ),
        (
            answer(200, &[], "{"),
            "registry REGISTRY: listing tags: answered with what is no JSON: EOF while parsing an object at line 1 column 1",
        ),
        (answer(418, &[], "<html>"), "registry REGISTRY: listing tags: HTTP 418"),
        (
            answer(429, &[("retry-after", "3600")], ""),
            "registry REGISTRY: listing tags: too many requests (429); it asks for a pause of 3600 s",
        ),
        (
            answer(401, &[], ""),
            "registry REGISTRY: listing tags: access denied, and the registry does not say what it wants; check the credentials",
        ),
        (
            answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
            "registry REGISTRY: listing tags: the registry wants a user name and a password; check the credentials",
        ),
        (
            answer(302, &[("location", "gopher://x/")], ""),
            "registry REGISTRY: points at \"gopher://x/\", which is not https; nothing was sent there",
        ),
        (answer(302, &[("location", "/again")], ""), "registry REGISTRY: listing tags: more than 5 redirects"),
    ] {
        assert_eq!(tags(vec![response]).await.0, expected);
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_after_the_pause_that_was_asked_for() {
    let began = Instant::now();
    let (said, asked) = tags(vec![answer(429, &[("retry-after", "1")], ""), answer(200, &[], TAGS)]).await;
    assert_eq!((said.as_str(), asked.len()), ("1.0.0", 2));
    assert!(began.elapsed() >= Duration::from_secs(1));
    let (said, asked) = tags(vec![answer(503, &[], ""), answer(500, &[], ""), answer(200, &[], TAGS)]).await;
    assert_eq!((said.as_str(), asked.len()), ("1.0.0", 3));
    // For ever is too long.
    let (said, asked) = tags(vec![answer(503, &[], "")]).await;
    assert_eq!((said.as_str(), asked.len()), ("registry REGISTRY: listing tags: HTTP 503", 4));
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::parse(&format!("{}/a", listener.local_addr().unwrap())).unwrap();
    let access = Access { insecure: true, timeout: Duration::from_secs(1), ..Access::default() };
    let error = Repository::new(&address, &access).unwrap().tags().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), format!("registry {}: listing tags: no answer within 1 s", address.registry));
    drop(listener);
    let error = Repository::new(&address, &access).unwrap().tags().await.unwrap_err().to_string();
    assert!(error.contains("onnection refused") || error.contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_renewed_once() {
    let challenge = |address: &str| {
        let value = format!("Bearer realm=\"http://{address}/token\",service=\"s\"");
        answer(401, &[("www-authenticate", &value)], "")
    };
    let stage = Stage::play(|address| {
        vec![
            challenge(address),
            answer(200, &[], r#"{"token": "one", "expires_in": 1}"#),
            answer(200, &[], TAGS),
            challenge(address),
            answer(200, &[], r#"{"access_token": "two"}"#),
            answer(200, &[], TAGS),
            challenge(address),
            answer(200, &[], r#"{"token": "three"}"#),
            challenge(address),
        ]
    })
    .await;
    let repository = stage.repository(login(&stage.address));
    repository.tags().await.unwrap();
    repository.tags().await.unwrap();
    // A registry that refuses the fresh token too would keep us asking for ever.
    assert!(matches!(repository.tags().await, Err(RegistryError::Denied { .. })));
    let (list, token) = ("GET /v2/a/b/tags/list?n=1000", "GET /token?service=s&scope=repository:a/b:pull Basic dTpw");
    let expected = [
        format!("{list} -"),
        token.to_owned(),
        format!("{list} Bearer one"),
        format!("{list} Bearer one"),
        token.to_owned(),
        format!("{list} Bearer two"),
        format!("{list} Bearer two"),
        token.to_owned(),
        format!("{list} Bearer three"),
    ];
    assert_eq!(stage.asked(), expected);
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let elsewhere = Stage::play(|_| vec![answer(200, &[], r#"{"token": "x"}"#)]).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", elsewhere.address);
    let stage = Stage::play(|_| vec![answer(401, &[("www-authenticate", &realm)], "")]).await;
    let error = stage.repository(login(&stage.address)).tags().await.unwrap_err();
    assert_eq!(error.reason(), "RealmNotAllowed");
    assert_eq!(
        error.to_string(),
        format!(
            "registry {}: wants credentials to be sent to \"http://{e}/token\", which is neither the registry nor a domain it is part of; if that is right, start the operator with --registry-realm={e}; nothing was sent",
            stage.address,
            e = elsewhere.address
        )
    );
    assert_eq!(elsewhere.asked(), Vec::<String>::new());
    // Named by the administrator, it is asked.
    let allowed = Access { realms: vec![elsewhere.address.clone()], ..login(&stage.address) };
    let _ = stage.repository(allowed).tags().await;
    assert_eq!(elsewhere.asked(), ["GET /token?scope=repository:a/b:pull Basic dTpw"]);

    // A redirect to another host, port or scheme goes without them.
    let content = Stage::play(|_| vec![answer(200, &[], "blob")]).await;
    let to = format!("http://{}/cdn", content.address);
    let stage = Stage::play(|_| {
        vec![answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""), answer(307, &[("location", &to)], "")]
    })
    .await;
    let blob = Descriptor::of("x", b"blob");
    let bytes = stage.repository(login(&stage.address)).blob(&blob, 100).await.unwrap();
    assert_eq!((bytes.as_ref(), content.asked()), (b"blob".as_slice(), vec!["GET /cdn -".to_owned()]));
    assert!(stage.asked()[1].ends_with("Basic dTpw"));
}

#[tokio::test]
async fn an_encrypted_registry_leads_nowhere_unencrypted() {
    let address = Address::parse("r.example/a").unwrap();
    let line = transport::Transport::new(&address, &Access::default()).unwrap();
    let from = line.url("tags/list").unwrap();
    assert_eq!(line.follow(&from, "/x").unwrap().to_string(), "https://r.example/x");
    assert_eq!(line.follow(&from, "https://cdn.example/x").unwrap().to_string(), "https://cdn.example/x");
    assert_eq!(
        line.follow(&from, "http://r.example/x").unwrap_err().to_string(),
        "registry r.example: points at \"http://r.example/x\", which is not https; nothing was sent there"
    );
}

#[tokio::test]
async fn metadata_services_are_no_registries() {
    let access = Access { insecure: true, timeout: Duration::from_secs(3), ..Access::default() };
    let address = Address::parse("169.254.169.254/latest").unwrap();
    let error = Repository::new(&address, &access).unwrap().tags().await.unwrap_err().to_string();
    assert!(error.contains("169.254.169.254 is a link-local address"), "{error}");
}

#[tokio::test]
async fn bytes_are_what_the_digest_names_or_nothing() {
    let good = r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}"#;
    let flipped = good.replace('2', "3");
    let digest = digest_of(good.as_bytes());
    let stage = Stage::play(|_| vec![answer(200, &[], &flipped)]).await;
    let error = stage.repository(Access::default()).manifest(&digest).await.unwrap_err();
    assert_eq!(error.reason(), "ArtifactDigestMismatch");
    let found = digest_of(flipped.as_bytes());
    let registry = &stage.address;
    assert_eq!(
        error.to_string(),
        format!("digest mismatch: expected {digest}, got {found} (registry {registry}); nothing was applied")
    );
    // Too short, too long, and not allowed to be that long.
    let blob = Descriptor::of("x", b"12345678");
    for (sent, expected) in [
        ("1234567", "digest mismatch: expected"),
        ("123456789", "the answer is longer than 8 bytes"),
        ("12345670", "digest mismatch: expected"),
    ] {
        let stage = Stage::play(|_| vec![answer(200, &[], sent)]).await;
        let error = stage.repository(Access::default()).blob(&blob, 100).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains(expected), "{error}");
    }
    let stage = Stage::play(|_| vec![answer(200, &[], "12345678")]).await;
    let error = stage.repository(Access::default()).blob(&blob, 7).await.unwrap_err().to_string();
    assert!(error.ends_with("is 0 KiB, the limit is 0 KiB"), "{error}");
    assert_eq!(stage.asked(), Vec::<String>::new());
    let strange = Descriptor { digest: "../../token".to_owned(), ..blob };
    let error = stage.repository(Access::default()).blob(&strange, 100).await.unwrap_err().to_string();
    assert!(error.ends_with("\"../../token\" is no digest (sha256:<64 hex digits>)"), "{error}");
}

#[tokio::test]
async fn manifests_of_other_kinds_are_refused_by_name() {
    let body = r#"{"schemaVersion": 1}"#;
    let stage = Stage::play(|_| vec![answer(200, &[("content-type", "application/json")], body)]).await;
    let digest = digest_of(body.as_bytes());
    let error = stage.repository(Access::default()).manifest(&digest).await.unwrap_err().to_string();
    assert!(
        error.ends_with("has media type \"application/json\", which is neither an image manifest nor an index"),
        "{error}"
    );
}

#[tokio::test]
async fn tags_come_in_pages_and_not_for_ever() {
    let next = [("link", "</v2/a/b/tags/list?last=1.0.0>; rel=\"next\"")];
    let two = answer(200, &[], r#"{"tags": ["2.0.0"]}"#);
    let (said, asked) = tags(vec![answer(200, &next, TAGS), two]).await;
    assert_eq!((said.as_str(), asked.len()), ("1.0.0,2.0.0", 2));
    assert_eq!(tags(vec![answer(200, &[], r#"{"tags": null}"#)]).await.0, "");
    let (said, asked) = tags(vec![answer(200, &next, TAGS)]).await;
    assert_eq!((said.as_str(), asked.len()), ("REGISTRY/a/b has more than 100 pages of tags", 100));
}

#[tokio::test]
async fn referrers_are_found_with_and_without_their_api() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let index = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [
            {{"mediaType": "{MANIFEST}", "digest": "sha256:b", "size": 1, "artifactType": "sig"}},
            {{"mediaType": "{MANIFEST}", "digest": "sha256:c", "size": 1, "artifactType": "sbom"}}]}}"#
    );
    let with = vec![answer(200, &[("content-type", INDEX)], &index)];
    let without = vec![answer(404, &[], ""), answer(200, &[("content-type", INDEX)], &index)];
    for answers in [with, without] {
        let stage = Stage::play(|_| answers).await;
        let found = stage.repository(Access::default()).referrers(&digest, "sig").await.unwrap();
        assert_eq!(found.iter().map(|d| d.digest.as_str()).collect::<Vec<_>>(), ["sha256:b"]);
    }
    let stage = Stage::play(|_| vec![answer(404, &[], "")]).await;
    assert_eq!(stage.repository(Access::default()).referrers(&digest, "sig").await.unwrap(), []);
}
