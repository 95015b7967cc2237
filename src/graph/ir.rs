use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Attrs, Concrete, DOMAIN, Dim, GraphError, PROBES, infer};
use crate::tensor::{DType, Tensor};

/// All known values of a graph together take at most this: what is beyond it is not computed, so
/// that a small file of many nodes cannot ask for much memory.
const MAX_KNOWN_BYTES: usize = 256 << 20;

/// Names a value of one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// A value: a graph input, a constant, or the output of a node.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique in the graph.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<Dim>,
    /// The elements, for constants.
    pub constant: Option<Tensor>,
    /// The elements at each probe point, for small values that depend on shapes alone.
    pub known: Option<Arc<[Tensor; PROBES]>>,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// A label; not always unique.
    pub name: String,
    /// ONNX operator name.
    pub op: String,
    /// Inputs; `None` where an optional input is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional output is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes.
    pub attrs: Attrs,
}

impl Node {
    /// Operator domain: [`DOMAIN`] for our own operators, otherwise empty.
    pub fn domain(&self) -> &'static str {
        let own = ["Frozen", "Fused"].iter().any(|p| self.op.starts_with(p));
        if own { DOMAIN } else { "" }
    }

    /// Input `i`.
    ///
    /// # Errors
    /// [`GraphError::Invalid`] if it is left out.
    pub fn input(&self, i: usize) -> Result<ValueId, GraphError> {
        self.inputs
            .get(i)
            .copied()
            .flatten()
            .ok_or_else(|| self.invalid(format!("input {i} is missing")))
    }

    /// Output 0.
    ///
    /// # Errors
    /// [`GraphError::Invalid`] if the node has no first output.
    pub fn output(&self) -> Result<ValueId, GraphError> {
        self.outputs
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| self.invalid("it has no output".into()))
    }

    /// An error about this node.
    pub fn invalid(&self, reason: String) -> GraphError {
        GraphError::Invalid { node: self.name.clone(), op: self.op.clone(), reason }
    }

    /// An error: this node cannot be handled.
    pub fn unsupported(&self, what: &str) -> GraphError {
        let op = if what.is_empty() { self.op.clone() } else { format!("{} with {what}", self.op) };
        GraphError::Unsupported { node: self.name.clone(), op, hint: "" }
    }
}

/// A graph. Nodes are in topological order whenever a public method returns.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    /// The operations.
    pub nodes: Vec<Node>,
    /// What the caller feeds.
    pub inputs: Vec<ValueId>,
    /// What the caller reads.
    pub outputs: Vec<ValueId>,
    names: HashMap<String, ValueId>,
}

/// Producers and consumers of every value, as of when it was made.
#[derive(Debug)]
pub struct Index {
    producer: HashMap<ValueId, usize>,
    consumers: HashMap<ValueId, Vec<(usize, usize)>>,
}

impl Index {
    /// Position in `nodes` of the node that makes `v`; `None` for inputs and constants.
    pub fn producer(&self, v: ValueId) -> Option<usize> {
        self.producer.get(&v).copied()
    }

    /// Positions in `nodes`, each with the input number, of the nodes that read `v`.
    pub fn consumers(&self, v: ValueId) -> &[(usize, usize)] {
        self.consumers.get(&v).map_or(&[], Vec::as_slice)
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Everything known about `v`.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.values[v.0 as usize]
    }

    pub(crate) fn value_mut(&mut self, v: ValueId) -> &mut Value {
        &mut self.values[v.0 as usize]
    }

    /// All values, with those that nothing uses any more.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Dimensions of `v`.
    pub fn shape(&self, v: ValueId) -> &[Dim] {
        &self.value(v).shape
    }

    /// Number of dimensions of `v`.
    pub fn rank(&self, v: ValueId) -> usize {
        self.value(v).shape.len()
    }

    /// Last dimension of `v`, if it is constant.
    pub fn width(&self, v: ValueId) -> Option<usize> {
        self.value(v).shape.last().and_then(|d| d.constant())
    }

