//! What a rule sees of one node, and how it writes its result.

use half::f16;

use super::is_static;
use crate::graph::{Attr, Attrs, Dim, Graph, GraphError, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// A length along an axis: a number, or an `i64 [1]` value where it varies with the input size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    Fixed(usize),
    Value(ValueId),
}

/// One node to differentiate. A rule reads the gradients of its outputs and gives those of the
/// inputs that are wanted.
pub(super) struct Step<'a> {
    pub graph: &'a mut Graph,
    pub node: Node,
    position: usize,
    dy: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
    given: Vec<(ValueId, ValueId)>,
}

impl<'a> Step<'a> {
    /// `position` is that of `node` in the graph, `dy` are the gradients of its outputs, `wanted`
    /// says which inputs need one.
    pub fn new(
        graph: &'a mut Graph,
        position: usize,
        node: Node,
        dy: Vec<Option<ValueId>>,
        wanted: Vec<bool>,
    ) -> Step<'a> {
        Step { graph, node, position, dy, wanted, given: Vec::new() }
    }

    /// The inputs with their gradients.
    pub fn finish(self) -> Result<Vec<(ValueId, ValueId)>, GraphError> {
        for &(x, dx) in &self.given {
            let (want, have) = (self.graph.shape(x), self.graph.shape(dx));
            if want != have {
                return Err(self.node.invalid(format!(
                    "the gradient of `{}` has shape {have:?}, the value {want:?}",
                    self.graph.value(x).name
                )));
            }
        }
        Ok(self.given)
    }

    /// Input `i`.
    pub fn x(&self, i: usize) -> Result<ValueId, GraphError> {
        self.node.input(i)
    }

    /// Input `i`, if there.
    pub fn optional(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }

    /// Output 0.
    pub fn y(&self) -> Result<ValueId, GraphError> {
        self.node.output()
    }

    /// The gradient of output 0.
    pub fn dy(&self) -> Result<ValueId, GraphError> {
        self.dy_of(0).ok_or_else(|| self.node.unsupported("a gradient of a second output"))
    }

    /// The gradient of output `i`, if anything depends on it.
    pub fn dy_of(&self, i: usize) -> Option<ValueId> {
        self.dy.get(i).copied().flatten()
    }

    /// True if the gradient of input `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// Gives the gradient of input `i`; it is dropped if not wanted.
    pub fn give(&mut self, i: usize, dx: ValueId) {
        if let Some(x) = self.optional(i).filter(|_| self.wants(i)) {
            self.given.push((x, dx));
        }
    }

    /// Gives a gradient that has the shape of the output, summed where input `i` was broadcast.
    pub fn give_summed(&mut self, i: usize, dx: ValueId) -> Result<(), GraphError> {
        if self.wants(i) {
            let dx = self.sum_to(dx, self.x(i)?)?;
            self.give(i, dx);
        }
        Ok(())
    }

    /// An error: the gradient of input `i` cannot be made.
    pub fn refuse(&self, i: usize, what: &str) -> Result<(), GraphError> {
        if self.wants(i) { Err(self.node.unsupported(what)) } else { Ok(()) }
    }

    /// Output `i` of the node, which is added to it with the given shape if it was left out.
    pub fn extra_output(
        &mut self,
        i: usize,
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Result<ValueId, GraphError> {
        let Some(node) = self.graph.nodes.get(self.position) else {
            return Err(self.node.invalid("it is not in the graph any more".into()));
        };
        if let Some(v) = node.outputs.get(i).copied().flatten() {
            return Ok(v);
        }
        let name = self.graph.fresh_name(&format!("{}.{i}", node.op));
        let value = crate::graph::Value { name, dtype, shape, constant: None, known: None };
        let v = self.graph.add_value(value);
        let outputs = &mut self.graph.nodes[self.position].outputs;
        outputs.resize(outputs.len().max(i + 1), None);
        outputs[i] = Some(v);
        Ok(v)
    }

    /// Appends a node without attributes.
    pub fn op(&mut self, op: &str, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        self.graph.op(op, inputs, Attrs::none())
    }

    /// Appends a node with attributes.
    pub fn op_with(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attrs: Attrs,
    ) -> Result<ValueId, GraphError> {
        self.graph.op(op, inputs, attrs)
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.op("Add", &[a, b])
    }

    /// `a - b`.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.op("Sub", &[a, b])
    }

    /// `a * b`.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.op("Mul", &[a, b])
    }

    /// `a / b`.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.op("Div", &[a, b])
    }

    /// `-a`.
    pub fn neg(&mut self, a: ValueId) -> Result<ValueId, GraphError> {
        self.op("Neg", &[a])
    }

    /// `a * factor`.
    pub fn scale(&mut self, a: ValueId, factor: f32) -> Result<ValueId, GraphError> {
        if factor == 1.0 {
            return Ok(a);
        }
        let f = self.float(a, factor)?;
        self.mul(a, f)
    }

    /// A rank 0 constant of the type of `like`.
    pub fn float(&mut self, like: ValueId, v: f32) -> Result<ValueId, GraphError> {
        let tensor = scalar(self.graph.value(like).dtype, v)
            .ok_or_else(|| self.node.unsupported("a gradient of integers"))?;
        Ok(self.graph.add_constant("f", tensor))
    }

    /// Sum over `axes`.
    pub fn reduce_sum(
        &mut self,
        v: ValueId,
        axes: &[i64],
        keep: bool,
    ) -> Result<ValueId, GraphError> {
        let axes = self.graph.ints(axes);
        let attrs = Attrs::none().with("keepdims", i64::from(keep));
        self.op_with("ReduceSum", &[v, axes], attrs)
    }

    /// Mean over `axes`, which stay as 1.
    pub fn reduce_mean(&mut self, v: ValueId, axes: &[i64]) -> Result<ValueId, GraphError> {
        let axes = self.graph.ints(axes);
        self.op_with("ReduceMean", &[v, axes], Attrs::none().with("keepdims", 1))
    }

    /// The dimensions in the order `perm`.
    pub fn transpose(&mut self, v: ValueId, perm: &[i64]) -> Result<ValueId, GraphError> {
        if perm.iter().enumerate().all(|(i, &p)| i as i64 == p) {
            return Ok(v);
        }
        self.op_with("Transpose", &[v], Attrs::none().with("perm", perm))
    }

    /// The last two dimensions swapped.
    pub fn transpose_last(&mut self, v: ValueId) -> Result<ValueId, GraphError> {
        let mut perm: Vec<i64> = (0..self.graph.rank(v) as i64).collect();
        if let [.., a, b] = perm.as_mut_slice() {
            std::mem::swap(a, b);
        }
        self.transpose(v, &perm)
    }

    /// Sums `v` over the dimensions along which `like` broadcasts to its shape: those in front, and
    /// those that are statically 1.
    pub fn sum_to(&mut self, v: ValueId, like: ValueId) -> Result<ValueId, GraphError> {
        let (from, to) = (self.graph.shape(v), self.graph.shape(like));
        let Some(lead) = from.len().checked_sub(to.len()) else {
            return Err(self.node.invalid("an input has more dimensions than the output".into()));
        };
        let mut axes: Vec<i64> = (0..lead as i64).collect();
        for (d, (from, to)) in from[lead..].iter().zip(to).enumerate() {
            if from != to {
                if !to.is_one() {
                    return Err(self.node.unsupported("a dimension that broadcasts at some sizes"));
                }
                axes.push((lead + d) as i64);
            }
        }
        if axes.is_empty() {
            return Ok(v);
        }
        if axes.len() == lead {
            return self.reduce_sum(v, &axes, false);
        }
        let sum = self.reduce_sum(v, &axes, true)?;
        if lead == 0 {
            return Ok(sum);
        }
        let lead: Vec<i64> = (0..lead as i64).collect();
        let lead = self.graph.ints(&lead);
        self.op("Squeeze", &[sum, lead])
    }

    /// `v` in the shape of `like`, which has as many elements.
    pub fn reshape_like(&mut self, v: ValueId, like: ValueId) -> Result<ValueId, GraphError> {
        let (from, to) = (self.graph.shape(v), self.graph.shape(like));
        if from == to {
            return Ok(v);
        }
        if let Some(target) = reshape_target(from, to) {
            return self.reshape(v, &target);
        }
        // Without `allowzero` an empty dimension would be taken for "copy".
        let empty = to.iter().any(|d| d.0.contains(&0));
        let attrs = if empty { Attrs::none().with("allowzero", 1) } else { Attrs::none() };
        let target = self.shape_of(like)?;
        self.op_with("Reshape", &[v, target], attrs)
    }

    /// `v` in another shape, in the notation of `Reshape`: 0 copies a dimension, one may be -1.
    pub fn reshape(&mut self, v: ValueId, target: &[i64]) -> Result<ValueId, GraphError> {
        let target = self.graph.ints(target);
        self.op("Reshape", &[v, target])
    }

    /// `v` broadcast to the shape of `like`.
    pub fn expand_like(&mut self, v: ValueId, like: ValueId) -> Result<ValueId, GraphError> {
        if self.graph.shape(v) == self.graph.shape(like) {
            return Ok(v);
        }
        let target = self.shape_of(like)?;
        self.op("Expand", &[v, target])
    }

    /// The dimensions of `v` as `i64 [rank]`: a constant where they do not vary.
    pub fn shape_of(&mut self, v: ValueId) -> Result<ValueId, GraphError> {
        shape_of(self.graph, v)
    }

    /// Dimension `axis` of `v`.
    pub fn extent(&mut self, v: ValueId, axis: usize) -> Result<Extent, GraphError> {
        let dim = self.graph.shape(v).get(axis).copied();
        let dim = dim.ok_or_else(|| self.node.invalid(format!("there is no axis {axis}")))?;
        if let Some(n) = dim.constant() {
            return Ok(Extent::Fixed(n));
        }
        let axis = axis as i64;
        let attrs = Attrs::none().with("start", axis).with("end", axis + 1);
        Ok(Extent::Value(self.op_with("Shape", &[v], attrs)?))
    }

    /// An extent as `i64 [1]`.
    pub fn extent_value(&mut self, e: Extent) -> ValueId {
        match e {
            Extent::Fixed(n) => self.graph.ints(&[n as i64]),
            Extent::Value(v) => v,
        }
    }

    /// `a + b`.
    pub fn extent_add(&mut self, a: Extent, b: Extent) -> Result<Extent, GraphError> {
        match (a, b) {
            (Extent::Fixed(a), Extent::Fixed(b)) => Ok(Extent::Fixed(a + b)),
            (Extent::Fixed(0), e) | (e, Extent::Fixed(0)) => Ok(e),
            (a, b) => {
                let (a, b) = (self.extent_value(a), self.extent_value(b));
                Ok(Extent::Value(self.add(a, b)?))
            }
        }
    }

    /// `a - b`.
    pub fn extent_sub(&mut self, a: Extent, b: Extent) -> Result<Extent, GraphError> {
        match (a, b) {
            (Extent::Fixed(a), Extent::Fixed(b)) => a
                .checked_sub(b)
                .map(Extent::Fixed)
                .ok_or_else(|| self.node.invalid("it reads past the end of a dimension".into())),
            (e, Extent::Fixed(0)) => Ok(e),
            (a, b) => {
                let (a, b) = (self.extent_value(a), self.extent_value(b));
                Ok(Extent::Value(self.sub(a, b)?))
            }
        }
    }

    /// Elements `start..end` of `v` along `axis`.
    pub fn slice(
        &mut self,
        v: ValueId,
        axis: usize,
        start: Extent,
        end: Extent,
    ) -> Result<ValueId, GraphError> {
        let (start, end) = (self.extent_value(start), self.extent_value(end));
        let axis = self.graph.ints(&[axis as i64]);
        self.op("Slice", &[v, start, end, axis])
    }

    /// `v` with `before` and `after` zeros around it along `axis`.
    pub fn pad(
        &mut self,
        v: ValueId,
        axis: usize,
        before: Extent,
        after: Extent,
    ) -> Result<ValueId, GraphError> {
        let mut parts = Vec::with_capacity(3);
        for extent in [Some(before), None, Some(after)] {
            match extent {
                None => parts.push(v),
                Some(Extent::Fixed(0)) => {}
                Some(n) => parts.push(self.zeros_along(v, axis, n)?),
            }
        }
        if parts.len() == 1 {
            return Ok(v);
        }
        self.concat(&parts, axis)
    }

    /// Joins `parts` along `axis`.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId, GraphError> {
        if let [one] = parts {
            return Ok(*one);
        }
        self.op_with("Concat", parts, Attrs::none().with("axis", axis as i64))
    }

    /// Zeros in the shape of `v`.
    pub fn zeros_like(&mut self, v: ValueId) -> Result<ValueId, GraphError> {
        filled(self.graph, v, 0.0)
    }

    /// Zeros in the shape of `v`, but `n` of them along `axis`.
    fn zeros_along(&mut self, v: ValueId, axis: usize, n: Extent) -> Result<ValueId, GraphError> {
        let mut dims = Vec::new();
        let mut run = Vec::new();
        for d in 0..self.graph.rank(v) {
            match if d == axis { n } else { self.extent(v, d)? } {
                Extent::Fixed(n) => run.push(n as i64),
                Extent::Value(n) => {
                    if !run.is_empty() {
                        dims.push(self.graph.ints(&std::mem::take(&mut run)));
                    }
                    dims.push(n);
                }
            }
        }
        if !run.is_empty() {
            dims.push(self.graph.ints(&run));
        }
        let shape = self.concat(&dims, 0)?;
        let zero = fill_value(self.graph, v, 0.0)?;
        self.op_with("ConstantOfShape", &[shape], Attrs::none().with("value", zero))
    }

    /// A negative axis counted from the end of `rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, GraphError> {
        let n = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(n)
            .ok()
            .filter(|&n| n < rank)
            .ok_or_else(|| self.node.invalid(format!("there is no axis {axis} in rank {rank}")))
    }

    /// The integers in input `i`: a constant, or known and equal at every probe point.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        let v = self.optional(i)?;
        if let Some(ints) = self.graph.ints_of(v) {
            return Some(ints);
        }
        let known = self.graph.value(v).known.as_ref()?;
        let first = known.first()?.to_i64()?;
        known.iter().all(|k| k.to_i64().as_ref() == Some(&first)).then_some(first)
    }

    /// The axes of a reduction or squeeze, from its second input or its attribute, counted from
    /// the front. `None` if neither is there.
    pub fn axes(&self, rank: usize) -> Result<Option<Vec<usize>>, GraphError> {
        let axes = match (self.optional(1), self.node.attrs.get("axes")) {
            (Some(_), _) => {
                self.ints(1).ok_or_else(|| self.node.unsupported("axes that are not constant"))?
            }
            (None, Some(Attr::Ints(axes))) => axes.clone(),
            _ => return Ok(None),
        };
        axes.into_iter().map(|a| self.axis(a, rank)).collect::<Result<Vec<_>, _>>().map(Some)
    }
}

