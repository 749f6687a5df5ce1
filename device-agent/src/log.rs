//! The agent's log: lines on stderr.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, before the first host comes.
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on only trouble is written.
pub fn only_trouble() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Writes one line on what is no trouble.
pub fn event(text: fmt::Arguments<'_>) {
    if !QUIET.load(Ordering::Relaxed) {
        line(text);
    }
}

/// Writes one line; where nobody reads stderr any more, the agent goes on without.
pub fn line(text: fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{text}").ok();
}
