//! The Auth service.

use forebay_edge::{Request, Response, grpc};
use forebay_proto::{Error, authpb::UserAddOptions, etcdserverpb::*};
use prost::Message;
use tonic::Status;

use crate::{
    apply::{Answer, Outcome},
    auth::{check_length, to_entry},
    member::{Deadline, Member, refused},
};

/// etcd's word for a hash that is none, which has no name on the wire.
const UNDECODABLE: &str = "auth: authentication failed, password was given for no password user";

/// Passwords of fewer characters are taken, if no minimum was set, and warned of.
const SHORT: usize = 8;

/// Reads a request and has it carried out. `entry` makes the entry of the log.
async fn carry_out<M: Message + Default>(
    member: &Member,
    request: Request,
    entry: impl FnOnce(M) -> InternalRaftRequest,
) -> Result<Outcome, Status> {
    let (parts, message) = grpc::unary::<M>(request, member.config().max_message_bytes()).await?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    member.propose(&caller, entry(message), deadline).await
}

/// The methods that change something and have nothing to tell but that it is done.
macro_rules! changes {
    ($($method:ident: $request:ident => $field:ident, $response:ident;)*) => { $(
        pub(super) async fn $method(member: Member, request: Request) -> Result<Response, Status> {
            let entry = |message: $request| InternalRaftRequest { $field: Some(message), ..Default::default() };
            carry_out(&member, request, entry).await?;
            Ok(grpc::reply_message(&$response { header: Some(member.header()) }))
        }
    )* };
}

changes! {
    enable: AuthEnableRequest => auth_enable, AuthEnableResponse;
    disable: AuthDisableRequest => auth_disable, AuthDisableResponse;
    delete_user: AuthUserDeleteRequest => auth_user_delete, AuthUserDeleteResponse;
    grant_role: AuthUserGrantRoleRequest => auth_user_grant_role, AuthUserGrantRoleResponse;
    revoke_role: AuthUserRevokeRoleRequest => auth_user_revoke_role, AuthUserRevokeRoleResponse;
    add_role: AuthRoleAddRequest => auth_role_add, AuthRoleAddResponse;
    delete_role: AuthRoleDeleteRequest => auth_role_delete, AuthRoleDeleteResponse;
    grant_permission: AuthRoleGrantPermissionRequest => auth_role_grant_permission, AuthRoleGrantPermissionResponse;
    revoke_permission: AuthRoleRevokePermissionRequest => auth_role_revoke_permission, AuthRoleRevokePermissionResponse;
}

/// The methods that only ask, which etcd orders in the log all the same.
macro_rules! questions {
    ($($method:ident: $request:ident => $field:ident, $answer:pat => $response:ident { $($told:ident),* };)*) => { $(
        pub(super) async fn $method(member: Member, request: Request) -> Result<Response, Status> {
            let entry = |message: $request| InternalRaftRequest { $field: Some(message), ..Default::default() };
            let Outcome::Auth($answer) = carry_out(&member, request, entry).await? else {
                unreachable!("a question about auth was proposed")
            };
            let header = Some(member.header());
            Ok(grpc::reply_message(&$response { header, $($told),* }))
        }
    )* };
}

questions! {
    status: AuthStatusRequest => auth_status,
        Answer::Status { enabled, revision: auth_revision } => AuthStatusResponse { enabled, auth_revision };
    user: AuthUserGetRequest => auth_user_get, Answer::Roles(roles) => AuthUserGetResponse { roles };
    users: AuthUserListRequest => auth_user_list, Answer::Users(users) => AuthUserListResponse { users };
    role: AuthRoleGetRequest => auth_role_get, Answer::Permissions(perm) => AuthRoleGetResponse { perm };
    roles: AuthRoleListRequest => auth_role_list, Answer::Roles(roles) => AuthRoleListResponse { roles };
}

pub(super) async fn authenticate(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, login) = grpc::unary::<AuthenticateRequest>(request, member.config().max_message_bytes()).await?;
    let token = member.log_in(&parts, login).await?;
    Ok(grpc::reply_message(&AuthenticateResponse { header: Some(member.header()), token }))
}

pub(super) async fn add_user(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, mut add) = grpc::unary::<AuthUserAddRequest>(request, member.config().max_message_bytes()).await?;
    let deadline = member.deadline(&parts.headers)?;
    let has_password = add.options != Some(UserAddOptions { no_password: true });
    if has_password {
        check_password(&member, &add.password)?;
    }
    let caller = may_hash(&member, &parts, deadline).await?;
    if has_password {
        add.hashed_password = hashed(&member, &add.name, std::mem::take(&mut add.password)).await?;
    }
    let request = InternalRaftRequest { auth_user_add: Some(add), ..Default::default() };
    member.propose(&caller, request, deadline).await.map_err(undecodable)?;
    Ok(grpc::reply_message(&AuthUserAddResponse { header: Some(member.header()) }))
}

pub(super) async fn change_password(member: Member, request: Request) -> Result<Response, Status> {
    let max = member.config().max_message_bytes();
    let (parts, mut change) = grpc::unary::<AuthUserChangePasswordRequest>(request, max).await?;
    let deadline = member.deadline(&parts.headers)?;
    check_password(&member, &change.password)?;
    let caller = may_hash(&member, &parts, deadline).await?;
    if !change.password.is_empty() {
        change.hashed_password = hashed(&member, &change.name, std::mem::take(&mut change.password)).await?;
    }
    let request = InternalRaftRequest { auth_user_change_password: Some(change), ..Default::default() };
    member.propose(&caller, request, deadline).await.map_err(undecodable)?;
    Ok(grpc::reply_message(&AuthUserChangePasswordResponse { header: Some(member.header()) }))
}

/// Whether a password may become a user's.
fn check_password(member: &Member, password: &str) -> Result<(), Status> {
    check_length(password).map_err(|error| Status::unknown(error.to_string()))?;
    let min = member.config().password_min_length;
    if password.chars().count() < min {
        return Err(Status::invalid_argument(format!("forebay: passwords have at least {min} characters here")));
    }
    Ok(())
}

/// Who asks, if it is somebody for whom to compute a hash: apply judges later, but a hash takes a core for long.
async fn may_hash(
    member: &Member,
    parts: &http::request::Parts,
    deadline: Deadline,
) -> Result<crate::auth::Caller, Status> {
    let caller = member.caller(parts, deadline).await?;
    if member.auth().judge(&caller, |rights| rights.admin()).is_err() {
        // This member may not have heard yet that the caller may.
        member.linearize(deadline).await?;
        member.auth().judge(&caller, |rights| rights.admin())?;
    }
    Ok(caller)
}

async fn hashed(member: &Member, user: &str, password: String) -> Result<String, Status> {
    if password.chars().count() < SHORT {
        tracing::warn!(user, "the password is so short that it can be guessed");
    }
    member.auth().passwords().hash(user, password).await.map(|hash| to_entry(&hash)).map_err(refused)
}

/// Of those who propose a hash only these are told this way that it is none.
fn undecodable(status: Status) -> Status {
    if status.message() == Error::AuthFailed.message() { Status::unknown(UNDECODABLE) } else { status }
}
