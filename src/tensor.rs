//! Plain tensors: a type, a shape and bytes that are either owned or lie in a mapped file.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;

/// Element type of a [`Tensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F16,
    F64,
    I64,
    I32,
    I8,
    U8,
    Bool,
    /// Two to a byte, the first in the low half.
    I4,
}

impl DType {
    /// Bytes of one element; of I4, those of the byte that it lies in.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
            DType::I8 | DType::U8 | DType::Bool | DType::I4 => 1,
        }
    }

    /// True for the floating point types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
            DType::I4 => "i4",
        })
    }
}

/// A tensor was read as a type or with a size that it does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The elements are of another type.
    #[error("the tensor holds {have}, not {want}")]
    Type {
        /// The type of the elements.
        have: DType,
        /// The type that was asked for.
        want: DType,
    },
    /// Shape and number of bytes do not agree.
    #[error("shape {shape:?} of {dtype} needs {want} bytes, there are {have}")]
    Size {
        /// Element type.
        dtype: DType,
        /// Declared shape.
        shape: Vec<usize>,
        /// Bytes present.
        have: usize,
        /// Bytes needed (`usize::MAX` where the product overflows).
        want: usize,
    },
}

/// Rust types that can be elements of a [`Tensor`].
pub trait Element: bytemuck::NoUninit + bytemuck::AnyBitPattern {
    /// The matching [`DType`].
    const DTYPE: DType;
}
macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f32 => F32, f16 => F16, f64 => F64, i64 => I64, i32 => I32, i8 => I8, u8 => U8);

#[derive(Clone)]
enum Data {
    /// Words, so that every element type is aligned.
    Owned(Arc<[u64]>),
    Mapped(Arc<Mmap>, usize),
}

/// An immutable tensor, row-major. Cloning shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor of `shape` with a copy of `elements`, row-major.
    ///
    /// # Errors
    /// [`TensorError::Size`] if the product of `shape` is not `elements.len()`.
    pub fn new<T: Element>(shape: &[usize], elements: &[T]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A rank 1 tensor with a copy of `elements`.
    pub fn vector<T: Element>(elements: &[T]) -> Tensor {
        Tensor {
            dtype: T::DTYPE,
            shape: vec![elements.len()],
            data: Data::Owned(words(bytemuck::cast_slice(elements))),
        }
    }

    /// A rank 0 tensor.
    pub fn scalar<T: Element>(element: T) -> Tensor {
        let data = Data::Owned(words(bytemuck::bytes_of(&element)));
        Tensor { dtype: T::DTYPE, shape: vec![], data }
    }

    /// A boolean tensor of `shape`.
    ///
    /// # Errors
    /// [`TensorError::Size`] if the product of `shape` is not `elements.len()`.
    pub fn bools(shape: &[usize], elements: &[bool]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(DType::Bool, shape, bytemuck::cast_slice(elements))
    }

    /// All zero bytes: 0, 0.0 or false.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        let bytes = bytes_of(dtype, shape.iter().product());
        let data = Data::Owned(vec![0u64; bytes.div_ceil(8)].into());
        Tensor { dtype, shape: shape.to_vec(), data }
    }

    /// A tensor with a copy of little-endian `bytes`.
    ///
    /// # Errors
    /// [`TensorError::Size`] if shape and bytes do not agree.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        check_size(dtype, shape, bytes.len())?;
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Data::Owned(words(bytes)) })
    }

    /// A tensor over bytes `offset..` of a mapped file, without a copy.
    ///
    /// # Errors
    /// [`TensorError::Size`] if the file ends too early or `offset` is not a multiple of the
    /// element size.
    pub fn mapped(
        dtype: DType,
        shape: &[usize],
        map: Arc<Mmap>,
        offset: usize,
    ) -> Result<Tensor, TensorError> {
        let want = byte_len(dtype, shape).unwrap_or(usize::MAX);
        let have = map.len().saturating_sub(offset);
        if want > have || !offset.is_multiple_of(dtype.size()) {
            return Err(TensorError::Size { dtype, shape: shape.to_vec(), have, want });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Data::Mapped(map, offset) })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if the bytes lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped(..))
    }

    /// The bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        let len = bytes_of(self.dtype, self.len());
        match &self.data {
            Data::Owned(w) => &bytemuck::cast_slice(w)[..len],
            Data::Mapped(map, offset) => &map[*offset..*offset + len],
        }
    }

    /// The elements.
    ///
    /// # Errors
    /// [`TensorError::Type`] if the elements are not `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::Type { have: self.dtype, want: T::DTYPE });
        }
        // Owned words and checked offsets in a page-aligned map are always aligned.
        bytemuck::try_cast_slice(self.bytes())
            .map_err(|_| TensorError::Type { have: self.dtype, want: T::DTYPE })
    }

    /// The elements converted to f32; no copy if they already are.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        fn cast<T: Element>(b: &[u8], f: impl Fn(T) -> f32) -> Cow<'_, [f32]> {
            Cow::Owned(
                b.chunks_exact(size_of::<T>())
                    .map(|c| f(bytemuck::pod_read_unaligned(c)))
                    .collect(),
            )
        }
        let b = self.bytes();
        match self.dtype {
            DType::F32 => match bytemuck::try_cast_slice(b) {
                Ok(s) => Cow::Borrowed(s),
                Err(_) => cast::<f32>(b, |v| v),
            },
            DType::F16 => cast::<f16>(b, f16::to_f32),
            DType::F64 => cast::<f64>(b, |v| v as f32),
            DType::I64 => cast::<i64>(b, |v| v as f32),
            DType::I32 => cast::<i32>(b, |v| v as f32),
            DType::I8 => cast::<i8>(b, f32::from),
            DType::U8 | DType::Bool => cast::<u8>(b, f32::from),
            DType::I4 => halves(b).take(self.len()).map(f32::from).collect(),
        }
    }

    /// Integers and booleans as i64; `None` for floating point tensors.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let b = self.bytes();
        Some(match self.dtype {
            DType::I64 => b.chunks_exact(8).map(bytemuck::pod_read_unaligned::<i64>).collect(),
            DType::I32 => b
                .chunks_exact(4)
                .map(|c| i64::from(bytemuck::pod_read_unaligned::<i32>(c)))
                .collect(),
            DType::I8 => b.iter().map(|&v| i64::from(v as i8)).collect(),
            DType::U8 | DType::Bool => b.iter().map(|&v| i64::from(v)).collect(),
            DType::I4 => halves(b).take(self.len()).map(i64::from).collect(),
            _ => return None,
        })
    }

    /// The same bytes under another shape of the same size.
    ///
    /// # Errors
    /// [`TensorError::Size`] if the number of elements differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements != Some(self.len()) {
            return Err(TensorError::Size {
                dtype: self.dtype,
                shape: shape.to_vec(),
                have: self.bytes().len(),
                want: byte_len(self.dtype, shape).unwrap_or(usize::MAX),
            });
        }
        Ok(Tensor { dtype: self.dtype, shape: shape.to_vec(), data: self.data.clone() })
    }

    /// A copy as f16, rounded to nearest even.
    pub fn to_f16(&self) -> Tensor {
        let v: Vec<f16> = self.to_f32().iter().map(|&x| f16::from_f32(x)).collect();
        let data = Data::Owned(words(bytemuck::cast_slice(&v)));
        Tensor { dtype: DType::F16, shape: self.shape.clone(), data }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        if self.len() <= 8 {
            write!(f, " {:?}", self.to_f32())?;
        }
        Ok(())
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

fn words(bytes: &[u8]) -> Arc<[u64]> {
    let mut out = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut out)[..bytes.len()].copy_from_slice(bytes);
    out.into()
}

