//! The one table that turns a failure into a gRPC code and etcd's exact text: clients match both.

use dqlited_raft::{ProposeError, ReadFailure};
use dqlited_store::CommandError;
use dqlited_store::read::ReadError;
use tonic::{Code, Status};

/// Every failure that a client hears of, by etcd's name for it. Code and text: [`EtcdError::row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EtcdError {
    /// `etcdserver: key is not provided`.
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist; also a txn operation that says nothing.
    KeyNotFound,
    /// `etcdserver: value is provided`.
    ValueProvided,
    /// `etcdserver: lease is provided`.
    LeaseProvided,
    /// `etcdserver: too many operations in txn request`.
    TooManyOps,
    /// `etcdserver: duplicate key given in txn request`.
    DuplicateKey,
    /// `etcdserver: invalid sort option`.
    InvalidSortOption,
    /// `etcdserver: invalid client api version`.
    InvalidClientApiVersion,
    /// `etcdserver: request is too large`.
    RequestTooLarge,
    /// `etcdserver: given member URLs are invalid`.
    BadMemberUrls,
    /// `etcdserver: user name is empty`.
    UserNameEmpty,
    /// `etcdserver: role name is empty`.
    RoleNameEmpty,
    /// `etcdserver: permission not given`.
    PermissionNotGiven,
    /// `etcdserver: authentication failed, invalid user ID or password`.
    AuthenticationFailed,
    /// `etcdserver: invalid auth management`.
    InvalidAuthManagement,
    /// `etcdserver: revision of auth store is old`.
    AuthRevisionOld,
    /// `etcdserver: wrong downgrade target version format`.
    DowngradeVersionFormat,
    /// `etcdserver: invalid downgrade target version`.
    DowngradeVersionInvalid,
    /// `etcdserver: requested lease not found`.
    LeaseNotFound,
    /// `etcdserver: member not found`.
    MemberNotFound,
    /// `etcdserver: lease already exists`.
    LeaseExists,
    /// `etcdserver: member ID already exist`.
    MemberExists,
    /// `etcdserver: Peer URLs already exists`.
    PeerUrlExists,
    /// `etcdserver: can only promote a learner member`.
    NotALearner,
    /// `etcdserver: can only promote a learner member which is in sync with leader`.
    LearnerNotReady,
    /// `etcdserver: too many learner members in cluster`.
    TooManyLearners,
    /// `etcdserver: rpc not supported for learner`.
    NotSupportedForLearner,
    /// `etcdserver: not leader`.
    NotLeader,
    /// `etcdserver: bad leader transferee`.
    BadLeaderTransferee,
    /// `etcdserver: not capable`.
    NotCapable,
    /// `etcdserver: authentication is not enabled`.
    AuthNotEnabled,
    /// `etcdserver: cluster version not found during downgrade`.
    ClusterVersionUnavailable,
    /// `etcdserver: cluster has a downgrade job in progress`.
    DowngradeInProgress,
    /// `etcdserver: no inflight downgrade job`.
    NoInflightDowngrade,
    /// `etcdserver: cluster ID mismatch`.
    ClusterIdMismatch,
    /// `etcdserver: mvcc: required revision has been compacted`.
    Compacted,
    /// `etcdserver: mvcc: required revision is a future revision`.
    FutureRevision,
    /// `etcdserver: too large lease TTL`.
    LeaseTtlTooLarge,
    /// `etcdserver: mvcc: database space exceeded`.
    NoSpace,
    /// `etcdserver: no leader`.
    NoLeader,
    /// `etcdserver: leader changed`.
    LeaderChanged,
    /// `etcdserver: server stopped`.
    Stopped,
    /// The outcome of a write is unknown: it may be carried out later.
    TimedOut,
    /// `etcdserver: request timed out, possibly due to previous leader failure`.
    TimedOutLeaderFailure,
    /// `etcdserver: request timed out, possibly due to connection lost`.
    TimedOutConnectionLost,
    /// `etcdserver: request timed out, waiting for the applied index took too long`.
    TimedOutAppliedIndex,
    /// `etcdserver: unhealthy cluster`.
    Unhealthy,
    /// `etcdserver: corrupt cluster`.
    Corrupt,
    /// `etcdserver: watch canceled`.
    WatchCanceled,
    /// `etcdserver: request canceled`.
    RequestCanceled,
    /// The client's own deadline; also a write while there is no leader at all.
    DeadlineExceeded,
    /// A queue is full. (etcd means RESOURCE_EXHAUSTED and sends UNKNOWN: clients match the text.)
    TooManyRequests,
    /// Meant as FAILED_PRECONDITION by etcd, sent as UNKNOWN.
    NotEnoughStartedMembers,
    /// `etcdserver: unknown method`.
    UnknownMethod,
    /// `etcdserver: request timed out, leader transfer took too long`.
    LeaderTransferTimedOut,
    /// `not a primary lessor`.
    NotPrimaryLessor,
    /// The Lock and Election services lose the code.
    LockLeaseNotFound,
    /// The Lock and Election services lose the code.
    LockEmptyKey,
    /// `election: no leader`.
    ElectionNoLeader,
    /// `election: not leader`.
    ElectionNotLeader,
    /// `"leader" field must be provided`.
    LeaderFieldMissing,
    /// `RangeStream does not support custom sort orders`.
    StreamSortUnsupported,
    /// `RangeStream does not support revision filters`.
    StreamFilterUnsupported,
}

