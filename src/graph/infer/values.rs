//! Elements of small values as numbers.

use half::f16;

use super::Concrete;
use super::call::elements;
use crate::tensor::{DType, Tensor, TensorError};

/// Values with more elements than this are not computed.
pub(super) const LIMIT: usize = 1 << 18;

/// True if a value of `shape` is small enough to be computed.
pub(super) fn is_small(shape: &[usize]) -> bool {
    elements(shape.iter().copied()).is_some_and(|n| n <= LIMIT)
}

/// Elements widened to one of two types: every integer fits i64, every float fits f64, and one
/// basic operation in f64 rounds to the same f32 as in f32.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl Numbers {
    /// The elements of `x`, if they are known and few.
    pub fn of(x: &Concrete) -> Option<Numbers> {
        let t = x.value.as_ref().filter(|t| t.len() <= LIMIT)?;
        if let Some(v) = t.to_i64() {
            return Some(Numbers::Ints(v));
        }
        Some(Numbers::Floats(match t.as_slice::<f64>() {
            Ok(v) => v.to_vec(),
            Err(_) => t.to_f32().iter().map(|&v| f64::from(v)).collect(),
        }))
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Numbers::Ints(v) => v.len(),
            Numbers::Floats(v) => v.len(),
        }
    }

    /// A tensor of these elements. Floats saturate where they become integers, integers wrap.
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        macro_rules! convert {
            ($to:ty) => {
                match self {
                    Numbers::Ints(v) => {
                        Tensor::new(shape, &v.iter().map(|&x| x as $to).collect::<Vec<_>>())
                    }
                    Numbers::Floats(v) => {
                        Tensor::new(shape, &v.iter().map(|&x| x as $to).collect::<Vec<_>>())
                    }
                }
            };
        }
        match dtype {
            DType::F32 => convert!(f32),
            DType::F64 => convert!(f64),
            DType::I64 => convert!(i64),
            DType::I32 => convert!(i32),
            DType::I8 => convert!(i8),
            DType::U8 => convert!(u8),
            DType::F16 => {
                let v: Vec<f16> = match self {
                    Numbers::Ints(v) => v.iter().map(|&x| f16::from_f64(x as f64)).collect(),
                    Numbers::Floats(v) => v.iter().map(|&x| f16::from_f64(x)).collect(),
                };
                Tensor::new(shape, &v)
            }
            DType::Bool => {
                let v: Vec<bool> = match self {
                    Numbers::Ints(v) => v.iter().map(|&x| x != 0).collect(),
                    Numbers::Floats(v) => v.iter().map(|&x| x != 0.0).collect(),
                };
                Tensor::bools(shape, &v)
            }
            DType::I4 => Err(TensorError::Type { have: dtype, want: DType::I8 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_type() {
        for dtype in [DType::F32, DType::F16, DType::F64] {
            let t = Numbers::Floats(vec![-1.5, 0.0, 2.0]).tensor(dtype, &[3]).unwrap();
            assert_eq!(t.dtype(), dtype);
            let Some(Numbers::Floats(v)) = Numbers::of(&t.into()) else { panic!() };
            assert_eq!(v, [-1.5, 0.0, 2.0]);
        }
        for dtype in [DType::I64, DType::I32, DType::I8, DType::U8, DType::Bool] {
            let t = Numbers::Ints(vec![0, 1]).tensor(dtype, &[1, 2]).unwrap();
            let Some(Numbers::Ints(v)) = Numbers::of(&t.into()) else { panic!() };
            assert_eq!(v, [0, 1]);
        }
    }

    #[test]
    fn conversion_saturates_or_wraps() {
        let t = Numbers::Floats(vec![1e30, f64::NAN]).tensor(DType::I32, &[2]).unwrap();
        assert_eq!(t.to_i64().unwrap(), [i64::from(i32::MAX), 0]);
        let t = Numbers::Ints(vec![257]).tensor(DType::U8, &[1]).unwrap();
        assert_eq!(t.to_i64().unwrap(), [1]);
    }

    #[test]
    fn large_values_are_not_read() {
        assert!(Numbers::of(&Tensor::zeros(DType::I8, &[LIMIT + 1]).into()).is_none());
        assert!(is_small(&[LIMIT]) && !is_small(&[LIMIT, 2]));
        assert!(!is_small(&[usize::MAX, 2]));
    }
}
