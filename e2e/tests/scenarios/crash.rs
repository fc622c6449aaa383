//! The operator is killed at every write of an operation, one run for each, and started again: all ends are the undisturbed
//! one, and nothing is written afterwards. Enumerated, not sampled. Each write is hit at one moment by default, at the next
//! one at another; `HEADWATER_ENUMERATE=all` takes all three.

use headwater_e2e::{Fault, Kind, Phase};

use crate::harness::Site;
use crate::lane::Lane;
use crate::operation::{Operation, Outcome, in_turn, install, leap, others_left, prune, rollback, takeover, uninstall};

fn killed_at_every_write(operation: &Operation) {
    killed_and_judged(operation, |_, _, _| None);
}

fn killed_and_judged(operation: &Operation, judge: impl Fn(&Fault, &str, &Outcome) -> Option<String>) {
    let site = Site::hub(Kind::Plain);
    let phases = [Phase::Committed, Phase::Before, Phase::Answered].map(Fault::Kill);
    operation.enumerate(&Lane::new(&site), |n| in_turn(n, &phases), judge);
}

/// An install.
#[test]
fn killed_at_every_write_of_an_install() {
    killed_at_every_write(&install());
}

/// What another tool installed becomes ours.
#[test]
fn killed_at_every_write_of_a_takeover() {
    killed_and_judged(&takeover(), others_left);
}

/// An upgrade by two minors, with objects to migrate. By one it is the same writes.
#[test]
fn killed_at_every_write_of_a_leap() {
    killed_at_every_write(&leap());
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
