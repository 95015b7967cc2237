use std::collections::HashSet;

use crate::graph::{Graph, Index, ValueId};

/// One scaled dot-product attention, found around its softmax.
pub(crate) struct Attention {
    /// Node of the product with V.
    pub mix: usize,
    /// Masks on the way to the softmax: node and number of the mask's input.
    pub masks: Vec<(usize, usize)>,
    /// Q, K and V with split heads, `[B, S, H, d/H]`.
    pub heads: [ValueId; 3],
    /// Q, K and V before the heads are split, `[B, S, d]`.
    pub flat: [ValueId; 3],
}

/// All attentions in topological order.
pub(crate) fn find(graph: &Graph, index: &Index) -> Vec<Attention> {
    let products = from_products(graph);
    let softmaxes = graph.nodes.iter().filter(|n| n.op == "Softmax");
    softmaxes
        .filter_map(|softmax| {
            let (scores, masks) = scores(graph, index, &products, softmax.input(0).ok()?)?;
            let mix = mix(graph, index, softmax.output().ok()?)?;
            let (q, k) = (graph.nodes[scores].input(0).ok()?, graph.nodes[scores].input(1).ok()?);
            let v = graph.nodes[mix].input(1).ok()?;
            let split = [split(graph, index, q)?, split(graph, index, k)?, split(graph, index, v)?];
            let [q, k, v] = split;
            Some(Attention { mix, masks, heads: [q.1, k.1, v.1], flat: [q.0, k.0, v.0] })
        })
        .collect()
}

/// Up from the softmax to the MatMul of two activations, noting the masks.
fn scores(
    graph: &Graph,
    index: &Index,
    products: &HashSet<ValueId>,
    mut v: ValueId,
) -> Option<(usize, Vec<(usize, usize)>)> {
    let leads = |v: Result<ValueId, _>| v.is_ok_and(|v: ValueId| products.contains(&v));
    let mut masks = Vec::new();
    loop {
        let n = index.producer(v)?;
        let node = &graph.nodes[n];
        let data = match node.op.as_str() {
            "MatMul" if is_product(graph, n) => return Some((n, masks)),
            "Cast" | "Reshape" => 0,
            "Mul" | "Div" | "Add" | "Sub" => {
                let data = (0..2).find(|&i| leads(node.input(i)))?;
                if matches!(node.op.as_str(), "Add" | "Sub") {
                    masks.push((n, 1 - data));
                }
                data
            }
            "Where" => {
                let data = (1..3).find(|&i| leads(node.input(i)))?;
                masks.push((n, 0));
                data
            }
            _ => return None,
        };
        v = node.input(data).ok()?;
    }
}

/// A MatMul whose operands are both computed, of rank 3 or more.
fn is_product(graph: &Graph, n: usize) -> bool {
    let node = &graph.nodes[n];
    node.op == "MatMul"
        && (0..2)
            .all(|i| node.input(i).is_ok_and(|v| graph.constant(v).is_none() && graph.rank(v) >= 3))
}

/// The values that come from a product of activations through scaling and masking alone. One pass
/// in topological order: walking up from every value would take ages in a hostile graph.
fn from_products(graph: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        let leads = match node.op.as_str() {
            "MatMul" => is_product(graph, n),
            "Cast" | "Reshape" | "Mul" | "Div" | "Add" | "Sub" | "Where" => {
                node.inputs.iter().flatten().any(|i| found.contains(i))
            }
            _ => false,
        };
        if leads {
            found.extend(node.outputs.iter().flatten().copied());
        }
    }
    found
}

/// Down from the softmax to the MatMul with the values.
fn mix(graph: &Graph, index: &Index, mut v: ValueId) -> Option<usize> {
    for _ in 0..6 {
        let users = index.consumers(v);
        if let Some((n, _)) = users.iter().find(|(n, i)| graph.nodes[*n].op == "MatMul" && *i == 0)
        {
            return Some(*n);
        }
        let (next, _) = users.iter().find(|(n, _)| {
            matches!(
                graph.nodes[*n].op.as_str(),
                "Cast" | "Identity" | "Dropout" | "Reshape" | "Where"
            )
        })?;
        v = graph.nodes[*next].output().ok()?;
    }
    None
}

/// The Reshape that splits heads: (its input `[B, S, d]`, its output `[B, S, H, d/H]`).
fn split(graph: &Graph, index: &Index, mut v: ValueId) -> Option<(ValueId, ValueId)> {
    loop {
        let node = &graph.nodes[index.producer(v)?];
        let from = node.input(0).ok()?;
        match node.op.as_str() {
            "Reshape" if graph.rank(from) == 3 && graph.rank(v) == 4 => {
                let (f, t) = (graph.shape(from), graph.shape(v));
                if f[0] == t[0] && f[1] == t[1] {
                    return Some((from, v));
                }
                v = from;
            }
            "Reshape" | "Transpose" | "Cast" => v = from,
            "Mul" | "Div" => {
                v = *node.inputs.iter().flatten().find(|&&i| graph.scalar(i).is_none())?;
            }
            _ => return None,
        }
    }
}
