//! Matrix products.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError, ValueId};

type Done = Result<(), GraphError>;

/// da = dy b^T and db = a^T dy, summed over broadcast batch dimensions.
pub fn matmul(s: &mut Step<'_>) -> Done {
    let (a, b, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    // A vector is a matrix with one row on the left, with one column on the right.
    let (mut a2, mut b2, mut dy2) = (a, b, dy);
    if s.graph.rank(b) == 1 {
        b2 = unsqueeze(s, b, 1)?;
        dy2 = unsqueeze(s, dy2, -1)?;
    }
    if s.graph.rank(a) == 1 {
        a2 = unsqueeze(s, a, 0)?;
        dy2 = unsqueeze(s, dy2, -2)?;
    }
    if s.wants(0) {
        let bt = s.transpose_last(b2)?;
        let da = s.op("MatMul", &[dy2, bt])?;
        let da = s.sum_to(da, a2)?;
        let da = s.reshape_like(da, a)?;
        s.give(0, da);
    }
    if s.wants(1) {
        let db = match (flatten(s, a2, b2)?, flatten(s, dy2, b2)?) {
            // One product over all rows, instead of one per batch entry and a sum.
            (Some(a), Some(dy)) => s.op_with("Gemm", &[a, dy], Attrs::none().with("transA", 1))?,
            _ => {
                let at = s.transpose_last(a2)?;
                let db = s.op("MatMul", &[at, dy2])?;
                s.sum_to(db, b2)?
            }
        };
        let db = s.reshape_like(db, b)?;
        s.give(1, db);
    }
    Ok(())
}

/// `v` as a matrix, if `weight` is one that all rows of `v` share.
fn flatten(s: &mut Step<'_>, v: ValueId, weight: ValueId) -> Result<Option<ValueId>, GraphError> {
    if s.graph.rank(weight) != 2 {
        return Ok(None);
    }
    if s.graph.rank(v) == 2 {
        return Ok(Some(v));
    }
    match s.graph.width(v) {
        Some(width @ 1..) => s.reshape(v, &[-1, width as i64]).map(Some),
        _ => Ok(None),
    }
}

fn unsqueeze(s: &mut Step<'_>, v: ValueId, axis: i64) -> Result<ValueId, GraphError> {
    let axis = s.graph.ints(&[axis]);
    s.op("Unsqueeze", &[v, axis])
}

pub fn gemm(s: &mut Step<'_>) -> Done {
    let (a, b, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let flag = |name| s.node.attrs.int(name).unwrap_or(0);
    let (ta, tb) = (flag("transA"), flag("transB"));
    let alpha = s.node.attrs.float("alpha").unwrap_or(1.0);
    let beta = s.node.attrs.float("beta").unwrap_or(1.0);
    let attrs =
        |ta: i64, tb: i64| Attrs::none().with("transA", ta).with("transB", tb).with("alpha", alpha);
    if s.wants(0) {
        let da = match ta {
            0 => s.op_with("Gemm", &[dy, b], attrs(0, 1 - tb))?,
            _ => s.op_with("Gemm", &[b, dy], attrs(tb, 1))?,
        };
        s.give(0, da);
    }
    if s.wants(1) {
        let db = match tb {
            0 => s.op_with("Gemm", &[a, dy], attrs(1 - ta, 0))?,
            _ => s.op_with("Gemm", &[dy, a], attrs(1, ta))?,
        };
        s.give(1, db);
    }
    if s.wants(2) {
        let dc = s.sum_to(dy, s.x(2)?)?;
        let dc = s.scale(dc, beta)?;
        s.give(2, dc);
    }
    Ok(())
}

/// Two operands, each label once per operand, and none that only one operand has and the output
/// lacks: the gradient is the product with the roles of output and operand exchanged.
pub fn einsum(s: &mut Step<'_>) -> Done {
    let equation: String = s.node.attrs.str("equation").unwrap_or("").split_whitespace().collect();
    let unsupported = || s.node.unsupported("this equation");
    let (operands, out) = equation.split_once("->").ok_or_else(unsupported)?;
    let (a, b) = operands.split_once(',').ok_or_else(unsupported)?;
    let plain = |labels: &str| {
        labels.chars().all(|c| c.is_ascii_alphabetic())
            && labels.chars().enumerate().all(|(i, c)| labels.find(c) == Some(i))
    };
    let found =
        |labels: &str, other: &str| labels.chars().all(|c| out.contains(c) || other.contains(c));
    if ![a, b, out].into_iter().all(plain) || !found(a, b) || !found(b, a) {
        return Err(unsupported());
    }
    let dy = s.dy()?;
    for (i, own, other) in [(0, a, b), (1, b, a)] {
        if s.wants(i) {
            let equation = format!("{out},{other}->{own}");
            let attrs = Attrs::none().with("equation", equation.as_str());
            let d = s.op_with("Einsum", &[dy, s.x(1 - i)?], attrs)?;
            s.give(i, d);
        }
    }
    Ok(())
}