/// Bytes that a tensor takes, or `None` on overflow.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d))?;
    Some(if dtype == DType::I4 { bytes.div_ceil(2) } else { bytes })
}

fn bytes_of(dtype: DType, elements: usize) -> usize {
    if dtype == DType::I4 { elements.div_ceil(2) } else { elements * dtype.size() }
}

/// The elements of I4.
fn halves(bytes: &[u8]) -> impl Iterator<Item = i8> {
    bytes.iter().flat_map(|&b| [(b << 4) as i8 >> 4, b as i8 >> 4])
}

fn check_size(dtype: DType, shape: &[usize], have: usize) -> Result<(), TensorError> {
    match byte_len(dtype, shape) {
        Some(want) if want == have => Ok(()),
        want => Err(TensorError::Size {
            dtype,
            shape: shape.to_vec(),
            have,
            want: want.unwrap_or(usize::MAX),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_checked() {
        assert!(Tensor::new(&[2, 3], &[0f32; 5]).is_err());
        assert!(Tensor::from_bytes(DType::F32, &[usize::MAX, 2], &[]).is_err());
        let t = Tensor::new(&[2, 3], &[1i64, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(t.as_slice::<i64>().unwrap()[5], 6);
        assert!(t.as_slice::<f32>().is_err());
        assert_eq!(t.reshaped(&[3, 2]).unwrap().shape(), [3, 2]);
    }

    #[test]
    fn two_elements_of_i4_share_a_byte() {
        let t = Tensor::from_bytes(DType::I4, &[1, 3], &[0x8f, 0x07]).unwrap();
        assert_eq!((t.len(), t.bytes()), (3, &[0x8f, 0x07][..]));
        assert_eq!(t.to_i64().unwrap(), [-1, -8, 7]);
        assert_eq!(t.to_f32().as_ref(), [-1.0, -8.0, 7.0]);
        assert!(t.as_slice::<i8>().is_err() && t.reshaped(&[4]).is_err());
        assert!(Tensor::from_bytes(DType::I4, &[5], &[0; 2]).is_err());
        assert_eq!(Tensor::zeros(DType::I4, &[5]).bytes(), [0; 3]);
    }

    #[test]
    fn odd_lengths_keep_their_bytes() {
        let t = Tensor::vector(&[1i8, -2, 3]);
        assert_eq!(t.bytes(), [1, 254, 3]);
        assert_eq!(&*t.to_f32(), [1.0, -2.0, 3.0]);
        assert_eq!(t.to_f16().bytes().len(), 6);
    }
}
