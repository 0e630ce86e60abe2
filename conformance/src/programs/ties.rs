//! Sorted answers whose order is not fully determined.

use std::cmp::Ordering;

use forebay_proto::{
    etcdserverpb::{RangeRequest, RangeResponse, range_request::SortTarget},
    mvccpb::KeyValue,
};

/// The same answer with equal keys in key order. When a limit cut the answer, which of the last equal
/// keys are in it is open too, so only their number and what they are equal in is kept.
pub(crate) fn settle(request: &RangeRequest, mut response: RangeResponse) -> RangeResponse {
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return response };
    if target == SortTarget::Key {
        return response;
    }
    for group in response.kvs.chunk_by_mut(|a, b| compare(target, a, b) == Ordering::Equal) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if response.more
        && let Some(last) = response.kvs.chunk_by_mut(|a, b| compare(target, a, b) == Ordering::Equal).last()
    {
        last.iter_mut().for_each(|kv| *kv = only(target, kv));
    }
    response
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

fn only(target: SortTarget, kv: &KeyValue) -> KeyValue {
    let none = KeyValue::default();
    match target {
        SortTarget::Key => KeyValue { key: kv.key.clone(), ..none },
        SortTarget::Version => KeyValue { version: kv.version, ..none },
        SortTarget::Create => KeyValue { create_revision: kv.create_revision, ..none },
        SortTarget::Mod => KeyValue { mod_revision: kv.mod_revision, ..none },
        SortTarget::Value => KeyValue { value: kv.value.clone(), ..none },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, version: i64) -> KeyValue {
        KeyValue { key: key.into(), version, ..Default::default() }
    }

    #[test]
    fn equal_keys_are_ordered_and_the_cut_ones_forgotten() {
        let request = RangeRequest { sort_target: SortTarget::Version.into(), ..Default::default() };
        let answer = |kvs: [KeyValue; 4]| RangeResponse { kvs: kvs.into(), more: true, ..Default::default() };
        let one = settle(&request, answer([kv("b", 1), kv("a", 1), kv("c", 2), kv("d", 2)]));
        let other = settle(&request, answer([kv("a", 1), kv("b", 1), kv("e", 2), kv("c", 2)]));
        assert_eq!(one, other);
        assert_eq!(one.kvs[0], kv("a", 1));
    }
}
