//! Multidirectional broadcasting.

use super::Concrete;
use super::call::Call;
use super::movement::{for_each, offset, strides};
use crate::graph::GraphError;

/// The common shape of `a` and `b`, or `None` if they do not broadcast.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut out = long.to_vec();
    for (o, &s) in out.iter_mut().rev().zip(short.iter().rev()) {
        match (*o, s) {
            (x, y) if x == y => {}
            (1, y) => *o = y,
            (_, 1) => {}
            _ => return None,
        }
    }
    Some(out)
}

/// The common shape of all `inputs`.
pub(super) fn common_shape(call: &Call, inputs: &[&Concrete]) -> Result<Vec<usize>, GraphError> {
    inputs.iter().try_fold(Vec::new(), |shape, x| {
        broadcast(&shape, &x.shape).ok_or_else(|| {
            call.invalid(format!("shapes {shape:?} and {:?} do not broadcast", x.shape))
        })
    })
}

/// `x` must broadcast to `shape` without changing it.
pub(super) fn need_within(
    call: &Call,
    what: &str,
    x: &Concrete,
    shape: &[usize],
) -> Result<(), GraphError> {
    if broadcast(&x.shape, shape).as_deref() == Some(shape) {
        return Ok(());
    }
    Err(call.invalid(format!("{what} of shape {:?} does not broadcast to {shape:?}", x.shape)))
}

/// Strides that read a value of shape `from` at coordinates of the shape `to` it broadcasts to.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut out = vec![0; to.len().saturating_sub(from.len())];
    out.extend(from.iter().zip(strides(from)).map(|(&d, s)| if d == 1 { 0 } else { s }));
    out
}

/// The elements of a value of shape `from`, repeated to shape `to`.
pub(super) fn spread<T: Copy>(elements: Vec<T>, from: &[usize], to: &[usize]) -> Vec<T> {
    if from == to {
        return elements;
    }
    let strides = broadcast_strides(from, to);
    let mut out = Vec::new();
    for_each(to, |at| out.extend(elements.get(offset(at, &strides))));
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{attrs, run, unknown};
    use super::*;
    use proptest::prelude::*;

    /// The rule read off its definition: pad with ones, then each pair is equal or holds a 1.
    fn oracle(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
        let rank = a.len().max(b.len());
        let pad = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
        let (a, b) = (pad(a), pad(b));
        let mut out = Vec::new();
        for d in 0..rank {
            if a[d] != b[d] && a[d] != 1 && b[d] != 1 {
                return None;
            }
            out.push(if a[d] == 1 { b[d] } else { a[d] });
        }
        Some(out)
    }

    fn dims() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(prop_oneof![3 => Just(1usize), 2 => 0usize..4], 0..5)
    }

    proptest! {
        #[test]
        fn shapes_agree_with_the_definition(a in dims(), b in dims()) {
            let want = oracle(&a, &b);
            let got = run("Add", attrs(), &[unknown(&a), unknown(&b)]).ok();
            prop_assert_eq!(got.map(|f| f[0].shape.clone()), want);
        }

        #[test]
        fn values_agree_with_the_definition(a in dims(), b in dims()) {
            if let Some(to) = oracle(&a, &b) {
                let n: usize = a.iter().product();
                let got = spread((0..n).collect(), &a, &to);
                let lead = to.len() - a.len();
                let mut want = Vec::new();
                for_each(&to, |at| {
                    let mut index = 0;
                    for (d, &size) in a.iter().enumerate() {
                        index = index * size + if size == 1 { 0 } else { at[lead + d] };
                    }
                    want.push(index);
                });
                prop_assert_eq!(got, want);
            }
        }
    }
}
