//! Put.

use forebay_proto::{Error, etcdserverpb::PutRequest};

use crate::{reader::Snapshot, record::Version, store::WriteTxn};

/// Which leases there are, as of the raft entry being applied.
pub trait Leases {
    /// Whether this lease exists.
    fn exists(&self, lease: i64) -> bool;
}

impl<F: Fn(i64) -> bool> Leases for F {
    fn exists(&self, lease: i64) -> bool {
        self(lease)
    }
}

/// What a Put answers.
#[derive(Clone, Debug)]
pub struct PutResult {
    /// The revision of the put.
    pub revision: i64,
    /// What it replaced, if that was asked for.
    pub prev: Option<Version>,
}

/// Evaluates a Put. An error means that nothing was written.
pub fn put(txn: &mut WriteTxn<'_>, leases: &impl Leases, request: &PutRequest) -> Result<PutResult, Error> {
    let referred = check(&txn.snapshot(), leases, request)?;
    Ok(write(txn, request, referred.as_ref()))
}

/// Checks what depends on the state: the lease, and the version that `ignore_value` and `ignore_lease` refer to, which is
/// returned.
pub(super) fn check(
    snapshot: &Snapshot<'_>,
    leases: &impl Leases,
    request: &PutRequest,
) -> Result<Option<Version>, Error> {
    if request.lease != 0 && !leases.exists(request.lease) {
        return Err(Error::LeaseNotFound);
    }
    if !request.ignore_value && !request.ignore_lease {
        return Ok(None);
    }
    snapshot.get(&request.key, snapshot.revision()).map(Some).ok_or(Error::KeyNotFound)
}

/// Writes a put that was checked.
///
/// In a txn the version referred to is the one before the txn. The txn cannot have put another, but through a hole in
/// [`crate::check::txn`] it may have deleted it; etcd 3.7 crashes then.
pub(super) fn write(txn: &mut WriteTxn<'_>, request: &PutRequest, referred: Option<&Version>) -> PutResult {
    let value = referred.filter(|_| request.ignore_value).map_or(&request.value[..], Version::value);
    let lease = referred.filter(|_| request.ignore_lease).map_or(request.lease, Version::lease);
    let prev = txn.put(&request.key, value, lease);
    PutResult { revision: txn.revision(), prev: prev.filter(|_| request.prev_kv) }
}
