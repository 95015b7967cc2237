use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use super::{ExternalData, MAX_RANK, OnnxError};
use crate::graph::GraphError;
use crate::tensor::{DType, Tensor, byte_len};

/// The element type number of INT4, which the reader's own list lacks.
pub(super) const INT4: i32 = 22;

/// The [`DType`] of an ONNX element type number.
pub(in crate::graph) fn dtype(number: i32) -> Option<DType> {
    if number == INT4 {
        return Some(DType::I4);
    }
    Some(match DataType::try_from(number).ok()? {
        DataType::Float => DType::F32,
        DataType::Float16 => DType::F16,
        DataType::Double => DType::F64,
        DataType::Int64 => DType::I64,
        DataType::Int32 => DType::I32,
        DataType::Int8 => DType::I8,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The ONNX element type number of a [`DType`].
pub(super) fn number(dtype: DType) -> i32 {
    let t = match dtype {
        DType::F32 => DataType::Float,
        DType::F16 => DataType::Float16,
        DType::F64 => DataType::Double,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I8 => DataType::Int8,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
        DType::I4 => return INT4,
    };
    t as i32
}

fn bad(name: &str, why: &str) -> GraphError {
    GraphError::Onnx(format!("tensor `{name}`: {why}"))
}

/// Reads a tensor, mapping external data.
pub(super) fn parse(
    proto: &TensorProto,
    external: &mut ExternalData,
) -> Result<Tensor, ParseError> {
    let name = &proto.name;
    let Some(dtype) = dtype(proto.data_type) else {
        return Err(bad(name, &format!("element type {} is not supported", proto.data_type)).into());
    };
    if proto.dims.len() > MAX_RANK {
        return Err(
            bad(name, &format!("{} dimensions, at most {MAX_RANK}", proto.dims.len())).into()
        );
    }
    let shape = proto
        .dims
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad(name, "a dimension is negative"))?;
    if byte_len(dtype, &shape).is_none() {
        return Err(bad(name, "the dimensions overflow").into());
    }
    if proto.data_location == Some(1) {
        let entries = proto.external_data.iter().map(|e| (e.key.as_str(), e.value.as_str()));
        return Ok(external.tensor(name, dtype, &shape, entries)?);
    }
    let tensor = if !proto.raw_data.is_empty() {
        Tensor::from_bytes(dtype, &shape, &proto.raw_data)
    } else {
        match dtype {
            DType::F32 => Tensor::new(&shape, &proto.float_data),
            DType::F64 => Tensor::new(&shape, &proto.double_data),
            DType::I64 => Tensor::new(&shape, &proto.int64_data),
            DType::I32 => Tensor::new(&shape, &proto.int32_data),
            DType::F16 => {
                let bits: Vec<u8> =
                    proto.int32_data.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect();
                Tensor::from_bytes(dtype, &shape, &bits)
            }
            // An element of the list holds one byte, of INT4 two values.
            DType::I8 | DType::U8 | DType::Bool | DType::I4 => {
                let bytes: Vec<u8> = proto.int32_data.iter().map(|&v| v as u8).collect();
                Tensor::from_bytes(dtype, &shape, &bytes)
            }
        }
    };
    Ok(tensor.map_err(|e| bad(name, &e.to_string()))?)
}

/// A tensor whose bytes lie in the model file itself.
pub(super) fn inline(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: number(tensor.dtype()),
        raw_data: tensor.bytes().to_vec(),
        ..TensorProto::default()
    }
}

/// Why a tensor cannot be read; the caller adds the path.
pub(super) enum ParseError {
    Graph(GraphError),
    External(super::ExternalError),
}

impl From<GraphError> for ParseError {
    fn from(e: GraphError) -> ParseError {
        ParseError::Graph(e)
    }
}

impl From<super::ExternalError> for ParseError {
    fn from(e: super::ExternalError) -> ParseError {
        ParseError::External(e)
    }
}

impl ParseError {
    pub(super) fn at(self, path: &std::path::Path) -> OnnxError {
        match self {
            ParseError::Graph(source) => OnnxError::Graph { path: path.to_owned(), source },
            ParseError::External(e) => OnnxError::External(e),
        }
    }
}
