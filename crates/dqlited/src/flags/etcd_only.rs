//! etcd's flags that have no work to do here: taken so that existing command lines and manifests start.
//!
//! One that is harmless to pass over is taken with a line in the log; one whose value makes a promise (a revocation
//! list, another folder for the log) is refused, since passing it over would break that promise in silence.

use super::Effect::{self, DefaultOnly, OldNameOf};
use super::Kind::{Bool, Choice, Duration, Signed, Text, Unsigned};
use super::{Flag, Kind};

const U32: Kind = Unsigned(u32::MAX as u64);

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
    effect: Effect,
) -> Flag {
    Flag { name, kind, default, meaning, effect }
}

const PEERS: Effect = Effect::None("a lone member has no peers");
const ELECTIONS: Effect = Effect::None("a lone member leads at once and elects nobody");
const MEMBERS: Effect = Effect::None("members cannot be added yet");
const BBOLT: Effect = Effect::None("it concerns bbolt; the state here is in SQLite");
const WAL_FILES: Effect = Effect::None("old files of the log are used again, not collected");
const COMPACTION: Effect = Effect::None("old revisions are deleted in slices between batches of writes");
const PROFILING: Effect = Effect::None("it concerns Go's profiler");
const TRACING: Effect = Effect::None("traces are not sent anywhere");
const CORRUPTION: Effect = Effect::None("a lone member has nobody to compare with");
const AUTH: Effect = Effect::None("users and roles are not served yet");
const OUTBOUND: Effect = Effect::None("nothing connects from this member to itself");
const SOCKETS: Effect = Effect::None("listeners are opened with SO_REUSEADDR, as the system's default asks");
const GATES: Effect = Effect::None("feature gates switch parts of etcd's own code");
const UNARY: Effect = Effect::None("slow requests are logged by --warning-apply-duration, waiting included");
const LEASES: Effect = Effect::None("after a restart leases have their full time again");
const V2: Effect = Effect::None("there is no v2 store");
const DISCOVERY: Effect = DefaultOnly("members cannot be added yet, so there is nobody to discover");

