//! `headwater bundle diff`: a page to read before an upgrade.

use std::fmt::{Display, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::super::{Output, ui};
use super::args::RegistryArgs;
use super::place;
use crate::api::FLUX_NAMESPACE;
use crate::plan::compare::{Action, Change, Comparison, ObjectChange, compare};
use crate::plan::crd_safety::Severity;
use crate::render::{Settings, cut};

/// Longest text of a value in the page; the other formats have it whole.
const VALUE_LIMIT: usize = 160;

#[derive(Args)]
pub(in crate::cli) struct DiffArgs {
    /// Bundle to start from: a file, FOLDER@VERSION for a source folder such as bundles/flux@2.8.8, embedded@VERSION, or
    /// <oci://HOST>[:PORT]/PATH@VERSION
    old: String,
    /// Bundle to go to
    new: String,
    /// Show every changed field of every object
    #[arg(long)]
    objects: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: DiffArgs) -> anyhow::Result<ExitCode> {
    let old = place::open(&args.old, &args.registry, None).await?.parse()?;
    let new = place::open(&args.new, &args.registry, None).await?.parse()?;
    let settings = Settings { namespace: FLUX_NAMESPACE.to_owned(), ..Settings::default() };
    let comparison = compare(&old, &new, &settings)?;
    match args.output {
        Output::Table => ui::out(page(&comparison, args.objects).trim_end()),
        Output::Json | Output::Yaml => ui::value(&comparison, args.output)?,
    }
    Ok(ExitCode::from(u8::from(!comparison.breaking.is_empty())))
}

/// What matters most comes first; what did not change is left out.
fn page(comparison: &Comparison, all_fields: bool) -> String {
    let Comparison { old, new, upgrade, breaking, look_at, kubernetes, permissions, objects, .. } = comparison;
    let mut page = format!("{} {} -> {} {}\n\n", old.name, old.version, new.name, new.version);
    let mut line = |name: &str, text: &dyn Display| {
        let _ = writeln!(page, "{:<13}{text}", format!("{name}:"));
    };
    line("upgrade", upgrade);
    line("breaking", &count(breaking.len()));
    line("to look at", &count(look_at.len()));
    line("permissions", &format!("{} more, {} fewer", permissions.grown.len(), permissions.shrunk.len()));
    let range: Vec<String> =
        kubernetes.iter().map(|c| format!("{} {} -> {}", c.name, text(c.old.as_ref()), text(c.new.as_ref()))).collect();
    line("Kubernetes", &if range.is_empty() { "unchanged".to_owned() } else { range.join(", ") });
    line("objects", &counts(objects));

    section(&mut page, "BREAKING", breaking);
    section(&mut page, "TO LOOK AT", look_at);
    section(&mut page, "COMPONENTS", comparison.components.iter().map(component));
    section(&mut page, "IMAGES", rows(comparison.images.iter().map(image)));
    let grown = permissions.grown.iter().map(|right| format!("+ {right}"));
    section(&mut page, "PERMISSIONS", grown.chain(permissions.shrunk.iter().map(|right| format!("- {right}"))));
    section(&mut page, "FEATURE GATES", rows(comparison.feature_gates.iter().map(setting)));
    section(&mut page, "FLAGS", rows(comparison.flags.iter().map(setting)));
    let safe = comparison.crds.iter().filter(|finding| finding.severity == Severity::Safe);
    section(&mut page, "CRD CHANGES THAT ARE SAFE", safe);
    section(&mut page, "OBJECTS", objects.iter().flat_map(|change| object(change, all_fields)));
    page
}

fn section(page: &mut String, title: &str, lines: impl IntoIterator<Item = impl Display>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        let _ = writeln!(page, "\n{title}");
        lines.for_each(|line| {
            let _ = writeln!(page, "  {line}");
        });
    }
}

fn rows(rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    ui::columns(&rows.collect::<Vec<_>>())
}

fn count(number: usize) -> String {
    if number == 0 { "nothing".to_owned() } else { number.to_string() }
}

fn counts(objects: &[ObjectChange]) -> String {
    let number = |action: Action| objects.iter().filter(|change| change.action == action).count();
    let (added, removed, changed) = (number(Action::Added), number(Action::Removed), number(Action::Changed));
    let only_described =
        objects.iter().filter(|change| change.action == Action::Changed && is_described_only(change)).count();
    let only = if only_described == 0 {
        String::new()
    } else {
        format!(" ({only_described} of them only in labels and annotations)")
    };
    format!("{added} added, {removed} removed, {changed} changed{only}")
}

/// Only labels and annotations differ, as the version does in every release.
fn is_described_only(change: &ObjectChange) -> bool {
    let is_metadata = |path: &str| path.starts_with("metadata.labels") || path.starts_with("metadata.annotations");
    change.fields.iter().all(|field| is_metadata(&field.path))
}

