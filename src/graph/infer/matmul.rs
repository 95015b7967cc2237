//! Products of matrices.

use super::Concrete;
use super::broadcast::{broadcast, need_within};
use super::call::{Call, Facts, like};
use super::gather::frozen_scale;
use crate::graph::GraphError;
use crate::graph::frozen::BLOCK;
use crate::tensor::DType;

/// The shape of `a` times `b` after the rules of NumPy: rank 1 counts as a row on the left and as
/// a column on the right, and that dimension is dropped again.
fn product(call: &Call, a: &[usize], b: &[usize]) -> Result<Vec<usize>, GraphError> {
    let bad = || call.invalid(format!("shapes {a:?} and {b:?} cannot be multiplied"));
    let (&k, rows) = a.split_last().ok_or_else(bad)?;
    let (inner, columns, batch_b) = match b {
        [] => return Err(bad()),
        &[inner] => (inner, None, &b[..0]),
        &[ref batch @ .., inner, columns] => (inner, Some(columns), batch),
    };
    if k != inner {
        return Err(bad());
    }
    let (batch_a, row) = match rows.split_last() {
        Some((&row, batch)) => (batch, Some(row)),
        None => (rows, None),
    };
    let mut shape = broadcast(batch_a, batch_b).ok_or_else(bad)?;
    shape.extend(row);
    shape.extend(columns);
    Ok(shape)
}

/// `MatMul`.
pub(super) fn matmul(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.need_same_type(&[a, b])?;
    Ok(vec![like(a, product(call, &a.shape, &b.shape)?)])
}

/// `MatMulInteger`.
pub(super) fn matmul_integer(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    need_bytes(call, &[a, b])?;
    Ok(vec![Concrete::unknown(DType::I32, product(call, &a.shape, &b.shape)?)])
}

/// `QLinearMatMul`.
pub(super) fn qlinear_matmul(call: &Call) -> Facts {
    let (a, b, zero) = (call.input(0)?, call.input(3)?, call.input(7)?);
    need_bytes(call, &[a, b, zero])?;
    Ok(vec![like(zero, product(call, &a.shape, &b.shape)?)])
}

/// Quantized operands are i8 or u8.
pub(super) fn need_bytes(call: &Call, inputs: &[&Concrete]) -> Result<(), GraphError> {
    match inputs.iter().find(|x| !matches!(x.dtype, DType::I8 | DType::U8)) {
        None => Ok(()),
        Some(x) => Err(call.invalid(format!("an operand of {}, not i8 or u8", x.dtype))),
    }
}

/// `Gemm`.
pub(super) fn gemm(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.need_same_type(&[a, b])?;
    let matrix = |x: &Concrete, transposed: bool| match (&x.shape[..], transposed) {
        (&[m, n], false) | (&[n, m], true) => Ok((m, n)),
        (shape, _) => Err(call.invalid(format!("shape {shape:?} is not a matrix"))),
    };
    let (m, k) = matrix(a, call.flag("transA", false)?)?;
    let (inner, n) = matrix(b, call.flag("transB", false)?)?;
    if k != inner {
        let (a, b) = (&a.shape, &b.shape);
        return Err(call.invalid(format!("shapes {a:?} and {b:?} cannot be multiplied")));
    }
    if let Some(c) = call.optional(2) {
        call.need_same_type(&[a, c])?;
        need_within(call, "C", c, &[m, n])?;
    }
    Ok(vec![like(a, [m, n])])
}

/// `Einsum` without an ellipsis.
pub(super) fn einsum(call: &Call) -> Facts {
    let inputs = call.all()?;
    call.need_same_type(&inputs)?;
    let equation: String = call.str_or("equation", "")?.split_whitespace().collect();
    if equation.contains("...") {
        return Err(call.node.unsupported("an ellipsis"));
    }
    let bad = |why: &str| call.invalid(format!("equation `{equation}`: {why}"));
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != inputs.len() {
        return Err(bad(&format!("{} terms for {} inputs", terms.len(), inputs.len())));
    }
    let mut sizes = std::collections::BTreeMap::new();
    let mut uses = std::collections::BTreeMap::new();
    for (term, x) in terms.iter().zip(&inputs) {
        if term.chars().count() != x.shape.len() {
            return Err(bad(&format!("term `{term}` does not fit shape {:?}", x.shape)));
        }
        for (letter, &size) in term.chars().zip(&x.shape) {
            if !letter.is_ascii_alphabetic() {
                return Err(bad(&format!("`{letter}` is not a letter")));
            }
            if *sizes.entry(letter).or_insert(size) != size {
                return Err(bad(&format!("`{letter}` has two sizes")));
            }
            *uses.entry(letter).or_insert(0usize) += 1;
        }
    }
    // Without an arrow the letters that occur once remain, in alphabetical order.
    let implicit = || uses.iter().filter(|(_, n)| **n == 1).map(|(c, _)| *c).collect();
    let output: String = right.map_or_else(implicit, str::to_owned);
    let mut shape = Vec::new();
    for (i, letter) in output.char_indices() {
        match sizes.get(&letter) {
            Some(&size) if !output[..i].contains(letter) => shape.push(size),
            _ => return Err(bad(&format!("output letter `{letter}`"))),
        }
    }
    Ok(vec![like(call.input(0)?, shape)])
}

