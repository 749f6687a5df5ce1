//! Work on a list, a few pieces at once.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::Interrupted;

/// Does every piece, `at_once` at a time, in the order of the list. An error lets no other piece begin and
/// is told to `end`, that those at work may end; the error that is returned is the one that ended the others.
pub(super) fn each<T: Sync>(
    list: &[T],
    at_once: usize,
    work: impl Fn(&T) -> anyhow::Result<()> + Sync,
    end: impl Fn() + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(piece) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(piece) {
                next.store(list.len(), Ordering::Relaxed);
                end();
                return Err(error);
            }
        }
        Ok(())
    };
    let mut errors: Vec<anyhow::Error> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let ended =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.filter_map(Result::err).collect()
    });
    // Those that were told to end are interrupted.
    errors.sort_by_key(anyhow::Error::is::<Interrupted>);
    errors.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_piece_is_done_once_and_a_few_at_a_time() {
        let (at_work, most, sum) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |piece: &usize| {
            most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(2));
            at_work.fetch_sub(1, Ordering::SeqCst);
            sum.fetch_add(*piece, Ordering::SeqCst);
            Ok(())
        };
        each(&(1..=20).collect::<Vec<usize>>(), 3, work, || ()).unwrap();
        assert_eq!((sum.into_inner(), most.into_inner()), (210, 3));
    }

    #[test]
    fn what_failed_is_told_and_not_what_ended_for_it() {
        let ending = AtomicBool::new(false);
        let work = |piece: &u32| {
            if *piece == 1 {
                anyhow::bail!("it broke");
            }
            while !ending.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            Err(Interrupted { kept: "all".to_owned() }.into())
        };
        let error = each(&[0, 1, 2], 2, work, || ending.store(true, Ordering::SeqCst)).unwrap_err();
        assert_eq!(error.to_string(), "it broke");
    }
}
