//! Writing for people and for programs. A reader that has gone away (`| head`) is no error.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use super::Output;
use crate::render::yaml;

/// A line of the result.
pub(super) fn out(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line of talk: progress, hints, errors.
pub(super) fn talk(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A value as JSON or YAML; `Table` is for the caller.
pub(super) fn value(value: &impl Serialize, format: Output) -> anyhow::Result<()> {
    let value = serde_json::to_value(value)?;
    match format {
        Output::Yaml => out(yaml::emit(&value)?.trim_end()),
        Output::Json | Output::Table => out(serde_json::to_string_pretty(&value)?),
    }
    Ok(())
}

/// Rows in columns as wide as they need to be.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let text: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.join("  ").trim_end().to_owned()
    };
    out(line(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        out(line(row));
    }
}
