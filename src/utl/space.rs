//! `utl space`: what fills a database.

use std::path::PathBuf;

use forebay_utl::{
    files,
    space::{By, Space},
    table::Shape,
};

use super::{Done, Failure, Out, arguments::read, live};
use crate::flags::{
    go,
    table::{Flag, Slot},
};

/// What it may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    prefix: String,
    depth: u64,
    by: String,
    auger: bool,
    tmp_dir: String,
    timeout: go::Duration,
    live: live::Settings,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            prefix: String::new(),
            depth: 2,
            by: "prefix".to_owned(),
            auger: false,
            tmp_dir: String::new(),
            timeout: go::Duration::from_secs(10),
            live: live::Settings::default(),
        }
    }
}

impl live::Asking for Settings {
    fn live(&mut self) -> &mut live::Settings {
        &mut self.live
    }
}

#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Choice, Duration, Text, Uint};
    const GROUP: &str = "utl space [PATH]";
    let flag = Flag::<Settings>::new;
    let mut flags: Vec<Flag<Settings>> = vec![
        flag(GROUP, "prefix", Text(|s| &mut s.prefix), "Only keys that begin with this."),
        flag(GROUP, "depth", Uint(|s| &mut s.depth), "How many names of a key make a prefix."),
        flag(GROUP, "by", Choice(|s| &mut s.by, &["prefix", "kind", "namespace"]), "What keys are put together by; kinds are those of Kubernetes."),
        flag(GROUP, "auger", Bool(|s| &mut s.auger), "A line for each key: bytes of all its values, its versions, itself; as auger prints all-versions-value-size,version-count,key."),
        flag(GROUP, "tmp-dir", Text(|s| &mut s.tmp_dir), "Where the snapshot of a running member goes while it is read."),
        flag(GROUP, "timeout", Duration(|s| &mut s.timeout), "How long to wait for the lock of a file; 0 for ever."),
    ];
    flags.extend(live::flags());
    flags
}

pub(super) fn run(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let words = read(&flags(), &mut settings, args)?;
    let by = match &settings.by[..] {
        "kind" => By::Kind,
        "namespace" => By::Namespace,
        _ => By::Prefix { depth: usize::try_from(settings.depth).unwrap_or(usize::MAX) },
    };
    // Gone with its file when the answer is written.
    let scratch;
    let path = match (&words[..], settings.live.endpoints.is_empty()) {
        ([path], true) => files::db_path(&PathBuf::from(path)),
        ([], false) => {
            let dir = if settings.tmp_dir.is_empty() { std::env::temp_dir() } else { settings.tmp_dir.clone().into() };
            scratch = tempfile::Builder::new().prefix("forebay-space-").tempdir_in(&dir)?;
            let path = scratch.path().join("snapshot.db");
            settings.live.save(&path)?;
            path
        }
        _ => return Err(Failure::usage("space takes a data directory or a file, or --endpoints of a running member")),
    };
    let db = files::open_read_only(&path, settings.timeout.to_std())?;
    let space = Space::read(&db, &path, settings.prefix.as_bytes())?;
    let text = match (settings.auger, shape) {
        (true, _) => space.auger(),
        (false, Shape::Json) => space.json(by),
        (false, _) => space.table(by),
    };
    Ok(out.write_all(text.as_bytes())?)
}
