//! Activation functions and softmax.

use std::f32::consts::FRAC_2_SQRT_PI;

use crate::autodiff::step::Step;
use crate::graph::{GraphError, ValueId};

type Done = Result<(), GraphError>;

/// Gives `dy * slope`.
fn chain(s: &mut Step<'_>, slope: ValueId) -> Done {
    let dy = s.dy()?;
    let dx = s.mul(dy, slope)?;
    s.give(0, dx);
    Ok(())
}

pub fn relu(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let zero = s.float(dy, 0.0)?;
    let positive = s.op("Greater", &[y, zero])?;
    let dx = s.op("Where", &[positive, dy, zero])?;
    s.give(0, dx);
    Ok(())
}

pub fn leaky_relu(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let zero = s.float(dy, 0.0)?;
    let positive = s.op("Greater", &[x, zero])?;
    let small = s.scale(dy, s.node.attrs.float("alpha").unwrap_or(0.01))?;
    let dx = s.op("Where", &[positive, dy, small])?;
    s.give(0, dx);
    Ok(())
}

pub fn elu(s: &mut Step<'_>) -> Done {
    let (x, y) = (s.x(0)?, s.y()?);
    let (zero, one) = (s.float(x, 0.0)?, s.float(x, 1.0)?);
    let alpha = s.float(x, s.node.attrs.float("alpha").unwrap_or(1.0))?;
    // alpha e^x = y + alpha where x < 0
    let below = s.add(y, alpha)?;
    let positive = s.op("Greater", &[x, zero])?;
    let slope = s.op("Where", &[positive, one, below])?;
    chain(s, slope)
}

pub fn sigmoid(s: &mut Step<'_>) -> Done {
    let y = s.y()?;
    let one = s.float(y, 1.0)?;
    let rest = s.sub(one, y)?;
    let slope = s.mul(y, rest)?;
    chain(s, slope)
}

pub fn hard_sigmoid(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let (zero, one) = (s.float(y, 0.0)?, s.float(y, 1.0)?);
    let above = s.op("Greater", &[y, zero])?;
    let below = s.op("Less", &[y, one])?;
    let inside = s.op("And", &[above, below])?;
    let scaled = s.scale(dy, s.node.attrs.float("alpha").unwrap_or(0.2))?;
    let dx = s.op("Where", &[inside, scaled, zero])?;
    s.give(0, dx);
    Ok(())
}

/// x max(0, min(1, x/6 + 1/2)): slope 0 below -3, 1 above 3, x/3 + 1/2 between.
pub fn hard_swish(s: &mut Step<'_>) -> Done {
    let x = s.x(0)?;
    let (zero, one, half) = (s.float(x, 0.0)?, s.float(x, 1.0)?, s.float(x, 0.5)?);
    let (low, high) = (s.float(x, -3.0)?, s.float(x, 3.0)?);
    let third = s.scale(x, 1.0 / 3.0)?;
    let middle = s.add(third, half)?;
    let above = s.op("Greater", &[x, low])?;
    let below = s.op("Less", &[x, high])?;
    let upper = s.op("Where", &[below, middle, one])?;
    let slope = s.op("Where", &[above, upper, zero])?;
    chain(s, slope)
}

pub fn softplus(s: &mut Step<'_>) -> Done {
    let slope = s.op("Sigmoid", &[s.x(0)?])?;
    chain(s, slope)
}

pub fn tanh(s: &mut Step<'_>) -> Done {
    let y = s.y()?;
    let slope = one_minus_square(s, y)?;
    chain(s, slope)
}

pub fn erf(s: &mut Step<'_>) -> Done {
    let x = s.x(0)?;
    let square = s.mul(x, x)?;
    let power = s.neg(square)?;
    let bell = s.op("Exp", &[power])?;
    let slope = s.scale(bell, FRAC_2_SQRT_PI)?;
    chain(s, slope)
}

pub fn gelu(s: &mut Step<'_>) -> Done {
    let dx = s.op_with("FusedGeluGrad", &[s.x(0)?, s.dy()?], s.node.attrs.clone())?;
    s.give(0, dx);
    Ok(())
}

fn one_minus_square(s: &mut Step<'_>, v: ValueId) -> Result<ValueId, GraphError> {
    let one = s.float(v, 1.0)?;
    let square = s.mul(v, v)?;
    s.sub(one, square)
}

pub fn softmax(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(-1), s.graph.rank(y))?;
    let weighted = s.mul(dy, y)?;
    let sum = s.reduce_sum(weighted, &[axis as i64], true)?;
    let centred = s.sub(dy, sum)?;
    let dx = s.mul(y, centred)?;
    s.give(0, dx);
    Ok(())
}

pub fn log_softmax(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(-1), s.graph.rank(y))?;
    let probability = s.op("Exp", &[y])?;
    let sum = s.reduce_sum(dy, &[axis as i64], true)?;
    let share = s.mul(probability, sum)?;
    let dx = s.sub(dy, share)?;
    s.give(0, dx);
    Ok(())
}
