//! Logs: to stderr, as JSON or as readable lines.

use std::io::{IsTerminal, stderr};

use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging for the whole process. Called once.
pub fn start(config: &Config) {
    let format = config.log_format.unwrap_or(match stderr().is_terminal() {
        true => LogFormat::Console,
        false => LogFormat::Json,
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter(config.log_level)).with_writer(stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Console => builder.with_ansi(stderr().is_terminal()).init(),
    }
}

/// Our own crates at the level asked for; libraries one step quieter, since their debug lines are not for operators.
fn filter(level: Level) -> EnvFilter {
    let libraries = match level {
        Level::DEBUG | Level::TRACE => Level::INFO,
        Level::INFO | Level::WARN => Level::WARN,
        _ => Level::ERROR,
    };
    let mut directives = libraries.to_string();
    // It warns of turns that are part of every first start; what ends a member it logs as an error, and so do we.
    if libraries == Level::WARN {
        directives.push_str(",openraft=error");
    }
    for ours in ["dqlited", "dqlited_etcd", "dqlited_raft", "dqlited_store", "dqlited_log"] {
        directives.push_str(&format!(",{ours}={level}"));
    }
    EnvFilter::new(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_a_step_quieter_than_we_are() {
        let text = filter(Level::INFO).to_string();
        assert!(text.contains("dqlited_raft=info") && text.contains("warn"), "{text}");
        assert!(text.contains("openraft=error"), "{text}");
        assert!(filter(Level::DEBUG).to_string().contains("dqlited=debug"));
    }
}
