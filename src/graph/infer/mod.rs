//! Shapes, types and small values of every operator, at one concrete size.

use super::{GraphError, Node};
use crate::tensor::{DType, Tensor};

/// What is known of a value at one probe point.
#[derive(Clone, Debug)]
pub struct Concrete {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, for constants and for small values that depend on shapes and constants alone.
    pub value: Option<Tensor>,
}

/// Infers the first `outputs` outputs of `node` from its inputs.
///
/// # Errors
/// [`GraphError::Unsupported`] for an unknown operator, [`GraphError::Invalid`] where the inputs
/// break its rules.
pub fn infer(
    node: &Node,
    inputs: &[Option<Concrete>],
    outputs: usize,
) -> Result<Vec<Concrete>, GraphError> {
    let _ = (inputs, outputs);
    Err(node.unsupported(""))
}
