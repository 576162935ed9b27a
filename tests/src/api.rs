//! What the API tests share: a member, its clients, a watch stream at the level of messages.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::lease_client::LeaseClient;
use dqlited_proto::etcdserverpb::watch_client::WatchClient;
use dqlited_proto::etcdserverpb::watch_request::RequestUnion;
use dqlited_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest, WatchRequest, WatchResponse,
};
use dqlited_proto::mvccpb::Event;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Member, MemberOptions};

/// How long an answer may take on a busy machine.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long nothing must come where nothing is to come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A member with its clients.
pub struct Api {
    /// The member.
    pub member: Member,
    /// KV.
    pub kv: KvClient<Channel>,
    /// Lease.
    pub lease: LeaseClient<Channel>,
    /// The connection that both use.
    pub channel: Channel,
}

/// The program that the tests are about: `dqlited`, or etcd with `API_TESTS_ON=etcd`, to see that they say the truth
/// about etcd.
pub fn program() -> MemberOptions {
    match std::env::var("API_TESTS_ON").as_deref() {
        Ok("etcd") => MemberOptions::etcd(),
        _ => MemberOptions::dqlited(),
    }
}

impl Api {
    /// A fresh member.
    pub async fn start() -> Result<Api> {
        Api::start_with(program()).await
    }

    /// A fresh member with these options.
    pub async fn start_with(options: MemberOptions) -> Result<Api> {
        Api::of(Member::start(options).await?).await
    }

    /// Clients of a running member.
    pub async fn of(member: Member) -> Result<Api> {
        let channel = member.connect().await?;
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let lease = LeaseClient::new(channel.clone());
        Ok(Api { member, kv, lease, channel })
    }

    /// The member is killed and started again on its data.
    pub async fn crash_and_restart(mut self) -> Result<Api> {
        self.member.kill()?;
        self.member.start_again().await?;
        Api::of(self.member).await
    }

    /// Puts and answers the revision.
    pub async fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) -> Result<i64> {
        self.put_leased(key, value, 0).await
    }

    /// Puts under a lease and answers the revision.
    pub async fn put_leased(&mut self, key: &str, value: impl Into<Vec<u8>>, lease: i64) -> Result<i64> {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.into().into(),
            lease,
            ..Default::default()
        };
        Ok(self.kv.put(put).await?.into_inner().header.context("header")?.revision)
    }

    /// Deletes and answers the revision.
    pub async fn delete(&mut self, key: &str) -> Result<i64> {
        let delete = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        Ok(self.kv.delete_range(delete).await?.into_inner().header.context("header")?.revision)
    }

    /// Compacts.
    pub async fn compact(&mut self, revision: i64) -> Result<()> {
        self.kv.compact(CompactionRequest { revision, physical: true }).await?;
        Ok(())
    }

    /// A watch stream on the shared connection.
    pub async fn watch(&self) -> Result<WatchStream> {
        WatchStream::open(self.channel.clone()).await
    }

    /// A watch stream on a connection of its own whose windows are so small that the server soon has to wait for the
    /// reader.
    pub async fn narrow_watch(&self) -> Result<WatchStream> {
        let endpoint = Endpoint::from_shared(self.member.url.clone())?
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535);
        WatchStream::open(endpoint.connect().await?).await
    }
}

/// A watch on a prefix (its last byte is raised for the end) from a revision on.
pub fn prefix(key: &str, start_revision: i64) -> WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    WatchCreateRequest { range_end: end.into(), ..single(key, start_revision) }
}

/// A watch on one key from a revision on.
pub fn single(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), start_revision, ..Default::default() }
}

/// A watch stream, message by message.
pub struct WatchStream {
    requests: Option<mpsc::Sender<WatchRequest>>,
    /// Until the server has answered at all, which etcd does with its first message only.
    opening: Option<JoinHandle<Result<Streaming<WatchResponse>, Status>>>,
    answers: Option<Streaming<WatchResponse>>,
}

impl WatchStream {
    /// Opens one.
    pub async fn open(channel: Channel) -> Result<WatchStream> {
        let (send, receive) = mpsc::channel(64);
        let mut client = WatchClient::new(channel).max_decoding_message_size(256 << 20);
        let opening = tokio::spawn(async move {
            let requests = Request::new(ReceiverStream::new(receive));
            client.watch(requests).await.map(Response::into_inner)
        });
        Ok(WatchStream { requests: Some(send), opening: Some(opening), answers: None })
    }

    async fn take(&mut self, bound: Duration) -> Result<Option<Result<WatchResponse, Status>>, Elapsed> {
        tokio::time::timeout(bound, async {
            if let Some(opening) = &mut self.opening {
                let opened = opening.await.expect("the task does not panic");
                self.opening = None;
                match opened {
                    Ok(answers) => self.answers = Some(answers),
                    Err(status) => return Some(Err(status)),
                }
            }
            match &mut self.answers {
                Some(answers) => answers.next().await,
                None => None,
            }
        })
        .await
    }

    /// Sends a request.
    pub async fn send(&self, request: Option<RequestUnion>) -> Result<()> {
        let requests = self.requests.as_ref().context("the stream is half closed")?;
        Ok(requests.send(WatchRequest { request_union: request }).await?)
    }

    /// Asks for a watch.
    pub async fn create(&self, create: WatchCreateRequest) -> Result<()> {
        self.send(Some(RequestUnion::CreateRequest(create))).await
    }

    /// Asks for a watch and takes the answer, which must be next.
    pub async fn created(&mut self, create: WatchCreateRequest) -> Result<WatchResponse> {
        self.create(create).await?;
        let answer = self.next().await?;
        if !answer.created {
            bail!("not the answer to a create request: {answer:?}");
        }
        Ok(answer)
    }

    /// Asks for a watch's end.
    pub async fn cancel(&self, watch_id: i64) -> Result<()> {
        self.send(Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))).await
    }

    /// Asks for progress.
    pub async fn ask_progress(&self) -> Result<()> {
        self.send(Some(RequestUnion::ProgressRequest(WatchProgressRequest {}))).await
    }

    /// Sends nothing more.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer.
    pub async fn next(&mut self) -> Result<WatchResponse> {
        let next = self.take(ANSWER_MAX).await;
        Ok(next.context("no answer in time")?.context("the stream has ended")??)
    }

    /// How the stream ends, when it does.
    pub async fn end(&mut self) -> Result<Status> {
        loop {
            match self.take(ANSWER_MAX).await.context("no end in time")? {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Ok(status),
                None => return Ok(Status::ok("")),
            }
        }
    }

    /// Nothing comes for a while.
    pub async fn silent(&mut self) -> Result<()> {
        match self.take(SILENCE).await {
            Err(_elapsed) => Ok(()),
            Ok(answer) => bail!("not silent: {answer:?}"),
        }
    }

    /// Events until there are so many; answers that carry none are refused.
    pub async fn events(&mut self, count: usize) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.next().await?;
            if answer.events.is_empty() || answer.canceled {
                bail!("{} of {count} events, then {answer:?}", events.len());
            }
            events.extend(answer.events);
        }
        Ok(events)
    }
}

/// Key and revision of each event, `-` before the key of a deletion.
pub fn brief(events: &[Event]) -> Vec<(String, i64)> {
    events
        .iter()
        .map(|event| {
            let kv = event.kv.clone().unwrap_or_default();
            let sign = if event.r#type == 1 { "-" } else { "" };
            (format!("{sign}{}", String::from_utf8_lossy(&kv.key)), kv.mod_revision)
        })
        .collect()
}
