use crate::graph::{Attrs, Graph, GraphError, Index, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// Folds a batch normalisation with constant statistics into the convolution in front of it, or
/// makes it a `Mul` and an `Add`: an offset on the convolution is then what tuning its bias is.
pub(super) fn fold(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    let mut added = Vec::new();
    for n in 0..graph.nodes.len() {
        let node = graph.nodes[n].clone();
        if node.op != "BatchNormalization" || node.outputs.iter().skip(1).any(Option::is_some) {
            continue;
        }
        let Some((slope, offset)) = line(graph, &node)? else { continue };
        let conv = convolution(graph, &index, node.input(0)?);
        match conv.and_then(|c| folded(graph, c, &slope, &offset).map(|f| (c, f))) {
            Some((c, (weight, bias))) => {
                let stem = graph.value(graph.nodes[c].input(1)?).name.clone();
                let weight = graph.add_constant(&format!("{stem}.folded"), weight);
                let bias = graph.add_constant(&format!("{stem}.bias"), bias);
                graph.nodes[c].inputs.truncate(1);
                graph.nodes[c].inputs.extend([Some(weight), Some(bias)]);
                graph.nodes[c].outputs = node.outputs.clone();
                // What is left of it is never read.
                graph.nodes[n].op = "Identity".into();
                graph.nodes[n].inputs.truncate(1);
                let mut value = graph.value(node.input(0)?).clone();
                value.name = graph.fresh_name(&format!("{}.unused", node.name));
                let unused = graph.add_value(value);
                graph.nodes[n].inputs = vec![Some(node.output()?)];
                graph.nodes[n].outputs = vec![Some(unused)];
                graph.nodes[n].attrs = Attrs::none();
            }
            None => {
                let mut shape = vec![slope.len()];
                shape.resize(graph.rank(node.input(0)?).saturating_sub(1).max(1), 1);
                let slope = graph.add_constant("slope", Tensor::new(&shape, &slope)?);
                let offset = graph.add_constant("offset", Tensor::new(&shape, &offset)?);
                let mut value = graph.value(node.output()?).clone();
                value.name = graph.fresh_name(&format!("{}.scaled", value.name));
                let scaled = graph.add_value(value);
                let make = |op: &str, a, b, y| Node {
                    name: node.name.clone(),
                    op: op.into(),
                    inputs: vec![Some(a), Some(b)],
                    outputs: vec![Some(y)],
                    attrs: Attrs::none(),
                };
                graph.nodes[n] = make("Mul", node.input(0)?, slope, scaled);
                added.push(make("Add", scaled, offset, node.output()?));
            }
        }
    }
    graph.nodes.extend(added);
    graph.sort()?;
    graph.prune();
    graph.infer_all()
}

/// Slope and offset of each channel.
type Line = (Vec<f32>, Vec<f32>);

/// What a normalisation with constant statistics is.
fn line(graph: &Graph, node: &Node) -> Result<Option<Line>, GraphError> {
    let mut parts = Vec::new();
    for i in 1..5 {
        match graph.constant(node.input(i)?) {
            Some(t) if t.dtype() == DType::F32 => parts.push(t.to_f32().into_owned()),
            _ => return Ok(None),
        }
    }
    let epsilon = f64::from(node.attrs.float("epsilon").unwrap_or(1e-5));
    let [scale, bias, mean, variance] = &parts[..] else { return Ok(None) };
    let slope: Vec<f64> = scale
        .iter()
        .zip(variance)
        .map(|(&s, &v)| f64::from(s) / (f64::from(v) + epsilon).sqrt())
        .collect();
    let offset =
        bias.iter().zip(mean).zip(&slope).map(|((&b, &m), s)| f64::from(b) - f64::from(m) * s);
    Ok(Some((slope.iter().map(|&s| s as f32).collect(), offset.map(|o| o as f32).collect())))
}

/// The convolution that makes `v` for one reader alone.
fn convolution(graph: &Graph, index: &Index, v: ValueId) -> Option<usize> {
    let n = index.producer(v).filter(|&n| graph.nodes[n].op == "Conv")?;
    (index.consumers(v).len() == 1 && !graph.outputs.contains(&v)).then_some(n)
}

/// Weight and bias of convolution `n` followed by the line.
fn folded(graph: &Graph, n: usize, slope: &[f32], offset: &[f32]) -> Option<(Tensor, Tensor)> {
    let node = &graph.nodes[n];
    let w = graph.constant(node.input(1).ok()?).filter(|w| w.dtype() == DType::F32)?;
    let channels = *w.shape().first().filter(|&&c| c == slope.len() && c > 0)?;
    let mut bias = offset.to_vec();
    if let Some(b) = node.inputs.get(2).copied().flatten() {
        let b = graph.constant(b).filter(|b| b.len() == channels)?.to_f32();
        bias.iter_mut().zip(b.iter()).zip(slope).for_each(|((o, b), s)| *o += b * s);
    }
    let w32 = w.to_f32();
    let run = (w.len() / channels).max(1);
    let weight: Vec<f32> = w32.iter().enumerate().map(|(i, v)| v * slope[i / run]).collect();
    Some((Tensor::new(w.shape(), &weight).ok()?, Tensor::vector(&bias)))
}
