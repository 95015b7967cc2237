//! Operators that do the work of several at once, for both engines: what lies between them never
//! leaves the caches.

mod attention;
mod gelu;
mod layer_norm;

use attention::Attention;
use gelu::Gelu;
use layer_norm::LayerNorm;
use tract_onnx::tract_hir::internal::*;

use super::level::LANES;
use crate::graph::{Attrs, Node};

/// One of them. All values are f32.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) enum Fused {
    /// q, k, v `[B, L, heads, D]`, and a mask, to `[B, L, heads, D]`.
    Attention(Attention),
    /// q, k, v, dy, and a mask, to dq, dk, dv.
    AttentionGrad(Attention),
    /// x to y.
    Gelu(Gelu),
    /// x, dy to dx.
    GeluGrad(Gelu),
    /// x, scale, bias to y.
    LayerNorm(LayerNorm),
    /// x, scale, dy to dx.
    LayerNormGrad(LayerNorm),
}

/// An input.
#[derive(Clone, Copy)]
pub(in crate::engine) struct View<'a> {
    pub(in crate::engine) shape: &'a [usize],
    pub(in crate::engine) data: &'a [f32],
}

impl Fused {
    /// The operator that `node` is in the graph.
    pub(in crate::engine) fn of(node: &Node) -> TractResult<Option<Fused>> {
        let Node { op, attrs, .. } = node;
        Ok(Some(match op.as_str() {
            "FusedAttention" => Fused::Attention(Attention::of(attrs)),
            "FusedAttentionGrad" => Fused::AttentionGrad(Attention::of(attrs)),
            "FusedGeluGrad" => Fused::GeluGrad(Gelu::of(attrs)?),
            "FusedLayerNormGrad" => Fused::LayerNormGrad(LayerNorm::of(attrs)),
            _ => return Ok(None),
        }))
    }

    /// The same for standard operators that tract has as several of its own.
    pub(in crate::engine) fn standard(node: &Node) -> TractResult<Option<Fused>> {
        let last = |attrs: &Attrs| attrs.int("axis").unwrap_or(-1) == -1;
        Ok(Some(match node.op.as_str() {
            "Gelu" => Fused::Gelu(Gelu::of(&node.attrs)?),
            "LayerNormalization" if last(&node.attrs) && node.outputs.len() == 1 => {
                Fused::LayerNorm(LayerNorm::of(&node.attrs))
            }
            _ => return Ok(None),
        }))
    }

    /// For each output the input whose shape it has.
    pub(in crate::engine) fn outputs(&self) -> &'static [usize] {
        match self {
            Fused::AttentionGrad(_) => &[0, 1, 2],
            _ => &[0],
        }
    }

    /// Writes all elements of all outputs.
    pub(in crate::engine) fn run(
        &self,
        inputs: &[View<'_>],
        outputs: &mut [&mut [f32]],
    ) -> TractResult<()> {
        let fits = outputs.iter().zip(self.outputs());
        let fits = fits.filter(|(y, i)| inputs.get(**i).is_some_and(|x| x.data.len() == y.len()));
        ensure!(fits.count() == self.outputs().len(), "inputs or outputs are missing");
        if outputs.iter().all(|y| y.is_empty()) {
            return Ok(());
        }
        match (self, inputs, outputs) {
            (Fused::Attention(op), [q, k, v, mask @ ..], [y]) => op.run([q, k, v], mask.first(), y),
            (Fused::AttentionGrad(op), [q, k, v, dy, mask @ ..], [dq, dk, dv]) => {
                op.grad([q, k, v], dy, mask.first(), [dq, dk, dv])
            }
            (Fused::Gelu(op), [x], [y]) => op.run(x, y),
            (Fused::GeluGrad(op), [x, dy], [dx]) => op.grad(x, dy, dx),
            (Fused::LayerNorm(op), [x, scale, bias @ ..], [y]) => op.run(x, scale, bias.first(), y),
            (Fused::LayerNormGrad(op), [x, scale, dy], [dx]) => op.grad(x, scale, dy, dx),
            _ => bail!("{} inputs", inputs.len()),
        }
    }
}

/// The sum of `f` over 0 to `n`, in partial sums side by side.
#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += f(i + j);
        }
    }
    (whole..n).map(f).sum::<f32>() + sums.iter().sum::<f32>()
}
