//! Pooling.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError};
use crate::tensor::{DType, Tensor};

use super::conv::Window;
use super::reduce;

type Done = Result<(), GraphError>;

fn kernel(s: &Step<'_>) -> Result<Vec<usize>, GraphError> {
    let sizes = s.node.attrs.ints("kernel_shape").unwrap_or_default();
    let sizes: Result<Vec<usize>, _> = sizes.iter().map(|&k| usize::try_from(k)).collect();
    sizes
        .ok()
        .filter(|k| k.len() + 2 == s.x(0).map_or(0, |x| s.graph.rank(x)))
        .ok_or_else(|| s.node.invalid("attribute kernel_shape does not fit".into()))
}

/// Reads the Indices output, which it adds to the node.
pub fn max(s: &mut Step<'_>) -> Done {
    if s.node.attrs.int("storage_order").unwrap_or(0) != 0 {
        return Err(s.node.unsupported("storage_order=1"));
    }
    let (x, y, dy) = (s.x(0)?, s.y()?, s.dy()?);
    let shape = s.graph.shape(y).to_vec();
    let indices = s.extra_output(1, DType::I64, shape)?;
    let zeros = s.zeros_like(x)?;
    let zeros = s.reshape(zeros, &[-1])?;
    let indices = s.reshape(indices, &[-1])?;
    let flat = s.reshape(dy, &[-1])?;
    let attrs = Attrs::none().with("axis", 0).with("reduction", "add");
    let sum = s.op_with("ScatterElements", &[zeros, indices, flat], attrs)?;
    let dx = s.reshape_like(sum, x)?;
    s.give(0, dx);
    Ok(())
}

/// Every element of a window gets the same share: a transposed convolution with ones, one channel
/// at a time.
pub fn average(s: &mut Step<'_>) -> Done {
    if s.node.attrs.int("ceil_mode").unwrap_or(0) != 0 {
        return Err(s.node.unsupported("ceil_mode=1"));
    }
    let (x, mut dy) = (s.x(0)?, s.dy()?);
    let window = Window::of(s, kernel(s)?)?;
    let sizes = |shape: &[crate::graph::Dim]| -> Option<Vec<usize>> {
        shape.iter().skip(2).map(|d| d.constant()).collect()
    };
    let (Some(from), Some(to)) = (sizes(s.graph.shape(x)), sizes(s.graph.shape(dy))) else {
        return Err(s.node.unsupported("sizes that vary"));
    };
    let counts_padding = s.node.attrs.int("count_include_pad").unwrap_or(0) != 0;
    let padded = window.before.iter().chain(&window.after).any(|&p| p > 0);
    if padded && !counts_padding {
        let shares = shares(&window, &from, &to);
        let shares = s.graph.add_constant("shares", Tensor::new(&to, &shares)?);
        dy = s.mul(dy, shares)?;
    } else {
        let count: usize = window.kernel.iter().product();
        dy = s.scale(dy, 1.0 / count as f32)?;
    }
    let mut single = vec![-1, 1];
    single.extend(to.iter().map(|&n| n as i64));
    let dy = s.reshape(dy, &single)?;
    let ones_shape = [&[1, 1], window.kernel.as_slice()].concat();
    let ones = vec![1f32; window.kernel.iter().product()];
    let ones = s.graph.add_constant("ones", Tensor::new(&ones_shape, &ones)?);
    let attrs = window.transposed(s)?;
    let dx = s.op_with("ConvTranspose", &[dy, ones], attrs)?;
    let dx = s.reshape_like(dx, x)?;
    s.give(0, dx);
    Ok(())
}

/// One over the number of elements, without padding, under each window.
fn shares(window: &Window, from: &[usize], to: &[usize]) -> Vec<f32> {
    let mut shares = vec![1f32];
    for d in 0..to.len() {
        let (n, before) = (from[d], window.before[d]);
        let counts: Vec<usize> = (0..to[d])
            .map(|m| {
                (0..window.kernel[d])
                    .map(|k| m * window.strides[d] + k * window.dilations[d])
                    .filter(|&i| i >= before && i < before + n)
                    .count()
            })
            .collect();
        shares =
            shares.iter().flat_map(|&s| counts.iter().map(move |&c| s / c.max(1) as f32)).collect();
    }
    shares
}

/// The mean over the spatial dimensions.
pub fn global_average(s: &mut Step<'_>) -> Done {
    reduce::mean(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_not_counted() {
        let window = Window {
            kernel: vec![2, 1],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            before: vec![1, 0],
            after: vec![0, 0],
        };
        assert_eq!(shares(&window, &[2, 2], &[2, 2]), [1.0, 1.0, 0.5, 0.5]);
    }
}
