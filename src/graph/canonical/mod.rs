//! Rewrites an export into the form in which sites are found and gradients are cheap. Every
//! rewrite keeps the values of the graph's outputs.

mod batch_norm;
mod dequantize;
mod fold;
mod gelu;
mod heads;
mod linear;
mod mask;
mod padding;
mod reshape;

pub use padding::{MaskReport, padding_masks};

use super::{Graph, GraphError};

/// Brings a freshly read graph into canonical form:
/// constants folded, stored integers as floats, `Identity` and `Dropout` gone, constant `Reshape`
/// targets, linear layers as `MatMul` + `Add` with the weight `[in, out]`, one `Gelu` per activation,
/// no guards around softmax, batch normalisations folded, heads split even where there is one.
///
/// # Errors
/// [`GraphError`] if a rewritten node does not fit, which would be a bug or a broken model.
pub fn canonicalise(graph: &mut Graph) -> Result<(), GraphError> {
    dequantize::weights(graph)?;
    fold::fold(graph)?;
    batch_norm::fold(graph)?;
    // Twice: a rewrite may reveal the pattern of another.
    for _ in 0..2 {
        reshape::constant_targets(graph)?;
        reshape::transposed_keys(graph)?;
        linear::as_matmul(graph)?;
        mask::drop_nan_guards(graph)?;
        mask::drop_zero_masks(graph)?;
        gelu::fuse(graph)?;
        graph.prune();
        graph.infer_all()?;
        fold::fold(graph)?;
    }
    heads::split_single(graph)
}
