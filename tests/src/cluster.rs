//! Starts the real `dqlited` (or etcd beside it) on free loopback ports, and ends it as a test wants.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dqlited_proto::etcdserverpb::RangeRequest;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use crate::not_run::not_run;

/// How long a member may take until it answers, on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a member may take to stop after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Dqlited,
    /// The peer that answers are compared with.
    Etcd,
}

/// How a member is started.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The program.
    pub program: PathBuf,
    /// Its kind.
    pub kind: Kind,
    /// Its data folder; `None` makes a new one that goes with the member.
    pub data_dir: Option<PathBuf>,
    /// More flags.
    pub flags: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
}

impl MemberOptions {
    /// `dqlited` as built beside the tests.
    pub fn dqlited() -> MemberOptions {
        MemberOptions {
            program: dqlited_program(),
            kind: Kind::Dqlited,
            data_dir: None,
            flags: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// etcd from the folder of test programs.
    pub fn etcd() -> MemberOptions {
        MemberOptions { program: tool("etcd"), kind: Kind::Etcd, ..MemberOptions::dqlited() }
    }

    /// Adds a flag and its value.
    pub fn flag(mut self, name: &str, value: &str) -> MemberOptions {
        self.flags.push(format!("{name}={value}"));
        self
    }
}

/// The program under test: `DQLITED_BIN`, or the one that cargo built into the same target folder.
pub fn dqlited_program() -> PathBuf {
    if let Some(path) = std::env::var_os("DQLITED_BIN") {
        return path.into();
    }
    let mut folder = std::env::current_exe().expect("a running program has a path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join("dqlited")
}

/// A program that `tests/go/build` has built.
pub fn tool(name: &str) -> PathBuf {
    let cache = std::env::var_os("DQLITED_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/dqlited")
    });
    cache.join("bin").join(name)
}

/// True if the tool is there. If not, says that the test did not run; under `CI` that is a failure.
pub fn tool_is_there(name: &str) -> bool {
    let path = tool(name);
    if path.exists() {
        return true;
    }
    not_run(&format!("{} is missing, tests/go/build makes it", path.display()));
    false
}

/// A running member.
pub struct Member {
    /// Client URL.
    pub url: String,
    /// Client port.
    pub port: u16,
    /// Data folder.
    pub data_dir: PathBuf,
    /// What it wrote to stderr and stdout.
    pub log_path: PathBuf,
    options: MemberOptions,
    peer_port: u16,
    child: Option<Child>,
    _folder: tempfile::TempDir,
}

impl Member {
    /// Starts it and waits until it answers a linearizable read.
    pub async fn start(options: MemberOptions) -> Result<Member> {
        let folder = tempfile::tempdir()?;
        let data_dir = options.data_dir.clone().unwrap_or_else(|| folder.path().join("data"));
        let (port, peer_port) = (free_port()?, free_port()?);
        let mut member = Member {
            url: format!("http://127.0.0.1:{port}"),
            port,
            data_dir,
            log_path: folder.path().join("log"),
            options,
            peer_port,
            child: None,
            _folder: folder,
        };
        member.start_again().await?;
        Ok(member)
    }

    /// Starts the program on the same ports and data, and waits until it answers.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                bail!("the member ended with {status} before it answered; its log:\n{}", self.log());
            }
            // A connection of its own for each try: a refused one would cost the client's back-off.
            if let Ok(channel) = self.connect().await {
                let probe = RangeRequest { key: "probe".into(), ..Default::default() };
                if KvClient::new(channel).range(probe).await.is_ok() {
                    return Ok(());
                }
            }
            if begun.elapsed() > START_MAX {
                bail!("no answer within {START_MAX:?}; the member's log:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the program without waiting for an answer.
    pub fn spawn(&mut self) -> Result<()> {
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::options().create(true).append(true).open(&self.log_path)?;
        let mut command = Command::new(&self.options.program);
        if self.options.kind == Kind::Dqlited {
            command.arg("start");
        }
        command.arg("--data-dir").arg(&self.data_dir);
        command.args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}")]);
        command.args(&self.options.flags);
        // Variables that begin so are settings to the program; those of this environment belong to the tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DQLITED_") {
                command.env_remove(name);
            }
        }
        command.envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.options.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone())?
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        Ok(endpoint.connect().await?)
    }

    /// The process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the member does not run")?.id())
    }

    /// SIGKILL, and wait for the end.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and wait for a clean end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait_for_end(STOP_MAX).await
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_for_end(&mut self, bound: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                self.child = None;
                return Ok(status);
            }
            if begun.elapsed() > bound {
                bail!("the member runs on after {bound:?}; its log:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal to this process.
    #[allow(unsafe_code)]
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        // SAFETY: kill takes two integers; the child is ours and not yet waited for, so its id is not reused.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(())
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("the member does not run"),
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("VmRSS")?.parse::<u64>()? * 1024)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Nothing to report to: a test that cares has stopped it before.
        let _ = self.kill();
        if std::thread::panicking() {
            eprintln!("log of the member on port {}:\n{}", self.port, self.log());
        }
    }
}

/// A loopback port that was free a moment ago. Ports come from below the range that the kernel hands out to clients, so
/// that none is taken between this call and the server's bind.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const LOW: u16 = 12_000;
    const SPAN: u16 = 18_000;
    let start = (std::process::id() as u16).wrapping_mul(37) % SPAN;
    for _ in 0..1000 {
        let port = LOW + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % SPAN;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port among a thousand tried")
}

/// Bytes of all files below a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
