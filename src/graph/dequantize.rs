//! Stored integers back to floats.

use super::{Graph, GraphError, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// `q scale` in f32, with a scale for each block of `size` along axis 0 of a matrix. `None` if the
/// shapes do not fit.
pub(crate) fn dequantized_blocks(q: &Tensor, scale: &Tensor, size: usize) -> Option<Tensor> {
    let &[k, n] = q.shape() else { return None };
    if size == 0 || scale.shape() != [k.div_ceil(size), n] {
        return None;
    }
    let (mut values, scale) = (q.to_f32().into_owned(), scale.to_f32());
    let rows = values.chunks_exact_mut(n.max(1)).enumerate();
    rows.for_each(|(i, row)| {
        row.iter_mut().zip(&scale[i / size * n..]).for_each(|(v, s)| *v *= s);
    });
    Tensor::new(q.shape(), &values).ok()
}

/// `(q - zero) scale` in f32, with one scale for all or one for each index of `axis`. `None` if
/// the shapes do not fit.
pub(crate) fn dequantized(
    q: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    axis: usize,
) -> Option<Tensor> {
    let channels = match scale.len() {
        1 => 1,
        n if q.shape().get(axis) == Some(&n) => n,
        _ => return None,
    };
    if zero.is_some_and(|z| z.len() != scale.len()) {
        return None;
    }
    // Elements that lie together and share a scale.
    let run = match channels {
        1 => q.len().max(1),
        _ => q.shape()[axis + 1..].iter().product::<usize>().max(1),
    };
    let (values, scale) = (q.to_f32(), scale.to_f32());
    let zero = zero.map(Tensor::to_f32);
    let mut out = Vec::with_capacity(values.len());
    for (i, row) in values.chunks(run).enumerate() {
        let c = i % channels;
        let z = zero.as_ref().map_or(0.0, |z| z[c]);
        out.extend(row.iter().map(|v| (v - z) * scale[c]));
    }
    Tensor::new(q.shape(), &out).ok()
}

/// What a `DequantizeLinear` of constants computes; `None` for other nodes, and for forms that are
/// left to the engine.
pub(crate) fn constant(graph: &Graph, node: &Node) -> Result<Option<Tensor>, GraphError> {
    if node.op != "DequantizeLinear" {
        return Ok(None);
    }
    let known = |v: ValueId| graph.constant(v);
    let block = node.attrs.int("block_size").unwrap_or(0);
    if block != 0 {
        let symmetric = node.inputs.get(2).copied().flatten().is_none();
        let rows = node.attrs.int("axis") == Some(0);
        let scale = block_scale(graph, node.input(1)?).and_then(known);
        let (Some(q), Some(scale)) = (known(node.input(0)?), scale) else { return Ok(None) };
        let size = usize::try_from(block).unwrap_or(0);
        let float = (symmetric && rows).then(|| dequantized_blocks(q, scale, size));
        return Ok(float.flatten());
    }
    let (Some(q), Some(scale)) = (known(node.input(0)?), known(node.input(1)?)) else {
        return Ok(None);
    };
    let zero = match node.inputs.get(2).copied().flatten() {
        None => None,
        Some(z) => match known(z) {
            Some(z) => Some(z),
            None => return Ok(None),
        },
    };
    let rank = q.shape().len() as i64;
    let axis = node.attrs.int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
    if scale.dtype() != DType::F32 {
        return Ok(None);
    }
    Ok(dequantized(q, scale, zero, axis))
}

/// The constant scales behind `v`: f32, or f16 behind the `Cast` that `prepare` writes.
pub(super) fn block_scale(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let constant = |v: ValueId, d: DType| graph.constant(v).is_some_and(|t| t.dtype() == d);
    if constant(v, DType::F32) {
        return Some(v);
    }
    let node = graph.nodes.iter().find(|n| n.outputs.first() == Some(&Some(v)))?;
    let scale = node.input(0).ok()?;
    let fits = node.op == "Cast" && graph.value(v).dtype == DType::F32;
    (fits && constant(scale, DType::F16)).then_some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_axis() {
        let q = Tensor::new(&[2, 3], &[1i8, 2, 3, 4, 5, 6]).unwrap();
        let of = |scale: &[f32], zero: Option<&[i8]>, axis| {
            let zero = zero.map(Tensor::vector);
            let t = dequantized(&q, &Tensor::vector(scale), zero.as_ref(), axis)?;
            Some(t.to_f32().into_owned())
        };
        assert_eq!(of(&[2.0], Some(&[1]), 9).unwrap(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(of(&[1.0, 10.0], None, 0).unwrap(), [1.0, 2.0, 3.0, 40.0, 50.0, 60.0]);
        let columns = of(&[1.0, 10.0, 100.0], Some(&[0, 1, 0]), 1).unwrap();
        assert_eq!(columns, [1.0, 10.0, 300.0, 4.0, 40.0, 600.0]);
        assert!(of(&[1.0, 2.0], None, 1).is_none());
        assert!(of(&[1.0, 2.0], Some(&[0]), 0).is_none());
        assert!(of(&[], None, 0).is_none());
    }
}
