//! libFuzzer over one target of `headwater::fuzz`, which `HEADWATER_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use headwater::fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("HEADWATER_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        *found.unwrap_or_else(|| panic!("HEADWATER_FUZZ_TARGET is {wanted:?}; it has to be one of {}", names.join(", ")))
    })
}

fuzz_target!(|bytes: &[u8]| (target().1)(bytes));
