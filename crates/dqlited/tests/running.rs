//! A running member as its operator sees it: greeting, status, listeners, the folder's lock, the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// How long the program may take for anything here, on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dqlited"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DQLITED_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A started member; killed when dropped.
struct Running {
    child: Child,
    /// What it printed when it was up.
    greeting: String,
}

impl Running {
    /// Starts it and waits for its greeting.
    fn start(flags: &[String]) -> Running {
        let mut command = program();
        command.arg("start").args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::greeted(command.spawn().unwrap())
    }

    /// Waits for the greeting of a process whose outputs are piped.
    fn greeted(mut child: Child) -> Running {
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        // The last line of the greeting; the end of the output if the program ended.
        while !greeting.contains("\n  dqlited status") {
            if lines.read_line(&mut greeting).unwrap() == 0 {
                let output = child.wait_with_output().unwrap();
                panic!("{}: {greeting}{}", output.status, String::from_utf8_lossy(&output.stderr));
            }
        }
        Running { child, greeting }
    }

    /// The value of a line of the greeting.
    fn line(&self, what: &str) -> String {
        self.greeting
            .lines()
            .find_map(|line| line.trim().strip_prefix(what))
            .unwrap_or_else(|| panic!("no {what} in {}", self.greeting))
            .trim()
            .to_string()
    }

    #[allow(unsafe_code)]
    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes two integers; the child is ours and not yet waited for, so its id is not reused.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for its end and gives what it wrote to stderr.
    fn end(mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < BOUND, "the program runs on");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }

    fn stop(self, signal: i32) -> (ExitStatus, String) {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flags(data_dir: &Path, url: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
    ]
}

fn status(arguments: &[&str]) -> Output {
    program().arg("status").args(arguments).output().unwrap()
}

