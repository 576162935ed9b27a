//! Each bad input with its exact message, the order of the sources, and real command lines of others.

use std::path::Path;
use std::time::Duration;

use super::*;

fn read(line: &[&str], variables: &[(&str, &str)]) -> Result<Config, Failure> {
    let mut arguments = vec!["start".to_string()];
    arguments.extend(line.iter().map(|part| part.to_string()));
    let flags = match crate::cli::parse(arguments)? {
        crate::cli::Call::Start(flags) => flags,
        other => panic!("{other:?}"),
    };
    let variables = variables.iter().map(|(name, text)| (name.to_string(), text.to_string()));
    Config::from_settings(Settings::read(flags, variables)?)
}

fn config(line: &[&str]) -> Config {
    read(line, &[]).unwrap_or_else(|failure| panic!("{line:?}: {failure}"))
}

fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_string();
    (dir, path)
}

#[test]
fn without_settings_the_defaults_are_those_of_etcd_but_for_the_data_directory() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, Path::new("dqlited.data"));
    assert_eq!(strings(&config.listen_client), ["http://localhost:2379"]);
    assert!(config.listen_client_http.is_empty() && config.listen_metrics.is_empty());
    assert_eq!(config.advertise_client, ["http://localhost:2379"]);
    assert_eq!(config.advertise_peer, ["http://localhost:2380"]);
    assert_eq!(config.cluster_token, "etcd-cluster");
    assert!(!config.is_existing_cluster && config.tls.is_none() && !config.unsafe_no_fsync);
    assert_eq!((config.quota_bytes, config.max_request_bytes, config.max_txn_ops), (0, 1_572_864, 128));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.keepalive_interval, Duration::from_secs(7200));
    assert_eq!(config.keepalive_timeout, Duration::from_secs(20));
    assert_eq!(config.progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.warning_apply_duration, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_millis(1000));
    assert_eq!((config.snapshot_count, config.auto_compaction), (None, AutoCompaction::Off));
    assert_eq!((config.log_level, config.log_format), (tracing::Level::INFO, None));
    assert_eq!(config.notices, Notices::default());
}

