//! The program: flags, files, TLS, logs; starts a member and looks at running ones.

mod allocator;
mod bus_error;
mod cli;
mod config;
#[cfg(test)]
mod documents;
mod failure;
mod file;
mod flags;
mod nearest;
mod open_files;
mod settings;
mod start;
mod status;
mod telemetry;
mod tls;
mod urls;
mod values;
mod version;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::Call;
use crate::failure::Failure;

fn main() -> ExitCode {
    allocator::return_large_buffers();
    end_on_panic();
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.exit_code()
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), Failure> {
    match cli::parse(arguments)? {
        Call::Start(flags) => start::run(flags),
        Call::Status(options) => runtime()?.block_on(status::run(options, &mut std::io::stdout())),
        Call::Version => print(&version::text()),
        Call::Print(text) => print(&text),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::failed(format!("standard output: {error}")))
}

/// The threads of everything that waits.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))
}

/// A panic anywhere ends the process: a member that goes on with one of its parts dead would serve stale reads.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
