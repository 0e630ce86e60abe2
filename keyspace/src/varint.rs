//! Protocol buffers by hand, for the few messages that are written on every request.
//!
//! A message's length is asked for before it is written, so that a buffer is allocated once; hence every writer here
//! has its `_len` beside it. Field numbers up to 15 are enough for all of them, so a tag is one byte.

use bytes::BufMut;

/// The tag of a varint field.
pub(crate) const fn varint_tag(field: u8) -> u8 {
    field << 3
}

/// The tag of a length-delimited field.
pub(crate) const fn bytes_tag(field: u8) -> u8 {
    field << 3 | 2
}

/// How many bytes `value` takes as a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    // One byte for each seven bits begun; zero takes one as well.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

/// Writes `value` as a varint.
pub(crate) fn put_varint(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a varint; `None` when the bytes end before it does, or when it is longer than 64 bits.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return if shift == 63 && byte > 1 { None } else { Some(value) };
        }
    }
    None
}

/// The length of an `int64` or `bool` field; a zero is left out, as proto3 wants it.
pub(crate) const fn int_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

/// Writes an `int64` or `bool` field.
pub(crate) fn put_int_field(field: u8, value: i64, out: &mut impl BufMut) {
    if value != 0 {
        out.put_u8(varint_tag(field));
        put_varint(value as u64, out);
    }
}

/// The length of a `bytes` field; an empty one is left out.
pub(crate) const fn bytes_field_len(len: usize) -> usize {
    if len == 0 { 0 } else { message_field_len(len) }
}

/// Writes a `bytes` field.
pub(crate) fn put_bytes_field(field: u8, value: &[u8], out: &mut impl BufMut) {
    if !value.is_empty() {
        put_message_head(field, value.len(), out);
        out.put_slice(value);
    }
}

/// The length of a field that holds a message of `len` bytes. A message that is set and empty is written all the same.
pub(crate) const fn message_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Writes what stands before the bytes of a message field.
pub(crate) fn put_message_head(field: u8, len: usize, out: &mut impl BufMut) {
    out.put_u8(bytes_tag(field));
    put_varint(len as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_as_long_as_said_and_reads_back() {
        for bit in 0..64 {
            for value in [1u64 << bit, (1 << bit) - 1, (1 << bit) | 1] {
                let mut out = Vec::new();
                put_varint(value, &mut out);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(take_varint(&mut &out[..]), Some(value));
                assert_eq!(take_varint(&mut &out[..out.len() - 1]), None);
            }
        }
        assert_eq!(take_varint(&mut &[0xff; 10][..]), None, "more than 64 bits");
    }
}
