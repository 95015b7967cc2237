//! From a [`Graph`] to a tract model.
//!
//! Standard operators go through the builders of tract's ONNX importer, one node at a time. Ours
//! become the operators of this room, which hold the frozen weights themselves.

use std::collections::HashMap;

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{ModelProto, NodeProto};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::tract_core::ops::nn::{Softmax, SoftmaxKind};

use super::convert;
use super::frozen_gather::FrozenGather;
use super::frozen_linear::FrozenLinear;
use super::fused::FusedOp;
use super::typed::typed;
use crate::engine::Products;
use crate::engine::inputs::{Input, Size};
use crate::engine::kernels::{Biases, Fused, Linear, Table};
use crate::graph::{Graph, Node, ValueId, dequantized_constant, onnx};
use crate::tensor::{DType, Tensor as Ours};

/// The model of `graph`, fed with `inputs`.
pub(super) fn lower(
    graph: &Graph,
    inputs: &[Input],
    products: &Products,
) -> TractResult<TypedModel> {
    let mut lowering = Lowering::new(graph, products);
    for (&v, input) in graph.inputs.iter().zip(inputs) {
        lowering.source(v, input)?;
    }
    for (n, node) in graph.nodes.iter().enumerate() {
        lowering.node(n, node).with_context(|| format!("node `{}` ({})", node.name, node.op))?;
    }
    let outputs =
        graph.outputs.iter().map(|&v| lowering.outlet(v)).collect::<TractResult<Vec<_>>>()?;
    let mut model = lowering.model;
    model.select_output_outlets(&outputs)?;
    let mut model = model.into_typed()?;
    // tract computes shapes symbolically, in a type of its own; callers want numbers.
    let mut outputs = model.output_outlets()?.to_vec();
    for (i, outlet) in outputs.iter_mut().enumerate() {
        if model.outlet_fact(*outlet)?.datum_type == TDim::datum_type() {
            let cast = cast(i64::datum_type());
            *outlet = model.wire_node(format!("output:{i}"), cast, &[*outlet])?[0];
        }
    }
    model.select_output_outlets(&outputs)?;
    Ok(model)
}

