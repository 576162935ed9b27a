//! What a scrape says, checked line by line.

use std::collections::{BTreeMap, BTreeSet};

use dqlited_store::{Event, KeyValue, MemberId, event::Previous};

use super::*;
use crate::rpc_counters::{METHODS, MethodKind};

fn member() -> (Metrics, Arc<RpcCounters>, Quota) {
    let (metrics, calls) = Metrics::new(&EtcdOptions::default(), RpcCounters::new());
    metrics.set_server_id(0x8e9e05c52164694d);
    (metrics, calls, Quota::new(None))
}

fn status() -> NodeStatus {
    NodeStatus {
        member_id: MemberId(5),
        leader: Some(MemberId(5)),
        committed_index: 9,
        applied_index: 8,
        revision: Revision(7),
        compact_revision: Revision(-1),
        ..Default::default()
    }
}

fn counters() -> NodeCounters {
    NodeCounters { proposals_pending: 3, proposals_failed: 2, log_bytes_written: 4096, ..Default::default() }
}

/// A scrape by Prometheus' rules for its text: every sample belongs to a family that was described before it.
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(metrics: &Metrics, quota: &Quota) -> Scrape {
        let text = String::from_utf8(metrics.render(&status(), &counters(), quota)).unwrap();
        let mut scrape = Scrape { types: BTreeMap::new(), samples: BTreeMap::new() };
        for line in text.lines() {
            if let Some(description) = line.strip_prefix("# TYPE ") {
                let (name, kind) = description.split_once(' ').unwrap();
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is described twice");
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let name = sample.split('{').next().unwrap();
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let is_described = scrape.types.contains_key(name)
                    || base
                        .is_some_and(|base| scrape.types.get(base).is_some_and(|kind| kind == "histogram"));
                assert!(is_described, "{line} is of no described family");
                let before = scrape.samples.insert(sample.to_owned(), value.parse().unwrap());
                assert!(before.is_none(), "{sample} is there twice");
            }
        }
        scrape
    }

    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is missing"))
    }
}

#[test]
fn names_and_types_are_etcds() {
    let (metrics, _, quota) = member();
    let types = Scrape::of(&metrics, &quota).types;
    for (kind, names) in [
        (
            "gauge",
            "etcd_server_has_leader etcd_server_is_leader etcd_server_is_learner etcd_server_id etcd_server_version
             etcd_cluster_version etcd_server_quota_backend_bytes etcd_mvcc_db_total_size_in_bytes
             etcd_mvcc_db_total_size_in_use_in_bytes etcd_server_proposals_committed_total
             etcd_server_proposals_applied_total etcd_server_proposals_pending etcd_disk_defrag_inflight
             etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_current_revision
             etcd_debugging_mvcc_compact_revision etcd_debugging_mvcc_watcher_total
             etcd_debugging_mvcc_watch_stream_total etcd_debugging_mvcc_slow_watcher_total
             etcd_debugging_mvcc_pending_events_total etcd_mvcc_db_open_read_transactions
             etcd_debugging_mvcc_db_compaction_last os_fd_used os_fd_limit process_resident_memory_bytes
             process_start_time_seconds process_open_fds process_max_fds",
        ),
        (
            "counter",
            "etcd_server_leader_changes_seen_total etcd_server_proposals_failed_total grpc_server_started_total
             grpc_server_handled_total etcd_network_client_grpc_sent_bytes_total
             etcd_network_client_grpc_received_bytes_total etcd_server_health_success etcd_server_health_failures
             etcd_mvcc_put_total etcd_mvcc_delete_total etcd_mvcc_range_total etcd_mvcc_txn_total
             etcd_debugging_mvcc_events_total etcd_debugging_lease_granted_total etcd_debugging_lease_revoked_total
             etcd_debugging_lease_renewed_total etcd_debugging_server_lease_expired_total
             etcd_server_slow_apply_total etcd_server_heartbeat_send_failures_total etcd_server_slow_read_indexes_total
             etcd_server_read_indexes_failed_total etcd_debugging_mvcc_db_compaction_keys_total process_cpu_seconds_total",
        ),
        (
            "histogram",
            "etcd_mvcc_hash_duration_seconds etcd_mvcc_hash_rev_duration_seconds
             etcd_disk_wal_fsync_duration_seconds etcd_disk_backend_commit_duration_seconds
             etcd_server_apply_duration_seconds etcd_server_request_duration_seconds etcd_server_range_duration_seconds
             etcd_disk_backend_snapshot_duration_seconds etcd_disk_backend_defrag_duration_seconds",
        ),
    ] {
        for name in names.split_whitespace() {
            assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}");
        }
    }
}

