//! Users, roles and permissions: the part of auth that all members agree on.
//!
//! Apply alone changes it, and what changes goes into the db file as etcd writes it. The texts and the order of refusals
//! are etcd's, because clients recognise them.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use forebay_proto::{
    Error,
    authpb::{Permission, Role, User, UserAddOptions},
    etcdserverpb::{
        AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
        AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
    },
};
use forebay_storage::schema;

use super::{
    keys::Granted,
    password::{self, Undecodable},
};
use crate::backend::Op;

/// The user that may not be deleted, and the role that may do everything.
pub const ROOT: &str = "root";

/// The replicated state.
///
/// Invariant: the roles of a user are ascending, and a user's `granted`, once made, is what its roles come to.
#[derive(Debug, Default)]
pub struct Store {
    enabled: bool,
    revision: u64,
    users: BTreeMap<Bytes, Known<User>>,
    roles: BTreeMap<Bytes, Known<Role>>,
}

/// A record of the db file and what it comes to.
#[derive(Debug)]
struct Known<T> {
    record: T,
    /// Made when it is first asked for.
    granted: OnceLock<Arc<Granted>>,
}

impl<T> Known<T> {
    fn new(record: T) -> Known<T> {
        Known { record, granted: OnceLock::new() }
    }
}

impl Store {
    /// Goes on from what a db file holds.
    pub fn new(file: schema::Auth) -> Store {
        let schema::Auth { enabled, revision, users, roles } = file;
        let users = users.into_iter().map(|user| (user.name.clone(), Known::new(user))).collect();
        let roles = roles.into_iter().map(|role| (role.name.clone(), Known::new(role))).collect();
        Store { enabled, revision, users, roles }
    }

