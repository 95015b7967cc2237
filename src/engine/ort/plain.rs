//! Forward programs in standard ONNX alone, for execution providers: they take no operator of ours.

use crate::graph::frozen::BLOCK;
use crate::graph::{Attrs, DOMAIN, Graph, GraphError, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// The element type number of f32.
const FLOAT: i64 = 1;

/// `graph` with standard operators in place of ours; none if one of them computes gradients, for which
/// there is no standard operator.
pub(super) fn plain(graph: &Graph) -> Result<Option<Graph>, GraphError> {
    let mut plain = graph.clone();
    for node in std::mem::take(&mut plain.nodes) {
        if node.domain() != DOMAIN {
            plain.nodes.push(node);
            continue;
        }
        match node.op.as_str() {
            "FrozenLinear" if node.attrs.int("backward").unwrap_or(0) == 0 => {
                let w = weights(&mut plain, &node)?;
                plain.op("MatMul", &[node.input(0)?, w], Attrs::none())?;
            }
            "FrozenGather" => rows(&mut plain, &node)?,
            "FusedAttention" => attention(&mut plain, &node)?,
            _ => return Ok(None),
        }
        // What read the value of our operator reads that of the last one in its place.
        if let Some(last) = plain.nodes.last_mut() {
            last.outputs = node.outputs;
        }
    }
    plain.prune();
    Ok(Some(plain))
}

/// The weights of a product as floats.
fn weights(graph: &mut Graph, node: &Node) -> Result<ValueId, GraphError> {
    let w = node.input(1)?;
    if graph.value(w).dtype == DType::F32 {
        return Ok(w);
    }
    let scale = node.input(2)?;
    if graph.value(w).dtype != DType::I4 {
        return graph.op("DequantizeLinear", &[w, scale], Attrs::none().with("axis", 1i64));
    }
    let scale = graph.op("Cast", &[scale], Attrs::none().with("to", FLOAT))?;
    let blocks = Attrs::none().with("axis", 0i64).with("block_size", BLOCK as i64);
    graph.op("DequantizeLinear", &[w, scale], blocks)
}

/// Rows of a table as floats. They are taken as they are stored: a `DequantizeLinear` in front of the
/// `Gather` would make floats of the whole table in every run.
fn rows(graph: &mut Graph, node: &Node) -> Result<(), GraphError> {
    let (table, ids) = (node.input(0)?, node.input(2)?);
    let rows = graph.op("Gather", &[table, ids], Attrs::none())?;
    if graph.value(table).dtype == DType::F32 {
        return Ok(());
    }
    let rows = graph.op("Cast", &[rows], Attrs::none().with("to", FLOAT))?;
    let scale = graph.op("Gather", &[node.input(1)?, ids], Attrs::none())?;
    let axis = graph.ints(&[graph.rank(ids) as i64]);
    let scale = graph.op("Unsqueeze", &[scale, axis], Attrs::none())?;
    graph.op("Mul", &[rows, scale], Attrs::none())?;
    Ok(())
}

/// softmax(q k^T scale + mask) v, with heads in the third dimension of q, k, v and of the result.
fn attention(graph: &mut Graph, node: &Node) -> Result<(), GraphError> {
    let order = |perm: [i64; 4]| Attrs::none().with("perm", perm.as_slice());
    let q = graph.op("Transpose", &[node.input(0)?], order([0, 2, 1, 3]))?;
    let k = graph.op("Transpose", &[node.input(1)?], order([0, 2, 3, 1]))?;
    let v = graph.op("Transpose", &[node.input(2)?], order([0, 2, 1, 3]))?;
    let scale = Tensor::scalar(node.attrs.float("scale").unwrap_or(1.0));
    let scale = graph.add_constant("scale", scale);
    let q = graph.op("Mul", &[q, scale], Attrs::none())?;
    let mut scores = graph.op("MatMul", &[q, k], Attrs::none())?;
    if let Some(mask) = node.inputs.get(3).copied().flatten() {
        scores = graph.op("Add", &[scores, mask], Attrs::none())?;
    }
    let p = graph.op("Softmax", &[scores], Attrs::none().with("axis", -1i64))?;
    let y = graph.op("MatMul", &[p, v], Attrs::none())?;
    graph.op("Transpose", &[y], order([0, 2, 1, 3]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Dim;

    fn product(backward: i64) -> Graph {
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, &[Dim::BATCH, 64.into()]).unwrap();
        let w = g.add_constant("w", Tensor::zeros(DType::I4, &[64, 64]));
        let scale = g.add_constant("scale", Tensor::zeros(DType::F16, &[2, 64]));
        let attrs = Attrs::none().with("backward", backward);
        let y = g.op("FrozenLinear", &[x, w, scale], attrs).unwrap();
        g.outputs = vec![g.op("Relu", &[y], Attrs::none()).unwrap()];
        g
    }

    #[test]
    fn no_operator_of_ours_remains() {
        let plain = plain(&product(0)).unwrap().unwrap();
        let ops: Vec<&str> = plain.nodes.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["Cast", "DequantizeLinear", "MatMul", "Relu"]);
        assert_eq!(plain.outputs.len(), 1);
    }

    #[test]
    fn rows_are_taken_before_they_are_scaled() {
        let mut g = Graph::new();
        let ids = g.add_input("ids", DType::I64, &[Dim::BATCH, Dim::SEQUENCE]).unwrap();
        let table = g.add_constant("table", Tensor::zeros(DType::I8, &[10, 4]));
        let scale = g.add_constant("scale", Tensor::zeros(DType::F32, &[10]));
        g.outputs = vec![g.op("FrozenGather", &[table, scale, ids], Attrs::none()).unwrap()];
        let plain = plain(&g).unwrap().unwrap();
        let ops: Vec<&str> = plain.nodes.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["Gather", "Cast", "Gather", "Unsqueeze", "Mul"]);
    }

    #[test]
    fn gradients_are_left_to_our_operators() {
        assert!(plain(&product(1)).unwrap().is_none());
    }
}
