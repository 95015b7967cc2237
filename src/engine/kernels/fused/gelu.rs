//! The Gaussian error linear unit (Hendrycks and Gimpel, 2016) and its gradient.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use tract_linalg::multithread::par_chunks_mut;
use tract_onnx::tract_hir::internal::*;

use super::View;
use crate::engine::kernels::level::{Level, at_level};
use crate::engine::kernels::special::{normal, tanh};
use crate::graph::Attrs;

/// What is computed at a time by one thread.
const PIECE: usize = 1024;

/// x Phi(x), or its approximation by a hyperbolic tangent.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct Gelu {
    tanh: bool,
}

impl Gelu {
    pub(super) fn of(attrs: &Attrs) -> TractResult<Gelu> {
        match attrs.str("approximate").unwrap_or("none") {
            "none" => Ok(Gelu { tanh: false }),
            "tanh" => Ok(Gelu { tanh: true }),
            other => bail!("approximate={other}"),
        }
    }

    pub(super) fn run(&self, x: &View<'_>, y: &mut [f32]) -> TractResult<()> {
        let level = Level::detect();
        pieces(y, |range, y| match self.tanh {
            false => exact(level, &x.data[range], y),
            true => approximate(level, &x.data[range], y),
        })
    }

    pub(super) fn grad(&self, x: &View<'_>, dy: &View<'_>, dx: &mut [f32]) -> TractResult<()> {
        ensure!(dy.data.len() == x.data.len(), "x and dy have other sizes");
        let level = Level::detect();
        pieces(dx, |range, dx| match self.tanh {
            false => exact_grad(level, &x.data[range.clone()], &dy.data[range], dx),
            true => approximate_grad(level, &x.data[range.clone()], &dy.data[range], dx),
        })
    }
}

/// Calls `f` with pieces of `y`, and where they lie.
fn pieces(
    y: &mut [f32],
    f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync + Send,
) -> TractResult<()> {
    let (whole, rest) = y.split_at_mut(y.len() / PIECE * PIECE);
    let at = |first: usize, y: &mut [f32]| f(first..first + y.len(), y);
    at(whole.len(), rest);
    let work = whole.len();
    par_chunks_mut(whole, PIECE, work, |first, y| {
        at(first * PIECE, y);
        Ok(())
    })
}

const C: f32 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const A: f32 = 0.044_715;

at_level! {
    fn exact(x: &[f32], y: &mut [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal(x).0;
        }
    }
}

at_level! {
    fn exact_grad(x: &[f32], dy: &[f32], dx: &mut [f32]) -> () {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            // Phi(x) + x phi(x)
            let (cdf, bell) = normal(x);
            *dx = dy * (cdf + x * (bell * (0.5 * C)));
        }
    }
}

at_level! {
    fn approximate(x: &[f32], y: &mut [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + tanh(C * x * (1.0 + A * x * x)));
        }
    }
}

at_level! {
    fn approximate_grad(x: &[f32], dy: &[f32], dx: &mut [f32]) -> () {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let square = x * x;
            let t = tanh(C * x * (1.0 + A * square));
            let du = C * (1.0 + 3.0 * A * square);
            *dx = dy * (0.5 * (1.0 + t + x * (1.0 - t * t) * du));
        }
    }
}
