//! Thread CPU time of the store's hot paths, for choosing pages and schema: `cargo run --release --example measure`.
//!
//! Arguments: page size in bytes (4096), keys (40000), puts (100000), bytes of a value (1024), page cache of a reader in
//! MiB (8), mapped part of the file in MiB (32). What it gave when the schema was chosen stands in `docs/decisions/0003-store-schema.md`.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use dqlited_store::command::{Kind, Put, RangeQuery, RegisterMember};
use dqlited_store::store::{
    CheckpointMode, Entry, EntryBody, NoInterest, Reader, Store, StoreOptions, Writer,
};
use dqlited_store::{Command, Identity, LeaderId, LogId, MemberId};

const MEMBER: MemberId = MemberId(1);

struct Log {
    next: u64,
}

impl Log {
    fn entry(&mut self, kind: Kind) -> Entry {
        let sequence = self.next;
        self.next += 1;
        let identity = Identity { member: MEMBER, boot: 1, sequence, lowest_unsettled: sequence };
        Entry {
            log_id: LogId { leader: LeaderId { term: 1, node: MEMBER }, index: sequence },
            body: EntryBody::Command(identity, Command { kind: Some(kind) }),
        }
    }
}

/// CPU time of this thread, microseconds.
fn cpu_us() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let ns: f64 = text.split(' ').next().and_then(|field| field.parse().ok()).expect("a number");
    ns / 1000.0
}

fn measured(name: &str, count: usize, mut act: impl FnMut()) {
    let (cpu, wall) = (cpu_us(), Instant::now());
    act();
    let cpu = (cpu_us() - cpu) / count as f64;
    let wall = wall.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("{name:<44} {cpu:>10.2} us CPU {wall:>10.2} us wall");
}

fn key(n: u64) -> Bytes {
    // Spread, so that neighbours in time are not neighbours in name.
    let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    Bytes::from(format!("/registry/pods/namespace-{:02}/pod-{spread:08x}-{n:06}", n % 4))
}

fn puts(log: &mut Log, count: u64, keys: u64, value: &Bytes, seed: &mut u64) -> Vec<Entry> {
    (0..count)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let put = Put { key: key((*seed >> 33) % keys), value: value.clone(), ..Put::default() };
            log.entry(Kind::Put(put))
        })
        .collect()
}

fn lists(reader: &mut Reader, revision: i64, what: &str) {
    let query = |limit, revision| RangeQuery {
        key: Bytes::from_static(b"/registry/pods/namespace-01/"),
        range_end: Bytes::from_static(b"/registry/pods/namespace-010"),
        limit,
        revision,
        ..RangeQuery::default()
    };
    for (name, query) in [
        ("page of 500", query(500, revision)),
        ("list of all", query(0, revision)),
        ("count", RangeQuery { count_only: true, ..query(0, revision) }),
        ("keys_only", RangeQuery { keys_only: true, ..query(0, revision) }),
    ] {
        let mut answer = Vec::new();
        let mut count = 0;
        measured(&format!("{name}, {what}"), 10, || {
            for _ in 0..10 {
                answer.clear();
                reader
                    .with_view(|view| {
                        let summary = view.range(&query, &mut |record| {
                            answer.extend_from_slice(record.key);
                            answer.extend_from_slice(record.value);
                            ControlFlow::Continue(())
                        });
                        count = summary.expect("a range").count;
                    })
                    .expect("a view");
            }
        });
        println!("{:>44} {count} keys, {} bytes", "", answer.len());
    }
}

fn commit_each(log: &mut Log, writer: &mut Writer, keys: u64, value: &Bytes, seed: &mut u64) {
    for batch in [1, 16, 256] {
        let batches: Vec<_> = (0..4096 / batch).map(|_| puts(log, batch, keys, value, seed)).collect();
        measured(&format!("put, batch {batch}, a commit a batch"), 4096, || {
            for entries in &batches {
                writer.apply(entries, &NoInterest).expect("applied");
                writer.commit().expect("committed");
            }
        });
    }
}

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let argument = |at: usize, default: u64| arguments.get(at).copied().unwrap_or(default);
    let (page, keys, count) = (argument(0, 4096), argument(1, 40_000), argument(2, 100_000));
    let value = Bytes::from(vec![b'v'; argument(3, 1024) as usize]);
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let options = StoreOptions {
        page_size_bytes: page as u32,
        reader_cache_bytes: (argument(4, 8) as usize) << 20,
        reader_mapped_bytes: (argument(5, 32) as usize) << 20,
        ..StoreOptions::default()
    };
    let (store, mut writer) = Store::open(folder.path(), options).expect("a store");
    let mut checkpointer = store.checkpointer().expect("a checkpointer");
    let mut log = Log { next: 1 };
    let mut seed = 42;
    let register =
        log.entry(Kind::RegisterMember(RegisterMember { member: 1, boot: 1, ..Default::default() }));
    writer.apply(&[register], &NoInterest).expect("applied");
    let batches: Vec<_> = (0..count / 64).map(|_| puts(&mut log, 64, keys, &value, &mut seed)).collect();
    measured("put, batch 64, lazy commit of 4 MiB", (count / 64 * 64) as usize, || {
        for entries in &batches {
            writer.apply(entries, &NoInterest).expect("applied");
            if writer.uncommitted_bytes() > 4 << 20 {
                writer.commit().expect("committed");
            }
        }
        writer.commit().expect("committed");
    });
    measured("checkpoint", 1, || {
        checkpointer.checkpoint(CheckpointMode::Restart).expect("moved");
    });
    commit_each(&mut log, &mut writer, keys, &value, &mut seed);
    checkpointer.checkpoint(CheckpointMode::Restart).expect("moved");

    let mut reader = store.reader().expect("a reader");
    let now = writer.state();
    let queries: Vec<_> =
        (0..20_000u64).map(|n| RangeQuery { key: key(n * 7 % keys), ..RangeQuery::default() }).collect();
    for kept in [false, true] {
        let mut bytes = 0;
        let at = now.log_id.expect("applied");
        measured(if kept { "point get, kept view" } else { "point get, a view each" }, queries.len(), || {
            for query in &queries {
                let mut read = |view: &dyn dqlited_store::read::ReadView| {
                    view.range(query, &mut |record| {
                        bytes += record.value.len();
                        ControlFlow::Continue(())
                    })
                    .expect("a get");
                };
                if kept { reader.with_kept_view(at, &mut read) } else { reader.with_view(&mut read) }
                    .expect("a view");
            }
        });
        reader.release();
    }
    lists(&mut reader, 0, "now");
    lists(&mut reader, now.revision.0 - 5000, "5000 revisions ago");
    measured("HashKV", 1, || {
        reader.with_view(|view| view.hash_kv(dqlited_store::Revision(0))).expect("a view").expect("a hash");
    });
    let entry =
        log.entry(Kind::Compact(dqlited_store::command::Compact { revision: now.revision.0 - 10_000 }));
    writer.apply(&[entry], &NoInterest).expect("applied");
    measured("compact, a slice of 1000", ((now.revision.0 - 10_000) / 1000) as usize, || {
        while !writer.compact_step(1000).expect("a slice").finished {
            writer.commit().expect("committed");
        }
        writer.commit().expect("committed");
    });
    let size = reader.with_view(|view| view.database_size()).expect("a view").expect("a size");
    println!("{size:?}");
}
