//! TLS of the listeners, from the operator's files; a certificate that was replaced is taken up without a restart.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::TlsFiles;
use crate::failure::Failure;

#[cfg(test)]
mod tests;

/// How often the files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The TLS of client listeners: ALPN h2 and http/1.1.
pub fn server(files: &TlsFiles) -> Result<Arc<ServerConfig>, Failure> {
    let provider = Arc::new(ring::default_provider());
    let resolver = FileCertificate::open(files, provider.clone())?;
    let versions: &[_] = match (files.without_tls12, files.without_tls13) {
        (true, _) => &[&TLS13],
        (_, true) => &[&TLS12],
        _ => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| Failure::failed(format!("TLS: {error}")))?;
    let builder = match &files.client_ca {
        Some(ca) => {
            let roots = Arc::new(roots("--trusted-ca-file", ca)?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().map_err(|error| {
                    Failure::wrong_call(format!("--trusted-ca-file: {}: {error}", ca.display()))
                })?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The TLS of a client of ours: `ca` says whom to trust, `identity` is certificate and key to show.
pub fn client(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, Failure> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::failed(format!("TLS: {error}")))?
        .with_root_certificates(roots("--cacert", ca)?);
    let mut config = match identity {
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates("--cert", cert)?, private_key("--key", key)?)
            .map_err(|error| Failure::wrong_call(format!("--cert: {}: {error}", cert.display())))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(flag: &str, path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(flag, path)? {
        roots
            .add(certificate)
            .map_err(|error| Failure::wrong_call(format!("{flag}: {}: {error}", path.display())))?;
    }
    Ok(roots)
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found = rustls_pemfile::certs(&mut open(flag, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::wrong_call(format!("{flag}: {}: {error}", path.display())))?;
    if found.is_empty() {
        return Err(Failure::wrong_call(format!(
            "{flag}: no certificate (PEM) in {:?}",
            path.display().to_string()
        )));
    }
    Ok(found)
}

fn private_key(flag: &str, path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    rustls_pemfile::private_key(&mut open(flag, path)?)
        .map_err(|error| Failure::wrong_call(format!("{flag}: {}: {error}", path.display())))?
        .ok_or_else(|| {
            Failure::wrong_call(format!("{flag}: no private key (PEM) in {:?}", path.display().to_string()))
        })
}

fn open(flag: &str, path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path).map_err(|error| {
        Failure::wrong_call(format!("{flag}: cannot read {:?}: {error}", path.display().to_string()))
    })?;
    Ok(BufReader::new(file))
}

/// The certificate of the files as they are now, read again after a change.
#[derive(Debug)]
struct FileCertificate {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    /// What the files looked like when they were read.
    stamps: [Stamp; 2],
    looked: Instant,
}

/// Changes when the file does, also when a link to it is moved (as Kubernetes does with mounted secrets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        fs::metadata(path)
            .map(|metadata| Stamp { modified: metadata.modified().ok(), len: metadata.len() })
            .unwrap_or_default()
    }
}

impl FileCertificate {
    fn open(files: &TlsFiles, provider: Arc<CryptoProvider>) -> Result<Self, Failure> {
        let stamps = [Stamp::of(&files.cert), Stamp::of(&files.key)];
        let certified = read(&files.cert, &files.key, &provider)?;
        Ok(FileCertificate {
            cert: files.cert.clone(),
            key: files.key.clone(),
            provider,
            current: Mutex::new(Current { certified: Arc::new(certified), stamps, looked: Instant::now() }),
        })
    }

    fn at(&self, now: Instant) -> Arc<CertifiedKey> {
        // A poisoned lock still holds a whole certificate: it is replaced in one step.
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if now.saturating_duration_since(current.looked) >= LOOK_INTERVAL {
            current.looked = now;
            let stamps = [Stamp::of(&self.cert), Stamp::of(&self.key)];
            if stamps != current.stamps {
                // Remembered even if the pair is bad: between the two writes of a renewal it is, and the second write
                // changes the stamps again.
                current.stamps = stamps;
                match read(&self.cert, &self.key, &self.provider) {
                    Ok(certified) => {
                        current.certified = Arc::new(certified);
                        tracing::info!(file = %self.cert.display(), "certificate read again");
                    }
                    Err(failure) => {
                        tracing::warn!(fault = failure.text, "new certificate not taken, the old one stays")
                    }
                }
            }
        }
        current.certified.clone()
    }
}

impl ResolvesServerCert for FileCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(Instant::now()))
    }
}

fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, Failure> {
    let chain = certificates("--cert-file", cert)?;
    let key_der = private_key("--key-file", key)?;
    let signer = provider
        .key_provider
        .load_private_key(key_der)
        .map_err(|error| Failure::wrong_call(format!("--key-file: {}: {error}", key.display())))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(_) => Err(Failure::wrong_call(format!(
            "--key-file: {:?} is not the key of the certificate in {:?}",
            key.display(),
            cert.display()
        ))),
    }
}
