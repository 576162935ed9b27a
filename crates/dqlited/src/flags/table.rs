//! The settings that do something here.

use super::Effect::Used;
use super::Kind::{Bool, Choice, Duration, Signed, Text, Unsigned, Urls};
use super::{Flag, Kind};

const U32: Kind = Unsigned(u32::MAX as u64);

const fn used(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Flag {
    Flag { name, kind, default, meaning, effect: Used }
}

pub const MEMBER: &[Flag] = &[
    used("name", Text, "default", "Name of this member, for people."),
    used("data-dir", Text, "dqlited.data", "Folder of all that this member stores; made when it is missing."),
    used(
        "listen-client-urls",
        Urls,
        "http://localhost:2379",
        "Where clients are served: gRPC, and HTTP unless --listen-client-http-urls is given.",
    ),
    used(
        "listen-client-http-urls",
        Urls,
        "",
        "Where clients are served over HTTP alone (health, version, metrics); these then leave \
         --listen-client-urls.",
    ),
    used(
        "listen-metrics-urls",
        Urls,
        "",
        "Where /metrics, /health, /livez and /readyz are served besides; https uses the clients' certificate.",
    ),
    used(
        "listen-peer-urls",
        Urls,
        "http://localhost:2380",
        "Where other members are served. Checked, but not opened: a lone member has no peers.",
    ),
    used(
        "metrics",
        Choice(&["basic", "extensive"]),
        "basic",
        "extensive: the durations of calls by method are served too (grpc_server_handling_seconds).",
    ),
    used(
        "snapshot-count",
        Unsigned(u64::MAX),
        "",
        "Entries that several members keep in the Raft log behind what SQLite holds durably (100000 without it). A \
         lone member keeps its last two segments, whatever this says.",
    ),
    used(
        "config-file",
        Text,
        "",
        "TOML (.toml) or YAML (.yaml, .yml, .json) file with these settings as keys.",
    ),
];

pub const CLUSTER: &[Flag] = &[
    used(
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        "Client URLs that this member tells others; must be given once --listen-client-urls is.",
    ),
    used(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        "Peer URLs that this member tells others; with the token they give its id and the cluster's.",
    ),
    used(
        "initial-cluster",
        Text,
        "",
        "Members of a new cluster as NAME=URL, split at commas. Without it: this member alone. More than one \
         is refused until members can be added.",
    ),
    used(
        "initial-cluster-state",
        Choice(&["new", "existing"]),
        "new",
        "Whether the cluster is new. Passed over once the data directory holds a member.",
    ),
    used(
        "election-timeout",
        U32,
        "1000",
        "Milliseconds. The time limit of a request is 5 s and twice this, the least TTL of a lease one and a half \
         of it. A lone member elects nobody.",
    ),
    used(
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        "Goes into member and cluster id: tells clusters apart.",
    ),
];

pub const TLS: &[Flag] = &[
    used("cert-file", Text, "", "Certificate (PEM) shown to clients; read again when it changes."),
    used("key-file", Text, "", "Key (PEM) of --cert-file."),
    used(
        "trusted-ca-file",
        Text,
        "",
        "CA certificates (PEM) that clients' certificates must come from; as in etcd, clients must then show \
         one.",
    ),
    used("client-cert-auth", Bool, "false", "Clients must show a certificate of --trusted-ca-file."),
    used("tls-min-version", Choice(&["TLS1.2", "TLS1.3"]), "TLS1.2", "Lowest version of TLS."),
    used("tls-max-version", Choice(&["TLS1.2", "TLS1.3"]), "", "Highest version of TLS; empty: no bound."),
];

pub const LIMITS: &[Flag] = &[
    used(
        "quota-backend-bytes",
        Signed,
        "0",
        "Size of the database at which the NOSPACE alarm is raised; 0 means 2 GiB, a negative number none.",
    ),
    used("max-request-bytes", U32, "1572864", "Largest request of a client, in bytes."),
    used("max-txn-ops", U32, "128", "Most operations in a txn."),
    used(
        "max-concurrent-streams",
        U32,
        "4294967295",
        "Most streams that are open on one connection at a time.",
    ),
    used(
        "grpc-keepalive-interval",
        Duration,
        "2h",
        "After this long without traffic a client is pinged; 0 never.",
    ),
    used(
        "grpc-keepalive-timeout",
        Duration,
        "20s",
        "A client that leaves a ping unanswered for so long is cut; so is one that takes nothing of a large answer \
         for so long while others wait for memory.",
    ),
];

pub const HISTORY: &[Flag] = &[
    used(
        "auto-compaction-mode",
        Choice(&["periodic", "revision"]),
        "periodic",
        "How --auto-compaction-retention is read: a time or a number of revisions.",
    ),
    used(
        "auto-compaction-retention",
        Text,
        "0",
        "What is kept of the history: 30m, or a bare number of hours (periodic) or of revisions (revision). 0: \
         all, until a client compacts.",
    ),
    used(
        "watch-progress-notify-interval",
        Duration,
        "10m",
        "How often a quiet watch that asked for it hears where it is; at least 100ms.",
    ),
];

pub const LOGS: &[Flag] = &[
    used(
        "log-level",
        Choice(&["debug", "info", "warn", "error", "panic", "fatal"]),
        "info",
        "Least level that is logged (to stderr). panic and fatal show the same as error.",
    ),
    used(
        "log-format",
        Choice(&["json", "console"]),
        "",
        "One JSON object or one readable line for each entry. Without it: console when stderr is a terminal, \
         json otherwise.",
    ),
    used(
        "warning-apply-duration",
        Duration,
        "100ms",
        "A request that takes longer is logged with its range, its time and that of each stage it went through.",
    ),
    used("log-outputs", Choice(&["default", "stderr"]), "default", "Where logs go: stderr, by either name."),
];

pub const UNSAFE: &[Flag] = &[used(
    "unsafe-no-fsync",
    Bool,
    "false",
    "Leaves fdatasync out. A power cut or a crash of the system then loses answered writes.",
)];
