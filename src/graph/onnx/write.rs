use std::collections::HashMap;

use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use tract_onnx::pb::type_proto::{Tensor as TensorType, Value as TypeValue};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
};

use super::{IR, IR_OF_INT4, OPSET, OPSET_OF_INT4, OPSET_OF_RMS, tensors};
use crate::graph::{Attr, DOMAIN, Dim, Graph, Value, ValueId};
use crate::tensor::Tensor;

/// Weights from this size on lie outside the model file, each on a page of its own.
const EXTERNAL_FROM: usize = 4096;
/// Alignment of external weights: what ONNX asks for, so that any runtime can map them.
const PAGE: usize = 4096;

/// The two files of a written model.
pub struct FileModel {
    /// `model.onnx`.
    pub model: Vec<u8>,
    /// External weights: where each lies, in the order of the file.
    pub weights: Vec<(usize, Tensor)>,
    /// Length of the weights file.
    pub weights_len: usize,
}

/// The graph as a standard ONNX model. Large constants go to the file `weights_name` beside it;
/// with `None` everything lies in the model file.
pub fn write(graph: &Graph, weights_name: Option<&str>) -> FileModel {
    let mut weights = Vec::new();
    let mut end = 0usize;
    let mut initializer = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let read = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied());
    for v in read.chain(graph.outputs.iter().copied()).filter(|v| seen.insert(*v)) {
        let value = graph.value(v);
        let Some(t) = &value.constant else { continue };
        match weights_name {
            Some(file) if t.bytes().len() >= EXTERNAL_FROM => {
                let offset = end.next_multiple_of(PAGE);
                end = offset + t.bytes().len();
                initializer.push(external(&value.name, t, file, offset));
                weights.push((offset, t.clone()));
            }
            _ => initializer.push(tensors::inline(&value.name, t)),
        }
    }
    let dims = dim_names(graph);
    let node = graph.nodes.iter().map(|n| NodeProto {
        name: n.name.clone(),
        op_type: n.op.clone(),
        domain: n.domain().to_owned(),
        input: n.inputs.iter().map(|i| name(graph, *i)).collect(),
        output: n.outputs.iter().map(|o| name(graph, *o)).collect(),
        attribute: n.attrs.0.iter().map(|(k, v)| attribute(k, v)).collect(),
        ..NodeProto::default()
    });
    let own = graph.nodes.iter().any(|n| n.domain() == DOMAIN);
    let newer = graph.nodes.iter().any(|n| n.op == "RMSNormalization");
    let packed = initializer.iter().any(|t| t.data_type == tensors::INT4);
    let version = match (newer, packed) {
        (true, _) => OPSET_OF_RMS,
        (false, true) => OPSET_OF_INT4,
        (false, false) => OPSET,
    };
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
    if own {
        opset_import.push(OperatorSetIdProto { domain: DOMAIN.into(), version: 1 });
    }
    let model = ModelProto {
        ir_version: if packed { IR_OF_INT4 } else { IR },
        producer_name: "edge-tune".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import,
        graph: Some(GraphProto {
            name: "backbone".into(),
            node: node.collect(),
            initializer,
            input: graph.inputs.iter().map(|&i| info(graph.value(i), &dims)).collect(),
            output: graph.outputs.iter().map(|&o| info(graph.value(o), &dims)).collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    FileModel { model: model.encode_to_vec(), weights, weights_len: end }
}

fn name(graph: &Graph, v: Option<ValueId>) -> String {
    v.map(|v| graph.value(v).name.clone()).unwrap_or_default()
}

fn external(name: &str, t: &Tensor, file: &str, offset: usize) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    TensorProto {
        raw_data: vec![],
        data_location: Some(1),
        external_data: vec![
            entry("location", file.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", t.bytes().len().to_string()),
        ],
        dims: t.shape().iter().map(|&d| d as i64).collect(),
        name: name.to_owned(),
        data_type: tensors::number(t.dtype()),
        ..TensorProto::default()
    }
}

/// Names for the dimensions that vary.
pub(crate) fn dim_names(graph: &Graph) -> HashMap<Dim, String> {
    let mut names =
        HashMap::from([(Dim::BATCH, "batch".to_owned()), (Dim::SEQUENCE, "sequence".to_owned())]);
    for &v in graph.inputs.iter().chain(&graph.outputs) {
        for d in graph.shape(v).iter().filter(|d| d.constant().is_none()) {
            let n = names.len();
            names.entry(*d).or_insert_with(|| format!("dim{n}"));
        }
    }
    names
}

fn info(value: &Value, names: &HashMap<Dim, String>) -> ValueInfoProto {
    let dim = |d: &Dim| Dimension {
        value: Some(match d.constant() {
            Some(n) => DimValue::DimValue(n as i64),
            None => DimValue::DimParam(names.get(d).cloned().unwrap_or_default()),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: value.shape.iter().map(dim).collect() };
    let tensor = TensorType { elem_type: tensors::number(value.dtype), shape: Some(shape) };
    let r#type = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: value.name.clone(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// An attribute as ONNX stores it.
pub(crate) fn attribute(name: &str, value: &Attr) -> AttributeProto {
    let mut a = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    let kind = match value {
        Attr::Int(v) => {
            a.i = *v;
            AttributeType::Int
        }
        Attr::Ints(v) => {
            a.ints = v.clone();
            AttributeType::Ints
        }
        Attr::Float(v) => {
            a.f = *v;
            AttributeType::Float
        }
        Attr::Floats(v) => {
            a.floats = v.clone();
            AttributeType::Floats
        }
        Attr::Str(v) => {
            a.s = v.clone().into_bytes();
            AttributeType::String
        }
        Attr::Tensor(t) => {
            a.t = Some(tensors::inline("", t));
            AttributeType::Tensor
        }
    };
    a.r#type = kind as i32;
    a
}
