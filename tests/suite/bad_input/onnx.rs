use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use edge_tune::backbone::{Prepare, prepare};
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

use super::check;
use crate::support::{engine, fixture};

const FLOAT: i32 = 1;
pub const INT64: i32 = 7;

pub fn input(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(DimValue::DimValue(d)), ..Default::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: FLOAT, shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

/// A vector of whole numbers.
pub fn integers(name: &str, v: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![v.len() as i64],
        data_type: INT64,
        int64_data: v.to_vec(),
        ..Default::default()
    }
}

pub fn floats(name: &str, dims: &[i64], v: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: v.to_vec(),
        ..Default::default()
    }
}

pub fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("make_{output}"),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

/// `y = relu(x W)`, edited.
pub fn mlp(edit: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> Vec<u8> {
    let mut graph = GraphProto {
        name: "mlp".into(),
        input: vec![input("x", &[2, 2])],
        initializer: vec![floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
        node: vec![node("MatMul", &["x", "w"], "h"), node("Relu", &["h"], "y")],
        output: vec![ValueInfoProto { name: "y".into(), ..Default::default() }],
        ..Default::default()
    };
    let mut model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..Default::default()
    };
    edit(&mut model, &mut graph);
    model.graph = Some(graph);
    model.encode_to_vec()
}

fn weight(edit: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    mlp(|_, g| edit(&mut g.initializer[0]))
}

/// A field of a protobuf message that holds `bytes`.
fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for mut v in [number << 3 | 2, bytes.len() as u64] {
        while v > 127 {
            out.push(v as u8 | 128);
            v >>= 7;
        }
        out.push(v as u8);
    }
    out.extend(bytes);
    out
}

/// Subgraphs inside subgraphs: graph, node, attribute, graph and so on.
pub fn nested(levels: usize) -> Vec<u8> {
    let mut graph = Vec::new();
    for _ in 0..levels {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    field(7, &graph)
}

/// Runs `work` on a thread of its own; a case that hangs fails.
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(Duration::from_secs(100)).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// Gives `path` to `prepare` and returns the code and message of its refusal. Nothing may be left
/// behind.
pub fn refusal(what: &str, path: &Path) -> (&'static str, String) {
    let home = tempfile::tempdir().unwrap();
    let options = Prepare::new(path, home.path().join("out"));
    let error = in_time(what, move || prepare(&options, &*engine(), |_| ()));
    let error = error.expect_err(what);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "{what} left files behind");
    (error.code(), error.to_string())
}

pub type Case = (&'static str, Vec<u8>, &'static str, &'static [&'static str]);

pub fn run(dir: &Path, cases: Vec<Case>) {
    for (what, bytes, want, parts) in cases {
        let path = dir.join("bad.onnx");
        std::fs::write(&path, bytes).unwrap();
        let (code, message) = refusal(what, &path);
        check(what, code, &message, want, parts);
        if !want.starts_with("onnx.external") {
            check(what, code, &message, want, &["bad.onnx"]);
        }
    }
}

#[test]
fn files_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let bert = std::fs::read(fixture("exports/bert-dynamo/model.onnx")).unwrap();
    let cut = |at: usize| bert[..bert.len() * at / 100].to_vec();
    // Groups that open and never close, of a field that ONNX does not have.
    let groups = [0xc3u8, 0x3e].repeat(500_000);
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("empty", vec![], "graph.onnx", &["operator set"]),
        ("text", b"# not a model\n".to_vec(), "graph.onnx", &[]),
        ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "graph.onnx", &[]),
        ("zeros", vec![0; 4096], "graph.onnx", &["tag"]),
        ("cut at 10 %", cut(10), "graph.onnx", &[]),
        ("cut at 50 %", cut(50), "graph.onnx", &[]),
        ("cut at 99 %", cut(99), "graph.onnx", &[]),
        ("nested subgraphs", nested(20_000), "graph.onnx", &["recursion"]),
        ("unknown groups", groups, "graph.onnx", &["recursion"]),
        ("a length beyond the file", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f], "graph.onnx", &[]),
    ];
    run(dir.path(), cases);
    for (path, want) in [(dir.path().to_owned(), "graph.onnx"), (dir.path().join("no"), "onnx.io")]
    {
        let (code, message) = refusal("a path", &path);
        check("a path", code, &message, want, &[&path.display().to_string()]);
    }
}

