use std::collections::HashSet;

use crate::graph::canonical::fold::transposed;
use crate::graph::{Attrs, Graph, GraphError, Node};

/// Rewrites `Gemm` with a constant weight, and the Reshape-Gemm-Reshape of a Conv1D layer, as
/// `MatMul` with the weight `[in, out]` and `Add`.
pub(super) fn as_matmul(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    let mut added: Vec<Node> = Vec::new();
    let mut dropped = HashSet::new();
    for n in 0..graph.nodes.len() {
        let node = graph.nodes[n].clone();
        let plain = |k: &str| node.attrs.float(k).is_none_or(|v| v == 1.0);
        if node.op != "Gemm"
            || node.attrs.int("transA").unwrap_or(0) != 0
            || !plain("alpha")
            || !plain("beta")
        {
            continue;
        }
        let (mut x, mut weight, mut out) = (node.input(0)?, node.input(1)?, node.output()?);
        let Some(w) = graph.constant(weight) else { continue };
        if node.attrs.int("transB").unwrap_or(0) != 0 {
            let Some(t) = transposed(w) else { continue };
            let stem = graph.value(weight).name.clone();
            weight = graph.add_constant(&stem, t);
        }
        // Conv1D flattens [B, S, in] to two dimensions around the Gemm; a MatMul need not.
        if let Some(before) = index.producer(x).map(|p| graph.nodes[p].clone())
            && let &[(after, _)] = index.consumers(out)
            && before.op == "Reshape"
            && graph.nodes[after].op == "Reshape"
        {
            let (source, result) = (before.input(0)?, graph.nodes[after].output()?);
            let (from, to) = (graph.shape(source), graph.shape(result));
            if from.len() == to.len()
                && from.len() > 1
                && from[..from.len() - 1] == to[..to.len() - 1]
            {
                (x, out) = (source, result);
                dropped.insert(after);
            }
        }
        let bias = node.inputs.get(2).copied().flatten();
        let product = match bias {
            None => out,
            Some(_) => {
                let mut value = graph.value(out).clone();
                value.name = graph.fresh_name(&format!("{}.product", value.name));
                graph.add_value(value)
            }
        };
        let make = |op: &str, inputs: [_; 2], output| Node {
            name: node.name.clone(),
            op: op.into(),
            inputs: inputs.map(Some).to_vec(),
            outputs: vec![Some(output)],
            attrs: Attrs::none(),
        };
        graph.nodes[n] = make("MatMul", [x, weight], product);
        if let Some(bias) = bias {
            added.push(make("Add", [product, bias], out));
        }
    }
    let mut n = 0;
    graph.nodes.retain(|_| {
        n += 1;
        !dropped.contains(&(n - 1))
    });
    graph.nodes.extend(added);
    graph.infer_all()
}
