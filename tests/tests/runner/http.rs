//! The HTTP endpoints of the client port and of the metrics port, beside etcd's where etcd has them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::{AlarmRequest, PutRequest, RangeRequest};
use dqlited_tests::api::{Api, single};
use dqlited_tests::cluster::{Member, MemberOptions, free_port, tool_is_there};

/// One answer over HTTP/1.1.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

fn ask(port: u16, method: &str, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("a status")?.parse()?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}

/// Headers that clients look at.
const HEADERS: &[&str] = &[
    "allow",
    "content-type",
    "x-content-type-options",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

/// Asks both the same and compares status, headers and body.
fn assert_same(ours: u16, etcds: u16, method: &str, path: &str) -> Result<()> {
    let (mut ours, etcds) = (ask(ours, method, path)?, ask(etcds, method, path)?);
    let of = |answer: &Answer| {
        let headers: Vec<_> =
            HEADERS.iter().map(|name| (*name, answer.headers.get(*name).cloned())).collect();
        (answer.status, headers)
    };
    // etcd runs its checks in the order of a hash table, different in each process.
    let sorted = |body: &str| {
        let mut lines: Vec<_> = body.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    if path == "/version" && method == "GET" && etcds.status == 200 {
        // Ours has a field more.
        let fields = |body: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body);
        let mut found = fields(&ours.body)?;
        ensure!(found.remove("dqlited").is_some_and(|version| version.is_string()), "{ours:?}");
        ensure!(found == fields(&etcds.body)?, "{ours:?} for {etcds:?}");
        ours.body = etcds.body.clone();
    }
    let same = of(&ours) == of(&etcds) && sorted(&ours.body) == sorted(&etcds.body);
    ensure!(same, "{method} {path}: {ours:?} for {etcds:?}");
    Ok(())
}

const PATHS: &[&str] = &[
    "/health",
    "/health?serializable=true",
    "/health?exclude=NOSPACE",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=NOSPACE&serializable=true",
    "/livez",
    "/livez?verbose",
    "/livez?exclude=serializable_read&verbose",
    "/livez/serializable_read",
    "/livez/serializable_read?verbose",
    "/livez/linearizable_read",
    "/readyz",
    "/readyz?verbose",
    "/readyz?verbose=1&exclude=data_corruption&exclude=nonsense",
    "/readyz/data_corruption?verbose",
    "/readyz/serializable_read",
    "/readyz/linearizable_read",
    "/readyz/non_learner?verbose",
    "/readyz/nonsense",
    "/version",
    "/",
    "/nonsense",
    "/health/",
    "/debug/pprof/",
];

async fn alarm(member: &Member, action: i32, alarm: i32) -> Result<()> {
    let mut client = MaintenanceClient::new(member.connect().await?);
    client.alarm(AlarmRequest { action, member_id: 5, alarm }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_answers_as_etcds_with_and_without_alarms() -> Result<()> {
    if !tool_is_there("etcd") {
        return Ok(());
    }
    let ours = Member::start(MemberOptions::dqlited()).await?;
    let etcd = Member::start(MemberOptions::etcd()).await?;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        for path in PATHS {
            assert_same(ours.port, etcd.port, method, path)?;
        }
    }
    for (activate, kind) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        for member in [&ours, &etcd] {
            alarm(member, if activate { 1 } else { 2 }, kind).await?;
        }
        // Two alarms come in no order: one of them is the reason.
        if activate && kind == 2 {
            let answer = ask(ours.port, "GET", "/health")?;
            ensure!(answer.status == 503 && answer.body.contains("ALARM "), "{answer:?}");
        } else {
            assert_same(ours.port, etcd.port, "GET", "/health")?;
        }
        for path in PATHS.iter().filter(|path| !path.starts_with("/health") || path.contains("exclude")) {
            assert_same(ours.port, etcd.port, "GET", path)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_port_serves_health_and_metrics_alone_and_without_headers_for_browsers() -> Result<()> {
    if !tool_is_there("etcd") {
        return Ok(());
    }
    let (our_port, etcds_port) = (free_port()?, free_port()?);
    let with_port = |options: MemberOptions, port: u16| {
        options.flag("--listen-metrics-urls", &format!("http://127.0.0.1:{port}"))
    };
    let _ours = Member::start(with_port(MemberOptions::dqlited(), our_port)).await?;
    let _etcd = Member::start(with_port(MemberOptions::etcd(), etcds_port)).await?;
    for path in PATHS {
        assert_same(our_port, etcds_port, "GET", path)?;
    }
    ensure!(ask(our_port, "GET", "/metrics")?.status == 200);
    ensure!(ask(our_port, "GET", "/dqlited/status")?.status == 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn http_moves_away_from_the_client_port_when_it_gets_one_of_its_own() -> Result<()> {
    let http_port = free_port()?;
    let url = format!("http://127.0.0.1:{http_port}");
    let member = Member::start(MemberOptions::dqlited().flag("--listen-client-http-urls", &url)).await?;
    ensure!(ask(http_port, "GET", "/health")?.status == 200);
    ensure!(ask(http_port, "GET", "/version")?.status == 200);
    ensure!(ask(member.port, "GET", "/health")?.status == 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_path_says_what_the_member_is() -> Result<()> {
    let member = Member::start(MemberOptions::dqlited()).await?;
    let mut kv = KvClient::new(member.connect().await?);
    for _ in 0..3 {
        kv.put(PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }).await?;
    }
    let header = kv.range(RangeRequest { key: "k".into(), ..Default::default() }).await?.into_inner().header;
    let header = header.context("a header")?;
    let answer = ask(member.port, "GET", "/dqlited/status")?;
    let status: serde_json::Value = serde_json::from_str(&answer.body)?;
    ensure!(status["member_id"] == format!("{:x}", header.member_id), "{status}");
    ensure!(status["cluster_id"] == format!("{:x}", header.cluster_id), "{status}");
    ensure!(status["leader"] == status["member_id"], "{status}");
    ensure!(
        status["name"] == "default" && status["revision"] == 4 && status["compact_revision"] == -1,
        "{status}"
    );
    ensure!(status["term"].as_u64() == Some(header.raft_term), "{status}");
    let number = |name: &str| status[name].as_u64().with_context(|| format!("{name} in {status}"));
    ensure!(number("applied_index")? <= number("committed_index")?, "{status}");
    ensure!(number("visible_index")? <= number("applied_index")?, "{status}");
    ensure!(number("durable_index")? <= number("visible_index")?, "{status}");
    ensure!(
        number("db_in_use_bytes")? <= number("db_size_bytes")? && number("db_size_bytes")? > 0,
        "{status}"
    );
    ensure!(number("uptime_seconds")? < 60 && status["version"].is_string(), "{status}");
    ensure!(ask(member.port, "POST", "/dqlited/status")?.status == 405);
    Ok(())
}

/// Trap 47 and the names that dashboards and alerts read, on a member at work.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_what_clients_do() -> Result<()> {
    let member = Member::start(MemberOptions::dqlited()).await?;
    let mut kv = KvClient::new(member.connect().await?);
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    for _ in 0..3 {
        kv.put(put.clone()).await?;
    }
    let refused = kv.put(PutRequest::default()).await;
    ensure!(refused.is_err_and(|status| status.code() == tonic::Code::InvalidArgument));
    let answer = ask(member.port, "GET", "/metrics")?;
    let kind = answer.headers.get("content-type").context("a content type")?;
    ensure!(answer.status == 200 && kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let value = |sample: &str| -> Result<f64> {
        let line = answer
            .body
            .lines()
            .find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        Ok(line
            .and_then(|line| line.rsplit(' ').next())
            .with_context(|| format!("{sample} is missing"))?
            .parse()?)
    };
    let of_put = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
    ensure!(value(&format!("grpc_server_started_total{{{of_put}}}"))? == 4.0);
    ensure!(value(&format!(r#"grpc_server_handled_total{{grpc_code="OK",{of_put}}}"#))? == 3.0);
    ensure!(value(&format!(r#"grpc_server_handled_total{{grpc_code="InvalidArgument",{of_put}}}"#))? == 1.0);
    let of_watch = r#"grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream""#;
    ensure!(value(&format!("grpc_server_started_total{{{of_watch}}}"))? == 0.0);
    ensure!(value("etcd_server_has_leader")? == 1.0 && value("etcd_server_is_leader")? == 1.0);
    ensure!(value("etcd_mvcc_put_total")? == 3.0);
    ensure!(value("etcd_debugging_mvcc_current_revision")? == 4.0);
    ensure!(value("etcd_mvcc_db_total_size_in_bytes")? > 0.0);
    ensure!(value("etcd_network_client_grpc_received_bytes_total")? > 0.0);
    ensure!(value(r#"etcd_server_request_duration_seconds_count{success="true",type="Put"}"#)? == 3.0);
    ensure!(value(r#"etcd_server_version{server_version="3.7.3"}"#)? == 1.0);
    ensure!(value("process_resident_memory_bytes")? > 0.0 && value("process_open_fds")? > 0.0);
    ensure!(value("etcd_disk_wal_fsync_duration_seconds_count")? > 0.0);
    ensure!(value("etcd_disk_backend_commit_duration_seconds_count")? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_with_an_error_is_counted_with_its_code_and_measured_where_asked() -> Result<()> {
    let api = Api::start_with(MemberOptions::dqlited().flag("--metrics", "extensive")).await?;
    let mut stream = api.watch().await?;
    stream.create(single(&"k".repeat(3 << 20), 0)).await?;
    ensure!(stream.end().await?.code() == tonic::Code::ResourceExhausted);
    // One that its client leaves is no failure.
    let mut left = api.watch().await?;
    left.created(single("k", 0)).await?;
    drop(left);
    let of_watch = r#"grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream""#;
    let wanted = [
        format!(r#"grpc_server_handled_total{{grpc_code="ResourceExhausted",{of_watch}}} 1"#),
        format!(r#"grpc_server_handled_total{{grpc_code="Canceled",{of_watch}}} 1"#),
        format!("grpc_server_handling_seconds_count{{{of_watch}}} 2"),
        r#"etcd_network_server_stream_failures_total{API="watch",Type="receive"} 1"#.to_owned(),
    ];
    let begun = Instant::now();
    loop {
        let body = ask(api.member.port, "GET", "/metrics")?.body;
        let missing: Vec<_> =
            wanted.iter().filter(|line| !body.lines().any(|found| found == *line)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "{missing:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