#[test]
fn each_bad_flag_is_named_with_its_fault_and_what_is_allowed() {
    let table: &[(&[&str], &str)] = &[
        (
            &["--listen-client-urls=0.0.0.0"],
            r#"error: --listen-client-urls: no port in "0.0.0.0", expected HOST:PORT"#,
        ),
        (
            &[
                "--listen-client-urls=http://example.com:2379",
                "--advertise-client-urls=http://example.com:2379",
            ],
            r#"error: --listen-client-urls: host "example.com" in "http://example.com:2379", expected an IP address or localhost"#,
        ),
        (
            &["--listen-metrics-urls=http://m:1"],
            r#"error: --listen-metrics-urls: host "m" in "http://m:1", expected an IP address or localhost"#,
        ),
        (
            &["--listen-peer-urls=http://p:1"],
            r#"error: --listen-peer-urls: host "p" in "http://p:1", expected an IP address or localhost"#,
        ),
        (
            &["--advertise-client-urls=http://:2379"],
            r#"error: --advertise-client-urls: no host in "http://:2379", expected HOST:PORT"#,
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "error: --advertise-client-urls: must be given once --listen-client-urls is given\nhint: add \
             --advertise-client-urls=http://127.0.0.1:1 if clients reach the member there",
        ),
        (
            &["--listen-metrics-urls=http://localhost:2379"],
            r#"error: --listen-metrics-urls: "http://localhost:2379" is taken already by --listen-client-urls=http://localhost:2379"#,
        ),
        (
            &["--initial-cluster=a=http://a:1,b=http://b:1", "--name=a"],
            "error: --initial-cluster: 2 members (a, b), but this release runs one\nhint: clusters come with the \
             next release: docs/roadmap.md",
        ),
        (
            &["--initial-cluster=a=http://localhost:2380"],
            r#"error: --initial-cluster: no member "default" (--name) in it, only "a""#,
        ),
        (&["--initial-cluster=default"], r#"error: --initial-cluster: no = in "default", expected NAME=URL"#),
        (
            &["--initial-cluster=default="],
            r#"error: --initial-cluster: no URL in "default=", expected NAME=URL"#,
        ),
        (
            &["--initial-cluster=default=http://a"],
            r#"error: --initial-cluster: no port in "a", expected HOST:PORT"#,
        ),
        (
            &["--initial-cluster=default=http://a:1,default=http://a:1"],
            r#"error: --initial-cluster: "http://a:1" stands twice"#,
        ),
        (
            &["--initial-cluster=default=http://a:1"],
            "error: --initial-cluster: default=http://a:1 is missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            &["--initial-cluster=default=http://a:1", "--initial-advertise-peer-urls=http://a:1,http://b:1"],
            "error: --initial-cluster: default=http://b:1 of --initial-advertise-peer-urls is missing from it",
        ),
        (
            &["--initial-cluster-state=old"],
            r#"error: --initial-cluster-state: "old" is none of new, existing"#,
        ),
        (&["--client-cert-auth"], "error: --client-cert-auth: needs --trusted-ca-file beside it"),
        (&["--client-cert-auth=maybe"], r#"error: --client-cert-auth: "maybe" is neither true nor false"#),
        (&["--cert-file=c"], "error: --cert-file: needs --key-file beside it"),
        (&["--key-file=c"], "error: --key-file: needs --cert-file beside it"),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
            r#"error: --cert-file: needed for "https://127.0.0.1:1", and --key-file with it"#,
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "error: --tls-max-version: TLS1.2 is less than --tls-min-version=TLS1.3",
        ),
        (&["--tls-min-version=SSL3"], r#"error: --tls-min-version: "SSL3" is none of TLS1.2, TLS1.3"#),
        (
            &["--quota-backend-bytes=2GB"],
            r#"error: --quota-backend-bytes: "2GB" is not a whole number of 64 bits"#,
        ),
        (
            &["--max-request-bytes=-1"],
            r#"error: --max-request-bytes: "-1" is not a whole number from 0 to 4294967295"#,
        ),
        (
            &["--max-request-bytes=0"],
            "error: --max-request-bytes: 0 would refuse everything, expected at least 1",
        ),
        (
            &["--max-request-bytes=134217729"],
            "error: --max-request-bytes: 134217729 is more than the queue of proposals takes, expected at most \
             134217728",
        ),
        (&["--max-txn-ops=0"], "error: --max-txn-ops: 0 would refuse everything, expected at least 1"),
        (
            &["--grpc-keepalive-interval=5"],
            r#"error: --grpc-keepalive-interval: no unit in "5", expected a duration like 500ms, 5s, 10m or 1h30m"#,
        ),
        (
            &["--auto-compaction-mode=often"],
            r#"error: --auto-compaction-mode: "often" is none of periodic, revision"#,
        ),
        (
            &["--auto-compaction-retention=x"],
            r#"error: --auto-compaction-retention: no number in "x", expected a duration like 500ms, 5s, 10m or 1h30m"#,
        ),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=5m"],
            r#"error: --auto-compaction-retention: "5m" in mode "revision", expected a whole number of revisions"#,
        ),
        (
            &["--election-timeout=400"],
            "error: --election-timeout: 400 is less than five times --heartbeat-interval=100",
        ),
        (
            &["--election-timeout=60000"],
            "error: --election-timeout: 60000 is too long, expected at most 50000 milliseconds",
        ),
        (&["--heartbeat-interval=0"], "error: --heartbeat-interval: 0 is no interval, expected milliseconds"),
        (
            &["--log-level=loud"],
            r#"error: --log-level: "loud" is none of debug, info, warn, error, panic, fatal"#,
        ),
        (&["--log-format=xml"], r#"error: --log-format: "xml" is none of json, console"#),
        (&["--log-outputs=/tmp/x"], r#"error: --log-outputs: "/tmp/x" is none of default, stderr"#),
        (
            &["--client-crl-file=/crl"],
            r#"error: --client-crl-file: "/crl" cannot be had, only nothing: revoked certificates would be let in, lists of them are not read yet"#,
        ),
        (
            &["--auto-tls=true"],
            r#"error: --auto-tls: "true" cannot be had, only "false": certificates are not made here, give --cert-file and --key-file"#,
        ),
        (
            &["--wal-dir=/wal"],
            r#"error: --wal-dir: "/wal" cannot be had, only nothing: the log is in --data-dir"#,
        ),
        (
            &["--config-file=/nowhere/x.yaml"],
            r#"error: --config-file: cannot read "/nowhere/x.yaml": No such file or directory (os error 2)"#,
        ),
        (
            &["--config-file=/nowhere/x.ini"],
            r#"error: --config-file: extension of "/nowhere/x.ini", expected .toml, .yaml, .yml or .json"#,
        ),
    ];
    for (line, text) in table {
        let failure = read(line, &[]).expect_err(&format!("{line:?}"));
        assert_eq!(failure.to_string(), *text, "{line:?}");
        assert_eq!(failure.kind, crate::failure::Kind::WrongCall, "{line:?}");
    }
}

#[test]
fn of_file_variable_and_flag_the_later_wins() {
    let (_dir, path) = file("c.yaml", "name: from-file\nmax-txn-ops: 7\ninitial-cluster-token: from-file\n");
    let variables = [
        ("DQLITED_CONFIG_FILE", path.as_str()),
        ("DQLITED_NAME", "from-variable"),
        ("DQLITED_MAX_TXN_OPS", "8"),
        ("DQLITED_LOG_LEVEL", ""),
    ];
    let config = read(&["--name=from-flag"], &variables).unwrap();
    assert_eq!(
        (config.name.as_str(), config.max_txn_ops, config.cluster_token.as_str()),
        ("from-flag", 8, "from-file")
    );
    assert_eq!(
        config.notices.infos,
        [format!("settings: 3 from {path}, then 3 from variables, then 1 from flags; the later wins")]
    );
}

#[test]
fn a_fault_names_the_variable_or_the_key_where_it_stands() {
    let bad = read(&[], &[("DQLITED_MAX_TXN_OPS", "x")]).unwrap_err();
    assert_eq!(bad.text, r#"DQLITED_MAX_TXN_OPS: "x" is not a whole number from 0 to 4294967295"#);
    // Overruled, but still a mistake that its author wants to know.
    assert!(read(&["--max-txn-ops=1"], &[("DQLITED_MAX_TXN_OPS", "x")]).is_err());

    let unknown = read(&[], &[("DQLITED_NAEM", "x"), ("DQLITED_SOMETHING_ELSE_ALTOGETHER", "x")]).unwrap();
    assert_eq!(
        unknown.notices.warnings,
        [
            "DQLITED_NAEM: there is no setting of this name (is DQLITED_NAME meant?); the variable is passed over",
            "DQLITED_SOMETHING_ELSE_ALTOGETHER: there is no setting of this name; the variable is passed over",
        ]
    );

    let table = [
        (
            "x.yaml",
            "listen-client-url: a",
            "listen-client-url: there is no setting of this name\nhint: is \"listen-client-urls\" meant?",
        ),
        (
            "x.toml",
            "qqqqqqqqqqqq = 1",
            "qqqqqqqqqqqq: there is no setting of this name\nhint: docs/config.md lists them all",
        ),
        ("x.yaml", "name: [a, {b: c}]", "name: expected a value, not a table"),
        ("x.yaml", "name: true", "name: true is not a TEXT"),
        (
            "x.toml",
            "max-txn-ops = \"many\"",
            "max-txn-ops: \"many\" is not a whole number from 0 to 4294967295",
        ),
        ("x.yaml", "config-file: y.yaml", "config-file: a file cannot name another file"),
        ("x.yaml", "just text", "expected keys and values"),
        ("x.yaml", "client-transport-security: 1", "client-transport-security: expected keys and values"),
        (
            "x.yaml",
            "peer-transport-security: {cert-fil: a}",
            "peer-transport-security.cert-fil: there is no setting of this name\nhint: is \"peer-cert-file\" meant?",
        ),
        ("x.yaml", "name: a\nname: b", "duplicate entry with key \"name\""),
        (
            "x.yaml",
            "watch-progress-notify-interval: 5 s",
            "watch-progress-notify-interval: unknown unit \" s\" in \"5 s\", expected a duration like 500ms, 5s, \
             10m or 1h30m",
        ),
    ];
    for (name, text, fault) in table {
        let (_dir, path) = file(name, text);
        let failure = read(&[&format!("--config-file={path}")], &[]).expect_err(text);
        assert_eq!(failure.to_string(), format!("error: {path}: {fault}"), "{text}");
    }
}

#[test]
fn broken_files_are_told_with_the_place() {
    let (_dir, path) = file("x.toml", "name = \n");
    let failure = read(&[&format!("--config-file={path}")], &[]).unwrap_err();
    assert!(failure.text.starts_with(&format!("{path}: ")) && failure.text.contains("line 1"), "{failure}");
    let (_dir, path) = file("x.yaml", "a: b: c\n");
    let failure = read(&[&format!("--config-file={path}")], &[]).unwrap_err();
    assert!(failure.text.contains("line 1"), "{failure}");
}

#[test]
fn etcds_own_file_is_read_as_etcd_reads_it() {
    // The shape of etcd.conf.yml.sample, with its empty values.
    let (_dir, path) = file(
        "etcd.conf.yml",
        r"
name: 'm1'
data-dir: /var/lib/m1
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: http://localhost:2380
listen-client-urls: https://127.0.0.1:2379,unix:///run/m1.sock
max-snapshots: 5
cors:
initial-advertise-peer-urls: http://localhost:2380
advertise-client-urls: https://127.0.0.1:2379
discovery-endpoints: null
initial-cluster:
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
watch-progress-notify-interval: 5000000000
client-transport-security:
  cert-file: /pki/server.crt
  key-file: /pki/server.key
  client-cert-auth: false
  trusted-ca-file: /pki/ca.crt
  auto-tls: false
  allowed-hostname:
peer-transport-security:
  cert-file: /pki/peer.crt
  key-file: /pki/peer.key
  client-cert-auth: true
  trusted-ca-file: /pki/ca.crt
  auto-tls: false
  allowed-cn: [a, b]
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: '1'
",
    );
    let config = config(&["--config-file", &path]);
    assert_eq!(config.name, "m1");
    assert_eq!(strings(&config.listen_client), ["https://127.0.0.1:2379", "unix:///run/m1.sock"]);
    let tls = config.tls.expect("one listener is https");
    assert_eq!(
        (tls.cert.as_path(), tls.client_ca.as_deref()),
        (Path::new("/pki/server.crt"), Some(Path::new("/pki/ca.crt")))
    );
    assert_eq!(config.progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(3600)));
    assert_eq!(config.log_level, tracing::Level::DEBUG);
    assert!(
        config.notices.infos.contains(&format!(
            "{path}: peer-transport-security.allowed-cn: taken, but it changes nothing here: a lone member has no peers"
        )),
        "{:#?}",
        config.notices
    );
    assert!(
        config.notices.warnings.contains(
            &"unix:///run/m1.sock is served without TLS: --cert-file and --key-file do not count there"
                .to_string()
        )
    );
}

#[test]
fn toml_and_arrays_say_the_same_as_flags() {
    let (_dir, path) = file(
        "c.toml",
        "name = \"m\"\nlisten-client-urls = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]\n\
         advertise-client-urls = \"http://127.0.0.1:1\"\nunsafe-no-fsync = true\nauto-compaction-retention = \"30m\"\n\
         grpc-keepalive-interval = \"1m30s\"\n",
    );
    let config = config(&[&format!("--config-file={path}")]);
    assert_eq!(strings(&config.listen_client), ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    assert!(config.unsafe_no_fsync);
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(1800)));
    assert_eq!(config.keepalive_interval, Duration::from_secs(90));
}

/// The arguments of etcd's static pod as kubeadm writes them for Kubernetes 1.34 and later.
const KUBEADM: &[&str] = &[
    "--advertise-client-urls=https://192.0.2.10:2379",
    "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
    "--client-cert-auth=true",
    "--data-dir=/var/lib/etcd",
    "--feature-gates=InitialCorruptCheck=true",
    "--initial-advertise-peer-urls=https://192.0.2.10:2380",
    "--initial-cluster=node-1=https://192.0.2.10:2380",
    "--key-file=/etc/kubernetes/pki/etcd/server.key",
    "--listen-client-urls=https://127.0.0.1:2379,https://192.0.2.10:2379",
    "--listen-metrics-urls=http://127.0.0.1:2381",
    "--listen-peer-urls=https://192.0.2.10:2380",
    "--name=node-1",
    "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
    "--peer-client-cert-auth=true",
    "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
    "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    "--snapshot-count=10000",
    "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    "--watch-progress-notify-interval=5s",
];

#[test]
fn kubeadms_static_pod_is_taken_and_what_means_nothing_is_said() {
    let config = config(KUBEADM);
    assert_eq!(config.name, "node-1");
    assert_eq!(strings(&config.listen_client), ["https://127.0.0.1:2379", "https://192.0.2.10:2379"]);
    assert_eq!(strings(&config.listen_metrics), ["http://127.0.0.1:2381"]);
    assert_eq!(config.advertise_peer, ["https://192.0.2.10:2380"]);
    assert_eq!(config.progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.snapshot_count, Some(10_000));
    assert!(config.tls.is_some_and(|tls| tls.client_ca.is_some()));
    let expected = [
        "--feature-gates: taken, but it changes nothing here: feature gates switch parts of etcd's own code",
        "--peer-cert-file: taken, but it changes nothing here: a lone member has no peers",
        "--peer-client-cert-auth: taken, but it changes nothing here: a lone member has no peers",
        "--peer-key-file: taken, but it changes nothing here: a lone member has no peers",
        "--peer-trusted-ca-file: taken, but it changes nothing here: a lone member has no peers",
        "--snapshot-count=10000: counts once there are several members; a lone one keeps its last two log segments",
    ];
    assert_eq!(config.notices.infos, expected);
    assert_eq!(config.notices.warnings, [""; 0]);
}

#[test]
fn kubeadms_older_flags_and_a_joining_members_state_are_taken() {
    let mut line = KUBEADM.to_vec();
    line.retain(|flag| !flag.starts_with("--watch-progress") && !flag.starts_with("--feature-gates"));
    line.extend([
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=7s",
        "--initial-cluster-state=existing",
    ]);
    let config = config(&line);
    assert_eq!(config.progress_notify_interval, Duration::from_secs(7));
    assert!(config.is_existing_cluster);
    assert!(config.notices.infos.contains(
        &"--experimental-watch-progress-notify-interval: this is now called --watch-progress-notify-interval".into()
    ));
}

#[test]
fn an_old_name_and_its_new_one_are_one_setting() {
    let config = read(
        &["--watch-progress-notify-interval=3s"],
        &[("DQLITED_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "7s")],
    )
    .unwrap();
    assert_eq!(config.progress_notify_interval, Duration::from_secs(3));
}

#[test]
fn retention_is_read_as_etcd_reads_it() {
    let table: &[(&[&str], AutoCompaction)] = &[
        (&["--auto-compaction-retention=0"], AutoCompaction::Off),
        (&["--auto-compaction-retention=0s"], AutoCompaction::Off),
        (&["--auto-compaction-retention=8"], AutoCompaction::Periodic(Duration::from_secs(8 * 3600))),
        (&["--auto-compaction-retention=5m"], AutoCompaction::Periodic(Duration::from_secs(300))),
        (&["--auto-compaction-mode=revision"], AutoCompaction::Off),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"],
            AutoCompaction::Revisions(1000),
        ),
    ];
    for (line, expected) in table {
        assert_eq!(config(line).auto_compaction, *expected, "{line:?}");
    }
}

#[test]
fn values_that_etcd_bends_are_bent_alike() {
    assert_eq!(config(&["--max-concurrent-streams=0"]).max_concurrent_streams, u32::MAX);
    assert_eq!(
        config(&["--watch-progress-notify-interval=0"]).progress_notify_interval,
        Duration::from_secs(600)
    );
    let raised = config(&["--watch-progress-notify-interval=1ms"]);
    assert_eq!(raised.progress_notify_interval, Duration::from_millis(100));
    assert_eq!(raised.notices.infos, ["--watch-progress-notify-interval: raised to the least, 100ms"]);
    assert_eq!(config(&["--snapshot-count=0"]).snapshot_count, None);
    assert_eq!(config(&["--quota-backend-bytes=-1"]).quota_bytes, -1);
    assert!(config(&["--grpc-keepalive-interval=0"]).keepalive_interval.is_zero());
    for quiet in ["panic", "fatal"] {
        assert_eq!(config(&[&format!("--log-level={quiet}")]).log_level, tracing::Level::ERROR);
    }
}

#[test]
fn a_lone_member_may_be_named_in_the_initial_cluster_with_all_its_urls() {
    let config = config(&[
        "--name=a",
        "--initial-cluster=a=http://10.0.0.1:2380,a=http://10.0.0.2:2380",
        "--initial-advertise-peer-urls=http://10.0.0.2:2380,http://10.0.0.1:2380",
    ]);
    assert_eq!(config.advertise_peer, ["http://10.0.0.1:2380", "http://10.0.0.2:2380"]);
}

#[test]
fn what_nobody_can_reach_is_taken_with_a_line() {
    let config = config(&["--advertise-client-urls=http://0.0.0.0:2379"]);
    assert_eq!(
        config.notices.warnings,
        ["http://0.0.0.0:2379 is advertised, but nobody can connect to such an address"]
    );
}
