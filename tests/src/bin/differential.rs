//! Sends the same seeded requests to etcd and to dqlited and compares every answer, error and HashKV.
//!
//! Exit status: 0 no difference and full coverage, 1 otherwise. The seed is printed; `--seed` replays it.

use anyhow::{Context, Result};
use clap::Parser;
use dqlited_tests::cluster::{Member, MemberOptions};
use dqlited_tests::differential::call::Target;
use dqlited_tests::differential::run;

/// Starts etcd (from the folder of test programs) and dqlited (`DQLITED_BIN`, or the one built beside this program) on
/// fresh data and compares them.
#[derive(Parser, Debug)]
struct Arguments {
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

/// Of etcd's log, when it has ended in the middle of a run.
const LOG_LINES: usize = 40;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("differential run: seed {seed}, {} requests", arguments.requests);
    let etcd_member = Member::start(MemberOptions::etcd()).await.context("etcd")?;
    let dqlited_member = Member::start(MemberOptions::dqlited()).await.context("dqlited")?;
    let etcd = Target::new(etcd_member.connect().await?).await?;
    let dqlited = Target::new(dqlited_member.connect().await?).await?;
    let extent = run::Extent { requests: arguments.requests, differences_max: arguments.differences };
    let outcome = run::run(&etcd, &dqlited, seed, extent).await;
    let outcome = outcome.with_context(|| {
        let log = etcd_member.log();
        let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
        format!("etcd's last log lines, the last first:\n{}", lines.join("\n"))
    })?;
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
    let reached = outcome.coverage.reached();
    for row in &reached {
        println!("hit, and listed as out of reach: {row}");
    }
    println!("coverage: {}", outcome.coverage.summary());
    println!(
        "differential run: {} calls, {} differences, {} rows not hit",
        outcome.calls,
        outcome.differences.len(),
        missing.len()
    );
    // The servers end before the process does: exit runs no destructors.
    drop((etcd_member, dqlited_member));
    let is_red = !outcome.differences.is_empty() || !missing.is_empty() || !reached.is_empty();
    std::process::exit(i32::from(is_red));
}
