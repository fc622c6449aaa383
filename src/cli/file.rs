//! Files with objects of ours, read as strictly as the API server would, which is not asked: a typo is told before anything is done.

use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use kube::{CustomResourceExt, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::render::{check_schema, yaml};

/// The text of a file; - is standard input.
fn text(file: &Path) -> anyhow::Result<String> {
    let name = file.display().to_string();
    if name == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))
}

/// The one document of a file.
pub(super) fn one(file: &Path) -> anyhow::Result<Value> {
    Ok(yaml::parse_one(&file.display().to_string(), &text(file)?)?)
}

/// The one document of a file, which is an object of a kind of ours and has a name.
pub(super) fn one_of<K: Resource<DynamicType = ()>>(file: &Path) -> anyhow::Result<Value> {
    let object = one(file)?;
    expect::<K>(&file.display().to_string(), &object)?;
    Ok(object)
}

fn expect<K: Resource<DynamicType = ()>>(place: &str, object: &Value) -> anyhow::Result<()> {
    let (kind, version) = (K::kind(&()), K::api_version(&()));
    let found = |field: &str| object[field].as_str().map_or_else(|| format!("no {field}"), str::to_owned);
    if object["kind"] != *kind || object["apiVersion"] != *version {
        bail!("{place}: expected one {kind} of {version}, found {} of {}", found("kind"), found("apiVersion"));
    }
    if !object["metadata"]["name"].is_string() {
        bail!("{place}: metadata.name is required");
    }
    Ok(())
}

/// All objects of a file, those of lists too.
pub(super) fn all(file: &Path) -> anyhow::Result<Vec<Value>> {
    let (name, text) = (file.display().to_string(), text(file)?);
    // What comes from kubectl can be longer than what anybody writes; of JSON there is no limit.
    let documents = if text.trim_start().starts_with('{') {
        vec![serde_json::from_str(&text).with_context(|| format!("{name}: no JSON"))?]
    } else {
        yaml::parse(&name, &text).context("cannot be read as YAML (of JSON there can be more: kubectl get -o json)")?
    };
    let flat = documents.into_iter().flat_map(|mut document| {
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items") {
            Some(Value::Array(items)) if is_list => std::mem::take(items),
            _ => vec![document],
        }
    });
    Ok(flat.collect())
}

/// What objects of a kind have to look like.
pub(super) struct Form<K> {
    schema: Value,
    kind: PhantomData<K>,
}

impl<K: Resource<DynamicType = ()> + CustomResourceExt + DeserializeOwned> Form<K> {
    /// The form of a kind.
    pub(super) fn new() -> anyhow::Result<Self> {
        let schema = K::crd().spec.versions.into_iter().find_map(|version| version.schema).context("no schema")?;
        Ok(Self { schema: serde_json::to_value(schema.open_api_v3_schema)?, kind: PhantomData })
    }

    /// Whether an object says that it is of this kind.
    pub(super) fn is_for(object: &Value) -> bool {
        object["kind"] == *K::kind(&()) && object["apiVersion"] == *K::api_version(&())
    }

    /// Reads an object.
    pub(super) fn read(&self, place: &str, object: Value) -> anyhow::Result<K> {
        expect::<K>(place, &object)?;
        // Metadata is the same everywhere, and what stands in a status nobody has written by hand.
        let spec = json!({"spec": object["spec"]});
        check_schema(&self.schema, &spec).map_err(|wrong| anyhow!("{place}: {wrong}"))?;
        serde_json::from_value(object).with_context(|| format!("{place}: no {}", K::kind(&())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FluxFleet, FluxInstance};

    fn fleet(text: &str) -> String {
        let text =
            format!("apiVersion: headwater.dev/v1alpha1\nkind: FluxFleet\nmetadata: {{name: prod}}\nspec:\n{text}");
        let object = yaml::parse_one("f.yaml", &text).unwrap();
        Form::<FluxFleet>::new()
            .unwrap()
            .read("f.yaml", object)
            .map_or_else(|error| format!("{error:#}"), |_| "good".to_owned())
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused_with_its_place() {
        let good = "  selector: {}\n  distribution: {version: 2.9.x}\n";
        for (rest, expected) in [
            ("  stages: [{name: rest}]", "good"),
            ("  stages: [{name: rest, soak: null}]", "good"),
            (
                "  stages: [{name: rest, concurency: 5}]",
                "f.yaml: spec.stages[0].concurency is not a field; allowed are: approval, concurrency, ",
            ),
            (
                "  stagez: []\n  stages: [{name: rest}]",
                "f.yaml: spec.stagez is not a field; allowed are: approved, defaults, discover, distribution, emergency, interval, onFailure, selector, stages, suspend; did you mean stages?",
            ),
            ("", "f.yaml: spec.stages is missing"),
            ("  stages: []", "f.yaml: spec.stages is empty; at least one entry is needed"),
            (
                "  stages: [{name: rest, concurrency: -3}]",
                "f.yaml: spec.stages[0].concurrency is -3: must be a number of clusters, 1 or more, or percent",
            ),
            (
                "  stages: [{name: rest, maxFailures: 99999999999}]",
                "f.yaml: spec.stages[0].maxFailures is 99999999999: must be",
            ),
            (
                "  stages: [{name: rest, concurrency: 2.5}]",
                "f.yaml: spec.stages[0].concurrency is 2.5: must be a number of clusters",
            ),
            (
                "  stages: [{name: rest, approval: required}]",
                "f.yaml: spec.stages[0].approval is \"required\"; it has to be one of: Automatic, Required",
            ),
            (
                "  stages: [{name: rest, selector: {matchLabels: {env: 1}}}]",
                "f.yaml: spec.stages[0].selector.matchLabels.env is of type number; it has to be of type string",
            ),
            ("  stages: rest", "f.yaml: spec.stages is of type string; it has to be of type array"),
            ("  stages: [{}]", "f.yaml: spec.stages[0].name is missing"),
        ] {
            let found = fleet(&format!("{good}{rest}"));
            assert!(found.starts_with(expected), "{rest}: {found}");
        }
    }

    #[test]
    fn what_is_of_another_kind_is_told() {
        let of = |text: &str| {
            expect::<FluxInstance>("f.yaml", &yaml::parse_one("f.yaml", text).unwrap()).unwrap_err().to_string()
        };
        let expected = "f.yaml: expected one FluxInstance of headwater.dev/v1alpha1, found ";
        assert_eq!(of("hello"), format!("{expected}no kind of no apiVersion"));
        assert_eq!(
            of("{kind: FluxInstance, apiVersion: headwater.dev/v1}"),
            format!("{expected}FluxInstance of headwater.dev/v1")
        );
        assert_eq!(of("{kind: FluxInstance, apiVersion: headwater.dev/v1alpha1}"), "f.yaml: metadata.name is required");
    }

    #[test]
    fn lists_are_read_as_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            all(&path).map(|all| all.iter().map(|object| object["a"].clone()).collect::<Vec<_>>())
        };
        assert_eq!(read("l.yaml", "kind: List\nitems: [{a: 1}, {a: 2}]\n---\na: 3\n").unwrap(), [1, 2, 3]);
        assert_eq!(read("l.json", r#"{"kind": "FluxInstanceList", "items": [{"a": 1}]}"#).unwrap(), [1]);
        assert_eq!(read("o.yaml", "a: 1\nitems: [{a: 2}]").unwrap(), [1]);
        assert!(read("empty.yaml", "").unwrap().is_empty());
        assert!(format!("{:#}", read("b.json", "{").unwrap_err()).contains("b.json: no JSON"));
    }
}
