use edge_tune::backbone::{Prepare, prepare};
use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto};

use super::onnx::{INT64, input};
use crate::support::{draws, engine, fixture};

/// The tiny BERT as protobuf.
pub fn bert() -> ModelProto {
    let bytes = std::fs::read(fixture("exports/bert-dynamo/model.onnx")).unwrap();
    ModelProto::decode(&*bytes).unwrap()
}

/// Changed exports are refused or prepared, and never panic.
#[test]
fn mutated_exports_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutated.onnx");
    let original = bert();
    let bytes = original.encode_to_vec();
    let mut below = draws(88_172_645_463_325_252);
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..rounds() {
        let mutated = if round % 4 == 0 {
            // The last bytes are the graph's inputs, outputs and names; weights come before.
            let mut bytes = bytes.clone();
            for _ in 0..=below(3) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            bytes
        } else {
            let mut model = original.clone();
            let g = model.graph.as_mut().unwrap();
            for _ in 0..=below(2) {
                mutate(g, &mut below);
            }
            model.encode_to_vec()
        };
        std::fs::write(&path, mutated).unwrap();
        let options = Prepare::new(&path, dir.path().join("out"));
        let code = match prepare(&options, &*engine(), |_| ()) {
            Ok(_) => "prepared",
            Err(e) => e.code(),
        };
        *codes.entry(code).or_insert(0) += 1;
        let _ = std::fs::remove_dir_all(dir.path().join("out"));
    }
    println!("{codes:?}");
    assert!(codes.len() > 3, "the changes are all of one kind: {codes:?}");
}

/// `EDGE_TUNE_MUTATIONS` asks for a longer run.
fn rounds() -> usize {
    std::env::var("EDGE_TUNE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(80)
}

fn mutate(g: &mut GraphProto, below: &mut impl FnMut(usize) -> usize) {
    const OPS: &[&str] = &[
        "Add",
        "Mul",
        "Reshape",
        "Transpose",
        "Softmax",
        "MatMul",
        "Gather",
        "Concat",
        "Slice",
        "Identity",
        "ReduceMean",
        "Expand",
        "Unsqueeze",
        "Squeeze",
        "Shape",
        "Cast",
        "Where",
        "Gemm",
        "Erf",
        "Pow",
        "Conv",
        "Split",
        "Range",
        "Tile",
        "Pad",
    ];
    let names: Vec<String> = g.node.iter().flat_map(|n| n.output.clone()).collect();
    let n = below(g.node.len());
    match below(9) {
        0 => drop(g.node.remove(n)),
        1 => g.node[n].op_type = OPS[below(OPS.len())].into(),
        2 => {
            let inputs = &mut g.node[n].input;
            let i = below(inputs.len());
            if let Some(slot) = inputs.get_mut(i) {
                slot.clone_from(&names[below(names.len())]);
            }
        }
        3 => drop(g.node[n].input.pop()),
        4 => {
            for a in &mut g.node[n].attribute {
                a.i = [-1, 0, 1, 7, i64::MAX, i64::MIN][below(6)];
                a.ints.iter_mut().for_each(|v| *v = [-1, 0, 1, 2, 1 << 40][below(5)]);
            }
        }
        5 => g.node[n].attribute.clear(),
        6 => {
            let t = below(g.initializer.len());
            let t = &mut g.initializer[t];
            // Small integer tensors are shapes, axes and indices.
            if t.data_type == INT64 && t.raw_data.len() >= 8 {
                let v = [-2i64, -1, 0, 1, 3, 1 << 40][below(6)];
                t.raw_data[..8].copy_from_slice(&v.to_le_bytes());
            } else {
                t.dims.reverse();
            }
        }
        7 => {
            let t = below(g.initializer.len());
            let t = &mut g.initializer[t];
            let i = below(t.dims.len());
            if let Some(d) = t.dims.get_mut(i) {
                *d = [0, 1, 2, -1][below(4)];
                let size: i64 = t.dims.iter().map(|d| d.max(&0)).product();
                t.raw_data.resize(size as usize * if t.data_type == INT64 { 8 } else { 4 }, 0);
            }
        }
        _ => {
            let i = below(g.input.len());
            g.input[i] = input(&g.input[i].name.clone(), &[2, 7]);
        }
    }
}
