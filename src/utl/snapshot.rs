//! `utl snapshot`: save, status, restore, verify.

use std::path::PathBuf;

use forebay_utl::{gotext, hashkv, restore::Restore, status, table::Shape, verify};

use super::{
    Done, Failure, Out,
    arguments::{only, read},
    live, unknown,
};
use crate::flags::{
    Problem,
    table::{Flag, Kind, Slot},
    url::Url,
};

const VERBS: [&str; 4] = ["save", "status", "restore", "verify"];

pub(super) fn run(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let Some((verb, rest)) = args.split_first() else {
        return Err(Failure::usage(format!("snapshot needs a verb: {}", VERBS.join(", "))));
    };
    match verb.as_str() {
        "status" => {
            let path = only("snapshot status", read(&[], &mut (), rest)?)?;
            Ok(out.write_all(status::facts(&status::status(&path)?).print(shape).as_bytes())?)
        }
        "save" => save(rest, out),
        "restore" => restore(rest, out),
        "verify" => verify(rest, shape, out),
        other => Err(unknown("verb", other, &VERBS)),
    }
}

/// What a restore may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    data_dir: String,
    wal_dir: String,
    name: String,
    initial_cluster: String,
    token: String,
    peer_urls: Vec<Url>,
    skip_hash_check: bool,
    bump_revision: u64,
    mark_compacted: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data_dir: String::new(),
            wal_dir: String::new(),
            name: "default".to_owned(),
            initial_cluster: "default=http://localhost:2380".to_owned(),
            token: "etcd-cluster".to_owned(),
            peer_urls: Url::parse_list("http://localhost:2380").expect("a URL is one"),
            skip_hash_check: false,
            bump_revision: 0,
            mark_compacted: false,
        }
    }
}

const RESTORE: &str = "utl snapshot restore FILE";

/// etcdutl's flags.
#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Text, Uint, Unused, Urls};
    let flag = Flag::new;
    vec![
        flag(RESTORE, "data-dir", Text(|s| &mut s.data_dir), "The new data directory; NAME.etcd if none is given."),
        flag(RESTORE, "wal-dir", Text(|s| &mut s.wal_dir), "Where the log goes, if not into the data directory."),
        flag(RESTORE, "name", Text(|s| &mut s.name), "The name of this member."),
        flag(RESTORE, "initial-cluster", Text(|s| &mut s.initial_cluster), "All members of the new cluster, as name=url,name=url."),
        flag(RESTORE, "initial-cluster-token", Text(|s| &mut s.token), "Keeps clusters of the same URLs apart."),
        flag(RESTORE, "initial-advertise-peer-urls", Urls(|s| &mut s.peer_urls), "This member's URLs in the new cluster."),
        flag(RESTORE, "skip-hash-check", Bool(|s| &mut s.skip_hash_check), "Take a file whose hash is missing, as one copied from a data directory, or wrong."),
        flag(RESTORE, "bump-revision", Uint(|s| &mut s.bump_revision), "How much later new revisions begin than the snapshot ends."),
        flag(RESTORE, "mark-compacted", Bool(|s| &mut s.mark_compacted), "End all watches from before the bump; goes with --bump-revision."),
        flag(RESTORE, "initial-memory-map-size", Unused(Kind::Uint, "files are not mapped into memory"), "Accepted."),
    ]
}

fn restore(args: &[String], out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let snapshot = only("snapshot restore", read(&flags(), &mut settings, args)?)?;
    let Settings { data_dir, wal_dir, name, token, skip_hash_check, bump_revision, mark_compacted, .. } = settings;
    if mark_compacted != (bump_revision > 0) {
        let problem = Problem::new("--mark-compacted required if --bump-revision > 0");
        return Err(Failure::Usage(vec![problem.hint("give both, or none")]));
    }
    let mut peer_urls: Vec<String> = settings.peer_urls.iter().map(Url::to_string).collect();
    peer_urls.sort_unstable();
    let restore = Restore {
        snapshot,
        data_dir: PathBuf::from(if data_dir.is_empty() { format!("{name}.etcd") } else { data_dir }),
        wal_dir: (!wal_dir.is_empty()).then(|| PathBuf::from(wal_dir)),
        initial_cluster: initial_cluster(&settings.initial_cluster)?,
        name,
        peer_urls,
        token,
        skip_hash_check,
        bump_revision,
    };
    let restored = restore.run()?;
    writeln!(
        out,
        "restored {} to {}: member {:x} of cluster {:x}, revision {}",
        restore.snapshot.display(),
        restore.data_dir.display(),
        restored.member_id,
        restored.cluster_id,
        restored.revision
    )?;
    Ok(())
}

fn save(args: &[String], out: Out<'_>) -> Done {
    let mut settings = live::Settings::default();
    let path = only("snapshot save", read(&live::flags(), &mut settings, args)?)?;
    if settings.endpoints.is_empty() {
        settings.endpoints.push("127.0.0.1:2379".to_owned());
    }
    let saved = settings.save(&path)?;
    writeln!(out, "Snapshot saved at {} ({})", path.display(), gotext::humane_bytes(saved.size))?;
    if !saved.version.is_empty() {
        writeln!(out, "Server version {}", saved.version)?;
    }
    Ok(())
}

/// What a verification may be told.
#[derive(Clone, Debug, Default)]
pub struct VerifySettings {
    tmp_dir: String,
    skip_hash_check: bool,
}

#[rustfmt::skip]
pub fn verify_flags() -> Vec<Flag<VerifySettings>> {
    const GROUP: &str = "utl snapshot verify FILE";
    vec![
        Flag::new(GROUP, "tmp-dir", Slot::Text(|s| &mut s.tmp_dir), "Where it is restored to and removed again; the directory of temporary files if none is given."),
        Flag::new(GROUP, "skip-hash-check", Slot::Bool(|s| &mut s.skip_hash_check), "Take a file whose hash is missing or wrong."),
    ]
}

fn verify(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let mut settings = VerifySettings::default();
    let path = only("snapshot verify", read(&verify_flags(), &mut settings, args)?)?;
    let scratch = match &settings.tmp_dir[..] {
        "" => std::env::temp_dir(),
        dir => PathBuf::from(dir),
    };
    let verified = verify::verify(&path, &scratch, settings.skip_hash_check)?;
    out.write_all(status::facts(&verified.status).print(shape).as_bytes())?;
    out.write_all(hashkv::facts(&verified.hash).print(shape).as_bytes())?;
    if shape == Shape::Simple {
        writeln!(out, "{} restores, and what is restored is what was saved", path.display())?;
    }
    Ok(())
}

/// `name=url,name=url`; a name may come again with another URL.
fn initial_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let wrong = |part: &str, why: &str| {
        let problem = Problem::new(format!("--initial-cluster: {part:?} {why}"));
        Failure::Usage(vec![problem.hint("write name=http://host:2380 for each member, with commas")])
    };
    let mut members: Vec<(String, Vec<String>)> = Vec::new();
    for part in text.split(',') {
        let (name, url) = part.trim().split_once('=').ok_or_else(|| wrong(part, "has no ="))?;
        let url = Url::parse(url).map_err(|why| wrong(part, &why))?.to_string();
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url),
            None => members.push((name.to_owned(), vec![url])),
        }
    }
    Ok(members)
}
