//! Products in f32.
//!
//! The weights are the left operand of tract's matmul, so that an output channel is a row of it.
//! They become floats only as packed panels ([`super::panels`]): a group at a time, in a buffer
//! that each thread keeps, and each group once for all rows of x.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use tract_linalg::mmm::{AsInputValue, EagerPackedInput, FusedSpec, MatMatMul, Query};
use tract_linalg::multithread::{Executor, multithread_tract_scope, par_chunks_mut};
use tract_linalg::pack::PackedFormat;
use tract_linalg::{BinOp, MmmDispatch};
use tract_onnx::tract_hir::internal::*;

use super::level::Level;
use super::linear::{Columns, Linear, Operand, input};
use super::panels::{self, Weights};
use super::share;

/// Size of a group of panels: what a second-level cache holds beside the rows of x.
const GROUP_BYTES: usize = 80 * 1024;

/// Choices of kernels that a thread keeps.
const KEPT_KERNELS: usize = 256;

thread_local! {
    static GROUP: RefCell<Arc<Blob>> = RefCell::default();
    static KERNELS: RefCell<HashMap<[usize; 3], Rc<Kernel>>> = RefCell::default();
}

/// Multiplies the rows of `x` into those of `y`.
pub(super) fn multiply(op: &Linear, x: &[f32], y: &Columns<'_>) -> TractResult<()> {
    let (from, to) = op.widths();
    let kernel = Kernel::kept(to, from, y.rows)?;
    let x = kernel.rows(x, from)?;
    let call = Call { op, kernel: &kernel, x: &x, y, level: Level::detect() };
    let most = (GROUP_BYTES / kernel.panel_bytes(from)).max(1);
    let mut groups = share::groups(to, kernel.panel.r, most, share::threads());
    let work = share::work(y.rows, from * to, 64);
    par_chunks_mut(&mut groups, 1, work, |_, groups| {
        groups.iter().try_for_each(|lanes| call.run(lanes.clone()))
    })
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

    /// The rows of x, `[rows, from]`, in panels.
    fn rows(&self, x: &[f32], from: usize) -> TractResult<EagerPackedInput> {
        let packing = &self.mmm.packings()[self.packing].1;
        let format = packing.downcast_ref::<PackedFormat>().context("x is not packed plainly")?;
        let rows = x.len() / from;
        let panel = format.single_panel_len(from);
        let panel_bytes = panel * size_of::<f32>();
        let bytes = rows.div_ceil(format.r) * panel_bytes;
        // SAFETY: all bytes are written below.
        let mut packed = unsafe { Blob::new_for_size_and_align(bytes, format.alignment()) };
        // Lanes without a row, and what `single_panel_len` adds behind the last step.
        packed.as_bytes_mut()[rows / format.r * panel_bytes..].fill(0);
        let buffer = bytemuck::try_cast_slice_mut(packed.as_bytes_mut())
            .map_err(|e| format_err!("the panels of x: {e}"))?;
        par_chunks_mut(buffer, panel, x.len(), |first, panels: &mut [f32]| {
            let (from_row, count) = (first * format.r, panels.len() / panel * format.r);
            let (stride, range) = (from as isize, from_row..from_row + count);
            // SAFETY: the panels have room for these rows, and only those that exist are read.
            unsafe {
                format.pack_t(panels.as_mut_ptr(), x.as_ptr(), rows, 1, stride, 0..from, range);
            }
            Ok(())
        })?;
        Ok(input(Box::new(format.clone()), Arc::new(packed), panel_bytes, [rows, from]))
    }
}

/// What all groups of one product share.
struct Call<'a> {
    op: &'a Linear,
    kernel: &'a Kernel,
    x: &'a EagerPackedInput,
    y: &'a Columns<'a>,
    level: Level,
}

impl Call<'_> {
    /// Computes the output channels `lanes`. No two threads may be given the same.
    fn run(&self, lanes: Range<usize>) -> TractResult<()> {
        let weights = self.pack(lanes.clone())?;
        let offset = (lanes.start * size_of::<f32>()) as isize;
        let width = [lanes.len()];
        let mut steps: TVec<FusedSpec> = tvec!(FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(&weights),
            b: AsInputValue::Borrowed(self.x),
            packing: self.kernel.packing,
        });
        if let Some(bias) = &self.op.bias {
            // SAFETY: the bias has as many elements as y is wide, where the lanes end at most.
            let bias = unsafe { TensorView::from_bytes(bias, offset, &width, &[1]) };
            steps.push(FusedSpec::BinPerRow(bias, BinOp::Add));
        }
        let shape = [self.y.rows, lanes.len()];
        // SAFETY: the kernel writes every element.
        let mut part = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        // SAFETY: the view is all of `part`.
        unsafe {
            let view = TensorView::from_bytes(&part, 0, &shape, part.strides());
            steps.push(FusedSpec::Store(self.kernel.mmm.c_view(Some(1), Some(0)).wrap(&view)));
            // Parallel over groups already.
            multithread_tract_scope(Executor::SingleThread, || {
                self.kernel.mmm.run(lanes.len(), self.y.rows, &steps)
            })?;
        }
        drop(steps);
        let part = part.try_as_plain_ram_mut()?;
        for (row, part) in part.as_slice()?.chunks_exact(lanes.len()).enumerate() {
            // SAFETY: the lanes are those of this call alone.
            unsafe { self.y.row(row, lanes.clone()) }.copy_from_slice(part);
        }
        Ok(())
    }

    /// Packs the weights of the output channels `lanes` into this thread's buffer.
    fn pack(&self, lanes: Range<usize>) -> TractResult<EagerPackedInput> {
        let format = &self.kernel.panel;
        let (from, _) = self.op.widths();
        let n = self.op.weight.shape()[1];
        let panel_bytes = self.kernel.panel_bytes(from);
        let bytes = lanes.len().div_ceil(format.r) * panel_bytes;
        let direction = self.op.direction;
        let floats;
        let (weights, n, inside) = match self.op.weights()? {
            Operand::Plain(weights) => (weights, n, lanes.clone()),
            Operand::Packed(nibbles) => {
                let part = nibbles.part(direction, lanes.clone());
                floats = part.floats(self.level);
                (Weights::F32(&floats), part.width(), part.lanes)
            }
        };
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
            for (first, panel) in inside.clone().step_by(format.r).zip(panels) {
                let panel = &mut panel[..from * format.r];
                panels::pack(self.level, weights, n, direction, first, format.r, panel);
            }
            Ok(group.clone())
        })?;
        Ok(input(Box::new(format.clone()), packed, panel_bytes, [lanes.len(), from]))
    }
}
