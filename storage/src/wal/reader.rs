//! Walks the records of one segment and judges where it ends.
//!
//! A log may end in four ways, and only two of them may be cut off:
//! - **end**: the file is over, or its preallocated zeros begin;
//! - **torn**: the last write did not reach the disk as a whole. The file stops inside a record, or a record does not
//!   check and one of its sectors is all zero. It was never synced, hence never acknowledged;
//! - **damaged**: a record does not check and every sector of it was written: the disk changed what was synced;
//! - **misframed**: a length points elsewhere although the record behind it is whole by its own checksum. etcd takes
//!   this one for a torn write and drops every acknowledged record after it. A length lies within one sector, which is
//!   written whole or not at all, so here it counts as damage.

use std::{io, path::Path};

use super::{
    error::{Context as _, WalError},
    record::{Kind, LENGTH_BYTES, Length, Record},
};
use crate::disk::DiskFile;

/// Unit of atomic writes that torn records are judged by.
const SECTOR_BYTES: u64 = 512;

/// What stands at the reader's position.
#[derive(Debug)]
pub(super) enum Step<'a> {
    Record { offset: u64, record: Record<'a> },
    End { offset: u64 },
    Torn { offset: u64 },
}

pub(super) struct Reader<'f> {
    path: &'f Path,
    window: Window<'f>,
    /// Only the last segment can be torn: the others were synced before their successor appeared.
    is_last: bool,
    offset: u64,
    /// The chain so far; `None` in front of the first segment that is read.
    crc: Option<u32>,
}

impl<'f> Reader<'f> {
    pub(super) fn new(
        path: &'f Path,
        file: &'f dyn DiskFile,
        is_last: bool,
        crc: Option<u32>,
    ) -> Result<Self, WalError> {
        Self::resume(path, file, is_last, crc, 0)
    }

    /// Goes on behind the records before `offset`, after which the chain stands at `crc`.
    pub(super) fn resume(
        path: &'f Path,
        file: &'f dyn DiskFile,
        is_last: bool,
        crc: Option<u32>,
        offset: u64,
    ) -> Result<Self, WalError> {
        let len = file.len().context("read the length of", path)?.max(offset);
        Ok(Self { path, window: Window { file, len, start: 0, buf: Vec::new() }, is_last, offset, crc })
    }

    /// The chain after the records read so far.
    pub(super) fn crc(&self) -> Option<u32> {
        self.crc
    }

