//! From a [`Graph`] to a model for ONNX Runtime.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tract_linalg::multithread::Executor;
use tract_onnx::tract_core::internal::{TractResult, ensure};

use super::operators::Frozen;
use crate::engine::Products;
use crate::engine::kernels::{Biases, Fused, Linear, Table};
use crate::graph::{Attrs, Dim, Graph, ValueId, onnx};

/// Attribute of our operators: which product or table it is.
pub(super) const INDEX: &str = "index";

/// The one operator that all [`Fused`] are here.
pub(super) const FUSED: &str = "Fused";

/// A model, and what its operators of ours read.
pub(super) struct Lowered {
    pub(super) model: Vec<u8>,
    pub(super) frozen: Arc<Frozen>,
    /// Names of the dimensions that vary.
    pub(super) dims: HashMap<Dim, String>,
}

/// Takes the frozen weights out of `graph` and writes the rest as a model.
pub(super) fn lower(
    graph: &Graph,
    executor: &Executor,
    products: &Products,
) -> TractResult<Lowered> {
    check_order(graph)?;
    let biases = Biases::find(graph);
    let executor = executor.clone();
    let mut frozen = Frozen { linears: vec![], tables: vec![], fused: vec![], executor };
    let mut rest = graph.clone();
    for (n, node) in graph.nodes.iter().enumerate() {
        let index = |len: usize| Attrs::none().with(INDEX, len as i64);
        let to = &mut rest.nodes[n];
        match node.op.as_str() {
            "FrozenLinear" => {
                let bias = biases.of.get(&n);
                to.inputs.truncate(1);
                to.attrs = index(frozen.linears.len());
                if let Some(bias) = bias {
                    to.outputs = vec![Some(bias.output)];
                }
                frozen.linears.push(Linear::of(graph, node, bias, products)?);
            }
            "FrozenGather" => {
                to.inputs = vec![node.inputs.last().copied().flatten()];
                to.attrs = index(frozen.tables.len());
                frozen.tables.push(Table::of(graph, node)?);
            }
            _ => {
                if let Some(fused) = Fused::of(node)? {
                    to.op = FUSED.into();
                    to.attrs = index(frozen.fused.len());
                    frozen.fused.push((fused, node.inputs.len()));
                }
            }
        }
    }
    // Names of nodes need not be unique here; those of values are.
    for node in &mut rest.nodes {
        let output = node.outputs.iter().flatten().next();
        node.name = output.map_or_else(String::new, |&v| graph.value(v).name.clone());
    }
    let nodes = std::mem::take(&mut rest.nodes).into_iter().enumerate();
    rest.nodes = nodes.filter(|(n, _)| !biases.added.contains(n)).map(|(_, node)| node).collect();
    let dims = onnx::dim_names(&rest);
    let model = onnx::write(&rest, None).model;
    Ok(Lowered { model, frozen: Arc::new(frozen), dims })
}

/// Every value that a node reads must be an input, a constant or made before.
fn check_order(graph: &Graph) -> TractResult<()> {
    let mut made: HashSet<ValueId> = graph.inputs.iter().copied().collect();
    for node in &graph.nodes {
        for &v in node.inputs.iter().flatten() {
            let known = made.contains(&v) || graph.constant(v).is_some();
            ensure!(known, "value `{}` is read before it is made", graph.value(v).name);
        }
        made.extend(node.outputs.iter().flatten());
    }
    Ok(())
}
