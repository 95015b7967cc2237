//! Products with frozen weights, read from the mapped file while they are multiplied.
//!
//! The weights are the left operand of tract's matmul, so that an output channel is a row of it.
//! They become floats only as packed panels ([`super::panels`]): a group at a time, in a buffer
//! that each thread keeps, and each group once for all rows of x.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use tract_linalg::mmm::{
    AsInputValue, EagerPackedInput, FusedSpec, MMMInputValue, MatMatMul, PackedExoticFact, Query,
};
use tract_linalg::multithread::{Executor, multithread_tract_scope, par_chunks_mut};
use tract_linalg::pack::PackedFormat;
use tract_linalg::{BinOp, MmmDispatch};
use tract_onnx::tract_hir::internal::*;

use super::panels::{self, Direction, Level, Weights};
use super::stored::Stored;

/// Size of a group of panels: what a second-level cache holds beside the rows of x.
const GROUP_BYTES: usize = 80 * 1024;

/// Choices of kernels that a thread keeps.
const KEPT_KERNELS: usize = 256;

thread_local! {
    static GROUP: RefCell<Arc<Blob>> = RefCell::default();
    static KERNELS: RefCell<HashMap<[usize; 3], Rc<Kernel>>> = RefCell::default();
}

/// y = x W + b or, backward, y = x W^T + b, with W `[K, N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrozenLinear {
    pub(super) weight: Stored,
    /// f32 `[N]`, for i8 weights.
    pub(super) scale: Option<Stored>,
    /// f32, as wide as y.
    pub(super) bias: Option<Arc<Tensor>>,
    pub(super) direction: Direction,
}

impl FrozenLinear {
    /// Checks types and sizes, so that running can trust them.
    pub(super) fn checked(self) -> TractResult<FrozenLinear> {
        let &[k, n] = self.weight.shape() else {
            bail!("the weight has shape {:?}, not [K, N]", self.weight.shape())
        };
        ensure!(k > 0 && n > 0, "the weight is empty");
        self.weights()?;
        if let Some(scale) = &self.scale {
            ensure!(scale.shape() == [n], "the scale has shape {:?}, not [{n}]", scale.shape());
        }
        if let Some(bias) = &self.bias {
            ensure!(bias.datum_type() == f32::datum_type() && bias.shape() == [self.widths().1]);
        }
        Ok(self)
    }

    fn weights(&self) -> TractResult<Weights<'_>> {
        Ok(match &self.scale {
            Some(scale) => Weights::I8(self.weight.as_slice()?, scale.as_slice()?),
            None => Weights::F32(self.weight.as_slice()?),
        })
    }

    /// Widths of x and of y.
    pub(super) fn widths(&self) -> (usize, usize) {
        match (self.weight.shape(), self.direction) {
            (&[k, n], Direction::Forward) => (k, n),
            (&[k, n], Direction::Backward) => (n, k),
            _ => (0, 0),
        }
    }

    /// Multiplies the `rows` rows of `x` into `y`.
    fn multiply(&self, x: &Tensor, rows: usize, y: &mut Tensor) -> TractResult<()> {
        let (from, to) = self.widths();
        let kernel = Kernel::kept(to, from, rows)?;
        let (shape, strides) = ([rows, from], [from as isize, 1]);
        // SAFETY: x is contiguous and `eval` checked that it has rows * from elements.
        let x = unsafe { TensorView::from_bytes(x, 0, &shape, &strides) };
        let x = kernel.mmm.packings()[kernel.packing].1.prepare_one_view(&x, 1, 0)?;
        let call = Call { op: self, kernel: &kernel, x: &*x, rows, y, level: Level::detect() };
        let lanes = kernel.group_lanes(from).min(to);
        let mut groups: Vec<Range<usize>> =
            (0..to).step_by(lanes).map(|first| first..(first + lanes).min(to)).collect();
        par_chunks_mut(&mut groups, 1, from * to, |_, groups| {
            groups.iter().try_for_each(|lanes| call.run(lanes.clone()))
        })
    }
}

/// One of tract's matmul kernels.
struct Kernel {
    mmm: Box<dyn MatMatMul>,
    packing: usize,
    panel: PackedFormat,
}

impl Kernel {
    /// The choice for a product of this size. Choosing anew takes 25 us, as long as a small product.
    fn kept(to: usize, from: usize, rows: usize) -> TractResult<Rc<Kernel>> {
        KERNELS.with_borrow_mut(|kernels| {
            let size = [to, from, rows];
            if let Some(kernel) = kernels.get(&size) {
                return Ok(kernel.clone());
            }
            if kernels.len() >= KEPT_KERNELS {
                kernels.clear();
            }
            let kernel = Rc::new(Kernel::pick(to, from, rows)?);
            kernels.insert(size, kernel.clone());
            Ok(kernel)
        })
    }

    fn pick(to: usize, from: usize, rows: usize) -> TractResult<Kernel> {
        let query = Query {
            allow_extractor: false,
            ..Query::plain(f32::datum_type(), Some(to), Some(from), Some(rows))
        };
        let dispatch = MmmDispatch::native();
        // Every kernel in use takes plain f32 panels; the list is for one that would not.
        let chosen = dispatch.pick(&query).into_iter().chain(dispatch.suitable(&query));
        for (mmm, packing, _) in chosen {
            let panel = mmm.packings()[packing].0.downcast_ref::<PackedFormat>().cloned();
            if let Some(panel) = panel.filter(|p| p.dt == f32::datum_type()) {
                return Ok(Kernel { mmm, packing, panel });
            }
        }
        bail!("no matmul kernel for f32 panels")
    }

