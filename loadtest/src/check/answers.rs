//! The answers of KV: where they stand, what they tell, and whether two say the same.

use forebay_proto::{
    etcdserverpb::{ResponseHeader, request_op, response_op},
    mvccpb::KeyValue,
};

/// The header of an answer of KV.
pub fn header(response: &response_op::Response) -> Option<&ResponseHeader> {
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    match response {
        ResponseRange(response) => response.header.as_ref(),
        ResponsePut(response) => response.header.as_ref(),
        ResponseDeleteRange(response) => response.header.as_ref(),
        ResponseTxn(response) => response.header.as_ref(),
    }
}

/// Whether an answer tells that something was changed, so that the revision in its header is its own.
pub fn tells_change(response: &response_op::Response) -> bool {
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    match response {
        ResponseRange(_) => false,
        ResponsePut(_) => true,
        ResponseDeleteRange(response) => response.deleted > 0,
        ResponseTxn(response) => response.responses.iter().any(|op| op.response.as_ref().is_some_and(tells_change)),
    }
}

/// All keys of an answer, as whole as they were.
pub fn keys_of(request: &request_op::Request, response: &response_op::Response, kvs: &mut Vec<KeyValue>) {
    use request_op::Request::{RequestRange, RequestTxn};
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    match (request, response) {
        (RequestRange(request), ResponseRange(response)) if !request.keys_only => {
            kvs.extend_from_slice(&response.kvs);
        }
        (_, ResponsePut(response)) => kvs.extend(response.prev_kv.clone()),
        (_, ResponseDeleteRange(response)) => kvs.extend_from_slice(&response.prev_kvs),
        (RequestTxn(request), ResponseTxn(response)) => {
            let branch = if response.succeeded { &request.success } else { &request.failure };
            for (op, response) in branch.iter().zip(&response.responses) {
                if let (Some(request), Some(response)) = (&op.request, &response.response) {
                    keys_of(request, response, kvs);
                }
            }
        }
        _ => {}
    }
}

/// Whether two answers say the same, headers apart.
pub fn is_same(request: &request_op::Request, got: &response_op::Response, expected: &response_op::Response) -> bool {
    use request_op::Request::{RequestRange, RequestTxn};
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    match (request, got, expected) {
        (RequestRange(request), ResponseRange(got), ResponseRange(expected)) => {
            // Releases differ in whether keys alone come with their leases.
            let same_key = |(a, b): (&KeyValue, &KeyValue)| {
                a == b || request.keys_only && KeyValue { lease: 0, ..a.clone() } == KeyValue { lease: 0, ..b.clone() }
            };
            got.kvs.len() == expected.kvs.len()
                && got.kvs.iter().zip(&expected.kvs).all(same_key)
                && (got.more, got.count) == (expected.more, expected.count)
        }
        (_, ResponsePut(got), ResponsePut(expected)) => got.prev_kv == expected.prev_kv,
        (_, ResponseDeleteRange(got), ResponseDeleteRange(expected)) => {
            (got.deleted, &got.prev_kvs) == (expected.deleted, &expected.prev_kvs)
        }
        (RequestTxn(request), ResponseTxn(got), ResponseTxn(expected)) => {
            let branch = if expected.succeeded { &request.success } else { &request.failure };
            got.succeeded == expected.succeeded
                && got.responses.len() == expected.responses.len()
                && branch.iter().zip(got.responses.iter().zip(&expected.responses)).all(|(op, (got, expected))| {
                    match (&op.request, &got.response, &expected.response) {
                        (Some(request), Some(got), Some(expected)) => is_same(request, got, expected),
                        // Could not be told.
                        (_, Some(_), None) => true,
                        _ => false,
                    }
                })
        }
        _ => false,
    }
}
