//! Progress on stderr: bars on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Work of known length.
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    plain: bool,
    start: Instant,
    last_line: Instant,
}

impl Progress {
    /// Starts showing `what`, of `total` steps.
    pub(super) fn new(what: &str, total: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::new(total);
        if quiet || !terminal {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{prefix} [{bar:30}] {pos}/{len} {msg} ({eta} left)";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        let now = Instant::now();
        Self { bar, what: what.to_owned(), plain: !quiet && !terminal, start: now, last_line: now }
    }

    /// `done` steps are done; `message` says where we are.
    pub(super) fn at(&mut self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
        if self.plain && self.last_line.elapsed() > LINE_EVERY {
            self.last_line = Instant::now();
            let total = self.bar.length().unwrap_or(0).max(done).max(1);
            let left = self.start.elapsed().mul_f64((total - done) as f64 / done.max(1) as f64);
            eprintln!("{}: {done}/{total} {message} ({} left)", self.what, HumanDuration(left));
        }
    }

    /// A line that stays, above the bar.
    pub(super) fn say(&self, line: &str) {
        if self.plain || self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

impl Drop for Progress {
    /// Takes the bar away.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
