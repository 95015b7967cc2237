//! Normalisation layers, as composites: the forward operator stays as it is.

use crate::autodiff::step::Step;
use crate::graph::{Dim, GraphError, ValueId};
use crate::tensor::DType;

type Done = Result<(), GraphError>;

/// Gradient of `(x - mean) inv` where mean and inverse deviation are taken over `axes` of x itself:
/// `inv (g - mean(g) - xhat mean(g xhat))` (Ba et al., *Layer Normalization*, 2016).
fn standardise(
    s: &mut Step<'_>,
    g: ValueId,
    xhat: ValueId,
    inv: ValueId,
    axes: &[i64],
) -> Result<ValueId, GraphError> {
    let mean = s.reduce_mean(g, axes)?;
    let product = s.mul(g, xhat)?;
    let correlation = s.reduce_mean(product, axes)?;
    let along = s.mul(xhat, correlation)?;
    let centred = s.sub(g, mean)?;
    let rest = s.sub(centred, along)?;
    s.mul(rest, inv)
}

/// One operator, unless the scale is trained as well: that reads the Mean and InvStdDev outputs, which
/// are added to the node.
pub fn layer(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    s.give_summed(2, dy)?;
    if !s.wants(0) && !s.wants(1) {
        return Ok(());
    }
    let rank = s.graph.rank(x);
    let first = s.axis(s.node.attrs.int("axis").unwrap_or(-1), rank)?;
    let dtype = s.graph.value(x).dtype;
    if !s.wants(1) && first + 1 == rank && s.graph.rank(s.x(1)?) == 1 && dtype == DType::F32 {
        let dx = s.op_with("FusedLayerNormGrad", &[x, s.x(1)?, dy], s.node.attrs.clone())?;
        s.give(0, dx);
        return Ok(());
    }
    let axes: Vec<i64> = (first as i64..rank as i64).collect();
    let mut shape = s.graph.shape(x).to_vec();
    shape.iter_mut().skip(first).for_each(|d| *d = Dim::fixed(1));
    let mean = s.extra_output(1, dtype, shape.clone())?;
    let inv = s.extra_output(2, dtype, shape)?;
    let centred = s.sub(x, mean)?;
    let xhat = s.mul(centred, inv)?;
    if s.wants(1) {
        let dscale = s.mul(dy, xhat)?;
        s.give_summed(1, dscale)?;
    }
    if s.wants(0) {
        let g = s.mul(dy, s.x(1)?)?;
        let dx = standardise(s, g, xhat, inv, &axes)?;
        s.give(0, dx);
    }
    Ok(())
}

/// `x inv scale` with `inv = 1 / sqrt(mean(x^2) + epsilon)`, recomputed.
pub fn root_mean_square(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let rank = s.graph.rank(x);
    let first = s.axis(s.node.attrs.int("axis").unwrap_or(-1), rank)?;
    let axes: Vec<i64> = (first as i64..rank as i64).collect();
    let square = s.mul(x, x)?;
    let power = s.reduce_mean(square, &axes)?;
    let inv = inverse_deviation(s, power)?;
    let xhat = s.mul(x, inv)?;
    if s.wants(1) {
        let dscale = s.mul(dy, xhat)?;
        s.give_summed(1, dscale)?;
    }
    if s.wants(0) {
        let g = s.mul(dy, s.x(1)?)?;
        let product = s.mul(g, xhat)?;
        let correlation = s.reduce_mean(product, &axes)?;
        let along = s.mul(xhat, correlation)?;
        let rest = s.sub(g, along)?;
        let dx = s.mul(rest, inv)?;
        s.give(0, dx);
    }
    Ok(())
}

/// Statistics over the spatial dimensions of each channel, recomputed.
pub fn instance(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    give_channel(s, 2, dy)?;
    if !s.wants(0) && !s.wants(1) {
        return Ok(());
    }
    let axes: Vec<i64> = (2..s.graph.rank(x) as i64).collect();
    let mean = s.reduce_mean(x, &axes)?;
    let centred = s.sub(x, mean)?;
    let square = s.mul(centred, centred)?;
    let variance = s.reduce_mean(square, &axes)?;
    let inv = inverse_deviation(s, variance)?;
    let xhat = s.mul(centred, inv)?;
    if s.wants(1) {
        let dscale = s.mul(dy, xhat)?;
        give_channel(s, 1, dscale)?;
    }
    if s.wants(0) {
        let scale = per_channel(s, 1)?;
        let g = s.mul(dy, scale)?;
        let dx = standardise(s, g, xhat, inv, &axes)?;
        s.give(0, dx);
    }
    Ok(())
}

/// Inference form: mean and variance are constants of the layer.
pub fn batch(s: &mut Step<'_>) -> Done {
    s.refuse(3, "a trained mean")?;
    s.refuse(4, "a trained variance")?;
    if s.node.attrs.int("training_mode").unwrap_or(0) != 0 {
        return Err(s.node.unsupported("training_mode=1"));
    }
    let (x, dy) = (s.x(0)?, s.dy()?);
    give_channel(s, 2, dy)?;
    if !s.wants(0) && !s.wants(1) {
        return Ok(());
    }
    let variance = per_channel(s, 4)?;
    let inv = inverse_deviation(s, variance)?;
    if s.wants(1) {
        let mean = per_channel(s, 3)?;
        let centred = s.sub(x, mean)?;
        let xhat = s.mul(centred, inv)?;
        let dscale = s.mul(dy, xhat)?;
        give_channel(s, 1, dscale)?;
    }
    if s.wants(0) {
        let scale = per_channel(s, 1)?;
        let slope = s.mul(scale, inv)?;
        let dx = s.mul(dy, slope)?;
        s.give(0, dx);
    }
    Ok(())
}

/// 1 / sqrt(variance + epsilon)
fn inverse_deviation(s: &mut Step<'_>, variance: ValueId) -> Result<ValueId, GraphError> {
    let epsilon = s.float(variance, s.node.attrs.float("epsilon").unwrap_or(1e-5))?;
    let sum = s.add(variance, epsilon)?;
    let deviation = s.op("Sqrt", &[sum])?;
    s.op("Reciprocal", &[deviation])
}

/// Input `i`, `[C]`, shaped to broadcast over the spatial dimensions of input 0.
fn per_channel(s: &mut Step<'_>, i: usize) -> Result<ValueId, GraphError> {
    let spatial = s.graph.rank(s.x(0)?).saturating_sub(2);
    let mut shape = vec![-1];
    shape.resize(1 + spatial, 1);
    s.reshape(s.x(i)?, &shape)
}

/// Gives input `i`, `[C]`, the sum of `d` over everything but the channels.
fn give_channel(s: &mut Step<'_>, i: usize, d: ValueId) -> Done {
    if s.wants(i) {
        let axes: Vec<i64> = (0..s.graph.rank(d) as i64).filter(|&a| a != 1).collect();
        let d = s.reduce_sum(d, &axes, false)?;
        s.give(i, d);
    }
    Ok(())
}
