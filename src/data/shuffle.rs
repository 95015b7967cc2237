//! Shuffles that are the same on every platform and under every release of `rand`.
//!
//! Only the ChaCha8 key stream is taken from outside; seeding, drawing and the order of swaps are
//! fixed here, because a run must be repeatable from its seed alone.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A generator for `(seed, stream)`; different streams of one seed are independent.
pub(crate) fn rng(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&stream.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Fisher-Yates shuffle in place.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i as u64 + 1) as usize);
    }
}

/// A uniform number in `0..n` (0 for `n = 0`).
pub(crate) fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    // Numbers above the last multiple of n would favour small results: draw again.
    let fair = u64::MAX - u64::MAX.checked_rem(n).unwrap_or(0);
    loop {
        let x = rng.next_u64();
        if x < fair {
            return x.checked_rem(n).unwrap_or(0);
        }
    }
}

/// A uniform number from 0 up to, but not including, 1.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_for_a_seed_never_changes() {
        let mut v: Vec<u32> = (0..10).collect();
        shuffle(&mut v, &mut rng(7, 3));
        assert_eq!(v, PINNED);
        let mut w: Vec<u32> = (0..10).collect();
        shuffle(&mut w, &mut rng(7, 4));
        assert_ne!(v, w);
    }
    /// Computed apart from this code, with a ChaCha8 written from its definition.
    const PINNED: [u32; 10] = [7, 9, 2, 5, 3, 4, 0, 8, 1, 6];

    #[test]
    fn every_position_is_equally_likely() {
        let mut count = [[0u32; 4]; 4];
        for seed in 0..8000 {
            let mut v = [0usize, 1, 2, 3];
            shuffle(&mut v, &mut rng(seed, 0));
            for (place, &item) in v.iter().enumerate() {
                count[item][place] += 1;
            }
        }
        for c in count.as_flattened() {
            assert!((1850..2150).contains(c), "{count:?}");
        }
    }
}
