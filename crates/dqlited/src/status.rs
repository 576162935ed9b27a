//! `dqlited status`: asks running members what they say of themselves and prints it.

mod http;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::urls::{self, Url};
use crate::{tls, values};

/// The path that answers with a member's own account (docs/etcd-api.md).
const PATH: &str = "/dqlited/status";

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A table, one column for each member.
    Table,
    /// An array with one object for each member.
    Json,
}

/// What to ask, and how.
#[derive(Debug)]
pub struct StatusOptions {
    /// How the answer is printed.
    pub output: Output,
    /// Client URLs, split at commas.
    pub endpoints: String,
    /// Whom to trust.
    pub ca: Option<PathBuf>,
    /// Certificate to show.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// For each member, as text.
    pub timeout: String,
}

/// Asks all members at the same time and prints those that answered. Fails if one did not.
pub async fn run(options: StatusOptions, out: &mut impl Write) -> Result<(), Failure> {
    let endpoints = urls::list(&options.endpoints)
        .map_err(|fault| Failure::wrong_call(format!("--endpoints: {fault}")))?;
    let limit = values::duration(&options.timeout)
        .map_err(|fault| Failure::wrong_call(format!("--timeout: {fault}")))?;
    let tls = client_tls(&options, &endpoints)?;

    let asked: Vec<_> =
        endpoints.iter().map(|endpoint| tokio::spawn(ask(endpoint.clone(), tls.clone(), limit))).collect();
    let mut members = Vec::new();
    let mut failures = Vec::new();
    for (endpoint, answer) in endpoints.iter().zip(asked) {
        match answer.await.expect("a task that panics ends the process") {
            Ok(answer) => members.push((endpoint.to_string(), answer)),
            Err(fault) => failures.push(format!("{endpoint}: {fault}")),
        }
    }

    let text = match options.output {
        Output::Table if members.is_empty() => String::new(),
        Output::Table => table::render(&members),
        Output::Json => json(members),
    };
    out.write_all(text.as_bytes()).map_err(|error| Failure::failed(format!("standard output: {error}")))?;
    match failures.split_first() {
        None => Ok(()),
        Some((first, [])) => Err(Failure::failed(first.clone())),
        Some((first, rest)) => Err(Failure::failed(format!("{first}\nerror: {}", rest.join("\nerror: ")))),
    }
}

fn client_tls(options: &StatusOptions, endpoints: &[Url]) -> Result<Option<Arc<ClientConfig>>, Failure> {
    let identity = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
        (None, None) => None,
        (Some(_), None) => return Err(Failure::wrong_call("--cert: needs --key beside it")),
        (None, Some(_)) => return Err(Failure::wrong_call("--key: needs --cert beside it")),
    };
    match (endpoints.iter().find(|endpoint| endpoint.is_secure), &options.ca) {
        (None, _) => Ok(None),
        (Some(endpoint), None) => Err(Failure::wrong_call(format!("--cacert: needed for \"{endpoint}\""))),
        (Some(_), Some(ca)) => tls::client(ca, identity).map(Some),
    }
}

async fn ask(
    endpoint: Url,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
) -> Result<Map<String, Value>, String> {
    let body = timeout(limit, http::get(&endpoint, tls.filter(|_| endpoint.is_secure), PATH))
        .await
        .map_err(|_| format!("no answer within {limit:?}"))??;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(answer)) => Ok(answer),
        _ => Err(format!("{PATH} is not answered with a status: is this a dqlited?")),
    }
}

fn json(members: Vec<(String, Map<String, Value>)>) -> String {
    let members: Vec<Value> = members
        .into_iter()
        .map(|(endpoint, mut answer)| {
            answer.insert("endpoint".into(), Value::String(endpoint));
            Value::Object(answer)
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&members).expect("values always have a text");
    text.push('\n');
    text
}
