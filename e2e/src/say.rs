//! The one place that prints progress: to stderr, so that a command's own output stays clean.

use std::io::Write as _;

/// One line of progress. A closed stderr is no reason to fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "bed: {line}");
}
