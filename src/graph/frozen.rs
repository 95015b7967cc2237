//! Lifts frozen weights out of the graph: one node for a linear layer or a table whose bytes stay
//! in the mapped file.

use super::dequantize::block_scale;
use super::{Attrs, Graph, GraphError, Index, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// Rows of an int4 weight that share a scale.
pub const BLOCK: usize = 32;

/// Turns `MatMul` by a constant matrix into `FrozenLinear` and `Gather` from a constant table into
/// `FrozenGather`, with int8 and int4 weights read through their `DequantizeLinear`.
///
/// # Errors
/// [`GraphError`] if a `DequantizeLinear` does not have the form that `prepare` writes.
pub fn lift(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    for n in 0..graph.nodes.len() {
        let node = graph.nodes[n].clone();
        let lifted = match node.op.as_str() {
            "MatMul" => weight(graph, &index, node.input(1)?, 1)?.map(|(w, scale)| {
                let x = node.inputs.first().copied().flatten();
                ("FrozenLinear", vec![x, Some(w), scale])
            }),
            "Gather" if node.attrs.int("axis").unwrap_or(0) == 0 => {
                let ids = node.input(1)?;
                match graph.constant(ids) {
                    Some(_) => None,
                    None => weight(graph, &index, node.input(0)?, 0)?
                        .map(|(w, scale)| ("FrozenGather", vec![Some(w), scale, Some(ids)])),
                }
            }
            _ => None,
        };
        if let Some((op, inputs)) = lifted {
            let attrs = match op {
                "FrozenLinear" => Attrs::none().with("backward", 0i64),
                _ => Attrs::none(),
            };
            graph.nodes[n] = Node { op: op.into(), inputs, attrs, ..node };
        }
    }
    graph.prune();
    graph.infer_all()
}

/// The constant matrix behind `v`, with its scales along `axis` if it is int8.
fn weight(
    graph: &Graph,
    index: &Index,
    v: ValueId,
    axis: i64,
) -> Result<Option<(ValueId, Option<ValueId>)>, GraphError> {
    let matrix = |v: ValueId, d: DType| {
        graph.constant(v).is_some_and(|t| t.shape().len() == 2 && t.dtype() == d)
    };
    if matrix(v, DType::F32) {
        return Ok(Some((v, None)));
    }
    let Some(node) = index.producer(v).map(|p| &graph.nodes[p]) else { return Ok(None) };
    if node.op != "DequantizeLinear" {
        return Ok(None);
    }
    if axis == 1 && matrix(node.input(0)?, DType::I4) {
        return blocks(graph, node).map(Some);
    }
    if !matrix(node.input(0)?, DType::I8) {
        return Ok(None);
    }
    let (w, scale) = (node.input(0)?, node.input(1)?);
    let channels = graph.shape(w)[axis as usize];
    let rank = 2;
    let fits = node.attrs.int("axis").unwrap_or(1).rem_euclid(rank) == axis
        && graph.constant(scale).is_some_and(|s| s.dtype() == DType::F32)
        && graph.shape(scale) == [channels]
        && node.inputs.get(2).copied().flatten().is_none();
    if !fits {
        return Err(node.unsupported(
            "other than symmetric int8 weights with one f32 scale per output channel",
        ));
    }
    Ok(Some((w, Some(scale))))
}

/// The int4 matrix that `node` makes floats of, with a scale for each block of rows.
fn blocks(graph: &Graph, node: &Node) -> Result<(ValueId, Option<ValueId>), GraphError> {
    let (w, scale) = (node.input(0)?, block_scale(graph, node.input(1)?));
    let fits = |w: &Tensor, scale: &Tensor| {
        let &[k, n] = w.shape() else { return false };
        scale.dtype() == DType::F16
            && scale.shape() == [k.div_ceil(BLOCK), n]
            && n % 2 == 0
            && node.attrs.int("block_size") == Some(BLOCK as i64)
            && node.attrs.int("axis") == Some(0)
            && node.inputs.get(2).copied().flatten().is_none()
    };
    let constants = graph.constant(w).zip(scale.and_then(|s| graph.constant(s)));
    if constants.is_some_and(|(w, scale)| fits(w, scale)) {
        return Ok((w, scale));
    }
    Err(node.unsupported(
        "other than symmetric int4 weights with one f16 scale per column and block of 32 rows",
    ))
}
