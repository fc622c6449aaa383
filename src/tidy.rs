//! Architecture invariants that a compiler does not check.

use std::path::Path;

/// Folders that decide, and what they must not name: the client, the runtime, the file system, the clock.
const PURE: &[&str] = &["api", "render", "plan", "fleet"];
const FORBIDDEN: &[&str] = &[
    "kube::Client",
    "kube::client",
    "kube::Api",
    "kube::api::Api",
    "kube::runtime",
    "kube::config",
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "oci_client",
    "reqwest",
    "hyper",
    "crate::cluster",
    "crate::bundle",
    "crate::controller",
    "crate::cli",
    "crate::telemetry",
];

fn check(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests may read files; they are in files of their own or at the end.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if text.contains("//! Test code: may read files.") {
            continue;
        }
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            let grouped =
                line.contains("kube::{") && ["Client", "Api", "runtime", "config"].iter().any(|n| line.contains(n));
            let named = FORBIDDEN.iter().find(|name| line.contains(*name)).copied();
            if let Some(name) = named.or(grouped.then_some("kube's client")) {
                found.push(format!("{}:{}: names {name}", path.display(), number + 1));
            }
        }
    }
}

#[test]
fn pure_folders_name_neither_client_nor_runtime_nor_files_nor_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for folder in PURE.iter().map(|f| src.join(f)).filter(|f| f.exists()) {
        check(&folder, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
