//! Policy files as the command line meets them: findings become sentences with the file's name.

use std::path::Path;

use forebay_policies::file::{self, Loaded};

use crate::flags::{Problem, file::os_text};

/// Reads a file, or says everything that is wrong with it. With the file come its warnings.
pub fn read(path: &str) -> Result<(Loaded, Vec<Problem>), Vec<Problem>> {
    let bytes = std::fs::read(Path::new(path))
        .map_err(|error| vec![Problem::new(format!("open {path}: {}", os_text(&error)))])?;
    let text = String::from_utf8(bytes).map_err(|_| vec![Problem::new(format!("{path}: not UTF-8"))])?;
    let problems = |found: &[file::Problem], kind: &str| -> Vec<Problem> {
        found.iter().map(|problem| sentence(path, kind, problem)).collect()
    };
    let loaded = file::load(&text).map_err(|found| problems(&found, ""))?;
    let warnings = problems(&loaded.warnings, "warning: ");
    Ok((loaded, warnings))
}

/// `FILE:LINE:COLUMN` in front, which editors jump to.
fn sentence(path: &str, kind: &str, found: &file::Problem) -> Problem {
    let file::Problem { line, column, path: node, text, hint } = found;
    let node = if node.is_empty() { String::new() } else { format!("{node}: ") };
    Problem { text: format!("{path}:{line}:{column}: {kind}{node}{text}"), hint: hint.clone() }
}
