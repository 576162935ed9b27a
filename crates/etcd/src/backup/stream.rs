//! A backup on its way to a client: a file without a name in the data directory, sent in blobs, then its sha256.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use dqlited_proto::etcdserverpb::SnapshotResponse;
use futures::Stream;
use futures::stream;
use sha2::{Digest, Sha256};
use tonic::Status;
use tracing::{info, warn};

use crate::backup::export::{self, ExportError, Membership};
use crate::call::Deadline;
use crate::context::Context;
use crate::disk;
use crate::status::{from_read_error, from_read_failure};
use crate::version;

/// Bytes of one message, as etcd.
const BLOB_BYTES: usize = 32 << 10;
/// Bytes read from the file at once: a hop to a blocking thread for each.
const READ_BYTES: usize = 1 << 20;
/// Left free on the disk beside the backup: a member whose log cannot grow ends.
const SPARE_BYTES: u64 = 64 << 20;

/// What the Snapshot call answers.
pub type BackupStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

/// Writes a backup of this moment and answers the stream of its bytes. The file has no name: whatever ends the stream
/// or the process frees it.
pub async fn begin(context: &Context, deadline: Deadline) -> Result<BackupStream, Status> {
    let node = &context.node;
    let data_dir = node.data_dir().to_path_buf();
    let membership = Membership { voters: vec![node.member_id().0], learners: Vec::new() };
    // What was told to anyone is in the backup (rule D5): the barrier commits first.
    let barrier = node.local_barrier();
    let written = node
        .read(barrier, deadline.at, move |view| {
            let needed = view.database_size()?.in_use_bytes as u64 + SPARE_BYTES;
            let free = disk::free_bytes(&data_dir)?;
            if free < needed {
                return Ok(Err(NoRoom { needed, free }));
            }
            let mut file = tempfile::tempfile_in(&data_dir)?;
            let bytes = export::export(view, &membership, &mut file)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(Ok((file, bytes)))
        })
        .await
        .map_err(|error| deadline.judge(from_read_failure(error)))?;
    let (file, bytes) = match written {
        Ok(Ok(written)) => written,
        Ok(Err(no_room)) => return Err(Status::resource_exhausted(format!("etcdserver: {no_room}"))),
        Err(ExportError::Read(error)) => return Err(from_read_error(error)),
        Err(error @ ExportError::Write(_)) => {
            warn!(%error, "backup");
            return Err(Status::internal(format!("etcdserver: {error}")));
        }
    };
    info!(bytes, "sending a backup");
    Ok(send(file, bytes))
}

/// The disk has no place for the backup's file.
#[derive(Debug, thiserror::Error)]
#[error("a backup needs {needed} bytes free in the data directory, {free} are")]
struct NoRoom {
    needed: u64,
    free: u64,
}

struct Sender {
    file: File,
    hash: Sha256,
    read: Bytes,
    remaining: u64,
    is_hash_sent: bool,
}

/// The bytes of a file in etcd's blobs. Nothing is read ahead of the client by more than [`READ_BYTES`].
fn send(file: File, bytes: u64) -> BackupStream {
    let sender =
        Sender { file, hash: Sha256::new(), read: Bytes::new(), remaining: bytes, is_hash_sent: false };
    Box::pin(stream::try_unfold(sender, |sender| async move {
        if sender.is_hash_sent {
            return Ok(None);
        }
        sender
            .next()
            .await
            .map(Some)
            .map_err(|error| Status::internal(format!("etcdserver: backup: {error}")))
    }))
}

impl Sender {
    async fn next(mut self) -> io::Result<(SnapshotResponse, Sender)> {
        if self.read.is_empty() && self.remaining > 0 {
            self = tokio::task::spawn_blocking(move || self.read_on()).await.map_err(io::Error::other)??;
        }
        let blob = if self.remaining == 0 {
            self.is_hash_sent = true;
            Bytes::copy_from_slice(&self.hash.clone().finalize())
        } else {
            self.read.split_to(BLOB_BYTES.min(self.read.len()))
        };
        if !self.is_hash_sent {
            self.remaining -= blob.len() as u64;
        }
        let message = SnapshotResponse {
            header: None,
            remaining_bytes: self.remaining,
            blob,
            version: version::ETCD_STORAGE.to_owned(),
        };
        Ok((message, self))
    }

    fn read_on(mut self) -> io::Result<Sender> {
        let length = self.remaining.min(READ_BYTES as u64) as usize;
        let mut buffer = BytesMut::zeroed(length);
        self.file.read_exact(&mut buffer)?;
        self.hash.update(&buffer);
        self.read = buffer.freeze();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use std::io::Write;

    use super::*;

    async fn received(bytes: usize) -> Vec<SnapshotResponse> {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        file.write_all(&content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let messages: Vec<_> = send(file, bytes as u64).map(Result::unwrap).collect().await;
        let (last, body) = messages.split_last().unwrap();
        let sent: Vec<u8> = body.iter().flat_map(|message| message.blob.to_vec()).collect();
        assert!(sent == content, "the blobs are the file");
        assert_eq!(last.blob, Bytes::copy_from_slice(&Sha256::digest(&content)), "the sha256 comes last");
        messages
    }

    #[tokio::test]
    async fn a_file_arrives_in_blobs_of_32_kib_with_what_remains_and_its_hash_last() {
        for bytes in [4096, 32 << 10, (32 << 10) + 512, (1 << 20) + 4096, 3 << 20] {
            let messages = received(bytes).await;
            let (last, body) = messages.split_last().unwrap();
            assert!(body.iter().rev().skip(1).all(|message| message.blob.len() == BLOB_BYTES));
            let mut remaining = bytes as u64;
            for message in body {
                remaining -= message.blob.len() as u64;
                assert_eq!(message.remaining_bytes, remaining);
            }
            assert_eq!((remaining, last.remaining_bytes), (0, 0));
            assert!(messages.iter().all(|message| message.header.is_none() && message.version == "3.7.0"));
        }
    }
}
