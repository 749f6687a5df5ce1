//! Ctrl-C as a value: the first asks the work to end, the second ends the program.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static WATCHED: OnceLock<()> = OnceLock::new();

/// Starts to watch for Ctrl-C and termination; the flag that then becomes true.
pub(super) fn watch() -> &'static AtomicBool {
    watch_and(|| eprintln!("\nending after the run in flight; once more to end at once"))
}

/// The same for a program whose own programs say so.
#[cfg(feature = "torch")]
pub(super) fn watch_silently() {
    watch_and(|| ());
}

fn watch_and(tell: impl Fn() + Send + 'static) -> &'static AtomicBool {
    WATCHED.get_or_init(|| {
        // Without the handler Ctrl-C ends the program at once, and what is stored is safe all the same.
        let _ = ctrlc::set_handler(move || {
            if ASKED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            tell();
        });
    });
    &ASKED
}

/// Whether the user asked to end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
