use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, ValueInfoProto, attribute_proto::AttributeType,
};

use super::tensors::ParseError;
use super::{
    ExternalData, MAX_MODEL_BYTES, MAX_NODES, MAX_RANK, MAX_VALUE_BYTES, OnnxError, lift,
    quantized, tensors,
};
use crate::graph::ir::{Node, Value, ValueId};
use crate::graph::{Attr, Attrs, Dim, Graph, GraphError};
use crate::tensor::byte_len;

/// Height and width of pictures where a model leaves them free: what most are trained on.
pub const PICTURE: usize = 224;

/// Reads a model file and its external data, lifts it to the present operator set and infers all
/// shapes. A free first dimension of an input is the batch; other free dimensions get probe sizes
/// by their names. Operators over quantized activations (`QLinearConv` and its like) become the
/// float operators they stand for.
///
/// # Errors
/// [`OnnxError`] naming the file, and the node or tensor where there is one.
pub fn read(path: &Path) -> Result<Graph, OnnxError> {
    read_file(path, PICTURE, ExternalData::in_folder(folder(path)))
}

/// Reads an export that is not trusted: as [`read`], with pictures of that height and width where
/// the model leaves them free, and without external data that has other names.
///
/// # Errors
/// As [`read`].
pub fn read_export(path: &Path, picture: usize) -> Result<Graph, OnnxError> {
    read_file(path, picture, ExternalData::in_folder(folder(path)).foreign())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read_file(path: &Path, picture: usize, external: ExternalData) -> Result<Graph, OnnxError> {
    let io = |source| OnnxError::Io { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() || meta.len() > MAX_MODEL_BYTES {
        let source = GraphError::Onnx(format!(
            "not a plain file of at most {MAX_MODEL_BYTES} bytes; export with external data"
        ));
        return Err(OnnxError::Graph { path: path.to_owned(), source });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    graph(&bytes, external, picture).map_err(|e| e.at(path))
}

/// As [`read`], from bytes; `path` is only named in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path, external: ExternalData) -> Result<Graph, OnnxError> {
    graph(bytes, external, PICTURE).map_err(|e| e.at(path))
}

fn graph(bytes: &[u8], mut external: ExternalData, picture: usize) -> Result<Graph, ParseError> {
    // prost refuses messages nested deeper than 100, so hostile nesting cannot exhaust the stack.
    let model = ModelProto::decode(bytes).map_err(|e| GraphError::Onnx(brief(&e)))?;
    let opset = model
        .opset_import
        .iter()
        .find(|o| o.domain.is_empty() || o.domain == "ai.onnx")
        .map(|o| o.version)
        .ok_or_else(|| GraphError::Onnx("it imports no ONNX operator set".into()))?;
    if !model.functions.is_empty() {
        return Err(GraphError::Onnx(
            "model-local functions: export with inlined functions".into(),
        )
        .into());
    }
    let proto = model.graph.ok_or_else(|| GraphError::Onnx("it holds no graph".into()))?;
    if proto.node.len() > MAX_NODES {
        return Err(GraphError::Onnx(format!("more than {MAX_NODES} nodes")).into());
    }
    if !proto.sparse_initializer.is_empty() {
        return Err(GraphError::Onnx("sparse initializers are not supported".into()).into());
    }
    let mut graph = Graph::new();
    let mut ids: HashMap<String, ValueId> = HashMap::new();
    for t in &proto.initializer {
        let tensor = tensors::parse(t, &mut external)?;
        if ids.contains_key(&t.name) {
            return Err(GraphError::Duplicate(t.name.clone()).into());
        }
        ids.insert(t.name.clone(), graph.add_constant(&t.name, tensor));
    }
    let mut probes = DimProbes::default();
    let fed: Vec<_> = proto
        .input
        .iter()
        .filter(|i| !proto.initializer.iter().any(|t| t.name == i.name))
        .collect();
    for input in &fed {
        let (dtype, mut shape) = input_type(input, &mut probes)?;
        // With other inputs beside it, this may be an attention mask.
        if fed.len() == 1 && dtype.is_float() && shape.len() == 4 {
            for d in shape[2..].iter_mut().filter(|d| d.constant().is_none()) {
                *d = Dim::fixed(picture);
            }
        }
        ids.insert(input.name.clone(), graph.add_input(&input.name, dtype, &shape)?);
    }
    nodes(&proto, &mut graph, &mut ids, &mut external)?;
    for output in &proto.output {
        let id = ids.get(&output.name).ok_or_else(|| GraphError::Undefined(output.name.clone()))?;
        graph.outputs.push(*id);
    }
    lift::lift(&mut graph, opset)?;
    quantized::to_float(&mut graph)?;
    graph.infer_all()?;
    Ok(graph)
}

/// What went wrong; where, too, unless that is a long way down.
fn brief(error: &prost::DecodeError) -> String {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((_, cause)) if text.len() > 300 => cause.to_owned(),
        _ => text,
    }
}

fn nodes(
    proto: &GraphProto,
    graph: &mut Graph,
    ids: &mut HashMap<String, ValueId>,
    external: &mut ExternalData,
) -> Result<(), ParseError> {
    // Outputs first: nothing says that a file lists its nodes in order.
    for node in &proto.node {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if ids.contains_key(name) {
                return Err(GraphError::Duplicate(name.clone()).into());
            }
            let id = graph.add_value(Value {
                name: name.clone(),
                dtype: crate::tensor::DType::F32,
                shape: vec![],
                constant: None,
                known: None,
            });
            ids.insert(name.clone(), id);
        }
    }
    for (i, node) in proto.node.iter().enumerate() {
        let resolve = |name: &String| match ids.get(name) {
            _ if name.is_empty() => Ok(None),
            Some(id) => Ok(Some(*id)),
            None => Err(GraphError::Undefined(name.clone())),
        };
        let mut read = Node {
            name: if node.name.is_empty() {
                format!("{}.{i}", node.op_type)
            } else {
                node.name.clone()
            },
            op: node.op_type.clone(),
            inputs: node.input.iter().map(resolve).collect::<Result<_, _>>()?,
            outputs: node.output.iter().map(resolve).collect::<Result<_, _>>()?,
            attrs: Attrs::none(),
        };
        // Gelu was a contributed operator before it became a standard one.
        let known_domain = matches!(node.domain.as_str(), "" | "ai.onnx")
            || (node.domain == "com.microsoft"
                && (node.op_type == "Gelu"
                    || quantized::CONTRIBUTED.contains(&node.op_type.as_str())));
        if !known_domain {
            return Err(read.unsupported(&format!("domain `{}`", node.domain)).into());
        }
        for a in &node.attribute {
            match attribute(a, external)? {
                Some(v) => _ = read.attrs.0.insert(a.name.clone(), v),
                None => return Err(read.unsupported(&format!("attribute `{}`", a.name)).into()),
            }
        }
        graph.nodes.push(read);
    }
    Ok(())
}

