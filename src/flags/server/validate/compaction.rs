//! `--auto-compaction-retention`: hours, a duration or revisions, as the mode says.

use std::time;

use crate::flags::{
    Problem,
    go::{self, Duration},
    server::Settings,
    server_config::AutoCompaction,
};

const MODES: &str = "--auto-compaction-mode takes periodic or revision";

pub(super) fn auto_compaction(settings: &Settings) -> Result<Option<AutoCompaction>, Problem> {
    let retention = settings.auto_compaction_retention.as_str();
    let retention = if retention.is_empty() { "0" } else { retention };
    match settings.auto_compaction_mode.as_str() {
        "periodic" => {
            let kept = period(retention)?;
            Ok((!kept.is_zero()).then_some(AutoCompaction::Periodic(kept)))
        }
        "revision" => match retention.parse() {
            Ok(0) => Ok(None),
            Ok(revisions) => Ok(Some(AutoCompaction::Revision(revisions))),
            Err(_) => Err(Problem::new(format!(
                "error parsing CompactionRetention: {} is no number of revisions",
                go::quote(retention)
            ))
            .hint("--auto-compaction-mode=revision takes revisions to keep, such as 1000")),
        },
        "" => Err(Problem::new("undefined auto-compaction-mode").hint(MODES)),
        other => Err(Problem::new(format!("unknown auto-compaction-mode {}", go::quote(other))).hint(MODES)),
    }
}

/// Hours when it is a bare number.
fn period(retention: &str) -> Result<time::Duration, Problem> {
    if let Ok(hours) = retention.parse::<u64>() {
        return match hours.checked_mul(3600) {
            Some(seconds) => Ok(time::Duration::from_secs(seconds)),
            None => Err(Problem::new(format!("--auto-compaction-retention of {hours} hours is too long"))
                .hint("0 keeps all history")),
        };
    }
    match Duration::parse(retention) {
        Ok(kept) if kept >= Duration(0) => Ok(kept.to_std()),
        Ok(_) => Err(Problem::new("--auto-compaction-retention must not be negative").hint("0 keeps all history")),
        Err(error) => Err(Problem::new(format!("error parsing CompactionRetention: {error}"))
            .hint("--auto-compaction-retention takes hours such as 1, or a duration such as 30m")),
    }
}
