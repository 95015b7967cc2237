//! The order in which the nodes of a model run, chosen for little memory.
//!
//! tract runs a node as soon as it can. In a training program that packs and reshapes what the
//! backward pass reads already in the forward pass, and holds the copies beside the originals: a
//! third of the peak.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::order::{
    build_flush_list, eval_order_for_nodes, eval_order_opt_ram_for_nodes,
};
use tract_onnx::tract_core::ops::konst::Const;

/// Free sizes are taken for this when orders are compared: the tokens of a longer text.
const TYPICAL: i64 = 128;
/// Copying a value twice must save this share of the peak.
const WORTHWHILE: f64 = 0.05;

/// Compiles `model` to run in the best order known.
pub(super) fn plan(
    model: TypedModel,
    options: &RunOptions,
) -> TractResult<Arc<TypedRunnableModel>> {
    let order = Order::best(&model)?;
    let mut split = model.clone();
    if split_views(&mut split)? {
        let of_split = Order::best(&split)?;
        if (of_split.peak as f64) < (1.0 - WORTHWHILE) * order.peak as f64 {
            return of_split.impose(split, options);
        }
    }
    order.impose(model, options)
}

struct Order {
    nodes: Vec<usize>,
    /// Most bytes that are alive at once.
    peak: usize,
    /// Whether it is tract's own choice.
    native: bool,
}

impl Order {
    /// The best of tract's order and some depth-first ones, where a node runs when its result is
    /// wanted.
    fn best(model: &TypedModel) -> TractResult<Order> {
        let inputs: Vec<usize> = model.input_outlets()?.iter().map(|o| o.node).collect();
        let first: Vec<usize> = model.output_outlets()?.iter().map(|o| o.node).collect();
        // The gradients of the last layer are due first.
        let last: Vec<usize> = first.iter().rev().copied().collect();
        let sizes = sizes(model);
        let order = |nodes: Vec<usize>, native| {
            let nodes: Vec<usize> =
                nodes.into_iter().filter(|&n| !model.node(n).op_is::<Const>()).collect();
            Order { peak: peak(model, &nodes, &sizes), nodes, native }
        };
        let native = eval_order_opt_ram_for_nodes(model.nodes(), &inputs, &first, &[])?;
        let mut best = order(native, true);
        for targets in [&first, &last] {
            let nodes = eval_order_for_nodes(model.nodes(), &inputs, targets, &[])?;
            let other = order(nodes, false);
            if other.peak < best.peak {
                best = other;
            }
        }
        Ok(best)
    }

    fn impose(
        self,
        model: TypedModel,
        options: &RunOptions,
    ) -> TractResult<Arc<TypedRunnableModel>> {
        if self.native {
            return model.into_runnable_with_options(options);
        }
        // Every node waits for the one before it.
        let chain: Vec<(usize, usize)> = self.nodes.windows(2).map(|w| (w[1], w[0])).collect();
        let options = RunOptions { skip_order_opt_ram: true, ..options.clone() };
        let outlets = model.output_outlets()?.to_vec();
        #[allow(deprecated, reason = "the only way to impose an order")]
        SimplePlan::build_with_outputs_and_deps(model, &outlets, &chain, &options).map(Arc::new)
    }
}

/// Gives every reader of a view its own, where the viewed value has other readers too. A view of a
/// value that is read later is a copy in tract: made anew, it need not be held meanwhile.
fn split_views(model: &mut TypedModel) -> TractResult<bool> {
    let mut changed = false;
    for n in 0..model.nodes().len() {
        let node = model.node(n);
        if !is_view(node) || model.outputs.iter().any(|o| o.node == n) {
            continue;
        }
        let source = node.inputs[0];
        let shared =
            model.outlet_successors(source).len() > 1 && !model.node(source.node).op_is::<Const>();
        let readers = node.outputs[0].successors.clone();
        if !shared || readers.len() < 2 {
            continue;
        }
        let (name, op, fact) = (node.name.clone(), node.op.clone(), node.outputs[0].fact.clone());
        for (i, &reader) in readers.iter().enumerate().skip(1) {
            let copy =
                model.add_node(format!("{name}.again{i}"), op.clone(), tvec!(fact.clone()))?;
            model.add_edge(source, InletId::new(copy, 0))?;
            model.add_edge(OutletId::new(copy, 0), reader)?;
        }
        changed = true;
    }
    Ok(changed)
}

/// True for an operator that only renames dimensions.
fn is_view(node: &TypedNode) -> bool {
    matches!(node.op_as::<AxisOp>(), Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)))
}

/// Bytes of the values that every node makes.
fn sizes(model: &TypedModel) -> Vec<usize> {
    let symbols = model.symbols.all_symbols();
    let typical = symbols.iter().fold(SymbolValues::default(), |s, v| s.with(v, TYPICAL));
    let number = |d: TDim| usize::try_from(d.eval(&typical).to_i64().unwrap_or(0)).unwrap_or(0);
    let bytes = |fact: &TypedFact| match &fact.exotic_fact {
        Some(packed) => number(fact.shape.volume() * packed.mem_size()),
        None => number(fact.shape.volume()) * fact.datum_type.size_of(),
    };
    let of_node = |n: &TypedNode| match n.op_is::<Const>() {
        true => 0,
        false => n.outputs.iter().map(|o| bytes(&o.fact)).sum(),
    };
    model.nodes().iter().map(of_node).collect()
}

/// Most bytes that are alive at once.
fn peak(model: &TypedModel, order: &[usize], sizes: &[usize]) -> usize {
    let frees = build_flush_list(model, order, &model.outputs, |n| !n.op_is::<Const>());
    let (mut alive, mut peak) = (0usize, 0usize);
    for (step, &n) in order.iter().enumerate() {
        alive += sizes[n];
        let freed: usize = frees[step].iter().map(|&n| sizes[n]).sum();
        // A view of a value that nobody reads any more takes its place.
        let at_once = if is_view(model.node(n)) { alive.saturating_sub(freed) } else { alive };
        peak = peak.max(at_once);
        alive = alive.saturating_sub(freed);
    }
    peak
}
