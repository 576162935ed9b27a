//! Each planted bug turns the crash test red; without one the same cases are green.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::crash::case;
use super::model::{Case, End, Life, Step, run_case};
use super::small;
use crate::{LogOptions, PlantedBug};

/// Cases that are tried at most; the same ones in each run.
const CASES: usize = 600;

fn random_cases() -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    (0..CASES).map(|_| case().new_tree(&mut runner).unwrap().current()).collect()
}

/// Several batches are cut short together, then one takes the place of the first of them.
fn cut_tails() -> Vec<Case> {
    let one = || vec![Step::Append(vec![800]), Step::Drain];
    let lives = |call| {
        vec![
            Life { steps: one(), end: End::PowerCut(None) },
            Life { steps: vec![Step::Append(vec![800; 4]), Step::Drain], end: End::PowerCut(Some(call)) },
            Life { steps: one(), end: End::PowerCut(None) },
        ]
    };
    let case = |seed| Case { lives: lives(seed % 16), segment_bytes_first: 16384, seed };
    (0..CASES as u64).map(case).collect()
}

fn first_red(cases: &[Case], planted: Option<PlantedBug>) -> Option<(usize, String)> {
    let options = LogOptions { planted, ..small() };
    let mut cases = cases.iter().enumerate();
    cases.find_map(|(number, case)| run_case(case, &options).err().map(|broken| (number, broken)))
}

#[track_caller]
fn assert_found(bug: PlantedBug, cases: &[Case]) {
    let (number, broken) = first_red(cases, Some(bug)).unwrap_or_else(|| panic!("{bug:?} was not found"));
    eprintln!("{bug:?}: case {number}: {}", broken.chars().take(300).collect::<String>());
}

#[test]
fn without_a_bug_the_same_cases_are_green() {
    assert_eq!(first_red(&random_cases(), None), None);
    assert_eq!(first_red(&cut_tails(), None), None);
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    assert_found(PlantedBug::AcknowledgeBeforeSync, &random_cases());
}

#[test]
fn opening_without_a_sync_is_found() {
    assert_found(PlantedBug::OpenWithoutSync, &random_cases());
}

#[test]
fn a_cut_tail_that_is_not_zeroed_is_found() {
    assert_found(PlantedBug::CutWithoutZeroing, &cut_tails());
}

#[test]
fn recycling_before_the_purge_is_durable_is_found() {
    assert_found(PlantedBug::RecycleBeforePurge, &random_cases());
}

#[test]
fn a_vote_that_overtakes_appends_is_found() {
    assert_found(PlantedBug::VoteOvertakesAppends, &random_cases());
}
