//! The description of the JSON API, OpenAPI 3.1: made from the descriptors that the API itself is made from.
//!
//! It is served at `/openapi.json` and printed by `forebay openapi`.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use forebay_edge::{Body, Request, Response};
use forebay_proto::json::{Route, routes};
use http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Value, json};

use crate::version::ETCD_VERSION;

/// Where it is served.
const PATH: &str = "/openapi.json";

static TEXT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(text()));

/// Answers a request for the description; `None` if the path is another one.
pub fn answer(request: &Request) -> Option<Response> {
    if request.uri().path() != PATH {
        return None;
    }
    let is_get = request.method() == Method::GET;
    let mut response = Response::new(Body::full(if is_get { TEXT.clone() } else { Bytes::new() }));
    if !is_get {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(response)
}

/// The description, as it is printed.
pub fn text() -> String {
    format!("{:#}\n", describe())
}

fn describe() -> Value {
    let files = FileDescriptorSet::decode(forebay_proto::DESCRIPTORS).expect("invariant: our own descriptors decode");
    let mut types = Types::default();
    let mut methods = BTreeMap::new();
    for file in &files.file {
        types.declare(file.package(), &file.message_type, &file.enum_type);
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, (service.name(), method));
            }
        }
    }
    let mut paths = Map::new();
    let mut sorted: Vec<&Route> = routes().collect();
    sorted.sort_by_key(|route| route.path);
    let mut wanted = Vec::new();
    for route in sorted {
        let (service, method) = methods[route.grpc_path];
        wanted.extend([method.input_type(), method.output_type()].map(|name| name.trim_start_matches('.').to_owned()));
        paths.insert(route.path.to_owned(), json!({"post": operation(route, service, method)}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "etcd's JSON API, as Forebay serves it",
            "version": ETCD_VERSION,
            "description": "Numbers of 64 bits are strings, bytes are base64, and fields that have their default \
                value are left out. With auth on, the token of /v3/auth/authenticate goes into the header Authorization.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": types.schemas(wanted)},
    })
}

fn operation(route: &Route, service: &str, method: &MethodDescriptorProto) -> Value {
    let answer = reference(method.output_type());
    // A stream is a message a line, each in an envelope; an error may end it.
    let answer = if route.server_streaming() {
        json!({"type": "object", "properties": {"result": answer, "error": reference("Error")}})
    } else {
        answer
    };
    let path = route.path.trim_start_matches("/v3/").replace(['/', '-'], "_");
    json!({
        "tags": [service],
        "operationId": path,
        "summary": format!("{service}.{}", method.name()),
        "requestBody": {"required": true, "content": {"application/json": {"schema": reference(method.input_type())}}},
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            "default": {
                "description": "An error, with etcd's text.",
                "content": {"application/json": {"schema": reference("Error")}},
            },
        },
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", name.trim_start_matches('.'))})
}

/// Every declared type by its full name.
#[derive(Default)]
struct Types<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Types<'a> {
    fn declare(&mut self, scope: &str, messages: &'a [DescriptorProto], enums: &'a [EnumDescriptorProto]) {
        self.enums.extend(enums.iter().map(|declared| (format!("{scope}.{}", declared.name()), declared)));
        for declared in messages {
            let name = format!("{scope}.{}", declared.name());
            self.declare(&name, &declared.nested_type, &declared.enum_type);
            self.messages.insert(name, declared);
        }
    }

    /// The schemas of these types and of all that they name.
    fn schemas(&self, mut wanted: Vec<String>) -> Value {
        let mut schemas = Map::new();
        schemas.insert(
            "Error".to_owned(),
            json!({
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "integer", "description": "The gRPC code."},
                    "message": {"type": "string"},
                },
            }),
        );
        while let Some(name) = wanted.pop() {
            if schemas.contains_key(&name) {
                continue;
            }
            let schema = match (self.messages.get(&name), self.enums.get(&name)) {
                (Some(message), _) => {
                    let named = message.field.iter().filter(|field| !field.type_name().is_empty());
                    wanted.extend(named.map(|field| field.type_name().trim_start_matches('.').to_owned()));
                    let fields = message.field.iter().map(|field| (field.name().to_owned(), schema(field)));
                    json!({"type": "object", "properties": fields.collect::<Map<_, _>>()})
                }
                (None, Some(declared)) => {
                    let names: Vec<&str> = declared.value.iter().map(|value| value.name()).collect();
                    json!({"type": "string", "enum": names})
                }
                (None, None) => unreachable!("invariant: the descriptors declare {name}"),
            };
            schemas.insert(name, schema);
        }
        Value::Object(schemas)
    }
}

fn schema(field: &FieldDescriptorProto) -> Value {
    let one = match field.r#type() {
        Type::Bool => json!({"type": "boolean"}),
        Type::Int64 => json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}),
        Type::Uint64 => json!({"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}),
        Type::Bytes => json!({"type": "string", "format": "byte", "contentEncoding": "base64",
            "pattern": "^([A-Za-z0-9+/]{4})*$"}),
        Type::String => json!({"type": "string"}),
        Type::Message | Type::Enum => reference(field.type_name()),
        _ => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
    };
    if field.label() == Label::Repeated { json!({"type": "array", "items": one}) } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_and_every_type_that_it_names_is_described() {
        let description = describe();
        assert_eq!(description["paths"].as_object().map(Map::len), Some(routes().count()));
        let schemas = description["components"]["schemas"].as_object().expect("schemas");
        let text = description.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("a quote ends it");
            assert!(schemas.contains_key(name), "{name}");
        }
        let range = &schemas["etcdserverpb.RangeRequest"]["properties"];
        assert_eq!(range["key"]["contentEncoding"], "base64");
        assert_eq!(range["limit"]["format"], "int64");
        assert_eq!(schemas["etcdserverpb.TxnRequest"]["properties"]["compare"]["type"], "array");
        let ids: std::collections::BTreeSet<&str> = description["paths"]
            .as_object()
            .expect("paths")
            .values()
            .filter_map(|path| path["post"]["operationId"].as_str())
            .collect();
        assert_eq!(ids.len(), routes().count(), "every operation has an id of its own");
    }

    #[test]
    fn only_a_get_of_its_path_is_answered() {
        let ask = |method: &str, path: &str| {
            answer(&http::Request::builder().method(method).uri(path).body(Body::empty()).expect("a request"))
        };
        assert_eq!(ask("GET", PATH).expect("an answer").status(), StatusCode::OK);
        assert_eq!(ask("POST", PATH).expect("an answer").status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(ask("GET", "/openapi").is_none());
    }
}
