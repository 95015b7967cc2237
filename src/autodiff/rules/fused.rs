//! Operators of ours that do the work of several: their gradients are such operators too.

use crate::autodiff::step::Step;
use crate::graph::GraphError;

/// Reads queries, keys and values again rather than the probabilities, which are not kept.
pub fn attention(s: &mut Step<'_>) -> Result<(), GraphError> {
    s.refuse(3, "a trained mask")?;
    let inputs = [s.x(0)?, s.x(1)?, s.x(2)?, s.dy()?].into_iter().chain(s.optional(3));
    let inputs: Vec<_> = inputs.map(Some).collect();
    let grads = s.graph.op_n("FusedAttentionGrad", &inputs, s.node.attrs.clone(), 3)?;
    for (i, grad) in grads.into_iter().enumerate() {
        s.give(i, grad);
    }
    Ok(())
}
