//! The same elements under another shape or order.

use super::Concrete;
use super::call::{Call, Facts, elements, like};
use super::movement::{moved, offset, strides};
use crate::graph::GraphError;

/// `x` under another shape; shares the elements, however many.
fn reshaped(x: &Concrete, shape: Vec<usize>) -> Facts {
    Ok(vec![match &x.value {
        Some(t) => t.reshaped(&shape)?.into(),
        None => like(x, shape),
    }])
}

fn count(dims: &[usize]) -> Option<usize> {
    elements(dims.iter().copied())
}

/// `Reshape`.
pub(super) fn reshape(call: &Call) -> Facts {
    let x = call.input(0)?;
    let target = call.need_ints(1, "a shape")?;
    let keep_zero = call.flag("allowzero", false)?;
    let mut shape = Vec::with_capacity(target.len());
    let mut free = None;
    for (d, &v) in target.iter().enumerate() {
        shape.push(match v {
            0 if !keep_zero => *x
                .shape
                .get(d)
                .ok_or_else(|| call.invalid(format!("0 at {d} has no dimension to copy")))?,
            -1 if free.replace(d).is_none() => 1,
            -1 => return Err(call.invalid("the target shape has more than one -1")),
            v => call.size(v, "a target dimension")?,
        });
    }
    let bad = || call.invalid(format!("shape {:?} does not fit {target:?}", x.shape));
    let have = count(&x.shape).ok_or_else(bad)?;
    let rest = count(&shape).ok_or_else(bad)?;
    if let Some(d) = free {
        if rest == 0 || have % rest != 0 {
            return Err(bad());
        }
        shape[d] = have / rest;
    } else if have != rest {
        return Err(bad());
    }
    reshaped(x, shape)
}

/// `Flatten`.
pub(super) fn flatten(call: &Call) -> Facts {
    let x = call.input(0)?;
    let rank = x.shape.len();
    let axis = match call.int_or("axis", 1)? {
        // Here, unlike elsewhere, an axis equal to the rank is allowed.
        a if a == rank as i64 => rank,
        a => call.axis(a, rank)?,
    };
    let (head, tail) = x.shape.split_at(axis);
    let shape = [count(head), count(tail)].into_iter().collect::<Option<Vec<_>>>();
    reshaped(x, shape.ok_or_else(|| call.invalid("the shape is too large"))?)
}

/// `Squeeze`: the axes named, or all dimensions of 1.
pub(super) fn squeeze(call: &Call) -> Facts {
    let x = call.input(0)?;
    let drop = match call.axes_input(1)? {
        Some(axes) => call.axes(&axes, x.shape.len())?,
        None => x.shape.iter().map(|&d| d == 1).collect(),
    };
    let mut shape = Vec::new();
    for (d, (&size, drop)) in x.shape.iter().zip(drop).enumerate() {
        match drop {
            false => shape.push(size),
            true if size == 1 => {}
            true => return Err(call.invalid(format!("axis {d} has size {size}, not 1"))),
        }
    }
    reshaped(x, shape)
}

/// `Unsqueeze`.
pub(super) fn unsqueeze(call: &Call) -> Facts {
    let x = call.input(0)?;
    let axes = call.axes_input(1)?.ok_or_else(|| call.invalid("axes are missing"))?;
    let inserted = call.axes(&axes, x.shape.len() + axes.len())?;
    let mut dims = x.shape.iter();
    let shape = inserted.iter().filter_map(|&new| if new { Some(1) } else { dims.next().copied() });
    reshaped(x, shape.collect())
}

/// `Transpose`.
pub(super) fn transpose(call: &Call) -> Facts {
    let x = call.input(0)?;
    let rank = x.shape.len();
    let perm: Vec<usize> = match call.ints_attr("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            call.axes(perm, rank)?;
            if perm.len() != rank {
                return Err(call.invalid(format!("perm {perm:?} does not fit rank {rank}")));
            }
            perm.iter().map(|&a| call.axis(a, rank)).collect::<Result<_, _>>()?
        }
    };
    let from = strides(&x.shape);
    let strides: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    let shape = perm.iter().map(|&p| x.shape[p]).collect();
    Ok(vec![moved(x, shape, |at| Some(offset(at, &strides)))?])
}