/// The page names objects that come, go, or change in more than labels; with all fields, every change of every object.
fn object(change: &ObjectChange, all_fields: bool) -> Vec<String> {
    let key = &change.key;
    match change.action {
        Action::Added => vec![format!("+ {key}")],
        Action::Removed => vec![format!("- {key}")],
        Action::Changed if all_fields => {
            let fields = change.fields.iter().map(|field| {
                let value = |value: &Value| cut(&value.to_string(), VALUE_LIMIT);
                match (&field.old, &field.new) {
                    (Some(old), Some(new)) => format!("    {}: {} -> {}", field.path, value(old), value(new)),
                    (Some(old), None) => format!("    {}: - {}", field.path, value(old)),
                    (None, new) => format!("    {}: + {}", field.path, new.as_ref().map(value).unwrap_or_default()),
                }
            });
            std::iter::once(format!("~ {key}")).chain(fields).collect()
        }
        Action::Changed if is_described_only(change) => Vec::new(),
        Action::Changed => vec![format!("~ {key} (changed fields: {})", change.fields.len())],
    }
}

fn component(change: &Change<bool>) -> String {
    let state = |default: bool| if default { "installed by default" } else { "installed where it is named" };
    match (change.old, change.new) {
        (Some(_), None) => format!("- {}", change.name),
        (None, new) => format!("+ {} ({})", change.name, state(new.unwrap_or_default())),
        (Some(old), Some(new)) => format!("~ {}: {}, was {}", change.name, state(new), state(old)),
    }
}

/// The repository only where it is another one, and as much of the digest as tells two apart.
fn image(change: &Change<String>) -> Vec<String> {
    let split = |text: &str| {
        let (path, digest) = text.split_once('@').unwrap_or((text, ""));
        let digest = digest.get(..19).map(|digest| format!("@{digest}")).unwrap_or_default();
        let slash = path.rfind('/').unwrap_or(0);
        let (repository, tag) = path[slash..].find(':').map_or((path, ""), |colon| path.split_at(slash + colon));
        (repository.to_owned(), format!("{}{digest}", tag.trim_start_matches(':')))
    };
    let (old, new) = (change.old.as_deref().map(split), change.new.as_deref().map(split));
    let moved = match (&old, &new) {
        (Some((was, _)), Some((is, _))) => was != is,
        _ => true,
    };
    let show = |side: Option<(String, String)>| match side {
        Some((repository, tag)) if moved => format!("{repository}:{tag}"),
        Some((_, tag)) => tag,
        None => "-".to_owned(),
    };
    vec![change.name.clone(), show(old), "->".to_owned(), show(new)]
}

fn setting<T: Display>(change: &Change<T>) -> Vec<String> {
    let what = match (&change.old, &change.new) {
        (None, _) => "new, by default",
        (_, None) => "gone, it was",
        _ => "by default",
    };
    let value = match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("{} -> {}", text(Some(old)), text(Some(new))),
        (old, new) => text(new.as_ref().or(old.as_ref())),
    };
    vec![change.component.clone().unwrap_or_default(), change.name.clone(), what.to_owned(), value]
}

fn text(value: Option<&impl Display>) -> String {
    let text = value.map(ToString::to_string).unwrap_or_default();
    if text.is_empty() { "\"\"".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::compare::tests::{pair, settings};

    #[test]
    fn the_page_tells_what_matters_first() {
        let (old, new) = pair();
        let comparison = compare(&old, &new, &settings()).unwrap();
        insta::assert_snapshot!(page(&comparison, true));
        let short = page(&comparison, false);
        assert!(short.contains("~ Deployment flux-system/web (changed fields: 4)"), "{short}");
        assert!(!short.contains("ConfigMap"), "it changes only in labels: {short}");
    }

    #[test]
    fn nothing_is_said_of_what_is_the_same() {
        let (old, _) = pair();
        let comparison = compare(&old, &old, &settings()).unwrap();
        insta::assert_snapshot!(page(&comparison, true), @r"
        tiny 1.2.3 -> tiny 1.2.3

        upgrade:     the same version
        breaking:    nothing
        to look at:  nothing
        permissions: 0 more, 0 fewer
        Kubernetes:  unchanged
        objects:     0 added, 0 removed, 0 changed
        ");
    }

    #[test]
    fn a_page_shows_where_an_image_moves_to() {
        let image = |old: Option<&str>, new: Option<&str>| {
            let (old, new) = (old.map(str::to_owned), new.map(str::to_owned));
            image(&Change { component: None, name: "web".to_owned(), old, new }).join(" ")
        };
        let digest = |n: u8| format!("sha256:{}", n.to_string().repeat(64));
        let (one, two) = (format!("r.example:5000/a:v1@{}", digest(1)), format!("r.example:5000/a:v1@{}", digest(2)));
        assert_eq!(image(Some(&one), Some(&two)), "web v1@sha256:111111111111 -> v1@sha256:222222222222");
        assert_eq!(image(Some("r.example:5000/a:v1"), Some("b/a:v1")), "web r.example:5000/a:v1 -> b/a:v1");
        assert_eq!(image(None, Some("b/a:v1")), "web - -> b/a:v1");
    }
}
