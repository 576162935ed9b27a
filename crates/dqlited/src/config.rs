//! What `dqlited start` was asked to do: the merged settings, read, checked against each other, and named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dqlited_etcd::options::AutoCompaction;

use crate::failure::Failure;
use crate::settings::{Notices, Settings};
use crate::urls::{self, Place, Url};

#[cfg(test)]
mod tests;

/// Certificate files of the client listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// CA of clients' certificates; with it clients must show one.
    pub client_ca: Option<PathBuf>,
    /// `--tls-min-version` is TLS1.3.
    pub without_tls12: bool,
    /// `--tls-max-version` is TLS1.2.
    pub without_tls13: bool,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON objects.
    Json,
    /// Readable lines.
    Console,
}

/// All settings of a start, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--listen-client-urls`.
    pub listen_client: Vec<Url>,
    /// `--listen-client-http-urls`.
    pub listen_client_http: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub listen_metrics: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client: Vec<String>,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer: Vec<String>,
    /// `--initial-cluster-state` is `existing`.
    pub is_existing_cluster: bool,
    /// `--initial-cluster-token`.
    pub cluster_token: String,
    /// TLS of the client listeners, where one of them needs it.
    pub tls: Option<TlsFiles>,
    /// `--quota-backend-bytes` as given: 0 is the default, negative is none.
    pub quota_bytes: i64,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--election-timeout`: promises of the API depend on it.
    pub election_timeout: Duration,
    /// `--max-request-bytes`.
    pub max_request_bytes: u32,
    /// `--max-txn-ops`.
    pub max_txn_ops: u32,
    /// `--max-concurrent-streams`.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`; zero is never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--watch-progress-notify-interval`.
    pub progress_notify_interval: Duration,
    /// `--metrics=extensive`.
    pub extensive_metrics: bool,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--snapshot-count`, if given.
    pub snapshot_count: Option<u64>,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,
    /// `--log-level`.
    pub log_level: tracing::Level,
    /// `--log-format`, if given.
    pub log_format: Option<LogFormat>,
    /// Lines for the log: what was passed over and why.
    pub notices: Notices,
}

/// etcd's default of watch progress, also meant by 0.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(600);
/// etcd never reports progress more often.
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// A request above this could never pass the queue of proposals, which is bounded by bytes.
const REQUEST_BYTES_MAX: u32 = 128 << 20;
/// etcd warns above this.
const REQUEST_BYTES_RECOMMENDED_MAX: u32 = 10 << 20;

/// etcd takes no longer election timeout.
const ELECTION_MS_MAX: u64 = 50_000;

impl Config {
    /// Reads and checks every setting.
    pub fn from_settings(mut settings: Settings) -> Result<Config, Failure> {
        let mut notices = std::mem::take(&mut settings.notices);
        let settings = &settings;
        let name = settings.text("name").to_string();

        let listen_client = settings.urls("listen-client-urls", urls::check_bind)?;
        let listen_client_http = settings.urls("listen-client-http-urls", urls::check_bind)?;
        let listen_metrics = settings.urls("listen-metrics-urls", urls::check_bind)?;
        settings.urls("listen-peer-urls", urls::check_bind)?;
        check_places_differ(
            settings,
            [
                ("listen-client-urls", &listen_client),
                ("listen-client-http-urls", &listen_client_http),
                ("listen-metrics-urls", &listen_metrics),
            ],
        )?;

        let advertise_peer = settings.urls("initial-advertise-peer-urls", urls::check_advertised)?;
        let advertise_client = settings.urls("advertise-client-urls", urls::check_advertised)?;
        if settings.is_given("listen-client-urls") && !settings.is_given("advertise-client-urls") {
            return Err(Failure::wrong_call(
                "--advertise-client-urls: must be given once --listen-client-urls is given",
            )
            .hint(format!(
                "add --advertise-client-urls={} if clients reach the member there",
                settings.text("listen-client-urls")
            )));
        }
        for url in advertise_client.iter().chain(&advertise_peer) {
            if let Place::Tcp(host, _) = &url.place
                && matches!(host.as_str(), "0.0.0.0" | "::")
            {
                notices
                    .warnings
                    .push(format!("{url} is advertised, but nobody can connect to such an address"));
            }
        }
        check_initial_cluster(settings, &name, &advertise_peer)?;

        let tls = tls_files(settings, [&listen_client, &listen_client_http], &listen_metrics, &mut notices)?;
        let progress_notify_interval = progress_interval(settings, &mut notices)?;
        if settings.is_given("snapshot-count") {
            notices.infos.push(format!(
                "--snapshot-count={}: counts once there are several members; a lone one keeps its last two log segments",
                settings.text("snapshot-count")
            ));
        }
        let unsafe_no_fsync = settings.boolean("unsafe-no-fsync")?;
        if unsafe_no_fsync {
            notices.warnings.push(
                "--unsafe-no-fsync: a power cut or a crash of the system will lose answered writes".into(),
            );
        }

        Ok(Config {
            data_dir: PathBuf::from(settings.text("data-dir")),
            advertise_client: strings(&advertise_client),
            advertise_peer: strings(&advertise_peer),
            is_existing_cluster: settings.text("initial-cluster-state") == "existing",
            cluster_token: settings.text("initial-cluster-token").to_string(),
            tls,
            quota_bytes: settings.signed("quota-backend-bytes")?,
            auto_compaction: auto_compaction(settings)?,
            election_timeout: election_timeout(settings)?,
            max_request_bytes: max_request_bytes(settings, &mut notices)?,
            max_txn_ops: at_least_one(settings, "max-txn-ops")?,
            // 0 is no bound, as in etcd.
            max_concurrent_streams: match settings.small("max-concurrent-streams")? {
                0 => u32::MAX,
                bound => bound,
            },
            keepalive_interval: settings.duration("grpc-keepalive-interval")?,
            keepalive_timeout: settings.duration("grpc-keepalive-timeout")?,
            progress_notify_interval,
            extensive_metrics: settings.text("metrics") == "extensive",
            warning_apply_duration: settings.duration("warning-apply-duration")?,
            snapshot_count: match settings.optional("snapshot-count") {
                Some(_) => Some(settings.unsigned("snapshot-count", u64::MAX)?).filter(|count| *count > 0),
                None => None,
            },
            unsafe_no_fsync,
            log_level: match settings.text("log-level") {
                "debug" => tracing::Level::DEBUG,
                "warn" => tracing::Level::WARN,
                // Below an error nothing is left that could be hidden.
                "error" | "panic" | "fatal" => tracing::Level::ERROR,
                _ => tracing::Level::INFO,
            },
            log_format: match settings.text("log-format") {
                "json" => Some(LogFormat::Json),
                "console" => Some(LogFormat::Console),
                _ => None,
            },
            name,
            listen_client,
            listen_client_http,
            listen_metrics,
            notices,
        })
    }
}