impl EtcdError {
    /// gRPC code and text, as etcd 3.7 sends them.
    pub const fn row(self) -> (Code, &'static str) {
        use EtcdError::*;
        match self {
            EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
            KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            TooManyOps => (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
            InvalidClientApiVersion => (Code::InvalidArgument, "etcdserver: invalid client api version"),
            RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            BadMemberUrls => (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            UserNameEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
            RoleNameEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
            PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
            AuthenticationFailed => {
                (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
            }
            InvalidAuthManagement => (Code::InvalidArgument, "etcdserver: invalid auth management"),
            AuthRevisionOld => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            DowngradeVersionFormat => {
                (Code::InvalidArgument, "etcdserver: wrong downgrade target version format")
            }
            DowngradeVersionInvalid => {
                (Code::InvalidArgument, "etcdserver: invalid downgrade target version")
            }
            LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
            LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
            MemberExists => (Code::FailedPrecondition, "etcdserver: member ID already exist"),
            PeerUrlExists => (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            NotALearner => (Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
            LearnerNotReady => (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            TooManyLearners => (Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
            NotSupportedForLearner => (Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
            NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
            BadLeaderTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            NotCapable => (Code::FailedPrecondition, "etcdserver: not capable"),
            AuthNotEnabled => (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
            ClusterVersionUnavailable => {
                (Code::FailedPrecondition, "etcdserver: cluster version not found during downgrade")
            }
            DowngradeInProgress => {
                (Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
            }
            NoInflightDowngrade => (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
            ClusterIdMismatch => (Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
            Compacted => (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            FutureRevision => (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
            TimedOutLeaderFailure => {
                (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
            }
            TimedOutConnectionLost => {
                (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost")
            }
            TimedOutAppliedIndex => (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
            Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
            WatchCanceled => (Code::Cancelled, "etcdserver: watch canceled"),
            RequestCanceled => (Code::Cancelled, "etcdserver: request canceled"),
            DeadlineExceeded => (Code::DeadlineExceeded, "context deadline exceeded"),
            TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
            NotEnoughStartedMembers => {
                (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
            }
            UnknownMethod => (Code::Unknown, "etcdserver: unknown method"),
            LeaderTransferTimedOut => {
                (Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
            }
            NotPrimaryLessor => (Code::Unknown, "not a primary lessor"),
            LockLeaseNotFound => (Code::Unknown, "etcdserver: requested lease not found"),
            LockEmptyKey => (Code::Unknown, "etcdserver: key is not provided"),
            ElectionNoLeader => (Code::Unknown, "election: no leader"),
            ElectionNotLeader => (Code::Unknown, "election: not leader"),
            LeaderFieldMissing => (Code::Unknown, "\"leader\" field must be provided"),
            StreamSortUnsupported => (Code::Unimplemented, "RangeStream does not support custom sort orders"),
            StreamFilterUnsupported => (Code::Unimplemented, "RangeStream does not support revision filters"),
        }
    }

    /// The text alone, for the few places where etcd sends it in a message.
    pub const fn text(self) -> &'static str {
        self.row().1
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Status {
        let (code, text) = error.row();
        Status::new(code, text)
    }
}

/// Why a command changed nothing, in the client's words.
pub fn from_command_error(error: CommandError) -> Status {
    let error = match error {
        CommandError::LeaseNotFound => EtcdError::LeaseNotFound,
        CommandError::LeaseExists => EtcdError::LeaseExists,
        CommandError::KeyNotFound => EtcdError::KeyNotFound,
        CommandError::Compacted => EtcdError::Compacted,
        CommandError::FutureRevision => EtcdError::FutureRevision,
        CommandError::NoSpace => EtcdError::NoSpace,
        CommandError::Corrupt => EtcdError::Corrupt,
        // The first copy's answer went to its own waiter; whoever hears this knows no outcome.
        CommandError::AlreadyApplied => EtcdError::TimedOut,
        // Surely not applied (rules W1 and W3).
        CommandError::StaleExpiry | CommandError::UnregisteredBoot => EtcdError::LeaderChanged,
        // A bound of ours (4,194,304 changes), out of reach of etcd's own clients' habits.
        CommandError::TooManyChanges => return Status::invalid_argument(format!("etcdserver: {error}")),
    };
    error.into()
}

/// Why a proposal has no answer. A text with UNAVAILABLE never promises "not applied".
pub fn from_propose_error(error: ProposeError) -> Status {
    match error {
        ProposeError::TooManyRequests => EtcdError::TooManyRequests,
        // `checks` refuses it before; only transactions nest.
        ProposeError::TooDeep => EtcdError::TooManyOps,
        // As etcd: a write that found no leader until its time was over.
        ProposeError::NoLeader => EtcdError::DeadlineExceeded,
        ProposeError::TimedOut => EtcdError::TimedOut,
        ProposeError::LeaderChanged => EtcdError::LeaderChanged,
        ProposeError::Stopped => EtcdError::Stopped,
    }
    .into()
}

/// Why a read could not be made.
pub fn from_read_failure(error: ReadFailure) -> Status {
    match error {
        ReadFailure::TooManyRequests => EtcdError::TooManyRequests.into(),
        ReadFailure::TimedOut | ReadFailure::NoLeader => EtcdError::TimedOut.into(),
        ReadFailure::Stopped => EtcdError::Stopped.into(),
        ReadFailure::Store(error) => Status::internal(format!("etcdserver: {error}")),
    }
}

/// Why a read has no answer.
pub fn from_read_error(error: ReadError) -> Status {
    match error {
        ReadError::Compacted => EtcdError::Compacted.into(),
        ReadError::FutureRevision => EtcdError::FutureRevision.into(),
        ReadError::Store(error) => Status::internal(format!("etcdserver: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_row(status: Status, code: Code, text: &str) {
        assert_eq!((status.code(), status.message()), (code, text));
    }

    #[test]
    fn failures_carry_the_codes_and_texts_that_clients_match() {
        use Code::*;
        assert_row(EtcdError::EmptyKey.into(), InvalidArgument, "etcdserver: key is not provided");
        assert_row(
            from_command_error(CommandError::Compacted),
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        assert_row(
            from_read_error(ReadError::FutureRevision),
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        );
        assert_row(
            from_command_error(CommandError::NoSpace),
            ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        );
        assert_row(from_command_error(CommandError::Corrupt), DataLoss, "etcdserver: corrupt cluster");
        assert_row(
            from_command_error(CommandError::LeaseNotFound),
            NotFound,
            "etcdserver: requested lease not found",
        );
        assert_row(
            from_command_error(CommandError::LeaseExists),
            FailedPrecondition,
            "etcdserver: lease already exists",
        );
        assert_row(
            from_command_error(CommandError::KeyNotFound),
            InvalidArgument,
            "etcdserver: key not found",
        );
    }

    #[test]
    fn a_write_of_unknown_fate_is_unavailable_and_one_without_leader_runs_into_its_deadline() {
        assert_row(
            from_propose_error(ProposeError::TimedOut),
            Code::Unavailable,
            "etcdserver: request timed out",
        );
        assert_row(
            from_propose_error(ProposeError::NoLeader),
            Code::DeadlineExceeded,
            "context deadline exceeded",
        );
        assert_row(
            from_propose_error(ProposeError::TooManyRequests),
            Code::Unknown,
            "etcdserver: too many requests",
        );
        assert_row(
            from_read_failure(ReadFailure::NoLeader),
            Code::Unavailable,
            "etcdserver: request timed out",
        );
    }
}
