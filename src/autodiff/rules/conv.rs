//! Convolution over any number of spatial dimensions.

use crate::autodiff::step::{Extent, Step};
use crate::graph::{Attrs, Dim, GraphError, ValueId};

type Done = Result<(), GraphError>;

/// How a sliding window lies over the spatial dimensions.
pub(super) struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

impl Window {
    /// The window of a convolution or pooling node with this kernel.
    pub fn of(s: &Step<'_>, kernel: Vec<usize>) -> Result<Window, GraphError> {
        let rank = kernel.len();
        let list = |name: &str, len: usize, default: usize| {
            let Some(list) = s.node.attrs.ints(name) else { return Ok(vec![default; len]) };
            let list: Result<Vec<usize>, _> = list.iter().map(|&v| usize::try_from(v)).collect();
            list.ok()
                .filter(|l| l.len() == len)
                .ok_or_else(|| s.node.invalid(format!("attribute {name} does not fit")))
        };
        let strides = list("strides", rank, 1)?;
        let dilations = list("dilations", rank, 1)?;
        if strides.contains(&0) || kernel.contains(&0) {
            return Err(s.node.invalid("strides and kernel sizes start at 1".into()));
        }
        let mut before = list("pads", 2 * rank, 0)?;
        let mut after = before.split_off(rank);
        let auto = s.node.attrs.str("auto_pad").unwrap_or("NOTSET");
        if auto == "SAME_UPPER" || auto == "SAME_LOWER" {
            let (x, y) = (s.graph.shape(s.x(0)?), s.graph.shape(s.y()?));
            for d in 0..rank {
                let size = |v: &[Dim]| v.get(2 + d).and_then(|d| d.constant());
                let (Some(n), Some(m @ 1..)) = (size(x), size(y)) else {
                    return Err(s.node.unsupported("auto_pad over a size that varies"));
                };
                let reach = (m - 1) * strides[d] + dilations[d] * (kernel[d] - 1) + 1;
                let total = reach.saturating_sub(n);
                let small = total / 2;
                let upper = auto == "SAME_UPPER";
                before[d] = if upper { small } else { total - small };
                after[d] = total - before[d];
            }
        } else if auto == "VALID" {
            before.fill(0);
            after.fill(0);
        }
        Ok(Window { kernel, strides, dilations, before, after })
    }

    /// Elements at the far end of each dimension of input 0 that no window reaches.
    pub fn unreached(&self, s: &Step<'_>) -> Result<Vec<usize>, GraphError> {
        let x = s.graph.shape(s.x(0)?);
        (0..self.kernel.len())
            .map(|d| {
                let reach = self.dilations[d] * (self.kernel[d] - 1) + 1;
                let rest = x.get(2 + d).and_then(|dim| {
                    let rest = dim.0.map(|n| {
                        let free = (n + self.before[d] + self.after[d]).checked_sub(reach);
                        free.map(|free| free % self.strides[d])
                    });
                    rest[0].filter(|_| rest.iter().all(|r| *r == rest[0]))
                });
                rest.ok_or_else(|| s.node.unsupported("a stride over a size that varies"))
            })
            .collect()
    }

    /// The attributes of the `ConvTranspose` that undoes the window's shape.
    pub fn transposed(&self, s: &Step<'_>) -> Result<Attrs, GraphError> {
        let ints = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
        let pads = [ints(&self.before), ints(&self.after)].concat();
        Ok(Attrs::none()
            .with("strides", ints(&self.strides).as_slice())
            .with("dilations", ints(&self.dilations).as_slice())
            .with("pads", pads.as_slice())
            .with("output_padding", ints(&self.unreached(s)?).as_slice()))
    }
}

