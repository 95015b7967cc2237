use super::{Context, head};
use crate::graph::{Attrs, GraphError, ValueId};
use crate::tensor::Tensor;

/// `scale x W^T + alpha exp(-beta (1 - x F^T)) Y` on the feature x `[B, D]` at unit length
/// (Tip-Adapter, arXiv 2111.03930): class vectors W `cache.classes [K, D]`, keys F `cache.keys
/// [N, D]` with their classes `cache.labels [N]` one-hot in Y, and the numbers `cache.alpha [1]` and
/// `cache.beta [1]`.
pub(super) fn classify(
    context: &mut Context<'_>,
    feature: ValueId,
    scale: f32,
) -> Result<ValueId, GraphError> {
    let tensor = |part: &str| context.tensor(&format!("cache.{part}"));
    let (vectors, keys, labels) = (tensor("classes")?, tensor("keys")?, tensor("labels")?);
    let (alpha, beta) = (tensor("alpha")?, tensor("beta")?);
    let g = &mut *context.graph;
    let swap = || Attrs::none().with("perm", [1i64, 0].as_slice());
    let x = head::unit_rows(g, feature)?;

    let vectors_across = g.op("Transpose", &[vectors], swap())?;
    let scores = g.op("MatMul", &[x, vectors_across], Attrs::none())?;
    let scale = g.float(scale);
    let scores = g.op("Mul", &[scores, scale], Attrs::none())?;

    let keys = g.op("Transpose", &[keys], swap())?;
    let cosines = g.op("MatMul", &[x, keys], Attrs::none())?;
    let one = g.float(1.0);
    let apart = g.op("Sub", &[cosines, one], Attrs::none())?;
    let apart = g.op("Mul", &[apart, beta], Attrs::none())?;
    let affinity = g.op("Exp", &[apart], Attrs::none())?;

    let classes = g.shape(vectors).first().and_then(|d| d.constant()).unwrap_or(0);
    let numbers: Vec<i64> = (0..classes as i64).collect();
    let numbers = g.add_constant("classes", Tensor::new(&[1, classes], &numbers)?);
    let axis = g.ints(&[1]);
    let labels = g.op("Cast", &[labels], Attrs::none().with("to", 7i64))?;
    let labels = g.op("Unsqueeze", &[labels, axis], Attrs::none())?;
    let one_hot = g.op("Equal", &[labels, numbers], Attrs::none())?;
    let one_hot = g.op("Cast", &[one_hot], Attrs::none().with("to", 1i64))?;
    let votes = g.op("MatMul", &[affinity, one_hot], Attrs::none())?;
    let votes = g.op("Mul", &[votes, alpha], Attrs::none())?;
    g.op("Add", &[scores, votes], Attrs::none())
}
