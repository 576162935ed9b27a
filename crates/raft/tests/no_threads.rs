//! A member that is run inline makes no thread. A program of its own with this test alone, since threads are counted.

#[path = "simulated/clients.rs"]
mod clients;
#[path = "simulated/run.rs"]
mod run;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "simulated/world.rs"]
mod world;

use std::thread;

/// Rust numbers the threads of a process as it makes them: also one that has ended leaves a gap.
fn number_of_a_new_thread() -> u64 {
    let id = thread::spawn(|| thread::current().id()).join().unwrap();
    format!("{id:?}").trim_start_matches("ThreadId(").trim_end_matches(')').parse().unwrap()
}

fn threads_alive() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_member_that_runs_inline_makes_no_thread() {
    let (alive, before) = (threads_alive(), number_of_a_new_thread());
    assert_eq!(number_of_a_new_thread(), before + 1, "the count counts");
    let outcome = run::run(1, |_| ());
    assert_eq!(outcome.fault, None);
    assert!(outcome.report.acknowledged > 100 && outcome.trace.len() > 100, "{:?}", outcome.report);
    assert_eq!(outcome.report.threads, 0, "asked of tokio");
    assert_eq!(number_of_a_new_thread(), before + 2, "made by Rust code");
    assert!(threads_alive() <= alive, "alive, whoever made them");
}
