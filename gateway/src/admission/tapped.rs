//! What whoever taps is told of a request that has ended.
//!
//! Beside who did what and how it went there stands the request itself, in the form that the JSON API has for it and with
//! the length of each value in the value's place: enough to send one like it again (`forebay bench replay`), and nothing
//! of what is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use forebay_policies::{Rpc, heavy::Sums};
use forebay_proto::{
    decode_txn, each_part,
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, compare::TargetUnion, request_op::Request as Op,
    },
};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use super::Admitted;

/// Bytes of a request, without its values, that are shown. One that is larger can be counted but not repeated.
const SHOWN_MAX: usize = 16 << 10;

/// A line of the tap.
pub(super) fn event(admitted: &Admitted, did: Sums, lasted: Duration, code: Code) -> Value {
    let policy = &admitted.policy.policy;
    let micros = |duration: Duration| duration.as_micros() as u64;
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(lasted);
    json!({
        "atMicros": micros(began),
        "client": admitted.client.name(&policy.identity).to_string(),
        "rpc": admitted.rpc.name(),
        "key": admitted.key().escape_ascii().to_string(),
        "rule": policy.rule(admitted.class.rule).name,
        "level": policy.level(admitted.class.level).name,
        "bytes": did.bytes,
        "objects": did.objects,
        "tookMicros": micros(lasted),
        "rateWaitMicros": micros(admitted.waits.rate),
        "seatWaitMicros": micros(admitted.waits.seat_waited()),
        "code": format!("{code:?}"),
        "request": request(admitted.rpc, &admitted.message),
    })
}

/// The request; none for methods that are not about keys.
fn request(rpc: Rpc, message: &Bytes) -> Option<Value> {
    match rpc {
        Rpc::Range | Rpc::RangeStream => shown(&RangeRequest::decode(message.clone()).ok()?),
        Rpc::DeleteRange => shown(&DeleteRangeRequest::decode(message.clone()).ok()?),
        Rpc::Put => {
            let mut put = PutRequest::decode(message.clone()).ok()?;
            measure(&mut put);
            shown(&put)
        }
        Rpc::Txn => {
            let mut txn = decode_txn(message.clone()).ok()?;
            let measured = &mut |op: &mut Op| {
                if let Op::RequestPut(put) = op {
                    measure(put);
                }
            };
            // What is compared with a value is one.
            let bare = &mut |compare: &mut Compare| {
                if let Some(TargetUnion::Value(value)) = &mut compare.target_union {
                    value.clear();
                }
            };
            each_part(&mut txn, measured, bare);
            shown(&txn)
        }
        _ => None,
    }
}

/// Puts the length of a value in its place.
fn measure(put: &mut PutRequest) {
    put.value = put.value.len().to_string().into();
}

fn shown(request: &(impl prost::Message + serde::Serialize)) -> Option<Value> {
    let fits = request.encoded_len() <= SHOWN_MAX;
    fits.then(|| serde_json::to_value(request).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{RequestOp, TxnRequest};

    use super::*;

    #[test]
    fn a_request_is_shown_as_the_json_api_has_it_and_of_values_their_lengths() {
        let range = RangeRequest { key: "a".into(), range_end: "b".into(), limit: 7, ..Default::default() };
        let shown = request(Rpc::Range, &range.encode_to_vec().into());
        assert_eq!(shown, Some(json!({"key": "YQ==", "range_end": "Yg==", "limit": "7"})));
        let put = PutRequest { key: "a".into(), value: "secret".into(), ..Default::default() };
        let shown = request(Rpc::Put, &put.encode_to_vec().into());
        assert_eq!(shown, Some(json!({"key": "YQ==", "value": "Ng=="})));
        assert_eq!(request(Rpc::LeaseGrant, &Bytes::new()), None);
    }

    #[test]
    fn no_value_is_shown_of_a_txn_wherever_it_stands() {
        let put = PutRequest { key: "a".into(), value: "secret".into(), ..Default::default() };
        let compare = Compare { target_union: Some(TargetUnion::Value("secret".into())), ..Default::default() };
        let op = RequestOp { request: Some(Op::RequestPut(put)) };
        let inner = TxnRequest { compare: vec![compare], success: vec![op.clone()], failure: vec![op] };
        let nested = RequestOp { request: Some(Op::RequestTxn(inner)) };
        let txn = TxnRequest { success: vec![nested], ..Default::default() };
        let shown = request(Rpc::Txn, &txn.encode_to_vec().into()).expect("a txn is shown").to_string();
        let secret = serde_json::to_string(&PutRequest { value: "secret".into(), ..Default::default() }).unwrap();
        let secret = secret.split('"').find(|part| part.starts_with("c2Vj")).expect("it is there, in base64");
        assert!(!shown.contains(secret), "{shown}");
    }

    #[test]
    fn what_is_large_even_without_its_values_is_not_shown() {
        let put = PutRequest { key: vec![b'k'; SHOWN_MAX].into(), ..Default::default() };
        assert_eq!(request(Rpc::Put, &put.encode_to_vec().into()), None);
        let put = PutRequest { key: "k".into(), value: vec![b'v'; SHOWN_MAX].into(), ..Default::default() };
        assert!(request(Rpc::Put, &put.encode_to_vec().into()).is_some());
    }
}