pub const FLAGS: &[Flag] = &[
    // What kubeadm passes, and TLS between members.
    flag("feature-gates", Text, "", "Feature gates of etcd.", GATES),
    flag("peer-cert-file", Text, "", "Certificate shown to peers.", PEERS),
    flag("peer-key-file", Text, "", "Key of --peer-cert-file.", PEERS),
    flag("peer-trusted-ca-file", Text, "", "CA of peers.", PEERS),
    flag("peer-client-cert-auth", Bool, "false", "Peers must show a certificate.", PEERS),
    flag("peer-client-cert-file", Text, "", "Certificate shown to peers as their client.", PEERS),
    flag("peer-client-key-file", Text, "", "Key of --peer-client-cert-file.", PEERS),
    flag("peer-cert-allowed-cn", Text, "", "Names allowed in peers' certificates.", PEERS),
    flag("peer-cert-allowed-hostname", Text, "", "Host names allowed in peers' certificates.", PEERS),
    flag("peer-skip-client-san-verification", Bool, "false", "Do not check peers' host names.", PEERS),
    flag("peer-crl-file", Text, "", "Revoked certificates of peers.", PEERS),
    flag("peer-auto-tls", Bool, "false", "Certificates made by itself, for peers.", PEERS),
    flag("client-cert-file", Text, "", "Certificate with which etcd's gateway calls etcd.", OUTBOUND),
    flag("client-key-file", Text, "", "Key of --client-cert-file.", OUTBOUND),
    flag("self-signed-cert-validity", U32, "1", "Years that certificates made by itself hold.", OUTBOUND),
    // Refused with another value than the default: they restrict who may come in, or move data.
    flag(
        "client-crl-file",
        Text,
        "",
        "Revoked certificates of clients.",
        DefaultOnly("revoked certificates would be let in, lists of them are not read yet"),
    ),
    flag(
        "client-cert-allowed-hostname",
        Text,
        "",
        "Host names allowed in clients' certificates.",
        DefaultOnly("all certificates of --trusted-ca-file would be let in, host names are not checked yet"),
    ),
    flag(
        "auto-tls",
        Bool,
        "false",
        "Certificates made by itself, for clients.",
        DefaultOnly("certificates are not made here, give --cert-file and --key-file"),
    ),
    flag(
        "cipher-suites",
        Text,
        "",
        "Cipher suites of TLS.",
        DefaultOnly("the suites are those of rustls, all of them with forward secrecy"),
    ),
    flag("host-whitelist", Text, "*", "Host names allowed in HTTP requests.", DefaultOnly("all are served")),
    flag("cors", Text, "*", "Origins allowed in HTTP requests.", DefaultOnly("all are served")),
    flag("wal-dir", Text, "", "Folder of the log alone.", DefaultOnly("the log is in --data-dir")),
    flag(
        "force-new-cluster",
        Bool,
        "false",
        "Make a cluster of one out of this member.",
        DefaultOnly("a lone member is one already"),
    ),
    flag("auth-token", Text, "simple", "Kind of tokens.", AUTH),
    flag("auth-token-ttl", U32, "300", "Seconds that a token holds.", AUTH),
    flag("bcrypt-cost", U32, "10", "Cost of password hashes.", AUTH),
    flag("discovery", Text, "", "Discovery by a v2 service.", DISCOVERY),
    flag("discovery-endpoints", Text, "", "Discovery: where.", DISCOVERY),
    flag("discovery-token", Text, "", "Discovery: token.", DISCOVERY),
    flag("discovery-srv", Text, "", "Discovery by DNS.", DISCOVERY),
    flag("discovery-srv-name", Text, "", "Discovery by DNS: suffix.", DISCOVERY),
    flag("discovery-proxy", Text, "", "Discovery: HTTP proxy.", DISCOVERY),
    flag("discovery-cert", Text, "", "Discovery: certificate.", DISCOVERY),
    flag("discovery-key", Text, "", "Discovery: key.", DISCOVERY),
    flag("discovery-cacert", Text, "", "Discovery: CA.", DISCOVERY),
    flag("discovery-user", Text, "", "Discovery: user.", DISCOVERY),
    flag("discovery-password", Text, "", "Discovery: password.", DISCOVERY),
    flag("discovery-dial-timeout", Duration, "2s", "Discovery: time to connect.", MEMBERS),
    flag("discovery-request-timeout", Duration, "5s", "Discovery: time of a request.", MEMBERS),
    flag("discovery-keepalive-time", Duration, "2s", "Discovery: time between pings.", MEMBERS),
    flag("discovery-keepalive-timeout", Duration, "6s", "Discovery: time of a ping.", MEMBERS),
    flag("discovery-insecure-transport", Bool, "true", "Discovery: without TLS.", MEMBERS),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", "Discovery: TLS without checks.", MEMBERS),
    flag("discovery-fallback", Choice(&["exit", "proxy"]), "exit", "Discovery: what if it fails.", MEMBERS),
    // Times and bounds of parts that are not here, or do their work by themselves.
    flag("heartbeat-interval", U32, "100", "Milliseconds between heartbeats.", ELECTIONS),
    flag("initial-election-tick-advance", Bool, "true", "Elect sooner after a start.", ELECTIONS),
    flag("pre-vote", Bool, "true", "Ask before an election.", ELECTIONS),
    flag("raft-read-timeout", Duration, "5s", "Time of a read from a peer.", PEERS),
    flag("raft-write-timeout", Duration, "5s", "Time of a write to a peer.", PEERS),
    flag("strict-reconfig-check", Bool, "true", "Refuse changes of members that lose the quorum.", MEMBERS),
    flag("max-learners", U32, "1", "Most learners.", MEMBERS),
    flag("snapshot-catchup-entries", Unsigned(u64::MAX), "5000", "Entries kept for slow members.", PEERS),
    flag("max-snapshots", U32, "5", "Files of snapshots kept.", WAL_FILES),
    flag("max-wals", U32, "5", "Files of the log kept.", WAL_FILES),
    flag("backend-bbolt-freelist-type", Choice(&["map", "array"]), "map", "bbolt's free list.", BBOLT),
    flag("backend-batch-interval", Duration, "0", "Time between commits of bbolt.", BBOLT),
    flag("backend-batch-limit", Signed, "0", "Operations between commits of bbolt.", BBOLT),
    flag("bootstrap-defrag-threshold-megabytes", U32, "0", "Defragment bbolt at the start.", BBOLT),
    flag(
        "memory-mlock",
        Bool,
        "false",
        "Keep bbolt's pages in memory.",
        Effect::None("SQLite's cache is small and the system keeps the rest"),
    ),
    flag("compaction-batch-limit", Signed, "1000", "Revisions deleted at a time.", COMPACTION),
    flag("compaction-sleep-interval", Duration, "10ms", "Pause between such deletions.", COMPACTION),
    flag("corrupt-check-time", Duration, "0s", "Time between comparisons of members.", CORRUPTION),
    flag("compact-hash-check-time", Duration, "1m", "Time between comparisons of hashes.", CORRUPTION),
    flag(
        "downgrade-check-time",
        Duration,
        "5s",
        "Time between looks at a downgrade.",
        Effect::None("downgrades of etcd mean nothing here"),
    ),
    flag(
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        "Cut off clients that ping more often.",
        Effect::None("the HTTP/2 library does not tell of pings; clients that ping often are served"),
    ),
    flag("socket-reuse-port", Bool, "false", "SO_REUSEPORT.", SOCKETS),
    flag("socket-reuse-address", Bool, "false", "SO_REUSEADDR.", SOCKETS),
    flag(
        "enable-grpc-gateway",
        Bool,
        "true",
        "Serve JSON over HTTP under /v3/.",
        Effect::None("JSON under /v3/ is not served yet"),
    ),
    flag("enable-pprof", Bool, "false", "Serve Go's profiles.", PROFILING),
    flag("enable-distributed-tracing", Bool, "false", "Send traces.", TRACING),
    flag("distributed-tracing-address", Text, "localhost:4317", "Where traces go.", TRACING),
    flag("distributed-tracing-service-name", Text, "etcd", "Name in traces.", TRACING),
    flag("distributed-tracing-instance-id", Text, "", "Id in traces.", TRACING),
    flag("distributed-tracing-sampling-rate", Signed, "0", "Share of requests traced.", TRACING),
    flag("warning-unary-request-duration", Duration, "300ms", "Log slow unary requests.", UNARY),
    flag("logger", Choice(&["zap"]), "zap", "etcd's logger.", Effect::None("there is one logger")),
    flag(
        "enable-log-rotation",
        Bool,
        "false",
        "Rotate a file of logs.",
        DefaultOnly("logs go to stderr, whoever keeps them rotates them"),
    ),
    flag(
        "log-rotation-config-json",
        Text,
        "",
        "How a file of logs is rotated.",
        Effect::None("logs go to stderr, whoever keeps them rotates them"),
    ),
    flag(
        "v2-deprecation",
        Choice(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "write-only",
        "Phase of the v2 store.",
        V2,
    ),
    flag("enable-v2", Bool, "false", "Serve the v2 API.", DefaultOnly("the v2 API is not served")),
    // Names of etcd 3.4 to 3.6.
    flag(
        "experimental-watch-progress-notify-interval",
        Duration,
        "10m",
        "Name of etcd 3.5.",
        OldNameOf("watch-progress-notify-interval"),
    ),
    flag(
        "experimental-warning-apply-duration",
        Duration,
        "100ms",
        "Name of etcd 3.5.",
        OldNameOf("warning-apply-duration"),
    ),
    flag("experimental-warning-unary-request-duration", Duration, "300ms", "Name of etcd 3.5.", UNARY),
    flag("experimental-initial-corrupt-check", Bool, "false", "Name of etcd 3.5.", CORRUPTION),
    flag("experimental-corrupt-check-time", Duration, "0s", "Name of etcd 3.5.", CORRUPTION),
    flag("experimental-compact-hash-check-enabled", Bool, "false", "Name of etcd 3.5.", CORRUPTION),
    flag("experimental-compact-hash-check-time", Duration, "1m", "Name of etcd 3.5.", CORRUPTION),
    flag("experimental-compaction-batch-limit", Signed, "1000", "Name of etcd 3.5.", COMPACTION),
    flag("experimental-compaction-sleep-interval", Duration, "10ms", "Name of etcd 3.5.", COMPACTION),
    flag("experimental-bootstrap-defrag-threshold-megabytes", U32, "0", "Name of etcd 3.5.", BBOLT),
    flag("experimental-backend-bbolt-freelist-type", Text, "map", "Name of etcd 3.4.", BBOLT),
    flag("experimental-txn-mode-write-with-shared-buffer", Bool, "true", "Name of etcd 3.5.", BBOLT),
    flag("experimental-memory-mlock", Bool, "false", "Name of etcd 3.5.", BBOLT),
    flag("experimental-max-learners", U32, "1", "Name of etcd 3.5.", MEMBERS),
    flag("experimental-peer-skip-client-san-verification", Bool, "false", "Name of etcd 3.5.", PEERS),
    flag("experimental-snapshot-catchup-entries", Unsigned(u64::MAX), "5000", "Name of etcd 3.5.", PEERS),
    flag("experimental-set-member-localaddr", Bool, "false", "Name of etcd 3.6.", PEERS),
    flag("experimental-enable-lease-checkpoint", Bool, "false", "Name of etcd 3.5.", LEASES),
    flag("experimental-enable-lease-checkpoint-persist", Bool, "false", "Name of etcd 3.5.", LEASES),
    flag("experimental-stop-grpc-service-on-defrag", Bool, "false", "Name of etcd 3.5.", GATES),
    flag("experimental-downgrade-check-time", Duration, "5s", "Name of etcd 3.5.", MEMBERS),
    flag("experimental-enable-distributed-tracing", Bool, "false", "Name of etcd 3.5.", TRACING),
    flag("experimental-distributed-tracing-address", Text, "localhost:4317", "Name of etcd 3.5.", TRACING),
    flag("experimental-distributed-tracing-service-name", Text, "etcd", "Name of etcd 3.5.", TRACING),
    flag("experimental-distributed-tracing-instance-id", Text, "", "Name of etcd 3.5.", TRACING),
    flag("experimental-distributed-tracing-sampling-rate", Signed, "0", "Name of etcd 3.5.", TRACING),
    flag("experimental-enable-v2v3", Text, "", "Name of etcd 3.5.", DefaultOnly("the v2 API is not served")),
];
