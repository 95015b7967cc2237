use super::Context;
use super::replace::frozen_node;
use crate::graph::sites::Role;
use crate::graph::{Attrs, GraphError};

/// `s y` after a linear layer y = x W + b, or W on `s x`.
pub(super) fn insert(
    context: &mut Context<'_>,
    (layer, role): (usize, Role),
    tensor: &str,
    on_input: bool,
) -> Result<(), GraphError> {
    let site = context.linear(layer, role)?;
    let s = context.tensor(tensor)?;
    if !on_input {
        return context.insert_after(&site.output, |g, y| g.op("Mul", &[y, s], Attrs::none()));
    }
    let x = context.site(&site.input)?;
    let g = &mut *context.graph;
    let output = crate::backbone::site(g, &site.output)?;
    let n = frozen_node(g, output)?;
    let scaled = g.op("Mul", &[x, s], Attrs::none())?;
    // Other layers go on reading x as it is.
    g.nodes[n].inputs[0] = Some(scaled);
    g.sort()
}
