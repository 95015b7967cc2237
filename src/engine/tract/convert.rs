//! Our tensors to tract's and back.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::bail;

use crate::tensor::{DType, Element, Tensor as Ours};

/// tract's name of an element type.
pub(super) fn datum_type(dtype: DType) -> TractResult<DatumType> {
    Ok(match dtype {
        DType::F32 => DatumType::F32,
        DType::F16 => DatumType::F16,
        DType::F64 => DatumType::F64,
        DType::I64 => DatumType::I64,
        DType::I32 => DatumType::I32,
        DType::I8 => DatumType::I8,
        DType::U8 => DatumType::U8,
        DType::Bool => DatumType::Bool,
        DType::I4 => bail!("tract has no i4"),
    })
}

/// A copy for tract.
pub(super) fn to_tract(t: &Ours) -> TractResult<Tensor> {
    fn copy<T: Element + Datum>(t: &Ours) -> TractResult<Tensor> {
        Tensor::from_shape(t.shape(), t.as_slice::<T>()?)
    }
    match t.dtype() {
        DType::F32 => copy::<f32>(t),
        DType::F16 => copy::<half::f16>(t),
        DType::F64 => copy::<f64>(t),
        DType::I64 => copy::<i64>(t),
        DType::I32 => copy::<i32>(t),
        DType::I8 => copy::<i8>(t),
        DType::U8 => copy::<u8>(t),
        DType::Bool => {
            let v: Vec<bool> = t.bytes().iter().map(|&b| b != 0).collect();
            Tensor::from_shape(t.shape(), &v)
        }
        DType::I4 => bail!("tract has no i4"),
    }
}

/// A copy for the caller.
pub(super) fn from_tract(t: &Tensor) -> TractResult<Ours> {
    fn copy<T: Element + Datum>(t: &Tensor) -> TractResult<Ours> {
        Ok(Ours::new(t.shape(), t.try_as_plain_ram()?.as_slice::<T>()?)?)
    }
    match t.datum_type() {
        DatumType::F32 => copy::<f32>(t),
        DatumType::F16 => copy::<half::f16>(t),
        DatumType::F64 => copy::<f64>(t),
        DatumType::I64 => copy::<i64>(t),
        DatumType::I32 => copy::<i32>(t),
        DatumType::I8 => copy::<i8>(t),
        DatumType::U8 => copy::<u8>(t),
        DatumType::Bool => Ok(Ours::bools(t.shape(), t.try_as_plain_ram()?.as_slice::<bool>()?)?),
        dt => bail!("an output has element type {dt:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..48).map(|i| i % 2).collect();
        for dtype in [
            DType::F32,
            DType::F16,
            DType::F64,
            DType::I64,
            DType::I32,
            DType::I8,
            DType::U8,
            DType::Bool,
        ] {
            let shape = [2, 3];
            let ours = Ours::from_bytes(dtype, &shape, &bytes[..6 * dtype.size()]).unwrap();
            let theirs = to_tract(&ours).unwrap();
            assert_eq!(
                (theirs.datum_type(), theirs.shape()),
                (datum_type(dtype).unwrap(), &shape[..])
            );
            assert_eq!(from_tract(&theirs).unwrap(), ours);
        }
    }

    #[test]
    fn any_byte_but_zero_is_true() {
        let odd = Ours::from_bytes(DType::Bool, &[3], &[0, 2, 255]).unwrap();
        let back = from_tract(&to_tract(&odd).unwrap()).unwrap();
        assert_eq!(back, Ours::bools(&[3], &[false, true, true]).unwrap());
    }
}
