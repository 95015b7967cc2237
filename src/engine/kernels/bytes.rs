//! The loops around integer products: rounding rows, putting bytes in order, scaling sums.

use std::ops::Range;

use super::level::{LANES as B, at_level};
use super::panels::transposed;
use super::special::SHIFT;

/// Steps of the contraction that lie side by side in a panel.
pub(super) const STEPS: usize = 4;

/// Elements of a row that are rounded before they are put into a panel.
const PIECE: usize = 64;

/// How the rows of x lie in a panel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    /// Four steps of each row side by side (the dot products of VNNI and ARM).
    Steps,
    /// Row behind row, each padded (the tiles of AMX).
    Whole,
}

at_level! {
    /// A 127th of the largest magnitude of a row; NaN if an element is not finite, so that its
    /// results are not either.
    pub(super) fn step_of(row: &[f32]) -> f32 {
        const SIGN: u32 = 1 << 31;
        // Magnitudes order like their bits, with infinity and NaN on top.
        let largest = row.iter().fold(0, |m: u32, v| m.max(v.to_bits() & !SIGN));
        match f32::from_bits(largest) {
            m if !m.is_finite() => f32::NAN,
            m => m / 127.0,
        }
    }
}

at_level! {
    /// What rounding leaves of a row.
    pub(super) fn leave_rest(row: &mut [f32], step: f32) -> () {
        let inverse = inverse(step);
        for v in row {
            *v -= (*v * inverse + SHIFT - SHIFT) * step;
        }
    }
}

at_level! {
    /// Rounds a row into lane `lane` of a panel of `r` lanes.
    pub(super) fn round_into(
        row: &[f32],
        step: f32,
        panel: &mut [u8],
        layout: Layout,
        r: usize,
        lane: usize,
    ) -> () {
        let inverse = inverse(step);
        if layout == Layout::Whole {
            let width = panel.len() / r;
            for (v, byte) in row.iter().zip(&mut panel[width * lane..]) {
                *byte = nearest(v * inverse);
            }
            return;
        }
        let mut records = panel.chunks_exact_mut(STEPS * r);
        for piece in row.chunks(PIECE) {
            // Contiguous first: that is done for a register at a time.
            let mut bytes = [0; PIECE];
            for (v, byte) in piece.iter().zip(&mut bytes) {
                *byte = nearest(v * inverse);
            }
            let words = bytes.chunks_exact(STEPS).take(piece.len().div_ceil(STEPS));
            for (word, record) in words.zip(&mut records) {
                record[STEPS * lane..][..STEPS].copy_from_slice(word);
            }
        }
    }
}

/// The smallest steps have no finite inverse.
#[inline(always)]
fn inverse(step: f32) -> f32 {
    if step > 0.0 { step.recip().min(f32::MAX) } else { 0.0 }
}

/// The nearest integer to `v`, from -127 to 127, as the bits of an i8.
#[inline(always)]
fn nearest(v: f32) -> u8 {
    (v + SHIFT).to_bits() as u8
}

at_level! {
    /// Puts the columns `lanes` of `weights`, which has rows of `n`, into panels of `r`: four steps
    /// of a lane side by side. The panels must be zero where there is no weight.
    pub(super) fn interleave_columns(
        weights: &[i8],
        n: usize,
        lanes: Range<usize>,
        r: usize,
        panels: &mut [u8],
    ) -> () {
        match r {
            8 => columns_by::<8>(weights, n, lanes, r, panels),
            16 => columns_by::<16>(weights, n, lanes, r, panels),
            32 => columns_by::<32>(weights, n, lanes, r, panels),
            _ => columns_by::<0>(weights, n, lanes, r, panels),
        }
    }
}

/// The same, with whole records of `R` lanes at once, if `R` is `r`.
#[inline(always)]
fn columns_by<const R: usize>(
    weights: &[i8],
    n: usize,
    lanes: Range<usize>,
    r: usize,
    panels: &mut [u8],
) {
    let k = weights.len() / n;
    let panel = k.next_multiple_of(STEPS) * r;
    for (first, panel) in lanes.clone().step_by(r).zip(panels.chunks_exact_mut(panel)) {
        let width = r.min(lanes.end - first);
        let whole = if width == R { k / STEPS } else { 0 };
        let (blocks, records) = (weights.chunks(STEPS * n), panel.chunks_exact_mut(STEPS * r));
        for (i, (block, record)) in blocks.zip(records).enumerate() {
            let row = |s: usize| &block[s * n + first..][..width];
            if i < whole {
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let (a, b, c, d) = (&a[..R], &b[..R], &c[..R], &d[..R]);
                let mut words = [0u32; R];
                for i in 0..R {
                    let (a, b) = (u32::from(a[i] as u8), u32::from(b[i] as u8));
                    let (c, d) = (u32::from(c[i] as u8), u32::from(d[i] as u8));
                    words[i] = (a | b << 8 | c << 16 | d << 24).to_le();
                }
                record[..STEPS * R].copy_from_slice(bytemuck::cast_slice(&words));
                continue;
            }
            for s in 0..block.len() / n {
                for (w, to) in row(s).iter().zip(record.chunks_exact_mut(STEPS)) {
                    to[s] = *w as u8;
                }
            }
        }
    }
}

