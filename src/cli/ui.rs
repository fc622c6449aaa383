//! Writing for people and for programs. A reader that has gone away (`| head`) is no error.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::Output;
use crate::render::yaml;

/// How far what belongs to a row is moved in, below it.
const BELOW: usize = 8;

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

/// Columns and lines of the terminal; none when the result goes elsewhere.
pub(super) fn screen() -> Option<(usize, usize)> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| terminal_size::terminal_size_of(&stdout)).flatten();
    // What is narrower tells nothing about its width (0), or shows nothing anyway.
    size.map(|(columns, lines)| (usize::from(columns.0), usize::from(lines.0))).filter(|(columns, _)| *columns >= 20)
}

/// Rows in columns as wide as they need to be, below a head.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    lay_out(head, rows, 0, None).into_iter().for_each(out);
}

/// Rows in columns as wide as they need to be, below a head. Where that is wider than the screen, the last columns, so many, which hold
/// sentences, go below their row.
pub(super) fn lay_out(head: &[&str], rows: &[Vec<String>], sentences: usize, width: Option<usize>) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|text| (*text).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head.clone()).chain(rows.iter().cloned()).collect();
    let wide = columns(&all);
    let Some(width) = width.filter(|width| wide.iter().any(|line| line.chars().count() > *width)) else { return wide };
    let kept = head.len().saturating_sub(sentences);
    let narrow: Vec<Vec<String>> = all.iter().map(|row| row.iter().take(kept).cloned().collect()).collect();
    let mut lines = Vec::new();
    for (row, line) in all.iter().zip(columns(&narrow)) {
        lines.push(line);
        let below = head.iter().zip(row).skip(kept).filter(|(name, text)| !text.is_empty() && name != text);
        lines.extend(below.flat_map(|(name, text)| {
            wrap(&format!("{:BELOW$}{}: {text}", "", name.to_lowercase()), BELOW + 2, Some(width))
        }));
    }
    lines
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

/// A line as several that are not wider than the screen, the later ones moved in. A word that is wider stays whole, to be copied.
pub(super) fn wrap(line: &str, indent: usize, width: Option<usize>) -> Vec<String> {
    let Some(width) = width.filter(|width| line.chars().count() > *width) else { return vec![line.to_owned()] };
    let (mut lines, mut last, mut used) = (Vec::new(), String::new(), 0);
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if used + length > width && !last.trim().is_empty() {
            lines.push(last.trim_end().to_owned());
            last = " ".repeat(indent);
            used = indent;
        }
        last.push_str(word);
        used += word.chars().count();
    }
    lines.push(last.trim_end().to_owned());
    lines
}

/// A text with the digests in it cut to what people compare. Where one is to be copied from, it stays whole.
pub(super) fn short(text: &str) -> String {
    const MARK: &str = "sha256:";
    const KEPT: usize = 12;
    const WHOLE: usize = 64;
    let mut parts = text.split(MARK);
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        let (digest, rest) = part.split_at(digits);
        told.push_str(MARK);
        if digits == WHOLE {
            told.extend([&digest[..KEPT], "…"]);
        } else {
            told.push_str(digest);
        }
        told.push_str(rest);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_goes_below_its_row() {
        let rows = [["canary", "Done", ""], ["early", "Updating", "8 on their way to 2.9.4, 20 wait"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let told = |width| lay_out(&["STAGE", "STATE", "WHAT"], &rows, 1, width).join("\n");
        let wide = "STAGE   STATE     WHAT\ncanary  Done\nearly   Updating  8 on their way to 2.9.4, 20 wait";
        assert_eq!(told(None), wide);
        assert_eq!(told(Some(50)), wide);
        assert_eq!(
            told(Some(30)),
            "STAGE   STATE\ncanary  Done\nearly   Updating\n        what: 8 on their way\n          to 2.9.4, 20 wait"
        );
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrap("phase     Updating", 10, Some(80)), ["phase     Updating"]);
        assert_eq!(wrap("          15 of 93 on 2.9.4", 10, Some(20)), ["          15 of 93", "          on 2.9.4"]);
        assert_eq!(wrap("a sha256:0123456789 b", 2, Some(8)), ["a", "  sha256:0123456789", "  b"]);
    }

    #[test]
    fn digests_are_cut_and_nothing_else() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(short(&format!("to 2.9.4 ({digest}), 20 wait")), "to 2.9.4 (sha256:0123456789ab…), 20 wait");
        assert_eq!(short(&format!("{digest} {digest}")), "sha256:0123456789ab… sha256:0123456789ab…");
        assert_eq!(short("sha256:new, sha256:"), "sha256:new, sha256:");
    }
}
