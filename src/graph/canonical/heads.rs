use crate::graph::{Attrs, Graph, GraphError, Node, ValueId};

/// A model with a single head does not split heads. Its keys and values `[B, S, d]` get the form of
/// all others, `[B, S, 1, d]`, and lose it again: rows can then be put there in the same way.
pub(super) fn split_single(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    let mut found: Vec<ValueId> = Vec::new();
    for softmax in graph.nodes.iter().filter(|n| n.op == "Softmax") {
        let Some(mix) = index.consumers(softmax.output()?).iter().find_map(|&(n, i)| {
            let node = &graph.nodes[n];
            (node.op == "MatMul" && i == 0).then_some(node)
        }) else {
            continue;
        };
        // Up through scaling and masks to the product with the keys.
        let mut v = softmax.input(0)?;
        let product = loop {
            let Some(node) = index.producer(v).map(|n| &graph.nodes[n]) else { break None };
            v = match node.op.as_str() {
                "MatMul" => break Some(node),
                "Mul" | "Div" | "Add" => {
                    let moving = |v: &&ValueId| index.producer(**v).is_some();
                    match node.inputs.iter().flatten().find(moving) {
                        Some(&v) => v,
                        None => break None,
                    }
                }
                _ => break None,
            };
        };
        let Some(product) = product else { continue };
        let keys = product.input(1)?;
        let Some(turned) = index.producer(keys).map(|n| &graph.nodes[n]) else { continue };
        if turned.op != "Transpose" || turned.attrs.ints("perm") != Some(&[0, 2, 1]) {
            continue;
        }
        if graph.rank(softmax.input(0)?) != 3 {
            continue;
        }
        for v in [product.input(0)?, turned.input(0)?, mix.input(1)?] {
            // Not where heads are folded into the batch.
            let projected = index.producer(v).is_some_and(|n| is_linear(graph, &index, n));
            if graph.rank(v) == 3 && projected && !found.contains(&v) {
                found.push(v);
            }
        }
    }
    for v in found {
        let Some(width) = graph.width(v) else { continue };
        let (wide, flat) =
            (graph.ints(&[0, 0, 1, width as i64]), graph.ints(&[0, 0, width as i64]));
        graph.insert_after(v, |g, v| {
            let heads = g.op("Reshape", &[v, wide], Attrs::none())?;
            g.op("Reshape", &[heads, flat], Attrs::none())
        })?;
    }
    Ok(())
}

/// A product with a constant, or the addition of a constant to one.
fn is_linear(graph: &Graph, index: &crate::graph::Index, n: usize) -> bool {
    let node: &Node = &graph.nodes[n];
    let constant = |v: &&ValueId| graph.constant(**v).is_some();
    let fixed = node.inputs.iter().flatten().any(|v| constant(&v));
    let product = |v: &ValueId| {
        index
            .producer(*v)
            .is_some_and(|n| graph.nodes[n].op == "MatMul" && is_linear(graph, index, n))
    };
    match node.op.as_str() {
        "MatMul" => fixed,
        "Add" => fixed && node.inputs.iter().flatten().any(product),
        _ => false,
    }
}