struct Lowering<'a> {
    graph: &'a Graph,
    onnx: Onnx,
    model: InferenceModel,
    outlets: HashMap<ValueId, OutletId>,
    biases: Biases,
    products: &'a Products,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, products: &'a Products) -> Lowering<'a> {
        Lowering {
            graph,
            onnx: tract_onnx::onnx(),
            model: InferenceModel::default(),
            outlets: HashMap::new(),
            biases: Biases::find(graph),
            products,
        }
    }

    /// A name for tract: unique, whatever tract appends to other names.
    fn name(&self, v: ValueId) -> String {
        format!("{}:{}", v.0, self.graph.value(v).name)
    }

    fn source(&mut self, v: ValueId, input: &Input) -> TractResult<()> {
        for size in &input.dims {
            if let Size::Free(i) = size {
                // Running refuses empty inputs. Without this tract takes its slow path for every
                // sum and product of values whose size it cannot prove to be above nothing.
                self.model.symbols.add_assertion(format!("d{i} >= 1"))?;
            }
        }
        let shape: TVec<TDim> = input
            .dims
            .iter()
            .map(|size| match size {
                Size::Fixed(n) => n.to_dim(),
                Size::Free(i) => self.model.sym(&format!("d{i}")).to_dim(),
            })
            .collect();
        let fact = InferenceFact::dt_shape(convert::datum_type(input.dtype)?, shape);
        let outlet = self.model.add_source(self.name(v), fact)?;
        self.outlets.insert(v, outlet);
        Ok(())
    }

    /// Where tract has `v`; constants are added at their first use.
    fn outlet(&mut self, v: ValueId) -> TractResult<OutletId> {
        if let Some(&outlet) = self.outlets.get(&v) {
            return Ok(outlet);
        }
        let constant = self.constant(v)?;
        let outlet = self.model.add_const(self.name(v), convert::to_tract(constant)?)?;
        self.outlets.insert(v, outlet);
        Ok(outlet)
    }

    fn constant(&self, v: ValueId) -> TractResult<&'a Ours> {
        let graph = self.graph;
        let name = &graph.value(v).name;
        graph.constant(v).with_context(|| format!("value `{name}` is read before it is made"))
    }

    fn node(&mut self, n: usize, node: &Node) -> TractResult<()> {
        if self.biases.added.contains(&n) {
            return Ok(());
        }
        // Weights of convolutions are stored as int8; a program has them in f32.
        if let Some(float) = dequantized_constant(self.graph, node)? {
            let v = node.output()?;
            let outlet = self.model.add_const(self.name(v), convert::to_tract(&float)?)?;
            self.outlets.insert(v, outlet);
            return Ok(());
        }
        let floats = self.graph.value(node.output()?).dtype == DType::F32;
        let fused = match Fused::of(node)? {
            None if floats => Fused::standard(node)?,
            fused => fused,
        };
        let all = || node.inputs.iter().flatten().copied().collect();
        let mut outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
        if let Some(bias) = self.biases.of.get(&n) {
            outputs = vec![bias.output];
        }
        let name = self.name(*outputs.first().context("it has no output")?);
        let (op, inputs) = match node.op.as_str() {
            _ if let Some(fused) = fused => {
                let outputs = fused.outputs().len();
                (typed(FusedOp(fused), outputs), all())
            }
            "FrozenLinear" => (typed(self.linear(n, node)?, 1), vec![node.input(0)?]),
            "FrozenGather" => (typed(self.gather(node)?, 1), vec![node.input(2)?]),
            // tract's importer casts to its dimension type instead, which suits shapes, but few of its
            // operators compute with it.
            "Cast" if self.is_data_to_i64(node)? => {
                (typed(cast(i64::datum_type()), 1), vec![node.input(0)?])
            }
            "LogSoftmax" => (typed(self.log_softmax(node)?, 1), vec![node.input(0)?]),
            _ => (self.standard(node)?, all()),
        };
        let mut inputs =
            inputs.into_iter().map(|v| self.outlet(v)).collect::<TractResult<Vec<_>>>()?;
        if node.op == "FrozenGather" {
            // Ids that are computed from shapes are of tract's own dimension type.
            let ids = typed(cast(i64::datum_type()), 1);
            let id = self.add(format!("{name}.ids"), ids, &inputs, 1)?;
            inputs = vec![OutletId::new(id, 0)];
        }
        let id = self.add(name, op, &inputs, outputs.len())?;
        let outlets = outputs.into_iter().enumerate().map(|(i, v)| (v, OutletId::new(id, i)));
        self.outlets.extend(outlets);
        Ok(())
    }

    /// Adds a node with `outputs` outputs.
    fn add(
        &mut self,
        name: String,
        op: Box<dyn InferenceOp>,
        inputs: &[OutletId],
        outputs: usize,
    ) -> TractResult<usize> {
        let facts = (0..outputs).map(|_| InferenceFact::default()).collect();
        let id = self.model.add_node(name, op, facts)?;
        for (slot, &outlet) in inputs.iter().enumerate() {
            self.model.add_edge(outlet, InletId::new(id, slot))?;
        }
        Ok(id)
    }

    /// True for a cast to i64 of something that does not follow from shapes alone.
    fn is_data_to_i64(&self, node: &Node) -> TractResult<bool> {
        let (x, y) = (self.graph.value(node.input(0)?), self.graph.value(node.output()?));
        Ok(y.dtype == DType::I64 && x.known.is_none() && x.constant.is_none())
    }

    /// An operator of tract's own.
    fn standard(&self, node: &Node) -> TractResult<Box<dyn InferenceOp>> {
        let name =
            |v: &Option<ValueId>| v.map(|v| self.graph.value(v).name.clone()).unwrap_or_default();
        let mut proto = NodeProto {
            name: node.name.clone(),
            op_type: node.op.clone(),
            input: node.inputs.iter().map(name).collect(),
            output: node.outputs.iter().map(name).collect(),
            attribute: node.attrs.0.iter().map(|(k, v)| onnx::attribute(k, v)).collect(),
            ..NodeProto::default()
        };
        // ONNX's default is 0.0 in f32; tract's importer would take f64.
        if node.op == "ConstantOfShape" && node.attrs.tensor("value").is_none() {
            proto.attribute.push(onnx::attribute("value", &Ours::vector(&[0f32]).into()));
        }
        let build = self.onnx.op_register.0.get(&node.op).context("tract lacks the operator")?;
        let ctx = ParsingContext {
            onnx_operator_set_version: onnx::OPSET,
            framework: &self.onnx,
            model: &ModelProto::default(),
            parent_graphs: vec![],
            model_dir: None,
            template: InferenceModel::default(),
        };
        let (op, captured) = build(&ctx, &proto)?;
        ensure!(captured.is_empty(), "subgraphs are not supported");
        Ok(op)
    }

    fn linear(&self, n: usize, node: &Node) -> TractResult<FrozenLinear> {
        Ok(FrozenLinear(Linear::of(self.graph, node, self.biases.of.get(&n), self.products)?))
    }

    /// tract's importer takes the logarithm of a softmax, which is minus infinity for a class whose
    /// probability underflows: the loss of one confident mistake.
    fn log_softmax(&self, node: &Node) -> TractResult<Softmax> {
        let rank = self.graph.rank(node.input(0)?);
        let axis = node.attrs.int("axis").unwrap_or(-1);
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&a| a < rank).context("no such axis")?;
        let kind = SoftmaxKind::LogSoftmax;
        Ok(Softmax { axes: tvec!(axis), quant_output_dt: None, kind })
    }

    fn gather(&self, node: &Node) -> TractResult<FrozenGather> {
        Ok(FrozenGather(Table::of(self.graph, node)?))
    }
}
