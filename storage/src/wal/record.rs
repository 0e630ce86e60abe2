//! The bytes of one record: how they are framed, how they are chained by checksum.
//!
//! ```text
//! | length u64 LE | record (protobuf) | 0..7 zero bytes |
//!
//! length: low 56 bits = bytes of the record; top byte = 0x80 | padding, or 0 when there is none.
//! record: 1 type, 2 crc, 3 data
//! ```
//!
//! Frames start at multiples of eight, so that a length never straddles two sectors. The crc of a record is the
//! Castagnoli checksum of the data of *all* records up to and including it; a segment's first record hands the value
//! over from the segment before.

use forebay_proto::raftpb::Entry;

/// Bytes of the length in front of every record.
pub(super) const LENGTH_BYTES: u64 = 8;

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Metadata = 1,
    Entry = 2,
    State = 3,
    Crc = 4,
    Snapshot = 5,
}

impl Kind {
    fn from_varint(value: u64) -> Option<Self> {
        Some(match value {
            1 => Self::Metadata,
            2 => Self::Entry,
            3 => Self::State,
            4 => Self::Crc,
            5 => Self::Snapshot,
            _ => return None,
        })
    }
}

/// One parsed record, still in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    pub(super) data: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses exactly `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (record, used) = Self::parse_prefix(bytes)?;
        (used == bytes.len()).then_some(record)
    }

    /// Parses a record whose length is known from nothing but itself, and says where it ends.
    ///
    /// Every etcd writes the three fields in this order, so nothing else is accepted.
    pub(super) fn parse_prefix(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut cursor = Cursor { bytes, at: 0 };
        cursor.expect(0x08)?;
        let kind = Kind::from_varint(cursor.varint()?)?;
        cursor.expect(0x10)?;
        let crc = u32::try_from(cursor.varint()?).ok()?;
        let data = match cursor.expect(0x1a) {
            None => &[],
            Some(()) => {
                let len = usize::try_from(cursor.varint()?).ok()?;
                let end = cursor.at.checked_add(len).filter(|end| *end <= bytes.len())?;
                let data = &bytes[cursor.at..end];
                cursor.at = end;
                data
            }
        };
        Some((Self { kind, crc, data }, cursor.at))
    }

    /// Whether the record continues the chain that stands at `crc`. A crc record adds no data: it restates the chain.
    pub(super) fn continues(&self, crc: u32) -> bool {
        self.crc == self.chain(crc)
    }

    /// The chain after this record.
    pub(super) fn chain(&self, crc: u32) -> u32 {
        if self.kind == Kind::Crc { crc } else { crc32c::crc32c_append(crc, self.data) }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn expect(&mut self, tag: u8) -> Option<()> {
        let found = *self.bytes.get(self.at)?;
        (found == tag).then(|| self.at += 1)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// The length in front of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) record: u64,
    pub(super) padding: u64,
}

impl Length {
    fn of(record: usize) -> Self {
        let record = record as u64;
        Self { record, padding: record.wrapping_neg() % 8 }
    }

    fn to_field(self) -> u64 {
        let top = if self.padding == 0 { 0 } else { 0x80 | self.padding };
        self.record | top << 56
    }

    /// `None` when the top byte contradicts the length, which no writer produces.
    pub(super) fn from_field(field: u64) -> Option<Self> {
        let record = field & (u64::MAX >> 8);
        let length = Self { record, padding: record.wrapping_neg() % 8 };
        (length.to_field() == field).then_some(length)
    }

    /// Bytes from the start of the frame to the start of the next.
    pub(super) fn frame(self) -> u64 {
        LENGTH_BYTES + self.record + self.padding
    }
}

/// Appends records to a buffer and keeps the chain.
#[derive(Debug)]
pub(super) struct Encoder {
    buf: Vec<u8>,
    crc: u32,
}

impl Encoder {
    /// Continues a chain that stands at `crc`.
    pub(super) fn new(crc: u32) -> Self {
        Self { buf: Vec::new(), crc }
    }

    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Empties the buffer for the next append; a buffer grown by one huge batch is given back.
    pub(super) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 4 << 20;
        self.buf.clear();
        self.buf.shrink_to(KEPT_BYTES_MAX);
    }

    /// The record that opens a segment.
    pub(super) fn chain_start(&mut self) {
        let crc = self.crc;
        self.frame(Kind::Crc, crc, None);
    }

    pub(super) fn record(&mut self, kind: Kind, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.frame(kind, self.crc, Some((&[], data)));
    }

    /// An entry, its data copied once: from the entry into the buffer.
    pub(super) fn entry(&mut self, entry: &Entry) {
        let mut head = Head::default();
        for (tag, field) in [(0x08, entry.r#type.map(|kind| kind as u64)), (0x10, entry.term), (0x18, entry.index)] {
            if let Some(value) = field {
                head.varint_field(tag, value);
            }
        }
        let mut body: &[u8] = &[];
        if let Some(data) = &entry.data {
            head.varint_field(0x22, data.len() as u64);
            body = data;
        }
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, head.bytes()), body);
        self.frame(Kind::Entry, self.crc, Some((head.bytes(), body)));
    }

    fn frame(&mut self, kind: Kind, crc: u32, data: Option<(&[u8], &[u8])>) {
        let mut head = Head::default();
        head.varint_field(0x08, kind as u64);
        head.varint_field(0x10, u64::from(crc));
        let (first, second): (&[u8], &[u8]) = data.unwrap_or_default();
        if data.is_some() {
            head.varint_field(0x1a, (first.len() + second.len()) as u64);
        }
        let length = Length::of(head.bytes().len() + first.len() + second.len());
        self.buf.reserve(length.frame() as usize);
        self.buf.extend_from_slice(&length.to_field().to_le_bytes());
        self.buf.extend_from_slice(head.bytes());
        self.buf.extend_from_slice(first);
        self.buf.extend_from_slice(second);
        self.buf.extend_from_slice(&[0; 7][..length.padding as usize]);
    }
}

