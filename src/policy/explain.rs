//! `forebay policy explain`: the request that is asked about, from flags.

use bytes::Bytes;
use forebay_policies::{Answer, Client, Cost, Expected, Request, Rpc, explain, prefix};
use forebay_proto::KeyRange;

use super::{Report, files::read};
use crate::flags::{
    Problem,
    syntax::{self, Given, UsageError},
    table::{Flag, Slot},
};

/// What may be said about a request.
#[derive(Clone, Debug)]
pub struct Settings {
    client: Vec<String>,
    rpc: String,
    key: String,
    range_end: String,
    prefix: bool,
    from_key: bool,
    limit: u64,
    count_only: bool,
    keys_only: bool,
    bytes: u64,
    ops: u64,
    objects: u64,
    object_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            client: Vec::new(),
            rpc: "Range".to_owned(),
            key: String::new(),
            range_end: String::new(),
            prefix: false,
            from_key: false,
            limit: 0,
            count_only: false,
            keys_only: false,
            bytes: 256,
            ops: 1,
            objects: 0,
            object_bytes: 1_024,
        }
    }
}

const REQUEST: &str = "Request";
const KNOWN: &str = "What is known of the keys";

/// The flags, as etcdctl calls the same things.
#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, List, Text, Uint};
    let flag = Flag::new;
    vec![
        flag(REQUEST, "client", List(|s| &mut s.client), "Who asks: CN=, user=, metadata=, agent=, listener=, ip=, with commas."),
        flag(REQUEST, "rpc", Text(|s| &mut s.rpc), "The method, as Range, Put or Txn."),
        flag(REQUEST, "key", Text(|s| &mut s.key), "The key."),
        flag(REQUEST, "range-end", Text(|s| &mut s.range_end), "The end of the range."),
        flag(REQUEST, "prefix", Bool(|s| &mut s.prefix), "Every key that begins with the key."),
        flag(REQUEST, "from-key", Bool(|s| &mut s.from_key), "Every key from the key on."),
        flag(REQUEST, "limit", Uint(|s| &mut s.limit), "The limit of a range; 0 for none."),
        flag(REQUEST, "count-only", Bool(|s| &mut s.count_only), "Ask for the count alone."),
        flag(REQUEST, "keys-only", Bool(|s| &mut s.keys_only), "Ask for keys without values."),
        flag(REQUEST, "bytes", Uint(|s| &mut s.bytes), "The size of the request."),
        flag(REQUEST, "ops", Uint(|s| &mut s.ops), "The operations of a txn."),
        flag(KNOWN, "objects", Uint(|s| &mut s.objects), "How many objects there are; 0 when it is not known."),
        flag(KNOWN, "object-bytes", Uint(|s| &mut s.object_bytes), "Their mean size."),
    ]
}

/// Explains what a file says of a request.
pub fn explain(path: &str, args: &[String]) -> Report {
    let mut settings = Settings::default();
    let Given { rest, help, errors, .. } = syntax::parse(&flags(), &mut settings, args);
    if help {
        return Report::page(crate::help::policy());
    }
    let mut problems: Vec<Problem> =
        errors.into_iter().map(|UsageError { text, hint }| Problem { text, hint }).collect();
    problems.extend(rest.first().map(|word| Problem::new(format!("{word:?} is not a flag"))));
    let client = settings.client.iter().try_fold(Client::default(), |client, attribute| client.with(attribute));
    let rpc = settings.rpc.parse::<Rpc>();
    let (client, rpc) = match (client, rpc) {
        (Ok(client), Ok(rpc)) if problems.is_empty() => (client, rpc),
        (client, rpc) => {
            problems.extend(client.err().map(Problem::new));
            problems.extend(rpc.err().map(|error| Problem::new(error.to_string())));
            return Report::failed(2, problems);
        }
    };
    let (loaded, warnings) = match read(path) {
        Ok(read) => read,
        Err(problems) => return Report::failed(1, problems),
    };
    let keys = keys(&settings);
    let request = settings.request(&client, rpc, &keys);
    let expected =
        (settings.objects > 0).then_some(Expected { objects: settings.objects, object_bytes: settings.object_bytes });
    let explanation = explain::explain(&loaded.policy, &request, Cost::predict(&request, expected));
    Report { page: explanation.to_string(), problems: warnings, status: 0 }
}

fn keys(settings: &Settings) -> Vec<KeyRange> {
    let key = || Bytes::copy_from_slice(settings.key.as_bytes());
    if settings.prefix {
        vec![prefix::range(settings.key.as_bytes())]
    } else if settings.from_key {
        vec![KeyRange::From(key())]
    } else if settings.key.is_empty() {
        Vec::new()
    } else {
        vec![KeyRange::new(key(), Bytes::copy_from_slice(settings.range_end.as_bytes()))]
    }
}

impl Settings {
    fn request<'a>(&self, client: &'a Client, rpc: Rpc, keys: &'a [KeyRange]) -> Request<'a> {
        let answer = match (self.count_only, self.keys_only) {
            (true, _) => Answer::Count,
            (_, true) => Answer::Keys,
            _ => Answer::Objects,
        };
        let ops = u32::try_from(self.ops).unwrap_or(u32::MAX);
        let writes = if rpc.kind() == forebay_policies::Kind::Write { ops } else { 0 };
        Request { keys, bytes: self.bytes, ops, writes, limit: self.limit, answer, ..Request::new(client, rpc) }
    }
}