    /// The next record. After anything but a record, there is nothing more to ask.
    pub(super) fn next(&mut self) -> Result<Step<'_>, WalError> {
        let offset = self.offset;
        let rest = self.window.len - offset;
        if rest == 0 {
            return Ok(Step::End { offset });
        }
        if rest < LENGTH_BYTES {
            return self.torn(offset);
        }
        let field = u64::from_le_bytes(self.fill(offset, 8)?.try_into().expect("eight bytes were asked for"));
        if field == 0 {
            // A length that ends its sector may be missing alone, when the next sector of the same write made it.
            let ends_sector = (offset + LENGTH_BYTES).is_multiple_of(SECTOR_BYTES);
            if !ends_sector && self.is_misframed(offset, 0)? {
                return Err(self.misframed(offset, field));
            }
            return Ok(Step::End { offset });
        }
        let length = match Length::from_field(field) {
            Some(length) if length.record + length.padding <= rest - LENGTH_BYTES => length,
            Some(length) if !self.is_misframed(offset, length.record)? => return self.torn(offset),
            _ => return Err(self.misframed(offset, field)),
        };
        if self.checked(offset, length)?.is_none() {
            if self.is_misframed(offset, length.record)? {
                return Err(self.misframed(offset, field));
            }
            if self.has_zero_sector(offset, length)? {
                return self.torn(offset);
            }
            return Err(self.mismatch(offset, length));
        }
        self.offset += length.frame();
        // Parsed once more because the borrow of the first parse would outlive the branches above; it is a few bytes.
        let record = Record::parse(self.fill(offset + LENGTH_BYTES, length.record)?).expect("parsed above");
        Ok(Step::Record { offset, record })
    }

    /// Takes the chain one record further, if the frame at `offset` holds one that continues it.
    fn checked(&mut self, offset: u64, length: Length) -> Result<Option<()>, WalError> {
        let crc = self.crc;
        let Some(record) = Record::parse(self.fill(offset + LENGTH_BYTES, length.record)?) else { return Ok(None) };
        let opens = record.kind == Kind::Crc;
        if opens != (offset == 0) || (opens && !record.data.is_empty()) {
            return Ok(None);
        }
        let before = crc.unwrap_or(record.crc);
        if !record.continues(before) {
            return Ok(None);
        }
        let after = record.crc;
        self.crc = Some(after);
        Ok(Some(()))
    }

    /// Whether a whole record follows the length at `offset`, only not as long as the length says.
    fn is_misframed(&mut self, offset: u64, claimed: u64) -> Result<bool, WalError> {
        let (crc, start) = (self.crc, offset + LENGTH_BYTES);
        if self.fill(start, 1)?.first() != Some(&0x08) {
            return Ok(false);
        }
        let rest = self.window.len - start;
        let parsed = Record::parse_prefix(self.fill(start, rest)?);
        Ok(parsed.is_some_and(|(record, used)| used as u64 != claimed && crc.is_none_or(|crc| record.continues(crc))))
    }

    fn has_zero_sector(&mut self, offset: u64, length: Length) -> Result<bool, WalError> {
        let start = offset + LENGTH_BYTES;
        let mut bytes = self.fill(start, length.record + length.padding)?;
        let mut first = SECTOR_BYTES - start % SECTOR_BYTES;
        while !bytes.is_empty() {
            let (sector, rest) = bytes.split_at(bytes.len().min(first as usize));
            if sector.iter().all(|byte| *byte == 0) {
                return Ok(true);
            }
            (bytes, first) = (rest, SECTOR_BYTES);
        }
        Ok(false)
    }

    fn torn(&self, offset: u64) -> Result<Step<'static>, WalError> {
        if self.is_last {
            return Ok(Step::Torn { offset });
        }
        Err(self.corrupt(offset, "a whole record, since later segments exist".into(), "a torn one".into()))
    }

    fn mismatch(&mut self, offset: u64, length: Length) -> WalError {
        let crc = self.crc;
        let (expected, found) = match self.fill(offset + LENGTH_BYTES, length.record).map(Record::parse) {
            Ok(Some(record)) => match crc {
                _ if (record.kind == Kind::Crc) != (offset == 0) => {
                    ("a crc record at the start of the segment and only there".to_owned(), format!("{:?}", record.kind))
                }
                Some(crc) => (format!("checksum {:08x}", record.chain(crc)), format!("{:08x}", record.crc)),
                None => ("a crc record without data".to_owned(), format!("{} bytes", record.data.len())),
            },
            _ => (format!("a record of {} bytes", length.record), "bytes that are none".to_owned()),
        };
        self.corrupt(offset, expected, found)
    }

    fn misframed(&self, offset: u64, field: u64) -> WalError {
        self.corrupt(offset, "the length of the record that follows".into(), format!("{field:#018x}"))
    }

    fn corrupt(&self, offset: u64, expected: String, found: String) -> WalError {
        WalError::Corrupt { path: self.path.to_owned(), offset, expected, found }
    }

    fn fill(&mut self, offset: u64, want: u64) -> Result<&[u8], WalError> {
        self.window.fill(offset, want).context("read", self.path)
    }
}

/// A window over the file that slides forward.
struct Window<'f> {
    file: &'f dyn DiskFile,
    len: u64,
    start: u64,
    buf: Vec<u8>,
}

impl Window<'_> {
    /// The bytes `[offset, offset + want)`, fewer where the file ends. Allocates no more than the file holds.
    fn fill(&mut self, offset: u64, want: u64) -> io::Result<&[u8]> {
        const CHUNK_BYTES: u64 = 256 << 10;
        let end = offset.saturating_add(want).min(self.len);
        let buffered = self.start..self.start + self.buf.len() as u64;
        if !(buffered.contains(&offset) && end <= buffered.end) {
            let read = (end.max(offset + CHUNK_BYTES).min(self.len) - offset) as usize;
            self.buf.resize(read, 0);
            self.start = offset;
            let filled = self.file.read_at(&mut self.buf, offset)?;
            if filled < read {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buf[from..from + (end - offset) as usize])
    }
}
