use crate::tensor::TensorError;

/// A graph could not be read, understood or rewritten.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The model uses an operator that edge-tune does not know.
    #[error("node `{node}`: operator {op} is not supported{hint}")]
    Unsupported {
        /// Node name.
        node: String,
        /// Operator, or operator and the property that is not supported.
        op: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// A node breaks the rules of its operator.
    #[error("node `{node}` ({op}): {reason}")]
    Invalid {
        /// Node name.
        node: String,
        /// Operator.
        op: String,
        /// What is wrong.
        reason: String,
    },
    /// A value is read that nothing produces.
    #[error("value `{0}` is used but nothing produces it")]
    Undefined(String),
    /// Two things produce one value.
    #[error("value `{0}` is produced twice")]
    Duplicate(String),
    /// The nodes depend on each other in a circle.
    #[error("the graph has a cycle through node `{0}`")]
    Cycle(String),
    /// The file is not a usable ONNX model.
    #[error("not a usable ONNX model: {0}")]
    Onnx(String),
    /// A constant holds another type or size than its operator needs.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl GraphError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            GraphError::Unsupported { .. } => "graph.unsupported",
            GraphError::Invalid { .. } => "graph.invalid",
            GraphError::Undefined(_) => "graph.undefined",
            GraphError::Duplicate(_) => "graph.duplicate",
            GraphError::Cycle(_) => "graph.cycle",
            GraphError::Onnx(_) => "graph.onnx",
            GraphError::Tensor(_) => "graph.tensor",
        }
    }
}
