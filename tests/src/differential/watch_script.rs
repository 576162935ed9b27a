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

/// What the stream showed, in a form in which two servers agree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Creations, cancels and progress replies in order, as text.
    pub control: Vec<String>,
    /// Events of each watch, in order.
    pub events: BTreeMap<i64, Vec<mvccpb::Event>>,
    /// Promises that were broken on the way (must stay empty).
    pub broken: Vec<String>,
    /// What the writes answered: header revisions.
    pub writes: Vec<String>,
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
                seen.control.push("the stream ended".into());
                return Ok(());
            }
            Ok(Some(Err(status))) => {
                seen.control.push(format!("the stream ended: {:?} {}", status.code(), status.message()));
                return Ok(());
            }
            Ok(Some(Ok(answer))) => take(answer, seen),
        }
    }
}

/// Batches of a watch that catches up depend on time; order, completeness and whole revisions do not.
fn take(answer: pb::WatchResponse, seen: &mut Seen) {
    let header = answer.header.unwrap_or_default();
    if answer.created || answer.canceled || answer.events.is_empty() {
        let kind = match (answer.created, answer.canceled) {
            (true, true) => "refused",
            (true, false) => "created",
            (false, true) => "canceled",
            (false, false) => "progress",
        };
        seen.control.push(format!(
            "{kind} id {} revision {} compact {} reason {:?}",
            answer.watch_id, header.revision, answer.compact_revision, answer.cancel_reason
        ));
        return;
    }
    let events = seen.events.entry(answer.watch_id).or_default();
    let (first, last) = match (answer.events.first(), answer.events.last()) {
        (Some(first), Some(last)) => (revision_of(first), revision_of(last)),
        _ => return,
    };
    if events.last().is_some_and(|event| revision_of(event) == first) && !answer.fragment {
        seen.broken.push(format!("watch {}: revision {first} came in two responses", answer.watch_id));
    }
    if header.revision < last {
        seen.broken.push(format!("watch {}: header {} below event {last}", answer.watch_id, header.revision));
    }
    events.extend(answer.events);
}

fn revision_of(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
