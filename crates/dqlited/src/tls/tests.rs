//! Handshakes against the server's configuration, with certificates made for the test.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A folder with `ca.crt` and, for each name asked for, `NAME.crt` and `NAME.key` of that CA.
struct Pki {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Pki {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Pki { dir: tempfile::tempdir().unwrap(), ca };
        fs::write(pki.path("ca.crt"), pki.ca.pem()).unwrap();
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_string(), "127.0.0.1".to_string()]).unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        fs::write(self.path(&format!("{name}.crt")), cert.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            cert: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
            client_ca: None,
            without_tls12: false,
            without_tls13: false,
        }
    }
}

/// Shakes hands and sends a byte each way; gives what the server saw agreed on.
async fn shake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> Result<(Option<Vec<u8>>, rustls::ProtocolVersion), String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_u8(2).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        let (_, connection) = stream.get_ref();
        let agreed = connection.alpn_protocol().map(<[u8]>::to_vec);
        Ok((agreed, connection.protocol_version().expect("after the handshake")))
    };
    let connected = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream =
            TlsConnector::from(client).connect(name, near).await.map_err(|error| error.to_string())?;
        stream.write_u8(1).await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())
    };
    let (accepted, connected) = tokio::join!(accepted, connected);
    connected.and(accepted)
}

fn offering(client: Arc<ClientConfig>, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut client = (*client).clone();
    client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(client)
}

#[tokio::test]
async fn clients_may_choose_http2_http1_or_nothing() {
    let pki = Pki::new();
    pki.issue("server");
    let server = server(&pki.files("server")).unwrap();
    let client = client(&pki.path("ca.crt"), None).unwrap();
    for (offer, agreed) in [
        (&["h2"][..], Some("h2")),
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"][..], Some("http/1.1")),
        (&[][..], None),
    ] {
        let (protocol, _) = shake(server.clone(), offering(client.clone(), offer)).await.unwrap();
        assert_eq!(protocol, agreed.map(|name| name.as_bytes().to_vec()), "{offer:?}");
    }
}

#[tokio::test]
async fn with_a_client_ca_only_its_certificates_come_in() {
    let (pki, strangers) = (Pki::new(), Pki::new());
    pki.issue("server");
    pki.issue("client");
    strangers.issue("client");
    let mut files = pki.files("server");
    files.client_ca = Some(pki.path("ca.crt"));
    let server = server(&files).unwrap();
    let ca = pki.path("ca.crt");

    let (cert, key) = (pki.path("client.crt"), pki.path("client.key"));
    let known = client(&ca, Some((&cert, &key))).unwrap();
    assert!(shake(server.clone(), known).await.is_ok());

    let nameless = client(&ca, None).unwrap();
    assert!(shake(server.clone(), nameless).await.is_err());

    let (cert, key) = (strangers.path("client.crt"), strangers.path("client.key"));
    let strange = client(&ca, Some((&cert, &key))).unwrap();
    assert!(shake(server, strange).await.is_err());
}

#[tokio::test]
async fn versions_of_tls_are_bounded_as_asked() {
    let pki = Pki::new();
    pki.issue("server");
    let client = client(&pki.path("ca.crt"), None).unwrap();
    let with = |without_tls12, without_tls13| {
        server(&TlsFiles { without_tls12, without_tls13, ..pki.files("server") }).unwrap()
    };
    let (_, version) = shake(with(false, false), client.clone()).await.unwrap();
    assert_eq!(version, rustls::ProtocolVersion::TLSv1_3);
    let (_, version) = shake(with(false, true), client.clone()).await.unwrap();
    assert_eq!(version, rustls::ProtocolVersion::TLSv1_2);
    let (_, version) = shake(with(true, false), client).await.unwrap();
    assert_eq!(version, rustls::ProtocolVersion::TLSv1_3);
}

#[test]
fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let pki = Pki::new();
    pki.issue("server");
    let resolver = FileCertificate::open(&pki.files("server"), Arc::new(ring::default_provider())).unwrap();
    let begun = Instant::now();
    let first = resolver.at(begun).cert[0].clone();

    pki.issue("server");
    let at_once = resolver.at(begun).cert[0].clone();
    assert_eq!(at_once, first, "the files are not looked at for each handshake");
    let second = resolver.at(begun + 2 * LOOK_INTERVAL).cert[0].clone();
    assert_ne!(second, first);

    // Half of a renewal: the certificate is new, the key is still the old one.
    let key = fs::read(pki.path("server.key")).unwrap();
    pki.issue("server");
    let new_key = fs::read(pki.path("server.key")).unwrap();
    fs::write(pki.path("server.key"), key).unwrap();
    assert_eq!(resolver.at(begun + 4 * LOOK_INTERVAL).cert[0], second);
    fs::write(pki.path("server.key"), new_key).unwrap();
    assert_ne!(resolver.at(begun + 6 * LOOK_INTERVAL).cert[0], second);

    fs::remove_file(pki.path("server.crt")).unwrap();
    resolver.at(begun + 8 * LOOK_INTERVAL);
}

#[test]
fn bad_files_are_named_with_their_flag() {
    let pki = Pki::new();
    pki.issue("a");
    pki.issue("b");
    let text = |files: &TlsFiles| server(files).expect_err("a bad file").text;
    let path = |name: &str| format!("{:?}", pki.path(name).display().to_string());

    let mut files = pki.files("a");
    files.key = pki.path("b.key");
    assert_eq!(
        text(&files),
        format!("--key-file: {} is not the key of the certificate in {}", path("b.key"), path("a.crt"))
    );
    files.key = pki.path("nowhere");
    assert_eq!(
        text(&files),
        format!("--key-file: cannot read {}: No such file or directory (os error 2)", path("nowhere"))
    );
    files.key = pki.path("a.crt");
    assert_eq!(text(&files), format!("--key-file: no private key (PEM) in {}", path("a.crt")));
    files = pki.files("a");
    files.cert = pki.path("a.key");
    assert_eq!(text(&files), format!("--cert-file: no certificate (PEM) in {}", path("a.key")));
    files = pki.files("a");
    files.client_ca = Some(pki.path("nowhere"));
    assert_eq!(
        text(&files),
        format!("--trusted-ca-file: cannot read {}: No such file or directory (os error 2)", path("nowhere"))
    );
}
