//! Binds the listeners, before anything else is started: a port in use is the commonest mistake.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dqlited_etcd::server::{Endpoint, Serves, Socket};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::failure::Failure;
use crate::urls::{Place, Url};

/// Connections that may wait to be accepted: kube-apiserver opens more than a hundred at once.
const BACKLOG: u32 = 1024;

/// All bound listeners.
pub struct Bound {
    endpoints: Vec<Endpoint>,
    /// The URL of each, with the address and port that were really bound.
    pub urls: Vec<(Serves, String)>,
    socket_files: Vec<SocketFile>,
}

impl Bound {
    /// What the services take, and the files to keep until the end.
    pub fn into_endpoints(self) -> (Vec<Endpoint>, Vec<SocketFile>) {
        (self.endpoints, self.socket_files)
    }
}

/// A Unix socket's file, removed when this is dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds what the settings ask for.
pub async fn bind(config: &Config, tls: Option<Arc<ServerConfig>>) -> Result<Bound, Failure> {
    let clients = if config.listen_client_http.is_empty() { Serves::Clients } else { Serves::Grpc };
    let lists = [
        ("listen-client-urls", clients, &config.listen_client),
        ("listen-client-http-urls", Serves::Http, &config.listen_client_http),
        ("listen-metrics-urls", Serves::Metrics, &config.listen_metrics),
    ];
    let mut bound = Bound { endpoints: Vec::new(), urls: Vec::new(), socket_files: Vec::new() };
    for (flag, serves, urls) in lists {
        for url in urls {
            let tls = tls.clone().filter(|_| url.is_secure).map(TlsAcceptor::from);
            let (socket, shown) = match &url.place {
                Place::Tcp(host, port) => {
                    let listener = bind_tcp(host, *port).map_err(|error| tcp_failure(flag, url, &error))?;
                    let address = listener.local_addr().map_err(|error| tcp_failure(flag, url, &error))?;
                    let scheme = if url.is_secure { "https" } else { "http" };
                    (Socket::Tcp(listener), format!("{scheme}://{address}"))
                }
                Place::Unix(path) => {
                    let listener = bind_unix(path)
                        .map_err(|fault| Failure::failed(format!("--{flag}: \"{url}\": {fault}")))?;
                    bound.socket_files.push(SocketFile(path.clone()));
                    (Socket::Unix(listener), url.to_string())
                }
            };
            bound.endpoints.push(Endpoint { socket, tls, serves });
            bound.urls.push((serves, shown));
        }
    }
    Ok(bound)
}

fn bind_tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    // Go binds localhost to the IPv4 address too.
    let address: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)
}

fn tcp_failure(flag: &str, url: &Url, error: &io::Error) -> Failure {
    let (host, port) = match &url.place {
        Place::Tcp(host, port) => (host.as_str(), *port),
        Place::Unix(_) => ("", 0),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::failed(format!("--{flag}: port {port} of \"{url}\" is in use by another process"))
                .hint(format!("`ss -ltnp sport = :{port}` names it"))
        }
        io::ErrorKind::AddrNotAvailable => {
            Failure::failed(format!("--{flag}: \"{url}\": {host} is not an address of this machine"))
        }
        _ => Failure::failed(format!("--{flag}: cannot listen on \"{url}\": {error}")),
    }
}

/// A socket file that nobody serves is left over from a crash and taken over, as etcd does; one that is served, or a
/// file of another kind, is not.
fn bind_unix(path: &Path) -> Result<UnixListener, String> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err("a file that is no socket is in the way".into());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err("the socket is in use by another process".into());
        }
        Ok(_) => fs::remove_file(path).map_err(|error| format!("cannot remove the old socket: {error}"))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| error.to_string())?;
    // Whoever can open it can read and write everything.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| error.to_string())?;
    Ok(listener)
}
