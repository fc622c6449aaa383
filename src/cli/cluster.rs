//! `headwater cluster`: what a cluster needs before the operator can manage it from afar.

use anyhow::{Context, bail};
use base64::Engine;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Config};
use serde_json::{Value, json};

use super::{KubeconfigArgs, ui};
use crate::cluster::{Gate, Kubeconfig, connect, hub_config, with_deadline};
use crate::render::kinds::builtin;
use crate::render::yaml;

/// Rights on a managed cluster, generated from what the bundles hold.
const TARGET_RBAC: &str = include_str!("../../config/rbac/target.yaml");
/// Service account in `TARGET_RBAC`.
const ACCOUNT: (&str, &str) = ("flux-system", "headwater");

pub(super) async fn kubeconfig(args: KubeconfigArgs) -> anyhow::Result<()> {
    let seconds = hours(&args.duration)?;
    let config = match &args.context {
        None => hub_config().await?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.with_context(|| format!("context {context:?}"))?
        }
    };
    let authority = authority(&config)?;
    let server = args.server.clone().unwrap_or_else(|| config.cluster_url.to_string());
    let client = connect(&config, &Gate::open())?;

    ui::talk(format!("applying service account {}/{} and its rights on {}", ACCOUNT.0, ACCOUNT.1, config.cluster_url));
    for document in yaml::parse("config/rbac/target.yaml", TARGET_RBAC)? {
        apply(&client, &document).await?;
    }
    let accounts = Api::<ServiceAccount>::namespaced(client, ACCOUNT.0);
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let answer = with_deadline(accounts.create_token_request(ACCOUNT.1, &PostParams::default(), &request)).await?;
    let status = answer.status.context("the API server gave no token")?;
    ui::talk(format!("token valid until {}", status.expiration_timestamp.0));

    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": args.name, "cluster": {"server": server.trim_end_matches('/'), "certificate-authority-data": authority}}],
        "users": [{"name": "headwater", "user": {"token": status.token}}],
        "contexts": [{"name": args.name, "context": {"cluster": args.name, "user": "headwater"}}],
        "current-context": args.name,
    });
    let text = yaml::emit(&kubeconfig)?;
    Kubeconfig::parse(text.as_bytes()).context("the operator would not accept this kubeconfig")?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("{}-kubeconfig", args.name), "namespace": args.namespace},
        "stringData": {"value": text},
    });
    ui::out(yaml::emit(&secret)?.trim_end());
    Ok(())
}

fn hours(text: &str) -> anyhow::Result<i64> {
    let hours: Option<i64> = text.strip_suffix('h').and_then(|h| h.parse().ok()).filter(|h| (1..=87_600).contains(h));
    hours
        .map(|h| h * 3600)
        .with_context(|| format!("--duration: {text:?} must be hours such as 8760h, between 1h and 87600h"))
}

fn authority(config: &Config) -> anyhow::Result<String> {
    let Some(certificates) = &config.root_cert else {
        bail!("the kubeconfig has no certificate authority; the operator needs one (it never skips verification)");
    };
    let pem: Vec<String> = certificates
        .iter()
        .map(|der| {
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
        })
        .collect();
    Ok(base64::engine::general_purpose::STANDARD.encode(pem.concat()))
}

async fn apply(client: &kube::Client, document: &Value) -> anyhow::Result<()> {
    let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let known = builtin(group, version, &kind).with_context(|| format!("unknown kind {kind}"))?;
    let resource = kube::api::ApiResource {
        group: known.group.clone(),
        version: known.version.clone(),
        api_version: api_version.clone(),
        kind: kind.clone(),
        plural: known.plural.clone(),
    };
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let api = match document["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
        None => Api::<DynamicObject>::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply("headwater-cluster").force();
    with_deadline(api.patch(name, &params, &Patch::Apply(document))).await.with_context(|| format!("{kind} {name}"))?;
    Ok(())
}
