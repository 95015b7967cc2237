//! Quantization. Elements are never computed: a quantized weight stays quantized.

use super::Concrete;
use super::call::{Call, Facts};
use crate::graph::GraphError;
use crate::graph::onnx::dtype;
use crate::tensor::DType;

/// A scale for all elements, for each index of `axis`, or for each block of it.
fn need_scale(call: &Call, x: &Concrete, scale: &Concrete) -> Result<(), GraphError> {
    call.need_float(scale)?;
    let rank = x.shape.len();
    let block = call.size(call.int_or("block_size", 0)?, "block_size")?;
    if block == 0 && scale.shape.iter().all(|&d| d == 1) && scale.shape.len() <= 1 {
        return Ok(());
    }
    let axis = call.axis_attr(1, rank)?;
    if block == 0 {
        return call.need_shape("the scale", scale, &x.shape[axis..=axis]);
    }
    let mut shape = x.shape.clone();
    shape[axis] = shape[axis].div_ceil(block);
    call.need_shape("the scale", scale, &shape)
}

/// `DequantizeLinear`: the output has the type of the scale.
pub(super) fn dequantize(call: &Call) -> Facts {
    let (x, scale) = (call.input(0)?, call.input(1)?);
    if !matches!(x.dtype, DType::I8 | DType::U8 | DType::I32 | DType::I4) {
        return Err(call.invalid(format!("an input of {}, not i4, i8, u8 or i32", x.dtype)));
    }
    need_scale(call, x, scale)?;
    if let Some(zero) = call.optional(2) {
        call.need_type(zero, x.dtype)?;
        call.need_shape("the zero point", zero, &scale.shape)?;
    }
    Ok(vec![Concrete::unknown(scale.dtype, x.shape.clone())])
}

/// `QuantizeLinear`: the type is that of the zero point, else `output_dtype`, else u8.
pub(super) fn quantize(call: &Call) -> Facts {
    let (x, scale) = (call.input(0)?, call.input(1)?);
    need_scale(call, x, scale)?;
    let to = match (call.optional(2), call.int_or("output_dtype", 0)?) {
        (Some(zero), _) => {
            call.need_shape("the zero point", zero, &scale.shape)?;
            zero.dtype
        }
        (None, 0) => DType::U8,
        (None, number) => i32::try_from(number)
            .ok()
            .and_then(dtype)
            .ok_or_else(|| call.node.unsupported(&format!("element type {number}")))?,
    };
    if !matches!(to, DType::I8 | DType::U8) {
        return Err(call.invalid(format!("an output of {to}, not i8 or u8")));
    }
    Ok(vec![Concrete::unknown(to, x.shape.clone())])
}

/// `DynamicQuantizeLinear`: elements, scale and zero point.
pub(super) fn dynamic(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_type(x, DType::F32)?;
    Ok(vec![
        Concrete::unknown(DType::U8, x.shape.clone()),
        Concrete::unknown(DType::F32, []),
        Concrete::unknown(DType::U8, []),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn dequantized_weights_are_not_computed() {
        let w = Concrete::from(crate::tensor::Tensor::zeros(DType::I8, &[4, 6]));
        let scales = floats(&[0.5; 6]);
        let y = run("DequantizeLinear", attrs(), &[w.clone(), scales]).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::F32, vec![4, 6]));
        assert!(y.value.is_none());
        assert!(run("DequantizeLinear", attrs(), &[w.clone(), float(0.5)]).is_ok());
        let blocks = attrs().with("axis", 0).with("block_size", 3);
        assert!(run("DequantizeLinear", blocks, &[w.clone(), unknown(&[2, 6])]).is_ok());
        let rows = attrs().with("axis", 0);
        assert!(refused("DequantizeLinear", rows, &[w.clone(), unknown(&[6])]));
        assert!(refused("DequantizeLinear", attrs(), &[unknown(&[4]), float(0.5)]));
        assert!(refused("DequantizeLinear", attrs(), &[w.clone(), ids(&[])]));
        assert!(refused("DequantizeLinear", attrs(), &[w.clone(), float(0.5), int(0)]));
        assert!(refused("DequantizeLinear", attrs().with("axis", 2), &[w, unknown(&[6])]));
    }

    #[test]
    fn quantized_types() {
        let x = unknown(&[2, 3]);
        let to =
            |attrs, inputs: &[Concrete]| run("QuantizeLinear", attrs, inputs).map(|y| y[0].dtype);
        let s = float(0.1);
        let zero = Concrete::unknown(DType::I8, []);
        assert_eq!(to(attrs(), &[x.clone(), s.clone()]).unwrap(), DType::U8);
        assert_eq!(to(attrs(), &[x.clone(), s.clone(), zero]).unwrap(), DType::I8);
        let i8 = attrs().with("output_dtype", 3);
        assert_eq!(to(i8, &[x.clone(), s.clone()]).unwrap(), DType::I8);
        assert!(to(attrs(), &[x.clone(), s.clone(), int(0)]).is_err());
        assert!(to(attrs().with("output_dtype", 99), &[x.clone(), s]).is_err());
        let y = run_n("DynamicQuantizeLinear", attrs(), &[x], 3).unwrap();
        assert_eq!((y[0].dtype, y[1].dtype, y[2].dtype), (DType::U8, DType::F32, DType::U8));
        assert!(refused("DynamicQuantizeLinear", attrs(), &[ids(&[2])]));
    }
}
