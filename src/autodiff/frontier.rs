//! What a training step need not compute again: everything that does not depend on the delta is the
//! same in every epoch, so it is computed once per example and kept.
//!
//! The cut between the two parts should hold few bytes. Values that cost no matrix product (masks,
//! positions, embeddings, views of other values) are never kept but computed again.

use std::collections::{HashMap, HashSet};

use crate::graph::{Dim, Graph, GraphError, Index, Node, ValueId};

/// The values between what is computed once per example and what every step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    /// Float values `[batch, ..]`, in topological order. Empty if nothing is worth keeping.
    pub values: Vec<ValueId>,
}

/// The share of a step's multiplications that a cache must save. Prefix tuning, for instance, could
/// keep the first layer's projections: three large tensors that save a few percent.
const WORTHWHILE: f64 = 0.05;

impl Frontier {
    /// Bytes that one example takes in the cache, at the first probe point.
    pub fn bytes_per_example(&self, graph: &Graph) -> usize {
        self.values.iter().map(|&v| bytes_per_example(graph, v)).sum()
    }
}

/// Finds the frontier of `graph` for the inputs `delta`, before or after the gradients were added.
///
/// It is the last single value through which everything costly and independent of the delta
/// passes, such as the residual stream between two layers; or, if they take less memory, the
/// costly independent values that the rest reads. It is empty where little would be saved, as for
/// prompts at the embeddings.
pub fn frontier(graph: &Graph, delta: &[ValueId]) -> Frontier {
    let cut = Cut::new(graph, delta);
    let read = cut.read_by_rest();
    let size = |values: &[ValueId]| values.iter().map(|&v| bytes_per_example(graph, v)).sum();
    let all: usize = size(&read);
    let values = match cut.bottleneck(&read) {
        Some(v) if size(&[v]) < all => vec![v],
        _ => read,
    };
    if cut.saves(&values) < WORTHWHILE {
        return Frontier::default();
    }
    Frontier { values }
}

/// Cuts `graph` at `frontier`: the first graph computes the frontier from the inputs it needs, the
/// second has the frontier values as further inputs, after those of the original that it still
/// reads. Values keep their names.
///
/// # Errors
/// [`GraphError::Undefined`] if nothing computes a frontier value, [`GraphError::Cycle`].
pub fn split(graph: &Graph, frontier: &Frontier) -> Result<(Graph, Graph), GraphError> {
    let index = graph.index();
    if let Some(&v) = frontier.values.iter().find(|&&v| index.producer(v).is_none()) {
        return Err(GraphError::Undefined(graph.value(v).name.clone()));
    }
    let mut prefix = graph.clone();
    prefix.outputs.clone_from(&frontier.values);
    restrict(&mut prefix, &index, &[])?;
    let mut rest = graph.clone();
    restrict(&mut rest, &index, &frontier.values)?;
    Ok((prefix, rest))
}

/// Makes `given` inputs, and drops the nodes and inputs that the outputs do not need then.
fn restrict(graph: &mut Graph, index: &Index, given: &[ValueId]) -> Result<(), GraphError> {
    let mut read: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut stack: Vec<ValueId> = graph.outputs.clone();
    let mut keep = HashSet::new();
    while let Some(v) = stack.pop() {
        let producer = index.producer(v).filter(|_| !given.contains(&v));
        if let Some(n) = producer.filter(|&n| keep.insert(n)) {
            for &i in graph.nodes[n].inputs.iter().flatten() {
                if read.insert(i) {
                    stack.push(i);
                }
            }
        }
    }
    let mut n = 0;
    graph.nodes.retain_mut(|node| {
        // A node may be needed for another of its outputs.
        for o in &mut node.outputs {
            *o = o.filter(|o| !given.contains(o));
        }
        n += 1;
        keep.contains(&(n - 1))
    });
    graph.inputs.retain(|i| read.contains(i));
    graph.inputs.extend(given);
    graph.sort()
}

struct Cut<'a> {
    graph: &'a Graph,
    index: Index,
    /// Nodes that the outputs need.
    needed: HashSet<usize>,
    /// Values that depend on the delta.
    dependent: HashSet<ValueId>,
    /// Values that took a matrix product of the data.
    costly: HashSet<ValueId>,
}

