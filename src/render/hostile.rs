//! Texts that look like YAML or templates stay texts, wherever in the settings they are.
//!
//! Test code: may read files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::testing::{bundle, sync};
use super::*;

/// Those whose templates read settings.
const COMPONENTS: [&str; 4] =
    ["source-controller", "kustomize-controller", "notification-controller", "tofu-controller"];

/// Settings in which every text is `mark` and a number, so that each can be found again.
fn marked(mark: &str) -> Settings {
    let text = |n: u8| format!("{mark}{n}");
    Settings {
        namespace: text(0),
        components: Some(COMPONENTS.map(str::to_owned).to_vec()),
        registry: Some(text(1)),
        images: BTreeMap::new(),
        pin_images: false,
        cluster: api::Cluster { domain: text(2), network_policy: true, size: None },
        common_metadata: Some(api::CommonMetadata {
            labels: [("team".to_owned(), text(3))].into(),
            annotations: [("note".to_owned(), text(4)), (text(5), "x".to_owned())].into(),
        }),
        sync: Some(api::Sync {
            name: Some(text(6)),
            path: text(7),
            pull_secret: Some(text(8)),
            interval: api::Interval(text(9)),
            ..sync(api::SyncKind::GitRepository, &text(0), &text(1))
        }),
        tofu: Some(api::Tofu {
            allowed_namespaces: vec![api::NamespaceName(text(3))],
            runner: api::TofuRunner {
                service_account: api::TofuServiceAccount { annotations: [(text(4), text(5))].into() },
            },
            branch_planner: true,
            aws_package: true,
        }),
        patches: Vec::new(),
        owner_labels: [("headwater.dev/instance".to_owned(), text(2))].into(),
    }
}

fn replace(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => text.replace(from, to).into(),
        Value::Array(items) => items.iter().map(|item| replace(item, from, to)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace(from, to), replace(value, from, to))).collect()
        }
        other => other.clone(),
    }
}

fn stays_text(bundle: &Bundle, hostile: &str) {
    const MARK: &str = "zzmarkzz";
    let sorted = |settings: &Settings| {
        let mut values: Vec<Value> = render(bundle, settings).unwrap().into_iter().map(Object::into_value).collect();
        values.sort_by_key(|v| (v["kind"].to_string(), v["metadata"]["name"].to_string()));
        values
    };
    let mut expected: Vec<Value> = sorted(&marked(MARK)).iter().map(|value| replace(value, MARK, hostile)).collect();
    expected.sort_by_key(|v| (v["kind"].to_string(), v["metadata"]["name"].to_string()));
    assert!(expected == sorted(&marked(hostile)), "{hostile:?} changed the structure of what was rendered");
}

#[test]
fn hostile_values_stay_text() {
    let bundle = bundle("2.9.4");
    for hostile in [
        "a: b",
        " # x",
        "x\n---\nkind: Evil\n",
        "\n- x",
        "{{ namespace }}",
        "{% for x in y %}",
        "\"",
        "'",
        "\\",
        "\\n",
        "yes",
        "0x",
        "!!int ",
        "&a ",
        "*a",
        "|\n  x",
        ">",
        "? ",
        "@",
        "`",
        "%YAML",
        "\t",
        "\r\n",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{0}",
        "😀",
        "]}",
        ", x: ",
        "${X}",
    ] {
        stays_text(&bundle, hostile);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_value_stays_text(hostile in "[\\n\\r\\t :#{}%\\[\\]\"'|>&*!,?\\\\a-z0-9-]{1,24}|.{1,24}") {
        thread_local! {
            static BUNDLE: Bundle = bundle("2.9.4");
        }
        BUNDLE.with(|bundle| stays_text(bundle, &hostile));
    }
}
