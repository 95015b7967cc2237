//! Finds attention in a graph and makes one node of it.
//!
//! Programs are built this way, backbones are not: sites and attachments need what lies inside.

use std::collections::HashSet;

use super::{Attrs, Graph, GraphError, Index, Node, ValueId};
use crate::tensor::DType;

/// Turns softmax(q k^T + mask) v, with scales anywhere and heads in a dimension of their own or only
/// one of them, into `FusedAttention`. What does not have this form is left as it is.
///
/// The nodes that are replaced stay until [`Graph::prune`].
///
/// # Errors
/// [`GraphError::Cycle`] if the nodes are circular.
pub fn attention(graph: &mut Graph) -> Result<(), GraphError> {
    let weights: Vec<ValueId> = graph
        .nodes
        .iter()
        .filter(|node| node.op == "Softmax")
        .map(Node::output)
        .collect::<Result<_, _>>()?;
    let mut found = false;
    for weights in weights {
        let index = graph.index();
        if let Some(parts) = Parts::of(graph, &index, weights) {
            found |= parts.fuse(graph, &index)?;
        }
    }
    if found { graph.sort() } else { Ok(()) }
}

/// A view of a value: scaled, and with its dimensions in another order.
struct Operand {
    value: ValueId,
    /// Dimension `i` of the view is dimension `order[i]` of the value.
    order: Vec<usize>,
    scale: f32,
}

impl Operand {
    /// What `v` is a view of.
    fn of(graph: &Graph, index: &Index, v: ValueId) -> Operand {
        let mut operand = Operand { value: v, order: (0..graph.rank(v)).collect(), scale: 1.0 };
        while let Some(node) = index.producer(operand.value).map(|n| &graph.nodes[n]) {
            if let Some((v, scale)) = scaled(graph, node) {
                (operand.value, operand.scale) = (v, operand.scale * scale);
            } else if let (Some(order), Some(v)) = (permutation(graph, node), node.inputs[0]) {
                operand.order = operand.order.iter().map(|&i| order[i]).collect();
                operand.value = v;
            } else {
                break;
            }
        }
        operand
    }

    /// The value with dimension `i` of the view at `order[i]`.
    fn ordered(&self, graph: &mut Graph, order: &[usize]) -> Result<ValueId, GraphError> {
        let perm: Vec<i64> = order.iter().map(|&i| self.order[i] as i64).collect();
        transposed(graph, self.value, &perm)
    }
}

fn transposed(graph: &mut Graph, v: ValueId, perm: &[i64]) -> Result<ValueId, GraphError> {
    if perm.iter().enumerate().all(|(i, &p)| i as i64 == p) {
        return Ok(v);
    }
    graph.op("Transpose", &[v], Attrs::none().with("perm", perm))
}

/// The value that `node` scales, and by what: the same at every position.
fn scaled(graph: &Graph, node: &Node) -> Option<(ValueId, f32)> {
    let (a, b) = (node.input(0).ok()?, node.input(1).ok()?);
    // A constant of a higher rank would add dimensions.
    let scalar = |s: ValueId, v: ValueId| {
        graph.scalar(s).filter(|_| graph.rank(s) <= graph.rank(v) && graph.constant(v).is_none())
    };
    match node.op.as_str() {
        "Mul" => scalar(b, a).map(|s| (a, s)).or_else(|| scalar(a, b).map(|s| (b, s))),
        "Div" => scalar(b, a).map(|s| (a, s.recip())),
        _ => None,
    }
}

/// The order of dimensions that `node` makes.
fn permutation(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    if node.op != "Transpose" {
        return None;
    }
    let rank = graph.rank(node.input(0).ok()?);
    match node.attrs.ints("perm") {
        Some(perm) => perm.iter().map(|&p| usize::try_from(p).ok().filter(|p| *p < rank)).collect(),
        None => Some((0..rank).rev().collect()),
    }
}

/// Scores before the softmax.
struct Scores {
    product: usize,
    scale: f32,
    masks: Vec<ValueId>,
}

impl Scores {
    /// How `v` is made of a product: scaled, then masked.
    fn of(graph: &Graph, index: &Index, v: ValueId) -> Option<Scores> {
        let product = index.producer(v)?;
        let node = &graph.nodes[product];
        if node.op == "MatMul" {
            return Some(Scores { product, scale: 1.0, masks: vec![] });
        }
        if let Some((x, scale)) = scaled(graph, node) {
            let scores = Scores::of(graph, index, x).filter(|s| s.masks.is_empty())?;
            return Some(Scores { scale: scores.scale * scale, ..scores });
        }
        if node.op != "Add" {
            return None;
        }
        let (a, b) = (node.input(0).ok()?, node.input(1).ok()?);
        [(a, b), (b, a)].into_iter().find_map(|(x, mask)| {
            let whole = graph.shape(x) == graph.shape(v) && graph.value(mask).dtype == DType::F32;
            let mut scores = Scores::of(graph, index, x).filter(|_| whole)?;
            scores.masks.push(mask);
            Some(scores)
        })
    }
}