impl<'a> Cut<'a> {
    fn new(graph: &'a Graph, delta: &[ValueId]) -> Cut<'a> {
        let mut costly = HashSet::new();
        let mut data: HashSet<ValueId> = graph.inputs.iter().copied().collect();
        for node in &graph.nodes {
            let reads =
                |set: &HashSet<ValueId>| node.inputs.iter().flatten().any(|i| set.contains(i));
            if !reads(&data) || matches!(node.op.as_str(), "Shape" | "Size") {
                continue;
            }
            data.extend(node.outputs.iter().flatten());
            if reads(&costly) || multiplications(graph, node).is_some() {
                costly.extend(node.outputs.iter().flatten());
            }
        }
        Cut {
            graph,
            index: graph.index(),
            needed: graph.ancestors(&graph.outputs),
            dependent: graph.descendants(delta),
            costly,
        }
    }

    /// True if `v` is worth keeping and can be kept, one row per example.
    fn keeps(&self, v: ValueId) -> bool {
        let Some(node) = self.index.producer(v).map(|n| &self.graph.nodes[n]) else { return false };
        let value = self.graph.value(v);
        let by_example = value.shape.first() == Some(&Dim::BATCH)
            // The first two probe points differ in the batch alone.
            && value.shape.iter().skip(1).all(|d| d.0[0] == d.0[1]);
        let is_view = matches!(
            node.op.as_str(),
            "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity" | "Expand"
        );
        self.costly.contains(&v)
            && !self.dependent.contains(&v)
            && value.dtype.is_float()
            && by_example
            && !is_view
    }

    /// The values to keep that are read by what each step computes: what depends on the delta, and
    /// whatever else it needs and cannot be kept.
    fn read_by_rest(&self) -> Vec<ValueId> {
        let mut seen: HashSet<ValueId> = HashSet::new();
        let mut found = Vec::new();
        let mut stack: Vec<ValueId> = self.graph.outputs.clone();
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            if self.keeps(v) {
                found.push(v);
            } else if let Some(n) = self.index.producer(v) {
                stack.extend(self.graph.nodes[n].inputs.iter().flatten());
            }
        }
        found.sort_by_key(|&v| self.index.producer(v));
        found
    }

    /// The share of all multiplications that `values` took.
    fn saves(&self, values: &[ValueId]) -> f64 {
        let work = |nodes: &HashSet<usize>| -> f64 {
            nodes.iter().filter_map(|&n| multiplications(self.graph, &self.graph.nodes[n])).sum()
        };
        work(&self.graph.ancestors(values)) / work(&self.needed).max(1.0)
    }

    /// The last value that lies on every path over costly values to `ends`.
    fn bottleneck(&self, ends: &[ValueId]) -> Option<ValueId> {
        let region = self.graph.ancestors(ends);
        let costly_inputs = |node: &Node| -> Vec<ValueId> {
            node.inputs.iter().flatten().copied().filter(|i| self.costly.contains(i)).collect()
        };
        // How often each value is still to be read, by a node of the region or at the end.
        let mut uses: HashMap<ValueId, usize> = ends.iter().map(|&v| (v, 1)).collect();
        let mut sources = 0;
        let mut steps = Vec::new();
        for (n, node) in self.graph.nodes.iter().enumerate() {
            let made = node.outputs.iter().flatten().any(|o| self.costly.contains(o));
            if region.contains(&n) && made && self.needed.contains(&n) {
                let inputs = costly_inputs(node);
                sources += usize::from(inputs.is_empty());
                inputs.iter().for_each(|&i| *uses.entry(i).or_default() += 1);
                steps.push((node, inputs));
            }
        }
        let mut open: HashSet<ValueId> = HashSet::new();
        let mut last = None;
        for (node, inputs) in steps {
            sources -= usize::from(inputs.is_empty());
            for i in inputs {
                if let Some(left) = uses.get_mut(&i) {
                    *left -= 1;
                    if *left == 0 {
                        open.remove(&i);
                    }
                }
            }
            open.extend(node.outputs.iter().flatten().filter(|o| uses.contains_key(o)));
            if let (0, 1, Some(&v)) = (sources, open.len(), open.iter().next())
                && self.keeps(v)
            {
                last = Some(v);
            }
        }
        last
    }
}

