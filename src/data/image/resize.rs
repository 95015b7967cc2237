//! Scaling of 8-bit pictures, bit for bit as PIL's `Image.resize` does it up to Pillow 12
//! (libImaging's `Resample.c`): separable filters that widen when scaling down, weights in fixed
//! point, rounding to 8 bits after the horizontal pass.
//!
//! Pillow 13 scales some tall pictures vertically first, which moves a tenth of the values by 1.

use std::ops::Range;

use super::Interpolation;

/// Fraction bits of the weights: 8 are left for the pixel, 2 for overshoot and sign.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, for rounding.
const HALF: i32 = 1 << (PRECISION - 1);

/// A part of a picture.
pub(super) struct View<'a> {
    /// All pixels, `[rows, row, channels]`.
    pub(super) pixels: &'a [u8],
    pub(super) channels: usize,
    /// Pixels in a row of the whole picture.
    pub(super) row: usize,
    /// Top, left, height and width of the part.
    pub(super) region: [usize; 4],
}

impl View<'_> {
    /// Scales the part to `[height, width]` and returns `rows` and `columns` of the result only:
    /// `[rows, columns, channels]`.
    pub(super) fn scale(
        &self,
        [height, width]: [usize; 2],
        rows: Range<usize>,
        columns: Range<usize>,
        interpolation: Interpolation,
    ) -> Vec<u8> {
        let [_, _, have_h, have_w] = self.region;
        let across = taps(have_w, width, columns, interpolation);
        let down = taps(have_h, height, rows, interpolation);
        // Only the rows that the vertical pass reads.
        let first = down.iter().map(|t| t.start).min().unwrap_or(0);
        let last = down.iter().map(|t| t.start + t.weights.len()).max().unwrap_or(0);

        let line = across.len() * self.channels;
        let mut middle = Vec::with_capacity(line * last.saturating_sub(first));
        for y in first..last {
            match self.channels {
                1 => blend::<1>(self.line(y), &across, &mut middle),
                _ => blend::<3>(self.line(y), &across, &mut middle),
            }
        }
        let mut out = Vec::with_capacity(line * down.len());
        let mut sums = vec![0i32; line];
        for tap in &down {
            sums.fill(HALF);
            let above = middle.get((tap.start - first) * line..).unwrap_or_default();
            for (weight, row) in tap.weights.iter().zip(above.chunks_exact(line.max(1))) {
                for (sum, &pixel) in sums.iter_mut().zip(row) {
                    *sum += weight * i32::from(pixel);
                }
            }
            out.extend(sums.iter().map(rounded));
        }
        out
    }

    /// Row `y` of the part.
    fn line(&self, y: usize) -> &[u8] {
        let [top, left, _, width] = self.region;
        let from = ((top + y) * self.row + left) * self.channels;
        self.pixels.get(from..from + width * self.channels).unwrap_or_default()
    }
}

/// The pixels that one pixel of the result is made of.
struct Tap {
    start: usize,
    weights: Vec<i32>,
}

/// The horizontal pass of one row of `C` channels.
fn blend<const C: usize>(row: &[u8], taps: &[Tap], out: &mut Vec<u8>) {
    let row = row.as_chunks::<C>().0;
    for tap in taps {
        let mut sums = [HALF; C];
        let pixels = row.get(tap.start..).unwrap_or_default();
        for (weight, pixel) in tap.weights.iter().zip(pixels) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        out.extend(sums.iter().map(rounded));
    }
}

/// Sums cannot overflow: weights add up to one, and the negative ones to more than -1/4.
fn rounded(sum: &i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The taps of the pixels `range` of an axis scaled from `have` to `want` pixels.
fn taps(have: usize, want: usize, range: Range<usize>, interpolation: Interpolation) -> Vec<Tap> {
    let filter: (f64, fn(f64) -> f64) = match interpolation {
        _ if have == want => return range.map(single).collect(),
        Interpolation::Nearest => {
            let nearest = |x: usize| ((x as f64 + 0.5) * have as f64 / want as f64) as usize;
            return range.map(|x| single(nearest(x).min(have.saturating_sub(1)))).collect();
        }
        Interpolation::Bilinear => (1.0, triangle),
        Interpolation::Bicubic => (2.0, catmull_rom),
    };
    let scale = have as f64 / want as f64;
    let widened = scale.max(1.0);
    let support = filter.0 * widened;
    let tap = |x: usize| {
        let centre = (x as f64 + 0.5) * scale;
        // A negative number becomes 0.
        let start = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(have);
        let weight = |i: usize| (filter.1)((i as f64 - centre + 0.5) / widened);
        let weights: Vec<f64> = (start..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / sum * f64::from(1 << PRECISION)).round() as i32;
        Tap { start, weights: weights.iter().map(fixed).collect() }
    };
    range.map(tap).collect()
}

fn single(start: usize) -> Tap {
    Tap { start, weights: vec![1 << PRECISION] }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn catmull_rom(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * -0.5 - 4.0 * -0.5
    } else {
        0.0
    }
}
