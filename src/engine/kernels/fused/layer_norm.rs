//! Layer normalization over the last dimension (Ba et al., 2016) and the gradient of its input.

use tract_linalg::multithread::par_chunks_mut;
use tract_onnx::tract_hir::internal::*;

use super::{View, sum};
use crate::engine::kernels::level::{Level, at_level};
use crate::graph::Attrs;

/// y = (x - mean) / sqrt(variance + epsilon) * scale + bias.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct LayerNorm {
    epsilon: f32,
}

impl LayerNorm {
    pub(super) fn of(attrs: &Attrs) -> LayerNorm {
        LayerNorm { epsilon: attrs.float("epsilon").unwrap_or(1e-5) }
    }

    pub(super) fn run(
        &self,
        x: &View<'_>,
        scale: &View<'_>,
        bias: Option<&View<'_>>,
        y: &mut [f32],
    ) -> TractResult<()> {
        let width = width(x, scale)?;
        let bias = bias.map_or(&[][..], |b| b.data);
        ensure!(bias.is_empty() || bias.len() == width, "the bias has {} elements", bias.len());
        let (level, work) = (Level::detect(), y.len());
        par_chunks_mut(y, width, work, |first, y| {
            let rows = x.data.chunks_exact(width).skip(first);
            for (y, x) in y.chunks_exact_mut(width).zip(rows) {
                normalized(level, x, self.epsilon, scale.data, bias, y);
            }
            Ok(())
        })
    }

    pub(super) fn grad(
        &self,
        x: &View<'_>,
        scale: &View<'_>,
        dy: &View<'_>,
        dx: &mut [f32],
    ) -> TractResult<()> {
        let width = width(x, scale)?;
        ensure!(dy.data.len() == x.data.len(), "x and dy have other sizes");
        let (level, work) = (Level::detect(), dx.len());
        par_chunks_mut(dx, width, work, |first, dx| {
            let rows = x.data.chunks_exact(width).zip(dy.data.chunks_exact(width)).skip(first);
            for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(rows) {
                gradient(level, x, self.epsilon, scale.data, dy, dx);
            }
            Ok(())
        })
    }
}

/// The width of the rows of `x`, which must be that of `scale`.
fn width(x: &View<'_>, scale: &View<'_>) -> TractResult<usize> {
    let width = x.shape.last().copied().unwrap_or(0);
    ensure!(width > 0 && scale.data.len() == width, "the scale has {} elements", scale.data.len());
    Ok(width)
}

/// Mean, and one over the deviation.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x.len(), |i| x[i]) / n;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

at_level! {
    fn normalized(x: &[f32], epsilon: f32, scale: &[f32], bias: &[f32], y: &mut [f32]) -> () {
        let (mean, inv) = statistics(x, epsilon);
        for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
            *y = (x - mean) * inv * scale;
        }
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

at_level! {
    /// `inv (g - mean(g) - xhat mean(g xhat))` with g = dy scale.
    fn gradient(x: &[f32], epsilon: f32, scale: &[f32], dy: &[f32], dx: &mut [f32]) -> () {
        let n = x.len();
        let (scale, dy, dx) = (&scale[..n], &dy[..n], &mut dx[..n]);
        let (mean, inv) = statistics(x, epsilon);
        let g = sum(n, |i| dy[i] * scale[i]) / n as f32;
        let along = sum(n, |i| dy[i] * scale[i] * (x[i] - mean)) * inv / n as f32;
        for i in 0..n {
            dx[i] = inv * (dy[i] * scale[i] - g - (x[i] - mean) * inv * along);
        }
    }
}
