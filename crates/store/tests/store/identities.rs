//! Second copies, boots, order of entries, and what a kill leaves.

use dqlited_store::command::{Kind, RegisterMember};
use dqlited_store::store::{Entry, EntryBody, StoreError};
use dqlited_store::{Command, CommandError, Identity};

use crate::bed::*;

fn copy_of(entry: &Entry, index: u64) -> Entry {
    Entry { log_id: Bed::log_id(index), body: entry.body.clone() }
}

#[test]
pub fn a_second_copy_changes_nothing_also_after_a_kill() {
    let mut bed = Bed::new();
    let entry = bed.entry(put("a", "1"));
    bed.writer.apply(std::slice::from_ref(&entry), &AllPrevious).expect("applied");
    bed.writer.commit().expect("committed");
    let mut bed = bed.reopen();
    let second = bed.apply_entry(copy_of(&entry, bed.next_index));
    assert_eq!(second.result, Err(CommandError::AlreadyApplied));
    assert_eq!(second.revision.0, 2);
}

#[test]
fn proposals_of_another_boot_apply_as_nothing() {
    let mut bed = Bed::new();
    let register =
        |boot| Kind::RegisterMember(RegisterMember { member: MEMBER.0, boot, ..Default::default() });
    let of_boot = |boot, sequence, kind| {
        let identity = Identity { boot, ..Bed::identity(sequence) };
        EntryBody::Command(identity, Command { kind: Some(kind) })
    };
    let mut run = |body| {
        let entry = Entry { log_id: Bed::log_id(bed.next_index), body };
        bed.apply_entry(entry).result
    };
    assert_eq!(run(of_boot(2, 1, put("a", "1"))), Err(CommandError::UnregisteredBoot));
    assert!(run(of_boot(2, 1, register(2))).is_ok());
    assert_eq!(run(of_boot(1, 9, put("a", "1"))), Err(CommandError::UnregisteredBoot));
    assert_eq!(run(of_boot(1, 1, register(1))), Err(CommandError::UnregisteredBoot));
    assert!(run(of_boot(2, 2, put("a", "1"))).is_ok());
}

#[test]
pub fn a_gap_and_an_unknown_command_are_errors_that_change_nothing() {
    let mut bed = Bed::new();
    let good = bed.entry(put("a", "1"));
    let unknown =
        Entry { log_id: Bed::log_id(3), body: EntryBody::Command(Bed::identity(9), Command { kind: None }) };
    let state = bed.writer.state();
    let error = bed.writer.apply(&[good.clone(), unknown], &AllPrevious).expect_err("unknown");
    assert!(matches!(error, StoreError::UnknownCommand(_)));
    assert_eq!(bed.writer.state(), state, "rolled back, memory too");
    for index in [1, 3] {
        let error = bed.writer.apply(&[copy_of(&good, index)], &AllPrevious).expect_err("a gap");
        assert!(matches!(error, StoreError::Gap { .. }));
    }
    assert!(bed.apply_entry(good).result.is_ok(), "the entry is taken once it is its turn");
}

#[test]
fn members_and_memberships_are_kept() {
    let mut bed = Bed::new();
    let record = RegisterMember {
        member: u64::MAX,
        boot: 3,
        boot_nonce: 8,
        name: "m1".into(),
        peer_urls: vec!["http://127.0.0.1:2380".into()],
        ..Default::default()
    };
    bed.run(Kind::RegisterMember(record)).expect("registered");
    let membership = bytes::Bytes::from_static(b"opaque");
    let log_id = Bed::log_id(bed.next_index);
    let entry = Entry { log_id, body: EntryBody::Membership(membership.clone()) };
    bed.apply_entry(entry);
    bed.writer.commit().expect("committed");
    let mut bed = bed.reopen();
    assert_eq!(bed.writer.state().membership, Some((log_id, membership)));
    let members = bed.view(|view| view.members()).expect("members");
    assert_eq!(members.iter().map(|member| member.id.0).collect::<Vec<_>>(), [7, u64::MAX]);
    assert_eq!((members[1].name.as_str(), members[1].boot, members[1].boot_nonce), ("m1", 3, 8));
}

#[test]
fn what_was_not_committed_is_gone_after_a_kill_and_applies_the_same_again() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let lost = bed.entry(put("a", "2"));
    let first = bed.writer.apply(std::slice::from_ref(&lost), &AllPrevious).expect("applied").remove(0);
    let mut bed = bed.reopen();
    assert_eq!(bed.writer.state().revision.0, 2);
    let again = bed.writer.apply(&[lost], &AllPrevious).expect("applied").remove(0);
    assert_eq!((first.result, first.events), (again.result, again.events));
}
