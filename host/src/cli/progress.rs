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
    /// When the first word came, and how much was done by then: what went before (a device that warms up)
    /// says nothing of the pace.
    first: Option<(Instant, u64)>,
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
        let plain = !quiet && !terminal;
        Self { bar, what: what.to_owned(), plain, first: None, last_line: Instant::now() }
    }

    /// There are `total` steps, as is known now.
    #[cfg(feature = "torch")]
    pub(super) fn of(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// `done` steps are done; `message` says where we are.
    pub(super) fn at(&mut self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
        let (start, before) = *self.first.get_or_insert_with(|| {
            self.bar.reset_eta();
            (Instant::now(), done)
        });
        if self.plain && self.last_line.elapsed() > LINE_EVERY {
            self.last_line = Instant::now();
            let total = self.bar.length().unwrap_or(0).max(done).max(1);
            let left = match done.saturating_sub(before) {
                0 => String::new(),
                since => {
                    let left = start.elapsed().mul_f64((total - done) as f64 / since as f64);
                    format!(" ({} left)", HumanDuration(left))
                }
            };
            eprintln!("{}: {done}/{total} {message}{left}", self.what);
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
