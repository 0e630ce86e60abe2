//! Names of segments, and which of them belong together.

use std::path::{Path, PathBuf};

use super::error::{Context as _, WalError};
use crate::disk::Disk;

/// `<sequence>-<index>.wal`, both as 16 hexadecimal digits.
///
/// Invariant: sequences count up by one without a gap; `index` is the first raft index the segment may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentName {
    pub(super) sequence: u64,
    pub(super) index: u64,
}

impl SegmentName {
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}-{:016x}.wal", self.sequence, self.index))
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |digits: &str| {
            let valid = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(Self { sequence: hex(sequence)?, index: hex(index)? })
    }
}

/// The segments of a directory, oldest first, checked to be without a gap.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, WalError> {
    let mut names: Vec<_> =
        disk.list(dir).context("list", dir)?.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable_by_key(|name| name.sequence);
    let wrong = |expected: String, found: String| WalError::Segments { path: dir.to_owned(), expected, found };
    if names.is_empty() {
        return Err(wrong("at least one segment".into(), "none".into()));
    }
    for pair in names.windows(2) {
        if pair[0].sequence + 1 != pair[1].sequence || pair[0].index > pair[1].index {
            let expected = format!("a segment {} after {:?}", pair[0].sequence + 1, pair[0].path(Path::new("")));
            return Err(wrong(expected, format!("{:?}", pair[1].path(Path::new("")))));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_a_round_trip_and_nothing_else_is_a_segment() {
        let name = SegmentName { sequence: 10, index: 0xabc };
        let path = name.path(Path::new("wal"));
        assert_eq!(path, Path::new("wal/000000000000000a-0000000000000abc.wal"));
        assert_eq!(SegmentName::parse("000000000000000a-0000000000000abc.wal"), Some(name));
        for other in [
            "0.tmp",
            "a-b.wal",
            "000000000000000a-0000000000000abc.wal.broken",
            "+00000000000000a-0000000000000abc.wal",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
