//! Power cuts and kills at every call to the disk: what was completed is there, nothing that was dropped comes back.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Case, End, Life, Step, run_case};
use super::small;

/// Payload sizes of one case. Equal ones let a new batch end just where an old one begins.
fn size() -> impl Strategy<Value = BoxedStrategy<usize>> {
    let mixed = prop_oneof![10 => 0_usize..200, 3 => 200_usize..900, 1 => 900_usize..6000].boxed();
    prop_oneof![Just(mixed), (0_usize..1500).prop_map(|bytes| Just(bytes).boxed())]
}

fn step(size: BoxedStrategy<usize>) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(size, 1..5).prop_map(Step::Append),
        1 => (0_u64..=1000).prop_map(Step::Truncate),
        2 => Just(Step::Vote),
        1 => (0_u64..=1000).prop_map(Step::Purge),
        // Beyond the end.
        1 => prop_oneof![9 => Just(Step::Drain), 1 => Just(Step::Purge(1001))],
        6 => Just(Step::Drain),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let call = || prop::option::weighted(0.8, 0_u64..40);
    prop_oneof![
        2 => call().prop_map(End::Kill),
        6 => call().prop_map(End::PowerCut),
        1 => call().prop_map(End::Finish),
    ]
}

fn life(size: BoxedStrategy<usize>) -> impl Strategy<Value = Life> {
    (vec(step(size), 0..25), end()).prop_map(|(steps, end)| Life { steps, end })
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    let lives = size().prop_flat_map(|size| vec(life(size), 1..7));
    let segment_bytes_first = prop_oneof![Just(1024), Just(16384)];
    (lives, segment_bytes_first, any::<u64>()).prop_map(|(lives, segment_bytes_first, seed)| Case {
        lives,
        segment_bytes_first,
        seed,
    })
}

proptest! {
    // PROPTEST_CASES sets another number, in the nightly run.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_completed_survives_and_nothing_dropped_comes_back(case in case()) {
        if let Err(broken) = run_case(&case, &small()) {
            prop_assert!(false, "{broken}");
        }
    }
}

/// One history that meets every mechanism, cut at each of its calls to the disk, in several ways each, and gone on with.
#[test]
fn a_power_cut_at_every_call_to_the_disk_loses_nothing() {
    let steps = vec![
        Step::Append(vec![100, 200]),
        Step::Vote,
        Step::Drain,
        Step::Append(vec![300, 300, 300, 300]),
        Step::Drain,
        Step::Truncate(400),
        Step::Append(vec![250, 250]),
        Step::Vote,
        Step::Drain,
        Step::Append(vec![5000]),
        Step::Drain,
        Step::Append(vec![700, 700, 700]),
        Step::Purge(500),
        Step::Drain,
        Step::Append(vec![700, 700, 700, 700, 700]),
        Step::Drain,
        Step::Purge(1001),
        Step::Append(vec![10, 10]),
        Step::Drain,
    ];
    let again = || Life {
        steps: vec![Step::Append(vec![80, 90]), Step::Drain, Step::Append(vec![70, 400]), Step::Drain],
        end: End::PowerCut(None),
    };
    let mut cuts = 0;
    // More than the history makes calls; a cut behind the last one is a cut at the end.
    for call in 0..90 {
        for seed in 0..6 {
            let first = Life { steps: steps.clone(), end: End::PowerCut(Some(call)) };
            let second = Life { end: End::PowerCut(Some(call % 13)), ..again() };
            let case = Case {
                lives: vec![first, second, again(), again()],
                segment_bytes_first: 1024,
                seed: seed * 1000 + call,
            };
            if let Err(broken) = run_case(&case, &small()) {
                panic!("call {call}, seed {}: {broken}", case.seed);
            }
            cuts += 1;
        }
    }
    assert_eq!(cuts, 540);
}
