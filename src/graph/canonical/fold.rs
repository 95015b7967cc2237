use std::collections::HashSet;

use crate::graph::{Graph, GraphError};
use crate::tensor::{DType, Tensor};

/// Turns every node whose result is known and the same at all probe points into a constant, and
/// removes `Identity` and `Dropout`.
pub(super) fn fold(graph: &mut Graph) -> Result<(), GraphError> {
    let none = HashSet::new();
    let mut n = 0;
    while n < graph.nodes.len() {
        let node = graph.nodes[n].clone();
        match node.op.as_str() {
            "Identity" | "Dropout" => {
                let (from, to) = (node.output()?, node.input(0)?);
                // A graph output keeps its name.
                if !graph.outputs.contains(&from) {
                    graph.replace_uses(from, to, &none);
                }
            }
            "Transpose" => {
                if let Some(t) = graph.constant(node.input(0)?).and_then(transposed) {
                    let swaps = node.attrs.ints("perm").is_none_or(|p| p == [1, 0]);
                    if swaps {
                        let stem = graph.value(node.input(0)?).name.clone();
                        let id = graph.add_constant(&stem, t);
                        graph.replace_uses(node.output()?, id, &none);
                    }
                }
            }
            _ => {}
        }
        for &o in node.outputs.iter().flatten() {
            let v = graph.value(o);
            if let Some(known) = &v.known
                && known.iter().all(|k| *k == known[0])
            {
                let (name, value) = (v.name.clone(), known[0].clone());
                let id = graph.add_constant(&format!("{name}.folded"), value);
                graph.replace_uses(o, id, &none);
            }
        }
        n += 1;
    }
    graph.prune();
    graph.infer_all()
}

/// A constant f32 matrix with rows and columns exchanged.
pub(super) fn transposed(t: &Tensor) -> Option<Tensor> {
    let &[rows, cols] = t.shape() else { return None };
    if t.dtype() != DType::F32 {
        return None;
    }
    let src = t.as_slice::<f32>().ok()?;
    let mut out = vec![0f32; src.len()];
    for (r, row) in src.chunks_exact(cols.max(1)).enumerate() {
        for (c, v) in row.iter().enumerate() {
            out[c * rows + r] = *v;
        }
    }
    Tensor::new(&[cols, rows], &out).ok()
}
