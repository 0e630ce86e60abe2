//! The checker is checked: honest histories pass, and everything that is planted into them is found.

mod honest;
mod planted;
mod written;

use super::*;

/// The promises that a history breaks.
fn kinds(history: &History) -> Vec<Kind> {
    check(history).violations.iter().map(|violation| violation.kind).collect()
}
