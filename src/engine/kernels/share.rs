//! How a product is shared out among threads.

use std::ops::Range;

use tract_linalg::multithread::{Executor, current_tract_executor};

/// Threads that products are spread over here.
pub(super) fn threads() -> usize {
    match current_tract_executor() {
        Executor::MultiThread(pool) => pool.current_num_threads().max(1),
        _ => 1,
    }
}

/// What a product of `rows` with weights of `weights` elements counts for tract, which spreads work of
/// 32,768 or more: waking a thread takes as long as `unit` times as many multiplications. Weights are
/// read, and mostly packed, once more for a few rows.
pub(super) fn work(rows: usize, weights: usize, unit: usize) -> usize {
    const ROWS_OF_WEIGHTS: usize = 8;
    (rows + ROWS_OF_WEIGHTS).saturating_mul(weights) / unit
}

/// `to` lanes in groups of whole panels of `r` lanes, at most `most` panels in each, and as much for
/// every one of `threads`: tract hands out up to four pieces to each.
pub(super) fn groups(to: usize, r: usize, most: usize, threads: usize) -> Vec<Range<usize>> {
    const PIECES: usize = 4;
    let panels = to.div_ceil(r);
    let least = panels.div_ceil(most);
    let even = if least > PIECES * threads { PIECES * threads } else { threads };
    let count = least.next_multiple_of(even).min(panels);
    let start = |i: usize| (panels * i / count * r).min(to);
    (0..count).map(|i| start(i)..start(i + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_whole_panels_and_even() {
        for (to, r, most) in [(1, 16, 3), (384, 16, 10), (1536, 16, 10), (100, 32, 1), (65, 8, 4)] {
            for threads in [1, 2, 3, 8] {
                let groups = groups(to, r, most, threads);
                let ends: Vec<usize> = groups.iter().map(|g| g.end).collect();
                let starts: Vec<usize> = groups.iter().map(|g| g.start).collect();
                assert_eq!((starts[0], ends[ends.len() - 1]), (0, to));
                assert_eq!(starts[1..], ends[..ends.len() - 1]);
                assert!(starts.iter().all(|s| s % r == 0), "{to} {r}: {groups:?}");
                assert!(groups.iter().all(|g| !g.is_empty() && g.len() <= most * r));
            }
        }
        assert_eq!(groups(384, 16, 10, 2), [0..96, 96..192, 192..288, 288..384]);
    }
}
