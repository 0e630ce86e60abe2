//! Requests that can be decoded and that no client sends: of every method, a full request with each field in turn left
//! out, emptied, doubled, or at the end of its range.
//!
//! They are made from the descriptors, so a method that etcd adds is tried too.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::{Buf as _, BufMut as _};
use forebay_proto::{
    DESCRIPTORS,
    etcdserverpb::{self as pb, auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient},
};
use futures::future::join_all;
use prost::{Message as _, encoding};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tokio::time;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::{
    http::Call,
    session,
    target::{Kind, Target},
};

/// How long an answer is waited for. Some methods wait for what does not happen.
const SOON: Duration = Duration::from_millis(100);

/// How often a message is within itself.
const NESTED_MAX: usize = 2;

/// How long a member may take to answer or to end.
const LIMIT: Duration = Duration::from_secs(20);
/// Requests that are under way together.
const AT_ONCE: usize = 128;
/// A name that a user, a role and a key have, before any of this is sent.
const NAME: &str = "n";
/// A lease that there is.
const LEASE: u64 = 7;

/// A request and what is odd about it.
struct Request {
    path: String,
    /// Where it is not as it should be, and how; what is within is behind a colon.
    about: String,
    message: Vec<u8>,
}

impl Request {
    /// The method and the field that is odd, wherever that is.
    fn fault(&self) -> String {
        let field = self.about.rsplit(": ").next().unwrap_or_default();
        let field = field.split(' ').find(|word| !["no", "two", "empty"].contains(word)).unwrap_or(field);
        format!("{} of {}", field, self.path)
    }
}

/// Every request, method by method.
fn all() -> Vec<Request> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors decode").file;
    let mut types = HashMap::new();
    for file in &files {
        for message in &file.message_type {
            collect(&format!(".{}", file.package()), message, &mut types);
        }
    }
    let mut all = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                for full in (Types { types: &types }).full(method.input_type(), &mut Vec::new()) {
                    let made = mutants(&full).into_iter().chain([("whole".to_owned(), full)]);
                    all.extend(made.map(|(about, fields)| Request {
                        path: path.clone(),
                        about,
                        message: encoded(&fields),
                    }));
                }
            }
        }
    }
    all.dedup_by(|a, b| a.path == b.path && a.message == b.message);
    all
}

fn collect<'d>(package: &str, message: &'d DescriptorProto, types: &mut HashMap<String, &'d DescriptorProto>) {
    let name = format!("{package}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, types);
    }
    types.insert(name, message);
}

/// A field of a message that is being made.
#[derive(Clone)]
struct Field {
    name: String,
    number: u32,
    repeated: bool,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

struct Types<'d> {
    types: &'d HashMap<String, &'d DescriptorProto>,
}

impl Types<'_> {
    /// Messages of a type that have everything, one for each choice of each oneof.
    fn full(&self, name: &str, within: &mut Vec<String>) -> Vec<Vec<Field>> {
        if within.iter().filter(|outer| *outer == name).count() >= NESTED_MAX {
            return vec![Vec::new()];
        }
        within.push(name.to_owned());
        let message = self.types[name];
        let choices = |field: &FieldDescriptorProto| match field.r#type() {
            Type::Message => Some(field.type_name().to_owned()),
            _ => None,
        };
        let mut usual: Vec<Field> = Vec::new();
        let mut others: Vec<Vec<Field>> = Vec::new();
        let mut taken = Vec::new();
        for field in &message.field {
            let mut values: Vec<Value> = match choices(field) {
                Some(name) => self.full(&name, within).into_iter().map(Value::Message).collect(),
                None => vec![plausible(field)],
            };
            let of = |value| Field {
                name: field.name().to_owned(),
                number: field.number().unsigned_abs(),
                repeated: field.label() == Label::Repeated,
                value,
            };
            let is_other = field.oneof_index.is_some_and(|oneof| taken.contains(&oneof));
            let first = values.remove(0);
            if is_other {
                others.push(vec![of(first)]);
            } else {
                taken.extend(field.oneof_index);
                usual.push(of(first));
            }
            others.extend(values.into_iter().map(|value| vec![of(value)]));
        }
        within.pop();
        // Each of the others takes the place of what is usual there, that of its oneof or its own.
        let replaced = others.into_iter().map(|other| {
            let number = other[0].number;
            let oneof =
                message.field.iter().find(|field| field.number() as u32 == number).and_then(|field| field.oneof_index);
            let stays = |field: &&Field| {
                let own = message.field.iter().find(|other| other.number() as u32 == field.number);
                field.number != number && (oneof.is_none() || own.and_then(|own| own.oneof_index) != oneof)
            };
            usual.iter().filter(stays).cloned().chain(other).collect()
        });
        let replaced: Vec<Vec<Field>> = replaced.collect();
        [usual.clone()].into_iter().chain(replaced).collect()
    }
}

fn plausible(field: &FieldDescriptorProto) -> Value {
    match (field.r#type(), field.name()) {
        (Type::String | Type::Bytes, "range_end") => Value::Bytes(b"o".to_vec()),
        (Type::String | Type::Bytes, _) => Value::Bytes(NAME.into()),
        (_, "ID" | "id" | "lease") => Value::Number(LEASE),
        _ => Value::Number(1),
    }
}

