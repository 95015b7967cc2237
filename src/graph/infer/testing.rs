//! What the tests of the rules share.

use super::{Concrete, infer};
use crate::graph::{Attrs, GraphError, Node};
use crate::tensor::{DType, Tensor};

pub(super) fn attrs() -> Attrs {
    Attrs::none()
}

pub(super) fn node(op: &str, attrs: Attrs) -> Node {
    Node { name: "n".into(), op: op.into(), inputs: vec![], outputs: vec![], attrs }
}

/// Infers one output.
pub(super) fn run(
    op: &str,
    attrs: Attrs,
    inputs: &[Concrete],
) -> Result<Vec<Concrete>, GraphError> {
    run_n(op, attrs, inputs, 1)
}

/// Infers `n` outputs.
pub(super) fn run_n(
    op: &str,
    attrs: Attrs,
    inputs: &[Concrete],
    n: usize,
) -> Result<Vec<Concrete>, GraphError> {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    infer(&node(op, attrs), &inputs, n)
}

/// The shape of the first output.
pub(super) fn shape(op: &str, attrs: Attrs, inputs: &[Concrete]) -> Vec<usize> {
    run(op, attrs, inputs).unwrap().remove(0).shape
}

/// The value of the first output.
pub(super) fn value(op: &str, attrs: Attrs, inputs: &[Concrete]) -> Tensor {
    run(op, attrs, inputs).unwrap().remove(0).value.unwrap()
}

/// True if the inputs break a rule.
pub(super) fn refused(op: &str, attrs: Attrs, inputs: &[Concrete]) -> bool {
    matches!(run(op, attrs, inputs), Err(GraphError::Invalid { .. }))
}

/// An f32 value that depends on data.
pub(super) fn unknown(shape: &[usize]) -> Concrete {
    Concrete::unknown(DType::F32, shape)
}

/// An i64 value that depends on data.
pub(super) fn ids(shape: &[usize]) -> Concrete {
    Concrete::unknown(DType::I64, shape)
}

/// A known i64 vector.
pub(super) fn ints(v: &[i64]) -> Concrete {
    Tensor::vector(v).into()
}

/// A known i64 scalar.
pub(super) fn int(v: i64) -> Concrete {
    Tensor::scalar(v).into()
}

/// A known f32 vector.
pub(super) fn floats(v: &[f32]) -> Concrete {
    Tensor::vector(v).into()
}

/// A known f32 scalar.
pub(super) fn float(v: f32) -> Concrete {
    Tensor::scalar(v).into()
}

/// Known i64 elements of a shape.
pub(super) fn grid(shape: &[usize], v: &[i64]) -> Concrete {
    Tensor::new(shape, v).unwrap().into()
}

/// A known boolean vector.
pub(super) fn bools(v: &[bool]) -> Concrete {
    Tensor::bools(&[v.len()], v).unwrap().into()
}
