//! One binary: operator and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    headwater::cli::main()
}
