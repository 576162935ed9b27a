//! One watch stream with its creates and cancels, some writes while it is open, and what came back.

use std::collections::BTreeMap;
use std::time::Duration;

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::watch_client::WatchClient;
use dqlited_proto::etcdserverpb::watch_request::RequestUnion;
use dqlited_proto::mvccpb;
use futures::StreamExt;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Channel;

/// The stream counts as silent after this time without a message: etcd serves watches that catch up every 100 ms.
const SILENCE: Duration = Duration::from_millis(250);
/// A script is broken when it takes longer.
const SCRIPT_MAX: Duration = Duration::from_secs(20);

/// What happens on and beside the stream, in order.
#[derive(Clone, Debug, Default)]
pub struct WatchScript {
    /// Steps.
    pub steps: Vec<Step>,
}

/// One step of a script.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Create(pb::WatchCreateRequest),
    Cancel(i64),
    Progress,
    /// A request with nothing in its union.
    Empty,
    Write(pb::TxnRequest),
    /// Waits until the stream is silent, so that both servers are at the same place.
    Settle,
}

/// What the stream showed. The first three as they came; the others are filled in by `masked.rs`, which takes the events
/// out of the responses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Responses, in order.
    pub responses: Vec<pb::WatchResponse>,
    /// The stream ended, and with what.
    pub ended: Option<String>,
    /// What the writes answered: header revisions.
    pub writes: Vec<String>,
    /// Events of each watch, in order.
    pub events: BTreeMap<i64, Vec<mvccpb::Event>>,
    /// Promises that were broken on the way (must stay empty).
    pub broken: Vec<String>,
}

/// A response that brings no events: a creation, a cancel or a progress report.
pub fn is_control(response: &pb::WatchResponse) -> bool {
    response.created || response.canceled || response.events.is_empty()
}

/// Plays the script against a server.
pub async fn play(channel: Channel, script: &WatchScript) -> Result<Seen, Status> {
    tokio::time::timeout(SCRIPT_MAX, play_steps(channel, script))
        .await
        .unwrap_or_else(|_| Err(Status::aborted("the watch script did not end in time")))
}

async fn play_steps(channel: Channel, script: &WatchScript) -> Result<Seen, Status> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let mut client = WatchClient::new(channel.clone());
    // The answer's headers may come only with the first message, so the first request goes ahead of the call.
    let mut seen = Seen::default();
    let mut steps = script.steps.iter();
    let mut first = None;
    for step in steps.by_ref() {
        match request_of(step) {
            Some(request) => {
                first = Some(request);
                break;
            }
            None => beside(&channel, step, &mut seen).await?,
        }
    }
    let Some(first) = first else { return Ok(seen) };
    let _ = sender.send(first);
    let mut answers = client.watch(requests).await?.into_inner().boxed();
    for step in steps {
        match step {
            Step::Settle => settle(&mut answers, &mut seen).await?,
            Step::Write(_) => beside(&channel, step, &mut seen).await?,
            on_stream => {
                if let Some(request) = request_of(on_stream) {
                    let _ = sender.send(request);
                }
            }
        }
    }
    settle(&mut answers, &mut seen).await?;
    Ok(seen)
}

fn request_of(step: &Step) -> Option<pb::WatchRequest> {
    let union = match step {
        Step::Create(create) => Some(RequestUnion::CreateRequest(create.clone())),
        Step::Cancel(watch_id) => {
            Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: *watch_id }))
        }
        Step::Progress => Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
        Step::Empty => None,
        Step::Write(_) | Step::Settle => return None,
    };
    Some(pb::WatchRequest { request_union: union })
}

async fn beside(channel: &Channel, step: &Step, seen: &mut Seen) -> Result<(), Status> {
    if let Step::Write(txn) = step {
        let text = match KvClient::new(channel.clone()).txn(txn.clone()).await {
            Ok(answer) => format!("revision {}", answer.into_inner().header.unwrap_or_default().revision),
            Err(status) => format!("{:?} {}", status.code(), status.message()),
        };
        seen.writes.push(text);
    }
    Ok(())
}

async fn settle<S>(answers: &mut S, seen: &mut Seen) -> Result<(), Status>
where
    S: futures::Stream<Item = Result<pb::WatchResponse, Status>> + Unpin,
{
    loop {
        match tokio::time::timeout(SILENCE, answers.next()).await {
            Err(_) => return Ok(()),
            Ok(None) => {
                seen.ended = Some(String::new());
                return Ok(());
            }
            Ok(Some(Err(status))) => {
                seen.ended = Some(format!(": {:?} {}", status.code(), status.message()));
                return Ok(());
            }
            Ok(Some(Ok(answer))) => seen.responses.push(answer),
        }
    }
}
