//! The errors of etcd's wire: one table of gRPC code and exact text.
//!
//! Clients recognise an error by its text, not by its code, so the text is part of the protocol.

use tonic::{Code, Status};

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// An error that etcd's API can answer with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Error {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Error {
            /// Every row of the table.
            pub const ALL: &[Error] = &[$(Error::$name),*];

            /// The gRPC code that goes with the text.
            pub fn code(self) -> Code {
                match self { $(Error::$name => Code::$code,)* }
            }

            /// The exact text on the wire.
            pub fn message(self) -> &'static str {
                match self { $(Error::$name => $text,)* }
            }
        }
    };
}

errors! {
    /// A request, compare or operation without a key.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a missing key, or an empty `RequestOp`.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A txn level holds more compares or operations than `--max-txn-ops` leaves it.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// One branch of a txn changes a key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The metadata `client-api-version` is not UTF-8.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// An unknown sort order or target number.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// The revision is below the compacted one.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision is above the current one.
    FutureRev = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The backend quota is used up, or the NOSPACE alarm is raised.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// A lease that does not exist, or no more.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A grant names an id in use.
    LeaseExist = FailedPrecondition, "etcdserver: lease already exists";
    /// A TTL above 9,000,000,000 s.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// The client ended its watch stream.
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    /// A member id clash.
    MemberExist = FailedPrecondition, "etcdserver: member ID already exist";
    /// A peer URL that another member has.
    PeerUrlExist = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A membership change would leave too few started members.
    MemberNotEnoughStarted = FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    /// Peer URLs that do not parse.
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No member has this id.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// Promotion of a member that votes already.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that lags.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// One learner more than `--max-learners`.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A message of another cluster.
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// A proposal above `--max-request-bytes`.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// Overload: the request was not forwarded and may be tried again later.
    TooManyRequests = ResourceExhausted, "etcdserver: too many requests";
    /// Auth enabled without a root user.
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    /// Auth enabled while root lacks its role.
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    /// A user name in use.
    UserAlreadyExist = FailedPrecondition, "etcdserver: user name already exists";
    /// No user name, or no token while auth is on.
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// No user has this name.
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    /// A role name in use.
    RoleAlreadyExist = FailedPrecondition, "etcdserver: role name already exists";
    /// No role has this name.
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    /// No role name.
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    /// A wrong user or password.
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without a permission.
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    /// Revocation of a role that the user lacks.
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    /// Revocation of a permission that the role lacks.
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authentication while auth is off.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// An unknown or expired token.
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    /// A change that would lock everybody out, or a malformed permission.
    InvalidAuthMgmt = InvalidArgument, "etcdserver: invalid auth management";
    /// The auth store changed since the token or check; authenticate again.
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";
    /// No leader is known.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// Only the leader answers this.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while a read waited.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// The cluster version does not allow this call.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// The member is shutting down.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// No quorum answered in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// As [`Error::Timeout`], and the leader was lost meanwhile.
    TimeoutDueToLeaderFail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// As [`Error::Timeout`], and the peers were not reachable.
    TimeoutDueToConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The member did not catch up with what it committed.
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Too few members are connected for a membership change.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// The CORRUPT alarm is raised.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not answer this.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot move to this member.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// A downgrade version that does not parse.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade version other than one minor below.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// A downgrade before the cluster version is known.
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// A second downgrade.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade to cancel.
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The caller went away.
    Canceled = Cancelled, "etcdserver: request canceled";
    /// The caller's deadline passed.
    DeadlineExceeded = DeadlineExceeded, "etcdserver: context deadline exceeded";
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(error.code(), error.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_etcds() {
        let table = include_str!("../testdata/errors.txt");
        let rows: Vec<_> = table.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rows.len(), Error::ALL.len());
        for (row, error) in rows.iter().zip(Error::ALL) {
            let (code, message) = row.split_once(' ').expect("a row is a code number and a text");
            assert_eq!(code.parse::<i32>().unwrap(), error.code() as i32, "{message}");
            assert_eq!(message, error.message());
        }
    }
}