fn attribute(a: &AttributeProto, external: &mut ExternalData) -> Result<Option<Attr>, ParseError> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ok(Some(match AttributeType::try_from(a.r#type) {
        Ok(AttributeType::Int) => Attr::Int(a.i),
        Ok(AttributeType::Ints) => Attr::Ints(a.ints.clone()),
        Ok(AttributeType::Float) => Attr::Float(a.f),
        Ok(AttributeType::Floats) => Attr::Floats(a.floats.clone()),
        Ok(AttributeType::String) => Attr::Str(text(&a.s)),
        Ok(AttributeType::Tensor) => match &a.t {
            Some(t) => Attr::Tensor(tensors::parse(t, external)?),
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// Gives every free dimension of the inputs its probe sizes.
#[derive(Default)]
struct DimProbes(HashMap<String, Dim>);

impl DimProbes {
    fn dim(&mut self, position: usize, name: &str, input: &str) -> Dim {
        if position == 0 {
            return Dim::BATCH;
        }
        let key = if name.is_empty() { format!("{input}.{position}") } else { name.to_owned() };
        let n = self.0.len();
        // The first is the sequence; further ones stay distinct from it and from each other.
        *self.0.entry(key).or_insert(Dim(Dim::SEQUENCE.0.map(|d| d + 6 * n)))
    }
}

fn input_type(
    input: &ValueInfoProto,
    probes: &mut DimProbes,
) -> Result<(crate::tensor::DType, Vec<Dim>), GraphError> {
    let bad = |why: &str| GraphError::Onnx(format!("input `{}`: {why}", input.name));
    let Some(TypeValue::TensorType(t)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(bad("it is not a tensor"));
    };
    let dtype =
        tensors::dtype(t.elem_type).ok_or_else(|| bad("its element type is not supported"))?;
    let shape = t.shape.as_ref().ok_or_else(|| bad("it has no shape"))?;
    if shape.dim.len() > MAX_RANK {
        return Err(bad("it has too many dimensions"));
    }
    let dim = |(i, d): (usize, &tract_onnx::pb::tensor_shape_proto::Dimension)| match &d.value {
        Some(DimValue::DimValue(n)) if *n > 0 => {
            usize::try_from(*n).map(Dim::fixed).map_err(|_| bad("a dimension is too large"))
        }
        Some(DimValue::DimValue(_)) => Err(bad("a dimension is not positive")),
        Some(DimValue::DimParam(name)) => Ok(probes.dim(i, name, &input.name)),
        None => Ok(probes.dim(i, "", &input.name)),
    };
    let shape: Vec<Dim> = shape.dim.iter().enumerate().map(dim).collect::<Result<_, _>>()?;
    // Inputs that nothing reads are not looked at again before they are fed.
    let largest = shape.iter().map(|d| d.0.into_iter().max().unwrap_or(1)).collect::<Vec<_>>();
    match byte_len(dtype, &largest) {
        Some(bytes) if bytes <= MAX_VALUE_BYTES => Ok((dtype, shape)),
        _ => Err(bad("it is too large")),
    }
}
