use super::Context;
use crate::graph::sites::BlockSite;
use crate::graph::{Attrs, Graph, GraphError, ValueId};
use crate::tensor::Tensor;

/// Channels that are normalised together.
const CHANNELS_PER_GROUP: usize = 8;
const EPSILON: f32 = 1e-5;

/// The lite residual of TinyTL (arXiv 2007.11622) beside block number `block`: added to the block's
/// main branch is `up(norm2(conv1x1(relu(norm1(conv(pool(x)))))))`. Pooling halves the map, so few
/// activations are kept for the gradients; `up` is bilinear. Both normalisations are over groups of
/// 8 channels (batch normalisation would need batches on the device).
///
/// Tensors are `{prefix}.conv1.weight [c, c / groups, k, k]`, `.norm1.weight [c]`, `.norm1.bias [c]`,
/// `.conv2.weight [o, c, 1, 1]`, `.norm2.weight [o]` and, with `shift`, `.norm2.bias [o]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteResidual {
    /// Block number.
    pub block: usize,
    /// How the names of its tensors start.
    pub prefix: String,
    /// Height and width of the block's input.
    pub size: [usize; 2],
    /// Groups of the first convolution.
    pub groups: usize,
    /// Side of its kernel, odd.
    pub kernel: usize,
    /// Whether the last normalisation has a shift.
    pub shift: bool,
}

impl LiteResidual {
    /// The branch for `block`, its kernel at most `kernel` and no wider than the pooled map; `None`
    /// if the size of the map varies.
    pub fn new(
        (number, block): (usize, &BlockSite),
        prefix: String,
        groups: usize,
        kernel: usize,
        shift: bool,
    ) -> Option<LiteResidual> {
        let size = block.size?;
        let room = pooled(size).into_iter().min().unwrap_or(1);
        let kernel = kernel.min(room - 1 + room % 2);
        let groups = if block.inputs.is_multiple_of(groups) { groups } else { 1 };
        Some(LiteResidual { block: number, prefix, size, groups, kernel, shift })
    }

    pub(super) fn insert(&self, context: &mut Context<'_>) -> Result<(), GraphError> {
        let missing = || GraphError::Undefined(format!("block {}", self.block));
        let cnn = context.backbone.sites.cnn.as_ref();
        let site = cnn.and_then(|c| c.blocks.get(self.block)).cloned().ok_or_else(missing)?;
        let tensor = |part: &str| context.tensor(&format!("{}.{part}", self.prefix));
        let (conv1, conv2) = (tensor("conv1.weight")?, tensor("conv2.weight")?);
        let norm1 = (tensor("norm1.weight")?, Some(tensor("norm1.bias")?));
        let shift = if self.shift { Some(tensor("norm2.bias")?) } else { None };
        let norm2 = (tensor("norm2.weight")?, shift);
        let x = context.site(&site.input)?;
        let (small, large) = (pooled(self.size), self.size.map(|n| n / site.stride.max(1)));
        context.insert_after(&site.branch, |g, y| {
            let x = if small == self.size { x } else { halved(g, x)? };
            let side = self.kernel as i64;
            let pad = side / 2;
            let attrs = Attrs::none()
                .with("kernel_shape", [side, side].as_slice())
                .with("pads", [pad, pad, pad, pad].as_slice())
                .with("group", self.groups as i64);
            let h = g.op("Conv", &[x, conv1], attrs)?;
            let h = group_norm(g, h, site.inputs, small, norm1)?;
            let h = g.op("Relu", &[h], Attrs::none())?;
            let attrs = Attrs::none().with("kernel_shape", [1i64, 1].as_slice());
            let h = g.op("Conv", &[h, conv2], attrs)?;
            let h = group_norm(g, h, site.outputs, small, norm2)?;
            let h = resize(g, h, small, large)?;
            g.op("Add", &[y, h], Attrs::none())
        })
    }
}

/// The size of a map after pooling 2x2; a side of 1 stays.
fn pooled(size: [usize; 2]) -> [usize; 2] {
    if size.contains(&1) { size } else { size.map(|n| n / 2) }
}

fn halved(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let two = [2i64, 2];
    let attrs = Attrs::none().with("kernel_shape", two.as_slice()).with("strides", two.as_slice());
    g.op("AveragePool", &[x], attrs)
}