fn status_json(arguments: &[&str]) -> serde_json::Value {
    let output = status(&[&["-o", "json"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(output.status.success(), "{error}");
    let mut members: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(members.len(), 1);
    members.remove(0)
}

#[test]
fn a_fresh_member_says_where_it_is_and_ctrl_c_stops_it_cleanly_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let member = Running::start(&flags(&data, "http://127.0.0.1:0"));
        // etcd's ids for the default flags.
        assert!(
            member.greeting.contains("member 8e9e05c52164694d (default) of cluster cdf818194e3a8c32"),
            "{}",
            member.greeting
        );
        let endpoint = member.line("clients");
        assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
        assert_eq!(member.line("data"), data.display().to_string());
        let begun = Instant::now();
        let (status, log) = member.stop(signal);
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "stopping an idle member takes {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_second_signal_ends_a_member_that_waits_for_a_call() {
    let dir = tempfile::tempdir().unwrap();
    let member = Running::start(&flags(&dir.path().join("data"), "http://127.0.0.1:0"));
    let address = member.line("clients").trim_start_matches("http://").to_string();
    // Half of a request: the member waits for the rest as long as its grace allows.
    let mut half = std::net::TcpStream::connect(&address).unwrap();
    std::io::Write::write_all(&mut half, b"GET /health HTTP/1.1\r\nHost: x\r\n").unwrap();
    // Its connection was accepted once one that came later is answered.
    assert_eq!(status_json(&["--endpoints", &format!("http://{address}")])["name"], "default");
    member.signal(libc::SIGTERM);
    let begun = Instant::now();
    while std::net::TcpStream::connect(&address).is_ok() {
        assert!(begun.elapsed() < BOUND, "the member listens on");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (status, log) = member.stop(libc::SIGINT);
    assert_eq!(status.code(), Some(1), "{log}");
}

#[test]
fn status_shows_what_the_member_says_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let member = Running::start(&flags(&dir.path().join("data"), "http://127.0.0.1:0"));
    let endpoint = member.line("clients");
    let found = status_json(&["--endpoints", &endpoint]);
    let number = |field: &str| found[field].as_u64().unwrap_or_else(|| panic!("{field} in {found}"));
    assert_eq!(found["name"], "default");
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(found["member_id"], "8e9e05c52164694d");
    assert_eq!(found["cluster_id"], "cdf818194e3a8c32");
    assert_eq!(found["leader"], found["member_id"]);
    assert_eq!(number("revision"), 1, "an untouched store is at revision 1, as in etcd");
    assert!(number("term") > 0 && number("db_size_bytes") > 0 && number("db_in_use_bytes") > 0, "{found}");
    assert!(number("durable_index") <= number("visible_index"), "{found}");
    assert!(number("visible_index") <= number("applied_index"), "{found}");
    assert!(number("applied_index") <= number("committed_index"), "{found}");
    assert!(found["uptime_seconds"].as_f64().is_some_and(|seconds| seconds < BOUND.as_secs_f64()), "{found}");
    assert!(found["compact_revision"].is_i64() || found["compact_revision"].is_u64(), "{found}");

    let table = String::from_utf8(status(&["--endpoints", &endpoint]).stdout).unwrap();
    for part in ["member id         8e9e05c52164694d", "revision          1", "visible index", "uptime"] {
        assert!(table.contains(part), "{table}");
    }
}

/// A read-only mount of a folder over itself, taken away when dropped.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    /// `None`, with a line, without root: only root mounts, and for root alone permissions are no bar. Under `CI` that is a
    /// failure.
    #[allow(unsafe_code)]
    fn mount(folder: &'a Path) -> Option<ReadOnly<'a>> {
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("CI").is_none(), "the read-only mount needs root");
            // Not `eprintln!`: of a test that passes the harness shows nothing that went through the macros.
            std::io::stderr().write_all(b"not run: a read-only mount needs root\n").unwrap();
            return None;
        }
        let mount = |arguments: &[&str]| {
            let done = Command::new("mount").args(arguments).arg(folder).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        mount(&["--bind", folder.to_str().unwrap()]);
        let mounted = ReadOnly(folder);
        mount(&["-o", "remount,bind,ro"]);
        Some(mounted)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_folder_that_is_read_only_is_refused_with_what_is_wrong_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (used, empty) = (dir.path().join("used"), dir.path().join("empty"));
    let (status, log) = {
        let member = Running::start(&flags(&used, "http://127.0.0.1:0"));
        member.signal(libc::SIGTERM);
        member.end()
    };
    assert!(status.success(), "{log}");
    std::fs::create_dir(&empty).unwrap();
    for data in [&used, &empty, &empty.join("missing")] {
        let below = if data.exists() { data } else { &empty };
        let Some(_mounted) = ReadOnly::mount(below) else { return };
        let output = program().arg("start").args(flags(data, "http://127.0.0.1:0")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let told = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        for part in [data.to_str().unwrap(), "read-only", "--data-dir"] {
            assert!(told.to_lowercase().contains(&part.to_lowercase()), "no {part:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
        assert!(output.stdout.is_empty(), "it greeted");
    }
    // Writable again, nothing is lost.
    let _member = Running::start(&flags(&used, "http://127.0.0.1:0"));
}

#[test]
fn the_limit_of_open_files_is_raised_to_the_hard_one_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let lowered = Command::new("sh")
        .args(["-c", "ulimit -Sn 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dqlited"), "start"])
        .args(flags(&dir.path().join("data"), "http://127.0.0.1:0"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let member = Running::greeted(lowered);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", member.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_ne!(words[3], "256", "{line}");
    assert_eq!(words[3], words[4], "{line}");
}

#[test]
fn a_folder_in_use_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _member = Running::start(&flags(&data, "http://127.0.0.1:0"));
    let second = program().arg("start").args(flags(&data, "http://127.0.0.1:0")).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{error}");
    let told = error.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(told.contains(&data.display().to_string()), "{error}");
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_goes_with_the_member() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("member.sock");
    let url = format!("unix://{}", socket.display());
    // What a killed member leaves behind does not stand in the way.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let member = Running::start(&flags(&dir.path().join("data"), &url));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(status_json(&["--endpoints", &url])["name"], "default");
    let (status, log) = member.stop(libc::SIGTERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!socket.exists());
}

/// Writes `ca.crt`, `server.crt`, `server.key`, `peer.crt`, `peer.key` as kubeadm lays them out.
fn kubeadm_pki(dir: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
    for name in ["server", "peer"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_string(), "127.0.0.1".to_string()]).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn kubeadms_static_pod_starts_and_serves_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    kubeadm_pki(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let flags: Vec<String> = [
        "--advertise-client-urls=https://127.0.0.1:2379".to_string(),
        format!("--cert-file={}", path("server.crt")),
        "--client-cert-auth=true".into(),
        format!("--data-dir={}", path("etcd")),
        "--feature-gates=InitialCorruptCheck=true".into(),
        "--initial-advertise-peer-urls=https://127.0.0.1:2380".into(),
        "--initial-cluster=node-1=https://127.0.0.1:2380".into(),
        format!("--key-file={}", path("server.key")),
        "--listen-client-urls=https://127.0.0.1:0".into(),
        "--listen-metrics-urls=http://127.0.0.1:0".into(),
        "--listen-peer-urls=https://127.0.0.1:2380".into(),
        "--name=node-1".into(),
        format!("--peer-cert-file={}", path("peer.crt")),
        "--peer-client-cert-auth=true".into(),
        format!("--peer-key-file={}", path("peer.key")),
        format!("--peer-trusted-ca-file={}", path("ca.crt")),
        "--snapshot-count=10000".into(),
        format!("--trusted-ca-file={}", path("ca.crt")),
        "--watch-progress-notify-interval=5s".into(),
    ]
    .into();
    let member = Running::start(&flags);
    let endpoint = member.line("clients");
    let tls = |arguments: &[&str]| {
        let (ca, cert, key) = (path("ca.crt"), path("peer.crt"), path("peer.key"));
        let mut all = vec!["--endpoints", endpoint.as_str(), "--cacert", &ca];
        if arguments.is_empty() {
            all.extend(["--cert", &cert, "--key", &key]);
        }
        status(&all)
    };
    let shown = tls(&[]);
    let text = String::from_utf8_lossy(&shown.stdout).to_string();
    assert!(
        shown.status.success() && text.contains("node-1"),
        "{text}{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    assert_eq!(tls(&["without a certificate"]).status.code(), Some(1));

    // What kubelet's probes ask, without TLS.
    let metrics = member.line("metrics");
    let address = metrics.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let (status, log) = member.stop(libc::SIGTERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("--peer-cert-file: taken, but it changes nothing here"), "{log}");
}

#[test]
fn a_member_that_is_killed_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let data: PathBuf = dir.path().join("data");
    for _ in 0..3 {
        let member = Running::start(&flags(&data, "http://127.0.0.1:0"));
        let endpoint = member.line("clients");
        assert_eq!(status_json(&["--endpoints", &endpoint])["revision"], 1);
        let (status, _) = member.stop(libc::SIGKILL);
        assert_eq!(status.code(), None);
    }
}
