//! Integer operators of statically quantized models, read as the float operators they stand for.

use std::collections::{HashMap, HashSet};

use crate::graph::dequantize::dequantized;
use crate::graph::{Attrs, Graph, GraphError, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// Contributed operators (domain `com.microsoft`) that [`to_float`] replaces.
pub(super) const CONTRIBUTED: &[&str] = &[
    "QLinearAdd",
    "QLinearMul",
    "QLinearGlobalAveragePool",
    "QLinearAveragePool",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QGemm",
];

/// Rewrites `QLinearConv` and its like as `Conv` and its like over dequantized weights, and drops
/// the quantization of activations. What quantization does besides rounding stays: a zero point at
/// the lowest integer cuts off below 0 and above the largest value, which stands for the ReLU or
/// ReLU6 that quantizers leave out.
///
/// Weights that are stored behind `DequantizeLinear` are left as they are.
pub(super) fn to_float(graph: &mut Graph) -> Result<(), GraphError> {
    let integer = |n: &Node| n.op.starts_with("QLinear") || n.op == "QGemm";
    if !graph.nodes.iter().any(|n| integer(n) || n.op == "QuantizeLinear") {
        return Ok(());
    }
    graph.sort()?;
    let nodes = std::mem::take(&mut graph.nodes);
    let mut rewrite = Rewrite { graph, same: HashMap::new(), activations: HashSet::new() };
    for node in nodes {
        rewrite.node(node)?;
    }
    let Rewrite { same, .. } = rewrite;
    for o in &mut graph.outputs {
        *o = same.get(o).copied().unwrap_or(*o);
    }
    Ok(())
}

struct Rewrite<'a> {
    graph: &'a mut Graph,
    /// Values that are another value now.
    same: HashMap<ValueId, ValueId>,
    /// Activations that were integers and are floats now.
    activations: HashSet<ValueId>,
}

/// A quantized operand: the integers, scale and zero point at three neighbouring inputs.
struct Operand {
    value: ValueId,
    scale: Tensor,
    zero: Option<Tensor>,
}

