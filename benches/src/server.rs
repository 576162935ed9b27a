//! Starts one server on free loopback ports and reads what it costs from `/proc` and the block device.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dqlited_proto::etcdserverpb::RangeRequest;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The peer.
    Etcd,
    /// Ours.
    Dqlited,
}

/// A running server with a fresh data folder.
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// From exec to the first answered linearizable read.
    pub started_in: Duration,
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

/// What a server has used since its start.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system CPU time, seconds.
    pub cpu_seconds: f64,
    /// Bytes that the block device under the data folder was given, by anyone: keep the machine quiet.
    pub device_bytes: f64,
}

impl Server {
    /// Starts the program on a new folder and waits until it answers a linearizable read.
    pub async fn start(kind: Kind, program: &Path, folder: &Path) -> Result<Server> {
        let folder = tempfile::tempdir_in(folder)?;
        let (client, peer) = (free_port()?, free_port()?);
        let url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new(program);
        if kind == Kind::Dqlited {
            command.arg("start");
        }
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}"), "--log-level", "error"]);
        command.args(["--quota-backend-bytes", "8589934592"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut server = Server { kind, started_in: Duration::ZERO, child, url, folder };
        server.wait_until_it_answers(begun).await?;
        server.started_in = begun.elapsed();
        Ok(server)
    }

    async fn wait_until_it_answers(&mut self, begun: Instant) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{:?} ended with {status} before it answered", self.kind);
            }
            // A connection of its own for each try: a refused one would cost the client's back-off.
            if let Ok(channel) = Endpoint::from_shared(self.url.clone())?.connect().await {
                let probe = RangeRequest { key: "probe".into(), ..Default::default() };
                if KvClient::new(channel).range(probe).await.is_ok() {
                    return Ok(());
                }
            }
            if begun.elapsed() > START_MAX {
                bail!("{:?} does not answer after {START_MAX:?}", self.kind);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// New connections, one each.
    pub async fn channels(&self, count: usize) -> Result<Vec<Channel>> {
        let endpoint = Endpoint::from_shared(self.url.clone())?
            .tcp_nodelay(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields are counted behind the command's closing bracket: 12 and 13 are user and system ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc stat")?.1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let device = std::fs::metadata(self.folder.path())?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let block = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
        let sectors: f64 = block.split_whitespace().nth(6).context("block device's stat")?.parse()?;
        Ok(Usage { cpu_seconds: ticks / 100.0, device_bytes: sectors * 512.0 })
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib * 1024.0)
    }

    /// Stops it and removes its data.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A row that failed leaves its server to this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
