//! The line of a slow request: what it asked for, and how long it was in each stage that it went through.

use dqlited_proto::etcdserverpb::*;
use dqlited_tests::cluster::MemberOptions;
use serde_json::Value;

use crate::api::*;

/// All stages that a line may have.
const STAGES: &[&str] = &[
    "barrier_ms",
    "queue_ms",
    "log_ms",
    "apply_ms",
    "delete_ms",
    "read_ms",
    "send_ms",
    "answer_ms",
    "unanswered_ms",
];
const WRITE: &[&str] = &["queue_ms", "log_ms", "apply_ms", "answer_ms"];
const READ: &[&str] = &["barrier_ms", "queue_ms", "read_ms", "answer_ms"];

/// Where a member logs every request.
async fn start() -> Api {
    let options =
        MemberOptions::dqlited().flag("--warning-apply-duration", "1ns").flag("--log-format", "json");
    Api::start_with(options).await
}

/// The line of the request with this key.
fn line(api: &Api, key: &str) -> Value {
    let log = api.member.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut found = lines.into_iter().filter(|line| line["message"] == "slow request" && line["key"] == key);
    let line = found.next().unwrap_or_else(|| panic!("no line of {key}:\n{log}"));
    assert!(found.next().is_none(), "more than one line of {key}:\n{log}");
    line
}

fn micros(line: &Value, stage: &str) -> u64 {
    let ms = line[stage].as_f64().unwrap_or_else(|| panic!("{stage} is a number of milliseconds: {line}"));
    (ms * 1e3).round() as u64
}

/// These stages and no others, which add up to what it took (each is cut to the microsecond).
fn assert_line(line: &Value, request: &str, range_end: &str, stages: &[&str]) {
    assert_eq!(
        (&line["request"], &line["range_end"], &line["level"]),
        (&request.into(), &range_end.into(), &"WARN".into())
    );
    let found: Vec<&str> = STAGES.iter().copied().filter(|stage| !line[stage].is_null()).collect();
    assert_eq!(found, stages, "{line}");
    let sum: u64 = stages.iter().map(|stage| micros(line, stage)).sum();
    let took = micros(line, "took_ms");
    assert!(sum <= took && took <= sum + stages.len() as u64, "{sum} of {took} us: {line}");
}

#[tokio::test]
async fn a_slow_write_is_logged_with_its_range_and_the_time_of_each_stage() {
    let api = start().await;
    api.put("put/1", "v").await;
    api.txn(txn(vec![compare("txn/1", 0, compare::TargetUnion::Version(0))], vec![put_op("a", "b")], vec![]))
        .await
        .expect("a transaction");
    api.delete("delete/1", "delete/2").await;
    for (key, request, range_end) in
        [("put/1", "Put", ""), ("txn/1", "Txn", ""), ("delete/1", "DeleteRange", "delete/2")]
    {
        let line = line(&api, key);
        assert_line(&line, request, range_end, WRITE);
        // It was synced: that takes time on any disk.
        assert!(micros(&line, "log_ms") > 0, "{line}");
    }

    let compaction = CompactionRequest { revision: api.revision().await, physical: true };
    api.kv().compact(compaction).await.expect("a compaction");
    let compact = line(&api, "");
    assert_line(&compact, "Compact", "", &["queue_ms", "log_ms", "apply_ms", "delete_ms", "answer_ms"]);
}

#[tokio::test]
async fn a_slow_read_is_logged_with_its_range_and_the_time_of_each_stage() {
    let api = start().await;
    api.get("point/1").await;
    api.keys(between("list/1", "list\\")).await;
    api.range(RangeRequest { serializable: true, ..between("local/1", "\0") }).await.expect("a range");
    api.txn(txn(vec![], vec![get_op(one("read-txn/1"))], vec![])).await.expect("a transaction");
    for (key, request, range_end) in [
        ("point/1", "Range", ""),
        ("list/1", "Range", "list\\\\"),
        ("local/1", "Range", "\\x00"),
        ("read-txn/1", "Txn", ""),
    ] {
        assert_line(&line(&api, key), request, range_end, READ);
    }
    let stream = api.kv().range_stream(between("stream/1", "stream0")).await.expect("a stream");
    let mut stream = stream.into_inner();
    while stream.message().await.expect("a chunk").is_some() {}
    let stream = ["barrier_ms", "queue_ms", "read_ms", "send_ms", "answer_ms"];
    assert_line(&line(&api, "stream/1"), "RangeStream", "stream0", &stream);
    api.range(RangeRequest { revision: 99, ..one("future/1") }).await.expect_err("no such revision");
    assert_line(&line(&api, "future/1"), "Range", "", READ);
}

#[tokio::test]
async fn a_request_that_is_not_slow_is_not_logged() {
    let api = Api::start_with(MemberOptions::dqlited().flag("--warning-apply-duration", "1h")).await;
    api.put("put/1", "v").await;
    assert!(!api.member.log().contains("slow request"), "{}", api.member.log());
}