/// A value of the shape and type of `like`, all of it `v`.
pub(super) fn filled(graph: &mut Graph, like: ValueId, v: f32) -> Result<ValueId, GraphError> {
    let value = fill_value(graph, like, v)?;
    if graph.rank(like) == 0 {
        let scalar = value.reshaped(&[])?;
        return Ok(graph.add_constant("f", scalar));
    }
    let shape = shape_of(graph, like)?;
    graph.op("ConstantOfShape", &[shape], Attrs::none().with("value", value))
}

/// The dimensions of `v` as `i64 [rank]`: a constant where they do not vary.
fn shape_of(graph: &mut Graph, v: ValueId) -> Result<ValueId, GraphError> {
    if is_static(graph.shape(v)) {
        let dims: Vec<i64> = graph.shape(v).iter().map(|d| d.0[0] as i64).collect();
        return Ok(graph.ints(&dims));
    }
    graph.op("Shape", &[v], Attrs::none())
}

/// The `value` attribute of a `ConstantOfShape` in the type of `like`.
fn fill_value(graph: &Graph, like: ValueId, v: f32) -> Result<Tensor, GraphError> {
    let value = graph.value(like);
    let tensor = scalar(value.dtype, v).ok_or_else(|| GraphError::Invalid {
        node: value.name.clone(),
        op: "gradient".into(),
        reason: format!("{} values have no gradient", value.dtype),
    })?;
    Ok(tensor.reshaped(&[1])?)
}