    /// Elements of `v`, if it is a constant.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.value(v).constant.as_ref()
    }

    /// The only element of `v`, if it is a constant with one element.
    pub fn scalar(&self, v: ValueId) -> Option<f32> {
        self.constant(v).filter(|t| t.len() == 1).map(|t| t.to_f32()[0])
    }

    /// Integer elements of a constant.
    pub fn ints_of(&self, v: ValueId) -> Option<Vec<i64>> {
        self.constant(v).and_then(Tensor::to_i64)
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// A name that no value has yet, starting with `stem`.
    pub fn fresh_name(&self, stem: &str) -> String {
        if !self.names.contains_key(stem) {
            return stem.to_owned();
        }
        // Values are never removed, so their number keeps growing and soon gives a free name.
        (self.values.len()..)
            .map(|i| format!("{stem}.{i}"))
            .find(|n| !self.names.contains_key(n))
            .unwrap_or_default()
    }

    pub(crate) fn add_value(&mut self, value: Value) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.names.insert(value.name.clone(), id);
        self.values.push(value);
        id
    }

    /// Adds a graph input.
    ///
    /// # Errors
    /// [`GraphError::Duplicate`] if the name is taken.
    pub fn add_input(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[Dim],
    ) -> Result<ValueId, GraphError> {
        if self.names.contains_key(name) {
            return Err(GraphError::Duplicate(name.to_owned()));
        }
        let id = self.add_value(Value {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            constant: None,
            known: None,
        });
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant; `stem` is made unique.
    pub fn add_constant(&mut self, stem: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh_name(stem);
        self.add_value(Value {
            name,
            dtype: tensor.dtype(),
            shape: tensor.shape().iter().map(|&d| Dim::fixed(d)).collect(),
            constant: Some(tensor),
            known: None,
        })
    }

    /// A rank 1 integer constant.
    pub fn ints(&mut self, v: &[i64]) -> ValueId {
        self.add_constant("ints", Tensor::vector(v))
    }

    /// A rank 0 f32 constant.
    pub fn float(&mut self, v: f32) -> ValueId {
        self.add_constant("f", Tensor::scalar(v))
    }

    /// Appends a node with one output and infers its shape.
    ///
    /// # Errors
    /// [`GraphError`] if the operator is unknown or its inputs do not fit.
    pub fn op(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attrs: Attrs,
    ) -> Result<ValueId, GraphError> {
        let inputs: Vec<_> = inputs.iter().map(|&i| Some(i)).collect();
        Ok(self.op_n(op, &inputs, attrs, 1)?[0])
    }

    /// Appends a node with `outputs` outputs and optional inputs, and infers their shapes.
    ///
    /// # Errors
    /// [`GraphError`] if the operator is unknown or its inputs do not fit.
    pub fn op_n(
        &mut self,
        op: &str,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        outputs: usize,
    ) -> Result<Vec<ValueId>, GraphError> {
        let node = Node {
            name: self.fresh_name(op),
            op: op.to_owned(),
            inputs: inputs.to_vec(),
            outputs: vec![None; outputs],
            attrs,
        };
        let facts = self.infer_node(&node, outputs)?;
        let ids: Vec<ValueId> = facts
            .into_iter()
            .map(|(dtype, shape, known)| {
                let name = self.fresh_name(op);
                self.add_value(Value { name, dtype, shape, constant: None, known })
            })
            .collect();
        let outputs = ids.iter().map(|&i| Some(i)).collect();
        self.nodes.push(Node { outputs, ..node });
        Ok(ids)
    }

    /// Infers every value again from the inputs and constants, for instance after an input or a
    /// node's inputs changed.
    ///
    /// # Errors
    /// [`GraphError`] if the nodes are circular, or an operator is unknown or does not fit.
    pub fn infer_all(&mut self) -> Result<(), GraphError> {
        self.sort()?;
        let mut bytes = 0;
        for i in 0..self.nodes.len() {
            let facts = self.infer_node(&self.nodes[i], self.nodes[i].outputs.len())?;
            for (o, (dtype, shape, known)) in self.nodes[i].outputs.clone().into_iter().zip(facts) {
                if let Some(o) = o {
                    bytes +=
                        known.iter().flat_map(|k| k.iter()).map(|t| t.bytes().len()).sum::<usize>();
                    let known = known.filter(|_| bytes <= MAX_KNOWN_BYTES);
                    let v = self.value_mut(o);
                    (v.dtype, v.shape, v.known) = (dtype, shape, known);
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    fn infer_node(
        &self,
        node: &Node,
        outputs: usize,
    ) -> Result<Vec<(DType, Vec<Dim>, Option<Arc<[Tensor; PROBES]>>)>, GraphError> {
        let mut probes: Vec<Vec<Concrete>> = Vec::with_capacity(PROBES);
        for p in 0..PROBES {
            let inputs: Vec<Option<Concrete>> =
                node.inputs.iter().map(|i| i.map(|i| self.concrete(i, p))).collect();
            probes.push(infer(node, &inputs, outputs)?);
        }
        let facts = (0..outputs).map(|o| {
            let at = |p: usize| &probes[p][o];
            let rank = at(0).shape.len();
            if (1..PROBES).any(|p| at(p).shape.len() != rank || at(p).dtype != at(0).dtype) {
                return Err(
                    node.invalid("rank or type of the output depends on input sizes".into())
                );
            }
            let shape = (0..rank).map(|d| Dim(std::array::from_fn(|p| at(p).shape[d]))).collect();
            let known = match (&at(0).value, &at(1).value, &at(2).value) {
                (Some(a), Some(b), Some(c)) => Some(Arc::new([a.clone(), b.clone(), c.clone()])),
                _ => None,
            };
            Ok((at(0).dtype, shape, known))
        });
        facts.collect()
    }

    /// What is known of `v` at probe point `p`.
    pub(crate) fn concrete(&self, v: ValueId, p: usize) -> Concrete {
        let v = self.value(v);
        let value = v.constant.clone().or_else(|| v.known.as_ref().map(|k| k[p].clone()));
        Concrete {
            dtype: v.dtype,
            shape: v.shape.iter().map(|d| d.0[p]).collect(),
            value: value.filter(infer::is_plain),
        }
    }

    /// Producers and consumers.
    pub fn index(&self) -> Index {
        let mut index = Index { producer: HashMap::new(), consumers: HashMap::new() };
        for (n, node) in self.nodes.iter().enumerate() {
            for o in node.outputs.iter().flatten() {
                index.producer.insert(*o, n);
            }
            for (i, v) in node.inputs.iter().enumerate() {
                if let Some(v) = v {
                    index.consumers.entry(*v).or_default().push((n, i));
                }
            }
        }
        index
    }

    /// Lets every reader of `old` (graph outputs too) read `new`, except the nodes `keep`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId, keep: &HashSet<usize>) {
        for (n, node) in self.nodes.iter_mut().enumerate() {
            if !keep.contains(&n) {
                node.inputs.iter_mut().filter(|i| **i == Some(old)).for_each(|i| *i = Some(new));
            }
        }
        self.outputs.iter_mut().filter(|o| **o == old).for_each(|o| *o = new);
    }

    /// Puts `build(v)` between `v` and everything that reads it now.
    ///
    /// # Errors
    /// Whatever `build` fails with, or [`GraphError::Cycle`].
    pub fn insert_after(
        &mut self,
        v: ValueId,
        build: impl FnOnce(&mut Graph, ValueId) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        let before = self.nodes.len();
        let new = build(self, v)?;
        let added = (before..self.nodes.len()).collect();
        self.replace_uses(v, new, &added);
        self.sort()?;
        Ok(new)
    }

    /// Adds a copy of the nodes that compute `to` from `from`, which reads `with` in its place, and
    /// returns the copy of `to`.
    ///
    /// # Errors
    /// [`GraphError`] if `with` does not fit, or `to` does not depend on `from`.
    pub fn replay(
        &mut self,
        from: ValueId,
        to: ValueId,
        with: ValueId,
    ) -> Result<ValueId, GraphError> {
        let leading = self.ancestors(&[to]);
        let mut made = HashMap::from([(from, with)]);
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            if !leading.contains(&n) || !node.inputs.iter().flatten().any(|v| made.contains_key(v))
            {
                continue;
            }
            let node = node.clone();
            let inputs: Vec<_> =
                node.inputs.iter().map(|v| v.map(|v| *made.get(&v).unwrap_or(&v))).collect();
            let outputs = self.op_n(&node.op, &inputs, node.attrs.clone(), node.outputs.len())?;
            let pairs = node.outputs.iter().zip(outputs);
            made.extend(pairs.filter_map(|(old, new)| Some(((*old)?, new))));
        }
        made.remove(&to).ok_or_else(|| GraphError::Undefined(self.value(to).name.clone()))
    }

    /// Puts the nodes in topological order, keeping the present order where it is free.
    ///
    /// # Errors
    /// [`GraphError::Cycle`] or [`GraphError::Undefined`].
    pub fn sort(&mut self) -> Result<(), GraphError> {
        let index = self.index();
        let fed: HashSet<ValueId> = self.inputs.iter().copied().collect();
        // 0 unseen, 1 open, 2 done
        let mut state = vec![0u8; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut stack = Vec::new();
        for root in 0..self.nodes.len() {
            stack.push((root, false));
            while let Some((n, leave)) = stack.pop() {
                if leave {
                    state[n] = 2;
                    order.push(n);
                    continue;
                }
                match state[n] {
                    2 => continue,
                    1 => return Err(GraphError::Cycle(self.nodes[n].name.clone())),
                    _ => state[n] = 1,
                }
                stack.push((n, true));
                for &i in self.nodes[n].inputs.iter().rev().flatten() {
                    match index.producer(i) {
                        Some(p) if state[p] == 1 => {
                            return Err(GraphError::Cycle(self.nodes[p].name.clone()));
                        }
                        Some(p) if state[p] == 0 => stack.push((p, false)),
                        Some(_) => {}
                        None if fed.contains(&i) || self.value(i).constant.is_some() => {}
                        None => return Err(GraphError::Undefined(self.value(i).name.clone())),
                    }
                }
            }
        }
        let mut nodes: Vec<Option<Node>> =
            std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|n| nodes[n].take()).collect();
        Ok(())
    }

    /// Drops the nodes whose results nobody reads. Inputs stay.
    pub fn prune(&mut self) {
        let keep = self.ancestors(&self.outputs.clone());
        let mut n = 0;
        self.nodes.retain(|_| {
            n += 1;
            keep.contains(&(n - 1))
        });
    }

    /// Positions of all nodes that `values` depend on.
    pub fn ancestors(&self, values: &[ValueId]) -> HashSet<usize> {
        let index = self.index();
        let mut seen = HashSet::new();
        let mut stack: Vec<ValueId> = values.to_vec();
        while let Some(v) = stack.pop() {
            if let Some(n) = index.producer(v)
                && seen.insert(n)
            {
                stack.extend(self.nodes[n].inputs.iter().flatten());
            }
        }
        seen
    }

    /// All values that depend on `values`, themselves included.
    pub fn descendants(&self, values: &[ValueId]) -> HashSet<ValueId> {
        let mut seen: HashSet<ValueId> = values.iter().copied().collect();
        for node in &self.nodes {
            if node.inputs.iter().flatten().any(|i| seen.contains(i)) {
                seen.extend(node.outputs.iter().flatten());
            }
        }
        seen
    }
}
