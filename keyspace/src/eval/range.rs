//! Range.

use std::{cmp::Ordering, ops::ControlFlow};

use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
};

use crate::{
    check,
    reader::Snapshot,
    record::{Form, Version},
};

/// What a Range answers.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// The revision of the state that was read, whatever revision was asked for.
    pub revision: i64,
    /// The keys, in the order asked for.
    pub kvs: Vec<Version>,
    /// How much of them is sent.
    pub form: Form,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys the range has, whatever limit and filters leave of them.
    pub count: i64,
}

/// Evaluates a Range.
///
/// With a limit it touches as many keys as it answers with, and O(log n) for the count, if the order is that of keys
/// (either way) and nothing is filtered.
pub fn range(snapshot: &Snapshot<'_>, request: &RangeRequest) -> Result<RangeResult, Error> {
    let at = snapshot.at(request.revision)?;
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let form = form(request);
    let revision = snapshot.revision();
    if request.count_only {
        let count = snapshot.count(&range, at) as i64;
        return Ok(RangeResult { revision, kvs: Vec::new(), form, more: false, count });
    }
    let limit = limit(request.limit);
    let selection = match (Order::of(request), check::has_revision_filters(request)) {
        (Order::Keys, false) => page(snapshot, &range, at, limit),
        (Order::KeysDescending, false) => page_back(snapshot, &range, at, limit),
        // Without an explicit order etcd cuts in the order of keys and then sorts what it has, the one key more that it
        // read to find out whether there are more included.
        (Order::KeysThen(target), false) => {
            let mut selection = collect(snapshot, &range, at, limit.saturating_add(1));
            selection.kvs.sort_by(|a, b| compare(target, a, b));
            selection.cut(limit)
        }
        (order, _) => {
            let mut selection = collect(snapshot, &range, at, usize::MAX);
            selection.kvs.retain(|version| passes(request, version));
            match order {
                Order::Keys => {}
                Order::KeysDescending => selection.kvs.reverse(),
                Order::KeysThen(target) | Order::Ascending(target) => {
                    selection.kvs.sort_by(|a, b| compare(target, a, b));
                }
                Order::Descending(target) => selection.kvs.sort_by(|a, b| compare(target, b, a)),
            }
            selection.cut(limit)
        }
    };
    let count = selection.total.unwrap_or_else(|| snapshot.count(&range, at)) as i64;
    Ok(RangeResult { revision, kvs: selection.kvs, form, more: selection.more, count })
}

/// In which order keys are answered, which is not quite what the request's fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Keys,
    KeysDescending,
    /// No order given, but a target: keys are selected in their own order, then sorted ascending.
    KeysThen(SortTarget),
    Ascending(SortTarget),
    Descending(SortTarget),
}

impl Order {
    fn of(request: &RangeRequest) -> Order {
        match (request.sort_order(), request.sort_target()) {
            (SortOrder::Descend, SortTarget::Key) => Order::KeysDescending,
            (_, SortTarget::Key) => Order::Keys,
            (SortOrder::None, target) => Order::KeysThen(target),
            (SortOrder::Ascend, target) => Order::Ascending(target),
            (SortOrder::Descend, target) => Order::Descending(target),
        }
    }
}

fn compare(target: SortTarget, a: &Version, b: &Version) -> Ordering {
    match target {
        SortTarget::Key => a.key().cmp(b.key()),
        SortTarget::Version => a.version().cmp(&b.version()),
        SortTarget::Create => a.create_revision().cmp(&b.create_revision()),
        SortTarget::Mod => a.mod_revision().cmp(&b.mod_revision()),
        SortTarget::Value => a.value().cmp(b.value()),
    }
}

fn passes(request: &RangeRequest, version: &Version) -> bool {
    let within = |min: i64, value: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(request.min_mod_revision, version.mod_revision(), request.max_mod_revision)
        && within(request.min_create_revision, version.create_revision(), request.max_create_revision)
}

/// How much of each key is sent. etcd answers `keys_only` from its index, which knows no lease; only to sort by value it
/// reads the key, lease included.
pub(super) fn form(request: &RangeRequest) -> Form {
    match (request.keys_only, request.sort_target()) {
        (false, _) => Form::Full,
        (true, SortTarget::Value) => Form::WithoutValue,
        (true, _) => Form::KeyOnly,
    }
}

/// The number of keys asked for; none or a negative one asks for all.
pub(super) fn limit(asked: i64) -> usize {
    if asked <= 0 { usize::MAX } else { usize::try_from(asked).unwrap_or(usize::MAX) }
}

/// Some keys of a range.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) kvs: Vec<Version>,
    /// Whether there are more.
    pub(super) more: bool,
    /// How many keys the whole range has, if that came out.
    total: Option<usize>,
}

impl Selection {
    fn cut(mut self, limit: usize) -> Selection {
        self.more = self.kvs.len() > limit;
        self.kvs.truncate(limit);
        self
    }
}

/// The first keys of a range.
pub(super) fn page(snapshot: &Snapshot<'_>, range: &KeyRange, at: i64, limit: usize) -> Selection {
    collect(snapshot, range, at, limit.saturating_add(1)).cut(limit)
}

/// The last keys of a range, last first.
fn page_back(snapshot: &Snapshot<'_>, range: &KeyRange, at: i64, limit: usize) -> Selection {
    let mut collector = Collector::upto(limit.saturating_add(1));
    snapshot.scan_back(range, at, &mut |version| collector.take(version));
    collector.end().cut(limit)
}

fn collect(snapshot: &Snapshot<'_>, range: &KeyRange, at: i64, limit: usize) -> Selection {
    let mut collector = Collector::upto(limit);
    snapshot.scan(range, at, &mut |version| collector.take(version));
    collector.end()
}

struct Collector {
    kvs: Vec<Version>,
    limit: usize,
}

impl Collector {
    fn upto(limit: usize) -> Collector {
        Collector { kvs: Vec::new(), limit }
    }

    fn take(&mut self, version: &Version) -> ControlFlow<()> {
        self.kvs.push(version.clone());
        if self.kvs.len() == self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self) -> Selection {
        let total = (self.kvs.len() < self.limit).then_some(self.kvs.len());
        Selection { kvs: self.kvs, more: false, total }
    }
}