    /// Bytes of one packed panel.
    fn panel_bytes(&self, from: usize) -> usize {
        self.panel.single_panel_len(from) * size_of::<f32>()
    }

    /// Output channels of one group.
    fn group_lanes(&self, from: usize) -> usize {
        (GROUP_BYTES / self.panel_bytes(from)).max(1) * self.panel.r
    }
}

/// What all groups of one product share.
struct Call<'a> {
    op: &'a FrozenLinear,
    kernel: &'a Kernel,
    x: &'a dyn MMMInputValue,
    rows: usize,
    y: &'a Tensor,
    level: Level,
}

impl Call<'_> {
    /// Computes the output channels `lanes`.
    fn run(&self, lanes: Range<usize>) -> TractResult<()> {
        let to = self.op.widths().1;
        let weights = self.pack(lanes.clone())?;
        let offset = (lanes.start * size_of::<f32>()) as isize;
        let width = [lanes.len()];
        let mut steps: TVec<FusedSpec> = tvec!(FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(&weights),
            b: AsInputValue::Borrowed(self.x),
            packing: self.kernel.packing,
        });
        if let Some(bias) = &self.op.bias {
            // SAFETY: the bias has `to` elements, and the lanes end at `to` at most.
            let bias = unsafe { TensorView::from_bytes(bias, offset, &width, &[1]) };
            steps.push(FusedSpec::BinPerRow(bias, BinOp::Add));
        }
        let (shape, strides) = ([self.rows, lanes.len()], [to as isize, 1]);
        // SAFETY: y has rows * to elements. Groups have distinct lanes, so no two threads write
        // the same element, and nobody reads y before all are done.
        unsafe {
            let y = TensorView::from_bytes(self.y, offset, &shape, &strides);
            steps.push(FusedSpec::Store(self.kernel.mmm.c_view(Some(1), Some(0)).wrap(&y)));
            // Parallel over groups already.
            multithread_tract_scope(Executor::SingleThread, || {
                self.kernel.mmm.run(lanes.len(), self.rows, &steps)
            })
        }
    }

    /// Packs the weights of the output channels `lanes` into this thread's buffer.
    fn pack(&self, lanes: Range<usize>) -> TractResult<EagerPackedInput> {
        let format = &self.kernel.panel;
        let (from, _) = self.op.widths();
        let n = self.op.weight.shape()[1];
        let panel_bytes = self.kernel.panel_bytes(from);
        let bytes = lanes.len().div_ceil(format.r) * panel_bytes;
        let weights = self.op.weights()?;
        let packed = GROUP.with_borrow_mut(|group| -> TractResult<Arc<Blob>> {
            let align = format.alignment().max(align_of::<f32>());
            let fits = group.len() >= bytes && group.layout().align() >= align;
            // A product that uses the buffer holds a reference; it is gone before the next.
            if !fits || Arc::get_mut(group).is_none() {
                *group = Arc::new(Blob::from_bytes_alignment(&vec![0; bytes], align)?);
            }
            let buffer = Arc::get_mut(group).context("the panel buffer is in use")?;
            let buffer = bytemuck::try_cast_slice_mut(buffer.as_bytes_mut())
                .map_err(|e| format_err!("the panel buffer: {e}"))?;
            let panels = buffer.chunks_exact_mut(panel_bytes / size_of::<f32>());
            for (first, panel) in lanes.clone().step_by(format.r).zip(panels) {
                let panel = &mut panel[..from * format.r];
                panels::pack(self.level, weights, n, self.op.direction, first, format.r, panel);
            }
            Ok(group.clone())
        })?;
        let fact = PackedExoticFact {
            format: Box::new(format.clone()),
            mn: lanes.len().to_dim(),
            k: from,
        };
        Ok(EagerPackedInput { fact, packed, panel_bytes, mn: lanes.len() })
    }
}

impl Op for FrozenLinear {
    fn name(&self) -> StaticName {
        "FrozenLinear".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} {:?}", self.direction, self.weight)])
    }

    op_as_typed_op!();
}

impl EvalOp for FrozenLinear {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = args_1!(inputs);
        let (from, to) = self.widths();
        let mut shape: TVec<usize> = x.shape().into();
        let rows = shape.iter().rev().skip(1).product();
        match shape.last_mut() {
            Some(last) if *last == from && x.datum_type() == f32::datum_type() => *last = to,
            _ => bail!("the input is {:?} {:?}, not f32 [.., {from}]", x.datum_type(), x.shape()),
        }
        // SAFETY: every element is written by `multiply`, if there is one.
        let mut y = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        if rows > 0 {
            self.multiply(&x, rows, &mut y)?;
        }
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for FrozenLinear {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        let last = shape.last_mut().context("the input has no dimensions")?;
        *last = self.widths().1.to_dim();
        Ok(tvec!(f32::fact(&*shape)))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let n = inputs[0].shape.volume() * self.widths().1;
        Ok(tvec!((Cost::FMA(f32::datum_type()), n)))
    }
}

impl Expansion for FrozenLinear {
    fn name(&self) -> StaticName {
        "FrozenLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given(&inputs[0].shape, move |s, mut shape| {
            if let Some(last) = shape.last_mut() {
                *last = self.widths().1.to_dim();
            }
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}
