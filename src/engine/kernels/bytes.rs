//! The loops around integer products: rounding rows, putting bytes in order, scaling sums.

use std::ops::Range;

use super::level::at_level;

/// Steps of the contraction that lie side by side in a panel.
pub(super) const STEPS: usize = 4;

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
    /// Rounds a row into lane `lane` of a panel of `r` lanes.
    pub(super) fn round_into(
        row: &[f32],
        step: f32,
        panel: &mut [u8],
        layout: Layout,
        r: usize,
        lane: usize,
    ) -> () {
        let inverse = if step > 0.0 { step.recip().min(f32::MAX) } else { 0.0 };
        if layout == Layout::Whole {
            let width = panel.len() / r;
            for (v, byte) in row.iter().zip(&mut panel[width * lane..]) {
                *byte = nearest(v * inverse);
            }
            return;
        }
        let records = panel.chunks_exact_mut(STEPS * r);
        for (from, record) in row.chunks(STEPS).zip(records) {
            for (v, byte) in from.iter().zip(&mut record[STEPS * lane..]) {
                *byte = nearest(v * inverse);
            }
        }
    }
}

/// The nearest integer to `v`, from -127 to 127, as the bits of an i8.
#[inline(always)]
fn nearest(v: f32) -> u8 {
    // Adding this leaves the integer in the lowest bits, in the rounding mode of the processor.
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT).to_bits() as u8
}

at_level! {
    /// Puts the columns `lanes` of `weights`, which has rows of `n`, into panels of `r`: four steps
    /// of a lane side by side. The panels must be zero where there is no weight.
    pub(super) fn interleave(
        weights: &[i8],
        n: usize,
        lanes: Range<usize>,
        r: usize,
        panels: &mut [u8],
    ) -> () {
        match r {
            8 => interleave_by::<8>(weights, n, lanes, r, panels),
            16 => interleave_by::<16>(weights, n, lanes, r, panels),
            32 => interleave_by::<32>(weights, n, lanes, r, panels),
            _ => interleave_by::<0>(weights, n, lanes, r, panels),
        }
    }
}

/// The same, with whole records of `R` lanes at once, if `R` is `r`.
#[inline(always)]
fn interleave_by<const R: usize>(
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
                let four = [row(0), row(1), row(2), row(3)];
                let [a, b, c, d] = four.map(|row| <[i8; R]>::try_from(row).unwrap_or([0; R]));
                let mut words = [0u32; R];
                for i in 0..R {
                    let bytes = [a[i], b[i], c[i], d[i]].map(|v| u32::from(v as u8));
                    words[i] = (bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24).to_le();
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
    /// Floats from sums: y = sums * step * scale + bias.
    pub(super) fn scaled(
        sums: &[i32],
        step: f32,
        scale: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) -> () {
        for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scale) {
            *y = *sum as f32 * (step * scale);
        }
        for (y, b) in y.iter_mut().zip(bias.unwrap_or_default()) {
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
        // The smallest steps have no finite inverse.
        let mut panel = [0u8; 4];
        let step = step_of(Level::Portable, &[1e-45, 0.0]);
        round_into(Level::Portable, &[1e-45, 0.0], step, &mut panel, Layout::Whole, 1, 0);
        assert_eq!(panel, [0; 4]);
    }

    #[test]
    fn four_steps_of_a_lane_lie_side_by_side() {
        for (k, n, lanes) in
            [(1usize, 1usize, 0..1), (9, 40, 8..40), (12, 33, 0..33), (64, 70, 32..64)]
        {
            let w: Vec<i8> = (0..k * n).map(|i| (i * 89 % 255) as i8).collect();
            for r in [4, 8, 16, 32] {
                for &level in Level::available() {
                    let panel = k.next_multiple_of(STEPS) * r;
                    let mut panels = vec![0; lanes.len().div_ceil(r) * panel];
                    interleave(level, &w, n, lanes.clone(), r, &mut panels);
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