/// Group normalisation of `x [B, c, h, w]` with gain and shift `[c]` (Wu and He, arXiv 1803.08494).
fn group_norm(
    g: &mut Graph,
    x: ValueId,
    channels: usize,
    size: [usize; 2],
    (gain, shift): (ValueId, Option<ValueId>),
) -> Result<ValueId, GraphError> {
    let per_group =
        (1..=CHANNELS_PER_GROUP).rev().find(|n| channels.is_multiple_of(*n)).unwrap_or(1);
    let groups = channels / per_group;
    let flat = g.ints(&[0, groups as i64, (per_group * size[0] * size[1]) as i64]);
    let full = g.ints(&[0, channels as i64, size[0] as i64, size[1] as i64]);
    let ones = g.add_constant("ones", Tensor::vector(&vec![1f32; groups]));
    let zeros = g.add_constant("zeros", Tensor::vector(&vec![0f32; groups]));
    let x = g.op("Reshape", &[x, flat], Attrs::none())?;
    let attrs = Attrs::none().with("epsilon", EPSILON);
    let x = g.op("InstanceNormalization", &[x, ones, zeros], attrs)?;
    let x = g.op("Reshape", &[x, full], Attrs::none())?;
    let axes = g.ints(&[1, 2]);
    let gain = g.op("Unsqueeze", &[gain, axes], Attrs::none())?;
    let x = g.op("Mul", &[x, gain], Attrs::none())?;
    match shift {
        Some(shift) => {
            let shift = g.op("Unsqueeze", &[shift, axes], Attrs::none())?;
            g.op("Add", &[x, shift], Attrs::none())
        }
        None => Ok(x),
    }
}

/// Bilinear resizing of `x [B, c, h, w]`, pixels taken as areas: two products with fixed matrices.
fn resize(
    g: &mut Graph,
    x: ValueId,
    from: [usize; 2],
    to: [usize; 2],
) -> Result<ValueId, GraphError> {
    let mut x = x;
    if from[0] != to[0] {
        let rows = weights(from[0], to[0]);
        let rows = g.add_constant("rows", Tensor::new(&[to[0], from[0]], &rows)?);
        x = g.op("MatMul", &[rows, x], Attrs::none())?;
    }
    if from[1] != to[1] {
        let across = transposed(&weights(from[1], to[1]), from[1]);
        let columns = g.add_constant("columns", Tensor::new(&[from[1], to[1]], &across)?);
        x = g.op("MatMul", &[x, columns], Attrs::none())?;
    }
    Ok(x)
}

/// What of `from` values makes each of `to` values: `[to, from]`.
fn weights(from: usize, to: usize) -> Vec<f32> {
    let mut out = vec![0f32; from * to];
    for (i, row) in out.chunks_exact_mut(from.max(1)).enumerate() {
        let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let low = (at as usize).min(from - 1);
        let share = (at - low as f64) as f32;
        row[low] += 1.0 - share;
        row[(low + 1).min(from - 1)] += share;
    }
    out
}

fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns.max(1);
    (0..matrix.len()).map(|i| matrix[i % rows * columns + i / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bilinear_weights() {
        assert_eq!(weights(1, 2), [1.0, 1.0]);
        assert_eq!(weights(2, 4), [1.0, 0.0, 0.75, 0.25, 0.25, 0.75, 0.0, 1.0]);
        assert_eq!(transposed(&weights(2, 4), 2), [1.0, 0.75, 0.25, 0.0, 0.0, 0.25, 0.75, 1.0]);
        assert!(weights(3, 7).chunks(3).all(|r| (r.iter().sum::<f32>() - 1.0).abs() < 1e-6));
    }

    #[test]
    fn kernels_fit_the_pooled_map() {
        let block = |size, inputs| BlockSite {
            input: String::new(),
            branch: String::new(),
            output: String::new(),
            inputs,
            outputs: 8,
            adds: true,
            size,
            stride: 1,
            stage: 0,
        };
        let made = |size, inputs| {
            let branch = LiteResidual::new((0, &block(size, inputs)), String::new(), 2, 5, false);
            branch.map(|b| (b.kernel, b.groups))
        };
        assert_eq!(made(Some([14, 14]), 8), Some((5, 2)));
        assert_eq!(made(Some([8, 9]), 7), Some((3, 1)));
        assert_eq!(made(Some([2, 2]), 8), Some((1, 2)));
        assert_eq!(made(Some([1, 4]), 8), Some((1, 2)));
        assert_eq!(made(None, 8), None);
    }
}