/// A few varint fields on the stack: at most four of eleven bytes.
struct Head {
    bytes: [u8; 44],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; 44], len: 0 }
    }
}

impl Head {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint_field(&mut self, tag: u8, mut value: u64) {
        self.push(tag);
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    fn frames(mut bytes: &[u8]) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = Length::from_field(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
            let record = Record::parse(&bytes[8..8 + length.record as usize]).unwrap();
            found.push((record.kind, record.crc, record.data.to_vec()));
            bytes = &bytes[length.frame() as usize..];
        }
        found
    }

    #[test]
    fn the_first_segment_opens_with_the_bytes_etcd_writes() {
        let mut encoder = Encoder::new(0);
        encoder.chain_start();
        assert_eq!(encoder.bytes(), b"\x04\0\0\0\0\0\0\x84\x08\x04\x10\0\0\0\0\0");
    }

    #[test]
    fn an_entry_is_encoded_as_prost_would() {
        let entries = [
            Entry::default(),
            Entry { term: Some(2), index: Some(u64::MAX), ..Entry::default() },
            Entry { r#type: Some(0), term: Some(0), index: Some(0), data: Some(Bytes::new()) },
            Entry { r#type: Some(1), term: Some(300), index: Some(1 << 40), data: Some(vec![7; 1000].into()) },
        ];
        let mut encoder = Encoder::new(17);
        let mut crc = 17;
        for entry in &entries {
            encoder.entry(entry);
        }
        for ((kind, found_crc, data), entry) in frames(encoder.bytes()).into_iter().zip(&entries) {
            crc = crc32c::crc32c_append(crc, &data);
            assert_eq!((kind, found_crc), (Kind::Entry, crc));
            assert_eq!(data, entry.encode_to_vec());
        }
        assert_eq!(encoder.crc(), crc);
        assert_eq!(encoder.bytes().len() % 8, 0);
    }

    #[test]
    fn a_length_whose_padding_does_not_fit_is_no_length() {
        assert_eq!(Length::from_field(0x84 << 56 | 4), Some(Length { record: 4, padding: 4 }));
        assert_eq!(Length::from_field(16), Some(Length { record: 16, padding: 0 }));
        assert_eq!(Length::from_field(4), None);
        assert_eq!(Length::from_field(0x83 << 56 | 4), None);
        assert_eq!(Length::from_field(0x80 << 56 | 16), None);
    }

    #[test]
    fn a_record_with_a_lying_inner_length_does_not_parse() {
        assert_eq!(Record::parse(b"\x08\x02\x10\x01\x1a\xff\xff\xff\xff\x0f"), None);
        assert_eq!(Record::parse(b"\x08\x02\x10\x01\x1a\x02a"), None);
        assert_eq!(Record::parse(b"\x08\x09\x10\x01"), None);
        assert_eq!(Record::parse(b"\x08\x02\x10\x01\x1a\x01ab"), None);
    }
}