fn scalar(dtype: DType, v: f32) -> Option<Tensor> {
    match dtype {
        DType::F32 => Some(Tensor::scalar(v)),
        DType::F16 => Some(Tensor::scalar(f16::from_f32(v))),
        DType::F64 => Some(Tensor::scalar(f64::from(v))),
        _ => None,
    }
}

/// A constant target that reshapes `from` to `to` at every size: 0 copies a varying dimension that
/// stays in its place, one other varying dimension may be -1.
fn reshape_target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let mut free = false;
    let mut target = Vec::with_capacity(to.len());
    for (k, d) in to.iter().enumerate() {
        target.push(match d.constant() {
            // 0 would copy, and -1 cannot be found beside an empty dimension.
            Some(0) => return None,
            Some(n) => n as i64,
            None if from.get(k) == Some(d) => 0,
            None if free => return None,
            None => {
                free = true;
                -1
            }
        });
    }
    Some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_targets_are_constant_where_possible() {
        let (b, s) = (Dim::BATCH, Dim::SEQUENCE);
        let f = Dim::fixed;
        let merged = Dim([14, 21, 22]);
        assert_eq!(reshape_target(&[b, s, f(8)], &[b, s, f(2), f(4)]), Some(vec![0, 0, 2, 4]));
        assert_eq!(reshape_target(&[b, s, f(8)], &[merged, f(8)]), Some(vec![-1, 8]));
        assert_eq!(reshape_target(&[merged, f(8)], &[b, s, f(8)]), None);
        assert_eq!(reshape_target(&[b, f(0)], &[f(0), b]), None);
    }
}
