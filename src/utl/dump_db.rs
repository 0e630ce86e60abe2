//! `utl dump-db`, or etcd-dump-db: what stands in a db file.

use std::path::Path;

use forebay_utl::{buckets, files};

use super::{Done, Failure, Out, arguments::read, unknown};
use crate::flags::{
    go,
    table::{Flag, Slot},
};

const VERBS: [&str; 4] = ["list-bucket", "iterate-bucket", "scan-keys", "hash"];

/// What it may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    limit: u64,
    decode: bool,
    timeout: go::Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { limit: 0, decode: false, timeout: go::Duration::from_secs(10) }
    }
}

#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Duration, Uint};
    const GROUP: &str = "utl dump-db list-bucket|iterate-bucket|scan-keys|hash PATH [BUCKET|REVISION]";
    let flag = Flag::new;
    vec![
        flag(GROUP, "limit", Uint(|s| &mut s.limit), "How many entries to print; 0 for all."),
        flag(GROUP, "decode", Bool(|s| &mut s.decode), "Print what values mean instead of their bytes."),
        flag(GROUP, "timeout", Duration(|s| &mut s.timeout), "How long to wait for the lock of a file; 0 for ever."),
    ]
}

pub(super) fn run(args: &[String], out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let words = read(&flags(), &mut settings, args)?;
    let Some((verb, words)) = words.split_first() else {
        return Err(Failure::usage(format!("dump-db needs a verb: {}", VERBS.join(", "))));
    };
    let wait = settings.timeout.to_std();
    match (verb.as_str(), words) {
        ("list-bucket", [path]) => {
            let db = files::open_read_only(&files::db_path(Path::new(path)), wait)?;
            Ok(out.write_all(buckets::list(&db)?.as_bytes())?)
        }
        ("iterate-bucket", [path, bucket]) => {
            let db = files::open_read_only(&files::db_path(Path::new(path)), wait)?;
            Ok(buckets::iterate(&db.begin_read(), bucket, settings.limit, settings.decode, &mut |line| {
                Ok(writeln!(out, "{line}")?)
            })?)
        }
        ("scan-keys", [path, revision]) => {
            let start = go::parse_int(revision)
                .map_err(|error| Failure::usage(format!("{revision:?} is no revision: {}", error.flag_text())))?;
            let path = files::db_path(Path::new(path));
            Ok(buckets::scan_keys(&path, start, &mut |line| Ok(writeln!(out, "{line}")?), &mut |complaint| {
                eprintln!("{complaint}");
            })?)
        }
        ("hash", [path]) => {
            let path = files::db_path(Path::new(path));
            let db = files::open_read_only(&path, wait)?;
            Ok(out.write_all(buckets::hash(&db, &path)?.as_bytes())?)
        }
        (verb, _) if VERBS.contains(&verb) => Err(Failure::usage(format!("dump-db {verb}: wrong number of words"))),
        (other, _) => Err(unknown("verb", other, &VERBS)),
    }
}