    /// Whether auth is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Turns auth on, if that locks nobody out.
    pub fn enable(&mut self, ops: &mut Vec<Op>) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        let root = self.user(ROOT).ok_or(Error::RootUserNotExist)?;
        if !has_role(root, ROOT) {
            return Err(Error::RootRoleNotExist);
        }
        self.enabled = true;
        ops.push(Op::Put(schema::auth_enabled(true)));
        Ok(())
    }

    /// Turns auth off.
    pub fn disable(&mut self, ops: &mut Vec<Op>) {
        if self.enabled {
            self.enabled = false;
            ops.push(Op::Put(schema::auth_enabled(false)));
            self.count(ops);
        }
    }

    /// Adds a user.
    pub fn add_user(&mut self, request: &AuthUserAddRequest, ops: &mut Vec<Op>) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.user(&request.name).is_some() {
            return Err(Error::UserAlreadyExist);
        }
        let options = request.options.unwrap_or_default();
        let user = User {
            name: request.name.clone().into(),
            password: hash(Some(&options), &request.password, &request.hashed_password)?,
            roles: Vec::new(),
            options: Some(options),
        };
        self.put_user(user, ops);
        self.count(ops);
        Ok(())
    }

    /// Deletes a user.
    pub fn delete_user(&mut self, name: &str, ops: &mut Vec<Op>) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        self.users.remove(name.as_bytes()).ok_or(Error::UserNotFound)?;
        ops.push(Op::Delete { bucket: schema::AUTH_USERS, key: name.into() });
        self.count(ops);
        Ok(())
    }

    /// Gives a user another password. One without a password stays without.
    pub fn change_password(&mut self, request: &AuthUserChangePasswordRequest, ops: &mut Vec<Op>) -> Result<(), Error> {
        let mut user = self.user(&request.name).ok_or(Error::UserNotFound)?.clone();
        user.password = hash(user.options.as_ref(), &request.password, &request.hashed_password)?;
        self.put_user(user, ops);
        self.count(ops);
        Ok(())
    }

    /// Gives a user a role. Role root needs not be there to be given.
    pub fn grant_role(&mut self, request: &AuthUserGrantRoleRequest, ops: &mut Vec<Op>) -> Result<(), Error> {
        let mut user = self.user(&request.user).ok_or(Error::UserNotFound)?.clone();
        if request.role != ROOT && !self.roles.contains_key(request.role.as_bytes()) {
            return Err(Error::RoleNotFound);
        }
        if let Err(at) = user.roles.binary_search(&request.role) {
            user.roles.insert(at, request.role.clone());
            self.put_user(user, ops);
            self.count(ops);
        }
        Ok(())
    }

    /// Takes a role from a user.
    pub fn revoke_role(&mut self, request: &AuthUserRevokeRoleRequest, ops: &mut Vec<Op>) -> Result<(), Error> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        let mut user = self.user(&request.name).ok_or(Error::UserNotFound)?.clone();
        if !take_role(&mut user, &request.role) {
            return Err(Error::RoleNotGranted);
        }
        self.put_user(user, ops);
        self.count(ops);
        Ok(())
    }

    /// Adds a role without permissions.
    pub fn add_role(&mut self, name: &str, ops: &mut Vec<Op>) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.roles.contains_key(name.as_bytes()) {
            return Err(Error::RoleAlreadyExist);
        }
        self.put_role(Role { name: name.to_owned().into(), key_permission: Vec::new() }, ops);
        self.count(ops);
        Ok(())
    }

    /// Deletes a role, and takes it from everybody.
    pub fn delete_role(&mut self, name: &str, ops: &mut Vec<Op>) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        self.roles.remove(name.as_bytes()).ok_or(Error::RoleNotFound)?;
        ops.push(Op::Delete { bucket: schema::AUTH_ROLES, key: name.into() });
        for user in self.users.values_mut() {
            if take_role(&mut user.record, name) {
                user.granted = OnceLock::new();
                ops.push(Op::Put(schema::user(&user.record)));
            }
        }
        self.count(ops);
        Ok(())
    }

    /// Gives a role a permission, or changes the kind of one that it has.
    pub fn grant_permission(
        &mut self,
        request: &AuthRoleGrantPermissionRequest,
        ops: &mut Vec<Op>,
    ) -> Result<(), Error> {
        let permission = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        if !is_valid(permission) {
            return Err(Error::InvalidAuthMgmt);
        }
        let mut role = self.role(&request.name).ok_or(Error::RoleNotFound)?.clone();
        let permissions = &mut role.key_permission;
        let at = permissions.partition_point(|own| own.key < permission.key);
        // Of several that begin alike etcd looks at the first alone.
        let known = permissions.get_mut(at).filter(|own| is_of(own, &permission.key, &permission.range_end));
        match known {
            Some(known) => known.perm_type = permission.perm_type,
            None => {
                let behind = permissions.partition_point(|own| own.key <= permission.key);
                permissions.insert(behind, permission.clone());
            }
        }
        self.put_role(role, ops);
        self.count(ops);
        Ok(())
    }

    /// Takes a permission from a role.
    pub fn revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
        ops: &mut Vec<Op>,
    ) -> Result<(), Error> {
        let mut role = self.role(&request.role).ok_or(Error::RoleNotFound)?.clone();
        let before = role.key_permission.len();
        role.key_permission.retain(|own| !is_of(own, &request.key, &request.range_end));
        if role.key_permission.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        self.put_role(role, ops);
        self.count(ops);
        Ok(())
    }

    /// A user, as the db file has it.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name.as_bytes()).map(|user| &user.record)
    }

    fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name.as_bytes()).map(|role| &role.record)
    }

    /// The names of all users, ascending.
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// The names of all roles, ascending.
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// The roles of a user.
    pub fn roles_of(&self, user: &str) -> Result<Vec<String>, Error> {
        Ok(self.user(user).ok_or(Error::UserNotFound)?.roles.clone())
    }

    /// The permissions of a role. Role root has them all.
    pub fn permissions_of(&self, role: &str) -> Result<Vec<Permission>, Error> {
        let stored = self.role(role).ok_or(Error::RoleNotFound)?;
        Ok(match role {
            ROOT => vec![Permission { perm_type: 2, key: Bytes::new(), range_end: Bytes::from_static(b"\0") }],
            _ => stored.key_permission.clone(),
        })
    }

    /// What a user may do with keys. Not asked about those who have role root.
    pub(super) fn granted(&self, user: &str) -> Option<&Arc<Granted>> {
        let user = self.users.get(user.as_bytes())?;
        Some(user.granted.get_or_init(|| {
            let roles = user.record.roles.iter().filter_map(|role| self.roles.get(role.as_bytes()));
            Granted::union(
                roles.map(|role| role.granted.get_or_init(|| Arc::new(Granted::by(&role.record.key_permission)))),
            )
        }))
    }

    fn put_user(&mut self, user: User, ops: &mut Vec<Op>) {
        ops.push(Op::Put(schema::user(&user)));
        self.users.insert(user.name.clone(), Known::new(user));
    }

    fn put_role(&mut self, role: Role, ops: &mut Vec<Op>) {
        ops.push(Op::Put(schema::role(&role)));
        for user in self.users.values_mut() {
            if user.record.roles.iter().any(|own| own.as_bytes() == &role.name[..]) {
                user.granted = OnceLock::new();
            }
        }
        self.roles.insert(role.name.clone(), Known::new(role));
    }

    /// Counts a change.
    fn count(&mut self, ops: &mut Vec<Op>) {
        self.revision += 1;
        ops.push(Op::Put(schema::auth_revision(self.revision)));
    }
}

/// Whether a user has a role.
pub(super) fn has_role(user: &User, role: &str) -> bool {
    user.roles.iter().any(|own| own == role)
}

fn take_role(user: &mut User, role: &str) -> bool {
    let before = user.roles.len();
    user.roles.retain(|own| own != role);
    user.roles.len() < before
}

fn is_of(permission: &Permission, key: &Bytes, range_end: &Bytes) -> bool {
    permission.key == *key && permission.range_end == *range_end
}

/// Whether a permission names keys at all.
fn is_valid(Permission { key, range_end, .. }: &Permission) -> bool {
    !key.is_empty() && (range_end.is_empty() || &range_end[..] == b"\0" || key < range_end)
}

/// The hash to keep. etcd's own word for one that is none has no name on the wire, see `rpc::auth`.
fn hash(options: Option<&UserAddOptions>, password: &str, hashed: &str) -> Result<Bytes, Error> {
    if options.is_some_and(|options| options.no_password) {
        return Ok(Bytes::new());
    }
    password::of_entry(password, hashed).map_err(|Undecodable| Error::AuthFailed)
}

#[cfg(test)]
mod tests;
