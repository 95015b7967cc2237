//! Forward products in int8.
//!
//! Each row of x is rounded to i8 with a scale of its own. tract's integer matmul sums the products in
//! i32, exactly, and the sums are scaled by row and column. Weights are never anything but bytes: a
//! group of panels at a time is put into the order in which the kernel reads them.

use std::ops::Range;
use std::sync::OnceLock;

use tract_linalg::MmmDispatch;
use tract_linalg::mmm::{
    AsInputValue, EagerPackedInput, FusedSpec, MMMInputFormat, MatMatMul, Query,
};
use tract_linalg::multithread::{Executor, multithread_tract_scope, par_chunks_mut};
use tract_linalg::pack::PackedI8K4;
use tract_onnx::tract_hir::internal::*;

use super::bytes::{Layout, STEPS, interleave, round_into, scaled, step_of};
use super::level::Level;
use super::linear::{Columns, Linear, input};

/// Sizes of a group: its panels, and its sums.
const PANEL_BYTES: usize = 64 * 1024;
const SUM_BYTES: usize = 96 * 1024;

/// A register of AVX-512, and a row of an AMX tile.
const ALIGNMENT: usize = 64;

/// Smallest tile of a kernel that is faster than f32 on x86-64: smaller ones were measured to take
/// three times as long.
const LEAST_TILE: usize = 256;

/// One of tract's integer matmul kernels. The left operand is x, the right one the weights.
pub(super) struct Kernel {
    mmm: Box<dyn MatMatMul>,
    packing: usize,
    rows: Rows,
    weights: PackedI8K4,
}

/// How the rows of x lie in panels of `r`.
struct Rows {
    format: Box<dyn MMMInputFormat>,
    r: usize,
    layout: Layout,
}

impl Rows {
    fn of(format: Box<dyn MMMInputFormat>) -> Option<Rows> {
        let r = format.r();
        let layout = match format.downcast_ref::<PackedI8K4>() {
            Some(_) => Layout::Steps,
            // Its type exists on some targets only.
            None if format.to_string() == format!("AmxA[{r}]") => Layout::Whole,
            None => return None,
        };
        Some(Rows { format, r, layout })
    }

    /// Bytes of a panel of rows of length `k`.
    fn panel(&self, k: usize) -> usize {
        match self.layout {
            Layout::Steps => k.next_multiple_of(STEPS) * self.r,
            Layout::Whole => k.next_multiple_of(self.format.k_alignment()) * self.r,
        }
    }
}

impl Kernel {
    /// The fastest on this machine; none where f32 is faster.
    pub(super) fn kept() -> Option<&'static Kernel> {
        static KERNEL: OnceLock<Option<Kernel>> = OnceLock::new();
        KERNEL.get_or_init(Kernel::pick).as_ref()
    }

    fn pick() -> Option<Kernel> {
        let query =
            Query { allow_extractor: false, ..Query::plain(i32::datum_type(), None, None, None) };
        let usable = |mmm: &dyn MatMatMul| {
            let tile = mmm.mr() * mmm.nr();
            mmm.arch().is_some() && (tile >= LEAST_TILE || cfg!(not(target_arch = "x86_64")))
        };
        let found = MmmDispatch::native().suitable(&query).into_iter();
        let found = found.filter(|(mmm, ..)| usable(&**mmm)).filter_map(|(mmm, packing, _)| {
            let (rows, weights) = mmm.packings().get(packing)?.clone();
            let weights = weights.downcast_ref::<PackedI8K4>()?.clone();
            Some(Kernel { rows: Rows::of(rows)?, weights, packing, mmm })
        });
        found.max_by_key(|k| (k.mmm.preference(), k.mmm.mr() * k.mmm.nr()))
    }
}

/// What all groups of one product share.
struct Call<'a> {
    kernel: &'a Kernel,
    weights: &'a [i8],
    from: usize,
    to: usize,
    x: EagerPackedInput,
    rows: usize,
    level: Level,
}

