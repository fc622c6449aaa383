//! What a bundle adds to its CRDs. Their files are as the generator wrote them: they know neither the namespace nor
//! which components are installed together.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tera::Context;

use super::bundle::CRD_TEMPLATE;
use super::text::list;
use super::{Bundle, Object, yaml};

/// Output of [`CRD_TEMPLATE`].
#[derive(Deserialize)]
struct Additions {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Field (`spec.eventSources[].kind`) to values that it may have besides those of the CRD.
    #[serde(default)]
    enums: BTreeMap<String, Vec<String>>,
}

/// The CRD of a component (as templates see it) with what the bundle adds to it.
pub(super) fn complete(bundle: &Bundle, context: &Context, component: &Value, crd: Object) -> Result<Object, String> {
    if !bundle.templates.has(CRD_TEMPLATE) {
        return Ok(crd);
    }
    let mut context = context.clone();
    context.insert("component", component);
    let name = crd.key().name.clone();
    context.insert("crd", &json!({"name": name}));
    let output = bundle.templates.render(CRD_TEMPLATE, &context)?;
    let file = format!("output of templates/{CRD_TEMPLATE}");
    let value = yaml::parse_one(&file, &output).map_err(|error| error.to_string())?;
    let allowed = ["labels", "annotations", "enums"];
    if let Some(name) = value.as_object().and_then(|map| map.keys().find(|k| !allowed.contains(&k.as_str()))) {
        return Err(format!("{file}: {name} is not allowed; only {} are", list(allowed)));
    }
    let additions: Additions = serde_json::from_value(value).map_err(|error| format!("{file}: {error}"))?;

    let mut value = crd.into_value();
    for (field, values) in &additions.enums {
        admit(&mut value, field, values).map_err(|problem| format!("{file}: enums: {field} of {name}: {problem}"))?;
    }
    let mut crd = Object::try_from(value).map_err(|error| format!("{file}: {error}"))?;
    for (name, value) in &additions.labels {
        crd.set_label(name, value);
    }
    for (name, value) in &additions.annotations {
        crd.set_annotation(name, value);
    }
    Ok(crd)
}

/// Adds values to the `enum` of a field, in every version of a CRD.
fn admit(crd: &mut Value, field: &str, values: &[String]) -> Result<(), String> {
    for version in crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = version["name"].as_str().unwrap_or_default().to_owned();
        let mut schema = version.pointer_mut("/schema/openAPIV3Schema");
        for part in field.split('.') {
            let (property, is_list) = part.strip_suffix("[]").map_or((part, false), |property| (property, true));
            schema = schema
                .and_then(|schema| schema.get_mut("properties")?.get_mut(property))
                .and_then(|schema| if is_list { schema.get_mut("items") } else { Some(schema) });
        }
        let Some(known) = schema.and_then(|schema| schema.get_mut("enum")).and_then(Value::as_array_mut) else {
            return Err(format!("version {name} has no such field with an enum"));
        };
        for value in values {
            if !known.iter().any(|known| known == value) {
                known.push(value.as_str().into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        let version = |name: &str, kinds: Value| {
            json!({"name": name, "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": {
                "sources": {"items": {"properties": {"kind": {"enum": kinds}}}},
                "name": {"type": "string"},
            }}}}}})
        };
        json!({"spec": {"versions": [version("v1", json!(["A", "B"])), version("v2", json!(["A"]))]}})
    }

    #[test]
    fn every_version_admits_the_value_once() {
        let mut value = crd();
        let values = ["C".to_owned(), "B".to_owned()];
        admit(&mut value, "spec.sources[].kind", &values).unwrap();
        admit(&mut value, "spec.sources[].kind", &values).unwrap();
        let enums: Vec<&Value> = value["spec"]["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| {
                v.pointer("/schema/openAPIV3Schema/properties/spec/properties/sources/items/properties/kind/enum")
                    .unwrap()
            })
            .collect();
        assert_eq!(enums, [&json!(["A", "B", "C"]), &json!(["A", "C", "B"])]);
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        for field in ["spec.sources[].kinds", "spec.sources.kind", "spec.name", "kind", ""] {
            let error = admit(&mut crd(), field, &["C".to_owned()]).unwrap_err();
            assert_eq!(error, "version v1 has no such field with an enum", "{field}");
        }
    }
}
