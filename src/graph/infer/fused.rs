//! Operators of ours that do the work of several.

use super::Concrete;
use super::broadcast::need_within;
use super::call::{Call, Facts, like};
use crate::graph::GraphError;
use crate::tensor::DType;

/// `FusedAttention`: the shape of the queries.
pub(super) fn attention(call: &Call) -> Facts {
    let q = need_attention(call, 3)?;
    Ok(vec![like(q, q.shape.clone())])
}

/// `FusedAttentionGrad`: the shapes of queries, keys and values.
pub(super) fn attention_grad(call: &Call) -> Facts {
    let q = need_attention(call, 4)?;
    call.need_shape("dy", call.input(3)?, &q.shape)?;
    (0..3).map(|i| call.input(i).map(|x| like(x, x.shape.clone()))).collect()
}

/// Checks queries, keys, values and the mask, which is input `mask`.
fn need_attention<'a>(call: &'a Call, mask: usize) -> Result<&'a Concrete, GraphError> {
    let (q, k, v) = (call.input(0)?, call.input(1)?, call.input(2)?);
    for x in (0..mask).map(|i| call.input(i)) {
        call.need_type(x?, DType::F32)?;
    }
    let (&[batch, queries, heads, width], &[_, keys, ..]) = (&q.shape[..], &k.shape[..]) else {
        return Err(call.invalid(format!("queries {:?} are not [B, L, heads, D]", q.shape)));
    };
    call.need_shape("the keys", k, &[batch, keys, heads, width])?;
    call.need_shape("the values", v, &k.shape)?;
    if let Some(mask) = call.optional(mask) {
        call.need_type(mask, DType::F32)?;
        need_within(call, "the mask", mask, &[batch, heads, queries, keys])?;
    }
    Ok(q)
}

/// `FusedGeluGrad`.
pub(super) fn gelu_grad(call: &Call) -> Facts {
    let approximate = call.node.attrs.str("approximate").unwrap_or("none");
    if !matches!(approximate, "none" | "tanh") {
        return Err(call.node.unsupported(&format!("approximate={approximate}")));
    }
    let x = call.input(0)?;
    call.need_type(x, DType::F32)?;
    call.need_shape("dy", call.input(1)?, &x.shape)?;
    Ok(vec![like(x, x.shape.clone())])
}

/// `FusedLayerNormGrad`.
pub(super) fn layer_norm_grad(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_type(x, DType::F32)?;
    let Some(&width) = x.shape.last() else {
        return Err(call.invalid("the input is a scalar"));
    };
    call.need_shape("the scale", call.input(1)?, &[width])?;
    call.need_shape("dy", call.input(2)?, &x.shape)?;
    Ok(vec![like(x, x.shape.clone())])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn attention_takes_heads_side_by_side() {
        let (q, k) = (unknown(&[2, 5, 3, 4]), unknown(&[2, 7, 3, 4]));
        let inputs = [q.clone(), k.clone(), k.clone(), unknown(&[2, 1, 1, 7])];
        assert_eq!(shape("FusedAttention", attrs(), &inputs), [2, 5, 3, 4]);
        assert_eq!(shape("FusedAttention", attrs(), &inputs[..3]), [2, 5, 3, 4]);
        let grads = [q.clone(), k.clone(), k.clone(), q.clone(), unknown(&[7])];
        assert_eq!(shape("FusedAttentionGrad", attrs(), &grads), [2, 5, 3, 4]);
        let bad = |inputs: &[_]| refused("FusedAttention", attrs(), inputs);
        assert!(bad(&[q.clone(), k.clone(), unknown(&[2, 7, 3, 5])]));
        assert!(bad(&[q.clone(), unknown(&[2, 7, 1, 4]), k.clone()]));
        assert!(bad(&[q.clone(), k.clone(), k.clone(), unknown(&[2, 1, 1, 6])]));
        assert!(bad(&[unknown(&[2, 5, 4]), k.clone(), k.clone()]));
        assert!(bad(&[ids(&[2, 5, 3, 4]), k.clone(), k.clone()]));
        assert!(refused("FusedAttentionGrad", attrs(), &[q, k.clone(), k.clone(), k]));
    }

    #[test]
    fn gradients_have_the_shape_of_what_they_are_of() {
        let x = unknown(&[2, 3, 4]);
        assert_eq!(shape("FusedGeluGrad", attrs(), &[x.clone(), x.clone()]), [2, 3, 4]);
        assert!(refused("FusedGeluGrad", attrs(), &[x.clone(), unknown(&[4])]));
        let other = attrs().with("approximate", "sigmoid");
        let other = run("FusedGeluGrad", other, &[x.clone(), x.clone()]);
        assert!(matches!(other, Err(GraphError::Unsupported { .. })));
        let norm = [x.clone(), unknown(&[4]), x.clone()];
        assert_eq!(shape("FusedLayerNormGrad", attrs(), &norm), [2, 3, 4]);
        assert!(refused("FusedLayerNormGrad", attrs(), &[x.clone(), unknown(&[3]), x]));
    }
}