pub fn conv(s: &mut Step<'_>) -> Done {
    let (w, dy) = (s.x(1)?, s.dy()?);
    let kernel: Option<Vec<usize>> =
        s.graph.shape(w).iter().skip(2).map(|d| d.constant()).collect();
    let kernel = kernel.ok_or_else(|| s.node.unsupported("a kernel size that varies"))?;
    let window = Window::of(s, kernel)?;
    let group = s.node.attrs.int("group").unwrap_or(1);
    if s.wants(0) {
        let attrs = window.transposed(s)?.with("group", group);
        let dx = s.op_with("ConvTranspose", &[dy, w], attrs)?;
        s.give(0, dx);
    }
    if s.wants(1) {
        let dw = weight(s, &window, group)?;
        s.give(1, dw);
    }
    if s.wants(2) {
        let axes: Vec<i64> = (0..s.graph.rank(dy) as i64).filter(|&a| a != 1).collect();
        let db = s.reduce_sum(dy, &axes, false)?;
        s.give(2, db);
    }
    Ok(())
}

/// The weight gradient: for each position in the kernel, the product of dy with the elements of x
/// that this position met.
fn weight(s: &mut Step<'_>, window: &Window, group: i64) -> Result<ValueId, GraphError> {
    let (x, w, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let spatial: Option<Vec<usize>> =
        s.graph.shape(dy).iter().skip(2).map(|d| d.constant()).collect();
    let spatial = spatial.ok_or_else(|| s.node.unsupported("a trained kernel at varying sizes"))?;
    let (Some(outputs), Some(inputs)) =
        (s.graph.shape(w)[0].constant(), s.graph.shape(w)[1].constant())
    else {
        return Err(s.node.unsupported("a number of channels that varies"));
    };
    let (outputs, inputs) = (outputs as i64, inputs as i64);
    let places = spatial.iter().product::<usize>() as i64;
    if group < 1 || places < 1 || outputs < 1 || inputs < 1 {
        return Err(s.node.unsupported("an empty dimension"));
    }
    let mut padded = x;
    for d in 0..spatial.len() {
        let (before, after) = (window.before[d], window.after[d]);
        padded = s.pad(padded, 2 + d, Extent::Fixed(before), Extent::Fixed(after))?;
    }
    let dy = s.reshape(dy, &[-1, group, outputs / group, places])?;
    let taps: usize = window.kernel.iter().product();
    let mut parts = Vec::with_capacity(taps);
    for tap in 0..taps {
        let met = met_by(s, window, padded, tap, &spatial)?;
        let met = s.reshape(met, &[-1, group, inputs, places])?;
        let met = s.transpose_last(met)?;
        let product = s.op("MatMul", &[dy, met])?;
        let sum = s.reduce_sum(product, &[0], false)?;
        parts.push(s.reshape(sum, &[outputs, inputs, 1])?);
    }
    let all = s.concat(&parts, 2)?;
    s.reshape_like(all, w)
}

/// The elements of the padded input that position `tap` of the kernel meets.
fn met_by(
    s: &mut Step<'_>,
    window: &Window,
    padded: ValueId,
    tap: usize,
    spatial: &[usize],
) -> Result<ValueId, GraphError> {
    let (mut starts, mut ends, mut axes, mut steps) = (vec![], vec![], vec![], vec![]);
    let mut rest = tap;
    for (d, &m) in spatial.iter().enumerate().rev() {
        let start = rest % window.kernel[d] * window.dilations[d];
        rest /= window.kernel[d];
        let end = start + (m - 1) * window.strides[d] + 1;
        if s.graph.shape(padded)[2 + d] != Dim::fixed(m) {
            starts.push(start as i64);
            ends.push(end as i64);
            axes.push(2 + d as i64);
            steps.push(window.strides[d] as i64);
        }
    }
    if axes.is_empty() {
        return Ok(padded);
    }
    let inputs = [&starts, &ends, &axes, &steps].map(|v| s.graph.ints(v));
    let [starts, ends, axes, steps] = inputs;
    s.op("Slice", &[padded, starts, ends, axes, steps])
}
