//! The operator is killed at every write of an operation, one run for each, and started again: all ends are the undisturbed
//! one, and nothing is written afterwards. Enumerated, not sampled. Each write is hit at one moment by default, at the next
//! one at another; `HEADWATER_ENUMERATE=all` takes all three.

use headwater_e2e::{Fault, Kind, Phase};

use crate::harness::Site;
use crate::lane::Lane;
use crate::operation::{Operation, in_turn, install, leap, prune, rollback, uninstall, upgrade};

fn killed_at_every_write(operation: &Operation) {
    let site = Site::hub(Kind::Plain);
    let phases = [Phase::Committed, Phase::Before, Phase::Answered].map(Fault::Kill);
    operation.enumerate(&Lane::new(&site), |n| in_turn(n, &phases), |_, _, _| None);
}

/// An install.
#[test]
fn killed_at_every_write_of_an_install() {
    killed_at_every_write(&install());
}

/// An upgrade by two minors, with objects to migrate.
#[test]
fn killed_at_every_write_of_a_leap() {
    killed_at_every_write(&leap());
}

/// An upgrade by a minor, with objects to migrate.
#[test]
fn killed_at_every_write_of_an_upgrade() {
    killed_at_every_write(&upgrade());
}

/// An upgrade that fails, and the way back.
#[test]
fn killed_at_every_write_of_a_rollback() {
    killed_at_every_write(&rollback());
}

/// A component that is removed.
#[test]
fn killed_at_every_write_of_a_prune() {
    killed_at_every_write(&prune());
}

/// An uninstall.
#[test]
fn killed_at_every_write_of_an_uninstall() {
    killed_at_every_write(&uninstall());
}
