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

/// Rows in columns as wide as they need to be, below a head.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let head = head.iter().map(|h| (*h).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().cloned()).collect();
    columns(&all).into_iter().for_each(out);
}

/// Rows as lines, in columns as wide as they need to be.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
