//! Measures `dqlited` beside etcd: the same client, the same file system, real fsync, alternating rounds.
//!
//! `cargo run --release -p dqlited-benches -- --etcd PATH --dqlited PATH` prints one table of medians, ranges and
//! ratios. Absolute times on a shared machine are noise; the ratio of two servers measured in one run holds.

mod load;
mod report;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::report::Report;
use crate::server::{Kind, Server};

/// Measures dqlited beside etcd and prints medians, ranges and ratios.
#[derive(Parser, Debug)]
struct Arguments {
    /// The etcd program.
    #[arg(long)]
    etcd: PathBuf,
    /// The dqlited program (a release build).
    #[arg(long)]
    dqlited: PathBuf,
    /// Folder for the data; both servers use the same file system. Default: a new one beside the working directory.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Alternating rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load for each row and server in each round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Rows to measure: put, txn, get, list, watch, rss, start. Default: all.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Measure this server alone, for a profile.
    #[arg(long)]
    only: Option<Kind>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let wanted = |row: &str| arguments.rows.is_empty() || arguments.rows.iter().any(|r| r == row);
    let folder = match &arguments.data {
        Some(path) => tempfile::tempdir_in(path),
        None => tempfile::tempdir_in("."),
    }
    .context("folder for the data")?;
    let load_time = Duration::from_secs(arguments.seconds);
    let mut report = Report::default();
    for round in 0..arguments.rounds {
        // The order alternates, so that neither server always has the warmer machine.
        let order = if round % 2 == 0 { [Kind::Etcd, Kind::Dqlited] } else { [Kind::Dqlited, Kind::Etcd] };
        for kind in order.into_iter().filter(|kind| arguments.only.is_none_or(|only| only == *kind)) {
            let program = match kind {
                Kind::Etcd => &arguments.etcd,
                Kind::Dqlited => &arguments.dqlited,
            };
            eprintln!("round {} of {}: {kind:?}", round + 1, arguments.rounds);
            let start = || Server::start(kind, program, folder.path());
            if wanted("put") || wanted("txn") || wanted("get") || wanted("watch") {
                let server = start().await?;
                if wanted("put") {
                    load::puts(&server, load_time, &mut report).await.context("put")?;
                }
                if wanted("txn") {
                    load::txns(&server, load_time, &mut report).await.context("txn")?;
                }
                if wanted("get") {
                    load::gets(&server, load_time, &mut report).await.context("get")?;
                }
                if wanted("watch") {
                    load::watches(&server, load_time, &mut report).await.context("watch")?;
                }
                server.stop().await?;
            }
            if wanted("list") {
                let server = start().await?;
                load::lists(&server, load_time, &mut report).await.context("list")?;
                server.stop().await?;
            }
            if wanted("rss") {
                let server = start().await?;
                load::fill(&server, &mut report).await.context("rss")?;
                server.stop().await?;
            }
            if wanted("start") {
                for _ in 0..20usize.div_ceil(arguments.rounds) {
                    let server = start().await?;
                    report.add(
                        "start with a fresh directory",
                        "ms",
                        kind,
                        server.started_in.as_secs_f64() * 1e3,
                    );
                    server.stop().await?;
                }
            }
        }
    }
    report.print();
    Ok(())
}
