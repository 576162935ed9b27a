//! Killing at any moment loses no acknowledged write: by SIGKILL under load, and by a power cut.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dqlited_tests::acknowledged::Load;
use dqlited_tests::cluster::{Member, MemberOptions};
use dqlited_tests::not_run::not_run;
use dqlited_tests::power::{self, Disk};

/// Rounds of each test; `DURABILITY_ROUNDS` raises it for a night.
const ROUNDS: usize = 5;

fn rounds() -> usize {
    std::env::var("DURABILITY_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// `DURABILITY_SEED` replays a run; each round is cut after another number of acknowledged writes.
fn seed() -> u64 {
    let seed = std::env::var("DURABILITY_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("DURABILITY_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_under_load_loses_no_acknowledged_write() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut member = Member::start(MemberOptions::dqlited()).await?;
    let mut ledgers = Vec::new();
    for round in 0..rounds() {
        let load = Load::start(&member, round).await?;
        load.acknowledged(random.u64(1..3000)).await?;
        member.kill()?;
        ledgers.push(load.finish().await?);
        member.start_again().await?;
        for ledger in &ledgers {
            ledger.check(&member).await?;
        }
    }
    let writes: u64 = ledgers.iter().map(|ledger| ledger.writes).sum();
    println!("{writes} acknowledged writes, {} kills, all there", ledgers.len());
    Ok(())
}

/// One data folder through several cuts. In even rounds the process is killed first, in odd ones it lives on for a
/// moment on a disk that fails, and must end by itself.
async fn power_cuts(rounds: usize, seed: u64) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disk = Disk::new(512)?;
    let mut options = MemberOptions::dqlited();
    options.data_dir = Some(disk.path().join("data"));
    let mut member = Member::start(options).await?;
    let mut ledgers = Vec::new();
    for round in 0..rounds {
        let load = Load::start(&member, round).await?;
        load.acknowledged(random.u64(500..3000)).await?;
        if round % 2 == 0 {
            // The kill comes first, the cut right behind: nothing is written back in between.
            member.kill()?;
            disk.cut()?;
        } else {
            disk.cut()?;
            let status = member.wait_for_end(Duration::from_secs(20)).await?;
            ensure!(!status.success(), "the member ended with status 0 on a disk that fails");
            ensure!(member.log().contains("error"), "no message says why it ended: {}", member.log());
        }
        ledgers.push(load.finish().await?);
        disk.restore()?;
        member.start_again().await?;
        for (number, ledger) in ledgers.iter().enumerate() {
            if let Err(lost) = ledger.check(&member).await {
                bail!("after cut {round}, written before cut {number}: {lost:#}");
            }
        }
    }
    member.kill()?;
    Ok(ledgers.iter().map(|ledger| ledger.writes).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_no_acknowledged_write() -> Result<()> {
    if !power::may_cut() {
        return Ok(());
    }
    let writes = power_cuts(rounds() + 1, seed()).await?;
    println!("{writes} acknowledged writes, {} power cuts, all there", rounds() + 1);
    Ok(())
}

/// The test can fail: a build that acknowledges before fdatasync loses writes in it. `DQLITED_PLANTED_BIN` is a build
/// with the feature `planted-bugs`; `tests/run` makes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_finds_a_build_that_acknowledges_before_fdatasync() -> Result<()> {
    if !power::may_cut() {
        return Ok(());
    }
    let Some(program) = std::env::var_os("DQLITED_PLANTED_BIN") else {
        not_run("DQLITED_PLANTED_BIN names no build with planted bugs");
        return Ok(());
    };
    let mut disk = Disk::new(512)?;
    let mut options = MemberOptions::dqlited();
    options.program = program.into();
    options.data_dir = Some(disk.path().join("data"));
    options.environment.push(("DQLITED_PLANTED_BUG".into(), "acknowledge-before-sync".into()));
    let mut member = Member::start(options).await?;
    let mut lost = false;
    for round in 0..10 {
        let load = Load::start(&member, round).await?;
        load.acknowledged(1000).await?;
        disk.cut()?;
        member.kill()?;
        let ledger = load.finish().await?;
        disk.restore()?;
        // A store that cannot even be opened again has lost its writes too.
        lost = match member.start_again().await {
            Ok(()) => ledger.check(&member).await.is_err(),
            Err(_) => true,
        };
        member.kill()?;
        if lost {
            break;
        }
        member.start_again().await?;
    }
    ensure!(lost, "ten power cuts did not find the planted bug");
    member.kill()
}
