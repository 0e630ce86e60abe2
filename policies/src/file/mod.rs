//! The policy file: text in, a [`Policy`] or everything that is wrong with it out.
//!
//! The text is read three times. Against the schema, which finds every unknown key; into the types of [`document`],
//! which finds the first value that cannot be read; and by [`check`], which finds all that can be read and makes no
//! sense. Every finding has its line and column.

mod check;
mod diff;
mod document;
mod locate;
mod quotas;
mod resolve;
mod schema;

use std::fmt;

use crate::Policy;
pub use diff::{Difference, diff};
pub use document::{
    Allowed, CodelSpec, Distinguisher, Document, Hard, LevelSpec, Mode, NamespaceSpec, OnLimit, QuotaSpec, RuleSpec,
    Scope, Segment, Spec,
};
pub use quotas::{QUOTAS_MAX, quotas_from_json, quotas_to_json};
pub use schema::SCHEMA;

/// A file that can be used.
#[derive(Debug)]
pub struct Loaded {
    pub policy: Policy,
    /// What is allowed and hardly meant.
    pub warnings: Vec<Problem>,
    /// The file as it was read.
    pub document: Document,
}

/// Something wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 where the place is not known.
    pub line: usize,
    pub column: usize,
    /// Where in the document, as `spec.flowRules[2].limits`; empty for the document.
    pub path: String,
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// How large a file may be.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// How many findings are reported: to find the place of one means to read the file again.
const FINDINGS_MAX: usize = 50;

/// Reads a policy file.
pub fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(vec![Problem::whole(format!("the file has more than {FILE_BYTES_MAX} bytes"))]);
    }
    let unknown = schema::unknown_keys(text)?;
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let document: Document = yaml_serde::from_str(text).map_err(|error| vec![Problem::of_yaml(&error)])?;
    let findings = check::check(&document.spec);
    let located = |findings: Vec<check::Finding>| {
        findings.into_iter().take(FINDINGS_MAX).map(|finding| finding.locate(text)).collect()
    };
    if !findings.errors.is_empty() {
        return Err(located(findings.errors));
    }
    Ok(Loaded { policy: resolve::policy(&document), warnings: located(findings.warnings), document })
}

impl Problem {
    fn whole(text: String) -> Problem {
        Problem { line: 1, column: 1, path: String::new(), text, hint: None }
    }

    fn of_yaml(error: &yaml_serde::Error) -> Problem {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let text = error.to_string();
        // The place stands in front already.
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        Problem { line, column, path: String::new(), text: text.to_owned(), hint: None }
    }
}

#[cfg(test)]
mod tests;