/// `DepthToSpace` and `SpaceToDepth` of `[N, C, H, W]`.
pub(super) fn depth_space(call: &Call) -> Facts {
    let x = call.input(0)?;
    let &[n, c, h, w] = &x.shape[..] else {
        return Err(call.invalid(format!("rank 4 is needed, not shape {:?}", x.shape)));
    };
    let block = call.size(call.int_or("blocksize", 0)?, "blocksize")?;
    let square = block.checked_mul(block).filter(|&s| s > 0);
    let square = square.ok_or_else(|| call.invalid(format!("blocksize {block}")))?;
    let whole = |n: usize, by: usize| -> Result<usize, GraphError> {
        match n % by {
            0 => Ok(n / by),
            _ => Err(call.invalid(format!("{n} is not a multiple of {by}"))),
        }
    };
    let times = |a: usize, b: usize| {
        a.checked_mul(b).ok_or_else(|| call.invalid("the output is too large"))
    };
    let shape = if call.node.op == "DepthToSpace" {
        [n, whole(c, square)?, times(h, block)?, times(w, block)?]
    } else {
        [n, times(c, square)?, whole(h, block)?, whole(w, block)?]
    };
    Ok(vec![like(x, shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::tensor::{DType, Tensor};

    #[test]
    fn reshape_copies_and_completes() {
        let x = unknown(&[2, 3, 4]);
        let to = |v: &[i64]| shape("Reshape", attrs(), &[x.clone(), ints(v)]);
        assert_eq!(to(&[0, -1]), [2, 12]);
        assert_eq!(to(&[4, 6]), [4, 6]);
        assert_eq!(to(&[0, 0, 2, -1]), [2, 3, 2, 2]);
        let zero = attrs().with("allowzero", 1);
        assert_eq!(shape("Reshape", zero, &[unknown(&[0, 3]), ints(&[3, 0])]), [3, 0]);
        assert_eq!(shape("Reshape", attrs(), &[unknown(&[1, 1]), ints(&[])]), [0usize; 0]);
        let large = Concrete::from(Tensor::zeros(DType::F32, &[1 << 20]));
        let y = run("Reshape", attrs(), &[large, ints(&[1024, -1])]).unwrap().remove(0);
        assert_eq!(y.value.unwrap().shape(), [1024, 1024]);
    }

    #[test]
    fn bad_reshapes_are_refused() {
        let bad = |x: &[usize], v: &[i64]| refused("Reshape", attrs(), &[unknown(x), ints(v)]);
        assert!(bad(&[2, 3], &[4]));
        assert!(bad(&[2, 3], &[-1, -1]));
        assert!(bad(&[2, 3], &[-2, 3]));
        assert!(bad(&[2, 3], &[-1, 4]));
        assert!(bad(&[2, 3], &[2, 3, 0]));
        assert!(bad(&[0, 3], &[0, -1]));
        assert!(bad(&[2], &[i64::MAX, i64::MAX]));
        assert!(refused("Reshape", attrs(), &[unknown(&[2]), floats(&[2.0])]));
        let e = run("Reshape", attrs(), &[unknown(&[2]), ids(&[1])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn axes_are_dropped_and_added() {
        let x = unknown(&[1, 3, 1]);
        assert_eq!(shape("Squeeze", attrs(), std::slice::from_ref(&x)), [3]);
        assert_eq!(shape("Squeeze", attrs(), &[x.clone(), ints(&[-1])]), [1, 3]);
        assert_eq!(shape("Unsqueeze", attrs(), &[x.clone(), ints(&[0, -1])]), [1, 1, 3, 1, 1]);
        let axes = attrs().with("axes", &[1][..]);
        assert_eq!(shape("Unsqueeze", axes, std::slice::from_ref(&x)), [1, 1, 3, 1]);
        assert_eq!(value("Unsqueeze", attrs(), &[int(7), ints(&[0])]), Tensor::vector(&[7i64]));
        assert!(refused("Squeeze", attrs(), &[x.clone(), ints(&[1])]));
        assert!(refused("Squeeze", attrs(), &[x.clone(), ints(&[3])]));
        assert!(refused("Unsqueeze", attrs(), &[x.clone(), ints(&[0, 0])]));
        assert!(refused("Unsqueeze", attrs(), &[x.clone(), ints(&[i64::MIN])]));
        assert!(refused("Unsqueeze", attrs(), &[x]));
    }

    #[test]
    fn flatten_makes_a_matrix() {
        let x = unknown(&[2, 3, 4]);
        let at = |a: i64| shape("Flatten", attrs().with("axis", a), std::slice::from_ref(&x));
        assert_eq!(at(0), [1, 24]);
        assert_eq!(at(3), [24, 1]);
        assert_eq!(at(-1), [6, 4]);
        assert!(refused("Flatten", attrs().with("axis", 4), std::slice::from_ref(&x)));
    }

    #[test]
    fn transpose_moves_elements() {
        let x = grid(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let t = value("Transpose", attrs(), std::slice::from_ref(&x));
        assert_eq!(t, Tensor::new(&[3, 2], &[1i64, 4, 2, 5, 3, 6]).unwrap());
        let perm = |p: &[i64]| attrs().with("perm", p);
        assert_eq!(shape("Transpose", perm(&[0, 2, 1]), &[unknown(&[2, 3, 4])]), [2, 4, 3]);
        assert!(refused("Transpose", perm(&[0]), std::slice::from_ref(&x)));
        assert!(refused("Transpose", perm(&[0, 0]), std::slice::from_ref(&x)));
        assert!(refused("Transpose", perm(&[0, 2]), &[x]));
    }

    #[test]
    fn depth_and_space_trade() {
        let block = |b: i64| attrs().with("blocksize", b);
        assert_eq!(shape("DepthToSpace", block(2), &[unknown(&[1, 8, 3, 3])]), [1, 2, 6, 6]);
        assert_eq!(shape("SpaceToDepth", block(3), &[unknown(&[1, 2, 6, 6])]), [1, 18, 2, 2]);
        assert!(refused("DepthToSpace", block(0), &[unknown(&[1, 8, 3, 3])]));
        assert!(refused("DepthToSpace", block(3), &[unknown(&[1, 8, 3, 3])]));
        assert!(refused("DepthToSpace", block(i64::MAX), &[unknown(&[1, 8, 3, 3])]));
        assert!(refused("SpaceToDepth", block(2), &[unknown(&[8, 3, 3])]));
    }
}
