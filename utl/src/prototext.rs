//! Messages as Go's `String()` prints them: the text format on one line, led by the descriptors.
//!
//! Go puts one or two spaces between fields, at random for each build, so that nobody takes the text for a format; here
//! it is always one. Passwords are never printed.

use std::{collections::HashMap, fmt::Write as _, sync::LazyLock};

use forebay_proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

/// Messages inside messages: more than any txn has.
const DEPTH_LIMIT: usize = 300;

struct Field {
    /// Its place in the declaration, which is its place in the text.
    index: usize,
    name: String,
    kind: Type,
    /// The full name of a message or an enum.
    of: String,
}

#[derive(Default)]
struct Types {
    messages: HashMap<String, HashMap<u32, Field>>,
    enums: HashMap<String, HashMap<i32, String>>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("invariant: the build script encoded the descriptors");
    let mut types = Types::default();
    for file in &files.file {
        types.declare(file.package(), &file.message_type, &file.enum_type);
    }
    types
});

impl Types {
    fn declare(&mut self, scope: &str, messages: &[DescriptorProto], enums: &[EnumDescriptorProto]) {
        for declared in enums {
            let names = declared.value.iter().map(|value| (value.number(), value.name().to_owned())).collect();
            self.enums.insert(format!(".{scope}.{}", declared.name()), names);
        }
        for message in messages {
            let fields = (message.field.iter().enumerate())
                .map(|(index, field)| {
                    let (name, of) = (field.name().to_owned(), field.type_name().to_owned());
                    (field.number().unsigned_abs(), Field { index, name, kind: field.r#type(), of })
                })
                .collect();
            self.messages.insert(format!(".{scope}.{}", message.name()), fields);
            self.declare(&format!("{scope}.{}", message.name()), &message.nested_type, &message.enum_type);
        }
    }
}

/// The text of an encoded message of this type, such as `etcdserverpb.InternalRaftRequest`; `None` if the bytes are no
/// such message.
#[must_use]
pub fn print(of: &str, bytes: &[u8]) -> Option<String> {
    message(&format!(".{of}"), bytes, 0)
}

fn message(of: &str, mut bytes: &[u8], depth: usize) -> Option<String> {
    let fields = TYPES.messages.get(of).filter(|_| depth < DEPTH_LIMIT)?;
    let mut texts: Vec<(usize, String)> = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let wire = Wire::read(tag & 7, &mut bytes)?;
        match fields.get(&number) {
            Some(field) => field.print(wire, depth, &mut texts)?,
            None => texts.push((usize::MAX, format!("{number}:{}", wire.unknown()))),
        }
    }
    // Stable: the elements of a list keep their order.
    texts.sort_by_key(|(index, _)| *index);
    Some(texts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" "))
}

/// A value as it is on the wire.
#[derive(Clone, Copy)]
enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