/// The message with one thing changed, for everything that can be.
fn mutants(fields: &[Field]) -> Vec<(String, Vec<Field>)> {
    let mut made = Vec::new();
    for at in 0..fields.len() {
        let Field { name, repeated, value, .. } = &fields[at];
        let mut without = fields.to_vec();
        without.remove(at);
        made.push((format!("no {name}"), without));
        if *repeated {
            let mut twice = fields.to_vec();
            twice.insert(at, fields[at].clone());
            made.push((format!("two {name}"), twice));
        }
        let changed: Vec<(String, Value)> = match value {
            Value::Number(_) => [99, u64::MAX, i64::MIN as u64]
                .map(|number| (format!("{name} {}", number as i64), Value::Number(number)))
                .into(),
            Value::Bytes(_) => [&b""[..], b"\xff\xfe", b"a/../b\nc"]
                .map(|bytes| (format!("{name} {:?}", bytes.escape_ascii().to_string()), Value::Bytes(bytes.to_vec())))
                .into(),
            Value::Message(inner) => {
                let within = mutants(inner)
                    .into_iter()
                    .map(|(about, inner)| (format!("{name}: {about}"), Value::Message(inner)));
                [(format!("empty {name}"), Value::Message(Vec::new()))].into_iter().chain(within).collect()
            }
        };
        for (about, value) in changed {
            let mut other = fields.to_vec();
            other[at].value = value;
            made.push((about, other));
        }
    }
    made.push(("nothing".to_owned(), Vec::new()));
    made
}

fn encoded(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value, .. } in fields {
        match value {
            Value::Number(value) => encoding::uint64::encode(*number, value, &mut out),
            Value::Bytes(bytes) => encoding::bytes::encode(*number, bytes, &mut out),
            Value::Message(inner) => encoding::bytes::encode(*number, &encoded(inner), &mut out),
        }
    }
    out
}

/// Bytes as they are, in either direction.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        answer.advance(answer.remaining());
        Ok(Some(()))
    }
}

/// Sends every request; the faults at which the member ended, each told once.
pub async fn deadly(kind: Kind) -> anyhow::Result<BTreeSet<String>> {
    let mut requests = all();
    // What takes the member's quorum or its clients' right to write comes last.
    requests.sort_by_key(|request| match request.path.split('/').nth(1) {
        Some("etcdserverpb.Cluster") => 2,
        Some("etcdserverpb.Maintenance") => 1,
        _ => 0,
    });
    let mut deadly = BTreeSet::new();
    let mut scene = Scene::set(kind).await?;
    let of_methods = requests.chunk_by(|a, b| a.path == b.path);
    for group in of_methods.flat_map(|of_method| of_method.chunks(AT_ONCE)) {
        let group: Vec<&Request> = group.iter().filter(|request| !deadly.contains(&request.fault())).collect();
        if scene.survives(&group).await? {
            continue;
        }
        let (before, log) = (deadly.len(), scene.target.log());
        scene = Scene::set(kind).await?;
        for request in group {
            if !deadly.contains(&request.fault()) && !scene.survives(&[request]).await? {
                deadly.insert(request.fault());
                scene = Scene::set(kind).await?;
            }
        }
        ensure!(deadly.len() > before, "{kind} ended, and nothing that was asked ends it alone:\n{log}");
    }
    Ok(deadly)
}

/// A target, and a connection to it.
struct Scene {
    target: Target,
    channel: Channel,
}

impl Scene {
    async fn set(kind: Kind) -> anyhow::Result<Scene> {
        let target = Target::start(kind, &[]).await?;
        let channel = session::connect(&target).await?;
        Ok(Scene { target, channel })
    }

    /// Makes what the requests speak of, as far as it is not there.
    async fn prepare(&self) {
        let name = || NAME.to_owned();
        let mut auth = AuthClient::new(self.channel.clone());
        let _ = auth.user_add(pb::AuthUserAddRequest { name: name(), password: name(), ..Default::default() }).await;
        let _ = auth.role_add(pb::AuthRoleAddRequest { name: name() }).await;
        let grant = pb::LeaseGrantRequest { id: LEASE as i64, ttl: 3600 };
        let _ = LeaseClient::new(self.channel.clone()).lease_grant(grant).await;
        let put = pb::PutRequest { key: name().into(), value: name().into(), ..Default::default() };
        let _ = KvClient::new(self.channel.clone()).put(put).await;
    }

    /// Whether the member is there after these requests.
    async fn survives(&mut self, requests: &[&Request]) -> anyhow::Result<bool> {
        self.prepare().await;
        join_all(requests.iter().map(|request| self.send(request))).await;
        // One that is ending does not answer any more; one that is only slow does, later.
        let started = Instant::now();
        while Call::get("/version").send(self.target.member).await.is_err() {
            if self.target.has_ended()? {
                return Ok(false);
            }
            ensure!(started.elapsed() < LIMIT, "{} neither answers nor ends", self.target.kind);
            time::sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }

    /// Sends a request and waits for the beginning of an answer.
    async fn send(&self, request: &Request) {
        let mut grpc = Grpc::new(self.channel.clone());
        let asked = async {
            grpc.ready().await.ok()?;
            let path = request.path.parse().expect("a method is a path");
            // Of a stream, one message; a stream goes on until it is dropped.
            let message = futures::stream::iter([request.message.clone()]);
            let mut answer = grpc.streaming(tonic::Request::new(message), path, Raw).await.ok()?.into_inner();
            answer.message().await.ok()
        };
        let _ = time::timeout(SOON, asked).await;
    }
}