#[test]
fn graphs_that_break_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let huge: i64 = 1 << 40;
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        // What the cases start from is well formed: it only is no backbone.
        ("no attention", mlp(|_, _| ()), "backbone.structure", &["attention", "0 of 0 softmax"]),
        ("no nodes", mlp(|_, g| { g.node.clear(); g.output.clear() }), "backbone.structure", &["attention"]),
        ("a cycle", mlp(|_, g| g.node[0].input[0] = "y".into()), "graph.cycle", &["make_"]),
        ("a node that reads itself", mlp(|_, g| g.node[1].input[0] = "y".into()), "graph.cycle", &["make_y"]),
        ("a value that nothing makes", mlp(|_, g| g.node[0].input[1] = "v".into()), "graph.undefined", &["`v`"]),
        ("an output that nothing makes", mlp(|_, g| g.output[0].name = "z".into()), "graph.undefined", &["`z`"]),
        ("two makers", mlp(|_, g| g.node[1].output[0] = "h".into()), "graph.duplicate", &["`h`"]),
        ("an input made again", mlp(|_, g| g.node[0].output[0] = "x".into()), "graph.duplicate", &["`x`"]),
        ("an input twice", mlp(|_, g| g.input.push(input("x", &[2, 2]))), "graph.duplicate", &["`x`"]),
        ("a weight twice", mlp(|_, g| g.initializer.push(floats("w", &[1], &[1.0]))), "graph.duplicate", &["`w`"]),
        ("an unknown operator", mlp(|_, g| g.node[1].op_type = "Frobnicate".into()), "graph.unsupported", &["`make_y`", "Frobnicate"]),
        ("an operator of another domain", mlp(|_, g| g.node[1].domain = "evil".into()), "graph.unsupported", &["`make_y`", "`evil`"]),
        ("shapes that do not fit", mlp(|_, g| g.input[0] = input("x", &[2, 3])), "graph.invalid", &["`make_h`", "MatMul"]),
        ("too few inputs", mlp(|_, g| g.node[0].input.truncate(1)), "graph.invalid", &["`make_h`"]),
        ("an input of no type", mlp(|_, g| g.input[0].r#type = None), "graph.onnx", &["`x`"]),
        ("an input with a negative size", mlp(|_, g| g.input[0] = input("x", &[-2, 2])), "graph.onnx", &["`x`"]),
        ("a huge input", mlp(|_, g| g.input[0] = input("x", &[huge, 2])), "graph.onnx", &["`x`", "too large"]),
        // Such an input would be filled to compare the prepared model with the export.
        ("a huge input that is not read", mlp(|_, g| g.input.push(input("x2", &[huge, huge]))), "graph.onnx", &["`x2`", "too large"]),
        ("too many dimensions", mlp(|_, g| g.input[0] = input("x", &[1; 17])), "graph.onnx", &["`x`"]),
        ("no operator set", mlp(|m, _| m.opset_import.clear()), "graph.onnx", &["operator set"]),
        ("an old operator set", mlp(|m, _| m.opset_import[0].version = 7), "graph.onnx", &["operator set 7"]),
        ("a later operator set", mlp(|m, _| m.opset_import[0].version = i64::MAX), "graph.onnx", &["operator set"]),
        ("too many nodes", mlp(|_, g| g.node = vec![NodeProto::default(); 100_001]), "graph.onnx", &["100000 nodes"]),
        ("a subgraph", mlp(|_, g| { g.node[1].attribute.push(AttributeProto { name: "then_branch".into(), r#type: 5, g: Some(GraphProto::default()), ..Default::default() }) }), "graph.unsupported", &["`make_y`", "`then_branch`"]),
    ];
    run(dir.path(), cases);
}

#[test]
fn tensors_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    let shape = |g: &mut GraphProto, n: i64| {
        g.initializer.push(integers("n", &[n, n]));
        g.node.push(node("ConstantOfShape", &["n"], "c"));
    };
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("raw data too short", weight(|w| { w.float_data.clear(); w.raw_data = vec![0; 15] }), "graph.onnx", &["`w`", "16 bytes", "15"]),
        ("raw data too long", weight(|w| { w.float_data.clear(); w.raw_data = vec![0; 17] }), "graph.onnx", &["`w`", "17"]),
        ("no data", weight(|w| w.float_data.clear()), "graph.onnx", &["`w`", "16 bytes"]),
        ("2^40 elements without data", weight(|w| { w.float_data.clear(); w.dims = vec![1 << 40] }), "graph.onnx", &["`w`", "1099511627776"]),
        ("sizes that overflow", weight(|w| w.dims = vec![1 << 62, 1 << 62]), "graph.onnx", &["`w`", "overflow"]),
        ("sizes that overflow to nothing", weight(|w| { w.float_data.clear(); w.dims = vec![1 << 32, 1 << 32] }), "graph.onnx", &["`w`"]),
        ("a negative size", weight(|w| w.dims = vec![-4]), "graph.onnx", &["`w`", "negative"]),
        ("17 dimensions", weight(|w| w.dims = vec![1; 17]), "graph.onnx", &["`w`", "17"]),
        ("strings", weight(|w| w.data_type = 8), "graph.onnx", &["`w`", "type 8"]),
        ("a type that is not there", weight(|w| w.data_type = -1), "graph.onnx", &["`w`", "type -1"]),
        ("a small file that asks for 2^80 elements", mlp(|_, g| shape(g, 1 << 40)), "graph.invalid", &["`make_c`", "too large"]),
        ("a small file that asks for 2^40 elements", mlp(|_, g| shape(g, 1 << 20)), "graph.invalid", &["`make_c`", "too large"]),
        ("a shape with a negative size", mlp(|_, g| shape(g, -1)), "graph.invalid", &["`make_c`", "negative"]),
    ];
    run(dir.path(), cases);
}
