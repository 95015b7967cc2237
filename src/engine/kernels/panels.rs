//! Weight panels: the layout in which tract's matmul kernels read their left operand, made on
//! demand from the row-major weights in the mapped file.
//!
//! A panel holds `r` rows of the operand, one record of `r` floats per step of the contraction:
//! `panel[step * r + lane]`. For y = x W the operand is W^T, so a lane is a column of W; for
//! dx = dy W^T it is W itself, so a lane is a row. Both come from the one stored copy.

use super::level::{LANES as B, at_level};

/// Weights `[K, N]`, row-major.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// i8 with one scale per column.
    I8(&'a [i8], &'a [f32]),
    /// Plain.
    F32(&'a [f32]),
}

/// Which product a panel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Direction {
    /// y = x W: lanes are columns.
    Forward,
    /// dx = dy W^T: lanes are rows.
    Backward,
}

at_level! {
    /// Fills `out` with the panel of `r` lanes that starts at lane `first` of weights with `n`
    /// columns. Lanes past the last one are zero.
    ///
    /// `out` must hold `r` floats for each of the K (forward) or N (backward) steps; steps that do
    /// not fit are left out.
    pub(super) fn pack(
        weights: Weights<'_>,
        n: usize,
        direction: Direction,
        first: usize,
        r: usize,
        out: &mut [f32],
    ) -> () {
        match (weights, direction) {
            (Weights::I8(w, scale), Direction::Forward) => {
                columns(w, n, first, r, out, f32::from, |i| scale[i])
            }
            (Weights::F32(w), Direction::Forward) => columns(w, n, first, r, out, |w| w, |_| 1.0),
            (Weights::I8(w, scale), Direction::Backward) => {
                rows(w, n, first, r, out, f32::from, |i| scale[i])
            }
            (Weights::F32(w), Direction::Backward) => rows(w, n, first, r, out, |w| w, |_| 1.0),
        }
    }
}

/// Lanes whose scales are kept at hand: more than any kernel has.
const SCALES: usize = 8 * B;

/// Lanes are columns: each record is a piece of one row of W.
#[inline(always)]
fn columns<T: Copy>(
    w: &[T],
    n: usize,
    first: usize,
    r: usize,
    out: &mut [f32],
    float: impl Fn(T) -> f32 + Copy,
    scale: impl Fn(usize) -> f32 + Copy,
) {
    let live = r.min(n.saturating_sub(first));
    let whole = live / B * B;
    // A whole record at a time, so that the panel is written front to back.
    let mut scales = [[1.0f32; B]; SCALES / B];
    for lanes in (0..whole).step_by(SCALES) {
        let lanes = lanes..whole.min(lanes + SCALES);
        for (i, s) in scales.as_flattened_mut().iter_mut().enumerate().take(lanes.len()) {
            *s = scale(first + lanes.start + i);
        }
        for (row, record) in w.chunks_exact(n).zip(out.chunks_exact_mut(r)) {
            let src = row[first..][lanes.clone()].chunks_exact(B);
            let dst = record[lanes.clone()].chunks_exact_mut(B);
            for ((src, dst), s) in src.zip(dst).zip(&scales) {
                for j in 0..B {
                    dst[j] = float(src[j]) * s[j];
                }
            }
        }
    }
    if whole < r {
        for (row, record) in w.chunks_exact(n).zip(out.chunks_exact_mut(r)) {
            for lane in whole..live {
                record[lane] = float(row[first + lane]) * scale(first + lane);
            }
            record[live..].fill(0.0);
        }
    }
}

/// Lanes are rows: W is transposed, 16 by 16 elements at a time.
#[inline(always)]
fn rows<T: Copy + Default>(
    w: &[T],
    n: usize,
    first: usize,
    r: usize,
    out: &mut [f32],
    float: impl Fn(T) -> f32 + Copy,
    scale: impl Fn(usize) -> f32 + Copy,
) {
    let live = r.min((w.len() / n.max(1)).saturating_sub(first));
    let whole = n / B * B;
    for lane in (0..r).step_by(B) {
        let lanes = B.min(r - lane);
        let filled = B.min(live.saturating_sub(lane));
        for col in (0..whole).step_by(B) {
            let mut block = [[T::default(); B]; B];
            for (j, row) in block.iter_mut().enumerate().take(filled) {
                row.copy_from_slice(&w[(first + lane + j) * n + col..][..B]);
            }
            let block = transposed(block);
            let records = out[col * r..].chunks_exact_mut(r);
            for (i, (row, record)) in block.iter().zip(records).enumerate() {
                let s = scale(col + i);
                if lanes == B {
                    let dst = &mut record[lane..][..B];
                    for j in 0..B {
                        dst[j] = float(row[j]) * s;
                    }
                } else {
                    for j in 0..lanes {
                        record[lane + j] = float(row[j]) * s;
                    }
                }
            }
        }
        for col in whole..n {
            let record = &mut out[col * r + lane..][..lanes];
            for (j, d) in record.iter_mut().enumerate() {
                *d = if j < filled {
                    float(w[(first + lane + j) * n + col]) * scale(col)
                } else {
                    0.0
                };
            }
        }
    }
}

/// Transposes in four rounds, each interleaving the two halves: a shape that compiles to unpack
/// instructions.
#[inline(always)]
pub(super) fn transposed<T: Copy + Default>(mut a: [[T; B]; B]) -> [[T; B]; B] {
    for _ in 0..B.ilog2() {
        let mut b = [[T::default(); B]; B];
        for i in 0..B / 2 {
            let (x, y) = (a[i], a[i + B / 2]);
            for j in 0..B / 2 {
                b[2 * i][2 * j] = x[j];
                b[2 * i][2 * j + 1] = y[j];
                b[2 * i + 1][2 * j] = x[j + B / 2];
                b[2 * i + 1][2 * j + 1] = y[j + B / 2];
            }
        }
        a = b;
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::level::Level;
    use super::*;

    fn check(weights: Weights<'_>, k: usize, n: usize, at: impl Fn(usize, usize) -> f32) {
        for direction in [Direction::Forward, Direction::Backward] {
            let (lanes, steps) = match direction {
                Direction::Forward => (n, k),
                Direction::Backward => (k, n),
            };
            for r in [1, 6, 8, 16, 48] {
                for first in (0..lanes).step_by(r) {
                    for &level in Level::available() {
                        let mut out = vec![f32::NAN; steps * r];
                        pack(level, weights, n, direction, first, r, &mut out);
                        for (step, record) in out.chunks(r).enumerate() {
                            for (j, &v) in record.iter().enumerate() {
                                let want = match direction {
                                    _ if first + j >= lanes => 0.0,
                                    Direction::Forward => at(step, first + j),
                                    Direction::Backward => at(first + j, step),
                                };
                                assert_eq!(v, want, "{level:?} {direction:?} [{k},{n}] r {r}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_packs_what_is_stored() {
        for (k, n) in [(1, 1), (1, 33), (17, 5), (32, 48), (37, 51)] {
            let w: Vec<i8> = (0..k * n).map(|i| (i * 89 % 255) as i8).collect();
            let scale: Vec<f32> = (0..n).map(|i| 0.01 + i as f32 * 0.003).collect();
            check(Weights::I8(&w, &scale), k, n, |i, j| f32::from(w[i * n + j]) * scale[j]);
            let f: Vec<f32> = w.iter().map(|&v| f32::from(v) * 0.37).collect();
            check(Weights::F32(&f), k, n, |i, j| f[i * n + j]);
        }
    }
}
