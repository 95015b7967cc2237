use crate::graph::{Attr, Graph, GraphError};
use crate::tensor::Tensor;

/// Oldest operator set that is read.
const OLDEST: i64 = 11;
/// Newest operator set that is read.
const NEWEST: i64 = 24;

/// Rewrites nodes of an older operator set into their present form: axes and sizes that were
/// attributes become inputs.
pub(super) fn lift(graph: &mut Graph, opset: i64) -> Result<(), GraphError> {
    if !(OLDEST..=NEWEST).contains(&opset) {
        return Err(GraphError::Onnx(format!(
            "operator set {opset} is not supported; export with opset_version between {OLDEST} and {NEWEST}"
        )));
    }
    for n in 0..graph.nodes.len() {
        let (attr, input) = match graph.nodes[n].op.as_str() {
            "Squeeze" | "Unsqueeze" => ("axes", 1),
            "Split" => ("split", 1),
            op if op.starts_with("Reduce") => ("axes", 1),
            "Softmax" | "LogSoftmax" if opset < 13 => {
                // Before 13 everything from the axis on was one dimension; the same only at -1.
                match graph.nodes[n].attrs.int("axis") {
                    Some(-1) => continue,
                    _ => return Err(graph.nodes[n].unsupported("an axis before operator set 13")),
                }
            }
            _ => continue,
        };
        let node = &mut graph.nodes[n];
        if let Some(Attr::Ints(v)) = node.attrs.get(attr) {
            let v = Tensor::vector(v);
            node.attrs.remove(attr);
            let id = graph.add_constant(attr, v);
            let inputs = &mut graph.nodes[n].inputs;
            inputs.resize(input, None);
            inputs.push(Some(id));
        }
    }
    Ok(())
}
