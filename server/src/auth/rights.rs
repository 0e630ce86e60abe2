//! What a request needs, judged by users, roles and the keys that it names.
//!
//! Every key of a request is looked at: of a txn both branches, whichever is taken, and txns inside; of a put the keys
//! that stand on its lease already, for whoever owns the lease can end them.

use forebay_proto::{
    Error, KeyRange,
    authpb::User,
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op::Request,
    },
};

use super::{Caller, Granted, Keys, ROOT, Store, store::has_role};
use crate::lease::Lessor;

/// A caller and the state to judge it by.
#[derive(Debug)]
pub struct Rights<'s> {
    store: &'s Store,
    caller: &'s Caller,
}

impl<'s> Rights<'s> {
    /// `None` while auth is off: then there is nothing to judge.
    pub fn of(store: &'s Store, caller: &'s Caller) -> Option<Rights<'s>> {
        store.is_enabled().then_some(Rights { store, caller })
    }

    /// Somebody has to have said who they are.
    pub fn user(&self) -> Result<(), Error> {
        if *self.caller == Caller::nobody() { Err(Error::UserEmpty) } else { Ok(()) }
    }

    /// Role root. As in etcd the caller may be known as of an older revision.
    pub fn admin(&self) -> Result<(), Error> {
        if self.caller.user.is_empty() {
            return Err(Error::UserEmpty);
        }
        match self.store.user(&self.caller.user) {
            None => Err(Error::UserNotFound),
            Some(user) if has_role(user, ROOT) => Ok(()),
            Some(_) => Err(Error::PermissionDenied),
        }
    }

    /// To ask about a user: about oneself everybody may.
    pub fn about_user(&self, name: &str) -> Result<(), Error> {
        self.admin().or_else(|error| if self.caller.user == name { Ok(()) } else { Err(error) })
    }

    /// To ask about a role: about one's own everybody may.
    pub fn about_role(&self, role: &str) -> Result<(), Error> {
        let is_own = || self.store.user(&self.caller.user).is_some_and(|user| has_role(user, role));
        self.admin().or_else(|error| if is_own() { Ok(()) } else { Err(error) })
    }

    /// To read keys.
    pub fn read(&self, range: &KeyRange) -> Result<(), Error> {
        self.keys(range, |granted| &granted.read)
    }

    /// To write keys.
    pub fn write(&self, range: &KeyRange) -> Result<(), Error> {
        self.keys(range, |granted| &granted.write)
    }

    fn keys(&self, range: &KeyRange, right: fn(&Granted) -> &Keys) -> Result<(), Error> {
        match self.known_user()? {
            user if has_role(user, ROOT) => Ok(()),
            _ if self.store.granted(&self.caller.user).is_some_and(|granted| right(granted).cover(range)) => Ok(()),
            _ => Err(Error::PermissionDenied),
        }
    }

    /// The user, as of now.
    fn known_user(&self) -> Result<&User, Error> {
        if self.caller.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if self.caller.revision < self.store.revision() {
            return Err(Error::AuthOldRevision);
        }
        self.store.user(&self.caller.user).ok_or(Error::PermissionDenied)
    }

    /// To carry out a range.
    pub fn range(&self, request: &RangeRequest) -> Result<(), Error> {
        self.read(&KeyRange::new(request.key.clone(), request.range_end.clone()))
    }

    /// To carry out a put.
    pub fn put(&self, request: &PutRequest, lessor: &Lessor) -> Result<(), Error> {
        let key = KeyRange::Key(request.key.clone());
        self.write(&key)?;
        self.write_lease(request.lease, lessor)?;
        if request.prev_kv { self.read(&key) } else { Ok(()) }
    }

    /// To carry out a deletion.
    pub fn delete_range(&self, request: &DeleteRangeRequest) -> Result<(), Error> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        self.write(&range)?;
        if request.prev_kv { self.read(&range) } else { Ok(()) }
    }

    /// To carry out a txn, whichever way it goes.
    pub fn txn(&self, request: &TxnRequest, lessor: &Lessor) -> Result<(), Error> {
        for compare in &request.compare {
            self.read(&KeyRange::new(compare.key.clone(), compare.range_end.clone()))?;
        }
        request.success.iter().chain(&request.failure).try_for_each(|op| self.op(op, lessor))
    }

    fn op(&self, op: &RequestOp, lessor: &Lessor) -> Result<(), Error> {
        match &op.request {
            Some(Request::RequestRange(range)) => self.range(range),
            Some(Request::RequestPut(put)) => self.put(put, lessor),
            Some(Request::RequestDeleteRange(delete)) => self.delete_range(delete),
            Some(Request::RequestTxn(txn)) => self.txn(txn, lessor),
            None => Ok(()),
        }
    }

    /// To end a lease, to renew it, or to put another key on it: all that stand on it must be the caller's to write.
    pub fn write_lease(&self, id: i64, lessor: &Lessor) -> Result<(), Error> {
        self.each_key(id, lessor, |key| self.write(key))
    }

    /// To be told which keys stand on a lease.
    pub fn read_lease(&self, id: i64, lessor: &Lessor) -> Result<(), Error> {
        self.each_key(id, lessor, |key| self.read(key))
    }

    fn each_key(&self, id: i64, lessor: &Lessor, right: impl Fn(&KeyRange) -> Result<(), Error>) -> Result<(), Error> {
        if self.admin().is_ok() {
            return Ok(());
        }
        lessor.keys(id).try_for_each(|key| right(&KeyRange::Key(key.to_vec().into())))
    }
}

/// What a create request watches: an empty key means from the first one on.
pub fn watched(request: &WatchCreateRequest) -> KeyRange {
    let key = if request.key.is_empty() { b"\0"[..].into() } else { request.key.clone() };
    KeyRange::new(key, request.range_end.clone())
}
