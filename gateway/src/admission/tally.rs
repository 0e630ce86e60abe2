//! Counts what a response carries while it passes: bytes, objects, and the count that a range states.
//!
//! The pieces are not kept. Reading hops from field to field of the top level, so a large value
//! costs as much as a small one.

use forebay_edge::grpc::PREFIX;

/// What passed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Bytes of the body, prefixes included.
    pub(crate) bytes: u64,
    /// Elements of the repeated field that was asked for.
    pub(crate) objects: u64,
    /// The last value of the varint field that was asked for.
    pub(crate) total: Option<u64>,
}

/// Which fields are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    /// The repeated field that holds the objects.
    objects: u32,
    /// The varint field that states how many there are in all.
    total: u32,
    /// A field to look into as if its content stood on the top level.
    inside: u32,
}

/// Of `RangeResponse`: its records and its count.
pub(crate) const RANGE: Fields = Fields { objects: 2, total: 4, inside: 0 };
/// Of `RangeStreamResponse`, which wraps a `RangeResponse`.
pub(crate) const RANGE_STREAM: Fields = Fields { objects: 2, total: 4, inside: 1 };
/// Of `WatchResponse`: its events.
pub(crate) const WATCH: Fields = Fields { objects: 11, total: 0, inside: 0 };
/// Nothing but bytes.
pub(crate) const NOTHING: Fields = Fields { objects: 0, total: 0, inside: 0 };

/// Follows one body.
#[derive(Debug)]
pub(crate) struct Tally {
    fields: Fields,
    counted: Counted,
    at: At,
    /// Bytes of the present message behind what was read.
    left: usize,
}

#[derive(Debug)]
enum At {
    Prefix {
        seen: usize,
        len: u32,
    },
    Key {
        value: u64,
        shift: u32,
    },
    Varint {
        tag: u32,
        value: u64,
        shift: u32,
    },
    Length {
        tag: u32,
        value: u64,
        shift: u32,
    },
    Content {
        left: usize,
    },
    /// No message that can be read; bytes are still counted.
    Lost,
}

impl Tally {
    pub(crate) fn new(fields: Fields) -> Tally {
        Tally { fields, counted: Counted::default(), at: At::Prefix { seen: 0, len: 0 }, left: 0 }
    }

    pub(crate) fn counted(&self) -> Counted {
        self.counted
    }

    /// Reads the next piece.
    pub(crate) fn read(&mut self, mut piece: &[u8]) {
        self.counted.bytes += piece.len() as u64;
        if self.fields.objects == 0 {
            return;
        }
        while let Some((&byte, rest)) = piece.split_first() {
            match &mut self.at {
                At::Lost => return,
                At::Prefix { seen, len } => {
                    if *seen > 0 {
                        *len = *len << 8 | u32::from(byte);
                    } else if byte != 0 {
                        self.at = At::Lost; // compressed
                        return;
                    }
                    *seen += 1;
                    if *seen == PREFIX {
                        self.left = *len as usize;
                        self.next_field();
                    }
                    piece = rest;
                }
                At::Content { left } => {
                    let taken = (*left).min(piece.len());
                    *left -= taken;
                    let ended = *left == 0;
                    self.left -= taken;
                    piece = &piece[taken..];
                    if ended {
                        self.next_field();
                    }
                }
                At::Key { value, shift } | At::Varint { value, shift, .. } | At::Length { value, shift, .. } => {
                    if self.left == 0 || *shift > 63 {
                        self.at = At::Lost;
                        return;
                    }
                    *value |= u64::from(byte & 0x7f) << *shift;
                    *shift += 7;
                    self.left -= 1;
                    piece = rest;
                    if byte < 0x80 {
                        self.number();
                    }
                }
            }
        }
    }

    /// A field ended; another one or another message begins.
    fn next_field(&mut self) {
        self.at = if self.left == 0 { At::Prefix { seen: 0, len: 0 } } else { At::Key { value: 0, shift: 0 } };
    }

    /// A varint ended.
    fn number(&mut self) {
        match self.at {
            At::Key { value, .. } => {
                let tag = (value >> 3) as u32;
                self.at = match value & 7 {
                    0 => At::Varint { tag, value: 0, shift: 0 },
                    1 => At::Content { left: 8 },
                    2 => At::Length { tag, value: 0, shift: 0 },
                    5 => At::Content { left: 4 },
                    _ => At::Lost,
                };
                if matches!(self.at, At::Content { left } if left > self.left) {
                    self.at = At::Lost;
                }
            }
            At::Varint { tag, value, .. } => {
                if tag == self.fields.total {
                    self.counted.total = Some(value);
                }
                self.next_field();
            }
            At::Length { tag, value, .. } => {
                self.counted.objects += u64::from(tag == self.fields.objects);
                match usize::try_from(value) {
                    Ok(len) if len > self.left => self.at = At::Lost,
                    Ok(len) if len > 0 && tag != self.fields.inside => self.at = At::Content { left: len },
                    _ => self.next_field(),
                }
            }
            _ => unreachable!("only numbers end here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_edge::grpc;
    use forebay_proto::{
        etcdserverpb::{RangeResponse, RangeStreamResponse, ResponseHeader, WatchResponse},
        mvccpb::{Event, KeyValue},
    };

    use super::*;

    fn range(records: usize, count: i64) -> RangeResponse {
        let record = KeyValue { key: "k".into(), value: vec![2; 300].into(), ..Default::default() };
        let header = ResponseHeader { cluster_id: u64::MAX, revision: 1 << 40, ..Default::default() };
        RangeResponse { header: Some(header), kvs: vec![record; records], count, more: true }
    }

    fn counted(fields: Fields, body: &[u8], size: usize) -> Counted {
        let mut tally = Tally::new(fields);
        body.chunks(size).for_each(|piece| tally.read(piece));
        tally.counted()
    }

    #[test]
    fn objects_are_counted_however_the_body_is_cut() {
        let one = grpc::encode(&range(3, 12_345));
        let streamed = RangeStreamResponse { range_response: Some(range(4, 7)) };
        let streamed = [grpc::encode(&streamed), grpc::encode(&streamed)].concat();
        let events = WatchResponse { events: vec![Event::default(), Event::default()], ..Default::default() };
        let events = grpc::encode(&events);
        for size in [1, 2, 3, 7, 100, 1000, 10_000] {
            let bytes = |body: &[u8]| body.len() as u64;
            let want = Counted { bytes: bytes(&one), objects: 3, total: Some(12_345) };
            assert_eq!(counted(RANGE, &one, size), want, "pieces of {size}");
            let want = Counted { bytes: bytes(&streamed), objects: 8, total: Some(7) };
            assert_eq!(counted(RANGE_STREAM, &streamed, size), want, "pieces of {size}");
            let want = Counted { bytes: bytes(&events), objects: 2, total: None };
            assert_eq!(counted(WATCH, &events, size), want, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_still_measured() {
        for bytes in [
            &b"\x01\0\0\0\x02ab"[..],
            b"\0\0\0\0\x02\x12\x7f",
            b"\0\0\0\0\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let counted = counted(RANGE, bytes, 3);
            assert_eq!((counted.bytes, counted.total), (bytes.len() as u64, None), "{bytes:?}");
        }
    }
}
