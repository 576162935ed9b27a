//! The Watch service over real gRPC, one promise a test. `API_TESTS_ON=etcd` runs the same against etcd.

use anyhow::{Context, Result, ensure};
use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::request_op::Request as OpRequest;
use dqlited_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, WatchCreateRequest};
use dqlited_tests::api::{Api, brief, prefix, program, single};

fn put_op(key: String, value: Vec<u8>) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    RequestOp { request: Some(OpRequest::RequestPut(put)) }
}

async fn txn_of_puts(api: &mut Api, count: usize, value_bytes: usize) -> Result<i64> {
    let success = (0..count).map(|n| put_op(format!("t/{n:03}"), vec![n as u8; value_bytes])).collect();
    let answer = api.kv.txn(TxnRequest { success, ..Default::default() }).await?.into_inner();
    Ok(answer.header.context("header")?.revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_now_sees_what_comes_and_nothing_older() -> Result<()> {
    let mut api = Api::start().await?;
    let before = api.put("a", "1").await?;
    let mut stream = api.watch().await?;
    let created = stream.created(single("a", 0)).await?;
    ensure!(created.header.context("header")?.revision == before && created.watch_id == 0);
    api.put("b", "1").await?;
    let revision = api.put("a", "2").await?;
    let answer = stream.next().await?;
    ensure!(answer.header.context("header")?.revision == revision);
    ensure!(brief(&answer.events) == [("a".to_owned(), revision)]);
    stream.silent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_the_past_sees_all_of_it_in_order_and_goes_on() -> Result<()> {
    let mut api = Api::start().await?;
    let first = api.put("k/a", "1").await?;
    api.put("other", "1").await?;
    api.put("k/b", "1").await?;
    api.delete("k/a").await?;
    let mut stream = api.watch().await?;
    stream.created(prefix("k/", first)).await?;
    let events = stream.events(3).await?;
    let expected = [("k/a", first), ("k/b", first + 2), ("-k/a", first + 3)];
    ensure!(brief(&events) == expected.map(|(key, revision)| (key.to_owned(), revision)));
    let deleted = events[2].kv.clone().context("kv")?;
    ensure!(
        (deleted.create_revision, deleted.version, deleted.lease) == (0, 0, 0) && deleted.value.is_empty()
    );
    let next = api.put("k/c", "1").await?;
    ensure!(brief(&stream.events(1).await?) == [("k/c".to_owned(), next)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_before_come_with_prev_kv_live_and_from_the_past() -> Result<()> {
    let mut api = Api::start().await?;
    let first = api.put("p", "1").await?;
    api.put("p", "2").await?;
    for start_revision in [first, 0] {
        let mut stream = api.watch().await?;
        let create = WatchCreateRequest { prev_kv: true, ..single("p", start_revision) };
        stream.created(create).await?;
        if start_revision > 0 {
            let events = stream.events(2).await?;
            ensure!(events[0].prev_kv.is_none(), "a creation has none");
            ensure!(events[1].prev_kv.as_ref().is_some_and(|kv| kv.value == "1" && kv.mod_revision == first));
        }
        api.put("p", "3").await?;
        api.delete("p").await?;
        api.put("p", "2").await?;
        let events = stream.events(3).await?;
        let before: Vec<_> = events.iter().map(|event| event.prev_kv.clone().map(|kv| kv.value)).collect();
        ensure!(before == [Some("2".into()), Some("3".into()), None], "{before:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_keep_puts_or_deletes_away_and_both_keep_all_away() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    for filters in [vec![0], vec![1], vec![0, 1], vec![9]] {
        stream.created(WatchCreateRequest { filters, ..single("f", 0) }).await?;
    }
    api.put("f", "1").await?;
    api.delete("f").await?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = stream.next().await?;
        seen.push((answer.watch_id, answer.events[0].r#type));
    }
    seen.sort_unstable();
    ensure!(seen == [(0, 1), (1, 0), (3, 0), (3, 1)], "{seen:?}");
    stream.silent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_counted_up_or_as_the_client_says_and_free_again_after_a_cancel() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..single("i", 0) };
    ensure!(stream.created(with_id(1)).await?.watch_id == 1);
    ensure!(stream.created(with_id(0)).await?.watch_id == 0);
    ensure!(stream.created(with_id(0)).await?.watch_id == 2, "1 is taken");
    ensure!(stream.created(with_id(-7)).await?.watch_id == -7);
    let refused = stream.created(with_id(2)).await?;
    ensure!((refused.watch_id, refused.created, refused.canceled) == (-1, true, true));
    ensure!(refused.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream");
    stream.cancel(2).await?;
    let canceled = stream.next().await?;
    ensure!((canceled.watch_id, canceled.canceled, canceled.cancel_reason.as_str()) == (2, true, ""));
    ensure!(stream.created(with_id(2)).await?.watch_id == 2);
    let revision = api.put("i", "1").await?;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let answer = stream.next().await?;
        ensure!(brief(&answer.events) == [("i".to_owned(), revision)]);
        ids.push(answer.watch_id);
    }
    ids.sort_unstable();
    ensure!(ids == [-7, 0, 1, 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_says_why_in_etcds_words() -> Result<()> {
    let api = Api::start().await?;
    let mut stream = api.watch().await?;
    let negative = stream.created(single("n", -1)).await?;
    ensure!((negative.watch_id, negative.canceled, negative.compact_revision) == (-1, true, 0));
    ensure!(negative.cancel_reason == "etcdserver: mvcc: required revision has been compacted");
    let empty = WatchCreateRequest { range_end: "a".into(), ..single("b", 0) };
    let empty = stream.created(empty).await?;
    ensure!((empty.watch_id, empty.canceled) == (-1, true));
    ensure!(empty.cancel_reason == "mvcc: watcher range is empty");
    // Negative goes before empty.
    let both = WatchCreateRequest { range_end: "a".into(), ..single("b", -5) };
    ensure!(stream.created(both).await?.cancel_reason.contains("compacted"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_the_end_zero_watch_everything() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    stream.created(WatchCreateRequest { range_end: vec![0].into(), ..Default::default() }).await?;
    let first = api.put("a", "1").await?;
    api.put("\u{7f}", "1").await?;
    ensure!(
        stream.events(2).await?.last().context("two")?.kv.as_ref().context("kv")?.mod_revision == first + 1
    );
    Ok(())
}

/// Trap 23.
#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_at_the_compact_revision_is_kept_for_watchers() -> Result<()> {
    let mut api = Api::start().await?;
    api.put("x", "1").await?;
    let deleted = api.delete("x").await?;
    api.put("y", "1").await?;
    api.compact(deleted).await?;
    let mut stream = api.watch().await?;
    stream.created(WatchCreateRequest { range_end: vec![0].into(), ..single("a", deleted) }).await?;
    let expected = [("-x".to_owned(), deleted), ("y".to_owned(), deleted + 1)];
    ensure!(brief(&stream.events(2).await?) == expected);
    Ok(())
}

/// Trap 25.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_watch_is_created_then_canceled_and_its_id_stays_taken() -> Result<()> {
    let mut api = Api::start().await?;
    for _ in 0..8 {
        api.put("c", "1").await?;
    }
    api.compact(6).await?;
    let mut stream = api.watch().await?;
    let create = WatchCreateRequest { watch_id: 5, ..single("c", 3) };
    ensure!(!stream.created(create.clone()).await?.canceled);
    let ended = stream.next().await?;
    ensure!((ended.watch_id, ended.created, ended.canceled) == (5, false, true));
    ensure!((ended.compact_revision, ended.cancel_reason.as_str()) == (6, ""));
    ensure!(ended.header.context("header")?.revision == 0 && ended.events.is_empty());
    ensure!(stream.created(create).await?.watch_id == -1, "the id is still taken");
    stream.cancel(5).await?;
    let canceled = stream.next().await?;
    ensure!((canceled.watch_id, canceled.canceled, canceled.compact_revision) == (5, true, 0));
    // From the compact revision itself on is fine.
    stream.created(single("c", 6)).await?;
    ensure!(stream.events(4).await?.len() == 4);
    Ok(())
}

/// Trap 26.
#[tokio::test(flavor = "multi_thread")]
async fn a_progress_request_is_answered_only_if_every_watch_is_level_and_started() -> Result<()> {
    let mut api = Api::start().await?;
    let revision = api.put("g", "1").await?;
    let mut stream = api.watch().await?;
    stream.ask_progress().await?;
    stream.silent().await.context("a stream without watches")?;
    stream.created(single("g", 0)).await?;
    stream.ask_progress().await?;
    let progress = stream.next().await?;
    ensure!((progress.watch_id, progress.created, progress.canceled) == (-1, false, false));
    ensure!(progress.header.context("header")?.revision == revision && progress.events.is_empty());
    let future = stream.created(single("g", revision + 50)).await?.watch_id;
    stream.ask_progress().await?;
    stream.silent().await.context("a watch that has not started")?;
    stream.cancel(future).await?;
    stream.next().await?;
    stream.ask_progress().await?;
    ensure!(stream.next().await?.watch_id == -1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_the_future_is_silent_until_then() -> Result<()> {
    let mut api = Api::start().await?;
    let revision = api.put("u", "1").await?;
    let mut stream = api.watch().await?;
    stream.created(single("u", revision + 3)).await?;
    api.put("u", "2").await?;
    api.put("u", "3").await?;
    stream.silent().await?;
    api.put("u", "4").await?;
    ensure!(brief(&stream.events(1).await?) == [("u".to_owned(), revision + 3)]);
    Ok(())
}

/// Trap 27.
#[tokio::test(flavor = "multi_thread")]
async fn progress_never_overtakes_events_of_a_writer_at_full_speed() -> Result<()> {
    let api = Api::start().await?;
    let mut stream = api.watch().await?;
    stream.created(prefix("w/", 0)).await?;
    let mut writers = Vec::new();
    for writer in 0..8 {
        let mut kv = KvClient::new(api.member.connect().await?);
        writers.push(tokio::spawn(async move {
            for n in 0..150 {
                let key = format!("w/{writer}/{n}").into();
                kv.put(PutRequest { key, value: "v".into(), ..Default::default() }).await?;
            }
            anyhow::Ok(())
        }));
    }
    let (mut events, mut reports, mut promised, mut last) = (0, 0, 0, 0);
    stream.ask_progress().await?;
    while events < 1200 {
        let answer = stream.next().await?;
        if answer.events.is_empty() {
            promised = answer.header.context("header")?.revision;
            ensure!(promised >= last, "a report lags behind events that were sent");
            reports += 1;
            stream.ask_progress().await?;
        }
        for (key, revision) in brief(&answer.events) {
            ensure!(revision > promised, "{key}@{revision} after progress {promised}");
            ensure!(revision > last, "out of order");
            last = revision;
            events += 1;
        }
    }
    for writer in writers {
        writer.await??;
    }
    ensure!(reports > 3, "{reports} reports");
    Ok(())
}

/// Trap 28.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_revision_stay_in_one_answer_live_and_from_the_past() -> Result<()> {
    let mut api = Api::start().await?;
    let mut live = api.watch().await?;
    live.created(prefix("t/", 0)).await?;
    let revision = txn_of_puts(&mut api, 120, 12_000).await?;
    let mut past = api.watch().await?;
    past.created(prefix("t/", revision)).await?;
    for stream in [&mut live, &mut past] {
        let answer = stream.next().await?;
        ensure!(answer.events.len() == 120 && !answer.fragment, "{} events", answer.events.len());
    }
    Ok(())
}

/// Traps 29 and 48.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_two_watches_follow_one_another_and_records_before_count() -> Result<()> {
    let mut api = Api::start().await?;
    txn_of_puts(&mut api, 3, 500_000).await?;
    let mut stream = api.watch().await?;
    let create = |prev_kv| WatchCreateRequest { fragment: true, prev_kv, ..prefix("t/", 0) };
    stream.created(create(true)).await?;
    stream.created(create(true)).await?;
    stream.created(create(false)).await?;
    txn_of_puts(&mut api, 3, 500_000).await?;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let answer = stream.next().await?;
        seen.push((answer.watch_id, answer.fragment, answer.events.len()));
    }
    for watch in [0, 1] {
        let at = seen.iter().position(|(id, ..)| *id == watch).context("no answer")?;
        ensure!(seen[at..at + 2] == [(watch, true, 2), (watch, false, 1)], "{seen:?}");
    }
    ensure!(seen.contains(&(2, false, 3)), "{seen:?}");
    Ok(())
}

/// Trap 30: nobody may get a change without the record before that it asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watch_overtaken_by_compaction_gets_records_before_or_is_told() -> Result<()> {
    let mut api = Api::start().await?;
    let first = api.put("s", vec![0; 20_000]).await?;
    let mut stream = api.narrow_watch().await?;
    stream.created(WatchCreateRequest { prev_kv: true, ..single("s", 0) }).await?;
    let mut revision = first;
    for n in 0..600u32 {
        revision = api.put("s", vec![n as u8; 20_000]).await?;
        if n % 50 == 49 {
            api.compact(revision).await?;
        }
    }
    let mut next = first + 1;
    loop {
        let answer = stream.next().await?;
        if answer.canceled {
            ensure!(answer.compact_revision >= next, "ended at {} before {next}", answer.compact_revision);
            break;
        }
        for event in &answer.events {
            let at = event.kv.as_ref().context("kv")?.mod_revision;
            ensure!(at == next, "{at} instead of {next}");
            let before = event.prev_kv.as_ref().with_context(|| format!("no record before {at}"))?;
            ensure!(before.mod_revision == at - 1);
            next += 1;
        }
        if next > revision {
            break;
        }
    }
    Ok(())
}

/// Trap 31: a client that resumes as etcd's does misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn resuming_behind_the_last_event_or_report_misses_nothing() -> Result<()> {
    let mut api = Api::start().await?;
    let first = api.put("r", "0").await?;
    for n in 1..2500 {
        api.put("r", n.to_string()).await?;
    }
    let (mut next, mut rounds) = (first, 0);
    while next < first + 2500 {
        let mut stream = api.watch().await?;
        stream.created(single("r", next)).await?;
        let answer = stream.next().await?;
        for (_, revision) in brief(&answer.events) {
            ensure!(revision == next, "{revision} instead of {next}");
            next += 1;
        }
        rounds += 1;
        if next == first + 2500 {
            stream.ask_progress().await?;
            let promised = stream.next().await?.header.context("header")?.revision;
            ensure!(promised == next - 1);
        }
    }
    ensure!(rounds >= 3, "batches hold 1000 revisions at most");
    Ok(())
}

/// Trap 32.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_and_an_empty_request_have_no_answer_and_do_no_harm() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    stream.created(single("e", 0)).await?;
    stream.cancel(77).await?;
    stream.send(None).await?;
    stream.silent().await?;
    api.put("e", "1").await?;
    ensure!(stream.events(1).await?.len() == 1);
    Ok(())
}

/// Trap 33.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_stream_goes_on_delivering() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    stream.created(single("h", 0)).await?;
    stream.half_close();
    stream.silent().await?;
    api.put("h", "1").await?;
    ensure!(stream.events(1).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn periodic_reports_come_to_quiet_watches_that_asked_and_only_to_them() -> Result<()> {
    let options = program().flag("--watch-progress-notify-interval", "400ms");
    let mut api = Api::start_with(options).await?;
    let mut stream = api.watch().await?;
    let asking = WatchCreateRequest { progress_notify: true, ..single("q", 0) };
    stream.created(asking.clone()).await?;
    stream.created(single("q", 0)).await?;
    let revision = api.put("elsewhere", "1").await?;
    for _ in 0..3 {
        let report = stream.next().await?;
        ensure!((report.watch_id, report.events.len()) == (0, 0));
        ensure!(report.header.context("header")?.revision >= revision - 1);
    }
    // A watch that starts later than now reports nothing.
    let mut other = api.watch().await?;
    other.created(WatchCreateRequest { start_revision: revision + 9, ..asking }).await?;
    for _ in 0..3 {
        stream.next().await?;
    }
    other.silent().await
}

/// 600 puts of 50 kB while the client does not read: nothing is lost, nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_nothing_and_holds_up_nobody() -> Result<()> {
    let mut api = Api::start().await?;
    let mut slow = api.narrow_watch().await?;
    slow.created(prefix("b/", 0)).await?;
    let mut quick = api.watch().await?;
    quick.created(prefix("b/", 0)).await?;
    let mut revision = 0;
    for n in 0..600 {
        revision = api.put(&format!("b/{n:03}"), vec![n as u8; 50_000]).await?;
        ensure!(brief(&quick.events(1).await?) == [(format!("b/{n:03}"), revision)]);
    }
    let events = slow.events(600).await?;
    let expected: Vec<(String, i64)> =
        (0..600).map(|n| (format!("b/{n:03}"), revision - 599 + i64::from(n))).collect();
    ensure!(brief(&events) == expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_watched_over_a_crash() -> Result<()> {
    let mut api = Api::start().await?;
    let first = api.put("z", "1").await?;
    api.put("z", "2").await?;
    let mut stream = api.watch().await?;
    stream.created(WatchCreateRequest { prev_kv: true, ..single("z", 0) }).await?;
    let mut api = api.crash_and_restart().await?;
    ensure!(stream.end().await?.code() != tonic::Code::Ok);
    let mut stream = api.watch().await?;
    let create = pb::WatchCreateRequest { prev_kv: true, ..single("z", first) };
    stream.created(create).await?;
    let third = api.put("z", "3").await?;
    let events = stream.events(3).await?;
    ensure!(brief(&events).iter().map(|(_, revision)| *revision).eq(first..=third));
    ensure!(events[2].prev_kv.as_ref().is_some_and(|kv| kv.value == "2"));
    Ok(())
}

/// A hundred watches of ranges and keys, each told of its own.
#[tokio::test(flavor = "multi_thread")]
async fn many_watches_of_one_stream_are_each_told_of_their_keys_alone() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    for n in 0..100 {
        let create =
            if n % 2 == 0 { prefix(&format!("m/{n:02}/"), 0) } else { single(&format!("m/{n:02}/x"), 0) };
        stream.created(WatchCreateRequest { watch_id: n + 1, ..create }).await?;
    }
    for n in (0..100).rev() {
        let key = format!("m/{n:02}/x");
        api.put(&key, "1").await?;
        let answer = stream.next().await?;
        ensure!((answer.watch_id, brief(&answer.events)[0].0.as_str()) == (n + 1, key.as_str()));
    }
    stream.silent().await
}
