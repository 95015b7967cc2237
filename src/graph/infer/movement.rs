//! Elements that move without being changed: what transposes, slices, pads and gathers share.

use super::Concrete;
use super::values::is_small;
use crate::tensor::{Tensor, TensorError};

/// Row-major strides, in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        out[d - 1] = out[d] * shape[d];
    }
    out
}

/// The position of coordinates `at` under `strides`.
pub(super) fn offset<'a>(
    at: impl IntoIterator<Item = &'a usize>,
    strides: impl IntoIterator<Item = &'a usize>,
) -> usize {
    at.into_iter().zip(strides).map(|(a, s)| a * s).sum()
}

/// Calls `f` with all coordinates of `shape`, row-major.
pub(super) fn for_each(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0; shape.len()];
    loop {
        f(&at);
        let Some(d) = (0..shape.len()).rev().find(|&d| at[d] + 1 < shape[d]) else { return };
        at[d] += 1;
        at[d + 1..].fill(0);
    }
}

/// A tensor of `shape`: at each coordinate the element of `t` at the position that `source` gives,
/// or zero.
pub(super) fn rearrange(
    t: &Tensor,
    shape: &[usize],
    mut source: impl FnMut(&[usize]) -> Option<usize>,
) -> Result<Tensor, TensorError> {
    let zero = [0u8; 8];
    rearrange_or(t, shape, &zero[..t.dtype().size()], &mut source)
}

/// The same with `fill`, the bytes of one element, in place of zero.
pub(super) fn rearrange_or(
    t: &Tensor,
    shape: &[usize],
    fill: &[u8],
    source: &mut dyn FnMut(&[usize]) -> Option<usize>,
) -> Result<Tensor, TensorError> {
    let (bytes, size) = (t.bytes(), t.dtype().size());
    let mut out = Vec::new();
    for_each(shape, |at| {
        let element = source(at).and_then(|i| bytes.get(i * size..(i + 1) * size));
        out.extend_from_slice(element.unwrap_or(fill));
    });
    Tensor::from_bytes(t.dtype(), shape, &out)
}

/// `x` rearranged to `shape`, with its elements if they are known and few.
pub(super) fn moved(
    x: &Concrete,
    shape: Vec<usize>,
    source: impl FnMut(&[usize]) -> Option<usize>,
) -> Result<Concrete, TensorError> {
    match &x.value {
        Some(t) if is_small(&shape) => Ok(rearrange(t, &shape, source)?.into()),
        _ => Ok(Concrete::unknown(x.dtype, shape)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_come_row_major() {
        let mut seen = Vec::new();
        for_each(&[2, 1, 3], |at| seen.push(offset(at, &strides(&[2, 1, 3]))));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        let mut n = 0;
        for_each(&[], |_| n += 1);
        for_each(&[4, 0], |_| n += 10);
        assert_eq!(n, 1);
    }

    #[test]
    fn missing_sources_become_zero() {
        let t = Tensor::vector(&[5i64, 6]);
        let r = rearrange(&t, &[3], |at| (at[0] != 1).then_some(at[0] / 2)).unwrap();
        assert_eq!(r, Tensor::vector(&[5i64, 0, 6]));
        assert_eq!(rearrange(&t, &[1], |_| Some(9)).unwrap(), Tensor::vector(&[0i64]));
    }
}
