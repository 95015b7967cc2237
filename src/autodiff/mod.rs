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
pub use loss::cross_entropy;

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
