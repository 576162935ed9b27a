//! What waits for clients that do not read is bounded, for one stream and for all of them together.

use super::model::Member;
use crate::watch::hub::Hub;
use crate::watch::interval::KeyInterval;
use crate::watch::queue::WatchLimits;
use crate::watch::watcher::WatchSpec;

#[test]
fn streams_that_nobody_reads_keep_to_the_bound_of_all() {
    const STREAMS: usize = 40;
    let all_bytes_max = 64 << 10;
    let hub = Hub::new(WatchLimits { all_bytes_max, ..WatchLimits::default() });
    let member = Member::new(hub.clone(), 1);
    let streams: Vec<_> = (0..STREAMS).map(|_| hub.open()).collect();
    for stream in &streams {
        stream.create(WatchSpec {
            interval: KeyInterval::from_request(Default::default(), bytes::Bytes::from_static(&[0])),
            start_revision: 0,
            watch_id: 0,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: true,
            fragment: false,
        });
    }
    for _ in 0..400 {
        member.execute();
        member.publish();
    }
    let stats = hub.stats();
    assert_eq!(stats.slow_watchers, STREAMS, "all have met the bound");
    assert!(stats.pending_bytes <= all_bytes_max, "{} bytes wait", stats.pending_bytes);
    assert!(stats.pending_events > 0);
    drop(streams);
    assert_eq!((hub.stats().pending_bytes, hub.stats().pending_events), (0, 0));
}
