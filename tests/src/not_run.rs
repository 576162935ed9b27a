//! Tests that cannot run on this machine: they say so past the capture of the test harness, and `tests/run` counts them.

use std::io::Write;

/// Says that this test does not run, and why.
///
/// # Panics
/// With `CI` set: there a test that cannot run is a failure.
pub fn not_run(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "not run: {reason}");
    // Not `eprintln!`: of a test that passes the harness shows nothing that went through the macros.
    let line = format!("not run: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
