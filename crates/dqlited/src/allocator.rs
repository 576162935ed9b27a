//! Has the allocator give large buffers back to the system at once.
#![allow(unsafe_code)]

/// Buffers from this size on are mapped on their own and unmapped when they are freed, in bytes. An answer to a large
/// list is such a buffer.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: i32 = 2 << 20;

/// To be called before any thread is started.
///
/// glibc raises its bound by itself to the largest buffer freed so far (up to 32 MiB) and then keeps as much in each
/// thread's arena: memory that lists have used once would stay with the process, beside the bound on answers under way.
#[cfg(target_env = "gnu")]
pub fn return_large_buffers() {
    // SAFETY: mallopt takes two integers; no other thread allocates yet. Where it is refused the default stays.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * MAPPED_BYTES_MIN);
    }
}

/// Other allocators have no such habit.
#[cfg(not(target_env = "gnu"))]
pub fn return_large_buffers() {}
