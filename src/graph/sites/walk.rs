use std::collections::HashSet;

use super::attention::Attention;
use crate::graph::{Dim, Graph, Index, Node, ValueId};
use crate::tensor::DType;

/// A graph while its sites are looked for.
pub(super) struct Walk<'a> {
    pub graph: &'a Graph,
    pub index: &'a Index,
    pub found: &'a [Attention],
}

/// A linear layer: MatMul with a constant matrix and perhaps the Add of its bias.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub input: ValueId,
    pub output: ValueId,
    pub inputs: usize,
    pub outputs: usize,
}

impl Walk<'_> {
    pub(super) fn name(&self, v: ValueId) -> String {
        self.graph.value(v).name.clone()
    }

    pub(super) fn output(&self, n: usize) -> ValueId {
        // Every node that is walked over has an output; the discovery reads no others.
        self.graph.nodes[n].outputs.iter().flatten().copied().next().unwrap_or(ValueId(0))
    }

    pub(super) fn made_by(&self, v: ValueId) -> Option<&Node> {
        self.index.producer(v).map(|n| &self.graph.nodes[n])
    }

    pub(super) fn is_norm(&self, v: ValueId) -> bool {
        self.made_by(v).is_some_and(|n| n.op == "LayerNormalization")
    }

    pub(super) fn ids_inputs(&self) -> Vec<ValueId> {
        let g = self.graph;
        g.inputs
            .iter()
            .copied()
            .filter(|&v| g.rank(v) == 2 && g.shape(v)[0] == Dim::BATCH)
            .collect()
    }

    pub(super) fn gather_of(&self, ids: ValueId) -> Option<usize> {
        let reads = self.index.consumers(ids);
        reads
            .iter()
            .map(|r| r.0)
            .find(|&n| self.is_table_gather(n) && self.graph.nodes[n].input(1) == Ok(ids))
    }

    pub(super) fn is_table_gather(&self, n: usize) -> bool {
        let node = &self.graph.nodes[n];
        node.op == "Gather"
            && node.attrs.int("axis").unwrap_or(0) == 0
            && node.input(0).is_ok_and(|t| {
                self.graph
                    .constant(t)
                    .is_some_and(|t| t.shape().len() == 2 && t.dtype() == DType::F32)
            })
    }

    pub(super) fn table_read_by(&self, ids: ValueId) -> Option<ValueId> {
        self.graph.nodes[self.gather_of(ids)?].input(0).ok()
    }

    pub(super) fn words(&self, ids: ValueId) -> Option<ValueId> {
        self.gather_of(ids).map(|n| self.output(n))
    }

    /// The linear layer at node `n`.
    pub(super) fn linear_at(&self, n: usize) -> Option<Linear> {
        let (g, node) = (self.graph, &self.graph.nodes[n]);
        let (input, weight) = (node.input(0).ok()?, node.input(1).ok()?);
        let &[inputs, outputs] = g.constant(weight)?.shape() else { return None };
        if node.op != "MatMul" || g.constant(input).is_some() {
            return None;
        }
        let product = self.output(n);
        let biased = match self.index.consumers(product) {
            &[(add, _)] if g.nodes[add].op == "Add" => {
                let bias = |v: &&ValueId| g.constant(**v).is_some_and(|t| t.shape() == [outputs]);
                g.nodes[add].inputs.iter().flatten().find(bias).map(|_| self.output(add))
            }
            _ => None,
        };
        Some(Linear { input, output: biased.unwrap_or(product), inputs, outputs })
    }

    /// The linear layer whose output is `v`, looking through scalings.
    pub(super) fn linear_of(&self, mut v: ValueId) -> Option<Linear> {
        loop {
            let n = self.index.producer(v)?;
            let node = &self.graph.nodes[n];
            if let Some(l) = self.linear_at(n) {
                return Some(l);
            }
            v = match node.op.as_str() {
                "Add" | "Mul" | "Div" => {
                    *node.inputs.iter().flatten().find(|&&i| self.graph.constant(i).is_none())?
                }
                "Cast" | "Reshape" => node.input(0).ok()?,
                _ => return None,
            };
        }
    }

    /// The first linear layer that reads `v`, through reshapes and activations; through a
    /// normalisation only if `norms`.
    pub(super) fn next_linear(&self, v: ValueId, norms: bool) -> Option<Linear> {
        let (mut seen, mut stack) = (HashSet::new(), vec![v]);
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            let users = self.index.consumers(v);
            if let Some(l) = users.iter().filter(|u| u.1 == 0).find_map(|u| self.linear_at(u.0)) {
                return Some(l);
            }
            let passes = |n: usize| match self.graph.nodes[n].op.as_str() {
                "Transpose" | "Reshape" | "Cast" | "Gelu" | "Relu" | "Tanh" | "Sigmoid" | "Mul"
                | "Erf" | "HardSigmoid" | "Clip" => true,
                "LayerNormalization" => norms,
                _ => false,
            };
            // The first reader is walked first.
            let next = users.iter().rev().filter(|u| passes(u.0));
            stack.extend(next.map(|u| self.output(u.0)));
        }
        None
    }

    /// The residual stream in front of a block whose query layer reads `normed`, and whether the
    /// block normalises its input.
    pub(super) fn layer_input(&self, normed: ValueId) -> (ValueId, bool) {
        let adds = |v: ValueId| {
            self.index.consumers(v).iter().any(|&(n, _)| {
                let node = &self.graph.nodes[n];
                node.op == "Add"
                    && node.inputs.iter().flatten().all(|&i| self.graph.constant(i).is_none())
            })
        };
        match self.made_by(normed).filter(|n| n.op == "LayerNormalization").map(|n| n.input(0)) {
            Some(Ok(before)) if adds(before) && !adds(normed) => (before, true),
            _ => (normed, false),
        }
    }

    /// The sum of the residual stream and a sublayer's output.
    pub(super) fn residual_sum(&self, output: ValueId) -> Option<ValueId> {
        self.index
            .consumers(output)
            .iter()
            .map(|u| u.0)
            .find(|&n| {
                let node = &self.graph.nodes[n];
                node.op == "Add"
                    && node.inputs.iter().flatten().all(|&i| self.graph.constant(i).is_none())
            })
            .map(|n| self.output(n))
    }

    /// The normalisation that reads `v`, if there is exactly one.
    pub(super) fn norm_after(&self, v: ValueId) -> Option<ValueId> {
        let mut norms =
            self.index.consumers(v).iter().map(|u| self.output(u.0)).filter(|&o| self.is_norm(o));
        norms.next().filter(|_| norms.next().is_none())
    }
}
