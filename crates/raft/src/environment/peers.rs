//! The way to other members: handed in, so that a simulation puts its own network there.

use std::time::Duration;

use dqlited_store::MemberId;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions, in order, unchanged and whole up to some point; dropping it ends it on both sides.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Opens connections to other members. All that this member says to another goes over what it opens.
///
/// Rules: `connect` opens a new connection each time and says nothing on it; it ends within the given time; dropping its
/// future gives the attempt up. It may be called from several tasks at once. It is not asked to try again: whoever
/// calls it decides when. That a connection is open proves nothing about who answers there.
pub trait PeerConnector: Send + Sync + 'static {
    /// A connection to this member.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] when it is known that there is none, [`PeerError::TimedOut`] when nothing is known.
    fn connect(
        &self,
        to: MemberId,
        within: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn PeerStream>, PeerError>>;
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It was refused, or there is no way to the member.
    #[error("member {member} is unreachable: {reason}")]
    Unreachable {
        /// Who was asked for.
        member: MemberId,
        /// Why not.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("member {member} did not answer within {within:?}")]
    TimedOut {
        /// Who was asked for.
        member: MemberId,
        /// How long was waited.
        within: Duration,
    },
}

/// What the program uses: it serves clusters of one member, so there is nobody to connect to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl PeerConnector for NoPeers {
    fn connect(
        &self,
        to: MemberId,
        _within: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn PeerStream>, PeerError>> {
        let reason = "this version serves clusters of one member".to_string();
        Box::pin(async move { Err(PeerError::Unreachable { member: to, reason }) })
    }
}
