//! Sends the same seeded requests to etcd and to dqlited and compares every answer, error and HashKV.
//!
//! Exit status: 0 no difference and full coverage, 1 otherwise. The seed is printed; `--seed` replays it.

use anyhow::{Context, Result};
use clap::Parser;
use dqlited_tests::differential::call::Target;
use dqlited_tests::differential::run;
use tonic::transport::Endpoint;

/// Compares two running, fresh servers.
#[derive(Parser, Debug)]
struct Arguments {
    /// etcd's client URL.
    #[arg(long)]
    etcd: String,
    /// dqlited's client URL.
    #[arg(long)]
    dqlited: String,
    /// Seed; by default from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Requests after the fixed ones.
    #[arg(long, default_value_t = 2000)]
    requests: u64,
    /// Stop after so many differences.
    #[arg(long, default_value_t = 5)]
    differences: usize,
    /// Print every row of the coverage.
    #[arg(long)]
    coverage: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("differential run: seed {seed}, {} requests", arguments.requests);
    let etcd = connect(&arguments.etcd).await.context("etcd")?;
    let dqlited = connect(&arguments.dqlited).await.context("dqlited")?;
    let extent = run::Extent { requests: arguments.requests, differences_max: arguments.differences };
    let outcome = run::run(&etcd, &dqlited, seed, extent).await?;
    if arguments.coverage {
        outcome.coverage.print();
    }
    for difference in &outcome.differences {
        println!("{difference}");
    }
    let missing = outcome.coverage.missing();
    for row in &missing {
        println!("not hit: {row}");
    }
    println!(
        "differential run: {} calls, {} differences, {} rows not hit",
        outcome.calls,
        outcome.differences.len(),
        missing.len()
    );
    std::process::exit(i32::from(!outcome.differences.is_empty() || !missing.is_empty()));
}

async fn connect(url: &str) -> Result<Target> {
    let channel = Endpoint::from_shared(url.to_string())?.connect().await?;
    Ok(Target::new(channel).await?)
}