impl<'b> Wire<'b> {
    fn read(kind: u64, bytes: &mut &'b [u8]) -> Option<Self> {
        Some(match kind {
            0 => Self::Varint(varint(bytes)?),
            1 => {
                let (word, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Self::Fixed64(u64::from_le_bytes(*word))
            }
            2 => {
                let len = usize::try_from(varint(bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(len)?;
                *bytes = rest;
                Self::Bytes(value)
            }
            5 => {
                let (word, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Self::Fixed32(u32::from_le_bytes(*word))
            }
            _ => return None,
        })
    }

    /// A field that the descriptors do not have.
    fn unknown(self) -> String {
        match self {
            Self::Varint(value) => value.to_string(),
            Self::Fixed64(value) => format!("{value:#x}"),
            Self::Fixed32(value) => format!("{value:#x}"),
            Self::Bytes(bytes) => quote(bytes),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

impl Field {
    fn print(&self, wire: Wire<'_>, depth: usize, texts: &mut Vec<(usize, String)>) -> Option<()> {
        let mut push = |value: String| texts.push((self.index, format!("{}:{value}", self.name)));
        match (self.kind, wire) {
            (Type::Message, Wire::Bytes(bytes)) => push(format!("{{{}}}", message(&self.of, bytes, depth + 1)?)),
            (Type::String | Type::Bytes, Wire::Bytes(_)) if self.name == "password" => {
                push("\"<value removed>\"".into());
            }
            (Type::String | Type::Bytes, Wire::Bytes(bytes)) => push(quote(bytes)),
            // A packed list.
            (_, Wire::Bytes(mut bytes)) => {
                while !bytes.is_empty() {
                    push(self.scalar(varint(&mut bytes)?)?);
                }
            }
            (_, Wire::Varint(value)) => push(self.scalar(value)?),
            (Type::Fixed64, Wire::Fixed64(value)) => push(value.to_string()),
            _ => return None,
        }
        Some(())
    }

    fn scalar(&self, value: u64) -> Option<String> {
        Some(match self.kind {
            Type::Bool => (value != 0).to_string(),
            Type::Int64 => value.cast_signed().to_string(),
            Type::Uint64 | Type::Uint32 => value.to_string(),
            Type::Int32 => (value as i32).to_string(),
            Type::Enum => {
                let number = value as i32;
                TYPES.enums.get(&self.of)?.get(&number).cloned().unwrap_or_else(|| number.to_string())
            }
            _ => return None,
        })
    }
}

/// A string or bytes: readable text as it is, the rest escaped.
fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    let hex = |out: &mut String, code: u32| write!(out, "\\x{code:02x}").expect("a string takes everything");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_ascii_control() => hex(&mut out, c as u32),
                c if c.is_control() => write!(out, "\\u{:04x}", c as u32).expect("a string takes everything"),
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(&mut out, u32::from(*byte)));
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use forebay_proto::{
        authpb,
        etcdserverpb::{
            AuthUserAddRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestHeader, RequestOp,
            TxnRequest, request_op::Request,
        },
        raftpb::{ConfState, HardState},
    };

    use super::*;

    fn text(of: &str, message: &impl prost::Message) -> String {
        print(of, &message.encode_to_vec()).expect("the message prints")
    }

    #[test]
    fn fields_stand_in_the_order_of_their_declaration() {
        let header = Some(RequestHeader { id: 7, ..Default::default() });
        let put = PutRequest { key: "k\"\u{1}".into(), value: vec![0xff].into(), lease: -1, ..Default::default() };
        let request = InternalRaftRequest { header, put: Some(put), ..Default::default() };
        let printed = text("etcdserverpb.InternalRaftRequest", &request);
        assert_eq!(printed, r#"header:{ID:7} put:{key:"k\"\x01" value:"\xff" lease:-1}"#);
    }

    #[test]
    fn messages_inside_messages_and_lists_are_printed() {
        let delete = DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
        let op = RequestOp { request: Some(Request::RequestDeleteRange(delete)) };
        let txn = TxnRequest { success: vec![op.clone(), op], ..Default::default() };
        let printed = text("etcdserverpb.TxnRequest", &txn);
        let op = r#"success:{request_delete_range:{key:"a" prev_kv:true}}"#;
        assert_eq!(printed, format!("{op} {op}"));
        assert_eq!(
            text("raftpb.ConfState", &ConfState { voters: vec![3, 9], ..Default::default() }),
            "voters:3 voters:9"
        );
        let state = HardState { term: Some(2), vote: Some(0), commit: Some(7) };
        assert_eq!(text("raftpb.HardState", &state), "term:2 vote:0 commit:7");
        let role = authpb::Permission { perm_type: 2, key: "/a".into(), range_end: "/b".into() };
        assert_eq!(text("authpb.Permission", &role), r#"permType:READWRITE key:"/a" range_end:"/b""#);
    }

    #[test]
    fn passwords_are_not_printed() {
        let add = AuthUserAddRequest { name: "root".into(), password: "secret".into(), ..Default::default() };
        assert_eq!(text("etcdserverpb.AuthUserAddRequest", &add), r#"name:"root" password:"<value removed>""#);
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in [&b"\xff"[..], b"\x0a\x05ab", b"\x0b", b"\x00\x01"] {
            assert_eq!(print("etcdserverpb.PutRequest", bytes), None, "{bytes:?}");
        }
        assert_eq!(print("etcdserverpb.PutRequest", b"\xf8\x07\x05").as_deref(), Some("127:5"));
    }
}