fn strings(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

fn at_least_one(settings: &Settings, name: &str) -> Result<u32, Failure> {
    match settings.small(name)? {
        0 => Err(settings.fault(name, "0 would refuse everything, expected at least 1")),
        number => Ok(number),
    }
}

fn max_request_bytes(settings: &Settings, notices: &mut Notices) -> Result<u32, Failure> {
    let bytes = at_least_one(settings, "max-request-bytes")?;
    if bytes > REQUEST_BYTES_MAX {
        return Err(settings.fault(
            "max-request-bytes",
            format!(
                "{bytes} is more than the queue of proposals takes, expected at most {REQUEST_BYTES_MAX}"
            ),
        ));
    }
    if bytes > REQUEST_BYTES_RECOMMENDED_MAX {
        notices.warnings.push(format!(
            "--max-request-bytes={bytes}: more than {REQUEST_BYTES_RECOMMENDED_MAX} is not recommended, a large \
             request holds up all others"
        ));
    }
    Ok(bytes)
}

fn progress_interval(settings: &Settings, notices: &mut Notices) -> Result<Duration, Failure> {
    let interval = settings.duration("watch-progress-notify-interval")?;
    if interval.is_zero() {
        return Ok(PROGRESS_DEFAULT);
    }
    if interval < PROGRESS_MIN {
        notices
            .infos
            .push(format!("--watch-progress-notify-interval: raised to the least, {PROGRESS_MIN:?}"));
        return Ok(PROGRESS_MIN);
    }
    Ok(interval)
}

/// etcd's reading: a bare number counts hours or revisions by the mode, anything else is a duration.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, Failure> {
    const NAME: &str = "auto-compaction-retention";
    let retention = settings.text(NAME);
    let number = retention.parse::<u32>().ok();
    if settings.text("auto-compaction-mode") == "revision" {
        // etcd would take "5m" for a number of nanoseconds here.
        return match number {
            Some(0) => Ok(AutoCompaction::Off),
            Some(revisions) => Ok(AutoCompaction::Revisions(i64::from(revisions))),
            None => Err(settings.fault(
                NAME,
                format!("{retention:?} in mode \"revision\", expected a whole number of revisions"),
            )),
        };
    }
    let period = match number {
        Some(hours) => Duration::from_secs(u64::from(hours) * 3600),
        None => crate::values::duration(retention).map_err(|fault| settings.fault(NAME, fault))?,
    };
    if period.is_zero() { Ok(AutoCompaction::Off) } else { Ok(AutoCompaction::Periodic(period)) }
}

