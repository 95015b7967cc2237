//! What tract cannot run as it is.

use std::borrow::Cow;

use crate::graph::{Attrs, Graph, GraphError};
use crate::tensor::DType;

/// tract sums i64 in its type for symbolic dimensions, where data are no numbers. Running counts of
/// tokens fit into i32.
pub(super) fn counts_in_i32(graph: &Graph) -> Result<Cow<'_, Graph>, GraphError> {
    let wide = |n: &crate::graph::Node| {
        n.op == "CumSum" && n.input(0).is_ok_and(|v| graph.value(v).dtype == DType::I64)
    };
    if !graph.nodes.iter().any(wide) {
        return Ok(Cow::Borrowed(graph));
    }
    let mut out = graph.clone();
    for n in (0..graph.nodes.len()).filter(|&n| wide(&graph.nodes[n])) {
        let node = &graph.nodes[n];
        let (x, y) = (node.input(0)?, node.output()?);
        let narrow = out.op("Cast", &[x], Attrs::none().with("to", 6i64))?;
        let axis = node.input(1)?;
        let sum = out.op("CumSum", &[narrow, axis], node.attrs.clone())?;
        let sum = out.op("Cast", &[sum], Attrs::none().with("to", 7i64))?;
        let added = (graph.nodes.len()..out.nodes.len()).collect();
        out.replace_uses(y, sum, &added);
    }
    out.prune();
    out.sort()?;
    Ok(Cow::Owned(out))
}
