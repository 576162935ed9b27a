//! What a run has hit: each method, each option of a request, each error with its text.

use std::collections::BTreeMap;

use super::call::{Answer, Call};
use super::listed::{self, Listed, Uses};

/// Rows with how often each was hit.
#[derive(Debug, Default)]
pub struct Coverage {
    rows: BTreeMap<String, u64>,
}

/// Rows that every run must hit (a run of some thousand requests does).
const REQUIRED: &[&str] = &[
    "Range",
    "Range limit",
    "Range revision",
    "Range keys_only",
    "Range count_only",
    "Range serializable",
    "Range filter",
    "Range from key",
    "Range order 1 target 0",
    "Range order 2 target 0",
    "Range order 0 target 1",
    "Range order 1 target 1",
    "Range order 2 target 1",
    "Range order 0 target 2",
    "Range order 1 target 2",
    "Range order 2 target 2",
    "Range order 0 target 3",
    "Range order 1 target 3",
    "Range order 2 target 3",
    "Range order 0 target 4",
    "Range order 1 target 4",
    "Range order 2 target 4",
    "RangeStream",
    "Put",
    "Put prev_kv",
    "Put ignore_value",
    "Put ignore_lease",
    "Put lease",
    "DeleteRange",
    "DeleteRange prev_kv",
    "DeleteRange range_end",
    "Txn",
    "Txn nested",
    "Txn read only",
    "Txn compare range_end",
    "Compact",
    "Compact physical",
    "LeaseGrant",
    "LeaseGrant id 0",
    "LeaseRevoke",
    "LeaseKeepAlive",
    "LeaseTimeToLive",
    "LeaseTimeToLive keys",
    "LeaseLeases",
    "HashKV",
    "HashKV revision",
    "Alarm",
    "Status",
    "Defragment",
    "Downgrade",
    "MoveLeader",
    "MemberList",
    "AuthStatus",
    "Lock",
    "Unlock",
    "Campaign",
    "Proclaim",
    "Leader",
    "Resign",
    "Watch",
    "Watch prev_kv",
    "Watch filter",
    "Watch id",
    "Watch fragment",
    "Watch past",
    "Range error OutOfRange: etcdserver: mvcc: required revision has been compacted",
    "Range error OutOfRange: etcdserver: mvcc: required revision is a future revision",
    "Range error InvalidArgument: etcdserver: key is not provided",
    "Range error InvalidArgument: etcdserver: invalid sort option",
    "RangeStream error Unimplemented: RangeStream does not support custom sort orders",
    "RangeStream error Unimplemented: RangeStream does not support revision filters",
    "Put error InvalidArgument: etcdserver: key is not provided",
    "Put error InvalidArgument: etcdserver: value is provided",
    "Put error InvalidArgument: etcdserver: lease is provided",
    "Put error InvalidArgument: etcdserver: key not found",
    "Put error NotFound: etcdserver: requested lease not found",
    "Put error InvalidArgument: etcdserver: request is too large",
    "Put error ResourceExhausted: etcdserver: mvcc: database space exceeded",
    "Put error DataLoss: etcdserver: corrupt cluster",
    "Txn error InvalidArgument: etcdserver: too many operations in txn request",
    "Txn error InvalidArgument: etcdserver: duplicate key given in txn request",
    "Txn error InvalidArgument: etcdserver: key not found",
    "Txn error NotFound: etcdserver: requested lease not found",
    "Compact error OutOfRange: etcdserver: mvcc: required revision has been compacted",
    "Compact error OutOfRange: etcdserver: mvcc: required revision is a future revision",
    "LeaseGrant error FailedPrecondition: etcdserver: lease already exists",
    "LeaseGrant error ResourceExhausted: etcdserver: mvcc: database space exceeded",
    "LeaseGrant error OutOfRange: etcdserver: too large lease TTL",
    "LeaseRevoke error NotFound: etcdserver: requested lease not found",
    "HashKV error OutOfRange: etcdserver: mvcc: required revision is a future revision",
    "MoveLeader error FailedPrecondition: etcdserver: bad leader transferee",
    "Lock error Unknown: etcdserver: request is too large",
    "Unlock error Unknown: etcdserver: request is too large",
    "Unlock error Unknown: etcdserver: key is not provided",
    "Campaign error Unknown: etcdserver: request is too large",
    "Proclaim error Unknown: etcdserver: request is too large",
    "Proclaim error Unknown: etcdserver: key is not provided",
    "Resign error Unknown: etcdserver: key is not provided",
    "Downgrade error InvalidArgument: etcdserver: wrong downgrade target version format",
];

/// Rows of etcd's tables that no run reaches, and what owns them: a work to come, or the tests that hold them elsewhere.
const OUT_OF_REACH: &[(&str, &[&str])] = &[
    (
        "several members",
        &[
            "MemberAdd",
            "MemberRemove",
            "MemberUpdate",
            "MemberPromote",
            "MemberAdd error FailedPrecondition: etcdserver: member ID already exist",
            "MemberAdd error FailedPrecondition: etcdserver: Peer URLs already exists",
            "MemberAdd error InvalidArgument: etcdserver: given member URLs are invalid",
            "MemberAdd error FailedPrecondition: etcdserver: too many learner members in cluster",
            "MemberAdd error Unavailable: etcdserver: unhealthy cluster",
            "MemberRemove error NotFound: etcdserver: member not found",
            "MemberRemove error Unknown: etcdserver: re-configuration failed due to not enough started members",
            "MemberPromote error FailedPrecondition: etcdserver: can only promote a learner member",
            "MemberPromote error FailedPrecondition: etcdserver: can only promote a learner member which is in sync with leader",
            "MoveLeader to another",
            "MoveLeader error FailedPrecondition: etcdserver: not leader",
            "Range error FailedPrecondition: etcdserver: rpc not supported for learner",
            "Range error Unavailable: etcdserver: no leader",
            "Range error Unavailable: etcdserver: request timed out",
            "Put error Unavailable: etcdserver: leader changed",
            "Put error Unavailable: etcdserver: request timed out",
            "Watch canceled: etcdserver: no leader",
        ],
    ),
    (
        "users and roles",
        &[
            "AuthEnable",
            "AuthDisable",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
            "Put error PermissionDenied: etcdserver: permission denied",
            "Put error Unauthenticated: etcdserver: invalid auth token",
            "Authenticate error FailedPrecondition: etcdserver: authentication is not enabled",
        ],
    ),
    ("not comparable, another engine's file; tests/tests/runner/api_maintenance.rs", &["Hash", "Snapshot"]),
    ("waits for others; tests/tests/api_lease.rs", &["Observe", "Lock in line", "Campaign in line"]),
    ("no service of etcd's own; crates/etcd/src/health.rs", &["Health Check", "Health Watch", "Health List"]),
];

