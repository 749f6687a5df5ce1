//! A search or training as it is watched on stderr.

use std::sync::atomic::AtomicBool;

use super::progress::Progress;
use crate::search::progress::{Event, Monitor};

/// Shows steps as a bar and epochs as lines.
pub(super) struct Watch {
    show: Box<dyn FnMut(Event<'_>)>,
}

impl Watch {
    /// Watches `what`.
    pub(super) fn new(what: &str, quiet: bool) -> Self {
        let what = what.to_owned();
        let mut progress: Option<Progress> = None;
        let show = move |event: Event<'_>| match event {
            Event::Step { done, total, loss } => {
                let bar = progress.get_or_insert_with(|| Progress::new(&what, total as u64, quiet));
                bar.of(total as u64);
                bar.at(done as u64, &format!("loss {loss:.3}"));
            }
            Event::Measured { done, total } => {
                let bar = progress.get_or_insert_with(|| Progress::new(&what, total as u64, quiet));
                bar.at(done as u64, "nets measured");
            }
            Event::Search { line, expected, argmax, target } if !quiet => {
                let expected = expected.map_or_else(String::new, |cost| format!("  expected {cost}"));
                let text = format!(
                    "epoch {:>3}  loss {:.3}  accuracy {:.3}{expected}  argmax {argmax} of {target}  {:.0} s",
                    line.epoch + 1,
                    line.weight_loss,
                    line.weight_accuracy,
                    line.wall_ms as f64 / 1e3
                );
                say(progress.as_ref(), &text);
            }
            Event::Train(line) if !quiet => {
                let test = line.test_accuracy.map_or_else(String::new, |of| format!("  test {of:.4}"));
                let text = format!(
                    "epoch {:>3}  loss {:.3}  accuracy {:.3}{test}  {:.0} s",
                    line.epoch + 1,
                    line.loss,
                    line.accuracy,
                    line.wall_ms as f64 / 1e3
                );
                say(progress.as_ref(), &text);
            }
            Event::Trial { trial, samples } => {
                let bar = progress.get_or_insert_with(|| Progress::new(&what, samples as u64, quiet));
                let accuracy = trial.score.map_or_else(
                    || "over the limit".to_owned(),
                    |score| format!("accuracy {:.4}", score.validation),
                );
                bar.at(trial.trial as u64 + 1, &accuracy);
            }
            Event::Final { done, total, validation } => {
                let bar = progress.get_or_insert_with(|| Progress::new(&what, total as u64, quiet));
                bar.at(done as u64, &format!("accuracy {validation:.4}"));
            }
            Event::Search { .. } | Event::Train(_) => {}
        };
        Self { show: Box::new(show) }
    }

    /// What the search or training reports to.
    pub(super) fn monitor<'a>(&'a mut self, stop: &'a AtomicBool) -> Monitor<'a> {
        Monitor { watch: &mut *self.show, stop }
    }
}

fn say(progress: Option<&Progress>, line: &str) {
    match progress {
        Some(progress) => progress.say(line),
        None => eprintln!("{line}"),
    }
}
