//! Products with frozen weights, read from the mapped file while they are multiplied.

use std::marker::PhantomData;
use std::ops::Range;

use tract_linalg::mmm::{EagerPackedInput, MMMInputFormat, PackedExoticFact};
use tract_onnx::tract_hir::internal::*;

use super::matrix::Target;
use super::nibbles::Nibbles;
use super::panels::{Direction, Weights};
use super::stored::Stored;
use super::{Bias, float, int8};
use crate::engine::{Compute, Products};
use crate::graph::frozen::BLOCK as SCALE_ROWS;
use crate::graph::{Graph, Node};
use crate::tensor::DType;

/// Rows of x that are multiplied at a time: enough for the packing of the weights to weigh little,
/// and few beside what else a large batch takes.
const BLOCK: usize = 1024;

/// Frozen weights as they are stored.
pub(super) enum Operand<'a> {
    Plain(Weights<'a>),
    Packed(Nibbles<'a>),
}

/// y = x W + b or, backward, y = x W^T + b, with W `[K, N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Linear {
    /// i4, i8 or f32 `[K, N]`.
    pub(in crate::engine) weight: Stored,
    /// f32 `[N]` for i8 weights, f16 `[K / 32, N]` for i4.
    pub(in crate::engine) scale: Option<Stored>,
    /// f32 `[N]`, for i4 weights: the steps of their columns as i8.
    pub(super) steps: Option<Arc<Tensor>>,
    /// f32, as wide as y.
    pub(in crate::engine) bias: Option<Arc<Tensor>>,
    pub(in crate::engine) direction: Direction,
    pub(in crate::engine) compute: Compute,
    /// The weights as the integer kernel reads them, where they are kept.
    pub(super) panels: Option<Stored>,
}

impl Linear {
    /// The product that `node`, a `FrozenLinear`, stands for.
    pub(in crate::engine) fn of(
        graph: &Graph,
        node: &Node,
        bias: Option<&Bias>,
        products: &Products,
    ) -> TractResult<Linear> {
        let backward = node.attrs.int("backward").unwrap_or(0) != 0;
        let vector = |b: &Bias| -> TractResult<Arc<Tensor>> {
            let name = &graph.value(b.value).name;
            let b = graph.constant(b.value).with_context(|| format!("`{name}` is no constant"))?;
            Ok(tensor1(b.as_slice::<f32>()?).into_arc_tensor())
        };
        let linear = Linear {
            weight: Stored::of(graph, node, 1)?,
            scale: Stored::maybe(graph, node, 2)?,
            steps: None,
            bias: bias.map(vector).transpose()?,
            direction: if backward { Direction::Backward } else { Direction::Forward },
            compute: products.compute,
            panels: None,
        };
        let linear = linear.checked()?;
        let panels = match &products.prepacked {
            Some(prepacked) if products.compute == Compute::Int8 => prepacked.of(&linear)?,
            _ => None,
        };
        Ok(Linear { panels, ..linear })
    }

    /// Checks types and sizes, so that running can trust them.
    fn checked(mut self) -> TractResult<Linear> {
        let &[k, n] = self.weight.shape() else {
            bail!("the weight has shape {:?}, not [K, N]", self.weight.shape())
        };
        ensure!(k > 0 && n > 0, "the weight is empty");
        if let Some(scale) = &self.scale {
            let narrow = self.weight.dtype() == DType::I4;
            let want = if narrow { vec![k.div_ceil(SCALE_ROWS), n] } else { vec![n] };
            ensure!(scale.shape() == want, "the scale has shape {:?}, not {want:?}", scale.shape());
            ensure!(!narrow || n % 2 == 0, "i4 weights have {n} columns, an odd number");
        }
        if let Operand::Packed(nibbles) = self.weights()? {
            self.steps = Some(tensor1(&nibbles.steps()).into_arc_tensor());
        }
        if let Some(bias) = &self.bias {
            ensure!(bias.datum_type() == f32::datum_type() && bias.shape() == [self.widths().1]);
        }
        Ok(self)
    }

