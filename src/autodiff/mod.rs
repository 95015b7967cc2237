//! Reverse-mode automatic differentiation: from a graph with a loss to a graph that also computes
//! the gradients of some of its values, written in the same ONNX operators.
//!
//! [`gradients`] walks the graph backwards and appends, for every node on a path from a wanted
//! value to the loss, the nodes of its vector-Jacobian product (Griewank and Walther, *Evaluating
//! Derivatives*, 2008). Nothing else is differentiated, so a program that trains a small delta has
//! no weight gradients of the backbone. [`cross_entropy`] is the classification loss, and
//! [`frontier`] finds what a training step need not compute again.
//!
//! There is one file per operator family under `rules`. A rule reads only values that an engine
//! keeps anyway (the operator's input or output), and keeps to operators and forms that every
//! engine runs with a free batch and sequence size: exact slice ends, zeros appended by `Concat`,
//! constant `Reshape` targets.

mod frontier;
mod loss;
mod rules;
mod step;

use std::collections::{HashMap, HashSet};

pub use frontier::{Frontier, frontier, split};
pub use loss::{cross_entropy, reward};

use crate::graph::{Dim, Graph, GraphError, ValueId};
use step::Step;

/// Appends the backward pass of `loss` and returns its gradient with respect to each of `wrt`, in
/// that order and with the shapes of `wrt`. A value that the loss does not depend on gets zeros.
///
/// Gradients flow through floating point values only; indices, masks and shapes stop them.
///
/// # Errors
/// [`GraphError::Unsupported`] naming the first node on the way that has no rule,
/// [`GraphError::Invalid`] if `loss` has more than one element or a node breaks the rules of its
/// operator, and [`GraphError::Cycle`].
pub fn gradients(
    graph: &mut Graph,
    loss: ValueId,
    wrt: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    if !graph.shape(loss).iter().all(|d| d.is_one()) {
        return Err(GraphError::Invalid {
            node: graph.value(loss).name.clone(),
            op: "loss".into(),
            reason: "only a value with one element can be differentiated: reduce it first".into(),
        });
    }
    graph.sort()?;
    let needed = graph.ancestors(&[loss]);
    let active = active(graph, &needed, wrt);
    let mut grads: HashMap<ValueId, ValueId> = HashMap::new();
    if active.contains(&loss) {
        let one = step::filled(graph, loss, 1.0)?;
        grads.insert(loss, one);
    }
    // Rules append nodes behind these, so positions stay valid.
    for position in (0..graph.nodes.len()).rev().filter(|n| needed.contains(n)) {
        let node = graph.nodes[position].clone();
        let dy: Vec<_> =
            node.outputs.iter().map(|y| y.and_then(|y| grads.get(&y).copied())).collect();
        let wanted: Vec<_> =
            node.inputs.iter().map(|x| x.is_some_and(|x| active.contains(&x))).collect();
        if dy.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let rule = rules::find(&node.op).ok_or_else(|| node.unsupported("a gradient"))?;
        let mut step = Step::new(graph, position, node, dy, wanted);
        rule(&mut step)?;
        for (x, dx) in step.finish()? {
            let sum = match grads.get(&x) {
                Some(&other) => graph.op("Add", &[other, dx], Default::default())?,
                None => dx,
            };
            grads.insert(x, sum);
        }
    }
    wrt.iter()
        .map(|&w| match grads.get(&w) {
            Some(&g) => Ok(g),
            None => step::filled(graph, w, 0.0),
        })
        .collect()
}

/// The floating point values that depend on `wrt`, themselves included, among the nodes `needed`.
fn active(graph: &Graph, needed: &HashSet<usize>, wrt: &[ValueId]) -> HashSet<ValueId> {
    let mut active: HashSet<ValueId> = wrt.iter().copied().collect();
    for (n, node) in graph.nodes.iter().enumerate() {
        if needed.contains(&n) && node.inputs.iter().flatten().any(|i| active.contains(i)) {
            let floats =
                node.outputs.iter().flatten().filter(|&&o| graph.value(o).dtype.is_float());
            active.extend(floats);
        }
    }
    active
}

