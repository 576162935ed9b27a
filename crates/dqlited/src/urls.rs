//! Reads lists of URLs as etcd does, and says what is wrong with one that cannot be used.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where a listener is bound, or a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Host (an address without brackets, or a name) and port.
    Tcp(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// One URL of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// As it was given, without blanks around it, its scheme in small letters.
    text: String,
    /// `https` or `unixs`: spoken with TLS.
    pub is_secure: bool,
    /// Where.
    pub place: Place,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A list as etcd reads it: split at commas, sorted, without doubles. Empty text is an empty list.
pub fn list(text: &str) -> Result<Vec<Url>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(|part| one(part.trim(), text)).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

fn one(part: &str, whole: &str) -> Result<Url, String> {
    if part.is_empty() {
        return Err(format!("an empty URL in {whole:?}"));
    }
    let (scheme, rest) = split_scheme(part)?;
    let is_secure = match scheme.as_str() {
        "https" | "unixs" => true,
        "http" | "unix" => false,
        _ => return Err(format!("scheme {scheme:?} in {part:?}, expected http, https, unix or unixs")),
    };
    let place = if scheme.starts_with("unix") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() {
            return Err(format!("no path in {part:?}, expected unix:///path/to/socket"));
        }
        Place::Unix(PathBuf::from(path))
    } else {
        let rest = rest
            .strip_prefix("//")
            .ok_or_else(|| format!("no // behind the scheme in {part:?}, expected {scheme}://HOST:PORT"))?;
        if let Some(at) = rest.find(['/', '?', '#']) {
            let (_, path) = rest.split_at(at);
            return Err(format!(
                "path {path:?} in {part:?}, expected {scheme}://HOST:PORT and nothing behind"
            ));
        }
        if rest.contains('@') {
            return Err(format!("a user name in {part:?}, expected {scheme}://HOST:PORT"));
        }
        host_port(rest)?
    };
    Ok(Url { text: format!("{scheme}:{rest}"), is_secure, place })
}

fn split_scheme(part: &str) -> Result<(String, &str), String> {
    let scheme = part.split_once(':').filter(|(scheme, rest)| {
        let is_word = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
        is_word
            && (rest.starts_with("//") || scheme.starts_with("unix"))
            && !scheme.starts_with(|c: char| c.is_ascii_digit())
    });
    match scheme {
        Some((scheme, rest)) => Ok((scheme.to_ascii_lowercase(), rest)),
        // A bare host lacks both; the port is what people forget.
        None if !part.contains("://") && host_port(part).is_err() => {
            Err(host_port(part).expect_err("just seen"))
        }
        None => Err(format!("no scheme in {part:?}, expected http://, https://, unix:// or unixs://")),
    }
}

/// Splits `HOST:PORT`; IPv6 addresses stand in brackets.
fn host_port(text: &str) -> Result<Place, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| format!("no ] in {text:?}, expected [ADDRESS]:PORT"))?;
            let port = rest
                .strip_prefix(':')
                .ok_or_else(|| format!("no port in {text:?}, expected [ADDRESS]:PORT"))?;
            (host, port)
        }
        None => {
            let (host, port) =
                text.rsplit_once(':').ok_or_else(|| format!("no port in {text:?}, expected HOST:PORT"))?;
            if host.contains(':') {
                return Err(format!("more than one colon in {text:?}, expected [IPV6]:PORT"));
            }
            (host, port)
        }
    };
    if port.is_empty() {
        return Err(format!("no port in {text:?}, expected HOST:PORT"));
    }
    let number = Some(port)
        .filter(|port| port.chars().all(|c| c.is_ascii_digit()))
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("port {port:?} in {text:?}, expected a number from 0 to 65535"))?;
    Ok(Place::Tcp(host.to_string(), number))
}

/// A listener is bound to an address, never to a name (but `localhost`): etcd's `checkBindURLs`.
pub fn check_bind(url: &Url) -> Result<(), String> {
    match &url.place {
        Place::Unix(_) => Ok(()),
        Place::Tcp(host, _) if host == "localhost" || host.parse::<IpAddr>().is_ok() => Ok(()),
        Place::Tcp(host, _) => {
            Err(format!("host {host:?} in \"{url}\", expected an IP address or localhost"))
        }
    }
}

