//! Stock etcdctl against the real program: what an operator types works and says what it says on etcd.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dqlited_tests::cluster::{Member, MemberOptions, tool, tool_is_there};
use serde_json::Value;

/// How long one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(20);

fn command(member: &Member, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("etcdctl"));
    command.args(["--endpoints", &member.url, "--command-timeout", "15s"]).args(arguments);
    command
}

fn run_with_input(member: &Member, arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = command(member, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// Standard output of a command that must succeed.
fn ctl(member: &Member, arguments: &[&str]) -> Result<String> {
    let output = run_with_input(member, arguments, "")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "etcdctl {arguments:?}: {out}{err}\n{}", member.log());
    Ok(out.into_owned())
}

/// Standard error of a command that must fail.
fn ctl_fails(member: &Member, arguments: &[&str]) -> Result<String> {
    let output = run_with_input(member, arguments, "")?;
    ensure!(!output.status.success(), "etcdctl {arguments:?} succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn json(member: &Member, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&ctl(member, &[arguments, &["-w", "json"]].concat())?)?)
}

/// A command that runs on, read line by line.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Result<Running> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("stdout")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running { child, lines })
    }

    fn lines(&self, count: usize) -> Result<Vec<String>> {
        (0..count).map(|_| Ok(self.lines.recv_timeout(COMMAND_MAX)?)).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Commands whose output is the same on every fresh member, with their input.
const SCRIPT: &[(&[&str], &str)] = &[
    (&["put", "a", "1"], ""),
    (&["put", "b", "2"], ""),
    (&["put", "a", "3", "--prev-kv"], ""),
    (&["put", "c", "4"], ""),
    (&["get", "a"], ""),
    (&["get", "missing"], ""),
    (&["get", "a", "--print-value-only"], ""),
    (&["get", "a", "--rev=2"], ""),
    (&["get", "--prefix", ""], ""),
    (&["get", "a", "c"], ""),
    (&["get", "--from-key", "b", "--keys-only"], ""),
    (&["get", "--prefix", "", "--sort-by=VALUE", "--order=DESCEND", "--limit=2"], ""),
    (&["get", "--prefix", "", "--count-only", "-w", "fields"], ""),
    (&["put", "missing", "--ignore-value"], ""),
    (&["put", "leased", "v", "--lease=1234"], ""),
    (&["txn"], "value(\"a\") = \"3\"\n\nput d \"from txn\"\nget d\n\nget a\n\n"),
    (&["txn"], "version(\"a\") > \"9\"\n\nput e 1\n\nget a\ndel b\n\n"),
    (&["txn"], "mod(\"a\") > \"1\"\n\nput e 1\nput e 2\n\n\n"),
    (&["del", "c", "--prev-kv"], ""),
    (&["del", "c"], ""),
    (&["del", "--prefix", "d"], ""),
    (&["get", "a", "--rev=1000"], ""),
    (&["compaction", "5"], ""),
    (&["compaction", "5"], ""),
    (&["compaction", "1000"], ""),
    (&["compaction", "6", "--physical"], ""),
    (&["get", "a", "--rev=3"], ""),
    (&["alarm", "list"], ""),
    (&["lease", "revoke", "77"], ""),
    (&["lease", "timetolive", "77"], ""),
    (&["lease", "keep-alive", "77", "--once"], ""),
    (&["lease", "list"], ""),
    (&["user", "list"], ""),
    (&["get", ""], ""),
    (&["endpoint", "hashkv", "-w", "fields"], ""),
];

/// Lines that name the member, its address or its cluster, or how long something took.
fn masked(member: &Member, text: &str) -> String {
    let is_own = |line: &&str| {
        ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\"", "\"Term\"", "ClusterID", "MemberID"]
            .iter()
            .any(|name| line.trim_start().starts_with(name))
    };
    let lines: Vec<_> = text.lines().filter(|line| !is_own(line)).collect();
    // The client's own log lines carry times; its last line says what it heard.
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.starts_with('{')).collect();
    lines.join("\n").replace(&member.url, "URL")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_commands_prints_what_it_prints_on_etcd() -> Result<()> {
    if !tool_is_there("etcdctl") || !tool_is_there("etcd") {
        return Ok(());
    }
    let ours = Member::start(MemberOptions::dqlited()).await?;
    let etcd = Member::start(MemberOptions::etcd()).await?;
    for (arguments, input) in SCRIPT {
        // Users are not served yet: etcd answers that there are none.
        let is_unserved = arguments[0] == "user";
        let [ours, etcds] = [&ours, &etcd].map(|member| -> Result<_> {
            let output = run_with_input(member, arguments, input)?;
            let text = |bytes: &[u8]| masked(member, &String::from_utf8_lossy(bytes));
            Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
        });
        let (ours, etcds) = (ours?, etcds?);
        if is_unserved {
            ensure!(ours.0 == Some(1) && ours.2.contains("Unimplemented"), "{ours:?}");
            continue;
        }
        ensure!(ours == etcds, "etcdctl {arguments:?}:\nours  {ours:?}\netcd's {etcds:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_and_member_commands_name_this_member() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    ctl(&member, &["put", "a", "1"])?;
    let status = json(&member, &["endpoint", "status"])?;
    let status = &status[0]["Status"];
    ensure!(status["version"] == "3.7.3" && status["storageVersion"] == "3.7.0", "{status}");
    ensure!(status["leader"] == status["header"]["member_id"] && status["leader"].is_u64(), "{status}");
    ensure!(status["header"]["revision"] == 2, "{status}");
    let number = |name: &str| status[name].as_i64().with_context(|| format!("{name} in {status}"));
    ensure!(number("dbSize")? >= number("dbSizeInUse")? && number("dbSizeInUse")? > 0, "{status}");
    ensure!(number("dbSizeQuota")? == 2 << 30, "{status}");
    ensure!(
        number("raftIndex")? >= number("raftAppliedIndex")? && number("raftAppliedIndex")? > 0,
        "{status}"
    );
    ensure!(status.get("errors").is_none(), "{status}");

    let health = json(&member, &["endpoint", "health"])?;
    ensure!(health[0]["health"] == true, "{health}");
    let hash = json(&member, &["endpoint", "hashkv"])?;
    ensure!(hash[0]["HashKV"]["hash_revision"] == 2 && hash[0]["HashKV"]["hash"].is_u64(), "{hash}");
    let list = json(&member, &["member", "list"])?;
    let members = list["members"].as_array().context("members")?;
    ensure!(members.len() == 1 && members[0]["ID"] == status["leader"], "{list}");
    ensure!(members[0]["name"] == "default", "{list}");
    ensure!(members[0]["clientURLs"][0] == member.url.as_str(), "{list}");
    ensure!(ctl(&member, &["member", "list"])?.contains("started"));
    // Changes of membership say that they are not served.
    let refused = ctl_fails(&member, &["member", "add", "b", "--peer-urls=http://127.0.0.1:1"])?;
    ensure!(refused.contains("Unimplemented"), "{refused}");
    // Leadership moves to itself.
    let id = format!("{:x}", status["leader"].as_u64().context("leader")?);
    ensure!(ctl(&member, &["move-leader", &id])?.contains("Leadership transferred"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_listed_and_disarmed_and_defragmentation_ends() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    // Room for the tables and some 100 values of 20 kB.
    let member = Member::start(MemberOptions::dqlited().flag("--quota-backend-bytes", "2000000")).await?;
    let value = "x".repeat(20_000);
    let mut refused = None;
    for number in 0..400 {
        let output = run_with_input(&member, &["put", &format!("key/{number}"), &value], "")?;
        if !output.status.success() {
            refused = Some(String::from_utf8_lossy(&output.stderr).into_owned());
            break;
        }
    }
    let refused = refused.context("8 MB within a quota of 2 MB")?;
    ensure!(refused.contains("mvcc: database space exceeded"), "{refused}");
    ensure!(ctl(&member, &["alarm", "list"])?.contains("alarm:NOSPACE"));
    let status = json(&member, &["endpoint", "status"])?;
    ensure!(
        status[0]["Status"]["errors"][0].as_str().is_some_and(|text| text.contains("NOSPACE")),
        "{status}"
    );
    ensure!(ctl_fails(&member, &["endpoint", "health"])?.contains("NOSPACE"));

    ctl(&member, &["del", "--prefix", "key/"])?;
    let revision = json(&member, &["get", "a"])?["header"]["revision"].to_string();
    ctl(&member, &["compaction", &revision, "--physical"])?;
    ensure!(ctl(&member, &["defrag"])?.contains("Finished defragmenting"));
    // The alarm outlives the space.
    ensure!(ctl_fails(&member, &["put", "a", "1"])?.contains("database space exceeded"));
    ensure!(ctl(&member, &["alarm", "disarm"])?.contains("alarm:NOSPACE"));
    ensure!(ctl(&member, &["alarm", "list"])?.is_empty());
    ctl(&member, &["put", "a", "1"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_the_past_and_the_present() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    ctl(&member, &["put", "a", "1"])?;
    ctl(&member, &["del", "a"])?;
    let watch = Running::start(command(&member, &["watch", "--prefix", "a", "--rev=1", "--prev-kv"]))?;
    ensure!(watch.lines(3)? == ["PUT", "a", "1"]);
    let deletion = watch.lines(5)?;
    ensure!(deletion == ["DELETE", "a", "1", "a", ""], "{deletion:?}");
    ctl(&member, &["put", "ab", "2"])?;
    ensure!(watch.lines(3)? == ["PUT", "ab", "2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_granted_kept_listed_and_revoked_with_their_keys() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    let granted = ctl(&member, &["lease", "grant", "600"])?;
    let id = granted.split(' ').nth(1).context("lease ID")?.to_owned();
    ensure!(granted.contains("granted with TTL(600s)"), "{granted}");
    ctl(&member, &["put", "a", "1", &format!("--lease={id}")])?;
    ensure!(ctl(&member, &["lease", "list"])?.contains(&id));
    let left = ctl(&member, &["lease", "timetolive", &id, "--keys"])?;
    ensure!(
        left.contains("granted with TTL(600s), remaining(") && left.contains("attached keys([a])"),
        "{left}"
    );
    ensure!(ctl(&member, &["lease", "keep-alive", "--once", &id])?.contains("keepalived with TTL(600)"));
    ensure!(ctl(&member, &["lease", "revoke", &id])?.contains("revoked"));
    ensure!(ctl(&member, &["get", "a"])?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_saved_checked_and_restored() -> Result<()> {
    if !tool_is_there("etcdctl") || !tool_is_there("etcdutl") || !tool_is_there("etcd") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    for number in 0..50 {
        ctl(&member, &["put", &format!("key/{number}"), &"v".repeat(number * 100)])?;
    }
    ctl(&member, &["del", "key/7"])?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let saved = ctl(&member, &["snapshot", "save", &path("backup.db")])?;
    ensure!(saved.contains("Server version 3.7.0"), "{saved}");
    let etcdutl = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(tool("etcdutl")).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let status: Value =
        serde_json::from_str(&etcdutl(&["snapshot", "status", &path("backup.db"), "-w", "json"])?)?;
    ensure!(status["revision"] == 52 && status["version"] == "3.7.0", "{status}");
    // The sha256 at its end is checked here.
    etcdutl(&["snapshot", "restore", &path("backup.db"), "--data-dir", &path("restored")])?;
    let mut options = MemberOptions::etcd();
    options.data_dir = Some(path("restored").into());
    let restored = Member::start(options).await?;
    let of = |member: &Member| -> Result<_> {
        let hash = json(member, &["endpoint", "hashkv"])?[0]["HashKV"].clone();
        let rows = json(member, &["get", "--prefix", ""])?["kvs"].clone();
        Ok((hash["hash"].clone(), hash["hash_revision"].clone(), rows))
    };
    ensure!(of(&member)? == of(&restored)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_of_etcdctl_exclude_one_another() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    ensure!(ctl(&member, &["lock", "l", "--", "echo", "held"])?.contains("held"));
    let holder = Running::start(command(&member, &["lock", "l"]))?;
    ensure!(holder.lines(1)?[0].starts_with("l/"));
    let waiter = Running::start(command(&member, &["lock", "l"]))?;
    if let Ok(line) = waiter.lines.recv_timeout(Duration::from_millis(500)) {
        bail!("a second holder: {line}");
    }
    // The client lets go on SIGKILL only when its lease (60 s) ends, so its key is taken away instead.
    let keys = ctl(&member, &["get", "--prefix", "l/", "--keys-only", "--sort-by=CREATE"])?;
    let first = keys.lines().next().context("the holder's key")?;
    ctl(&member, &["del", first])?;
    ensure!(waiter.lines(1)?[0].starts_with("l/"));

    let leader = Running::start(command(&member, &["elect", "e", "one"]))?;
    ensure!(leader.lines(2)?[1] == "one");
    let listener = Running::start(command(&member, &["elect", "-l", "e"]))?;
    ensure!(listener.lines(2)?[1] == "one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of load: tests/nightly runs it"]
async fn check_perf_passes() -> Result<()> {
    if !tool_is_there("etcdctl") {
        return Ok(());
    }
    let member = Member::start(MemberOptions::dqlited()).await?;
    let mut perf = command(&member, &["check", "perf", "--load=s"]);
    let output = perf.arg("--command-timeout=120s").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("PASS: Throughput is"), "{text}");
    Ok(())
}
