//! Requests about users and roles.

use std::time::Instant;

use forebay_proto::{
    Error,
    authpb::Permission,
    etcdserverpb::{InternalAuthenticateRequest, InternalRaftRequest},
};

use super::{Applied, Outcome};
use crate::{
    auth::{Auth, Caller, Rights, Store, Tokens},
    backend::Op,
};

/// What there is to tell about auth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Whether auth is on, and its revision.
    Status { enabled: bool, revision: u64 },
    /// Somebody logged in at this revision, and has this token, unless it is of a kind that is signed by whoever
    /// answers.
    LoggedIn { token: String, revision: u64 },
    /// The names of users.
    Users(Vec<String>),
    /// The names of roles.
    Roles(Vec<String>),
    /// The permissions of a role.
    Permissions(Vec<Permission>),
}

/// Where in the log an entry stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its index.
    pub index: u64,
    /// When it is carried out, which only leases and tokens of this member are told.
    pub now: Instant,
    /// Whether tokens name the index of the entry before theirs, as etcd's do since 3.6.
    pub tokens_name_entry_before: bool,
}

/// What a request about users and roles needs.
enum Need<'r> {
    Nothing,
    Admin,
    AboutUser(&'r str),
    AboutRole(&'r str),
}

impl<'r> Need<'r> {
    /// `None` if it is about something else.
    fn of(request: &'r InternalRaftRequest) -> Option<Need<'r>> {
        use InternalRaftRequest as R;
        Some(match request {
            R { authenticate: Some(_), .. } | R { auth_status: Some(_), .. } => Need::Nothing,
            R { auth_user_get: Some(request), .. } => Need::AboutUser(&request.name),
            R { auth_role_get: Some(request), .. } => Need::AboutRole(&request.role),
            R { auth_enable: Some(_), .. }
            | R { auth_disable: Some(_), .. }
            | R { auth_user_add: Some(_), .. }
            | R { auth_user_delete: Some(_), .. }
            | R { auth_user_change_password: Some(_), .. }
            | R { auth_user_grant_role: Some(_), .. }
            | R { auth_user_revoke_role: Some(_), .. }
            | R { auth_user_list: Some(_), .. }
            | R { auth_role_add: Some(_), .. }
            | R { auth_role_delete: Some(_), .. }
            | R { auth_role_list: Some(_), .. }
            | R { auth_role_grant_permission: Some(_), .. }
            | R { auth_role_revoke_permission: Some(_), .. } => Need::Admin,
            _ => return None,
        })
    }

    fn judge(&self, rights: &Rights<'_>) -> Result<(), Error> {
        match self {
            Need::Nothing => Ok(()),
            Need::Admin => rights.admin(),
            Need::AboutUser(user) => rights.about_user(user),
            Need::AboutRole(role) => rights.about_role(role),
        }
    }
}

/// Carries out a request about users and roles; `None` if it is about something else.
pub fn carry_out(
    auth: &Auth,
    caller: &Caller,
    request: &InternalRaftRequest,
    place: Place,
    ops: &mut Vec<Op>,
) -> Option<Applied> {
    let need = Need::of(request)?;
    if let Err(error) = auth.judge(caller, |rights| need.judge(rights)) {
        return Some(Err(error));
    }
    let r = request;
    Some(if r.auth_enable.is_some() {
        change(auth, ops, |store, ops| store.enable(ops))
    } else if r.auth_disable.is_some() {
        change(auth, ops, |store, ops| {
            store.disable(ops);
            Ok(())
        })
    } else if r.auth_status.is_some() {
        tell(auth, |store| Ok(Answer::Status { enabled: store.is_enabled(), revision: store.revision() }))
    } else if let Some(request) = &r.authenticate {
        log_in(auth, request, place)
    } else if let Some(request) = &r.auth_user_add {
        change(auth, ops, |store, ops| store.add_user(request, ops))
    } else if let Some(request) = &r.auth_user_delete {
        change(auth, ops, |store, ops| store.delete_user(&request.name, ops))
            .inspect(|_| auth.tokens().revoke(&request.name))
    } else if let Some(request) = &r.auth_user_change_password {
        change(auth, ops, |store, ops| store.change_password(request, ops))
            .inspect(|_| auth.tokens().revoke(&request.name))
    } else if let Some(request) = &r.auth_user_grant_role {
        change(auth, ops, |store, ops| store.grant_role(request, ops))
    } else if let Some(request) = &r.auth_user_revoke_role {
        change(auth, ops, |store, ops| store.revoke_role(request, ops))
    } else if let Some(request) = &r.auth_user_get {
        tell(auth, |store| store.roles_of(&request.name).map(Answer::Roles))
    } else if r.auth_user_list.is_some() {
        tell(auth, |store| Ok(Answer::Users(store.user_names())))
    } else if let Some(request) = &r.auth_role_add {
        change(auth, ops, |store, ops| store.add_role(&request.name, ops))
    } else if let Some(request) = &r.auth_role_delete {
        change(auth, ops, |store, ops| store.delete_role(&request.role, ops))
    } else if let Some(request) = &r.auth_role_get {
        tell(auth, |store| store.permissions_of(&request.role).map(Answer::Permissions))
    } else if r.auth_role_list.is_some() {
        tell(auth, |store| Ok(Answer::Roles(store.role_names())))
    } else if let Some(request) = &r.auth_role_grant_permission {
        change(auth, ops, |store, ops| store.grant_permission(request, ops))
    } else if let Some(request) = &r.auth_role_revoke_permission {
        change(auth, ops, |store, ops| store.revoke_permission(request, ops))
    } else {
        return None;
    })
}

fn change(
    auth: &Auth,
    ops: &mut Vec<Op>,
    change: impl FnOnce(&mut Store, &mut Vec<Op>) -> Result<(), Error>,
) -> Applied {
    auth.change(|store| change(store, ops)).map(|()| Outcome::Done)
}

fn tell(auth: &Auth, answer: impl FnOnce(&Store) -> Result<Answer, Error>) -> Applied {
    auth.read(answer).map(Outcome::Auth)
}

/// The password was looked at before; who finds it changed by now asks again.
fn log_in(auth: &Auth, request: &InternalAuthenticateRequest, place: Place) -> Applied {
    let revision = auth.read(|store| {
        if !store.is_enabled() {
            return Err(Error::AuthNotEnabled);
        }
        let user = store.user(&request.name).ok_or(Error::AuthFailed)?;
        match user.options {
            Some(options) if options.no_password => Err(Error::AuthFailed),
            _ => Ok(store.revision()),
        }
    })?;
    let token = match auth.tokens() {
        Tokens::Simple(tokens) => {
            tokens.assign(&request.name, &request.simple_token, place.index, place.now);
            format!("{}.{}", request.simple_token, place.index - u64::from(place.tokens_name_entry_before))
        }
        Tokens::Jwt(_) => String::new(),
        Tokens::None => return Err(Error::AuthFailed),
    };
    Ok(Outcome::Auth(Answer::LoggedIn { token, revision }))
}
