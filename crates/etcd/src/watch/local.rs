//! A watch of the member's own, for the Lock and Election services.

use std::sync::Arc;

use dqlited_raft::Node;
use dqlited_store::Event;
use tokio::task::AbortHandle;
use tonic::Status;

use super::catch_up;
use super::hub::{Hub, WatchStream};
use super::interval::KeyInterval;
use super::message::Message;
use super::watcher::WatchSpec;
use crate::status::EtcdError;

/// One watch on a stream of its own.
pub struct LocalWatch {
    stream: Arc<WatchStream>,
    task: AbortHandle,
}

/// Events that came together.
#[derive(Debug)]
pub struct LocalEvents {
    /// The header's revision.
    pub revision: i64,
    /// In order.
    pub events: Vec<Event>,
}

impl LocalWatch {
    /// Watches an interval from a revision on.
    pub fn begin(hub: &Arc<Hub>, node: &Node, interval: KeyInterval, start_revision: i64) -> LocalWatch {
        let stream = Arc::new(hub.open());
        let (driven, history) = (stream.clone(), node.clone());
        let task = tokio::spawn(async move { catch_up::run(&driven, &history).await }).abort_handle();
        stream.create(WatchSpec {
            interval,
            start_revision,
            watch_id: 0,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            fragment: false,
        });
        LocalWatch { stream, task }
    }

    /// The next events, or why there are none.
    pub async fn next(&mut self) -> Result<LocalEvents, Status> {
        loop {
            let queue = self.stream.queue();
            match std::future::poll_fn(|context| queue.poll_next(context)).await {
                None => return Err(EtcdError::Stopped.into()),
                Some(Err(status)) => return Err(status),
                Some(Ok(Message::Events { revision, parts, .. })) => {
                    let events = parts.iter().flat_map(|part| part.events());
                    let events = events.map(|event| event.event().clone()).collect();
                    return Ok(LocalEvents { revision, events });
                }
                Some(Ok(Message::Compacted { .. })) => return Err(EtcdError::Compacted.into()),
                Some(Ok(_)) => {}
            }
        }
    }
}

impl Drop for LocalWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