/// etcd's bounds of its two timers, in milliseconds.
fn election_timeout(settings: &Settings) -> Result<Duration, Failure> {
    let heartbeat = u64::from(settings.small("heartbeat-interval")?);
    let election = u64::from(settings.small("election-timeout")?);
    if heartbeat == 0 {
        return Err(settings.fault("heartbeat-interval", "0 is no interval, expected milliseconds"));
    }
    if election < 5 * heartbeat {
        return Err(settings.fault(
            "election-timeout",
            format!("{election} is less than five times --heartbeat-interval={heartbeat}"),
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(settings.fault(
            "election-timeout",
            format!("{election} is too long, expected at most {ELECTION_MS_MAX} milliseconds"),
        ));
    }
    Ok(Duration::from_millis(election))
}

/// No two listeners on one address.
fn check_places_differ(settings: &Settings, lists: [(&str, &Vec<Url>); 3]) -> Result<(), Failure> {
    let mut seen: BTreeMap<&Place, (&str, &Url)> = BTreeMap::new();
    for (name, urls) in lists {
        for url in urls {
            if matches!(url.place, Place::Tcp(_, 0)) {
                continue;
            }
            if let Some((other, other_url)) = seen.insert(&url.place, (name, url)) {
                return Err(
                    settings.fault(name, format!("\"{url}\" is taken already by --{other}={other_url}"))
                );
            }
        }
    }
    Ok(())
}

/// The initial cluster must be this member and no other.
fn check_initial_cluster(settings: &Settings, name: &str, advertise_peer: &[Url]) -> Result<(), Failure> {
    const NAME: &str = "initial-cluster";
    let text = settings.text(NAME);
    if text.is_empty() {
        return Ok(());
    }
    let mut members: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((member, url)) = pair.split_once('=') else {
            return Err(settings.fault(NAME, format!("no = in {pair:?}, expected NAME=URL")));
        };
        let url = match urls::list(url) {
            Ok(mut urls) if urls.len() == 1 => urls.remove(0),
            Ok(_) => return Err(settings.fault(NAME, format!("no URL in {pair:?}, expected NAME=URL"))),
            Err(fault) => return Err(settings.fault(NAME, fault)),
        };
        let urls = members.entry(member.trim()).or_default();
        if urls.contains(&url) {
            return Err(settings.fault(NAME, format!("\"{url}\" stands twice")));
        }
        urls.push(url);
    }
    if members.len() > 1 {
        let names: Vec<&str> = members.keys().copied().collect();
        let text = format!("{} members ({}), but this release runs one", members.len(), names.join(", "));
        return Err(settings.fault(NAME, text).hint("clusters come with the next release: docs/roadmap.md"));
    }
    let Some(mut urls) = members.remove(name) else {
        let names: Vec<&str> = members.keys().copied().collect();
        let text = format!("no member {name:?} (--name) in it, only {:?}", names.join(", "));
        return Err(settings.fault(NAME, text));
    };
    urls.sort();
    for url in &urls {
        if !advertise_peer.contains(url) {
            return Err(settings.fault(
                NAME,
                format!(
                    "{name}={url} is missing from --initial-advertise-peer-urls={}",
                    strings(advertise_peer).join(",")
                ),
            ));
        }
    }
    for url in advertise_peer {
        if !urls.contains(url) {
            return Err(settings
                .fault(NAME, format!("{name}={url} of --initial-advertise-peer-urls is missing from it")));
        }
    }
    Ok(())
}

/// TLS is needed by https and unixs listeners and means nothing to the others (etcd's rules, with its warnings).
fn tls_files(
    settings: &Settings,
    clients: [&Vec<Url>; 2],
    metrics: &[Url],
    notices: &mut Notices,
) -> Result<Option<TlsFiles>, Failure> {
    let cert = settings.optional("cert-file");
    let key = settings.optional("key-file");
    let client_ca = settings.optional("trusted-ca-file");
    let needs_client_cert = settings.boolean("client-cert-auth")?;
    match (&cert, &key) {
        (Some(_), None) => return Err(settings.fault("cert-file", "needs --key-file beside it")),
        (None, Some(_)) => return Err(settings.fault("key-file", "needs --cert-file beside it")),
        _ => {}
    }
    if needs_client_cert && client_ca.is_none() {
        return Err(settings.fault("client-cert-auth", "needs --trusted-ca-file beside it"));
    }
    let has_files = cert.is_some();
    for url in clients.into_iter().flatten().filter(|url| !url.is_secure) {
        if has_files {
            notices
                .warnings
                .push(format!("{url} is served without TLS: --cert-file and --key-file do not count there"));
        }
        if needs_client_cert {
            notices
                .warnings
                .push(format!("{url} is served without TLS: --client-cert-auth does not count there"));
        }
    }
    let secure = clients.into_iter().flatten().chain(metrics).find(|url| url.is_secure);
    if let (Some(url), false) = (secure, has_files) {
        return Err(Failure::wrong_call(format!(
            "--cert-file: needed for \"{url}\", and --key-file with it"
        )));
    }
    let is_needed = secure.is_some();
    let without_tls12 = settings.text("tls-min-version") == "TLS1.3";
    let without_tls13 = settings.text("tls-max-version") == "TLS1.2";
    if without_tls12 && without_tls13 {
        return Err(settings.fault("tls-max-version", "TLS1.2 is less than --tls-min-version=TLS1.3"));
    }
    let (Some(cert), Some(key), true) = (cert, key, is_needed) else {
        return Ok(None);
    };
    Ok(Some(TlsFiles {
        cert: cert.into(),
        key: key.into(),
        client_ca: client_ca.map(PathBuf::from),
        without_tls12,
        without_tls13,
    }))
}
