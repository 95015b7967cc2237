use super::{Context, head};
use crate::backbone::Pooling;
use crate::graph::{Attrs, GraphError};

/// A small network of our own on the same input, merged into the pooled feature B as
/// `a B + (1 - a) S` with `a = sigmoid(side.alpha)` (Side-Tuning, arXiv 1912.13503).
///
/// S is `layers` times a 3x3 convolution with stride 2 and a rectifier (`side.{j}.weight
/// [out, in, 3, 3]`, `side.{j}.bias [out]`), the mean over all places, and `side.projection.weight
/// [d, c]`. Sound features `[T, F]` are read as a picture of one channel.
pub(super) fn insert(
    context: &mut Context<'_>,
    layers: usize,
    pooling: Pooling,
) -> Result<(), GraphError> {
    let frozen = head::pool(context, pooling)?;
    let input = context.backbone.sites.input.clone();
    let mut x = crate::backbone::site(context.graph, &input)?;
    if context.graph.rank(x) == 3 {
        let axis = context.graph.ints(&[1]);
        x = context.graph.op("Unsqueeze", &[x, axis], Attrs::none())?;
    }
    for j in 0..layers {
        let weight = context.tensor(&format!("side.{j}.weight"))?;
        let bias = context.tensor(&format!("side.{j}.bias"))?;
        let attrs = Attrs::none()
            .with("kernel_shape", [3i64, 3].as_slice())
            .with("strides", [2i64, 2].as_slice())
            .with("pads", [1i64, 1, 1, 1].as_slice());
        let y = context.graph.op("Conv", &[x, weight, bias], attrs)?;
        x = context.graph.op("Relu", &[y], Attrs::none())?;
    }
    let (projection, alpha) =
        (context.tensor("side.projection.weight")?, context.tensor("side.alpha")?);
    let g = &mut *context.graph;
    let places = g.ints(&[2, 3]);
    let x = g.op("ReduceMean", &[x, places], Attrs::none().with("keepdims", 0i64))?;
    let swap = Attrs::none().with("perm", [1i64, 0].as_slice());
    let projection = g.op("Transpose", &[projection], swap)?;
    let side = g.op("MatMul", &[x, projection], Attrs::none())?;
    let share = g.op("Sigmoid", &[alpha], Attrs::none())?;
    let apart = g.op("Sub", &[frozen, side], Attrs::none())?;
    let apart = g.op("Mul", &[apart, share], Attrs::none())?;
    context.feature = Some(g.op("Add", &[side, apart], Attrs::none())?);
    Ok(())
}