/// Multiplies the rows of `x` with `weights` `[K, N]` into those of `y`.
pub(super) fn multiply(
    op: &Linear,
    (weights, scale): (&[i8], &[f32]),
    kernel: &Kernel,
    x: &[f32],
    y: &Columns,
) -> TractResult<()> {
    let (from, to) = op.widths();
    let (level, rows) = (Level::detect(), y.rows);
    let (x, x_scale) = rounded(kernel, x, from, level)?;
    let call = Call { kernel, weights, from, to, x, rows, level };
    let bias = match &op.bias {
        Some(bias) => Some(bias.try_as_plain_ram()?.as_slice::<f32>()?),
        None => None,
    };
    let r = kernel.weights.r;
    let panels = PANEL_BYTES / kernel.weights.single_panel_len(from);
    let sums = SUM_BYTES / (rows * r * size_of::<i32>());
    let lanes = panels.min(sums).max(1) * r;
    let mut groups: Vec<Range<usize>> =
        (0..to).step_by(lanes).map(|first| first..(first + lanes).min(to)).collect();
    par_chunks_mut(&mut groups, 1, from * to, |_, groups| {
        groups.iter().try_for_each(|lanes| {
            let sums = sums_of(&call, lanes.clone())?;
            let sums = sums.try_as_plain_ram()?;
            let (scale, bias) = (&scale[lanes.clone()], bias.map(|b| &b[lanes.clone()]));
            for (row, sums) in sums.as_slice::<i32>()?.chunks_exact(lanes.len()).enumerate() {
                // SAFETY: groups have distinct lanes, and each is given to one thread.
                let y = unsafe { y.row(row, lanes.clone()) };
                scaled(level, sums, x_scale[row], scale, bias, y);
            }
            Ok(())
        })
    })
}

/// The rows of `x` as panels of bytes, and the size of a step of each row.
fn rounded(
    kernel: &Kernel,
    x: &[f32],
    from: usize,
    level: Level,
) -> TractResult<(EagerPackedInput, Vec<f32>)> {
    let Rows { format, r, layout } = &kernel.rows;
    let (rows, r, layout) = (x.len() / from, *r, *layout);
    let scale: Vec<f32> = x.chunks_exact(from).map(|row| step_of(level, row)).collect();
    let panel = kernel.rows.panel(from);
    let mut packed = zeros(rows.div_ceil(r) * panel);
    par_chunks_mut(packed.as_bytes_mut(), panel, x.len(), |first, panels: &mut [u8]| {
        let rows = x.chunks_exact(from).zip(&scale).skip(first * r);
        for (i, (row, step)) in rows.take(panels.len() / panel * r).enumerate() {
            let (panel, lane) = (&mut panels[i / r * panel..][..panel], i % r);
            round_into(level, row, *step, panel, layout, r, lane);
        }
        Ok(())
    })?;
    Ok((input(format.clone(), Arc::new(packed), panel, [rows, from]), scale))
}

/// Zeroed panels.
fn zeros(bytes: usize) -> Blob {
    // SAFETY: all bytes are written below.
    let mut blob = unsafe { Blob::new_for_size_and_align(bytes, ALIGNMENT) };
    blob.as_bytes_mut().fill(0);
    blob
}

/// Sums `[rows, lanes]` of the output channels `lanes`.
fn sums_of(call: &Call<'_>, lanes: Range<usize>) -> TractResult<Tensor> {
    let Call { kernel, x, rows, .. } = call;
    let format = &kernel.weights;
    let panel = format.single_panel_len(call.from);
    let mut packed = zeros(lanes.len().div_ceil(format.r) * panel);
    let panels = packed.as_bytes_mut();
    interleave(call.level, call.weights, call.to, lanes.clone(), format.r, panels);
    let weights =
        input(Box::new(format.clone()), Arc::new(packed), panel, [lanes.len(), call.from]);
    let shape = [*rows, lanes.len()];
    // SAFETY: the kernel writes every element.
    let sums = unsafe { Tensor::uninitialized::<i32>(&shape)? };
    // SAFETY: the view is all of `sums`, which nobody else has.
    unsafe {
        let view = TensorView::from_bytes(&sums, 0, &shape, sums.strides());
        let steps = [
            FusedSpec::AddMatMul {
                a: AsInputValue::Borrowed(x),
                b: AsInputValue::Borrowed(&weights),
                packing: kernel.packing,
            },
            FusedSpec::Store(kernel.mmm.c_view(Some(0), Some(1)).wrap(&view)),
        ];
        // Parallel over groups already.
        multithread_tract_scope(Executor::SingleThread, || {
            kernel.mmm.run(*rows, lanes.len(), &steps)
        })?;
    }
    Ok(sums)
}
