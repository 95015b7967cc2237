//! `TopK`, `OneHot` and `NonZero`.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::movement::for_each;
use super::values::Numbers;
use crate::graph::GraphError;
use crate::tensor::{DType, Tensor};

/// `TopK`: values and indices.
pub(super) fn top_k(call: &Call) -> Facts {
    let x = call.input(0)?;
    let axis = call.axis_attr(-1, x.shape.len())?;
    let k = call.int_input(1, "k")?.ok_or_else(|| call.invalid("k is missing"))?;
    let k = call.size(k, "k")?;
    let size = x.shape[axis];
    if k > size {
        return Err(call.invalid(format!("k is {k}, the axis has {size} elements")));
    }
    let mut shape = x.shape.clone();
    shape[axis] = k;
    Ok(vec![like(x, shape.clone()), Concrete::unknown(DType::I64, shape)])
}

/// `OneHot`.
pub(super) fn one_hot(call: &Call) -> Facts {
    let (indices, values) = (call.input(0)?, call.input(2)?);
    let depth = depth(call)?;
    call.need_shape("values", values, &[2])?;
    let mut shape = indices.shape.clone();
    let axis = call.axis_attr(-1, shape.len() + 1)?;
    shape.insert(axis, depth);
    Ok(vec![like(values, shape)])
}

/// The depth may be of any numeric type.
fn depth(call: &Call) -> Result<usize, GraphError> {
    let depth = call.input(1)?;
    let v = match Numbers::of(depth) {
        None => return Err(call.node.unsupported("a depth that depends on data")),
        Some(Numbers::Ints(v)) => v,
        Some(Numbers::Floats(v)) => v.into_iter().map(|v| v as i64).collect(),
    };
    match v[..] {
        [n] => call.size(n, "depth"),
        _ => Err(call.invalid("the depth must be a scalar")),
    }
}

/// `NonZero`, of known elements: the shape depends on them.
pub(super) fn non_zero(call: &Call) -> Facts {
    let x = call.input(0)?;
    let Some(v) = Numbers::of(x) else {
        return Err(call.node.unsupported("data that is not known beforehand"));
    };
    if x.shape.is_empty() {
        return Err(call.node.unsupported("a scalar"));
    }
    let set: Vec<bool> = match v {
        Numbers::Ints(v) => v.into_iter().map(|v| v != 0).collect(),
        Numbers::Floats(v) => v.into_iter().map(|v| v != 0.0).collect(),
    };
    let mut found: Vec<Vec<i64>> = vec![vec![]; x.shape.len()];
    let mut elements = set.iter();
    for_each(&x.shape, |at| {
        if elements.next() == Some(&true) {
            found.iter_mut().zip(at).for_each(|(row, &a)| row.push(a as i64));
        }
    });
    let n = set.iter().filter(|s| **s).count();
    Ok(vec![Tensor::new(&[x.shape.len(), n], &found.concat())?.into()])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_best_k() {
        let x = unknown(&[2, 5]);
        let y = run_n("TopK", attrs(), &[x.clone(), ints(&[3])], 2).unwrap();
        assert_eq!((y[0].dtype, &y[0].shape[..]), (DType::F32, &[2, 3][..]));
        assert_eq!((y[1].dtype, &y[1].shape[..]), (DType::I64, &[2, 3][..]));
        assert!(refused("TopK", attrs(), &[x.clone(), ints(&[6])]));
        assert!(refused("TopK", attrs(), &[x.clone(), ints(&[-1])]));
        assert!(refused("TopK", attrs(), &[x.clone(), ints(&[1, 2])]));
        assert!(refused("TopK", attrs().with("axis", 2), &[x, ints(&[1])]));
    }

    #[test]
    fn one_hot_adds_an_axis() {
        let inputs = |depth| [ids(&[2, 3]), depth, floats(&[0.0, 1.0])];
        assert_eq!(shape("OneHot", attrs(), &inputs(int(9))), [2, 3, 9]);
        assert_eq!(shape("OneHot", attrs().with("axis", 0), &inputs(float(9.0))), [9, 2, 3]);
        assert!(refused("OneHot", attrs().with("axis", 3), &inputs(int(9))));
        assert!(refused("OneHot", attrs(), &inputs(int(-9))));
        assert!(refused("OneHot", attrs(), &inputs(ints(&[1, 2]))));
        assert!(refused("OneHot", attrs(), &[ids(&[2]), int(3), float(1.0)]));
    }

    #[test]
    fn non_zero_lists_coordinates() {
        let v = value("NonZero", attrs(), &[grid(&[2, 2], &[0, 1, 1, 0])]);
        assert_eq!(v, Tensor::new(&[2, 2], &[0i64, 1, 1, 0]).unwrap());
        assert_eq!(value("NonZero", attrs(), &[ints(&[0])]).shape(), [1, 0]);
        assert!(run("NonZero", attrs(), &[int(1)]).is_err());
        let e = run("NonZero", attrs(), &[ids(&[2])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }
}
