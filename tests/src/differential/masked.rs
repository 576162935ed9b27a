//! What is masked: in these things two clusters differ, whatever they run.

use super::listed::AskedForBy::{Nature, Note};
use super::listed::How::{NotAsked, TakenOut};
use super::listed::Listed;
use super::{avoid, normalise};

/// The masks, in the order in which they are applied. A run that meets one never is red, as is any difference that stands
/// neither here nor in `wanted.rs`.
pub const MASKED: &[Listed] = &[
    Listed {
        what: "ids: cluster and member of the header",
        reason: "made from peer URLs, whose ports differ; whether they are filled in is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::header_ids),
    },
    Listed {
        what: "ids: the member's own, as leader, in its alarms and in the list of members",
        reason: "as above; that it is the own one is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::own_id),
    },
    Listed {
        what: "ids: leases whose id the server chooses",
        reason: "chosen by chance; how many there are is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::chosen_leases),
    },
    Listed {
        what: "URLs: those of the member",
        reason: "ports differ; how many there are is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::urls),
    },
    Listed {
        what: "terms: of the header and of Status",
        reason: "how many elections there were is each engine's own matter; that there is a term is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::terms),
    },
    Listed {
        what: "indexes: of the log, in Status",
        reason: "what else stands in the log differs; that the applied one is not ahead is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::indexes),
    },
    Listed {
        what: "sizes: of the database, in Status",
        reason: "another engine, another file; that there are sizes is compared, and the quota",
        asked_for_by: Note("dbSize / dbSizeInUse | … | ours: SQLite pages × page size / minus freelist"),
        documented: Some("Sizes"),
        how: TakenOut(normalise::sizes),
    },
    Listed {
        what: "times: what is left of a lease",
        reason: "depends on the clock; its sign is compared",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::time_left),
    },
    Listed {
        what: "times: the order of leases",
        reason: "by expiry, which depends on the clock",
        asked_for_by: Note("Leases: local, not linearizable, sorted by expiry at the leader"),
        documented: None,
        how: TakenOut(normalise::order_of_leases),
    },
    Listed {
        what: "times: how a watch's events are cut into responses, and how those of several watches are mixed",
        reason: "what has happened when the server looks depends on time; order, completeness and whole revisions are \
                 compared",
        asked_for_by: Note(
            "Catching up: up to 1000 revisions per response, all unsynced watches served every 100 ms",
        ),
        documented: None,
        how: TakenOut(normalise::watch_batches),
    },
    Listed {
        what: "order: the keys of a lease",
        reason: "etcd takes them out of a map",
        asked_for_by: Note("grantedTTL; keys in no order"),
        documented: None,
        how: TakenOut(normalise::order_of_lease_keys),
    },
    Listed {
        what: "order: alarms and the errors of Status",
        reason: "by member id, and the own one differs",
        asked_for_by: Nature,
        documented: None,
        how: TakenOut(normalise::order_of_alarms),
    },
    Listed {
        what: "spaces in the errors of Status",
        reason: "etcd does not keep their number",
        asked_for_by: Note(
            "`memberID:5  alarm:NOSPACE` (number of spaces unstable) | ours: the same, one space",
        ),
        documented: None,
        how: TakenOut(normalise::spaces),
    },
    Listed {
        what: "order: keys that a sort finds equal",
        reason: "etcd's sort is not stable",
        asked_for_by: Note("Equal values: unstable sort, small sets look stable … do not test ties"),
        documented: None,
        how: TakenOut(normalise::ties),
    },
    Listed {
        what: "a limit on a sort that may find keys equal",
        reason: "it cuts among the equal ones, in etcd at will; asked without the limit",
        asked_for_by: Note("Equal values: unstable sort, small sets look stable … do not test ties"),
        documented: None,
        how: NotAsked(avoid::limit_among_equals),
    },
];