impl Coverage {
    fn hit(&mut self, row: String) {
        *self.rows.entry(row).or_default() += 1;
    }

    /// Notes what a call and its answer have hit.
    pub fn note(&mut self, call: &Call, answer: &Result<Answer, tonic::Status>) {
        let method = call.method();
        self.hit(method.into());
        if let Err(status) = answer {
            self.hit(format!("{method} error {:?}: {}", status.code(), status.message()));
        }
        let mut option = |set: bool, name: &str| {
            if set {
                self.hit(format!("{method} {name}"));
            }
        };
        match call {
            Call::Range(r) | Call::RangeStream(r) => {
                option(r.limit > 0, "limit");
                option(r.revision > 0, "revision");
                option(r.keys_only, "keys_only");
                option(r.count_only, "count_only");
                option(r.serializable, "serializable");
                option(&r.range_end[..] == b"\0", "from key");
                let filters =
                    [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision];
                option(filters.iter().any(|bound| *bound != 0), "filter");
                option(true, &format!("order {} target {}", r.sort_order, r.sort_target));
            }
            Call::Put(r) => {
                option(r.prev_kv, "prev_kv");
                option(r.ignore_value, "ignore_value");
                option(r.ignore_lease, "ignore_lease");
                option(r.lease != 0, "lease");
            }
            Call::DeleteRange(r) => {
                option(r.prev_kv, "prev_kv");
                option(!r.range_end.is_empty(), "range_end");
            }
            Call::Txn(r) => {
                use dqlited_proto::etcdserverpb::request_op::Request;
                let ops = || r.success.iter().chain(&r.failure);
                option(ops().any(|o| matches!(o.request, Some(Request::RequestTxn(_)))), "nested");
                option(ops().all(|o| matches!(o.request, Some(Request::RequestRange(_)))), "read only");
                option(r.compare.iter().any(|c| !c.range_end.is_empty()), "compare range_end");
            }
            Call::Compact(r) => option(r.physical, "physical"),
            Call::LeaseGrant(r) => option(r.id == 0, "id 0"),
            Call::LeaseTimeToLive(r) => option(r.keys, "keys"),
            Call::HashKv(revision) => option(*revision > 0, "revision"),
            Call::Watch(script) => {
                for step in &script.steps {
                    if let super::watch_script::Step::Create(create) = step {
                        option(create.prev_kv, "prev_kv");
                        option(!create.filters.is_empty(), "filter");
                        option(create.watch_id != 0, "id");
                        option(create.fragment, "fragment");
                        option(create.start_revision > 0, "past");
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes which entries of the two lists had something to do.
    pub fn note_uses(&mut self, uses: &Uses) {
        for (row, times) in uses.rows() {
            self.rows.insert(row.clone(), times);
        }
    }

    /// Required rows that were not hit: an entry of a list that no call needs is one as well.
    pub fn missing(&self) -> Vec<String> {
        let listed = listed::entries().filter(|entry| entry.is_met()).map(Listed::row);
        let required = REQUIRED.iter().map(|row| row.to_string()).chain(listed);
        required.filter(|row| !self.rows.contains_key(row)).collect()
    }

    /// One line of how many rows there are of each kind.
    pub fn summary(&self) -> String {
        let met = REQUIRED.len() + listed::entries().filter(|entry| entry.is_met()).count();
        let elsewhere = listed::entries().filter(|entry| !entry.is_met()).count();
        let owned: Vec<_> =
            OUT_OF_REACH.iter().map(|(owner, rows)| format!("{} {owner}", rows.len())).collect();
        format!(
            "{} of {met} required rows hit ({} rows in all), {elsewhere} listed differences that no call meets, \
             {} rows out of reach ({})",
            met - self.missing().len(),
            self.rows.len(),
            OUT_OF_REACH.iter().map(|(_, rows)| rows.len()).sum::<usize>(),
            owned.join("; "),
        )
    }

    /// Rows said to be out of reach that a run has hit all the same: the list is wrong then.
    pub fn reached(&self) -> Vec<&'static str> {
        let all = OUT_OF_REACH.iter().flat_map(|(_, rows)| rows.iter().copied());
        all.filter(|row| self.rows.contains_key(*row)).collect()
    }

    /// Prints all rows.
    pub fn print(&self) {
        println!("coverage ({} rows):", self.rows.len());
        for (row, times) in &self.rows {
            println!("  {times:>7}  {row}");
        }
        for entry in listed::entries().filter(|entry| !entry.is_met()) {
            println!("        -  {}", entry.row());
        }
        for (owner, rows) in OUT_OF_REACH {
            for row in *rows {
                println!("  out of reach: {row} ({owner})");
            }
        }
    }
}
