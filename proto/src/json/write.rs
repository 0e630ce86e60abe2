//! Encoded messages into JSON.
//!
//! An encoder writes fields in the order of their numbers, JSON wants the order of declaration, and
//! a field may even come in several pieces. So each message is first split into its fields, which
//! is a slice each, then they are put in order if they are not (they are), then written.

use super::{
    Error, MESSAGE_DEPTH_MAX,
    schema::{Field, Kind, Message, Schema},
};

/// Appends the JSON form of an encoded message.
pub(super) fn write(schema: &Schema, message: usize, protobuf: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    Writer { schema, out, entries: Vec::with_capacity(16) }.message(message, &[protobuf], 1)
}

struct Writer<'a, 'out> {
    schema: &'a Schema,
    out: &'out mut Vec<u8>,
    /// The fields of the message being written; below them those of the messages around it.
    entries: Vec<Entry<'a>>,
}

/// One occurrence of a field.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Position in the message's fields.
    field: usize,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Writer<'a, '_> {
    /// Writes a message that came in `pieces`, which is one unless somebody split it.
    fn message(&mut self, message: usize, pieces: &[&'a [u8]], depth: usize) -> Result<(), Error> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(Error::TooManyMessages);
        }
        let message = &self.schema.messages[message];
        let start = self.entries.len();
        self.collect(message, pieces)?;

        self.out.push(b'{');
        let empty = self.out.len();
        let mut at = start;
        while at < self.entries.len() {
            let position = self.entries[at].field;
            let same = self.entries[at..].iter().take_while(|entry| entry.field == position).count();
            self.field(&message.fields[position], at..at + same, empty, depth)?;
            at += same;
        }
        self.out.push(b'}');
        self.entries.truncate(start);
        Ok(())
    }

    /// Splits `pieces` into fields on top of `entries`, in the order of declaration.
    fn collect(&mut self, message: &Message, pieces: &[&'a [u8]]) -> Result<(), Error> {
        let start = self.entries.len();
        let mut in_order = true;
        let mut oneofs = 0_u64;
        let mut contested = false;
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let tag = varint(&mut rest)?;
                let value = match tag & 7 {
                    0 => Value::Number(varint(&mut rest)?),
                    1 => Value::Bytes(take(&mut rest, 8)?),
                    2 => {
                        let len = varint(&mut rest)?;
                        Value::Bytes(take(&mut rest, usize::try_from(len).map_err(|_| Error::Malformed)?)?)
                    }
                    5 => Value::Bytes(take(&mut rest, 4)?),
                    _ => return Err(Error::Malformed),
                };
                let number = u32::try_from(tag >> 3).map_err(|_| Error::Malformed)?;
                let Some(position) = message.by_number(number) else { continue };
                let field = &message.fields[position];
                check_wire_type(field, tag & 7)?;
                if let Some(oneof) = field.oneof {
                    contested |= oneofs & (1 << oneof) != 0;
                    oneofs |= 1 << oneof;
                }
                in_order &= self.entries[start..].last().is_none_or(|last| last.field <= position);
                self.entries.push(Entry { field: position, value });
            }
        }
        if contested {
            self.settle_oneofs(message, start);
        }
        if !in_order {
            self.entries[start..].sort_by_key(|entry| entry.field);
        }
        Ok(())
    }

    /// Of the members of a oneof, the one that came last counts.
    fn settle_oneofs(&mut self, message: &Message, start: usize) {
        for oneof in 0..message.oneofs.len() {
            let belongs = |entry: &Entry<'_>| message.fields[entry.field].oneof == Some(oneof);
            let Some(last) = self.entries[start..].iter().rev().copied().find(belongs) else { continue };
            let kept = self.entries.split_off(start);
            self.entries.extend(kept.into_iter().filter(|entry| !belongs(entry) || entry.field == last.field));
        }
    }

    /// Writes one field from all its occurrences.
    fn field(
        &mut self,
        field: &Field,
        entries: std::ops::Range<usize>,
        empty: usize,
        depth: usize,
    ) -> Result<(), Error> {
        if field.repeated {
            self.label(field, empty);
            self.out.push(b'[');
            for at in entries {
                if self.out.last() != Some(&b'[') {
                    self.out.push(b',');
                }
                self.element(field, self.entries[at].value, depth)?;
            }
            self.out.push(b']');
            return Ok(());
        }
        if let Kind::Message(message) = field.kind {
            self.label(field, empty);
            if let [Entry { value: Value::Bytes(piece), .. }] = self.entries[entries.clone()] {
                return self.message(message, &[piece], depth + 1);
            }
            let pieces: Vec<&[u8]> = self.entries[entries].iter().filter_map(|entry| entry.value.bytes()).collect();
            return self.message(message, &pieces, depth + 1);
        }
        // Of a scalar that came several times, the last counts.
        let value = self.entries[entries.end - 1].value;
        if field.oneof.is_none() && value.is_zero() {
            return Ok(());
        }
        self.label(field, empty);
        self.scalar(field, value)
    }

    /// Writes the comma, if this is not the first field, and the name.
    fn label(&mut self, field: &Field, empty: usize) {
        if self.out.len() > empty {
            self.out.push(b',');
        }
        self.out.extend_from_slice(&field.label);
    }

    /// Writes one occurrence of a repeated field: one element, or several packed numbers.
    fn element(&mut self, field: &Field, value: Value<'a>, depth: usize) -> Result<(), Error> {
        match (field.kind, value) {
            (Kind::Message(message), Value::Bytes(bytes)) => self.message(message, &[bytes], depth + 1),
            (Kind::String | Kind::Bytes, _) | (_, Value::Number(_)) => self.scalar(field, value),
            (_, Value::Bytes(mut packed)) => {
                let mut first = true;
                while !packed.is_empty() {
                    if !first {
                        self.out.push(b',');
                    }
                    first = false;
                    let number = varint(&mut packed)?;
                    self.scalar(field, Value::Number(number))?;
                }
                Ok(())
            }
        }
    }

    fn scalar(&mut self, field: &Field, value: Value<'a>) -> Result<(), Error> {
        match (field.kind, value) {
            (Kind::Bool, Value::Number(number)) => {
                self.out.extend_from_slice(if number == 0 { b"false" } else { b"true" });
            }
            (Kind::Int64, Value::Number(number)) => {
                self.out.push(b'"');
                signed(number.cast_signed(), self.out);
                self.out.push(b'"');
            }
            (Kind::Uint64, Value::Number(number)) => {
                self.out.push(b'"');
                decimal(number, self.out);
                self.out.push(b'"');
            }
            #[allow(clippy::cast_possible_truncation, reason = "as every protobuf decoder takes a 32-bit field")]
            (Kind::Uint32, Value::Number(number)) => decimal(u64::from(number as u32), self.out),
            #[allow(clippy::cast_possible_truncation, reason = "as every protobuf decoder takes an enum")]
            (Kind::Enum(index), Value::Number(number)) => match self.schema.enums[index].name(number as i32) {
                Some(name) => {
                    self.out.push(b'"');
                    self.out.extend_from_slice(name.as_bytes());
                    self.out.push(b'"');
                }
                None => signed(i64::from(number as i32), self.out),
            },
            (Kind::Bytes, Value::Bytes(bytes)) => {
                self.out.push(b'"');
                base64_simd::STANDARD.encode_append(bytes, self.out);
                self.out.push(b'"');
            }
            (Kind::String, Value::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| Error::Malformed)?;
                string(text, self.out);
            }
            _ => return Err(Error::Malformed),
        }
        Ok(())
    }
}

impl<'a> Value<'a> {
    fn is_zero(self) -> bool {
        match self {
            Value::Number(number) => number == 0,
            Value::Bytes(bytes) => bytes.is_empty(),
        }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Number(_) => None,
            Value::Bytes(bytes) => Some(bytes),
        }
    }
}

fn check_wire_type(field: &Field, wire_type: u64) -> Result<(), Error> {
    let fits = match field.kind {
        Kind::String | Kind::Bytes | Kind::Message(_) => wire_type == 2,
        _ => wire_type == 0 || (wire_type == 2 && field.repeated),
    };
    if fits { Ok(()) } else { Err(Error::Malformed) }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for (at, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(Error::Malformed)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Error::Malformed)?;
    *rest = left;
    Ok(taken)
}

fn signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    decimal(number.unsigned_abs(), out);
}

fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a JSON string: quotes, backslashes and control characters are escaped, nothing else.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