at_level! {
    /// The same for the rows `lanes`.
    pub(super) fn interleave_rows(
        weights: &[i8],
        n: usize,
        lanes: Range<usize>,
        r: usize,
        panels: &mut [u8],
    ) -> () {
        let weights: &[u8] = bytemuck::cast_slice(weights);
        let panel = n.next_multiple_of(STEPS) * r;
        for (first, panel) in lanes.clone().step_by(r).zip(panels.chunks_exact_mut(panel)) {
            let width = r.min(lanes.end - first);
            for lane in (0..width).step_by(B) {
                let filled = B.min(width - lane);
                let row = |j: usize| &weights[(first + lane + j) * n..][..n];
                // Four steps are a word, and blocks of 16 by 16 words are transposed.
                let whole = if filled == B { n / (STEPS * B) * B } else { 0 };
                for word in (0..whole).step_by(B) {
                    let mut block = [[0u32; B]; B];
                    for (j, words) in block.iter_mut().enumerate() {
                        let bytes = &row(j)[STEPS * word..][..STEPS * B];
                        bytemuck::cast_slice_mut(words).copy_from_slice(bytes);
                    }
                    let records = panel[STEPS * r * word..].chunks_exact_mut(STEPS * r);
                    for (words, record) in transposed(block).iter().zip(records) {
                        record[STEPS * lane..][..STEPS * B]
                            .copy_from_slice(bytemuck::cast_slice(words));
                    }
                }
                for j in 0..filled {
                    let records = panel.chunks_exact_mut(STEPS * r).skip(whole);
                    for (four, record) in row(j)[STEPS * whole..].chunks(STEPS).zip(records) {
                        record[STEPS * (lane + j)..][..four.len()].copy_from_slice(four);
                    }
                }
            }
        }
    }
}

at_level! {
    /// Floats from sums: y = sums * step * scale + bias.
    pub(super) fn scaled(
        sums: &[i32],
        step: f32,
        scale: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) -> () {
        for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scale) {
            *y = *sum as f32 * (step * scale);
        }
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

/// How much finer the steps are in which the rest of a row is rounded.
pub(super) const FINER: f32 = 254.0;

at_level! {
    /// Floats from the sums of a row and of its rest: y = (sums + rest / 254) * step + bias.
    pub(super) fn combined(
        sums: &[i32],
        rest: &[i32],
        step: f32,
        bias: &[f32],
        y: &mut [f32],
    ) -> () {
        for ((y, sum), rest) in y.iter_mut().zip(sums).zip(rest) {
            *y = (*sum as f32 + *rest as f32 * FINER.recip()) * step;
        }
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::Level;
    use super::*;

    #[test]
    fn rows_are_rounded_to_steps_of_their_own() {
        assert_eq!(step_of(Level::Portable, &[0.5, -2.54, 1.0]), 2.54 / 127.0);
        assert_eq!(step_of(Level::Portable, &[0.0, -0.0]), 0.0);
        assert!(step_of(Level::Portable, &[1.0, f32::NAN]).is_nan());
        assert!(step_of(Level::Portable, &[f32::NEG_INFINITY, 1.0]).is_nan());
        for (v, want) in [(126.6, 127), (-127.0, -127), (0.4, 0), (-0.6, -1), (2.5, 2), (3.5, 4)] {
            assert_eq!(nearest(v) as i8, want, "{v}");
        }
        let row = [1.0, -2.0, 0.5, 0.0, 2.0, 0.0];
        for &level in Level::available() {
            let mut panel = [0u8; 2 * STEPS * 3];
            round_into(level, &row, 2.0 / 127.0, &mut panel, Layout::Steps, 3, 1);
            let lane = [&panel[4..8], &panel[16..20]].concat();
            assert_eq!(
                lane.iter().map(|&b| b as i8).collect::<Vec<_>>(),
                [64, -127, 32, 0, 127, 0, 0, 0]
            );
            assert!(panel[..4].iter().chain(&panel[8..16]).chain(&panel[20..]).all(|&b| b == 0));
        }
        let mut panel = [0u8; 4];
        let step = step_of(Level::Portable, &[1e-45, 0.0]);
        round_into(Level::Portable, &[1e-45, 0.0], step, &mut panel, Layout::Whole, 1, 0);
        assert_eq!(panel, [0; 4]);
    }

    #[test]
    fn four_steps_of_a_lane_lie_side_by_side() {
        for (k, n, lanes) in [
            (1usize, 1usize, 0..1),
            (9, 40, 8..40),
            (12, 33, 0..33),
            (70, 70, 32..64),
            (131, 70, 3..70),
        ] {
            let w: Vec<i8> = (0..k * n).map(|i| (i * 89 % 255) as i8).collect();
            let transpose: Vec<i8> = (0..k * n).map(|i| w[i % k * n + i / k]).collect();
            for r in [4, 8, 16, 32] {
                for &level in Level::available() {
                    let panel = k.next_multiple_of(STEPS) * r;
                    let mut panels = vec![0; lanes.len().div_ceil(r) * panel];
                    interleave_columns(level, &w, n, lanes.clone(), r, &mut panels);
                    let mut across = vec![0; panels.len()];
                    interleave_rows(level, &transpose, k, lanes.clone(), r, &mut across);
                    assert!(panels == across, "[{k},{n}] r {r} {level:?}");
                    for (i, &byte) in panels.iter().enumerate() {
                        let (lane, step) = (
                            i / panel * r + i % panel / STEPS % r,
                            i % panel / (STEPS * r) * STEPS + i % STEPS,
                        );
                        let inside = step < k && lane < lanes.len();
                        let want = if inside { w[step * n + lanes.start + lane] } else { 0 };
                        assert_eq!(byte as i8, want, "[{k},{n}] r {r} {level:?}");
                    }
                }
            }
        }
    }
}
