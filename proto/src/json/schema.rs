//! What the mapping needs to know of each message, taken from the descriptors once.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// The messages of the client API. Messages and enums refer to each other by index.
pub(super) struct Schema {
    pub(super) messages: Vec<Message>,
    pub(super) enums: Vec<Enum>,
    /// Request and response type of each method by gRPC path, and which side streams.
    pub(super) methods: HashMap<String, Method>,
}

#[derive(Clone, Copy)]
pub(super) struct Method {
    pub(super) request: usize,
    pub(super) response: usize,
    pub(super) client_streaming: bool,
    pub(super) server_streaming: bool,
}

pub(super) struct Message {
    /// In the order of declaration, which is the order in JSON. Invariant: at most 64.
    pub(super) fields: Vec<Field>,
    /// Full names.
    pub(super) oneofs: Vec<String>,
    /// Field number to position in `fields` plus one.
    by_number: Vec<u8>,
}

pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) json_name: String,
    /// The name as it is written in front of a value: quoted, with the colon.
    pub(super) label: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    pub(super) oneof: Option<usize>,
}

/// The types that etcd's API uses. A type that is not here fails the build of the schema, and with
/// it every test, rather than a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
}

pub(super) struct Enum {
    values: Vec<(i32, String)>,
}

impl Message {
    /// The position in `fields` of the field with this number.
    pub(super) fn by_number(&self, number: u32) -> Option<usize> {
        let position = *self.by_number.get(number as usize)?;
        (position as usize).checked_sub(1)
    }

    /// The position of the field with this name, in either spelling.
    pub(super) fn by_name(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name || field.json_name == name)
    }
}

impl Enum {
    pub(super) fn name(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(value, _)| *value == number).map(|(_, name)| name.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(_, value)| value == name).map(|(number, _)| *number)
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
        }
    }
}

pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the build script encoded the descriptors");
    Builder::new(&files).build(&files)
});

/// Packages whose services have a JSON form.
const PACKAGES: [&str; 3] = ["etcdserverpb", "v3lockpb", "v3electionpb"];

struct Builder<'a> {
    /// Every type of all files by full name with a leading dot, as descriptors refer to them.
    types: HashMap<String, Declared<'a>>,
    positions: HashMap<String, usize>,
    schema: Schema,
}

#[derive(Clone, Copy)]
enum Declared<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

impl<'a> Builder<'a> {
    fn new(files: &'a FileDescriptorSet) -> Builder<'a> {
        let mut types = HashMap::new();
        for file in &files.file {
            let scope = format!(".{}", file.package());
            declare(&mut types, &scope, &file.message_type, &file.enum_type);
        }
        let schema = Schema { messages: Vec::new(), enums: Vec::new(), methods: HashMap::new() };
        Builder { types, positions: HashMap::new(), schema }
    }

    /// Takes in every method and the types that can be reached from it.
    fn build(mut self, files: &FileDescriptorSet) -> Schema {
        for file in files.file.iter().filter(|file| PACKAGES.contains(&file.package())) {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let method = Method {
                        request: self.message(method.input_type()),
                        response: self.message(method.output_type()),
                        client_streaming: method.client_streaming(),
                        server_streaming: method.server_streaming(),
                    };
                    self.schema.methods.insert(path, method);
                }
            }
        }
        self.schema
    }

    fn message(&mut self, name: &str) -> usize {
        if let Some(position) = self.positions.get(name) {
            return *position;
        }
        let Some(Declared::Message(declared)) = self.types.get(name).copied() else {
            panic!("the descriptors declare message {name}");
        };
        let position = self.schema.messages.len();
        // Entered before its fields are looked at: a TxnRequest contains TxnRequests.
        self.positions.insert(name.to_owned(), position);
        self.schema.messages.push(Message { fields: Vec::new(), oneofs: Vec::new(), by_number: Vec::new() });

        let fields: Vec<Field> = declared.field.iter().map(|field| self.field(name, field)).collect();
        assert!(fields.len() <= 64, "{name} has more fields than the set of seen fields holds");
        let numbers = fields.iter().map(|field| field.number as usize + 1).max().unwrap_or(0);
        let mut by_number = vec![0; numbers];
        for (position, field) in (1..).zip(&fields) {
            by_number[field.number as usize] = position;
        }
        let full_name = name.trim_start_matches('.');
        let oneofs = declared.oneof_decl.iter().map(|oneof| format!("{full_name}.{}", oneof.name())).collect();
        self.schema.messages[position] = Message { fields, oneofs, by_number };
        position
    }

    fn field(&mut self, message: &str, field: &FieldDescriptorProto) -> Field {
        let kind = match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(self.enumeration(field.type_name())),
            Type::Message => Kind::Message(self.message(field.type_name())),
            other => panic!("{message}.{} is {other:?}, for which there is no JSON form here", field.name()),
        };
        Field {
            number: u32::try_from(field.number()).expect("field numbers are positive"),
            name: field.name().to_owned(),
            json_name: field.json_name().to_owned(),
            label: format!("\"{}\":", field.name()).into_bytes(),
            kind,
            repeated: field.label() == Label::Repeated,
            oneof: field.oneof_index.map(|index| index as usize),
        }
    }

    fn enumeration(&mut self, name: &str) -> usize {
        if let Some(position) = self.positions.get(name) {
            return *position;
        }
        let Some(Declared::Enum(declared)) = self.types.get(name).copied() else {
            panic!("the descriptors declare enum {name}");
        };
        let position = self.schema.enums.len();
        let values = declared.value.iter().map(|value| (value.number(), value.name().to_owned())).collect();
        self.positions.insert(name.to_owned(), position);
        self.schema.enums.push(Enum { values });
        position
    }
}

fn declare<'a>(
    types: &mut HashMap<String, Declared<'a>>,
    scope: &str,
    messages: &'a [DescriptorProto],
    enums: &'a [EnumDescriptorProto],
) {
    for declared in enums {
        types.insert(format!("{scope}.{}", declared.name()), Declared::Enum(declared));
    }
    for declared in messages {
        let name = format!("{scope}.{}", declared.name());
        declare(types, &name, &declared.nested_type, &declared.enum_type);
        types.insert(name, Declared::Message(declared));
    }
}
