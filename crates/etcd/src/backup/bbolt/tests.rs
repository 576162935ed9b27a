//! Files are read back by a reader written from bbolt's description, which checks every rule on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use super::*;

type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads a file as bbolt does and checks what `bbolt check` checks: every page reached once, keys in order, each
/// child's first key the one that its branch names.
struct Reader<'a> {
    file: &'a [u8],
    reached: BTreeSet<u64>,
    depth_max: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl<'a> Reader<'a> {
    fn page(&self, number: u64) -> &'a [u8] {
        let at = number as usize * PAGE_BYTES;
        let pages = u32_at(self.file, at + 12) as usize + 1;
        &self.file[at..at + pages * PAGE_BYTES]
    }

    /// Elements below a page: flags, key, value.
    fn walk(&mut self, number: u64, first_key: Option<&[u8]>, depth: usize) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        self.depth_max = self.depth_max.max(depth);
        let page = self.page(number);
        assert_eq!(u64_at(page, 0), number, "a page carries its number");
        for part in 0..(page.len() / PAGE_BYTES) as u64 {
            assert!(self.reached.insert(number + part), "page {} is reached twice", number + part);
        }
        let (kind, count) = (u16_at(page, 8), u16_at(page, 10) as usize);
        let mut found = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        for at in 0..count {
            let element = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
            let (flags, offset, key_length, value_length, child) = if kind == BRANCH {
                (0, u32_at(page, element), u32_at(page, element + 4), 0, u64_at(page, element + 8))
            } else {
                assert_eq!(kind, LEAF);
                (
                    u32_at(page, element),
                    u32_at(page, element + 4),
                    u32_at(page, element + 8),
                    u32_at(page, element + 12),
                    0,
                )
            };
            let key_at = element + offset as usize;
            let value_at = key_at + key_length as usize;
            let key = page[key_at..value_at].to_vec();
            let value = page[value_at..value_at + value_length as usize].to_vec();
            assert!(last.as_ref().is_none_or(|last| *last < key), "keys ascend");
            if at == 0
                && let Some(first_key) = first_key
            {
                assert_eq!(key, first_key, "a branch names its child's first key");
            }
            if kind == BRANCH {
                assert!(count >= 2 || first_key.is_some(), "a root branch has two children");
                found.extend(self.walk(child, Some(&key), depth + 1));
            } else {
                found.push((flags, key.clone(), value));
            }
            last = Some(key);
        }
        found
    }
}

struct Read {
    buckets: BTreeMap<String, Records>,
    depth_max: usize,
}

fn read(file: &[u8]) -> Read {
    assert_eq!(file.len() % PAGE_BYTES, 0);
    let metas: Vec<&[u8]> =
        (0..2).map(|number| &file[number * PAGE_BYTES..(number + 1) * PAGE_BYTES]).collect();
    for (number, page) in metas.iter().enumerate() {
        assert_eq!((u64_at(page, 0), u16_at(page, 8)), (number as u64, META));
        let meta = &page[PAGE_HEADER_BYTES..];
        assert_eq!((u32_at(meta, 0), u32_at(meta, 4), u32_at(meta, 8)), (MAGIC, VERSION, PAGE_BYTES as u32));
        assert_eq!(u64_at(meta, 32), NO_FREE_LIST);
        assert_eq!(
            u64_at(meta, 40) as usize * PAGE_BYTES,
            file.len(),
            "the high-water mark is the file's end"
        );
        assert_eq!(u64_at(meta, 48), number as u64);
        assert_eq!(u64_at(meta, 56), fnv_1a(&meta[..56]));
    }
    let mut reader = Reader { file, reached: BTreeSet::from([0, 1]), depth_max: 0 };
    let root = u64_at(metas[1], PAGE_HEADER_BYTES + 16);
    let mut buckets = BTreeMap::new();
    for (flags, name, value) in reader.walk(root, None, 0) {
        assert_eq!((flags, value.len()), (LEAF_IS_BUCKET, 16));
        let records = reader.walk(u64_at(&value, 0), None, 0);
        assert!(records.iter().all(|(flags, ..)| *flags == 0));
        let records = records.into_iter().map(|(_, key, value)| (key, value)).collect();
        buckets.insert(String::from_utf8(name).unwrap(), records);
    }
    let pages = (file.len() / PAGE_BYTES) as u64;
    assert_eq!(reader.reached, (0..pages).collect(), "no page is unreached: it would count as free");
    Read { buckets, depth_max: reader.depth_max }
}

