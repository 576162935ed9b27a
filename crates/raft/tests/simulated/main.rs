//! A member on simulated time, chance and disks, without threads: it is cut off from its power again and again, and
//! loses nothing that it has acknowledged. (A simulation of several members builds on the same environment.)
//!
//! Each seed is printed; `SIMULATION_SEED` runs one again, `SIMULATION_SEEDS` so many.

mod clients;
mod run;
mod world;

use std::sync::Arc;
use std::time::Duration;

use dqlited_raft::{Node, NodeOptions, StartError};
use run::{InOrder, Report, run, runtime};
use world::World;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIMULATION_SEEDS").unwrap_or(count) + 1,
    }
}

#[test]
fn every_acknowledged_write_is_there_after_power_cuts_at_any_point() {
    let mut sum = Report::default();
    for seed in seeds(12) {
        println!("SIMULATION_SEED={seed}");
        let outcome = run(seed, |_| ());
        println!("{:?}", outcome.report);
        if let Some(fault) = outcome.fault {
            println!("{}", outcome.trace.join("\n"));
            panic!("SIMULATION_SEED={seed}: {fault}");
        }
        if number("SIMULATION_SEED").is_some() {
            println!("{}", outcome.trace.join("\n"));
        }
        sum += outcome.report;
    }
    println!("all seeds: {sum:?}");
    if number("SIMULATION_SEED").is_none() {
        assert_its_faults_took_effect(sum);
    }
}

/// A run in which nothing went wrong shows nothing.
fn assert_its_faults_took_effect(sum: Report) {
    assert!(sum.acknowledged >= 2000, "{sum:?}");
    assert!(sum.unknown_found >= 3 && sum.unknown - sum.unknown_found >= 3, "{sum:?}");
    assert!(sum.cut_in_a_start >= 3 && sum.cut_in_a_call - sum.cut_in_a_start >= 3, "{sum:?}");
    assert!(sum.stopped_cleanly >= 3, "{sum:?}");
    assert!(sum.checkpoints >= 50 && sum.replayed >= 100, "{sum:?}");
    assert!(sum.purged >= 1, "{sum:?}");
}

#[test]
fn the_same_seed_twice_gives_the_same_bytes() {
    let mut lines = 0;
    for seed in seeds(4) {
        println!("SIMULATION_SEED={seed}");
        let (first, second) = (run(seed, |_| ()), run(seed, |_| ()));
        let differs = first.trace.iter().zip(&second.trace).find(|(first, second)| first != second);
        assert_eq!(differs, None, "SIMULATION_SEED={seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "SIMULATION_SEED={seed}");
        lines += first.trace.len();
    }
    // A seed may end each life early; all of them together do not.
    assert!(number("SIMULATION_SEED").is_some() || lines > 1000, "they did next to nothing: {lines} lines");
}

/// Inline as with threads, the log's writer leaves a mark: without it the damage would pass for a torn write.
#[test]
fn damage_to_the_end_of_a_log_that_was_stopped_cleanly_is_refused() {
    let world = World::new(1);
    let start = || {
        let options = NodeOptions { data_dir: world.data_dir(), ..NodeOptions::default() };
        Node::start_in(world.environment(), options, Arc::new(InOrder::default()))
    };
    runtime(&Arc::default()).block_on(async {
        start().await.unwrap().stop(Duration::from_secs(5)).await;
    });
    world.damage_end_of_log();
    let error = runtime(&Arc::default()).block_on(start()).err().unwrap();
    assert!(matches!(error, StartError::Log(dqlited_log::LogError::Corrupt { .. })), "{error}");
}

#[cfg(feature = "planted-bugs")]
mod red {
    use dqlited_raft::Bug;

    use super::*;

    /// What each of so many seeds finds with the bug.
    fn faults(count: u64, bug: fn(&mut dqlited_raft::Environment)) -> Vec<Option<String>> {
        seeds(count)
            .map(|seed| {
                let fault = run(seed, bug).fault;
                println!("SIMULATION_SEED={seed}: {fault:?}");
                fault
            })
            .collect()
    }

    #[test]
    fn acknowledging_before_the_sync_is_seen_as_lost_writes() {
        let faults = faults(30, |environment| environment.bugs = vec![Bug::AcknowledgeBeforeSync]);
        let count = |words: &str| faults.iter().flatten().filter(|fault| fault.contains(words)).count();
        let lost_writes = count("was acknowledged at revision");
        // The store remembers more than the log: the member does not start.
        let lost_entries = count("the log has lost durable entries");
        println!("{lost_writes} seeds miss a write, {lost_entries} find the log behind the store");
        assert!(lost_writes >= 1 && lost_writes + lost_entries >= 20);
    }

    #[test]
    fn m14_a_read_that_waits_for_applied_is_seen() {
        let faults = faults(5, |environment| environment.bugs = vec![Bug::ReadAtApplied]);
        // Some at the first read, which looks for this start's registration, others later.
        assert!(faults.iter().all(Option::is_some));
    }
}
