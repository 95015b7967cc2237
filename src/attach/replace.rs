use super::Context;
use crate::graph::frozen::BLOCK;
use crate::graph::sites::Role;
use crate::graph::{Attrs, Graph, GraphError, ValueId, dequantized_blocks, dequantized_constant};
use crate::tensor::{DType, Tensor, TensorError};

/// `x W^T + b` with trained W `[out, in]` and b `[out]` in place of a frozen linear layer.
pub(super) fn linear(
    context: &mut Context<'_>,
    layer: usize,
    role: Role,
    prefix: &str,
) -> Result<(), GraphError> {
    let site = context.linear(layer, role)?;
    let (weight, bias) = tensors(context, prefix)?;
    let x = context.site(&site.input)?;
    context.insert_after(&site.output, |g, _| {
        let swap = Attrs::none().with("perm", [1i64, 0].as_slice());
        let weight = g.op("Transpose", &[weight], swap)?;
        let y = g.op("MatMul", &[x, weight], Attrs::none())?;
        g.op("Add", &[y, bias], Attrs::none())
    })
}

/// A layer normalisation with trained gain and shift, both `[d]`.
pub(super) fn norm(context: &mut Context<'_>, name: &str, prefix: &str) -> Result<(), GraphError> {
    let missing = || GraphError::Undefined(name.to_owned());
    let site = context.backbone.sites.norms.iter().find(|n| n.name == name).ok_or_else(missing)?;
    let output = site.output.clone();
    let (weight, bias) = tensors(context, prefix)?;
    let v = crate::backbone::site(context.graph, &output)?;
    let g = &*context.graph;
    let node = &g.nodes[g.index().producer(v).ok_or_else(missing)?];
    let (x, attrs) = (node.input(0)?, node.attrs.clone());
    context.insert_after(&output, |g, _| g.op("LayerNormalization", &[x, weight, bias], attrs))
}

/// A convolution with trained kernels `[out, in / groups, kh, kw]` and bias `[out]`.
pub(super) fn conv(context: &mut Context<'_>, conv: usize, prefix: &str) -> Result<(), GraphError> {
    let missing = || GraphError::Undefined(format!("convolution {conv}"));
    let cnn = context.backbone.sites.cnn.as_ref();
    let site = cnn.and_then(|c| c.convs.get(conv)).cloned().ok_or_else(missing)?;
    let (weight, bias) = tensors(context, prefix)?;
    let g = &*context.graph;
    let v = crate::backbone::site(g, &site.output)?;
    let node = &g.nodes[g.index().producer(v).ok_or_else(missing)?];
    let (x, attrs) = (node.input(0)?, node.attrs.clone());
    context.insert_after(&site.output, |g, _| g.op("Conv", &[x, weight, bias], attrs))
}

fn tensors(context: &Context<'_>, prefix: &str) -> Result<(ValueId, ValueId), GraphError> {
    let tensor = |part: &str| context.tensor(&format!("{prefix}.{part}"));
    Ok((tensor("weight")?, tensor("bias")?))
}

/// The frozen weight, f32 `[out, in]`, and bias of the linear layer whose output is `name`, or gain
/// and shift of a normalisation, or kernels and bias of a convolution: what a replacement starts
/// from.
///
/// # Errors
/// [`GraphError::Undefined`] if no such layer makes the value.
pub fn frozen_parameters(graph: &Graph, name: &str) -> Result<(Tensor, Tensor), GraphError> {
    let missing = || GraphError::Undefined(name.to_owned());
    let index = graph.index();
    let v = crate::backbone::site(graph, name)?;
    let mut node = &graph.nodes[index.producer(v).ok_or_else(missing)?];
    let constant = |v: ValueId| graph.constant(v);
    if node.op == "LayerNormalization" {
        let width = graph.width(v).ok_or_else(missing)?;
        let gain = constant(node.input(1)?).cloned().ok_or_else(missing)?;
        let shift = match node.inputs.get(2).copied().flatten() {
            Some(b) => constant(b).cloned().ok_or_else(missing)?,
            None => Tensor::zeros(gain.dtype(), &[width]),
        };
        return Ok((gain, shift));
    }
    if node.op == "Conv" {
        let kernels = node.input(1)?;
        let stored = index.producer(kernels).map(|n| dequantized_constant(graph, &graph.nodes[n]));
        let kernels = match stored.transpose()?.flatten() {
            Some(float) => float,
            None => constant(kernels).cloned().ok_or_else(missing)?,
        };
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(b) => constant(b).cloned().ok_or_else(missing)?,
            None => Tensor::zeros(DType::F32, &kernels.shape()[..1]),
        };
        return Ok((kernels, bias));
    }
    let mut bias = None;
    if node.op == "Add" {
        bias = node.inputs.iter().flatten().find_map(|&v| constant(v));
    }
    node = &graph.nodes[frozen_node(graph, v)?];
    let weight = constant(node.input(1)?).ok_or_else(missing)?;
    let mut scale = node.inputs.get(2).copied().flatten().and_then(constant);
    let float;
    let weight = match scale {
        Some(s) if weight.dtype() == DType::I4 => {
            float = dequantized_blocks(weight, s, BLOCK).ok_or_else(missing)?;
            scale = None;
            &float
        }
        _ => weight,
    };
    let &[k, n] = weight.shape() else { return Err(missing()) };
    let bias = match bias {
        Some(b) => b.reshaped(&[n])?,
        None => Tensor::zeros(DType::F32, &[n]),
    };
    Ok((transposed(weight, scale, k, n)?, bias))
}

/// The `FrozenLinear` behind `output`, which may add a bias to it.
pub(super) fn frozen_node(graph: &Graph, output: ValueId) -> Result<usize, GraphError> {
    let missing = || GraphError::Undefined(graph.value(output).name.clone());
    let index = graph.index();
    let n = index.producer(output).ok_or_else(missing)?;
    let inputs = graph.nodes[n].inputs.iter().flatten();
    let behind = inputs.filter_map(|&v| index.producer(v));
    let mut found = std::iter::once(n).chain(behind);
    found.find(|&n| graph.nodes[n].op == "FrozenLinear").ok_or_else(missing)
}

/// `[K, N]` with a scale per column to f32 `[N, K]`.
fn transposed(
    weight: &Tensor,
    scale: Option<&Tensor>,
    k: usize,
    n: usize,
) -> Result<Tensor, TensorError> {
    let mut out = vec![0f32; k * n];
    let mut fill = |at: &dyn Fn(usize) -> f32| {
        for (j, row) in out.chunks_exact_mut(k).enumerate() {
            for (i, o) in row.iter_mut().enumerate() {
                *o = at(i * n + j);
            }
        }
    };
    match scale {
        Some(scale) => {
            let (w, s) = (weight.as_slice::<i8>()?, scale.as_slice::<f32>()?);
            fill(&|i| f32::from(w[i]) * s[i % n]);
        }
        None => {
            let w = weight.as_slice::<f32>()?;
            fill(&|i| w[i]);
        }
    }
    Tensor::new(&[n, k], &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_weights_are_turned_and_scaled() {
        let w = Tensor::new(&[2, 3], &[1i8, 2, 3, 4, 5, 6]).unwrap();
        let s = Tensor::vector(&[1f32, 10.0, 100.0]);
        let t = transposed(&w, Some(&s), 2, 3).unwrap();
        assert_eq!(t.shape(), [3, 2]);
        assert_eq!(t.as_slice::<f32>().unwrap(), [1.0, 4.0, 20.0, 50.0, 300.0, 600.0]);
    }
}