/// True if `shape` is the same at every probe point.
fn is_static(shape: &[Dim]) -> bool {
    shape.iter().all(|d| d.constant().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attrs;
    use crate::tensor::{DType, Tensor};

    fn matrix(g: &mut Graph, name: &str) -> ValueId {
        g.add_input(name, DType::F32, &[Dim::BATCH, Dim::fixed(4)]).unwrap()
    }

    fn total(g: &mut Graph, v: ValueId) -> ValueId {
        g.op("ReduceSum", &[v], Attrs::none().with("keepdims", 0)).unwrap()
    }

    fn ops(g: &Graph) -> Vec<&str> {
        g.nodes.iter().map(|n| n.op.as_str()).collect()
    }

    #[test]
    fn only_what_is_wanted_is_differentiated() {
        let mut g = Graph::new();
        let x = matrix(&mut g, "x");
        let w = g.add_input("w", DType::F32, &[4.into(), 4.into()]).unwrap();
        let b = g.add_input("b", DType::F32, &[4.into()]).unwrap();
        let h = g.op("MatMul", &[x, w], Attrs::none()).unwrap();
        let y = g.op("Add", &[h, b], Attrs::none()).unwrap();
        let y = g.op("Tanh", &[y], Attrs::none()).unwrap();
        let loss = total(&mut g, y);
        let grads = gradients(&mut g, loss, &[b]).unwrap();
        assert_eq!(g.shape(grads[0]), [4.into()]);
        assert_eq!(ops(&g).iter().filter(|o| matches!(**o, "MatMul" | "Gemm")).count(), 1);
        assert_eq!(ops(&g).last(), Some(&"ReduceSum"));
    }

    #[test]
    fn gradients_have_the_shapes_of_the_values() {
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, &[Dim::BATCH, Dim::SEQUENCE, 4.into()]).unwrap();
        let w = g.add_input("w", DType::F32, &[4.into(), 6.into()]).unwrap();
        let h = g.op("MatMul", &[x, w], Attrs::none()).unwrap();
        let target = g.ints(&[0, 0, 2, 3]);
        let h = g.op("Reshape", &[h, target], Attrs::none()).unwrap();
        let y = g.op("ReduceMean", &[h], Attrs::none().with("keepdims", 0)).unwrap();
        let grads = gradients(&mut g, y, &[x, w, h]).unwrap();
        for (v, d) in [x, w, h].into_iter().zip(grads) {
            assert_eq!(g.shape(v), g.shape(d));
        }
        g.outputs = vec![y];
        let nodes = g.nodes.len();
        g.sort().unwrap();
        assert_eq!(g.nodes.len(), nodes);
    }

    #[test]
    fn what_the_loss_does_not_read_gets_zeros() {
        let mut g = Graph::new();
        let (x, z) = (matrix(&mut g, "x"), matrix(&mut g, "z"));
        let loss = total(&mut g, x);
        let grads = gradients(&mut g, loss, &[z, x]).unwrap();
        assert_eq!(g.shape(grads[0]), g.shape(z));
        assert_ne!(grads[0], grads[1]);
    }

    #[test]
    fn uses_add_up() {
        let mut g = Graph::new();
        let x = matrix(&mut g, "x");
        let y = g.op("Mul", &[x, x], Attrs::none()).unwrap();
        let loss = total(&mut g, y);
        gradients(&mut g, loss, &[x]).unwrap();
        assert_eq!(ops(&g).last(), Some(&"Add"));
    }

    #[test]
    fn added_outputs_fit_their_operators() {
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, &[Dim::BATCH, 3.into(), 6.into(), 6.into()]).unwrap();
        let scale = g.add_constant("scale", Tensor::zeros(DType::F32, &[6]));
        let y = g.op("LayerNormalization", &[x, scale], Attrs::none()).unwrap();
        let kernel = Attrs::none().with("kernel_shape", [2i64, 2].as_slice());
        let y = g.op("MaxPool", &[y], kernel).unwrap();
        let loss = total(&mut g, y);
        gradients(&mut g, loss, &[x]).unwrap();
        let shapes = |g: &Graph| g.values().map(|(_, v)| v.shape.clone()).collect::<Vec<_>>();
        let before = shapes(&g);
        g.infer_all().unwrap();
        assert_eq!(shapes(&g), before);
    }

    #[test]
    fn an_operator_without_a_rule_is_named() {
        let mut g = Graph::new();
        let x = matrix(&mut g, "x");
        let ones = g.op("IsNaN", &[x], Attrs::none()).unwrap();
        let y = g.op("Where", &[ones, x, x], Attrs::none()).unwrap();
        let axis = g.add_constant("axis", Tensor::scalar(1i64));
        let sum = g.op("CumSum", &[y, axis], Attrs::none()).unwrap();
        let loss = total(&mut g, sum);
        let e = gradients(&mut g, loss, &[x]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
        assert!(e.to_string().contains("CumSum"), "{e}");
    }

    #[test]
    fn a_loss_is_one_number() {
        let mut g = Graph::new();
        let x = matrix(&mut g, "x");
        let e = gradients(&mut g, x, &[x]).unwrap_err();
        assert_eq!(e.code(), "graph.invalid");
    }

    #[test]
    fn frozen_weights_are_read_backwards_and_never_trained() {
        let mut g = Graph::new();
        let x = matrix(&mut g, "x");
        let w = g.add_constant("w", Tensor::zeros(DType::I8, &[4, 6]));
        let scale = g.add_input("scale", DType::F32, &[6.into()]).unwrap();
        let y = g.op("FrozenLinear", &[x, w, scale], Attrs::none()).unwrap();
        let loss = total(&mut g, y);
        let mut copy = g.clone();
        gradients(&mut g, loss, &[x]).unwrap();
        let back = g.nodes.last().unwrap();
        assert_eq!((back.op.as_str(), back.attrs.int("backward")), ("FrozenLinear", Some(1)));
        assert_eq!(back.inputs[1..], [Some(w), Some(scale)]);
        let e = gradients(&mut copy, loss, &[scale]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }
}