/// Multiplications of a matrix product at the first probe point. `None` for other operators, and
/// for products over a single term: an outer product (as of positions and frequencies) costs no
/// more than an elementwise operator.
fn multiplications(graph: &Graph, node: &Node) -> Option<f64> {
    let dims = |v: ValueId| graph.shape(v).iter().map(|d| d.0[0] as f64).collect::<Vec<_>>();
    let size = |v: ValueId| dims(v).iter().product::<f64>();
    let (a, b, y) = (node.input(0).ok()?, node.input(1).ok()?, node.output().ok()?);
    let terms = match node.op.as_str() {
        "FrozenLinear" | "MatMul" => *dims(a).last()?,
        // Two products of every query with every key, and five.
        "FusedAttention" => 2.0 * *dims(b).get(1)?,
        "FusedAttentionGrad" => 5.0 * *dims(b).get(1)?,
        "Gemm" if node.attrs.int("transA").unwrap_or(0) != 0 => *dims(a).first()?,
        "Gemm" => *dims(a).last()?,
        // Weights [outputs, inputs, kernel..].
        "Conv" => size(b) / *dims(b).first()?,
        // Weights [inputs, outputs, kernel..]: every input element meets one row.
        "ConvTranspose" => size(a) * size(b) / *dims(b).first()? / size(y),
        // Exact for a plain matrix product.
        "Einsum" => (size(a) * size(b) / size(y)).sqrt(),
        _ => return None,
    };
    (terms > 1.0).then(|| terms * size(y))
}

