//! Losses.

use crate::graph::{Attrs, Graph, GraphError, ValueId};
use crate::tensor::{DType, Tensor};

/// Adds the cross-entropy of a classifier and returns it as a scalar:
/// `weight` times the sum over the rows of `-log softmax(logits)[label]`.
///
/// - `logits`: f32 `[B, C]`, where C does not vary.
/// - `labels`: i64 `[B]`. A row whose label is -1, or no class at all, counts nothing: it pads the
///   last micro-batch.
/// - `weight`: f32, one element. With one over the number of rows in the whole batch, losses and
///   gradients of micro-batches add up to those of the mean.
///
/// # Errors
/// [`GraphError::Invalid`] if the shapes or types are others.
pub fn cross_entropy(
    graph: &mut Graph,
    logits: ValueId,
    labels: ValueId,
    weight: ValueId,
) -> Result<ValueId, GraphError> {
    let invalid = |v: ValueId, graph: &Graph, reason: &str| GraphError::Invalid {
        node: graph.value(v).name.clone(),
        op: "cross-entropy".into(),
        reason: reason.to_owned(),
    };
    let classes = match (graph.rank(logits), graph.width(logits)) {
        (2, Some(classes @ 1..)) if graph.value(logits).dtype == DType::F32 => classes,
        _ => {
            let reason = "logits are f32 [batch, classes] with a fixed number of classes";
            return Err(invalid(logits, graph, reason));
        }
    };
    if graph.value(labels).dtype != DType::I64 || graph.shape(labels) != &graph.shape(logits)[..1] {
        return Err(invalid(labels, graph, "labels are i64 [batch]"));
    }
    if graph.value(weight).dtype != DType::F32 || !graph.shape(weight).iter().all(|d| d.is_one()) {
        return Err(invalid(weight, graph, "the weight is one f32"));
    }
    let log = graph.op("LogSoftmax", &[logits], Attrs::none().with("axis", -1))?;
    let numbers: Vec<i64> = (0..classes as i64).collect();
    let numbers = graph.add_constant("classes", Tensor::new(&[1, classes], &numbers)?);
    let axis = graph.ints(&[1]);
    let column = graph.op("Unsqueeze", &[labels, axis], Attrs::none())?;
    // A mask instead of a lookup: labels that are no class select nothing. `Where` instead of a
    // product, because a class may be excluded by a logit of minus infinity.
    let chosen = graph.op("Equal", &[column, numbers], Attrs::none())?;
    let zero = graph.float(0.0);
    let picked = graph.op("Where", &[chosen, log, zero], Attrs::none())?;
    let axes = graph.ints(&[0, 1]);
    let sum = graph.op("ReduceSum", &[picked, axes], Attrs::none().with("keepdims", 0))?;
    let loss = graph.op("Neg", &[sum], Attrs::none())?;
    let loss = graph.op("Mul", &[loss, weight], Attrs::none())?;
    if graph.rank(loss) == 0 {
        return Ok(loss);
    }
    let axes: Vec<i64> = (0..graph.rank(loss) as i64).collect();
    let axes = graph.ints(&axes);
    graph.op("Squeeze", &[loss, axes], Attrs::none())
}

/// Adds a term that rewards `score`, f32 `[B]`: `loss - strength * weight * sum(score)` over the rows
/// with a label, as [`cross_entropy`] counts them. The surrogate loss of L2P (arXiv 2112.08654).
///
/// # Errors
/// [`GraphError`] if the shapes are others.
pub fn reward(
    graph: &mut Graph,
    loss: ValueId,
    score: ValueId,
    labels: ValueId,
    (weight, strength): (ValueId, f32),
) -> Result<ValueId, GraphError> {
    let zero = graph.ints(&[0]);
    let pads = graph.op("Less", &[labels, zero], Attrs::none())?;
    let nothing = graph.float(0.0);
    let counted = graph.op("Where", &[pads, nothing, score], Attrs::none())?;
    let sum = graph.op("ReduceSum", &[counted, zero], Attrs::none().with("keepdims", 0))?;
    let strength = graph.float(strength);
    let sum = graph.op("Mul", &[sum, strength], Attrs::none())?;
    let sum = graph.op("Mul", &[sum, weight], Attrs::none())?;
    graph.op("Sub", &[loss, sum], Attrs::none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Dim;

    #[test]
    fn shapes_are_checked() {
        let mut g = Graph::new();
        let f = Dim::fixed;
        let mut input = |name: &str, dtype, shape: &[Dim]| g.add_input(name, dtype, shape).unwrap();
        let logits = input("logits", DType::F32, &[Dim::BATCH, f(3)]);
        let labels = input("labels", DType::I64, &[Dim::BATCH]);
        let weight = input("weight", DType::F32, &[f(1)]);
        let flat = input("flat", DType::F32, &[Dim::BATCH]);
        let loss = cross_entropy(&mut g, logits, labels, weight).unwrap();
        assert_eq!(g.rank(loss), 0);
        for (logits, labels, weight) in
            [(flat, labels, weight), (logits, flat, weight), (logits, labels, flat)]
        {
            let e = cross_entropy(&mut g, logits, labels, weight).unwrap_err();
            assert_eq!(e.code(), "graph.invalid");
        }
    }
}
