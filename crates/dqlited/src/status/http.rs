//! One GET over HTTP/1.0: enough to ask a member, no client library needed.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::urls::{Place, Url};

/// A status is a few hundred bytes; whoever sends more is somebody else.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The body of a 200 answer, or what went wrong in words.
pub async fn get(url: &Url, tls: Option<Arc<ClientConfig>>, path: &str) -> Result<Vec<u8>, String> {
    match &url.place {
        Place::Tcp(host, port) => {
            let stream =
                TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
            secured(stream, host, tls, path).await
        }
        Place::Unix(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
            secured(stream, "localhost", tls, path).await
        }
    }
}

async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    tls: Option<Arc<ClientConfig>>,
    path: &str,
) -> Result<Vec<u8>, String> {
    let Some(tls) = tls else {
        return exchange(stream, host, path).await;
    };
    let name = ServerName::try_from(host.to_string()).map_err(|error| format!("host {host:?}: {error}"))?;
    let stream =
        TlsConnector::from(tls).connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
    exchange(stream, host, path).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    path: &str,
) -> Result<Vec<u8>, String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // A peer that closes TLS without saying so is fine once the announced length is here.
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    match (body(&answer), read) {
        (Err(_), Err(error)) => Err(error.to_string()),
        (result, _) => result,
    }
}

/// Splits an HTTP/1 answer; the length is checked where the server tells it.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    const STRANGE: &str = "no answer of HTTP";
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or(STRANGE)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| STRANGE)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or(STRANGE)?;
    if status != "200" {
        return Err(format!("answered with HTTP status {status}: is this a dqlited?"));
    }
    let rest = &answer[end + 4..];
    let told: Option<usize> = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match told {
        Some(len) if rest.len() < len => Err(format!("answer cut short: {} of {len} bytes", rest.len())),
        Some(len) => Ok(rest[..len].to_vec()),
        None => Ok(rest.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_and_short_ones_refused() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok(b"{}".to_vec()));
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n\r\n{}"), Ok(b"{}".to_vec()));
        assert_eq!(
            body(b"HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\n{}"),
            Err("answer cut short: 2 of 9 bytes".into())
        );
        assert_eq!(
            body(b"HTTP/1.0 404 Not Found\r\n\r\n"),
            Err("answered with HTTP status 404: is this a dqlited?".into())
        );
        assert_eq!(body(b"SSH-2.0-x\r\n"), Err("no answer of HTTP".into()));
    }
}