/// What is fused.
struct Parts {
    scores: Scores,
    q: Operand,
    k: Operand,
    v: Operand,
    output: ValueId,
}

impl Parts {
    /// Around the softmax that makes `weights`.
    fn of(graph: &Graph, index: &Index, weights: ValueId) -> Option<Parts> {
        let node = &graph.nodes[index.producer(weights)?];
        let rank = graph.rank(weights);
        let last = node.attrs.int("axis").unwrap_or(-1);
        let &[(reader, 0)] = index.consumers(weights) else { return None };
        let fits = matches!(rank, 3 | 4)
            && (last == -1 || last == rank as i64 - 1)
            && graph.value(weights).dtype == DType::F32
            && !graph.outputs.contains(&weights)
            && graph.nodes[reader].op == "MatMul";
        if !fits {
            return None;
        }
        let scores = Scores::of(graph, index, node.input(0).ok()?)?;
        // Without heads a mask would need a dimension for them.
        if rank == 3 && !scores.masks.is_empty() {
            return None;
        }
        let product = &graph.nodes[scores.product];
        let operand = |v: ValueId| {
            let operand = Operand::of(graph, index, v);
            (operand.order.len() == rank).then_some(operand)
        };
        Some(Parts {
            q: operand(product.input(0).ok()?)?,
            k: operand(product.input(1).ok()?)?,
            v: operand(graph.nodes[reader].input(1).ok()?)?,
            output: graph.nodes[reader].output().ok()?,
            scores,
        })
    }

    /// Lets all that read the output read one node instead. False if the shapes do not fit it.
    fn fuse(&self, graph: &mut Graph, index: &Index) -> Result<bool, GraphError> {
        let heads = self.q.order.len() == 4;
        let (side, turned): (&[usize], &[usize]) =
            if heads { (&[0, 2, 1, 3], &[0, 3, 1, 2]) } else { (&[0, 1, 2], &[0, 2, 1]) };
        let before = graph.nodes.len();
        let mut inputs = vec![];
        for (operand, order) in [(&self.q, side), (&self.k, turned), (&self.v, side)] {
            let mut x = operand.ordered(graph, order)?;
            if !heads {
                let axis = graph.ints(&[2]);
                x = graph.op("Unsqueeze", &[x, axis], Attrs::none())?;
            }
            inputs.push(x);
        }
        let [q, k, v] = [0, 1, 2].map(|i| graph.shape(inputs[i]).to_vec());
        // MatMul broadcasts examples and heads, and values may have another width than keys.
        let fits = k == v && [0, 2, 3].iter().all(|&i| q[i] == k[i]);
        if !fits {
            graph.nodes.truncate(before);
            return Ok(false);
        }
        let mut mask = None;
        for &m in &self.scores.masks {
            mask = Some(match mask {
                Some(other) => graph.op("Add", &[other, m], Attrs::none())?,
                None => m,
            });
        }
        inputs.extend(mask);
        let scale = self.scores.scale * self.q.scale * self.k.scale;
        let y = graph.op("FusedAttention", &inputs, Attrs::none().with("scale", scale))?;
        let mut y = match heads {
            true => y,
            false => {
                let axis = graph.ints(&[2]);
                graph.op("Squeeze", &[y, axis], Attrs::none())?
            }
        };
        let mut old = self.output;
        let reader = match index.consumers(old) {
            &[(reader, 0)] if heads && !graph.outputs.contains(&old) => Some(&graph.nodes[reader]),
            _ => None,
        };
        match reader.filter(|node| permutation(graph, node).is_some_and(|p| p == side)) {
            Some(node) => old = node.output()?,
            None if heads => y = transposed(graph, y, &[0, 2, 1, 3])?,
            None => {}
        }
        if self.v.scale != 1.0 {
            let scale = graph.float(self.v.scale);
            y = graph.op("Mul", &[y, scale], Attrs::none())?;
        }
        let added: HashSet<usize> = (before..graph.nodes.len()).collect();
        graph.replace_uses(old, y, &added);
        Ok(true)
    }
}
