//! `utl dump-logs`, or etcd-dump-logs: what stands in a log, and who wrote how much of it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use forebay_proto::raftpb::Entry;
use forebay_utl::{
    Error,
    logs::{self, Decoder, Filter, Log, Part, Totals},
    table::Shape,
};

use super::{
    Done, Failure, Out,
    arguments::{only, read},
};
use crate::flags::table::{Flag, Slot};

/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);

/// What it may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    start_snap: String,
    wal_dir: String,
    /// Empty when it was not given, which is not the same as 0.
    start_index: String,
    end_index: u64,
    entry_type: String,
    stream_decoder: String,
    raw: bool,
    follow: bool,
    top: bool,
    depth: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            start_snap: String::new(),
            wal_dir: String::new(),
            start_index: String::new(),
            end_index: u64::MAX,
            entry_type: Filter::DEFAULT.to_owned(),
            stream_decoder: String::new(),
            raw: false,
            follow: false,
            top: false,
            depth: 2,
        }
    }
}

/// etcd-dump-logs' flags, and ours.
#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Text, Uint};
    const GROUP: &str = "utl dump-logs DIR";
    let flag = Flag::new;
    vec![
        flag(GROUP, "start-snap", Text(|s| &mut s.start_snap), "The snapshot file to begin after; the newest if none is given."),
        flag(GROUP, "start-index", Text(|s| &mut s.start_index), "The first index."),
        flag(GROUP, "end-index", Uint(|s| &mut s.end_index), "The index before which to end."),
        flag(GROUP, "wal-dir", Text(|s| &mut s.wal_dir), "Where the log is, if not in the data directory."),
        flag(GROUP, "entry-type", Text(|s| &mut s.entry_type), "Which entries: Normal, ConfigChange, InternalRaftRequest, Request, IRRRange, IRRPut, IRRDeleteRange, IRRTxn, IRRCompaction, IRRLeaseGrant, IRRLeaseRevoke, IRRLeaseCheckpoint, with commas."),
        flag(GROUP, "stream-decoder", Text(|s| &mut s.stream_decoder), "A program that reads entries: lines of hex in, STATUS|TEXT out."),
        flag(GROUP, "raw", Bool(|s| &mut s.raw), "Print every record as it stands there, replaced entries included."),
        flag(GROUP, "follow", Bool(|s| &mut s.follow), "Go on with what is written from now on, until interrupted; the member may run."),
        flag(GROUP, "top", Bool(|s| &mut s.top), "Print who wrote how much, by prefix and user, instead of entries."),
        flag(GROUP, "depth", Uint(|s| &mut s.depth), "How many names of a key make a prefix for --top."),
    ]
}

pub(super) fn run(args: &[String], shape: Shape, out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let data_dir = only("dump-logs", read(&flags(), &mut settings, args)?)?;
    let start_index = match &settings.start_index[..] {
        "" => None,
        text => Some(text.parse().map_err(|_| Failure::usage(format!("--start-index: {text:?} is no index")))?),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let part = Part {
        data_dir,
        wal_dir: given(&settings.wal_dir).map(PathBuf::from),
        start_index,
        end_index: settings.end_index,
        start_snap: given(&settings.start_snap),
    };
    logs::check(&part)?;
    if settings.raw {
        if part.start_snap.is_some() || settings.entry_type != Filter::DEFAULT || !settings.stream_decoder.is_empty() {
            return Err(Failure::usage("--start-snap, --entry-type and --stream-decoder are not supported with --raw"));
        }
        let from = part.start_index.unwrap_or(0);
        return Ok(logs::raw(&part.wal_dir(), from, &mut |line| Ok(writeln!(out, "{line}")?))?);
    }
    let filter = Filter::read(&settings.entry_type)?;
    let log = Log::open(&part)?;
    if settings.top { top(log, &filter, &settings, shape, out) } else { entries(log, &filter, &settings, out) }
}

/// Prints who wrote how much.
fn top(mut log: Log, filter: &Filter, settings: &Settings, shape: Shape, out: Out<'_>) -> Done {
    let mut totals = Totals::new(usize::try_from(settings.depth).unwrap_or(usize::MAX));
    let print = |totals: &Totals, out: Out<'_>| {
        let text = if shape == Shape::Json { totals.json() } else { totals.table() };
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    log.entries(&mut |entry| {
        if filter.wants(entry) {
            totals.count(entry);
        }
        Ok(())
    })?;
    print(&totals, out)?;
    if !settings.follow {
        return Ok(());
    }
    loop {
        let mut counted = false;
        look_again(&mut log, &mut |entry| {
            if filter.wants(entry) {
                totals.count(entry);
                counted = true;
            }
            Ok(())
        })?;
        if counted {
            out.write_all(b"\n")?;
            print(&totals, out)?;
        }
    }
}

/// Prints entries as etcd-dump-logs does.
fn entries(mut log: Log, filter: &Filter, settings: &Settings, out: Out<'_>) -> Done {
    let command = &settings.stream_decoder;
    let mut decoder = (!command.is_empty()).then(|| Decoder::start(command)).transpose()?;
    out.write_all(log.head(decoder.is_some()).as_bytes())?;
    let mut count = 0;
    let mut print = |entry: &Entry, out: Out<'_>| -> Result<(), Error> {
        if !filter.wants(entry) {
            return Ok(());
        }
        count += 1;
        write!(out, "{}", logs::line(entry))?;
        if let Some(decoder) = &mut decoder {
            let (status, data) = decoder.decode(entry.data.as_deref().unwrap_or_default())?;
            write!(out, "\t{status}\t{data}")?;
        }
        Ok(writeln!(out)?)
    };
    log.entries(&mut |entry| print(entry, out))?;
    if settings.follow {
        loop {
            out.flush()?;
            look_again(&mut log, &mut |entry| print(entry, out))?;
        }
    }
    if log.is_torn() {
        // What etcd calls an unexpected end of file, and repairs at its next start as we do.
        let _ = writeln!(io::stderr(), "the log ends with a part of a record: torn, or being written");
    }
    Ok(out.write_all(logs::foot(&settings.entry_type, count).as_bytes())?)
}

/// Takes what was written meanwhile. A record that is being written may look damaged: the second look counts.
fn look_again(log: &mut Log, visit: &mut dyn FnMut(&Entry) -> Result<(), Error>) -> Done {
    thread::sleep(LOOK);
    let mut seen = 0u64;
    let looked = log.more(&mut |entry| {
        seen += 1;
        visit(entry)
    });
    let Err(Error::Wal(_)) = looked else { return Ok(looked?) };
    thread::sleep(LOOK);
    let mut again = 0u64;
    Ok(log.more(&mut |entry| {
        again += 1;
        if again > seen { visit(entry) } else { Ok(()) }
    })?)
}