fn write(buckets: &[(&str, Records)]) -> Vec<u8> {
    let mut file = FileWriter::new(Cursor::new(Vec::new())).unwrap();
    for (name, records) in buckets {
        let mut bucket = file.bucket(name);
        for (key, value) in records {
            bucket.put(key, value).unwrap();
        }
        bucket.finish().unwrap();
    }
    let (out, bytes) = file.finish().unwrap();
    assert_eq!(out.get_ref().len() as u64, bytes);
    out.into_inner()
}

fn numbered(count: u64, value_bytes: impl Fn(u64) -> usize) -> Records {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; value_bytes(n)])).collect()
}

#[track_caller]
fn assert_round_trip(buckets: &[(&str, Records)]) -> Read {
    let got = read(&write(buckets));
    let wanted: BTreeMap<String, Records> =
        buckets.iter().map(|(name, records)| (name.to_string(), records.clone())).collect();
    assert!(got.buckets == wanted, "what was read differs from what was written");
    got
}

#[test]
fn a_file_without_buckets_and_one_with_empty_ones_are_whole() {
    assert_round_trip(&[]);
    assert_round_trip(&[("meta", vec![]), ("alarm", vec![]), ("key", vec![])]);
}

#[test]
fn a_key_without_value_is_kept() {
    assert_round_trip(&[("alarm", vec![(b"\x08\x05\x10\x01".to_vec(), vec![])])]);
}

#[test]
fn records_at_and_around_a_page_are_read_back() {
    let room = PAGE_BYTES - PAGE_HEADER_BYTES - ELEMENT_BYTES - 8;
    for bytes in [room - 1, room, room + 1, room + PAGE_BYTES, room + PAGE_BYTES + 1] {
        assert_round_trip(&[("key", numbered(3, |_| bytes))]);
    }
}

#[test]
fn values_of_one_and_a_half_megabytes_stand_on_pages_of_their_own() {
    let sizes = [10, 1_572_838, 0, 1_572_864, 100];
    assert_round_trip(&[("key", numbered(5, |n| sizes[n as usize])), ("lease", numbered(2, |_| 9))]);
}

#[test]
fn branches_of_several_levels_appear_and_are_whole() {
    // Some 170 small records a leaf, some 125 children a branch: 60,000 records need two levels of branches.
    let small = assert_round_trip(&[("key", numbered(60_000, |n| (n % 7) as usize))]);
    assert!(small.depth_max >= 2, "depth {}", small.depth_max);
    // One record a leaf.
    let large = assert_round_trip(&[("key", numbered(3_000, |_| 4_000)), ("meta", numbered(4, |_| 8))]);
    assert!(large.depth_max >= 1);
}

#[test]
fn any_number_of_records_around_the_edges_of_a_leaf_and_a_branch_is_read_back() {
    for count in (0..400).chain(20_000..20_020) {
        assert_round_trip(&[("key", numbered(count, |n| 20 + (n % 3) as usize))]);
    }
}

#[test]
fn keys_out_of_order_are_refused() {
    let mut file = FileWriter::new(Cursor::new(Vec::new())).unwrap();
    let mut bucket = file.bucket("key");
    bucket.put(b"b", b"").unwrap();
    assert_eq!(bucket.put(b"a", b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(bucket.put(b"b", b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn buckets_stand_in_the_order_of_their_names_whatever_the_order_of_writing() {
    assert_round_trip(&[("meta", numbered(1, |_| 1)), ("key", numbered(2, |_| 1)), ("auth", vec![])]);
}
