//! `/health`, `/livez` and `/readyz`, each as etcd answers it.

use std::ops::ControlFlow;

use dqlited_proto::etcdserverpb::AlarmType;
use dqlited_raft::Barrier;
use dqlited_store::command::RangeQuery;
use dqlited_store::response::AlarmRecord;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use tonic::Status;

use super::{Answer, Query, method_not_allowed, not_found, plain};
use crate::quota::CORRUPT;
use crate::server::Services;
use crate::status::{from_read_error, from_read_failure};

/// One thing that a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// What is wrong, in etcd's words.
    async fn run(self, services: &Services) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let alarms = alarms(services).await.map_err(|status| go_error(&status))?;
                match alarms.iter().find(|alarm| alarm.alarm == CORRUPT) {
                    Some(_) => Err("alarm activated: CORRUPT".to_owned()),
                    None => Ok(()),
                }
            }
            Check::SerializableRead => read_one(services, true).await.map_err(|status| go_error(&status)),
            Check::LinearizableRead => read_one(services, false).await.map_err(|status| go_error(&status)),
            Check::NonLearner if services.context.node.status().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Check::NonLearner => Ok(()),
        }
    }
}

/// How the server's own errors print where no gRPC code is around them.
fn go_error(status: &Status) -> String {
    status.message().to_owned()
}

/// The answer to a path that is a health check; `None` for any other.
pub(super) async fn answer(
    services: &Services,
    method: &Method,
    path: &str,
    query: &Query,
) -> Option<Answer> {
    let answer = match path {
        "/health" if method != Method::GET => method_not_allowed(),
        "/health" => health(services, query).await,
        _ => {
            let mut parts = path.strip_prefix('/')?.splitn(2, '/');
            let (kind, all) = match parts.next()? {
                "livez" => ("livez", LIVE),
                "readyz" => ("readyz", READY),
                _ => return None,
            };
            let excluded: Vec<&str> = query.all("exclude").collect();
            let checks: Vec<Check> = match parts.next() {
                None => all.iter().copied().filter(|check| !excluded.contains(&check.name())).collect(),
                Some(name) => match all.iter().find(|check| check.name() == name) {
                    Some(check) => vec![*check],
                    None => return Some(not_found()),
                },
            };
            if method != Method::GET {
                return Some(method_not_allowed());
            }
            run_checks(services, kind, &checks, query.has("verbose")).await
        }
    };
    Some(answer)
}

async fn run_checks(services: &Services, kind: &str, checks: &[Check], is_verbose: bool) -> Answer {
    let metrics = &services.parts.metrics;
    let mut lines = String::new();
    let mut all_passed = true;
    for check in checks {
        let result = check.run(services).await;
        let name = check.name();
        let status = match &result {
            Ok(()) => {
                lines.push_str(&format!("[+]{name} ok\n"));
                "success"
            }
            Err(reason) => {
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
                all_passed = false;
                "error"
            }
        };
        metrics.health_checks.with_label_values(&[kind, name, status]).inc();
        metrics.health_check.with_label_values(&[kind, name]).set(f64::from(u8::from(result.is_ok())));
    }
    if !all_passed {
        tracing::warn!(kind, lines, "health check");
        return plain(StatusCode::SERVICE_UNAVAILABLE, lines + "\n");
    }
    plain(StatusCode::OK, if is_verbose { lines + "ok\n" } else { "ok\n".to_owned() })
}

async fn health(services: &Services, query: &Query) -> Answer {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let is_serializable = query.first("serializable") == Some("true");
    let result = check_health(services, &excluded, is_serializable).await;
    let metrics = &services.parts.metrics;
    let (health, reason) = match &result {
        Ok(()) => ("true", ""),
        Err(reason) => ("false", reason.as_str()),
    };
    let body = format!(r#"{{"health":"{health}","reason":{}}}"#, serde_json::Value::from(reason));
    if result.is_ok() {
        metrics.health_success.inc();
        let mut answer = Response::new(Full::from(body));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    } else {
        metrics.health_failures.inc();
        tracing::warn!(reason, "/health");
        plain(StatusCode::SERVICE_UNAVAILABLE, body + "\n")
    }
}

async fn check_health(services: &Services, excluded: &[&str], is_serializable: bool) -> Result<(), String> {
    let alarms = alarms(services).await.map_err(|status| format!("RANGE ERROR:{}", go_error(&status)))?;
    for alarm in alarms {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !excluded.contains(&name) {
            return Err(format!("ALARM {name}"));
        }
    }
    if !is_serializable && services.context.node.leadership().borrow().leader.is_none() {
        return Err("RAFT NO LEADER".to_owned());
    }
    read_one(services, is_serializable).await.map_err(|status| format!("RANGE ERROR:{}", go_error(&status)))
}

async fn alarms(services: &Services) -> Result<Vec<AlarmRecord>, Status> {
    let (node, deadline) = (&services.context.node, services.context.deadline());
    let read = node.read(node.local_barrier(), deadline, |view| view.alarms()).await;
    read.map_err(from_read_failure)?.map_err(from_read_error)
}

/// Reads one key, whichever comes first: a member that can do that serves.
async fn read_one(services: &Services, is_serializable: bool) -> Result<(), Status> {
    let (node, deadline) = (&services.context.node, services.context.deadline());
    let barrier: Barrier = if is_serializable {
        node.local_barrier()
    } else {
        node.linearizable_barrier(deadline).await.map_err(from_read_failure)?
    };
    let query = RangeQuery {
        key: bytes::Bytes::from_static(b"\0"),
        range_end: bytes::Bytes::from_static(b"\0"),
        limit: 1,
        keys_only: true,
        ..Default::default()
    };
    let read = node
        .read(barrier, deadline, move |view| {
            view.range(&query, &mut |_| ControlFlow::Continue(())).map(|_| ())
        })
        .await;
    read.map_err(from_read_failure)?.map_err(from_read_error)
}
