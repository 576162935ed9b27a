//! Wanted differences: where dqlited does not do as etcd does, and what etcd does not survive.

use super::listed::AskedForBy::{Note, Run};
use super::listed::How::{Elsewhere, EndsEtcd, NotAsked, TakenOut};
use super::listed::Listed;
use super::{avoid, normalise};

/// The differences, in the order in which they are applied. Each is a line of `docs/etcd-api.md`, and each line there is
/// an entry here or in `masked.rs`.
pub const WANTED: &[Listed] = &[
    Listed {
        what: "an alarm action or type that does not exist",
        reason: "etcd's process ends at the action; dqlited refuses both",
        asked_for_by: Note("Action > 2 kills etcd's process: answer INVALID_ARGUMENT"),
        documented: Some("An alarm action or type that does not exist"),
        how: EndsEtcd(avoid::alarm_beyond),
    },
    Listed {
        what: "a put with ignore_value or ignore_lease behind a delete-from-key",
        reason: "such a delete escapes the check for duplicates, and the put ends etcd's process when the key was taken; \
                 asked without the two options",
        asked_for_by: Run,
        documented: Some("A put with `ignore_value` or `ignore_lease` behind a delete-from-key"),
        how: EndsEtcd(avoid::ignore_behind_delete),
    },
    Listed {
        what: "the first compaction at 0 or below",
        reason: "etcd's HashKV is wrong from then on; asked at the current revision",
        asked_for_by: Note(
            "Compact(0) poisons it: HashKV(0) then answers `hash_revision 0` and the hash of nothing …; do not copy",
        ),
        documented: Some("HashKV at a compacted revision"),
        how: NotAsked(avoid::compact_zero),
    },
    Listed {
        what: "a compaction at a revision that took a key and made it again",
        reason: "it leaves etcd with a live key whose record is gone, and the next Range of it ends the process; asked at \
                 the revision before",
        asked_for_by: Run,
        documented: Some(
            "A compaction at the revision of a transaction that took a key (by a delete-from-key) and made it again",
        ),
        how: EndsEtcd(avoid::compact_at_remade),
    },
    Listed {
        what: "HashKV at a revision that a compaction was at",
        reason: "etcd answers it from its cache of the newest ten, as it would have before that compaction and even when \
                 the revision is compacted by now; at the current revision, which is compared, it does not look there",
        asked_for_by: Note(
            "Cache quirk: each compaction at C stores the hash for (rev = C, compact_revision = previous C), newest 10; \
             asked for such a rev, etcd answers that with the previous compact_revision until restart, then with C",
        ),
        documented: Some("HashKV at a compacted revision"),
        how: NotAsked(avoid::hash_of_compacted),
    },
    Listed {
        what: "HashKV at a revision that took a key and made it again",
        reason: "etcd takes the key for deleted there, and hashes what it has compacted when it finds no other",
        asked_for_by: Run,
        documented: Some(
            "A compaction at the revision of a transaction that took a key (by a delete-from-key) and made it again",
        ),
        how: NotAsked(avoid::hash_at_remade),
    },
    Listed {
        what: "the watch id -1, chosen by a client",
        reason: "dqlited refuses it; asked with the id 0",
        asked_for_by: Note(
            "negative too (even -1, but then it is indistinguishable from broadcast: better refuse)",
        ),
        documented: Some("Watch id -1"),
        how: NotAsked(avoid::watch_id_of_broadcast),
    },
    Listed {
        what: "a watch with prev_kv from the compact revision",
        reason: "where the record before is compacted dqlited cancels the watch, etcd leaves the record out; asked \
                 without prev_kv",
        asked_for_by: Note(
            "kube-apiserver ends the watch with an error for a non-create event without prev_kv, so read it before \
             compaction can remove it …, or cancel as compacted instead of sending a hole",
        ),
        documented: Some("A watch with `prev_kv`"),
        how: NotAsked(avoid::prev_kv_from_compacted),
    },
    Listed {
        what: "the chunks of RangeStream",
        reason: "cut at other places; order, and what the last one carries alone, is compared",
        asked_for_by: Note("Clients need only the order and the last message; another chunking is legal"),
        documented: Some("Chunks of RangeStream"),
        how: TakenOut(normalise::chunks),
    },
    Listed {
        what: "the order of a RangeStream with a sort target and no order",
        reason: "etcd sorts within each of its chunks, dqlited keeps key order",
        asked_for_by: Note(
            "sort NONE + target VALUE + limit cuts before sorting (or decide otherwise and list the difference)",
        ),
        documented: Some("A sort target without an order in RangeStream"),
        how: TakenOut(normalise::stream_order),
    },
    Listed {
        what: "a RangeStream of many keys with a sort target and no order",
        reason: "etcd goes on from the last key of each sorted chunk, so that keys are lost and others come twice; asked \
                 for keys that fit into one chunk",
        asked_for_by: Run,
        documented: Some("A sort target without an order in RangeStream"),
        how: NotAsked(avoid::unordered_sort_of_chunks),
    },
    Listed {
        what: "a downgrade that etcd takes",
        reason: "dqlited has one version of its data; asked for a version that none can take",
        asked_for_by: Note("Ours: VALIDATE/ENABLE → `invalid downgrade target version`"),
        documented: Some("A downgrade to a version that etcd takes"),
        how: NotAsked(avoid::downgrade),
    },
    Listed {
        what: "transactions deeper within each other than dqlited serves",
        reason: "dqlited refuses more than 129; a run's etcd does too, by its default of --max-txn-ops",
        asked_for_by: Run,
        documented: Some("Transactions within each other"),
        how: Elsewhere("transactions_nest_to_a_bound_of_their_own_whatever_the_bound_on_operations"),
    },
    Listed {
        what: "quota: puts of nested transactions",
        reason: "etcd counts 0 for them; a run stays far below its quota",
        asked_for_by: Run,
        documented: Some("Quota"),
        how: Elsewhere("a_txn_costs_its_larger_branch_with_what_is_nested"),
    },
    Listed {
        what: "HTTP: our own version in /version",
        reason: "a run speaks gRPC alone",
        asked_for_by: Note("our own version as an extra field of /version, in metrics and logs"),
        documented: Some("Version texts"),
        how: Elsewhere("versions_name_etcds_and_ours"),
    },
    Listed {
        what: "--grpc-keepalive-min-time",
        reason: "taken with a line and without effect; a run has default flags and pings nobody",
        asked_for_by: Run,
        documented: Some("`--grpc-keepalive-min-time`"),
        how: Elsewhere("kubeadms_static_pod_is_taken_and_what_means_nothing_is_said"),
    },
    Listed {
        what: "requests that a client has compressed",
        reason: "a run's clients compress nothing, nor does kube-apiserver's or etcdctl",
        asked_for_by: Run,
        documented: Some("Compressed requests"),
        how: Elsewhere("a_compressed_message_is_refused_as_unimplemented"),
    },
    Listed {
        what: "health: List of grpc.health.v1",
        reason: "not served; Check and Watch are",
        asked_for_by: Run,
        documented: Some("List of grpc.health.v1"),
        how: Elsewhere("health_is_checked_and_watched_and_not_listed"),
    },
    Listed {
        what: "a client that takes nothing of a large answer",
        reason: "a run takes each answer at once",
        asked_for_by: Run,
        documented: Some("A client that takes nothing of a large answer"),
        how: Elsewhere("who_takes_nothing_is_closed_and_who_moves_is_not"),
    },
];
