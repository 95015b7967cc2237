//! Predicts how much memory a run takes, before it starts.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, ValueId};

/// Operators whose result shares the bytes of their input.
const VIEWS: &[&str] = &["Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"];

/// Largest number of bytes of intermediate values that are alive at once, for a batch of `batch`
/// rows of `length` tokens, when every value is freed after its last use. Weights and constants
/// are not counted: they lie in the mapped file.
pub(super) fn peak_bytes(graph: &Graph, batch: usize, length: usize) -> usize {
    let bytes = |v: ValueId| value_bytes(graph, v, batch, length);
    // A view keeps the value behind it alive.
    let mut owner: HashMap<ValueId, ValueId> = HashMap::new();
    for node in &graph.nodes {
        if let (true, Some(Some(x)), Some(Some(y))) =
            (VIEWS.contains(&node.op.as_str()), node.inputs.first(), node.outputs.first())
        {
            let root = owner.get(x).copied().unwrap_or(*x);
            owner.insert(*y, root);
        }
    }
    let root = |v: ValueId| owner.get(&v).copied().unwrap_or(v);
    let kept: HashSet<ValueId> =
        graph.outputs.iter().chain(&graph.inputs).map(|&v| root(v)).collect();
    let mut last_use: HashMap<ValueId, usize> = HashMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        for v in node.inputs.iter().chain(&node.outputs).flatten() {
            last_use.insert(root(*v), n);
        }
    }
    let mut ends: HashMap<usize, Vec<ValueId>> = HashMap::new();
    for (&v, &n) in &last_use {
        if graph.constant(v).is_none() && !kept.contains(&v) {
            ends.entry(n).or_default().push(v);
        }
    }
    let mut alive = input_bytes(graph, batch, length);
    let mut peak = alive;
    for (n, node) in graph.nodes.iter().enumerate() {
        let made = node.outputs.iter().flatten().filter(|v| root(**v) == **v);
        alive += made.map(|v| bytes(*v)).sum::<usize>();
        peak = peak.max(alive);
        let freed: usize = ends.get(&n).into_iter().flatten().map(|&v| bytes(v)).sum();
        alive = alive.saturating_sub(freed);
    }
    peak
}

/// Bytes of all inputs, for a batch of `batch` rows of `length` tokens.
pub(super) fn input_bytes(graph: &Graph, batch: usize, length: usize) -> usize {
    graph.inputs.iter().map(|&v| value_bytes(graph, v, batch, length)).sum()
}

fn value_bytes(graph: &Graph, v: ValueId, batch: usize, length: usize) -> usize {
    let value = graph.value(v);
    let elements: usize = value.shape.iter().map(|d| d.at(batch, length)).product();
    elements * value.dtype.size()
}

/// Anonymous memory of this process, if the system tells.
pub(super) fn anonymous_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Attrs, Dim};
    use crate::tensor::DType;

    #[test]
    fn values_are_freed_after_their_last_use() {
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, &[Dim::BATCH, Dim::fixed(10)]).unwrap();
        let mut v = x;
        for _ in 0..5 {
            v = g.op("Exp", &[v], Attrs::none()).unwrap();
        }
        let wide = g.op("Add", &[v, x], Attrs::none()).unwrap();
        g.outputs = vec![wide];
        // The input, one value and its successor: never more than three at once.
        assert_eq!(peak_bytes(&g, 4, 1), 3 * 4 * 10 * 4);
    }
}
