//! `dqlited start`: the steps from settings to a member that serves, and to its clean end.

mod data_dir;
mod greeting;
mod listeners;
mod options;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use dqlited_etcd::Parts;
use dqlited_etcd::server::{Services, serve};
use dqlited_raft::{Environment, Node};
use rustls::ServerConfig;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::signals::Signals;
use crate::config::Config;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::{bus_error, open_files, runtime, telemetry, tls, version};

/// How long calls under way may go on after a signal; watches and other endless ones are cut at its end.
const CALLS_GRACE: Duration = Duration::from_secs(3);
/// How long the member may take to commit and end its threads.
const NODE_GRACE: Duration = Duration::from_secs(10);

/// Runs a member until it is told to stop or can no longer work.
pub fn run(flags: Vec<(&'static str, String)>) -> Result<(), Failure> {
    let config = Config::from_settings(Settings::read(flags, variables())?)?;
    telemetry::start(&config);
    for line in &config.notices.infos {
        info!("{line}");
    }
    for line in &config.notices.warnings {
        warn!("{line}");
    }
    raise_open_files();
    if let Err(error) = bus_error::explain() {
        warn!(%error, "a SIGBUS would end the process without a word");
    }
    data_dir::prepare(&config)?;
    let tls = config.tls.as_ref().map(tls::server).transpose()?;
    let runtime = runtime()?;
    let result = runtime.block_on(member(&config, tls));
    // What still runs holds nothing that is not on disk.
    runtime.shutdown_background();
    result
}

async fn member(config: &Config, tls: Option<Arc<ServerConfig>>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let bound = listeners::bind(config, tls).await?;
    let parts = Parts::new(options::etcd(config));
    let environment = Environment { observer: parts.metrics.clone(), ..environment() };
    let node = tokio::select! {
        started = Node::start_in(environment, options::node(config), parts.listener()) => {
            started.map_err(|error| Failure::failed(error.to_string()))?
        }
        // Nothing has been promised yet: the next start goes on from what is on disk.
        signal = signals.next() => {
            info!(signal, "stopped before the member was up");
            return Ok(());
        }
    };
    let greeting = greeting::text(config, &node, &bound);
    let (stop, stopping) = watch::channel(false);
    let services = Services::new(node.clone(), parts);
    let (endpoints, socket_files) = bound.into_endpoints();
    let mut served = tokio::spawn(serve(services, endpoints, stopping, CALLS_GRACE));
    let (member, data_dir) = (format!("{:x}", node.member_id().0), config.data_dir.display());
    info!(member, name = config.name, %data_dir, version = version::OWN, "serving");
    greeting::print(&greeting);

    tokio::select! {
        signal = signals.next() => info!(signal, "stopping"),
        fault = node.failed() => return Err(Failure::failed(format!("the member can no longer work: {fault}"))),
        _ = &mut served => return Err(Failure::failed("the listeners ended by themselves")),
    }
    signals.end_at_once_on_the_next();
    // An error means that nobody serves any more, which is what is asked for.
    let _ = stop.send(true);
    if served.await.is_err() {
        warn!("the listeners did not end cleanly");
    }
    node.stop(NODE_GRACE).await;
    drop(socket_files);
    info!("stopped");
    Ok(())
}

/// The real clock, chance, disk and threads.
#[cfg(not(feature = "planted-bugs"))]
fn environment() -> Environment {
    Environment::default()
}

/// The same with the bug that `DQLITED_PLANTED_BUG` names.
#[cfg(feature = "planted-bugs")]
fn environment() -> Environment {
    let mut environment = Environment::default();
    match std::env::var("DQLITED_PLANTED_BUG").as_deref() {
        Err(_) => {}
        Ok("acknowledge-before-sync") => environment.bugs.push(dqlited_raft::Bug::AcknowledgeBeforeSync),
        Ok(other) => panic!("no planted bug is called {other}"),
    }
    environment
}

/// The variables, as far as they are text.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}

fn raise_open_files() {
    match open_files::raise_limit() {
        Ok(limit) => debug!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files could not be raised"),
    }
}