    pub(super) fn weights(&self) -> TractResult<Operand<'_>> {
        let n = self.weight.shape().last().copied().unwrap_or(0);
        Ok(match &self.scale {
            Some(scale) if self.weight.dtype() == DType::I4 => {
                Operand::Packed(Nibbles::new(self.weight.bytes(), scale.as_slice()?, n))
            }
            Some(scale) => Operand::Plain(Weights::I8(self.weight.as_slice()?, scale.as_slice()?)),
            None => Operand::Plain(Weights::F32(self.weight.as_slice()?)),
        })
    }

    /// The weights for products in int8, with the steps of their columns.
    pub(super) fn bytes(&self) -> TractResult<Option<(int8::Bytes<'_>, &[f32])>> {
        Ok(match (self.weights()?, &self.steps) {
            (Operand::Plain(Weights::I8(w, scale)), _) => Some((int8::Bytes::Plain(w), scale)),
            (Operand::Packed(nibbles), Some(steps)) => {
                Some((int8::Bytes::Packed(nibbles), steps.try_as_plain_ram()?.as_slice()?))
            }
            _ => None,
        })
    }

    /// Widths of x and of y.
    pub(in crate::engine) fn widths(&self) -> (usize, usize) {
        match (self.weight.shape(), self.direction) {
            (&[k, n], Direction::Forward) => (k, n),
            (&[k, n], Direction::Backward) => (n, k),
            _ => (0, 0),
        }
    }

    /// Multiplies the rows of `x`, f32 `[.., K]` or backward `[.., N]`.
    pub(in crate::engine) fn product(&self, x: &Tensor) -> TractResult<Tensor> {
        let (from, to) = self.widths();
        let mut shape: TVec<usize> = x.shape().into();
        match shape.last_mut() {
            Some(last) if *last == from && x.datum_type() == f32::datum_type() => *last = to,
            _ => bail!("the input is {:?} {:?}, not f32 [.., {from}]", x.datum_type(), x.shape()),
        }
        // SAFETY: `multiply` writes every element.
        let mut y = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        let x = x.try_as_plain_ram()?;
        self.multiply(x.as_slice()?, y.try_as_plain_ram_mut()?.as_slice_mut()?)?;
        Ok(y)
    }

    /// Multiplies the rows of `x` into those of `y`: all elements of y are written.
    pub(in crate::engine) fn multiply(&self, x: &[f32], y: &mut [f32]) -> TractResult<()> {
        let (from, to) = self.widths();
        let rows = x.len() / from;
        ensure!(x.len() == rows * from && y.len() == rows * to, "x and y have other sizes");
        let mut blocks = x.chunks(BLOCK * from).zip(y.chunks_mut(BLOCK * to));
        blocks.try_for_each(|(x, y)| self.block(x, y))
    }

    fn block(&self, x: &[f32], y: &mut [f32]) -> TractResult<()> {
        let (from, to) = self.widths();
        let y = Columns::new(y, x.len() / from, to);
        if self.compute == Compute::Int8
            && let Some(weights) = self.bytes()?
            && let Some(kernel) = int8::Kernel::kept()
        {
            return int8::multiply(self, weights, kernel, x, &y);
        }
        float::multiply(self, x, &y)
    }
}

/// The rows of y, of which each thread writes columns of its own.
pub(super) struct Columns<'a> {
    start: *mut f32,
    pub(super) rows: usize,
    pub(super) width: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: elements are reached only through `row` and `target`, whose callers answer for that.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(super) fn new(y: &'a mut [f32], rows: usize, width: usize) -> Columns<'a> {
        assert!(rows * width <= y.len());
        Columns { start: y.as_mut_ptr(), rows, width, of: PhantomData }
    }

    /// The columns `lanes` of some rows.
    ///
    /// # Safety
    /// Nobody else may use these elements while the target lives.
    pub(super) unsafe fn target(&self, rows: Range<usize>, lanes: Range<usize>) -> Target<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(lanes.start <= lanes.end && lanes.end <= self.width);
        // SAFETY: these elements exist, and they are the caller's alone.
        unsafe {
            let start = self.start.add(rows.start * self.width + lanes.start);
            Target::new(start, [rows.len(), lanes.len()], self.width)
        }
    }

    /// The columns `lanes` of a row.
    ///
    /// # Safety
    /// Nobody else may use these elements while the slice lives.
    #[expect(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, row: usize, lanes: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && lanes.start <= lanes.end && lanes.end <= self.width);
        // SAFETY: these elements exist, and they are the caller's alone.
        unsafe {
            let start = self.start.add(row * self.width + lanes.start);
            std::slice::from_raw_parts_mut(start, lanes.len())
        }
    }
}

/// `mn` lanes of length `k` in panels of `format`, as an operand of tract's matmul.
pub(super) fn input(
    format: Box<dyn MMMInputFormat>,
    packed: Arc<Blob>,
    panel_bytes: usize,
    [mn, k]: [usize; 2],
) -> EagerPackedInput {
    let fact = PackedExoticFact { format, mn: mn.to_dim(), k };
    EagerPackedInput { fact, packed, panel_bytes, mn }
}
