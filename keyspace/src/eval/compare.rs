//! The conditions of a txn.

use std::{cmp::Ordering, ops::ControlFlow};

use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        Compare,
        compare::{CompareResult, CompareTarget, TargetUnion},
    },
};

use crate::{reader::Snapshot, record::Version};

/// Whether every condition holds.
pub(super) fn all_hold(snapshot: &Snapshot<'_>, compares: &[Compare]) -> bool {
    compares.iter().all(|compare| holds(snapshot, compare))
}

/// A condition on a range must hold for each of its keys; of none it asks what it asks of a missing key.
fn holds(snapshot: &Snapshot<'_>, compare: &Compare) -> bool {
    let (mut is_empty, mut all) = (true, true);
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    snapshot.scan(&range, snapshot.revision(), &mut |version| {
        is_empty = false;
        all = holds_for(compare, Some(version));
        if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if is_empty { holds_for(compare, None) } else { all }
}

fn holds_for(compare: &Compare, version: Option<&Version>) -> bool {
    let number = |of: fn(&Version) -> i64| version.map_or(0, of);
    let union = compare.target_union.as_ref();
    // A union that is not the target's counts as zero.
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let given = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => b"",
            };
            // A missing value is no value: not even unequal to one.
            let Some(version) = version else { return false };
            version.value().cmp(given)
        }
        Ok(CompareTarget::Version) => number(Version::version).cmp(&match union {
            Some(TargetUnion::Version(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => number(Version::create_revision).cmp(&match union {
            Some(TargetUnion::CreateRevision(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => number(Version::mod_revision).cmp(&match union {
            Some(TargetUnion::ModRevision(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => number(Version::lease).cmp(&match union {
            Some(TargetUnion::Lease(given)) => *given,
            _ => 0,
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
