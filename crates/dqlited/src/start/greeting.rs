//! The few lines that a person sees when the member is up.

use std::fmt::Write as _;
use std::io::Write as _;

use dqlited_etcd::server::Serves;
use dqlited_raft::Node;

use super::listeners::Bound;
use crate::config::Config;
use crate::version;

/// Where `dqlited status` asks without flags.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

/// Where it listens, where its data is, what to try next.
pub fn text(config: &Config, node: &Node, bound: &Bound) -> String {
    let ids = Ids { member: node.member_id().0, cluster: node.cluster_id() };
    lines(config, &ids, &bound.urls)
}

struct Ids {
    member: u64,
    cluster: u64,
}

fn lines(config: &Config, ids: &Ids, urls: &[(Serves, String)]) -> String {
    let mut text = format!(
        "dqlited {} serves the API of etcd {}: member {:x} ({}) of cluster {:x}\n",
        version::OWN,
        version::etcd(),
        ids.member,
        config.name,
        ids.cluster
    );
    for (serves, url) in urls {
        let what = match serves {
            Serves::Clients => "clients",
            Serves::Grpc => "gRPC",
            Serves::Http => "HTTP",
            Serves::Metrics => "metrics",
        };
        let _ = writeln!(text, "  {what:<8} {url}");
    }
    let _ = writeln!(text, "  {:<8} {}", "data", config.data_dir.display());
    let mut lines = Vec::new();
    if let Some(endpoint) = first(urls, &[Serves::Clients, Serves::Grpc]) {
        let tls = tls_flags(config, &endpoint);
        lines.push(format!("etcdctl --endpoints={endpoint}{tls} put hello world"));
        lines.push(format!("etcdctl --endpoints={endpoint}{tls} get hello"));
    }
    if let Some(endpoint) = first(urls, &[Serves::Clients, Serves::Http]) {
        let tls = tls_flags(config, &endpoint);
        let asked =
            if endpoint == DEFAULT_ENDPOINT { String::new() } else { format!(" --endpoints={endpoint}") };
        lines.push(format!("dqlited status{asked}{tls}"));
    }
    let _ = writeln!(text, "try:");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The first listener that serves one of these, as it is reached from here.
fn first(urls: &[(Serves, String)], wanted: &[Serves]) -> Option<String> {
    urls.iter().find(|(serves, _)| wanted.contains(serves)).map(|(_, url)| reachable(url))
}

fn tls_flags(config: &Config, endpoint: &str) -> &'static str {
    match (&config.tls, endpoint.starts_with("https") || endpoint.starts_with("unixs")) {
        (Some(tls), true) if tls.client_ca.is_some() => " --cacert=CA --cert=CERT --key=KEY",
        (Some(_), true) => " --cacert=CA",
        _ => "",
    }
}

/// An address that can be connected to from here.
fn reachable(url: &str) -> String {
    url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")
}

/// To stdout; that nobody reads it is no fault.
pub fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const IDS: Ids = Ids { member: 0x8e9e_05c5_2164_694d, cluster: 0xcdf8_1819_4e3a_8c32 };

    fn config(flags: &[(&'static str, &str)]) -> Config {
        let flags = flags.iter().map(|(name, text)| (*name, text.to_string())).collect();
        Config::from_settings(Settings::read(flags, []).unwrap()).unwrap()
    }

    #[test]
    fn a_fresh_start_says_where_and_what_next() {
        let text = lines(&config(&[]), &IDS, &[(Serves::Clients, "http://127.0.0.1:2379".into())]);
        let expected = format!(
            "dqlited {} serves the API of etcd {}: member 8e9e05c52164694d (default) of cluster cdf818194e3a8c32
  clients  http://127.0.0.1:2379
  data     dqlited.data
try:
  etcdctl --endpoints=http://127.0.0.1:2379 put hello world
  etcdctl --endpoints=http://127.0.0.1:2379 get hello
  dqlited status
",
            version::OWN,
            version::etcd()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn where_http_has_listeners_of_its_own_status_is_asked_there() {
        let urls =
            [(Serves::Grpc, "http://127.0.0.1:2379".into()), (Serves::Http, "http://127.0.0.1:2381".into())];
        let text = lines(&config(&[]), &IDS, &urls);
        assert!(
            text.contains("  gRPC     http://127.0.0.1:2379\n  HTTP     http://127.0.0.1:2381\n"),
            "{text}"
        );
        assert!(text.contains("  etcdctl --endpoints=http://127.0.0.1:2379 get hello\n"), "{text}");
        assert!(text.ends_with("  dqlited status --endpoints=http://127.0.0.1:2381\n"), "{text}");
    }

    #[test]
    fn with_tls_and_other_addresses_the_lines_to_try_still_reach_it() {
        let config = config(&[
            ("listen-client-urls", "https://0.0.0.0:1"),
            ("advertise-client-urls", "https://a:1"),
            ("cert-file", "c"),
            ("key-file", "k"),
            ("trusted-ca-file", "ca"),
        ]);
        let urls =
            [(Serves::Clients, "https://0.0.0.0:1".into()), (Serves::Metrics, "http://127.0.0.1:2".into())];
        let text = lines(&config, &IDS, &urls);
        assert!(text.contains("  metrics  http://127.0.0.1:2\n"), "{text}");
        assert!(
            text.ends_with(
                "  dqlited status --endpoints=https://127.0.0.1:1 --cacert=CA --cert=CERT --key=KEY\n"
            ),
            "{text}"
        );
    }
}
