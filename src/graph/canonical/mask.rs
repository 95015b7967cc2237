use std::collections::HashSet;

use crate::graph::{Graph, GraphError};

/// Exporters guard softmax rows without any allowed key by `Where(IsNaN(y), 0, y)`. Such rows do
/// not occur (a token always sees itself), so the guard goes.
pub(super) fn drop_nan_guards(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    for n in 0..graph.nodes.len() {
        let node = &graph.nodes[n];
        if node.op != "Where" {
            continue;
        }
        let kept = node.input(2)?;
        if let Some(p) = index.producer(node.input(0)?)
            && graph.nodes[p].op == "IsNaN"
            && graph.nodes[p].input(0)? == kept
        {
            let output = node.output()?;
            graph.replace_uses(output, kept, &HashSet::new());
        }
    }
    Ok(())
}

/// Drops `x + m` where m depends on shapes alone and is zero: the mask that is exported for a
/// picture model. Its static length would break prompts.
pub(super) fn drop_zero_masks(graph: &mut Graph) -> Result<(), GraphError> {
    for n in 0..graph.nodes.len() {
        let node = &graph.nodes[n];
        if node.op != "Add" {
            continue;
        }
        let (a, b, out) = (node.input(0)?, node.input(1)?, node.output()?);
        for (x, mask) in [(a, b), (b, a)] {
            let value = graph.value(mask);
            let zero = |t: &crate::tensor::Tensor| t.to_f32().iter().all(|&v| v == 0.0);
            let shape_only = value.known.as_ref().is_some_and(|k| k.iter().all(zero))
                || value.constant.as_ref().is_some_and(zero);
            if shape_only && value.shape.len() > 1 && graph.shape(x) == graph.shape(out) {
                graph.replace_uses(out, x, &HashSet::new());
                break;
            }
        }
    }
    Ok(())
}
