use proptest::prelude::*;
use prost::Message as _;

use super::{
    MESSAGE_DEPTH_MAX,
    schema::{Kind, SCHEMA},
    *,
};
use crate::{
    TXN_DEPTH_MAX,
    etcdserverpb::{
        AlarmMember, AlarmResponse, Compare, LeaseTimeToLiveResponse, Member, MemberListResponse, RangeRequest,
        RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
        compare::TargetUnion, request_op, response_op, watch_request::RequestUnion,
    },
    mvccpb::{Event, KeyValue},
};

/// What a request means, in the gateway's own form; written back, that form means the same.
fn understood(path: &str, body: &[u8]) -> Result<String, Error> {
    let route = Route::find(path).expect("a path of the table");
    let mut values = Values::default();
    values.push(body);
    let value = match values.take_next()? {
        Some(value) => Some(value),
        None => values.finish()?,
    };
    let mut protobuf = Vec::new();
    if let Some(value) = value {
        route.request(&value, &mut protobuf)?;
    }
    let mut json = Vec::new();
    write::write(&SCHEMA, SCHEMA.methods[route.grpc_path].request, &protobuf, &mut json)?;
    Ok(String::from_utf8(json).expect("JSON is text"))
}

fn response(path: &str, message: &impl prost::Message) -> String {
    response_of_bytes(path, &message.encode_to_vec()).expect("an encoded message")
}

fn response_of_bytes(path: &str, protobuf: &[u8]) -> Result<String, Error> {
    let mut json = Vec::new();
    Route::find(path).expect("a path of the table").response(protobuf, &mut json)?;
    Ok(String::from_utf8(json).expect("JSON is text"))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend(plain.bytes());
        let (digits, behind) = escaped.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits behind %"));
        rest = behind;
    }
    bytes.extend(rest.bytes());
    bytes
}

#[test]
fn takes_and_refuses_what_etcd_takes_and_refuses() {
    let mut lines = include_str!("../../testdata/json/requests.txt").lines();
    let mut asked = 0;
    while let Some(request) = lines.next() {
        if request.is_empty() || request.starts_with('#') {
            continue;
        }
        let recorded = lines.next().expect("an answer below each request").trim_start();
        let recorded = String::from_utf8(unescape(recorded)).expect("answers are text");
        let (path, body) = request.split_once(' ').expect("a path and a body");
        match (understood(path, &unescape(body)), recorded.strip_prefix("refused")) {
            (Ok(message), None) => assert_eq!(message, recorded, "{request}"),
            (Err(_), Some("")) => {}
            (Err(error), Some(text)) => assert_eq!(format!(": {error}"), text, "{request}"),
            (ours, _) => panic!("{request}: we say {ours:?}, etcd says {recorded}"),
        }
        asked += 1;
    }
    assert!(asked > 250, "{asked} requests read");
}

/// etcd 3.7.1 takes the first number of these and drops the rest; later releases of its JSON library
/// refuse them, and so do we.
#[test]
fn refuses_a_string_with_more_than_one_number() {
    for number in ["7,8", "7 8", "7]", "7:"] {
        let error = understood("/v3/lease/grant", format!(r#"{{"ID":"{number}"}}"#).as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Value { .. }), "{error}");
    }
}

#[test]
fn every_route_has_a_method_and_every_request_takes_an_empty_object() {
    assert_eq!(routes().count(), 51);
    for route in routes() {
        assert_eq!(understood(route.path, b" {} ").as_deref(), Ok("{}"), "{}", route.path);
        assert_eq!(response_of_bytes(route.path, b"").as_deref(), Ok("{}"), "{}", route.path);
    }
    let streaming: Vec<_> = routes().filter(|route| route.server_streaming()).map(|route| route.path).collect();
    assert_eq!(streaming.len(), 4, "{streaming:?}");
    let both: Vec<_> = routes().filter(|route| route.client_streaming()).map(|route| route.path).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(Route::find("/v3/kv/rangestream").is_none());
    assert!(Route::find("/v3/kv/range/").is_none());
}

#[test]
fn names_in_json_are_the_two_that_protobuf_gives() {
    let range = &SCHEMA.messages[SCHEMA.methods["/etcdserverpb.KV/Range"].request];
    let spelled = |number| {
        let field = &range.fields[range.by_number(number).expect("a field of RangeRequest")];
        (field.name.as_str(), field.json_name.as_str(), field.kind)
    };
    assert_eq!(spelled(2), ("range_end", "rangeEnd", Kind::Bytes));
    assert_eq!(spelled(10), ("min_mod_revision", "minModRevision", Kind::Int64));
    let grant = &SCHEMA.messages[SCHEMA.methods["/etcdserverpb.Lease/LeaseGrant"].request];
    assert!(grant.by_name("TTL").is_some() && grant.by_name("ttl").is_none());
}

#[test]
fn a_request_arrives_as_the_message_it_describes() {
    let body = br#"{
        "compare": [{"result": "GREATER", "target": "MOD", "key": "YQ==", "modRevision": "0"}],
        "success": [{"requestTxn": {"failure": [{"request_range": {"key": "Yg==", "limit": 5e0, "sort_order": 2}}]}}]
    }"#;
    let mut protobuf = Vec::new();
    Route::find("/v3/kv/txn").unwrap().request(body, &mut protobuf).unwrap();
    let range = RangeRequest { key: "b".into(), limit: 5, sort_order: 2, ..Default::default() };
    let inner = TxnRequest {
        failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(range)) }],
        ..Default::default()
    };
    let expected = TxnRequest {
        compare: vec![Compare {
            result: 1,
            target: 2,
            key: "a".into(),
            target_union: Some(TargetUnion::ModRevision(0)),
            ..Default::default()
        }],
        success: vec![RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }],
        ..Default::default()
    };
    assert_eq!(TxnRequest::decode(&protobuf[..]).unwrap(), expected);
    assert_eq!(protobuf, expected.encode_to_vec(), "and in the encoding that Go and prost choose");
}