impl Rewrite<'_> {
    fn node(&mut self, mut node: Node) -> Result<(), GraphError> {
        for v in node.inputs.iter_mut().flatten() {
            *v = self.same.get(v).copied().unwrap_or(*v);
        }
        match node.op.as_str() {
            "QuantizeLinear" => {
                let (x, y) = (node.input(0)?, node.output()?);
                self.activations.insert(y);
                let (scale, zero) = (self.constant(&node, 1)?, self.optional(&node, 2)?);
                match saturation(&scale, zero.as_ref()) {
                    Some(_) => self.emit(&node, "Clip", vec![x], Attrs::none(), &scale, zero),
                    None => {
                        self.same.insert(y, x);
                        self.activations.insert(x);
                        Ok(())
                    }
                }
            }
            "DequantizeLinear" if self.activations.contains(&node.input(0)?) => {
                self.same.insert(node.output()?, node.input(0)?);
                Ok(())
            }
            "QLinearConv" => {
                let x = self.operand(&node, 0)?;
                let w = self.operand(&node, 3)?;
                let mut inputs = vec![x.value, self.weight(&node, &w, 0)?];
                if let Some(bias) = node.inputs.get(8).copied().flatten() {
                    inputs.push(self.bias(&node, bias, &x, &w, 1.0)?);
                }
                let (scale, zero) = (self.constant(&node, 6)?, self.optional(&node, 7)?);
                self.emit(&node, "Conv", inputs, node.attrs.clone(), &scale, zero)
            }
            "QLinearMatMul" => {
                let (a, b) = (self.operand(&node, 0)?, self.operand(&node, 3)?);
                let (a, b) = (self.float(&node, &a)?, self.float(&node, &b)?);
                let (scale, zero) = (self.constant(&node, 6)?, self.optional(&node, 7)?);
                self.emit(&node, "MatMul", vec![a, b], Attrs::none(), &scale, zero)
            }
            "QGemm" => self.gemm(&node),
            "QLinearAdd" | "QLinearMul" => {
                let (a, b) = (self.operand(&node, 0)?, self.operand(&node, 3)?);
                let inputs = vec![self.float(&node, &a)?, self.float(&node, &b)?];
                let (scale, zero) = (self.constant(&node, 6)?, self.optional(&node, 7)?);
                self.emit(&node, &node.op["QLinear".len()..], inputs, Attrs::none(), &scale, zero)
            }
            op if CONTRIBUTED.contains(&op) => {
                if node.attrs.int("channels_last").unwrap_or(0) != 0 {
                    return Err(node.unsupported("channels_last=1"));
                }
                let x = self.operand(&node, 0)?;
                let mut attrs = node.attrs.clone();
                attrs.remove("channels_last");
                let (scale, zero) = (self.constant(&node, 3)?, self.optional(&node, 4)?);
                self.emit(&node, &node.op["QLinear".len()..], vec![x.value], attrs, &scale, zero)
            }
            op if op.starts_with("QLinear") => Err(node.unsupported("")),
            // Others move integers about, or read floats.
            op => {
                let moved = node.inputs.first().copied().flatten();
                if op != "Shape" && moved.is_some_and(|v| self.activations.contains(&v)) {
                    self.activations.extend(node.outputs.iter().flatten());
                }
                self.graph.nodes.push(node);
                Ok(())
            }
        }
    }

    fn gemm(&mut self, node: &Node) -> Result<(), GraphError> {
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 3)?);
        let alpha = node.attrs.float("alpha").unwrap_or(1.0);
        let channel = usize::from(node.attrs.int("transB").unwrap_or(0) == 0);
        let mut inputs = vec![a.value, self.weight(node, &b, channel)?];
        if let Some(bias) = node.inputs.get(6).copied().flatten() {
            inputs.push(self.bias(node, bias, &a, &b, alpha)?);
        }
        // Without a scale the output is a float already.
        if node.inputs.get(7).copied().flatten().is_none() {
            let made = Node {
                op: "Gemm".into(),
                inputs: inputs.into_iter().map(Some).collect(),
                ..node.clone()
            };
            self.graph.nodes.push(made);
            return Ok(());
        }
        let (scale, zero) = (self.constant(node, 7)?, self.optional(node, 8)?);
        self.emit(node, "Gemm", inputs, node.attrs.clone(), &scale, zero)
    }

    fn constant(&self, node: &Node, i: usize) -> Result<Tensor, GraphError> {
        let t = self.graph.constant(node.input(i)?);
        t.cloned().ok_or_else(|| node.unsupported("a scale that is computed"))
    }

    fn optional(&self, node: &Node, i: usize) -> Result<Option<Tensor>, GraphError> {
        match node.inputs.get(i).copied().flatten() {
            None => Ok(None),
            Some(_) => self.constant(node, i).map(Some),
        }
    }

    fn operand(&self, node: &Node, first: usize) -> Result<Operand, GraphError> {
        let value = node.input(first)?;
        let scale = self.constant(node, first + 1)?;
        let zero = self.optional(node, first + 2)?;
        let float = self.activations.contains(&value) && scale.len() == 1;
        if !float && self.graph.constant(value).is_none() {
            return Err(node.unsupported("an operand that is neither a constant nor quantized"));
        }
        Ok(Operand { value, scale, zero })
    }

    /// The operand as a float: an activation is one, a constant gets dequantized.
    fn float(&mut self, node: &Node, o: &Operand) -> Result<ValueId, GraphError> {
        if self.activations.contains(&o.value) {
            return Ok(o.value);
        }
        let rank = self.graph.constant(o.value).map_or(0, |t| t.shape().len());
        self.weight(node, o, rank.saturating_sub(1))
    }

    fn weight(&mut self, node: &Node, o: &Operand, axis: usize) -> Result<ValueId, GraphError> {
        let t = self.graph.constant(o.value);
        let t = t.ok_or_else(|| node.unsupported("a weight that is computed"))?;
        let float = dequantized(t, &o.scale, o.zero.as_ref(), axis);
        let float =
            float.ok_or_else(|| node.invalid("the scale does not fit the weight".into()))?;
        let stem = format!("{}.float", self.graph.value(o.value).name);
        Ok(self.graph.add_constant(&stem, float))
    }

    /// A bias in whole steps of the product of both scales.
    fn bias(
        &mut self,
        node: &Node,
        bias: ValueId,
        x: &Operand,
        w: &Operand,
        alpha: f32,
    ) -> Result<ValueId, GraphError> {
        let step = alpha * x.scale.to_f32().first().copied().unwrap_or(1.0);
        let steps: Vec<f32> = w.scale.to_f32().iter().map(|s| s * step).collect();
        let last = self.graph.constant(bias).map_or(0, |t| t.shape().len()).saturating_sub(1);
        self.weight(node, &Operand { value: bias, scale: Tensor::vector(&steps), zero: None }, last)
    }

    /// Appends `op` in the place of `node`, cut off as its output's integers are.
    fn emit(
        &mut self,
        node: &Node,
        op: &str,
        mut inputs: Vec<ValueId>,
        attrs: Attrs,
        scale: &Tensor,
        zero: Option<Tensor>,
    ) -> Result<(), GraphError> {
        let y = node.output()?;
        self.activations.insert(y);
        let make = |op: &str, inputs: Vec<ValueId>, output, attrs| Node {
            name: node.name.clone(),
            op: op.into(),
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: vec![Some(output)],
            attrs,
        };
        let cut = saturation(scale, zero.as_ref());
        if op != "Clip" {
            let whole = match cut {
                None => y,
                Some(_) => {
                    let mut value = self.graph.value(y).clone();
                    value.name = self.graph.fresh_name(&format!("{}.whole", value.name));
                    self.graph.add_value(value)
                }
            };
            self.graph.nodes.push(make(op, inputs, whole, attrs));
            inputs = vec![whole];
        }
        if let Some(top) = cut {
            inputs.push(self.graph.float(0.0));
            inputs.push(self.graph.float(top));
            self.graph.nodes.push(make("Clip", inputs, y, Attrs::none()));
        }
        Ok(())
    }
}

/// The largest value of a tensor whose zero point is the lowest integer.
fn saturation(scale: &Tensor, zero: Option<&Tensor>) -> Option<f32> {
    let lowest = match zero {
        None => true,
        Some(z) => {
            let least = if z.dtype() == DType::I8 { -128.0 } else { 0.0 };
            z.to_f32().iter().all(|&v| v == least)
        }
    };
    let scale = scale.to_f32();
    (lowest && scale.len() == 1).then(|| 255.0 * scale[0])
}
