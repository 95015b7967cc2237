//! Weights as int4: blocks of rows with one signed scale per column.

use half::f16;

use crate::graph::frozen::BLOCK;

/// The steps of int4. The side that has one more is that of the largest weight: scales have a sign.
const LEAST: f32 = -8.0;
const MOST: f32 = 7.0;

/// Scales that are tried for a block: the largest weight falls on a step from 7 to 9, where the last
/// means that it is cut off, which may serve the others better.
const TRIES: usize = 17;

/// A matrix whose weights move by more than this, relative to their size, stays int8.
const MOST_ERROR: f64 = 0.25;

/// Rounds `weights` `[K, cols]` to int4, two to a byte, with f16 scales `[K / 32, cols]`. `None` where
/// the form does not suit: an odd number of columns, or weights too large or too small for f16.
pub(super) fn blocks(weights: &[f32], cols: usize) -> Option<(Vec<u8>, Vec<f16>)> {
    if cols == 0 || !cols.is_multiple_of(2) {
        return None;
    }
    let mut bytes = Vec::with_capacity(weights.len() / 2);
    let mut scales = Vec::with_capacity(weights.len() / BLOCK + cols);
    let (mut moved, mut size) = (0f64, 0f64);
    let mut column = Vec::with_capacity(BLOCK);
    for block in weights.chunks(BLOCK * cols) {
        let mut q = vec![0i8; block.len()];
        for c in 0..cols {
            column.clear();
            column.extend(block[c..].iter().step_by(cols));
            let scale = best(&column);
            for (i, w) in column.iter().enumerate() {
                let step = round(*w, scale.to_f32());
                q[i * cols + c] = step as i8;
                moved += f64::from(step * scale.to_f32() - w).powi(2);
                size += f64::from(*w).powi(2);
            }
            scales.push(scale);
        }
        bytes.extend(q.chunks_exact(2).map(|two| two[0] as u8 & 0xf | (two[1] as u8) << 4));
    }
    // Also false where something is no number.
    (moved <= size * MOST_ERROR.powi(2)).then_some((bytes, scales))
}

/// The scale with the least squared error among the tries.
fn best(column: &[f32]) -> f16 {
    let peak = column.iter().fold(0f32, |p, &w| if w.abs() > p.abs() { w } else { p });
    let error = |scale: f16| -> f32 {
        let scale = scale.to_f32();
        column.iter().map(|&w| (round(w, scale) * scale - w).powi(2)).sum()
    };
    let tries = (0..TRIES).map(|i| {
        let steps = LEAST + 1.0 - 2.0 * i as f32 / (TRIES - 1) as f32;
        let scale = f16::from_f32(peak / steps);
        (error(scale), scale)
    });
    let least = tries.min_by(|(a, _), (b, _)| a.total_cmp(b));
    least.map_or(f16::ZERO, |(_, scale)| scale)
}

/// The step nearest to `w`.
fn round(w: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (w / scale).round().clamp(LEAST, MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::dequantized_blocks;
    use crate::tensor::{DType, Tensor};

    fn floats(k: usize, n: usize, w: &[f32]) -> Vec<f32> {
        let (bytes, scale) = blocks(w, n).unwrap();
        let q = Tensor::from_bytes(DType::I4, &[k, n], &bytes).unwrap();
        let scale = Tensor::new(&[k.div_ceil(BLOCK), n], &scale).unwrap();
        dequantized_blocks(&q, &scale, BLOCK).unwrap().to_f32().into_owned()
    }

    #[test]
    fn error_is_at_most_a_step() {
        for (k, n) in [(1, 2), (32, 4), (70, 6)] {
            let w: Vec<f32> = (0..k * n)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0 * (1 + i % n) as f32)
                .collect();
            let close = floats(k, n, &w);
            for block in 0..k.div_ceil(BLOCK) {
                for c in 0..n {
                    let at = |i: usize| (block * BLOCK + i) * n + c;
                    let rows = BLOCK.min(k - block * BLOCK);
                    let peak = (0..rows).map(|i| w[at(i)].abs()).fold(0.0, f32::max);
                    let off =
                        (0..rows).map(|i| (w[at(i)] - close[at(i)]).abs()).fold(0.0, f32::max);
                    // The largest may be cut off by up to a step.
                    assert!(off <= peak / 7.0 * 1.001, "[{k}, {n}] {off} {peak}");
                }
            }
        }
    }

    #[test]
    fn steps_of_int4_are_kept() {
        // Every step occurs, and each block and column has its own size.
        let w: Vec<f32> = (0..64 * 2)
            .map(|i| ((i / 2 % 16) as f32 - 8.0) * [0.5, -2.0][i % 2] * (1 + i / 64) as f32)
            .collect();
        assert_eq!(floats(64, 2, &w), w);
        assert_eq!(floats(3, 2, &[0.0; 6]), [0.0; 6]);
    }

    #[test]
    fn what_does_not_suit_is_left() {
        assert!(blocks(&[1.0; 9], 3).is_none());
        assert!(blocks(&[1e30; 4], 2).is_none());
        assert!(blocks(&[1e-9; 4], 2).is_none());
        assert!(blocks(&[f32::NAN, 1.0], 2).is_none());
        assert!(blocks(&[f32::INFINITY, 1.0], 2).is_none());
    }
}
