//! int4 weights, two to a byte, made wider a part at a time while they are packed.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::level::{Level, at_level};
use super::panels::Direction;
use super::special::SHIFT;
use crate::graph::frozen::BLOCK;

/// The largest magnitude of int4.
const LARGEST: f32 = 8.0;

/// Weights become i8 with this many binary places: `weight * multiplier` fits i16.
const PLACES: u32 = 7;

/// Weights `[K, N]` with a scale for each column of a block of [`BLOCK`] rows; N is even.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a> {
    bytes: &'a [u8],
    /// `[K / BLOCK, N]`.
    scale: &'a [f16],
    n: usize,
}

/// The weights of some lanes of a product.
pub(super) struct Part<'a> {
    of: Nibbles<'a>,
    rows: Range<usize>,
    /// Begins and ends between bytes.
    cols: Range<usize>,
    /// Of the part, the lanes that were asked for.
    pub(super) lanes: Range<usize>,
}

impl<'a> Nibbles<'a> {
    pub(super) fn new(bytes: &'a [u8], scale: &'a [f16], n: usize) -> Nibbles<'a> {
        Nibbles { bytes, scale, n }
    }

    /// For each column, a 127th of the largest magnitude that its scales allow.
    pub(super) fn steps(&self) -> Vec<f32> {
        let mut steps = vec![0f32; self.n];
        let mut floats = vec![0f32; self.n];
        for scale in self.scale.chunks_exact(self.n) {
            scale.convert_to_f32_slice(&mut floats);
            steps.iter_mut().zip(&floats).for_each(|(step, s)| *step = step.max(s.abs()));
        }
        steps.iter_mut().for_each(|step| *step *= LARGEST / 127.0);
        steps
    }

    /// The columns (forward) or rows (backward) `lanes`.
    pub(super) fn part(self, direction: Direction, lanes: Range<usize>) -> Part<'a> {
        let rows = 2 * self.bytes.len() / self.n;
        match direction {
            Direction::Forward => {
                let cols = lanes.start / 2 * 2..lanes.end.next_multiple_of(2);
                let lanes = lanes.start - cols.start..lanes.end - cols.start;
                Part { of: self, rows: 0..rows, cols, lanes }
            }
            Direction::Backward => {
                Part { of: self, cols: 0..self.n, lanes: 0..lanes.len(), rows: lanes }
            }
        }
    }
}

impl Part<'_> {
    /// Columns of the part.
    pub(super) fn width(&self) -> usize {
        self.cols.len()
    }

    /// The weights as f32.
    pub(super) fn floats(&self, level: Level) -> Vec<f32> {
        let mut out = vec![0f32; self.rows.len() * self.width()];
        let mut to = out.chunks_exact_mut(self.width());
        let mut words = vec![0u16; self.width() / 2];
        self.for_each_block(|scale, rows| {
            for (row, out) in rows.zip(&mut to) {
                unpack(level, self.bytes(row), &mut words);
                scaled(level, bytemuck::cast_slice(&words), scale, out);
            }
        });
        out
    }

    /// The weights as i8, in the `steps` of their columns.
    pub(super) fn rounded(&self, level: Level, steps: &[f32]) -> Vec<i8> {
        let steps = &steps[self.cols.clone()];
        let mut multipliers = vec![0i16; self.width()];
        let mut out = vec![0i8; self.rows.len() * self.width()];
        let mut to = out.chunks_exact_mut(self.width());
        let mut words = vec![0u16; self.width() / 2];
        self.for_each_block(|scale, rows| {
            multiply_by(level, scale, steps, &mut multipliers);
            for (row, out) in rows.zip(&mut to) {
                unpack(level, self.bytes(row), &mut words);
                multiplied(level, bytemuck::cast_slice(&words), &multipliers, out);
            }
        });
        out
    }

    /// Passes the scales of the columns, and the rows that have them.
    fn for_each_block(&self, mut each: impl FnMut(&[f32], Range<usize>)) {
        let mut floats = vec![0f32; self.width()];
        let mut rows = self.rows.clone();
        while !rows.is_empty() {
            let block = rows.start / BLOCK;
            let end = rows.end.min((block + 1) * BLOCK);
            let scale = &self.of.scale[block * self.of.n..][self.cols.clone()];
            scale.convert_to_f32_slice(&mut floats);
            each(&floats, rows.start..end);
            rows.start = end;
        }
    }

    /// Two weights each.
    fn bytes(&self, row: usize) -> &[u8] {
        let start = row * self.of.n;
        &self.of.bytes[(start + self.cols.start) / 2..(start + self.cols.end) / 2]
    }
}

