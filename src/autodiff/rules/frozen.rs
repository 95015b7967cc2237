//! Frozen weights: gradients pass through them, not into them.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError};

/// dx = dy W^T, read from the same bytes.
pub fn linear(s: &mut Step<'_>) -> Result<(), GraphError> {
    s.refuse(1, "a trained weight")?;
    s.refuse(2, "a trained scale")?;
    let dy = s.dy()?;
    let backward = s.node.attrs.int("backward").unwrap_or(0) == 0;
    let mut inputs = s.node.inputs.clone();
    if let Some(x) = inputs.first_mut() {
        *x = Some(dy);
    }
    let attrs: Attrs = s.node.attrs.clone().with("backward", i64::from(backward));
    let dx = s.graph.op_n("FrozenLinear", &inputs, attrs, 1)?;
    if let Some(&dx) = dx.first() {
        s.give(0, dx);
    }
    Ok(())
}

/// Ids have no gradient, and the table is not trained.
pub fn gather(s: &mut Step<'_>) -> Result<(), GraphError> {
    s.refuse(0, "a trained table")?;
    s.refuse(1, "a trained scale")
}