#[test]
fn responses_have_the_gateways_shape() {
    let header = Some(ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -1, raft_term: 2 });
    let kv = KeyValue { key: "k".into(), value: vec![0, 255, 62].into(), version: 1, ..Default::default() };
    assert_eq!(
        response("/v3/kv/range", &RangeResponse { header, kvs: vec![kv.clone(), kv.clone()], more: true, count: 2 }),
        r#"{"header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"-1","raft_term":"2"},"kvs":[{"key":"aw==","version":"1","value":"AP8+"},{"key":"aw==","version":"1","value":"AP8+"}],"more":true,"count":"2"}"#
    );
    let put = response_op::Response::ResponsePut(Default::default());
    let txn =
        TxnResponse { succeeded: true, responses: vec![ResponseOp { response: Some(put) }], ..Default::default() };
    assert_eq!(response("/v3/kv/txn", &txn), r#"{"succeeded":true,"responses":[{"response_put":{}}]}"#);
    let event = Event { r#type: 1, kv: Some(kv), prev_kv: None };
    let watch =
        WatchResponse {
            watch_id: 3, cancel_reason: "a\"\\\u{1}\té".into(), events: vec![event], ..Default::default()
        };
    assert_eq!(
        response("/v3/watch", &watch),
        r#"{"watch_id":"3","cancel_reason":"a\"\\\u0001\té","events":[{"type":"DELETE","kv":{"key":"aw==","version":"1","value":"AP8+"}}]}"#
    );
    let alarms =
        [AlarmMember { member_id: 1, alarm: 2 }, AlarmMember { member_id: 2, alarm: 77 }, AlarmMember::default()];
    assert_eq!(
        response("/v3/maintenance/alarm", &AlarmResponse { header: None, alarms: alarms.to_vec() }),
        r#"{"alarms":[{"memberID":"1","alarm":"CORRUPT"},{"memberID":"2","alarm":77},{}]}"#
    );
    let member =
        Member { id: 5, peer_ur_ls: vec!["http://a".into(), String::new()], is_learner: true, ..Default::default() };
    assert_eq!(
        response("/v3/cluster/member/list", &MemberListResponse { header: None, members: vec![member] }),
        r#"{"members":[{"ID":"5","peerURLs":["http://a",""],"isLearner":true}]}"#
    );
    let lease = LeaseTimeToLiveResponse { id: 7, ttl: -1, keys: vec!["x".into()], ..Default::default() };
    assert_eq!(response("/v3/lease/timetolive", &lease), r#"{"ID":"7","TTL":"-1","keys":["eA=="]}"#);
}

#[test]
fn fields_in_any_order_and_in_pieces_make_the_same_message() {
    // more = true, header {revision 3}, kvs [], count 2, header {raft_term 4}, more = false, an unknown field.
    let scattered = [0x18, 1, 0x0a, 2, 0x18, 3, 0x12, 0, 0x20, 2, 0x0a, 2, 0x20, 4, 0x18, 0, 0x9a, 6, 1, 9];
    let json = response_of_bytes("/v3/kv/range", &scattered).unwrap();
    assert_eq!(json, r#"{"header":{"revision":"3","raft_term":"4"},"kvs":[{}],"count":"2"}"#);
    // Of a oneof the last member counts: response_range {}, response_put {header {}}.
    let contested = [0x1a, 6, 0x0a, 0, 0x12, 2, 0x0a, 0];
    assert_eq!(
        response_of_bytes("/v3/kv/txn", &contested).unwrap(),
        r#"{"responses":[{"response_put":{"header":{}}}]}"#
    );
    // Filters packed and one by one, as two decoders write them.
    let create = SCHEMA.methods["/etcdserverpb.Watch/Watch"].request;
    let mut json = Vec::new();
    write::write(&SCHEMA, create, &[0x0a, 6, 0x2a, 2, 0, 1, 0x28, 0], &mut json).unwrap();
    assert_eq!(json, br#"{"create_request":{"filters":["NOPUT","NODELETE","NOPUT"]}}"#);
}

#[test]
fn bytes_that_are_no_message_are_an_error() {
    for bytes in [&[0x0a][..], &[0x0a, 5, 1], &[0x18, 0x80], &[0x19, 0, 0], &[0x0d, 0, 0, 0, 0], &[0x0b], &[0xff; 11]] {
        assert_eq!(response_of_bytes("/v3/kv/range", bytes), Err(Error::Malformed), "{bytes:x?}");
    }
    assert_eq!(
        response_of_bytes("/v3/auth/role/list", &[0x12, 1, 0xff]),
        Err(Error::Malformed),
        "a name that is no text"
    );
}

/// A transaction in a transaction and so on: `depth` of them, each two messages.
fn nested_txn(depth: usize) -> String {
    let (open, close) = (r#"{"success":[{"request_txn":"#, "}]}");
    format!("{}{{}}{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn nesting_is_bounded_on_both_ways_and_what_passes_is_read() {
    let route = Route::find("/v3/kv/txn").unwrap();
    let mut protobuf = Vec::new();
    route.request(nested_txn(TXN_DEPTH_MAX - 1).as_bytes(), &mut protobuf).unwrap();
    crate::decode_txn(protobuf.into()).unwrap();
    let too_deep = nested_txn(TXN_DEPTH_MAX + 1);
    assert_eq!(route.request(too_deep.as_bytes(), &mut Vec::new()), Err(Error::TooManyMessages));
    assert_eq!(understood("/v3/kv/txn", nested_txn(3000).as_bytes()), Err(Error::TooManyMessages));
    assert_eq!(understood("/v3/kv/txn", nested_txn(100_000).as_bytes()), Err(Error::TooDeep));

    // ResponseOp.response_txn and TxnResponse.responses, a hundred thousand of each.
    let mut response = Vec::new();
    for _ in 0..MESSAGE_DEPTH_MAX {
        for tag in [0x22, 0x1a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(response.len() as u64, &mut outer);
            outer.append(&mut response);
            response = outer;
        }
    }
    assert_eq!(response_of_bytes("/v3/kv/txn", &response), Err(Error::TooManyMessages));
}

/// A client chooses the depth, and who has no room left on the stack ends the process.
#[test]
fn what_passes_takes_half_of_the_stack_of_a_thread() {
    let read = || {
        let mut protobuf = Vec::new();
        Route::find("/v3/kv/txn").unwrap().request(nested_txn(TXN_DEPTH_MAX - 1).as_bytes(), &mut protobuf).unwrap();
        drop(crate::decode_txn(protobuf.into()).unwrap());
        understood("/v3/kv/txn", nested_txn(3000).as_bytes())
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(read).unwrap();
    assert_eq!(thread.join().unwrap(), Err(Error::TooManyMessages));
}

#[test]
fn unknown_fields_may_nest_as_deep_as_json_may() {
    let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(understood("/v3/kv/range", nested(DEPTH_MAX - 1).as_bytes()).as_deref(), Ok("{}"));
    assert_eq!(understood("/v3/kv/range", nested(DEPTH_MAX).as_bytes()), Err(Error::TooDeep));
    let mut values = Values::default();
    values.push("[".repeat(1 << 20).as_bytes());
    assert_eq!(values.take_next(), Err(Error::TooDeep));
}

#[test]
fn values_come_out_of_a_stream_however_it_is_cut() {
    let stream = br#" {"a":"\u0041}\"{"} {"b":[1,2.5e-1,{}]}[]  "x" 17 true{} null-0.5e+7 "#;
    let expected =
        [r#"{"a":"\u0041}\"{"}"#, r#"{"b":[1,2.5e-1,{}]}"#, "[]", r#""x""#, "17", "true", "{}", "null", "-0.5e+7"];
    for len in 1..=stream.len() {
        let mut values = Values::default();
        let mut taken = Vec::new();
        for piece in stream.chunks(len) {
            values.push(piece);
            while let Some(value) = values.take_next().unwrap() {
                taken.push(String::from_utf8(value.trim_ascii().to_vec()).unwrap());
            }
        }
        assert_eq!(taken, expected, "in pieces of {len}");
        assert_eq!(values.finish(), Ok(None));
    }
}

#[test]
fn the_end_of_a_stream_ends_a_number_and_nothing_else() {
    let finish = |text: &str| {
        let mut values = Values::default();
        values.push(text.as_bytes());
        assert_eq!(values.take_next(), Ok(None), "{text}");
        values.finish()
    };
    for number in ["0", " -12", "1.5", "1e5"] {
        assert_eq!(finish(number), Ok(Some(number.to_owned().into())));
    }
    for nothing in ["", " \r\n\t"] {
        assert_eq!(finish(nothing), Ok(None));
    }
    for part in ["-", "1.", "1e", "1e+", "tru", "\"", "\"\\", "\"\\u00", "{", "{\"a\"", "{\"a\":1", "[1,", "[1"] {
        assert_eq!(finish(part), Err(Error::Truncated), "{part}");
    }
}

#[test]
fn an_error_says_where() {
    let error =
        understood("/v3/kv/range", b"{\n\t\"key\": \"YQ==\",\n\t\"limit\": \"\xc3\xa9\", \"x\": 1}").unwrap_err();
    assert_eq!(error.to_string(), "proto: (line 3:11): invalid value for int64 field limit: \"é\"");
    let long = format!(r#"{{"limit":"{}"}}"#, "9".repeat(1 << 20));
    assert!(understood("/v3/kv/range", long.as_bytes()).unwrap_err().to_string().len() < 400);
}

fn key_value() -> impl Strategy<Value = KeyValue> {
    (any::<Vec<u8>>(), any::<Vec<u8>>(), any::<[i64; 4]>()).prop_map(|(key, value, numbers)| {
        let [create_revision, mod_revision, version, lease] = numbers;
        KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease }
    })
}

proptest! {
    #[test]
    fn another_json_library_reads_what_we_write(kvs in prop::collection::vec(key_value(), 0..4), count: i64, more: bool) {
        let message = RangeResponse { header: Some(ResponseHeader::default()), kvs, more, count };
        let read: RangeResponse = serde_json::from_str(&response("/v3/kv/range", &message)).unwrap();
        prop_assert_eq!(read, message);
    }

    #[test]
    fn we_read_what_another_json_library_writes(key: Vec<u8>, range_end: Vec<u8>, limit: i64, keys_only: bool, sort_order in 0..3) {
        let message = RangeRequest {
            key: key.into(), range_end: range_end.into(), limit, keys_only, sort_order, ..Default::default()
        };
        let mut protobuf = Vec::new();
        Route::find("/v3/kv/range").unwrap().request(&serde_json::to_vec(&message).unwrap(), &mut protobuf).unwrap();
        prop_assert_eq!(protobuf, message.encode_to_vec());
    }

    #[test]
    fn no_bytes_make_the_writer_panic(bytes: Vec<u8>, which in 0..51_usize) {
        let route = routes().nth(which).unwrap();
        let mut json = Vec::new();
        if route.response(&bytes, &mut json).is_ok() {
            serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        }
    }

    /// Damages one byte of a request that visits every kind of field.
    #[test]
    fn no_text_makes_the_reader_panic(at in 0..2000_usize, byte: u8, cut: bool) {
        let body = br#"{"compare":[{"result":"LESS","target":3,"key":"YQ","value":"-_"}],"success":[{"request_range":{"limit":"5","count_only":true,"x":[{"y":"\u00e9\ud83d\ude00"}]}},{"request_txn":{"success":[]}}],"failure":null}"#;
        let mut body = body.to_vec();
        let at = at % body.len();
        body[at] = byte;
        if cut {
            body.truncate(at);
        }
        let _ = understood("/v3/kv/txn", &body);
        // Without the scanner in front, the reader may misread but must not panic.
        let _ = Route::find("/v3/kv/txn").unwrap().request(&body, &mut Vec::new());
    }

    #[test]
    fn whole_numbers_are_themselves_in_every_spelling(number: i64, shift in 0..15_usize) {
        let digits = number.unsigned_abs().to_string();
        let sign = if number < 0 { "-" } else { "" };
        let padded = format!("{sign}{digits}{}e-{shift}", "0".repeat(shift));
        prop_assert_eq!(number::integer(padded.as_bytes()), Some(i128::from(number)));
        prop_assert_eq!(number::integer(format!("{number}.000E+0").as_bytes()), Some(i128::from(number)));
    }
}

#[test]
fn a_watch_request_with_an_unset_member_is_an_empty_message() {
    let mut protobuf = Vec::new();
    let route = Route::find("/v3/watch").unwrap();
    route.request(br#"{"create_request":null,"progress_request":{}}"#, &mut protobuf).unwrap();
    let progress = Some(RequestUnion::ProgressRequest(Default::default()));
    assert_eq!(WatchRequest::decode(&protobuf[..]).unwrap(), WatchRequest { request_union: progress });
}