/// Trap 47: dashboards and alerts match Go's spelling of codes and `bidi_stream`.
#[test]
fn every_method_and_code_is_there_from_the_start_in_gos_spelling() {
    let (metrics, _, quota) = member();
    let scrape = Scrape::of(&metrics, &quota);
    for method in METHODS {
        let labels = format!(
            r#"grpc_method="{}",grpc_service="{}",grpc_type="{}""#,
            method.name,
            method.service,
            method.kind.label()
        );
        assert_eq!(scrape.get(&format!("grpc_server_started_total{{{labels}}}")), 0.0);
        for code in ["OK", "Canceled", "InvalidArgument", "DeadlineExceeded", "ResourceExhausted", "DataLoss"]
        {
            assert_eq!(
                scrape.get(&format!(r#"grpc_server_handled_total{{grpc_code="{code}",{labels}}}"#)),
                0.0
            );
        }
    }
    let kinds: BTreeSet<_> = METHODS.iter().map(|method| method.kind.label()).collect();
    assert_eq!(kinds, BTreeSet::from(["bidi_stream", "server_stream", "unary"]));
    let watches = r#"grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream""#;
    scrape.get(&format!("grpc_server_started_total{{{watches}}}"));
}

#[test]
fn calls_show_as_started_and_handled_with_their_durations() {
    let (metrics, calls, quota) = member();
    let put = METHODS.iter().position(|method| method.name == "Put").unwrap();
    calls.begin(put).end(tonic::Code::Ok);
    calls.begin(put).end(tonic::Code::Unavailable);
    let _waiting = calls.begin(put);
    let scrape = Scrape::of(&metrics, &quota);
    let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
    assert_eq!(scrape.get(&format!("grpc_server_started_total{{{labels}}}")), 3.0);
    assert_eq!(scrape.get(&format!(r#"grpc_server_handled_total{{grpc_code="OK",{labels}}}"#)), 1.0);
    let seconds =
        |success| format!(r#"etcd_server_request_duration_seconds_count{{success="{success}",type="Put"}}"#);
    assert_eq!((scrape.get(&seconds("true")), scrape.get(&seconds("false"))), (1.0, 1.0));
    // Parts of a second are not lost.
    let sum = scrape.get(r#"etcd_server_request_duration_seconds_sum{success="true",type="Put"}"#);
    assert!(sum > 0.0 && sum < 1.0, "{sum}");
    let extensive = "grpc_server_handling_seconds";
    assert!(!scrape.types.contains_key(extensive), "only where it is asked for");
}

#[test]
fn extensive_metrics_have_the_durations_of_every_method_whatever_their_end() {
    let options = EtcdOptions { extensive_metrics: true, ..EtcdOptions::default() };
    let (metrics, calls) = Metrics::new(&options, RpcCounters::new());
    let put = METHODS.iter().position(|method| method.name == "Put").unwrap();
    calls.begin(put).end(tonic::Code::Ok);
    calls.begin(put).end(tonic::Code::Unavailable);
    let scrape = Scrape::of(&metrics, &Quota::new(None));
    assert_eq!(scrape.types["grpc_server_handling_seconds"], "histogram");
    for method in METHODS {
        let (kind, service, name) = (method.kind.label(), method.service, method.name);
        let labels = format!(r#"grpc_method="{name}",grpc_service="{service}",grpc_type="{kind}""#);
        let expected = if service == "etcdserverpb.KV" && name == "Put" { 2.0 } else { 0.0 };
        assert_eq!(scrape.get(&format!("grpc_server_handling_seconds_count{{{labels}}}")), expected);
        scrape.get(&format!(r#"grpc_server_handling_seconds_bucket{{{labels},le="0.005"}}"#));
    }
}

#[test]
fn deleted_records_and_open_reads_are_told() {
    let (metrics, _, quota) = member();
    metrics.records_deleted(30);
    metrics.records_deleted(5);
    let counters = NodeCounters { open_reads: 3, ..counters() };
    let text = String::from_utf8(metrics.render(&status(), &counters, &quota)).unwrap();
    for line in ["etcd_debugging_mvcc_db_compaction_keys_total 35", "etcd_mvcc_db_open_read_transactions 3"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    let scrape = Scrape::of(&metrics, &quota);
    assert!(scrape.get("etcd_debugging_mvcc_db_compaction_last") > 1.7e9, "seconds since 1970");
}

#[test]
fn a_stream_that_cannot_be_read_counts_and_one_that_its_client_left_does_not() {
    let (metrics, _, quota) = member();
    metrics.stream_failed("watch", &tonic::Status::resource_exhausted("large"));
    metrics.stream_failed("watch", &tonic::Status::cancelled("gone"));
    let sample = r#"etcd_network_server_stream_failures_total{API="watch",Type="receive"}"#;
    assert_eq!(Scrape::of(&metrics, &quota).get(sample), 1.0);
}

#[test]
fn a_scrape_says_what_the_member_says() {
    let (metrics, _, quota) = member();
    let scrape = Scrape::of(&metrics, &quota);
    assert_eq!(scrape.get("etcd_server_has_leader"), 1.0);
    assert_eq!(scrape.get("etcd_server_is_leader"), 1.0);
    assert_eq!(scrape.get("etcd_server_proposals_committed_total"), 9.0);
    assert_eq!(scrape.get("etcd_server_proposals_applied_total"), 8.0);
    assert_eq!(scrape.get("etcd_server_proposals_pending"), 3.0);
    assert_eq!(scrape.get("etcd_server_proposals_failed_total"), 2.0);
    assert_eq!(scrape.get("etcd_disk_wal_write_bytes_total"), 4096.0);
    assert_eq!(scrape.get("etcd_debugging_mvcc_current_revision"), 7.0);
    assert_eq!(scrape.get("etcd_debugging_mvcc_compact_revision"), -1.0);
    assert_eq!(scrape.get(r#"etcd_server_version{server_version="3.7.3"}"#), 1.0);
    assert_eq!(scrape.get(r#"etcd_server_id{server_id="8e9e05c52164694d"}"#), 1.0);
    assert_eq!(scrape.get("etcd_server_quota_backend_bytes"), 2147483648.0);
    assert!(scrape.get("process_resident_memory_bytes") > 0.0);
}

#[test]
fn the_disk_is_timed_and_slow_batches_are_counted() {
    let (metrics, _, quota) = member();
    metrics.log_synced(1, Duration::from_millis(3));
    metrics.store_committed(Duration::from_millis(30));
    metrics.batch_applied(10, Duration::from_millis(99));
    metrics.batch_applied(10, Duration::from_millis(101));
    let scrape = Scrape::of(&metrics, &quota);
    assert_eq!(scrape.get(r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="0.002"}"#), 0.0);
    assert_eq!(scrape.get(r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="0.004"}"#), 1.0);
    assert_eq!(scrape.get(r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="8.192"}"#), 1.0);
    assert_eq!(scrape.get("etcd_disk_backend_commit_duration_seconds_count"), 1.0);
    assert_eq!(scrape.get("etcd_server_slow_apply_total"), 1.0);
}

#[test]
fn applied_entries_are_counted_by_kind_and_keys_follow_events() {
    let (metrics, _, quota) = member();
    let event = |kind, version| Event {
        kind,
        kv: KeyValue { key: "k".into(), value: "1234".into(), version, ..Default::default() },
        previous: Previous::None,
    };
    let entry = |result, events| Applied {
        log_id: LogId::default(),
        identity: None,
        result: Ok(result),
        revision: Revision(2),
        compact_revision: Revision(-1),
        events,
    };
    let nested = TxnResponse {
        succeeded: true,
        responses: vec![OpResponse::DeleteRange { revision: Revision(2), deleted: 1, previous: vec![] }],
    };
    let txn = TxnResponse {
        succeeded: true,
        responses: vec![
            OpResponse::Put { revision: Revision(2), previous: None },
            OpResponse::Range { revision: Revision(2), range: Default::default() },
            OpResponse::Txn(nested),
        ],
    };
    metrics.count(&[
        entry(Response::Put { previous: None }, vec![event(EventKind::Put, 1)]),
        entry(Response::Put { previous: None }, vec![event(EventKind::Put, 2)]),
        entry(Response::Txn(txn), vec![event(EventKind::Put, 1), event(EventKind::Delete, 0)]),
        entry(Response::LeaseGrant { id: 1, ttl: 5 }, vec![]),
    ]);
    metrics.keys_at_start.store(10, Ordering::Relaxed);
    let scrape = Scrape::of(&metrics, &quota);
    assert_eq!(scrape.get("etcd_mvcc_put_total"), 3.0);
    assert_eq!(scrape.get("etcd_mvcc_delete_total"), 1.0);
    assert_eq!(scrape.get("etcd_mvcc_range_total"), 1.0);
    assert_eq!(scrape.get("etcd_mvcc_txn_total"), 1.0);
    assert_eq!(scrape.get("etcd_debugging_lease_granted_total"), 1.0);
    assert_eq!(scrape.get("etcd_debugging_mvcc_keys_total"), 11.0);
    assert_eq!(scrape.get("etcd_debugging_mvcc_total_put_size_in_bytes"), 15.0);
}

#[test]
fn client_versions_are_counted_apart_up_to_a_bound() {
    let (metrics, _, quota) = member();
    metrics.grpc.client_request(MethodKind::Unary, "3.7");
    metrics.grpc.client_request(MethodKind::Unary, "3.7");
    metrics.grpc.client_request(MethodKind::BidiStream, "\u{1F600}{}\"");
    for n in 0..100 {
        metrics.grpc.client_request(MethodKind::Unary, &format!("9.{n}"));
    }
    let scrape = Scrape::of(&metrics, &quota);
    let of = |kind: &str, version: &str| {
        scrape.get(&format!(
            r#"etcd_server_client_requests_total{{client_api_version="{version}",type="{kind}"}}"#
        ))
    };
    assert_eq!(of("unary", "3.7"), 2.0);
    assert_eq!(of("stream", "unknown"), 1.0);
    assert_eq!(of("unary", "unknown"), 100.0 - 31.0);
}
