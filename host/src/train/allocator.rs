//! Memory that a training step frees is kept for the next.

/// Largest block that glibc takes from its own memory instead of the system's, in bytes: its own limit.
#[cfg(target_env = "gnu")]
const LARGEST: libc::c_int = 32 << 20;

/// Memory at the end that is free and kept, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 30;

/// Has the allocator keep what is freed. As it comes, glibc gives large tensors back to the system and gets
/// fresh pages for the next ones, at every step: a fifth to two fifths of a graph net's training. Called before the
/// first tensor; elsewhere than with glibc it does nothing, and so it does where the user set
/// `GLIBC_TUNABLES`.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("GLIBC_TUNABLES").is_none() {
        set(libc::M_MMAP_THRESHOLD, LARGEST);
        set(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no safe form of it")]
fn set(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: it takes two numbers, sets one under the allocator's lock and touches nothing else. Values that
    // it does not take change nothing.
    unsafe { libc::mallopt(parameter, value) };
}
