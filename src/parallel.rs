//! Work on several parts at once.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What `work` makes of each of `parts`, in their order. `workers` threads, of which the caller is one,
/// each take the next part when they are free; after an error no further part is begun.
pub(crate) fn side_by_side<P: Sync, R: Send, E: Send>(
    workers: usize,
    parts: &[P],
    work: impl Fn(&P) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let go = || {
        let mut done = vec![];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(i) else { return Ok(done) };
            match work(part) {
                Ok(result) => done.push((i, result)),
                Err(e) => {
                    next.store(parts.len(), Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
    };
    let others = workers.min(parts.len()).saturating_sub(1);
    let all: Vec<Result<Vec<_>, E>> = thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(go)).collect();
        let mine = go();
        let join =
            |t: thread::ScopedJoinHandle<'_, _>| t.join().unwrap_or_else(|p| resume_unwind(p));
        std::iter::once(mine).chain(others.into_iter().map(join)).collect()
    });
    let mut results = vec![];
    for done in all {
        results.extend(done?);
    }
    results.sort_unstable_by_key(|(i, _)| *i);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        let parts: Vec<usize> = (0..100).collect();
        for workers in [0, 1, 3, 200] {
            let squares = side_by_side(workers, &parts, |&p| Ok::<_, ()>(p * p)).unwrap();
            assert!(squares.iter().enumerate().all(|(i, &s)| s == i * i));
        }
        assert!(side_by_side(4, &[] as &[usize], |&p| Ok::<_, ()>(p)).unwrap().is_empty());
    }

    #[test]
    fn an_error_ends_the_work() {
        let begun = AtomicUsize::new(0);
        let parts: Vec<usize> = (0..1000).collect();
        let result = side_by_side(2, &parts, |&p| {
            begun.fetch_add(1, Ordering::Relaxed);
            match p {
                0 => Err("no"),
                _ => {
                    thread::sleep(std::time::Duration::from_millis(1));
                    Ok(p)
                }
            }
        });
        assert!(result == Err("no") && begun.into_inner() < 1000);
    }
}