/// Others must be able to use what is advertised: etcd's `checkHostURLs`.
pub fn check_advertised(url: &Url) -> Result<(), String> {
    match &url.place {
        Place::Tcp(host, _) if host.is_empty() => Err(format!("no host in \"{url}\", expected HOST:PORT")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(bool, Place)> {
        list(text).unwrap().into_iter().map(|url| (url.is_secure, url.place)).collect()
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp(host.into(), port)
    }

    #[test]
    fn lists_are_split_trimmed_sorted_and_without_doubles() {
        assert_eq!(
            places("https://10.0.0.1:2379, https://127.0.0.1:2379,https://10.0.0.1:2379"),
            [(true, tcp("10.0.0.1", 2379)), (true, tcp("127.0.0.1", 2379))]
        );
        assert_eq!(places("HTTP://[::1]:1"), [(false, tcp("::1", 1))]);
        assert_eq!(list("HTTP://[::1]:1").unwrap()[0].to_string(), "http://[::1]:1");
        assert_eq!(places("unix:///run/a.sock"), [(false, Place::Unix("/run/a.sock".into()))]);
        assert_eq!(places("unixs://a.sock"), [(true, Place::Unix("a.sock".into()))]);
        assert_eq!(places("unix:/run/a.sock"), [(false, Place::Unix("/run/a.sock".into()))]);
        assert_eq!(places(" "), []);
    }

    #[test]
    fn each_bad_url_is_named_with_what_is_expected() {
        let table = [
            ("0.0.0.0", r#"no port in "0.0.0.0", expected HOST:PORT"#),
            ("http://0.0.0.0", r#"no port in "0.0.0.0", expected HOST:PORT"#),
            ("http://0.0.0.0:", r#"no port in "0.0.0.0:", expected HOST:PORT"#),
            (
                "0.0.0.0:2379",
                r#"no scheme in "0.0.0.0:2379", expected http://, https://, unix:// or unixs://"#,
            ),
            (
                "localhost:2379",
                r#"no scheme in "localhost:2379", expected http://, https://, unix:// or unixs://"#,
            ),
            ("http://a:1,", r#"an empty URL in "http://a:1,""#),
            ("ftp://a:1", r#"scheme "ftp" in "ftp://a:1", expected http, https, unix or unixs"#),
            ("http://a:1/", r#"path "/" in "http://a:1/", expected http://HOST:PORT and nothing behind"#),
            (
                "https://a:1/v3",
                r#"path "/v3" in "https://a:1/v3", expected https://HOST:PORT and nothing behind"#,
            ),
            ("http://u@a:1", r#"a user name in "http://u@a:1", expected http://HOST:PORT"#),
            ("http://a:99999", r#"port "99999" in "a:99999", expected a number from 0 to 65535"#),
            ("http://a:+1", r#"port "+1" in "a:+1", expected a number from 0 to 65535"#),
            ("http://::1:2379", r#"more than one colon in "::1:2379", expected [IPV6]:PORT"#),
            ("http://[::1]", r#"no port in "[::1]", expected [ADDRESS]:PORT"#),
            ("http://[::1:2379", r#"no ] in "[::1:2379", expected [ADDRESS]:PORT"#),
            ("unix://", r#"no path in "unix://", expected unix:///path/to/socket"#),
        ];
        for (text, fault) in table {
            assert_eq!(list(text), Err(fault.to_string()), "{text}");
        }
    }

    #[test]
    fn listeners_need_an_address_and_advertised_urls_a_host() {
        let url = |text: &str| list(text).unwrap().remove(0);
        for text in ["http://localhost:1", "http://0.0.0.0:1", "http://[::]:0", "unix://s"] {
            assert_eq!(check_bind(&url(text)), Ok(()));
        }
        assert_eq!(
            check_bind(&url("http://example.com:1")),
            Err(r#"host "example.com" in "http://example.com:1", expected an IP address or localhost"#.into())
        );
        assert_eq!(
            check_bind(&url("http://:1")),
            Err(r#"host "" in "http://:1", expected an IP address or localhost"#.into())
        );
        assert_eq!(check_advertised(&url("http://example.com:1")), Ok(()));
        assert_eq!(
            check_advertised(&url("http://:1")),
            Err(r#"no host in "http://:1", expected HOST:PORT"#.into())
        );
    }
}
