//! Arrays as input: features in NumPy's `.npy` files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DataError;
use crate::tensor::{DType, Tensor};

/// Most dimensions of an array.
const MAX_RANK: usize = 8;

/// How a backbone wants its features. Part of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArraySpec {
    /// The shape without the batch, such as `[98, 40]` for frames of MFCC.
    pub shape: Vec<usize>,
}

impl ArraySpec {
    /// The array as the backbone wants it, f32 of [`shape`](ArraySpec::shape); `path` is for
    /// messages.
    ///
    /// # Errors
    /// [`DataError::Array`] if it has another shape or holds a number that is not finite.
    pub fn tensor(&self, array: &Tensor, path: &Path) -> Result<Tensor, DataError> {
        let refused = |reason: String| DataError::Array { path: path.to_owned(), reason };
        if array.shape() != self.shape {
            return Err(refused(format!(
                "an array of shape {:?}; the backbone takes {:?}",
                array.shape(),
                self.shape
            )));
        }
        let values = array.to_f32();
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(refused(format!("element {at} is not a finite number")));
        }
        Ok(Tensor::new(&self.shape, &values)?)
    }
}

/// Reads a `.npy` file: numbers of 8 to 64 bits, little-endian, in C order.
///
/// # Errors
/// [`DataError::Array`] if it is something else or cut short.
pub fn read_npy(bytes: &[u8], path: &Path) -> Result<Tensor, DataError> {
    parse(bytes).map_err(|reason| DataError::Array { path: path.to_owned(), reason })
}

fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let early = || "the file ends early".to_owned();
    let rest =
        bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file: save it with numpy.save")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (u32::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        [_, _, _, _, ..] => return Err("an unknown version of .npy".to_owned()),
        _ => return Err(early()),
    };
    let (header, data) = rest.split_at_checked(length as usize).ok_or_else(early)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;

    let dtype = match field(header, "descr")?.trim_matches(['\'', '"']) {
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<f8" => DType::F64,
        "<i8" => DType::I64,
        "<i4" => DType::I32,
        "|i1" => DType::I8,
        "|u1" => DType::U8,
        other => {
            return Err(format!("elements of type {other:?}: save it with .astype('float32')"));
        }
    };
    if field(header, "fortran_order")? != "False" {
        return Err("in Fortran order: save it with numpy.ascontiguousarray".to_owned());
    }
    let shape = field(header, "shape")?;
    let dims = shape.strip_prefix('(').and_then(|s| s.strip_suffix(')')).map(|s| s.split(','));
    let dims: Option<Result<Vec<usize>, _>> =
        dims.map(|d| d.map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect());
    let Some(Ok(shape)) = dims.filter(|d| d.as_ref().is_ok_and(|d| d.len() <= MAX_RANK)) else {
        return Err(format!("the shape {shape} is not understood"));
    };
    Tensor::from_bytes(dtype, &shape, data).map_err(|e| e.to_string())
}

/// The value of `name` in the header, a Python dictionary such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (98, 40), }`.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, String> {
    let absent = || format!("its header has no {name:?}");
    let after = header.split_once(&format!("'{name}':")).ok_or_else(absent)?.1.trim_start();
    let end = match after.starts_with('(') {
        true => after.find(')').map(|i| i + 1),
        false => after.find([',', '}']),
    };
    end.and_then(|i| after.get(..i)).map(str::trim).ok_or_else(absent)
}
