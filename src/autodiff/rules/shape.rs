//! Operators that move or repeat elements.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError};

type Done = Result<(), GraphError>;

/// Whatever keeps the order of the elements.
pub fn reshape(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    let dx = s.reshape_like(dy, s.x(0)?)?;
    s.give(0, dx);
    Ok(())
}

pub fn transpose(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    let rank = s.graph.rank(dy);
    let perm: Vec<i64> = match s.node.attrs.ints("perm") {
        Some(perm) => perm.to_vec(),
        None => (0..rank as i64).rev().collect(),
    };
    let mut inverse = vec![0; rank];
    for (to, &from) in perm.iter().enumerate() {
        let from = s.axis(from, rank)?;
        inverse[from] = to as i64;
    }
    let dx = s.transpose(dy, &inverse)?;
    s.give(0, dx);
    Ok(())
}

pub fn expand(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    s.give_summed(0, dy)
}

/// The sum over the copies.
pub fn tile(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let repeats = s.ints(1).ok_or_else(|| s.node.unsupported("repeats that are not constant"))?;
    let (mut target, mut axes) = (Vec::new(), Vec::new());
    for (d, &n) in s.graph.shape(x).iter().zip(&repeats) {
        if n != 1 {
            axes.push(target.len() as i64);
            target.push(n);
        }
        target.push(d.constant().map_or(-1, |d| d as i64));
    }
    if target.iter().filter(|&&t| t == -1).count() > 1 || target.contains(&0) {
        return Err(s.node.unsupported("several dimensions that vary"));
    }
    let copies = s.reshape(dy, &target)?;
    let dx = if axes.is_empty() { copies } else { s.reduce_sum(copies, &axes, false)? };
    s.give(0, dx);
    Ok(())
}

/// The same triangle of the gradient.
pub fn trilu(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    let mut inputs = s.node.inputs.clone();
    if let Some(x) = inputs.first_mut() {
        *x = Some(dy);
    }
    let attrs: Attrs = s.node.attrs.clone();
    if let Some(&dx) = s.graph.op_n("Trilu", &inputs, attrs, 1)?.first() {
        s.give(0, dx);
    }
    Ok(())
}
