//! What a value says it is, if it is a Kubernetes object: a protobuf envelope or JSON, both with version and kind.

use prost::Message;

/// In front of protobuf objects.
const MAGIC: &[u8] = b"k8s\0";

/// `runtime.Unknown`: what kind of object it is, and the object.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    raw: bytes::Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// Every object begins with its metadata.
#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(serde::Deserialize)]
struct Json {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: JsonMeta,
}

#[derive(Default, serde::Deserialize)]
struct JsonMeta {
    #[serde(default)]
    namespace: String,
}

/// `group/version Kind` and namespace of a value, empty for what is in none.
pub(super) fn kind(value: &[u8]) -> Option<(String, String)> {
    let (api_version, kind, namespace) = match value.strip_prefix(MAGIC) {
        Some(envelope) => {
            let Envelope { type_meta, raw } = Envelope::decode(envelope).ok()?;
            let TypeMeta { api_version, kind } = type_meta?;
            // An object whose first field is none is one without a namespace for us.
            let metadata = Object::decode(raw).ok().and_then(|object| object.metadata).unwrap_or_default();
            (api_version, kind, metadata.namespace)
        }
        None if value.first() == Some(&b'{') => {
            let json: Json = serde_json::from_slice(value).ok()?;
            (json.api_version, json.kind, json.metadata.namespace)
        }
        None => return None,
    };
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    (plain(&api_version) && plain(&kind))
        .then(|| (format!("{api_version} {kind}"), namespace.escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: &str, namespace: &str) -> Option<(String, String)> {
        Some((kind.to_owned(), namespace.to_owned()))
    }

    #[test]
    fn objects_are_known_by_their_envelope() {
        // The beginning of a ConfigMap as a cluster stored it.
        let config_map =
            b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x20\n\x1e\n\x04lock\x12\0\x1a\x0cistio-system\"\0*\x04bb69";
        assert_eq!(kind(config_map), found("v1 ConfigMap", "istio-system"));
        let json = br#"{"apiVersion":"example.com/v1","kind":"Foo","metadata":{"name":"a","namespace":"b"},"spec":{}}"#;
        assert_eq!(kind(json), found("example.com/v1 Foo", "b"));
        for value in [&b"k8s\0"[..], b"k8s\0\xff\xff", b"plain", b"{}", b"{\"kind\":7}", b""] {
            assert_eq!(kind(value), None, "{value:?}");
        }
    }
}
