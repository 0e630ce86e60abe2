//! Users, roles and whether anybody asks for them.

use forebay_proto::authpb;
use prost::Message as _;

use super::{AUTH, AUTH_ENABLED, AUTH_REVISION, AUTH_ROLES, AUTH_USERS, Error, Value, get, malformed, values};
use crate::db::ReadTxn;

/// What the file says about auth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    /// Whether auth is on.
    pub enabled: bool,
    /// Counts the changes of users and roles; 1 in a new file.
    pub revision: u64,
    /// Users, by name ascending; passwords are bcrypt hashes.
    pub users: Vec<authpb::User>,
    /// Roles, by name ascending.
    pub roles: Vec<authpb::Role>,
}

/// Whether auth is on.
pub fn auth_enabled(enabled: bool) -> Value {
    Value::new(AUTH, AUTH_ENABLED, [u8::from(enabled)])
}

/// The count of changes.
pub fn auth_revision(revision: u64) -> Value {
    Value::new(AUTH, AUTH_REVISION, revision.to_be_bytes())
}

/// A user; the key is the name.
pub fn user(user: &authpb::User) -> Value {
    Value::new(AUTH_USERS, &user.name[..], user.encode_to_vec())
}

/// A role; the key is the name.
pub fn role(role: &authpb::Role) -> Value {
    Value::new(AUTH_ROLES, &role.name[..], role.encode_to_vec())
}

/// The count of changes; 0 in a file that has none.
pub fn read_auth_revision(txn: &ReadTxn) -> Result<u64, Error> {
    let Some(value) = get(txn, AUTH, AUTH_REVISION)? else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(&value[..]).map_err(|_| malformed(AUTH, AUTH_REVISION, "8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Everything about auth.
pub fn read_auth(txn: &ReadTxn) -> Result<Auth, Error> {
    Ok(Auth {
        enabled: super::read_auth_enabled(txn)?,
        revision: read_auth_revision(txn)?,
        users: values(txn, AUTH_USERS, "a user", |_, value| authpb::User::decode(value).ok())?,
        roles: values(txn, AUTH_ROLES, "a role", |_, value| authpb::Role::decode(value).ok())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Db, Options};
    use crate::schema::create;

    #[test]
    fn auth_reads_back_as_put() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(directory.path().join("db"), Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        create(&mut txn).unwrap();
        txn.commit().unwrap();
        assert_eq!(read_auth(&db.begin_read()).unwrap(), Auth { revision: 1, ..Auth::default() });
        let root = authpb::User { name: "root".into(), roles: vec!["root".into()], ..Default::default() };
        let reader = authpb::Role {
            name: "reader".into(),
            key_permission: vec![authpb::Permission { perm_type: 0, key: "a".into(), range_end: "b".into() }],
        };
        let mut txn = db.begin_write().unwrap();
        for value in [auth_enabled(true), auth_revision(9), user(&root), role(&reader)] {
            value.put(&mut txn).unwrap();
        }
        txn.commit().unwrap();
        let expected = Auth { enabled: true, revision: 9, users: vec![root], roles: vec![reader] };
        assert_eq!(read_auth(&db.begin_read()).unwrap(), expected);
    }
}
