//! What a member's log complains about: zap's JSON, and the text of older releases.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Of a long log the end is read.
const BYTES_MAX: u64 = 64 << 20;

/// Texts of etcd that tell where time goes, and what each means.
const TELLING: [(&str, &str); 7] = [
    ("took too long", "slow requests"),
    ("slow fdatasync", "slow disk"),
    ("sync duration of", "slow disk"),
    ("failed to send out heartbeat on time", "overload or slow disk"),
    ("database space exceeded", "no space"),
    ("lost leader", "elections"),
    ("slow request", "slow requests"),
];

/// What was counted in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) path: String,
    /// Why it could not be read.
    pub(super) unread: Option<String>,
    pub(super) lines: usize,
    pub(super) errors: usize,
    /// The last line that is an error.
    pub(super) last_error: Option<String>,
    /// Of [`TELLING`]: what it means, and how many lines.
    pub(super) telling: Vec<(&'static str, usize)>,
}

pub(super) fn read(path: &Path) -> Log {
    let mut log = Log { path: path.display().to_string(), ..Log::default() };
    if let Err(error) = log.count_all(path) {
        log.unread = Some(error.to_string());
    }
    log
}

impl Log {
    fn count_all(&mut self, path: &Path) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        for line in BufReader::new(file.take(BYTES_MAX)).split(b'\n') {
            self.count(&String::from_utf8_lossy(&line?));
        }
        Ok(())
    }

    fn count(&mut self, line: &str) {
        self.lines += 1;
        if is_error(line) {
            self.errors += 1;
            self.last_error = Some(line.chars().take(200).collect());
        }
        for (text, meaning) in TELLING {
            if line.contains(text) {
                match self.telling.iter_mut().find(|(own, _)| *own == meaning) {
                    Some((_, count)) => *count += 1,
                    None => self.telling.push((meaning, 1)),
                }
            }
        }
    }
}

/// Whether a line is an error or worse: `"level":"error"`, or ` E | ` and ` C | ` before zap.
fn is_error(line: &str) -> bool {
    ["\"level\":\"error\"", "\"level\":\"fatal\"", "\"level\":\"panic\"", " E | ", " C | ", "\tERROR\t", "\tFATAL\t"]
        .iter()
        .any(|mark| line.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_telling_lines_are_counted_in_both_forms() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("etcd.log");
        let text = "{\"level\":\"info\",\"msg\":\"ok\"}\n{\"level\":\"error\",\"msg\":\"bad\"}\n\
                    2018-12-01 E | etcdserver: worse\n{\"level\":\"warn\",\"msg\":\"apply request took too long\"}\n\
                    {\"level\":\"warn\",\"msg\":\"slow fdatasync\"}\n";
        std::fs::write(&path, text).expect("written");
        let log = read(&path);
        assert_eq!((log.lines, log.errors), (5, 2));
        assert!(log.last_error.expect("one").contains("worse"));
        assert_eq!(log.telling, [("slow requests", 1), ("slow disk", 1)]);
        assert!(read(&dir.path().join("none")).unread.is_some());
    }
}
