//! Our tensors as values of ONNX Runtime, without a copy, and its results back.

use half::f16;
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef};

use crate::tensor::{DType, Element, Tensor};

/// A view of `t`.
pub(super) fn view(t: &Tensor) -> Result<SessionInputValue<'_>, String> {
    fn of<'t, T: Element + PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        t: &'t Tensor,
    ) -> Result<SessionInputValue<'t>, String> {
        let values = t.as_slice::<T>().map_err(|e| e.to_string())?;
        let view = TensorRef::from_array_view((t.shape().to_vec(), values));
        Ok(view.map_err(|e| e.to_string())?.into())
    }
    match t.dtype() {
        DType::F32 => of::<f32>(t),
        DType::F16 => of::<f16>(t),
        DType::F64 => of::<f64>(t),
        DType::I64 => of::<i64>(t),
        DType::I32 => of::<i32>(t),
        DType::I8 => of::<i8>(t),
        DType::U8 => of::<u8>(t),
        DType::Bool => {
            let values = bytemuck::checked::try_cast_slice::<u8, bool>(t.bytes());
            let values = values.map_err(|e| e.to_string())?;
            let view = TensorRef::from_array_view((t.shape().to_vec(), values));
            Ok(view.map_err(|e| e.to_string())?.into())
        }
        DType::I4 => Err("i4 is no type of inputs".into()),
    }
}

/// A copy of a result.
pub(super) fn copy(value: &DynValue) -> Result<Tensor, String> {
    fn of<T: Element + PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        value: &DynValue,
    ) -> Result<Tensor, String> {
        let (shape, values) = value.try_extract_tensor::<T>().map_err(|e| e.to_string())?;
        let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        Tensor::new(&shape, values).map_err(|e| e.to_string())
    }
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float32) => of::<f32>(value),
        Some(TensorElementType::Float16) => of::<f16>(value),
        Some(TensorElementType::Float64) => of::<f64>(value),
        Some(TensorElementType::Int64) => of::<i64>(value),
        Some(TensorElementType::Int32) => of::<i32>(value),
        Some(TensorElementType::Int8) => of::<i8>(value),
        Some(TensorElementType::Uint8) => of::<u8>(value),
        Some(TensorElementType::Bool) => {
            let (shape, values) = value.try_extract_tensor::<bool>().map_err(|e| e.to_string())?;
            let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
            Tensor::bools(&shape, values).map_err(|e| e.to_string())
        }
        other => Err(format!("an output has element type {other:?}")),
    }
}