at_level! {
    /// Puts the two weights of a byte into bytes of their own, 8 added.
    fn unpack(bytes: &[u8], words: &mut [u16]) -> () {
        for (word, &byte) in words.iter_mut().zip(bytes) {
            let byte = u16::from(byte);
            *word = (((byte | byte << 4) & 0x0f0f) ^ 0x0808).to_le();
        }
    }
}

/// A weight that [`unpack`] made.
#[inline(always)]
fn signed(byte: u8) -> i16 {
    i16::from(byte) - 8
}

at_level! {
    /// out = weights * scale.
    fn scaled(weights: &[u8], scale: &[f32], out: &mut [f32]) -> () {
        for ((out, &w), scale) in out.iter_mut().zip(weights).zip(scale) {
            *out = f32::from(signed(w)) * scale;
        }
    }
}

at_level! {
    /// multipliers = scale / step, rounded, with their binary places.
    fn multiply_by(scale: &[f32], steps: &[f32], multipliers: &mut [i16]) -> () {
        const ONE: f32 = (1 << PLACES) as f32;
        for ((m, scale), step) in multipliers.iter_mut().zip(scale).zip(steps) {
            // A column of zeros has no step.
            *m = (scale / step.max(f32::MIN_POSITIVE) * ONE + SHIFT).to_bits() as i16;
        }
    }
}

at_level! {
    /// out = weights * multipliers, without their binary places.
    fn multiplied(weights: &[u8], multipliers: &[i16], out: &mut [i8]) -> () {
        const HALF: i16 = 1 << (PLACES - 1);
        for ((out, &w), m) in out.iter_mut().zip(weights).zip(multipliers) {
            *out = (signed(w).wrapping_mul(*m).wrapping_add(HALF) >> PLACES) as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::dequantized_blocks;
    use crate::tensor::{DType, Tensor};

    /// Every level, direction and part against the plain definition.
    #[test]
    fn parts_are_what_is_stored() {
        for (k, n) in [(1usize, 2), (32, 32), (40, 34), (97, 130)] {
            let bytes: Vec<u8> = (0..k * n / 2).map(|i| (i * 89 % 256) as u8).collect();
            let scale: Vec<f16> = (0..k.div_ceil(BLOCK) * n)
                .map(|i| f16::from_f32((i % 7) as f32 * 0.25 - 0.75))
                .collect();
            let q = Tensor::from_bytes(DType::I4, &[k, n], &bytes).unwrap();
            let s = Tensor::new(&[k.div_ceil(BLOCK), n], &scale).unwrap();
            let want = dequantized_blocks(&q, &s, BLOCK).unwrap();
            let want: &[f32] = want.as_slice().unwrap();
            let nibbles = Nibbles::new(&bytes, &scale, n);
            let steps = nibbles.steps();
            for (direction, all) in [(Direction::Forward, n), (Direction::Backward, k)] {
                for lanes in [0..all, all / 3..all.div_ceil(2), all - 1..all] {
                    let part = nibbles.part(direction, lanes.clone());
                    let inside = part.lanes.clone();
                    assert_eq!(inside.len(), lanes.len());
                    for &level in Level::available() {
                        let (floats, rounded) = (part.floats(level), part.rounded(level, &steps));
                        assert_eq!(floats.len(), rounded.len());
                        for i in 0..floats.len() {
                            let (row, col) = (i / part.width(), i % part.width());
                            let at = (part.rows.start + row) * n + part.cols.start + col;
                            assert_eq!(floats[i], want[at], "{direction:?} {lanes:?} {level:?}");
                            let step = steps[at % n];
                            let close = f32::from(rounded[i]) * step;
                            assert!((close - want[at]).abs() <= step * 0.6, "{close} {}", want[at]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn broken_scales_do_no_harm() {
        let scale = [f16::NAN, f16::INFINITY, f16::NEG_INFINITY, f16::MAX];
        let nibbles = Nibbles::new(&[0x88, 0x77], &scale, 4);
        let steps = nibbles.steps();
        let part = nibbles.part(Direction::Forward, 0..4);
        assert_eq!(part.rounded(Level::detect(), &steps)[3], 111);
        assert!(part.floats(Level::detect())[1].is_infinite());
    }
}
