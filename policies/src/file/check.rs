//! What can be read and makes no sense: contradictions, rules that starve somebody, rules about nothing.

use std::collections::HashMap;

use super::{
    LevelSpec, Problem, RuleSpec, Spec,
    locate::{Step, locate, write_path},
};
use crate::{
    builtin::{CATCH_ALL, EXEMPT},
    policy::OURS,
    suggest,
};

/// Something wrong with the document, and which node it is about.
#[derive(Debug)]
pub(super) struct Finding {
    path: Vec<Step>,
    text: String,
    hint: Option<String>,
}

impl Finding {
    /// Finds the line in the text the document was read from.
    pub fn locate(self, text: &str) -> Problem {
        // A key that was left out has no place; what should hold it has.
        let mut place = None;
        for end in (0..=self.path.len()).rev() {
            place = place.or_else(|| locate(text, &self.path[..end]));
        }
        let (line, column) = place.unwrap_or((0, 0));
        Problem { line, column, path: write_path(&self.path), text: self.text, hint: self.hint }
    }
}

/// Errors make a file unusable; warnings do not.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

pub(super) fn check(spec: &Spec) -> Findings {
    let mut findings = Findings::default();
    let _ = (&spec, &mut findings, CATCH_ALL, EXEMPT, OURS);
    findings
}
