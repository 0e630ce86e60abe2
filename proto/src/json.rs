//! The JSON form of the API, as etcd's JSON gateway speaks it: requests into protobuf, responses
//! out of it.
//!
//! Both directions go straight between the two byte forms, led by the message descriptors; no Rust
//! value stands between them. [`Route::request`] accepts exactly what Go's protojson accepts (with
//! unknown fields ignored), [`Route::response`] writes what it writes, without its random spaces.
//! What a connection is, and how an error becomes an HTTP status, is `edge`'s business.

mod number;
mod read;
mod route;
mod scan;
mod schema;
mod write;

use std::borrow::Cow;

pub use route::{Route, routes};
pub use scan::Values;

/// Objects and arrays inside each other, beyond which a value is refused before it is read.
const DEPTH_MAX: usize = 10_000;

/// Messages inside each other, beyond which a request is refused: what is read on the other side, where
/// each txn is two and the innermost operation has one more. Reading and writing recurse once per message,
/// so this bounds the stack.
const MESSAGE_DEPTH_MAX: usize = 2 * crate::TXN_DEPTH_MAX + 1;

/// Why bytes could not be taken from one form into the other.
///
/// The texts say what Go's say, so that people find them again; their wording is no contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A byte that JSON does not allow there.
    #[error("invalid character {} {place}", quoted(*found))]
    Syntax {
        /// The byte.
        found: char,
        /// Where in the grammar it stands.
        place: Cow<'static, str>,
    },
    /// The input ends inside a value.
    #[error("unexpected EOF")]
    Truncated,
    /// More than 10,000 objects and arrays inside each other.
    #[error("exceeded max depth")]
    TooDeep,
    /// More messages inside each other than a txn may have.
    #[error("proto: exceeded max recursion depth")]
    TooManyMessages,
    /// Another kind of value than the message wants, an array in place of an object for example.
    #[error("proto: syntax error {at}: unexpected token {token}")]
    Token {
        /// Where.
        at: Position,
        /// The token as it stands there.
        token: String,
    },
    /// A string that is not Unicode text.
    #[error("proto: syntax error {at}: {reason}")]
    Text {
        /// Where.
        at: Position,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that the field cannot hold.
    #[error("proto: {at}: invalid value for {kind} field {field}: {token}")]
    Value {
        /// Where.
        at: Position,
        /// The field's type.
        kind: &'static str,
        /// The field's name in JSON.
        field: String,
        /// The value as it stands there.
        token: String,
    },
    /// A field given twice, under one name or both.
    #[error("proto: {at}: duplicate field {name:?}")]
    Duplicate {
        /// Where it came again.
        at: Position,
        /// The name it came by.
        name: String,
    },
    /// Two members of a oneof.
    #[error("proto: {at}: error parsing {name:?}, oneof {oneof} is already set")]
    Oneof {
        /// Where the second stands.
        at: Position,
        /// The name of the second.
        name: String,
        /// The oneof.
        oneof: String,
    },
    /// A response that is not an encoded message of its type.
    #[error("proto: cannot parse invalid wire-format data")]
    Malformed,
}

/// A place in a JSON text, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    line: usize,
    column: usize,
}

impl Position {
    fn of(text: &[u8], at: usize) -> Position {
        let before = &text[..at.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        Position {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count(),
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "(line {}:{})", self.line, self.column)
    }
}

/// A character as Go quotes it.
fn quoted(character: char) -> String {
    match character {
        '"' => "'\"'".to_owned(),
        '\0'..' ' if !matches!(character, '\n' | '\r' | '\t') => format!("'\\x{:02x}'", u32::from(character)),
        _ => format!("{character:?}"),
    }
}

#[cfg(test)]
mod tests;
