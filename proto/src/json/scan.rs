//! Finds the values in a stream of bytes: JSON's grammar, nothing of what the values mean.
//!
//! A client stream is several values one after another with any white space between them, and a
//! value may come in any number of pieces. The scanner keeps its state between pieces, so every byte
//! is looked at once, and its only memory is what kind of container each open bracket began.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{DEPTH_MAX, Error};

/// Received bytes, taken out value by value.
#[derive(Debug, Default)]
pub struct Values {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that `scanner` has seen.
    scanned: usize,
    scanner: Scanner,
}

impl Values {
    /// Adds bytes in the order in which they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that were added and not taken out; the caller bounds them.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next value, if all of it is there. Call again after [`Values::push`].
    ///
    /// An error is final: where the next value would begin is unknown.
    pub fn take_next(&mut self) -> Result<Option<Bytes>, Error> {
        let found = self.scanner.scan(&self.buffer[self.scanned..])?;
        match found {
            Some(len) => Ok(Some(self.split(self.scanned + len))),
            None => {
                self.scanned = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// What the end of the input makes a value: a number, which nothing else ends; or nothing.
    pub fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        match self.take_next()? {
            Some(value) => Ok(Some(value)),
            None if self.scanner.is_number_at_top() => Ok(Some(self.split(self.scanned))),
            None if self.scanner.is_between_values() => Ok(None),
            None => Err(Error::Truncated),
        }
    }

    fn split(&mut self, len: usize) -> Bytes {
        self.scanned = 0;
        self.scanner = Scanner::default();
        self.buffer.split_to(len).freeze()
    }
}

#[derive(Debug, Default)]
struct Scanner {
    state: State,
    /// The objects and arrays around the next byte, the innermost last.
    open: Vec<Container>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// What may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A value.
    #[default]
    Value,
    /// A value or `]`, behind `[`.
    FirstElement,
    /// A name or `}`, behind `{`.
    FirstName,
    /// A name, behind a comma.
    Name,
    /// A colon, behind a name.
    Colon,
    /// A comma or the end of the container, behind a value.
    AfterValue,
    /// The rest of a string.
    String { is_name: bool },
    /// The character behind a backslash.
    Escape { is_name: bool },
    /// So many more hexadecimal digits.
    Hex { is_name: bool, left: u8 },
    /// The first digit, behind a minus sign.
    Minus,
    /// Behind a leading zero: no digit.
    Zero,
    /// More digits before the point.
    Digits,
    /// The first digit behind the point.
    Point,
    /// More digits behind the point.
    Fraction,
    /// A sign or the first digit of the exponent.
    Exponent,
    /// The first digit of the exponent behind its sign.
    ExponentSign,
    /// More digits of the exponent.
    ExponentDigits,
    /// The rest of `true`, `false` or `null`, of which so many bytes are there.
    Literal { word: &'static str, seen: usize },
}

impl Scanner {
    /// Goes on with `bytes`; returns how many of them belong to the value if it ends in them.
    fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let mut at = 0;
        while at < bytes.len() {
            if let State::String { .. } = self.state {
                at += plain_text(&bytes[at..]);
                if at == bytes.len() {
                    break;
                }
            }
            if self.is_number_at_top() && !self.state.goes_on_with(bytes[at]) {
                return Ok(Some(at));
            }
            self.step(bytes[at])?;
            at += 1;
            if self.state == State::AfterValue && self.open.is_empty() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn is_between_values(&self) -> bool {
        self.state == State::Value && self.open.is_empty()
    }

    fn is_number_at_top(&self) -> bool {
        self.open.is_empty() && self.state.is_complete_number()
    }

    fn step(&mut self, byte: u8) -> Result<(), Error> {
        self.state = match (self.state, byte) {
            (
                State::Value | State::FirstElement | State::FirstName | State::Name | State::Colon | State::AfterValue,
                b' ' | b'\t' | b'\r' | b'\n',
            ) => self.state,

            (State::FirstElement, b']') | (State::FirstName, b'}') => self.close(),
            (State::Value | State::FirstElement, _) => self.begin(byte)?,
            (State::FirstName | State::Name, b'"') => State::String { is_name: true },
            (State::FirstName | State::Name, _) => {
                return unexpected(byte, "looking for beginning of object key string");
            }
            (State::Colon, b':') => State::Value,
            (State::Colon, _) => return unexpected(byte, "after object key"),
            (State::AfterValue, _) => self.after_value(byte)?,

            (State::String { is_name: true }, b'"') => State::Colon,
            (State::String { is_name: false }, b'"') => State::AfterValue,
            (State::String { is_name }, b'\\') => State::Escape { is_name },
            (State::String { .. }, 0..b' ') => return unexpected(byte, "in string literal"),
            (State::String { .. }, _) => self.state,
            (State::Escape { is_name }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                State::String { is_name }
            }
            (State::Escape { is_name }, b'u') => State::Hex { is_name, left: 4 },
            (State::Escape { .. }, _) => return unexpected(byte, "in string escape code"),
            (State::Hex { is_name, left: 1 }, _) if byte.is_ascii_hexdigit() => State::String { is_name },
            (State::Hex { is_name, left }, _) if byte.is_ascii_hexdigit() => State::Hex { is_name, left: left - 1 },
            (State::Hex { .. }, _) => return unexpected(byte, "in \\u hexadecimal character escape"),

            (State::Minus, b'0') => State::Zero,
            (State::Minus | State::Digits, b'0'..=b'9') => State::Digits,
            (State::Minus, _) => return unexpected(byte, "in numeric literal"),
            (State::Zero | State::Digits, b'.') => State::Point,
            (State::Point | State::Fraction, b'0'..=b'9') => State::Fraction,
            (State::Point, _) => return unexpected(byte, "after decimal point in numeric literal"),
            (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => State::Exponent,
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => State::ExponentDigits,
            (State::Exponent | State::ExponentSign, _) => return unexpected(byte, "in exponent of numeric literal"),
            (State::Zero | State::Digits | State::Fraction | State::ExponentDigits, _) => {
                // Nothing but the next byte ends a number.
                self.state = State::AfterValue;
                return self.step(byte);
            }

            (State::Literal { word, seen }, _) => {
                let expected = word.as_bytes()[seen];
                if byte != expected {
                    return unexpected(byte, format!("in literal {word} (expecting {:?})", char::from(expected)));
                }
                if seen + 1 == word.len() { State::AfterValue } else { State::Literal { word, seen: seen + 1 } }
            }
        };
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Result<State, Error> {
        Ok(match byte {
            b'{' => self.open(Container::Object, State::FirstName)?,
            b'[' => self.open(Container::Array, State::FirstElement)?,
            b'"' => State::String { is_name: false },
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Literal { word: "true", seen: 1 },
            b'f' => State::Literal { word: "false", seen: 1 },
            b'n' => State::Literal { word: "null", seen: 1 },
            _ => return unexpected(byte, "looking for beginning of value"),
        })
    }

    fn after_value(&mut self, byte: u8) -> Result<State, Error> {
        match (self.open.last(), byte) {
            (Some(Container::Object), b',') => Ok(State::Name),
            (Some(Container::Array), b',') => Ok(State::Value),
            (Some(Container::Object), b'}') | (Some(Container::Array), b']') => Ok(self.close()),
            (Some(Container::Object), _) => unexpected(byte, "after object key:value pair"),
            (Some(Container::Array), _) => unexpected(byte, "after array element"),
            (None, _) => unreachable!("a value at the top is taken out when it ends"),
        }
    }

    fn open(&mut self, container: Container, state: State) -> Result<State, Error> {
        if self.open.len() == DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.open.push(container);
        Ok(state)
    }

    fn close(&mut self) -> State {
        self.open.pop();
        State::AfterValue
    }
}

impl State {
    fn is_complete_number(self) -> bool {
        matches!(self, State::Zero | State::Digits | State::Fraction | State::ExponentDigits)
    }

    /// Whether a number that is complete takes one more byte.
    fn goes_on_with(self, byte: u8) -> bool {
        match byte {
            b'0'..=b'9' => self != State::Zero,
            b'.' => matches!(self, State::Zero | State::Digits),
            b'e' | b'E' => self != State::ExponentDigits,
            _ => false,
        }
    }
}

/// How many bytes of a string's rest are neither its end nor an escape nor forbidden. The long
/// stretches of a request are its strings, so these are searched in strides.
fn plain_text(bytes: &[u8]) -> usize {
    let text = &bytes[..memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())];
    let has_control = text.iter().fold(false, |found, byte| found | (*byte < b' '));
    if has_control { text.iter().position(|byte| *byte < b' ').unwrap_or(text.len()) } else { text.len() }
}

fn unexpected<T>(byte: u8, place: impl Into<Cow<'static, str>>) -> Result<T, Error> {
    Err(Error::Syntax { found: char::from(byte), place: place.into() })
}
