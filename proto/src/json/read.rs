//! JSON into encoded messages, with the leniencies of Go's protojson and no others.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    Error, MESSAGE_DEPTH_MAX, Position, number,
    schema::{Field, Kind, Message, Schema},
};

/// Appends the encoding of the message that `text` describes.
///
/// `text` is one JSON value with white space around it, as [`super::Values`] takes it out of a
/// body; so only what the grammar leaves open is checked here.
pub(super) fn read(schema: &Schema, message: usize, text: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    Reader { schema, text, at: 0, out }.message(message)
}

struct Reader<'a, 'out> {
    schema: &'a Schema,
    text: &'a [u8],
    at: usize,
    out: &'out mut Vec<u8>,
}

/// A message that has begun and not ended.
struct Open<'a> {
    message: &'a Message,
    /// Where its encoding begins.
    start: usize,
    /// The field whose values are being read.
    list: Option<&'a Field>,
    /// Bits of those that were named so far.
    fields: u64,
    /// Likewise.
    oneofs: u64,
}

/// Bytes of a token that go into an error text at most.
const SHOWN_MAX: usize = 256;

impl<'a> Reader<'a, '_> {
    /// Without recursion: how deep messages stand in each other is the client's to choose.
    fn message(&mut self, message: usize) -> Result<(), Error> {
        let mut open = vec![self.begun(message)?];
        while let Some(innermost) = open.last_mut() {
            let field = match innermost.list {
                Some(field) if !self.close(b']') => field,
                Some(_) => {
                    innermost.list = None;
                    continue;
                }
                None if self.close(b'}') => {
                    let start = innermost.start;
                    open.pop();
                    // The outermost has no tag.
                    if !open.is_empty() {
                        self.prefix_with_len(start);
                    }
                    continue;
                }
                None => match self.name(innermost)? {
                    Some(field) if field.repeated => {
                        self.open(b'[')?;
                        innermost.list = Some(field);
                        continue;
                    }
                    Some(field) => field,
                    None => continue,
                },
            };
            match field.kind {
                Kind::Message(_) if open.len() == MESSAGE_DEPTH_MAX => return Err(Error::TooManyMessages),
                Kind::Message(message) => {
                    self.tag(field, 2);
                    open.push(self.begun(message)?);
                }
                _ => self.scalar(field)?,
            }
        }
        Ok(())
    }

    fn begun(&mut self, message: usize) -> Result<Open<'a>, Error> {
        self.open(b'{')?;
        let message = &self.schema.messages[message];
        Ok(Open { message, start: self.out.len(), list: None, fields: 0, oneofs: 0 })
    }

    /// Reads the name of a field, up to its value. Passes over the value if that is null, or the field unknown.
    fn name(&mut self, open: &mut Open<'a>) -> Result<Option<&'a Field>, Error> {
        let Open { message, fields, oneofs, .. } = open;
        self.peek();
        let name_at = self.at;
        let name = self.string()?;
        self.skip_over(b':');
        let Some(position) = message.by_name(&name) else {
            self.skip_value()?;
            return Ok(None);
        };
        if *fields & (1 << position) != 0 {
            return Err(Error::Duplicate { at: self.position(name_at), name: name.into_owned() });
        }
        *fields |= 1 << position;
        if self.peek() == b'n' {
            self.token();
            return Ok(None);
        }
        let field = &message.fields[position];
        if let Some(oneof) = field.oneof {
            if *oneofs & (1 << oneof) != 0 {
                let oneof = message.oneofs[oneof].clone();
                return Err(Error::Oneof { at: self.position(name_at), name: name.into_owned(), oneof });
            }
            *oneofs |= 1 << oneof;
        }
        Ok(Some(field))
    }

    /// Reads one value of a field that is no message, and appends it with its tag.
    fn scalar(&mut self, field: &Field) -> Result<(), Error> {
        self.peek();
        let start = self.at;
        let taken = if self.peek() == b'"' {
            let text = self.string()?;
            self.scalar_of_string(field, &text)
        } else {
            let token = self.token();
            self.scalar_of_token(field, token)
        };
        if taken.is_none() {
            return Err(Error::Value {
                at: self.position(start),
                kind: field.kind.name(),
                field: field.json_name.clone(),
                token: self.shown(start),
            });
        }
        Ok(())
    }

    fn scalar_of_string(&mut self, field: &Field, text: &str) -> Option<()> {
        match field.kind {
            Kind::String => self.bytes(field, text.as_bytes()),
            Kind::Bytes => self.bytes(field, &base64(text)?),
            // Names of other releases are passed over.
            Kind::Enum(index) => {
                if let Some(number) = self.schema.enums[index].number(text) {
                    self.number(field, i64::from(number).cast_unsigned());
                }
            }
            Kind::Int64 | Kind::Uint32 | Kind::Uint64 => self.integer(field, text.as_bytes())?,
            Kind::Bool | Kind::Message(_) => return None,
        }
        Some(())
    }

    fn scalar_of_token(&mut self, field: &Field, token: &[u8]) -> Option<()> {
        match (field.kind, token) {
            (Kind::Bool, b"true") => self.number(field, 1),
            (Kind::Bool, b"false") => self.number(field, 0),
            (Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Enum(_), _) => self.integer(field, token)?,
            _ => return None,
        }
        Some(())
    }

    fn integer(&mut self, field: &Field, token: &[u8]) -> Option<()> {
        let value = number::integer(token)?;
        let encoded = match field.kind {
            Kind::Int64 => i64::try_from(value).ok()?.cast_unsigned(),
            Kind::Uint64 => u64::try_from(value).ok()?,
            Kind::Uint32 => u64::from(u32::try_from(value).ok()?),
            Kind::Enum(_) => i64::from(i32::try_from(value).ok()?).cast_unsigned(),
            _ => return None,
        };
        self.number(field, encoded);
        Some(())
    }

    /// Appends a number, unless it is the value that an absent field has.
    fn number(&mut self, field: &Field, value: u64) {
        if value != 0 || field.repeated || field.oneof.is_some() {
            self.tag(field, 0);
            self.varint(value);
        }
    }

    /// Appends bytes, unless they are the value that an absent field has.
    fn bytes(&mut self, field: &Field, value: &[u8]) {
        if !value.is_empty() || field.repeated || field.oneof.is_some() {
            self.tag(field, 2);
            self.varint(value.len() as u64);
            self.out.extend_from_slice(value);
        }
    }

    fn tag(&mut self, field: &Field, wire_type: u32) {
        self.varint(u64::from(field.number << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Puts the length in front of a message that was written from `start` on.
    fn prefix_with_len(&mut self, start: usize) {
        let end = self.out.len();
        self.varint((end - start) as u64);
        let prefix = self.out.len() - end;
        self.out[start..].rotate_right(prefix);
    }

    /// Skips white space and shows the byte behind it.
    fn peek(&mut self) -> u8 {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// Enters an object or an array.
    fn open(&mut self, bracket: u8) -> Result<(), Error> {
        if self.peek() != bracket {
            let start = self.at;
            let found = self.text.get(start).copied().unwrap_or(0);
            match found {
                b'{' | b'[' => self.at += 1,
                b'"' => drop(self.string()?),
                _ => drop(self.token()),
            }
            return Err(Error::Token { at: self.position(start), token: self.shown(start) });
        }
        self.at += 1;
        Ok(())
    }

    /// Moves on to the next element, or behind the end; true at the end.
    fn close(&mut self, bracket: u8) -> bool {
        match self.peek() {
            b',' => {
                self.at += 1;
                false
            }
            // The text is valid JSON, so what ends it ends every container in it.
            found if found == bracket || found == 0 => {
                self.at += 1;
                true
            }
            _ => false,
        }
    }

    fn skip_over(&mut self, byte: u8) {
        if self.peek() == byte {
            self.at += 1;
        }
    }

    /// A number, `true`, `false` or `null`, or the bracket that stands in place of one.
    fn token(&mut self) -> &'a [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| b" \t\r\n,:[]{}\"".contains(byte)).unwrap_or(rest.len());
        let token = &rest[..end.max(1).min(rest.len())];
        self.at += token.len();
        token
    }

    /// Passes over a value of an unknown field. Its strings must be text all the same.
    fn skip_value(&mut self) -> Result<(), Error> {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    open = open.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                0 => return Ok(()),
                _ => drop(self.token()),
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Reads a string, the opening quote included.
    fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        let start = self.at;
        let error = |reason| Error::Text { at: Position::of(self.text, start), reason };
        let body = &self.text[(start + 1).min(self.text.len())..];
        let plain = memchr::memchr2(b'"', b'\\', body).unwrap_or(body.len());
        let text = |bytes| str::from_utf8(bytes).map_err(|_| error("invalid UTF-8 in string".to_owned()));
        let first = text(&body[..plain])?;
        if body.get(plain) != Some(&b'\\') {
            self.at = start + plain + 2;
            return Ok(Cow::Borrowed(first));
        }
        let mut out = first.to_owned();
        let mut rest = &body[plain..];
        loop {
            match rest {
                [b'\\', b'u', ..] => {
                    let (character, behind) = escaped_character(rest).ok_or_else(|| {
                        let escape = String::from_utf8_lossy(&rest[..rest.len().min(6)]);
                        error(format!("invalid escape code {escape:?} in string"))
                    })?;
                    out.push(character);
                    rest = behind;
                }
                [b'\\', escape, behind @ ..] => {
                    out.push(match escape {
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        quoted => char::from(*quoted),
                    });
                    rest = behind;
                }
                [b'"', behind @ ..] => {
                    self.at = self.text.len() - behind.len();
                    return Ok(Cow::Owned(out));
                }
                [] | [b'\\'] => return Err(Error::Truncated),
                _ => {
                    let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    out.push_str(text(&rest[..plain])?);
                    rest = &rest[plain..];
                }
            }
        }
    }

    fn position(&self, at: usize) -> Position {
        Position::of(self.text, at)
    }

    /// What stands between `start` and here, for an error text.
    fn shown(&self, start: usize) -> String {
        let end = self.at.min(self.text.len()).min(start + SHOWN_MAX);
        String::from_utf8_lossy(&self.text[start.min(end)..end]).into_owned()
    }
}

/// Reads `\uXXXX`, or two of them that make one character; half a pair is not a character.
fn escaped_character(text: &[u8]) -> Option<(char, &[u8])> {
    let (unit, rest) = escaped_unit(text)?;
    if let Some(character) = char::from_u32(unit) {
        return Some((character, rest));
    }
    let (low, rest) = escaped_unit(rest)?;
    if !(0xd800..0xdc00).contains(&unit) || !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    let character = char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))?;
    Some((character, rest))
}

fn escaped_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.strip_prefix(b"\\u")?.split_at_checked(4)?;
    let unit = digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))?;
    Some((unit, rest))
}

/// Bytes in base64: either alphabet but not both, padded or not, with line breaks anywhere.
fn base64(text: &str) -> Option<Vec<u8>> {
    const fn engine(alphabet: &base64::alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
        let config =
            GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(padding);
        GeneralPurpose::new(alphabet, config)
    }
    const PADDED: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireCanonical);
    const PADDED_URL: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireCanonical);
    const BARE: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireNone);
    const BARE_URL: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireNone);

    // Line breaks count here and are dropped afterwards, in Go too.
    let padded = text.len().is_multiple_of(4);
    let url = memchr::memchr2(b'-', b'_', text.as_bytes()).is_some();
    let broken = memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_some();
    let text = if broken { Cow::Owned(text.replace(['\r', '\n'], "")) } else { Cow::Borrowed(text) };
    let engine = match (padded, url) {
        (true, false) => PADDED,
        (true, true) => PADDED_URL,
        (false, false) => BARE,
        (false, true) => BARE_URL,
    };
    engine.decode(text.as_bytes()).ok()
}
