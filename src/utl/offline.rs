//! The commands that take one file or data directory.

use std::{path::PathBuf, time::Duration};

use forebay_utl::{
    check, files, hashkv, migrate,
    table::{self, Shape},
};

use super::{
    Done, Failure, Out,
    arguments::{only, read},
};
use crate::flags::{
    go,
    table::{Flag, Slot},
};

/// What these commands may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    data_dir: String,
    wal_dir: String,
    rev: i64,
    target_version: String,
    force: bool,
    timeout: go::Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data_dir: String::new(),
            wal_dir: String::new(),
            rev: 0,
            target_version: String::new(),
            force: false,
            timeout: go::Duration::from_secs(10),
        }
    }
}

#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Duration, Int, Text};
    let flag = Flag::new;
    vec![
        flag("utl migrate", "target-version", Text(|s| &mut s.target_version), "The release to make the file for: 3.5, 3.6 or 3.7."),
        flag("utl migrate", "force", Bool(|s| &mut s.force), "Even if the log holds what that release cannot apply."),
        flag("utl defrag, utl migrate", "data-dir", Text(|s| &mut s.data_dir), "The data directory of a stopped member."),
        flag("utl hashkv FILE", "rev", Int(|s| &mut s.rev), "The revision to hash up to; 0 for the last."),
        flag("utl check PATH", "wal-dir", Text(|s| &mut s.wal_dir), "Where the log is, if not in the data directory."),
        flag("All", "timeout", Duration(|s| &mut s.timeout), "How long to wait for the lock of a file; 0 for ever."),
    ]
}

impl Settings {
    fn wait(&self) -> Duration {
        self.timeout.to_std()
    }
}

pub(super) fn hashkv(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let path = files::db_path(&only("hashkv", read(&flags(), &mut settings, args)?)?);
    let hash = hashkv::hash_file(&path, settings.rev, settings.wait())?;
    Ok(out.write_all(hashkv::facts(&hash).print(shape).as_bytes())?)
}

pub(super) fn defrag(args: &[String], out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let words = read(&flags(), &mut settings, args)?;
    if settings.data_dir.is_empty() || !words.is_empty() {
        return Err(Failure::usage("defrag needs --data-dir, and nothing else"));
    }
    let path = files::db_path(&PathBuf::from(&settings.data_dir));
    let db = files::open_read_write(&path, settings.wait())?;
    let before = db.size();
    db.defragment().map_err(forebay_utl::Error::from)?;
    writeln!(out, "{}: {before} bytes before, {} after", path.display(), db.size())?;
    Ok(())
}

pub(super) fn check(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let path = only("check", read(&flags(), &mut settings, args)?)?;
    let wal_dir = (!settings.wal_dir.is_empty()).then(|| PathBuf::from(&settings.wal_dir));
    let checks = check::check(&path, wal_dir.as_deref(), settings.wait());
    let text = |check: &check::Check| match &check.found {
        Ok(found) => found.clone(),
        Err(error) => error.to_string(),
    };
    let word = |check: &check::Check| if check.found.is_ok() { "ok" } else { "WRONG" };
    match shape {
        Shape::Json => {
            let rows: Vec<_> = (checks.iter())
                .map(|check| {
                    let hint = check.found.as_ref().err().and_then(forebay_utl::Error::hint);
                    serde_json::json!({
                        "check": check.what, "ok": check.found.is_ok(), "found": text(check), "hint": hint,
                    })
                })
                .collect();
            writeln!(out, "{}", serde_json::Value::from(rows))?;
        }
        Shape::Table => {
            let rows: Vec<_> =
                checks.iter().map(|check| vec![check.what.to_owned(), word(check).to_owned(), text(check)]).collect();
            out.write_all(table::boxed(&["check", "result", "found"], &rows).as_bytes())?;
        }
        Shape::Simple | Shape::Fields => {
            for check in &checks {
                writeln!(out, "{:<9} {:<5} {}", check.what, word(check), text(check))?;
            }
        }
    }
    match checks.into_iter().find_map(|check| check.found.err()) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

pub(super) fn migrate(args: &[String], out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let words = read(&flags(), &mut settings, args)?;
    if settings.data_dir.is_empty() || settings.target_version.is_empty() || !words.is_empty() {
        return Err(Failure::usage("migrate needs --data-dir and --target-version, and no other word"));
    }
    let target = migrate::parse(&settings.target_version)?;
    let done = migrate::migrate(&PathBuf::from(&settings.data_dir), target, settings.force, settings.wait())?;
    writeln!(out, "{done}")?;
    Ok(())
}
