//! Products in int8.
//!
//! Each row of x is rounded to i8 with a scale of its own. tract's integer matmul sums the products in
//! i32, exactly, and the sums are scaled by row and column. Weights are never anything but bytes: a
//! group of panels at a time is put into the order in which the kernel reads them.
//!
//! Backward, the scales of the columns are multiplied into the rows before. Gradients need more than 8
//! bits, so what rounding leaves of a row is rounded again, in finer steps, as a row of its own.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tract_linalg::MmmDispatch;
use tract_linalg::mmm::{
    AsInputValue, EagerPackedInput, FusedSpec, MMMInputFormat, MatMatMul, Query,
};
use tract_linalg::multithread::{Executor, multithread_tract_scope, par_chunks_mut};
use tract_linalg::pack::PackedI8K4;
use tract_onnx::tract_hir::internal::*;

use super::bytes::{
    FINER, Layout, STEPS, combined, interleave_columns, interleave_rows, leave_rest, round_into,
    scaled, step_of,
};
use super::level::Level;
use super::linear::{Columns, Linear, input};
use super::panels::Direction;

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
        // A row and its rest are neighbours in one panel.
        r.is_multiple_of(2).then_some(Rows { format, r, layout })
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
    op: &'a Linear,
    kernel: &'a Kernel,
    weights: &'a [i8],
    x: EagerPackedInput,
    /// Rows in x: of the input, and backward their rests as well.
    rows: usize,
    level: Level,
}

/// Multiplies the rows of `x` with `weights` `[K, N]` into those of `y`.
pub(super) fn multiply(
    op: &Linear,
    (weights, scale): (&[i8], &[f32]),
    kernel: &Kernel,
    x: &[f32],
    y: &Columns<'_>,
) -> TractResult<()> {
    let (from, to) = op.widths();
    let level = Level::detect();
    let scale_in = (op.direction == Direction::Backward).then_some(scale);
    let (rows, x, steps) = rounded(kernel, x, from, scale_in, level)?;
    let call = Call { op, kernel, weights, x, rows, level };
    let bias = match &op.bias {
        Some(bias) => Some(bias.try_as_plain_ram()?.as_slice::<f32>()?),
        None => None,
    };
    let r = kernel.weights.r;
    let panels = PANEL_BYTES / kernel.weights.single_panel_len(from);
    let sums = SUM_BYTES / (rows * r * size_of::<i32>());
    let width = panels.min(sums).max(1) * r;
    let mut groups: Vec<Range<usize>> =
        (0..to).step_by(width).map(|first| first..(first + width).min(to)).collect();
    par_chunks_mut(&mut groups, 1, from * to, |_, groups| {
        groups.iter().try_for_each(|lanes| {
            let sums = sums_of(&call, lanes.clone())?;
            let sums = sums.try_as_plain_ram()?.as_slice::<i32>()?;
            let bias = bias.map(|b| &b[lanes.clone()]);
            for (row, sums) in sums.chunks_exact(rows / y.rows * lanes.len()).enumerate() {
                // SAFETY: groups have distinct lanes, and each is given to one thread.
                let y = unsafe { y.row(row, lanes.clone()) };
                if op.direction == Direction::Forward {
                    scaled(level, sums, steps[row], &scale[lanes.clone()], bias, y);
                } else {
                    let (sums, rest) = sums.split_at(lanes.len());
                    combined(level, sums, rest, steps[row], bias, y);
                }
            }
            Ok(())
        })
    })
}

/// The rows of `x` as panels of bytes, how many they are, and the size of a step of each row. With
/// scales for the columns of `x`, a row is followed by its rest.
fn rounded(
    kernel: &Kernel,
    x: &[f32],
    from: usize,
    scale: Option<&[f32]>,
    level: Level,
) -> TractResult<(usize, EagerPackedInput, Vec<f32>)> {
    let Rows { format, r, layout } = &kernel.rows;
    let (passes, r, layout) = (if scale.is_some() { 2 } else { 1 }, *r, *layout);
    let rows = x.len() / from * passes;
    let panel = kernel.rows.panel(from);
    let mut packed = zeros(rows.div_ceil(r) * panel);
    let steps: Vec<AtomicU32> = (0..x.len() / from).map(|_| AtomicU32::default()).collect();
    par_chunks_mut(packed.as_bytes_mut(), panel, passes * x.len(), |first, panels: &mut [u8]| {
        let mut buffer = vec![0.0; if passes == 2 { from } else { 0 }];
        let rows = x.chunks_exact(from).zip(&steps).skip(first * r / passes);
        for (i, (row, kept)) in rows.take(panels.len() / panel * r / passes).enumerate() {
            let i = i * passes;
            let (panel, lane) = (&mut panels[i / r * panel..][..panel], i % r);
            let Some(scale) = scale else {
                let step = step_of(level, row);
                kept.store(step.to_bits(), Ordering::Relaxed);
                round_into(level, row, step, panel, layout, r, lane);
                continue;
            };
            buffer.iter_mut().zip(row).zip(scale).for_each(|((b, v), s)| *b = v * s);
            let step = step_of(level, &buffer);
            kept.store(step.to_bits(), Ordering::Relaxed);
            round_into(level, &buffer, step, panel, layout, r, lane);
            leave_rest(level, &mut buffer, step);
            round_into(level, &buffer, step / FINER, panel, layout, r, lane + 1);
        }
        Ok(())
    })?;
    let steps = steps.into_iter().map(|s| f32::from_bits(s.into_inner())).collect();
    Ok((rows, input(format.clone(), Arc::new(packed), panel, [rows, from]), steps))
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
    let Call { op, kernel, x, rows, weights, level } = call;
    let (from, to) = op.widths();
    let format = &kernel.weights;
    let panel = format.single_panel_len(from);
    let mut packed = zeros(lanes.len().div_ceil(format.r) * panel);
    let panels = packed.as_bytes_mut();
    match op.direction {
        Direction::Forward => {
            interleave_columns(*level, weights, to, lanes.clone(), format.r, panels);
        }
        Direction::Backward => {
            interleave_rows(*level, weights, from, lanes.clone(), format.r, panels);
        }
    }
    let weights = input(Box::new(format.clone()), Arc::new(packed), panel, [lanes.len(), from]);
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