/// `FrozenLinear`: x W or, with `backward=1`, x W^T.
pub(super) fn frozen(call: &Call) -> Facts {
    let (x, weight) = (call.input(0)?, call.input(1)?);
    call.need_type(x, DType::F32)?;
    let &[k, n] = &weight.shape[..] else {
        return Err(call.invalid(format!("the weight has shape {:?}, not [K, N]", weight.shape)));
    };
    match (weight.dtype, call.optional(2)) {
        (DType::I4, Some(scale)) => {
            call.need_type(scale, DType::F16)?;
            call.need_shape("the scale", scale, &[k.div_ceil(BLOCK), n])?;
        }
        (_, scale) => frozen_scale(call, weight, scale, n)?,
    }
    let (from, to) = if call.flag("backward", false)? { (n, k) } else { (k, n) };
    match x.shape.split_last() {
        Some((&width, rows)) if width == from => Ok(vec![like(x, [rows, &[to]].concat())]),
        _ => Err(call.invalid(format!("the input has shape {:?}, not [.., {from}]", x.shape))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn every_rank_multiplies() {
        let mm = |a: &[usize], b: &[usize]| shape("MatMul", attrs(), &[unknown(a), unknown(b)]);
        assert_eq!(mm(&[2, 3], &[3, 4]), [2, 4]);
        assert_eq!(mm(&[3], &[3, 4]), [4]);
        assert_eq!(mm(&[2, 3], &[3]), [2]);
        assert_eq!(mm(&[3], &[3]), [0usize; 0]);
        assert_eq!(mm(&[5, 1, 2, 3], &[7, 3, 4]), [5, 7, 2, 4]);
        assert_eq!(mm(&[3], &[7, 3, 4]), [7, 4]);
        assert_eq!(mm(&[7, 2, 3], &[3]), [7, 2]);
        let bad = |a: &[usize], b: &[usize]| refused("MatMul", attrs(), &[unknown(a), unknown(b)]);
        assert!(bad(&[2, 3], &[2, 3]));
        assert!(bad(&[], &[3]) && bad(&[3], &[]));
        assert!(bad(&[2, 2, 3], &[3, 3, 4]));
        assert!(refused("MatMul", attrs(), &[unknown(&[2, 3]), ids(&[3, 4])]));
    }

    #[test]
    fn gemm_transposes() {
        let inputs = |c: &[usize]| [unknown(&[3, 2]), unknown(&[4, 3]), unknown(c)];
        let both = attrs().with("transA", 1).with("transB", 1);
        assert_eq!(shape("Gemm", both.clone(), &inputs(&[4])), [2, 4]);
        assert!(refused("Gemm", both.clone(), &inputs(&[3])));
        assert!(refused("Gemm", both, &inputs(&[1, 2, 4])));
        assert!(refused("Gemm", attrs(), &inputs(&[4])));
        assert!(refused("Gemm", attrs(), &[unknown(&[1, 3, 2]), unknown(&[2, 4])]));
    }

    #[test]
    fn integer_products_widen() {
        let q = |shape: &[usize]| Concrete::unknown(DType::I8, shape);
        let y = run("MatMulInteger", attrs(), &[q(&[2, 3]), q(&[3, 4])]).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::I32, vec![2, 4]));
        assert!(refused("MatMulInteger", attrs(), &[unknown(&[2, 3]), q(&[3, 4])]));
        let s = unknown(&[]);
        let all = [q(&[2, 3]), s.clone(), q(&[]), q(&[3, 4]), s.clone(), q(&[]), s, q(&[])];
        let y = run("QLinearMatMul", attrs(), &all).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::I8, vec![2, 4]));
    }

    #[test]
    fn einsum_follows_its_equation() {
        let by = |e: &str| attrs().with("equation", e);
        let inputs = [unknown(&[2, 3, 4]), unknown(&[2, 4, 5])];
        assert_eq!(shape("Einsum", by("bij, bjk -> bik"), &inputs), [2, 3, 5]);
        assert_eq!(shape("Einsum", by("bij,bjk"), &inputs), [3, 5]);
        assert_eq!(shape("Einsum", by("ii->"), &[unknown(&[3, 3])]), [0usize; 0]);
        for bad in ["bij,bkj->bik", "bij->b", "bij,bjk->bbk", "bij,bjk->z", "bij,bj->b", "b1j,bjk"]
        {
            assert!(refused("Einsum", by(bad), &inputs), "{bad}");
        }
        let e = run("Einsum", by("...i->..."), &[unknown(&[2])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn frozen_linear_goes_both_ways() {
        let w = Concrete::unknown(DType::I8, [4, 6]);
        let scale = unknown(&[6]);
        let back = attrs().with("backward", 1);
        let y = |attrs, x: &[usize]| {
            run("FrozenLinear", attrs, &[unknown(x), w.clone(), scale.clone()])
        };
        assert_eq!(y(attrs(), &[2, 7, 4]).unwrap()[0].shape, [2, 7, 6]);
        assert_eq!(y(back.clone(), &[6]).unwrap()[0].shape, [4]);
        assert!(y(back, &[2, 4]).is_err());
        assert!(y(attrs(), &[]).is_err());
        assert!(refused("FrozenLinear", attrs(), &[unknown(&[4]), w.clone()]));
        assert!(refused("FrozenLinear", attrs(), &[ids(&[4]), w, scale]));
        assert!(run("FrozenLinear", attrs(), &[unknown(&[4]), unknown(&[4, 6])]).is_ok());
        assert!(refused("FrozenLinear", attrs(), &[unknown(&[4]), unknown(&[4])]));
    }
}
