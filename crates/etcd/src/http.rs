//! The HTTP endpoints beside gRPC: health checks, versions, metrics, and the status that `dqlited status` prints.

mod health;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::metrics;
use crate::server::{Serves, Services};
use crate::version;

/// An answer whose body is at hand.
pub type Answer = Response<Full<Bytes>>;

/// Answers one HTTP request.
pub async fn answer(services: &Services, serves: Serves, request: Request<Incoming>) -> Answer {
    let (head, _body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or(""));
    answer_head(services, serves, &head.method, head.uri.path(), &query).await
}

async fn answer_head(
    services: &Services,
    serves: Serves,
    method: &Method,
    path: &str,
    query: &Query,
) -> Answer {
    // As etcd, a port for metrics has no headers for browsers.
    if serves == Serves::Metrics {
        return route(services, serves, method, path, query).await;
    }
    let mut answer = if method == Method::OPTIONS {
        Response::new(Full::default())
    } else {
        route(services, serves, method, path, query).await
    };
    allow_browsers(&mut answer);
    answer
}

async fn route(services: &Services, serves: Serves, method: &Method, path: &str, query: &Query) -> Answer {
    if let Some(checked) = health::answer(services, method, path, query).await {
        return checked;
    }
    match path {
        // Like etcd's, whatever the method.
        "/metrics" => metrics_text(services),
        _ if serves == Serves::Metrics => not_found(),
        "/version" => get(method, || json(&versions())),
        "/dqlited/status" => {
            if method != Method::GET {
                return method_not_allowed();
            }
            status(services).await
        }
        "/debug/vars" => {
            get(method, || json(&serde_json::json!({ "cmdline": std::env::args().collect::<Vec<_>>() })))
        }
        _ => not_found(),
    }
}

fn versions() -> serde_json::Value {
    serde_json::json!({
        "etcdserver": version::ETCD,
        "etcdcluster": version::ETCD_CLUSTER,
        "storage": version::ETCD_STORAGE,
        "dqlited": version::OWN,
    })
}

fn metrics_text(services: &Services) -> Answer {
    crate::scrape::refresh(&services.parts);
    let node = &services.context.node;
    let text = services.parts.metrics.render(&node.status(), &node.counters(), &services.parts.quota);
    let mut answer = Response::new(Full::from(text));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    answer
}

/// What this member says of itself, numbers as they are inside.
async fn status(services: &Services) -> Answer {
    let node = &services.context.node;
    let read = node
        .read(node.local_barrier(), services.context.deadline(), |view| {
            let name = view.members()?.into_iter().map(|member| (member.id, member.name)).collect::<Vec<_>>();
            Ok::<_, dqlited_store::read::ReadError>((view.database_size()?, name))
        })
        .await;
    let (size, names) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(error) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let now = node.status();
    let name =
        names.into_iter().find(|(id, _)| *id == now.member_id).map_or_else(String::new, |(_, name)| name);
    json(&serde_json::json!({
        "member_id": now.member_id.to_string(),
        "cluster_id": format!("{:x}", now.cluster_id),
        "name": name,
        "version": version::OWN,
        "etcd_version": version::ETCD,
        "revision": now.revision.0,
        "compact_revision": now.compact_revision.0,
        "term": now.term,
        "leader": now.leader.map(|leader| leader.to_string()),
        "is_learner": now.is_learner,
        "committed_index": now.committed_index,
        "applied_index": now.applied_index,
        "visible_index": now.visible_index,
        "durable_index": now.durable_index,
        "db_size_bytes": size.total_bytes,
        "db_in_use_bytes": size.in_use_bytes,
        "uptime_seconds": services.parts.started.elapsed().as_secs(),
    }))
}

fn get(method: &Method, answer: impl FnOnce() -> Answer) -> Answer {
    if method == Method::GET { answer() } else { method_not_allowed() }
}

fn json(value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::from(value.to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Go's `http.Error`: a text, and no guessing at its type.
fn plain(code: StatusCode, text: impl Into<Cow<'static, str>>) -> Answer {
    let body = match text.into() {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    };
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn method_not_allowed() -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    answer
}

/// The headers that etcd puts on every answer.
fn allow_browsers(answer: &mut Answer) {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The parameters behind `?`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        });
        Query(pairs.collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    /// The first value, as Go's `Get`.
    fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// `%41` and `+` of a query; a broken escape stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let query = Query::parse("exclude=NOSPACE&exclude=a%20b+c&verbose&serializable=true&x=%zz");
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["NOSPACE", "a b c"]);
        assert!(query.has("verbose") && !query.has("verbos"));
        assert_eq!(query.first("serializable"), Some("true"));
        assert_eq!(query.first("x"), Some("%zz"));
        assert_eq!(Query::parse(""), Query::default());
    }

    #[test]
    fn versions_name_etcds_and_ours() {
        let versions = versions().to_string();
        for part in
            [r#""etcdserver":"3.7.3""#, r#""etcdcluster":"3.7.0""#, r#""storage":"3.7.0""#, r#""dqlited":""#]
        {
            assert!(versions.contains(part), "{versions}");
        }
    }

    #[test]
    fn a_refused_method_names_the_one_that_is_allowed() {
        let answer = get(&Method::POST, || json(&serde_json::json!({})));
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[header::ALLOW], "GET");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
