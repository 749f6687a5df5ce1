//! The agent's log: lines on stderr.

use std::fmt;
use std::io::Write;

/// Writes one line; where nobody reads stderr any more, the agent goes on without.
pub fn line(text: fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{text}").ok();
}