fn bytes_per_example(graph: &Graph, v: ValueId) -> usize {
    let value = graph.value(v);
    value.shape.iter().skip(1).fold(value.dtype.size(), |n, d| n.saturating_mul(d.0[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{cross_entropy, gradients};
    use crate::graph::Attrs;
    use crate::tensor::{DType, Tensor};

    const LAYERS: usize = 3;
    const D: usize = 8;

    /// Where a delta goes.
    #[derive(Clone, Copy, PartialEq)]
    enum Delta {
        Head,
        LastLayer,
        Prompt,
    }

    struct Model {
        graph: Graph,
        delta: Vec<ValueId>,
        loss: ValueId,
        /// Outputs of the layers.
        stream: Vec<ValueId>,
        feature: ValueId,
    }

    fn linear(g: &mut Graph, x: ValueId) -> ValueId {
        let w = g.add_constant("w", Tensor::zeros(DType::I8, &[D, D]));
        let scale = g.add_constant("scale", Tensor::zeros(DType::F32, &[D]));
        g.op("FrozenLinear", &[x, w, scale], Attrs::none()).unwrap()
    }

    fn norm(g: &mut Graph, x: ValueId) -> ValueId {
        let scale = g.add_constant("gamma", Tensor::zeros(DType::F32, &[D]));
        g.op("LayerNormalization", &[x, scale], Attrs::none()).unwrap()
    }

    fn input(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
        let shape: Vec<Dim> = shape.iter().map(|&d| Dim::fixed(d)).collect();
        g.add_input(name, DType::F32, &shape).unwrap()
    }

    /// A post-norm encoder with one attention head, a mask, and a classifier on the first token.
    fn model(at: Delta) -> Model {
        let mut g = Graph::new();
        let none = Attrs::none;
        let ids = g.add_input("ids", DType::I64, &[Dim::BATCH, Dim::SEQUENCE]).unwrap();
        let mask = g.add_input("mask", DType::F32, &[Dim::BATCH, Dim::SEQUENCE]).unwrap();
        let mut delta = Vec::new();
        let one = g.ints(&[1]);
        let mask = g.op("Unsqueeze", &[mask, one], none()).unwrap();
        let mask = g.op("Log", &[mask], none()).unwrap();
        let table = g.add_constant("table", Tensor::zeros(DType::F32, &[5, D]));
        let mut x = g.op_n("FrozenGather", &[Some(table), None, Some(ids)], none(), 1).unwrap()[0];
        x = norm(&mut g, x);
        if at == Delta::Prompt {
            let prompt = input(&mut g, "prompt", &[D]);
            delta.push(prompt);
            x = g.op("Add", &[x, prompt], none()).unwrap();
        }
        let mut stream = Vec::new();
        for layer in 0..LAYERS {
            let [mut q, k, v] = [0; 3].map(|_| linear(&mut g, x));
            if at == Delta::LastLayer && layer + 1 == LAYERS {
                let [a, b] = [("a", [D, 2]), ("b", [2, D])].map(|(n, s)| input(&mut g, n, &s));
                delta.extend([a, b]);
                let low = g.op("MatMul", &[x, a], none()).unwrap();
                let up = g.op("MatMul", &[low, b], none()).unwrap();
                q = g.op("Add", &[q, up], none()).unwrap();
            }
            let perm = none().with("perm", [0i64, 2, 1].as_slice());
            let kt = g.op("Transpose", &[k], perm).unwrap();
            let scores = g.op("MatMul", &[q, kt], none()).unwrap();
            let scores = g.op("Add", &[scores, mask], none()).unwrap();
            let p = g.op("Softmax", &[scores], none()).unwrap();
            let read = g.op("MatMul", &[p, v], none()).unwrap();
            let out = linear(&mut g, read);
            let sum = g.op("Add", &[out, x], none()).unwrap();
            let h = norm(&mut g, sum);
            let f = linear(&mut g, h);
            let f = g.op("Gelu", &[f], none()).unwrap();
            let f = linear(&mut g, f);
            let sum = g.op("Add", &[f, h], none()).unwrap();
            x = norm(&mut g, sum);
            stream.push(x);
        }
        let first = g.add_constant("first", Tensor::scalar(0i64));
        let feature = g.op("Gather", &[x, first], none().with("axis", 1)).unwrap();
        let head = if at == Delta::Head {
            let w = input(&mut g, "head", &[D, 2]);
            delta.push(w);
            w
        } else {
            g.add_constant("head", Tensor::zeros(DType::F32, &[D, 2]))
        };
        let logits = g.op("MatMul", &[feature, head], none()).unwrap();
        let labels = g.add_input("labels", DType::I64, &[Dim::BATCH]).unwrap();
        let weight = g.add_input("weight", DType::F32, &[]).unwrap();
        let loss = cross_entropy(&mut g, logits, labels, weight).unwrap();
        g.outputs = vec![loss];
        Model { graph: g, delta, loss, stream, feature }
    }

    fn trained(at: Delta) -> Model {
        let mut m = model(at);
        let grads = gradients(&mut m.graph, m.loss, &m.delta).unwrap();
        m.graph.outputs.extend(grads);
        m
    }

    #[test]
    fn a_head_keeps_the_feature() {
        for m in [model(Delta::Head), trained(Delta::Head)] {
            assert_eq!(frontier(&m.graph, &m.delta).values, [m.feature]);
        }
    }

    #[test]
    fn the_last_layer_keeps_the_residual_stream() {
        for m in [model(Delta::LastLayer), trained(Delta::LastLayer)] {
            assert_eq!(frontier(&m.graph, &m.delta).values, [m.stream[LAYERS - 2]]);
        }
    }

    #[test]
    fn a_prompt_keeps_nothing() {
        for m in [model(Delta::Prompt), trained(Delta::Prompt)] {
            assert_eq!(frontier(&m.graph, &m.delta), Frontier::default());
        }
    }

    #[test]
    fn the_parts_read_what_they_need() {
        let m = trained(Delta::LastLayer);
        let f = frontier(&m.graph, &m.delta);
        let (prefix, rest) = split(&m.graph, &f).unwrap();
        let names = |g: &Graph| -> Vec<String> {
            g.inputs.iter().map(|&i| g.value(i).name.clone()).collect()
        };
        let kept = &m.graph.value(f.values[0]).name;
        assert_eq!(names(&prefix), ["ids", "mask"]);
        assert_eq!(prefix.outputs, f.values);
        assert_eq!(names(&rest), ["mask", "a", "b", "labels", "weight", kept]);
        assert_eq!(rest.outputs, m.graph.outputs);
        let products = |g: &Graph| g.nodes.iter().filter(|n| n.op == "FrozenLinear").count();
        assert_eq!(products(&prefix), 6 * (LAYERS - 1));
        assert!(products(&rest) < 6 * LAYERS);
    }

    #[test]
    fn an_input_cannot_be_a_frontier() {
        let m = model(Delta::Head);
        let f = Frontier { values: vec![m.graph.inputs[0]] };
        assert_eq!(split(&m.graph, &f).unwrap_err(), GraphError::Undefined("ids".into()));
    }
}
