//! Says why the process ends when a mapped page of SQLite's files cannot be had: the kernel answers with SIGBUS.
#![allow(unsafe_code)] // A signal's handler has no safe face in std.

use std::io;

/// What is known there. Whoever adds to it: a handler may neither allocate nor lock.
const WORDS: &[u8] = b"dqlited: SIGBUS: a mapped file of the data directory was cut or its disk failed\n";

/// Has SIGBUS leave a line on stderr before it ends the process, as it does anyway.
pub fn explain() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = say_and_end;
    // SAFETY: all zero is a valid sigaction. Both pointers are to values that live across the calls, and the handler calls
    // only what is safe in a handler. It may run on the small stack that std keeps for them; it needs next to nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        // From the first one on the signal does what it does by default: end the process, with a core where one is wanted.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn say_and_end(signal: libc::c_int) {
    // SAFETY: write and raise are safe in a handler (signal-safety(7)); the buffer is static. The signal is blocked until
    // the handler returns, and ends the process then, also if another process has sent it.
    unsafe {
        // Nothing is left to tell if stderr is gone.
        let _written = libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len());
        libc::raise(signal);
    }
}
