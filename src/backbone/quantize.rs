use std::collections::HashMap;

use super::int4::blocks;
use super::manifest::Weights;
use crate::graph::frozen::BLOCK;
use crate::graph::{Attrs, Graph, GraphError, Node, Value, ValueId};
use crate::tensor::{DType, Tensor};

/// Tables with fewer rows stay f32: they are small, and every input reads most of them.
const MIN_ROWS: usize = 256;

/// The element type number of f32.
const FLOAT: i64 = 1;

/// Stores the weights of linear layers and large embedding tables, and with `convs` those of
/// convolutions, as symmetric int8 behind `DequantizeLinear`: one scale per output channel of a layer,
/// one per row of a table. With [`Weights::Int4`] linear layers are int4, with one scale per column
/// and block of [`BLOCK`] rows. Returns how many.
pub(super) fn quantize(
    graph: &mut Graph,
    weights: Weights,
    convs: bool,
) -> Result<usize, GraphError> {
    let mut done: HashMap<ValueId, ValueId> = HashMap::new();
    let mut added = Vec::new();
    for n in 0..graph.nodes.len() {
        let node = &graph.nodes[n];
        let (input, axis) = match node.op.as_str() {
            "MatMul" => (1, 1),
            "Conv" if convs => (1, 0),
            "Gather" if node.attrs.int("axis").unwrap_or(0) == 0 => (0, 0),
            _ => continue,
        };
        let weight = node.input(input)?;
        let Some(t) = graph.constant(weight).filter(|t| t.dtype() == DType::F32) else { continue };
        let (rows, cols) = match *t.shape() {
            [rows, cols] if node.op != "Conv" => (rows, cols),
            // Everything that makes one output channel lies together.
            [channels, ..] if node.op == "Conv" => (channels, t.len() / channels.max(1)),
            _ => continue,
        };
        if node.op == "Gather" && rows < MIN_ROWS {
            continue;
        }
        let float = match done.get(&weight) {
            Some(&v) => v,
            None => {
                let narrow = weights == Weights::Int4 && node.op == "MatMul";
                let t = t.clone();
                let blocks = if narrow { blocks(t.as_slice()?, cols) } else { None };
                let float = match blocks {
                    Some((q, scale)) => {
                        let q = Tensor::from_bytes(DType::I4, t.shape(), &q)?;
                        let scale = Tensor::new(&[rows.div_ceil(BLOCK), cols], &scale)?;
                        in_blocks(graph, weight, q, scale, &mut added)
                    }
                    None => {
                        let (q, scale) = symmetric(t.as_slice()?, cols, axis);
                        let q = Tensor::new(t.shape(), &q)?;
                        in_channels(graph, weight, q, Tensor::vector(&scale), axis, &mut added)
                    }
                };
                done.insert(weight, float);
                float
            }
        };
        graph.nodes[n].inputs[input] = Some(float);
    }
    graph.nodes.extend(added);
    graph.infer_all()?;
    Ok(done.len())
}

/// Floats from `q` with a scale for each index of `axis`, in place of `weight`.
fn in_channels(
    graph: &mut Graph,
    weight: ValueId,
    q: Tensor,
    scale: Tensor,
    axis: usize,
    added: &mut Vec<Node>,
) -> ValueId {
    let name = graph.value(weight).name.clone();
    let q = graph.add_constant(&format!("{name}.int8"), q);
    let scale = graph.add_constant(&format!("{name}.scale"), scale);
    let attrs = Attrs::none().with("axis", axis as i64);
    dequantize(graph, weight, [q, scale], attrs, added)
}

/// Floats from `q` with a scale, f16, for each column of a block of rows, in place of `weight`.
fn in_blocks(
    graph: &mut Graph,
    weight: ValueId,
    q: Tensor,
    scale: Tensor,
    added: &mut Vec<Node>,
) -> ValueId {
    let name = graph.value(weight).name.clone();
    let q = graph.add_constant(&format!("{name}.int4"), q);
    let half = graph.add_constant(&format!("{name}.scale"), scale);
    let value = Value {
        name: graph.fresh_name(&format!("{name}.scale.float")),
        dtype: DType::F32,
        constant: None,
        ..graph.value(half).clone()
    };
    let scale = graph.add_value(value);
    added.push(Node {
        name: format!("{name}.scale.cast"),
        op: "Cast".into(),
        inputs: vec![Some(half)],
        outputs: vec![Some(scale)],
        attrs: Attrs::none().with("to", FLOAT),
    });
    let attrs = Attrs::none().with("axis", 0i64).with("block_size", BLOCK as i64);
    dequantize(graph, weight, [q, scale], attrs, added)
}

fn dequantize(
    graph: &mut Graph,
    weight: ValueId,
    inputs: [ValueId; 2],
    attrs: Attrs,
    added: &mut Vec<Node>,
) -> ValueId {
    let name = graph.value(weight).name.clone();
    let value = Value {
        name: graph.fresh_name(&format!("{name}.float")),
        constant: None,
        ..graph.value(weight).clone()
    };
    let float = graph.add_value(value);
    added.push(Node {
        name: format!("{name}.dequantize"),
        op: "DequantizeLinear".into(),
        inputs: inputs.map(Some).to_vec(),
        outputs: vec![Some(float)],
        attrs,
    });
    float
}

/// Rounds `weights` to int8 with one scale per column (`axis` 1) or per row (`axis` 0).
fn symmetric(weights: &[f32], cols: usize, axis: usize) -> (Vec<i8>, Vec<f32>) {
    let channel = |i: usize| if axis == 1 { i % cols } else { i / cols };
    let channels = if axis == 1 { cols } else { weights.len() / cols.max(1) };
    let mut peak = vec![0f32; channels];
    for (i, w) in weights.iter().enumerate() {
        let p = &mut peak[channel(i)];
        *p = p.max(w.abs());
    }
    // A channel of zeros still needs a scale that can be divided by.
    let scale: Vec<f32> = peak.iter().map(|&p| if p > 0.0 { p / 127.0 } else { 1.0 }).collect();
    let q =
        weights.iter().enumerate().map(|(i, w)| (w / scale[channel(i)]).round() as i8).collect();
    (q, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_at_most_half_a_step() {
        let w: Vec<f32> = (0..60).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
        for axis in [0, 1] {
            let (q, s) = symmetric(&w, 12, axis);
            for (i, v) in w.iter().enumerate() {
                let s = s[if axis == 1 { i % 12 } else { i / 12 }];
                assert!((f32::from(q[i]) * s - v).abs() <= s * 0.5001);
            }
        }
        let (q, s) = symmetric(&[0.0; 4], 2, 1);
        assert_eq!((q, s), (vec![0; 4], vec![1.0; 2]));
    }
}
