use super::Context;
use crate::graph::sites::Role;
use crate::graph::{Attrs, GraphError};

/// `y + scale (x A^T) B^T` after the linear layer y = x W + b.
pub(super) fn insert(
    context: &mut Context<'_>,
    (layer, role): (usize, Role),
    a: &str,
    b: &str,
    scale: f32,
) -> Result<(), GraphError> {
    let site = context.linear(layer, role)?;
    let (a, b) = (context.tensor(a)?, context.tensor(b)?);
    let x = context.site(&site.input)?;
    context.insert_after(&site.output, |g, y| {
        let swap = || Attrs::none().with("perm", [1i64, 0].as_slice());
        let a = g.op("Transpose", &[a], swap())?;
        let down = g.op("MatMul", &[x, a], Attrs::none())?;
        let b = g.op("Transpose", &[b], swap())?;
        // The scale goes on the small matrix.
        let scale = g.float(scale);
        let b = g.op("Mul", &[b, scale], Attrs::none())?;
        let up = g.op("MatMul", &[down, b], Attrs::none())?;
        g.op("Add", &[y, up], Attrs::none())
    })
}
