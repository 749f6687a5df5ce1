//! Ctrl-C as a value: the first asks the work to end, the second ends the program; of one that runs others the
//! second ends those, and the third itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a command that was interrupted.
pub(super) const INTERRUPTED: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
#[cfg(feature = "torch")]
static AGAIN: AtomicBool = AtomicBool::new(false);
static WATCHED: OnceLock<()> = OnceLock::new();

/// Starts to watch for Ctrl-C and termination; the flag that then becomes true.
pub(super) fn watch() -> &'static AtomicBool {
    watch_and(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            end_at_once();
        }
        eprintln!("\nending after the run in flight; once more to end at once");
    })
}

/// The same for a program whose own programs say so, and are to end before it: only a third time ends it at once.
#[cfg(feature = "torch")]
pub(super) fn watch_silently() {
    watch_and(|| {
        if ASKED.swap(true, Ordering::Relaxed) && AGAIN.swap(true, Ordering::Relaxed) {
            end_at_once();
        }
    });
}

fn watch_and(heard: impl Fn() + Send + 'static) -> &'static AtomicBool {
    WATCHED.get_or_init(|| {
        // Without the handler Ctrl-C ends the program at once, and what is stored is safe all the same.
        let _ = ctrlc::set_handler(heard);
    });
    &ASKED
}

/// Ends without what `exit` does first: it would destroy what libtorch is still computing with, and that is a panic.
#[cfg(feature = "torch")]
#[expect(unsafe_code, reason = "the standard library has no exit without destructors")]
fn end_at_once() -> ! {
    // SAFETY: it takes no pointer and does not return; files keep what was written to them.
    unsafe { libc::_exit(INTERRUPTED.into()) }
}

#[cfg(not(feature = "torch"))]
fn end_at_once() -> ! {
    std::process::exit(INTERRUPTED.into())
}

/// Whether the user asked to end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Whether the user asked a second time, of a program that watches silently.
#[cfg(feature = "torch")]
pub(super) fn asked_again() -> bool {
    AGAIN.load(Ordering::Relaxed)
}
