//! The bytes of format 1 as `docs/log-format.md` describes them: a change here is a new version and needs a reader of the
//! old one.

use std::sync::Arc;

use bytes::Bytes;

use super::{id, open, run, small};
use crate::testing::CrashDisk;
use crate::{Entry, LogOptions, Operation, Vote};

/// Four words of eight bytes a line.
fn hex(bytes: &[u8]) -> Vec<String> {
    let word = |word: &[u8]| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(|line| line.chunks(8).map(word).collect::<Vec<_>>().join(" ")).collect()
}

fn first_segment() -> CrashDisk {
    let disk = CrashDisk::new();
    let options = LogOptions { salt_source: Some(Arc::new(|| 0x0102_0304_0506_0708)), ..small() };
    let (log, mut writer) = open(&disk, options).unwrap();
    let payload = Bytes::from_static(b"payload");
    run(&log, &mut writer, Operation::Append(vec![Entry { id: id(2, 9), payload }])).unwrap();
    let vote = Vote { term: 3, node: 4, committed: true };
    run(&log, &mut writer, Operation::SaveVote(vote)).unwrap();
    disk
}

#[test]
fn a_segment_has_these_bytes() {
    let bytes = first_segment().bytes("segment-0000000000000001").unwrap();
    assert_eq!(
        hex(&bytes[..128]),
        [
            "44514c4f47534547 0100000000000000 0100000000000000 0807060504030201",
            "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
            "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
            "0000000000000000 0000000000000000 0000000000000000 c32f349200000000"
        ]
    );
    assert_eq!(
        hex(&bytes[128..184]),
        [
            "44514c4211b1a960 0807060504030201 2b00000001000000 0000000000000000",
            "0000000000000000 0000000000000000 c04131ac00000000"
        ]
    );
    assert_eq!(
        hex(&bytes[184..232]),
        [
            "e945a53307000000 0100000009000000 0000000002000000 0000000001000000",
            "000000007061796c 6f61640000000000"
        ]
    );
    assert_eq!(
        hex(&bytes[232 + 56..232 + 56 + 37]),
        ["5de75ebb01000000 0200000001000000 0000000003000000 0000000004000000", "0000000001"]
    );
}

#[test]
fn the_vote_file_has_these_bytes() {
    let bytes = first_segment().bytes("vote").unwrap();
    assert_eq!(
        hex(&bytes[4096..4096 + 80]),
        [
            "44514c4f47564f54 0103000000000000 0100000000000000 0100000000000000",
            "0300000000000000 0400000000000000 0100000000000000 4801000000000000",
            "258356a100000000 0000000000000000"
        ]
    );
    assert!(bytes[..4096].iter().all(|byte| *byte == 0));
}
