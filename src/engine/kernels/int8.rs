//! Products in int8.
//!
//! Each row of x is rounded to i8 with a scale of its own. tract's integer matmul sums the products in
//! i32, exactly, and the sums are scaled by row and column. Weights are never anything but bytes: a
//! group of panels at a time is put into the order in which the kernel reads them.
//!
//! Backward, the scales of the columns are multiplied into the rows before. Gradients need more than 8
//! bits, so what rounding leaves of a row is rounded again, in finer steps, as a row of its own.

use std::alloc::Layout as Memory;
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::OnceLock;

use half::f16;
use tract_linalg::MmmDispatch;
use tract_linalg::mmm::{
    AsInputValue, EagerPackedInput, FusedSpec, MMMInputFormat, MMMInputValue, MatMatMul,
    PackedExoticFact, Query,
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
use super::nibbles::Nibbles;
use super::panels::Direction;
use super::share;
use super::stored::Stored;

/// Size of the panels of a group of weights.
const PANEL_BYTES: usize = 64 * 1024;

/// Rows of x that are rounded, and multiplied with a group, at a time: fewer where threads share them.
const ROWS: usize = 128;
const LEAST_ROWS: usize = 32;

/// How far a kernel reads weights beyond the last step: AMX takes 64 steps at once.
pub(super) const BEYOND: usize = 64;

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
    pub(super) weights: PackedI8K4,
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

/// Weights `[K, N]`.
#[derive(Clone, Copy)]
pub(super) enum Bytes<'a> {
    Plain(&'a [i8]),
    /// Made bytes of, a group of panels at a time.
    Packed(Nibbles<'a>),
}

/// Some rows of x, rounded. Backward, each is followed by its rest.
struct Block {
    /// Of the input.
    rows: Range<usize>,
    panels: EagerPackedInput,
    /// The size of a step of each row.
    steps: Vec<f32>,
}

/// What all groups of one product share.
struct Call<'a> {
    op: &'a Linear,
    kernel: &'a Kernel,
    weights: Bytes<'a>,
    scale: &'a [f32],
    bias: &'a [f32],
    level: Level,
}

/// Multiplies the rows of `x` with `weights` into those of `y`; `scale` is that of each column.
pub(super) fn multiply(
    op: &Linear,
    (weights, scale): (Bytes<'_>, &[f32]),
    kernel: &Kernel,
    x: &[f32],
    y: &Columns<'_>,
) -> TractResult<()> {
    let (from, to) = op.widths();
    let bias = match &op.bias {
        Some(bias) => bias.try_as_plain_ram()?.as_slice::<f32>()?,
        None => &[],
    };
    let call = Call { op, kernel, weights, scale, bias, level: Level::detect() };
    let blocks = call.blocks(x)?;
    let most = (PANEL_BYTES / kernel.weights.single_panel_len(from)).max(1);
    let mut groups = share::groups(to, kernel.weights.r, most, share::threads());
    let work = share::work(y.rows, from * to, 128);
    par_chunks_mut(&mut groups, 1, work, |_, groups| {
        groups.iter().try_for_each(|lanes| {
            let weights = call.panels(lanes.clone());
            blocks.iter().try_for_each(|block| {
                let sums = call.sums(block, &*weights)?;
                let sums = sums.try_as_plain_ram()?.as_slice::<i32>()?;
                call.write(sums, block, lanes.clone(), y);
                Ok(())
            })
        })
    })
}

impl Call<'_> {
    /// The rows of `x` as panels of bytes.
    fn blocks(&self, x: &[f32]) -> TractResult<Vec<Block>> {
        let (from, _) = self.op.widths();
        let rows = x.len() / from;
        let mut blocks: Vec<Option<Block>> = vec![];
        let each = rows.div_ceil(share::threads()).next_multiple_of(self.kernel.rows.r);
        let each = each.clamp(LEAST_ROWS, ROWS);
        blocks.resize_with(rows.div_ceil(each), || None);
        // A float is rounded in a quarter of a nanosecond or less.
        par_chunks_mut(&mut blocks, 1, x.len() / 4, |first, blocks| {
            for (i, block) in blocks.iter_mut().enumerate() {
                let first = (first + i) * each;
                let rows = first..(first + each).min(rows);
                *block = Some(self.block(&x[rows.start * from..rows.end * from], rows));
            }
            Ok(())
        })?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn block(&self, x: &[f32], rows: Range<usize>) -> Block {
        let Rows { format, r, layout } = &self.kernel.rows;
        let (from, _) = self.op.widths();
        let panel = self.kernel.rows.panel(from);
        let backward = self.op.direction == Direction::Backward;
        let all = if backward { 2 * rows.len() } else { rows.len() };
        let mut packed = zeros(all.div_ceil(*r) * panel);
        let mut put = |row: &[f32], step: f32, i: usize| {
            let panel = &mut packed.as_bytes_mut()[i / r * panel..][..panel];
            round_into(self.level, row, step, panel, *layout, *r, i % r);
        };
        let mut buffer = vec![0.0; if backward { from } else { 0 }];
        let step = |(i, row): (usize, &[f32])| {
            if !backward {
                let step = step_of(self.level, row);
                put(row, step, i);
                return step;
            }
            buffer.iter_mut().zip(row).zip(self.scale).for_each(|((b, v), s)| *b = v * s);
            let step = step_of(self.level, &buffer);
            put(&buffer, step, 2 * i);
            leave_rest(self.level, &mut buffer, step);
            put(&buffer, step / FINER, 2 * i + 1);
            step
        };
        let steps = x.chunks_exact(from).enumerate().map(step).collect();
        let panels = input(format.clone(), Arc::new(packed), panel, [all, from]);
        Block { rows, panels, steps }
    }

    /// The weights of the output channels `lanes`, which begin with a panel.
    fn panels(&self, lanes: Range<usize>) -> Box<dyn MMMInputValue> {
        let (from, _) = self.op.widths();
        let format = &self.kernel.weights;
        let panel = format.single_panel_len(from);
        let fact = PackedExoticFact {
            format: Box::new(format.clone()),
            mn: lanes.len().to_dim(),
            k: from,
        };
        if let Some(panels) = &self.op.panels {
            let first = lanes.start / format.r;
            return Box::new(Mapped {
                panels: panels.clone(),
                fact,
                first,
                panel,
                mn: lanes.len(),
            });
        }
        let bytes = lanes.len().div_ceil(format.r) * panel;
        let mut packed = zeros(bytes + BEYOND * format.r);
        let to = &mut packed.as_bytes_mut()[..bytes];
        pack(self.op, (self.weights, self.scale), format, self.level, lanes.clone(), to);
        Box::new(EagerPackedInput {
            fact,
            packed: Arc::new(packed),
            panel_bytes: panel,
            mn: lanes.len(),
        })
    }

    /// Sums `[rows, lanes]` of a block.
    fn sums(&self, block: &Block, weights: &dyn MMMInputValue) -> TractResult<Tensor> {
        let mmm = &self.kernel.mmm;
        let shape = [block.panels.mn, weights.mn()];
        // SAFETY: the kernel writes every element.
        let sums = unsafe { Tensor::uninitialized::<i32>(&shape)? };
        // SAFETY: the view is all of `sums`, which nobody else has.
        unsafe {
            let view = TensorView::from_bytes(&sums, 0, &shape, sums.strides());
            let steps = [
                FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&block.panels),
                    b: AsInputValue::Borrowed(weights),
                    packing: self.kernel.packing,
                },
                FusedSpec::Store(mmm.c_view(Some(0), Some(1)).wrap(&view)),
            ];
            // Parallel over groups already.
            multithread_tract_scope(Executor::SingleThread, || {
                mmm.run(shape[0], shape[1], &steps)
            })?;
        }
        Ok(sums)
    }

    /// Writes the columns `lanes` of the rows of a block. No two threads may be given the same.
    fn write(&self, sums: &[i32], block: &Block, lanes: Range<usize>, y: &Columns<'_>) {
        let bias = if self.bias.is_empty() { &[] } else { &self.bias[lanes.clone()] };
        let rows = block.rows.clone().zip(&block.steps);
        match self.op.direction {
            Direction::Forward => {
                let scale = &self.scale[lanes.clone()];
                for ((row, step), sums) in rows.zip(sums.chunks_exact(lanes.len())) {
                    // SAFETY: the lanes are those of this call alone.
                    let y = unsafe { y.row(row, lanes.clone()) };
                    scaled(self.level, sums, *step, scale, bias, y);
                }
            }
            Direction::Backward => {
                for ((row, step), sums) in rows.zip(sums.chunks_exact(2 * lanes.len())) {
                    let (sums, rest) = sums.split_at(lanes.len());
                    // SAFETY: as above.
                    let y = unsafe { y.row(row, lanes.clone()) };
                    combined(self.level, sums, rest, *step, bias, y);
                }
            }
        }
    }
}

/// Puts the weights of the output channels `lanes` of a product into `panels`, which must be zero.
pub(super) fn pack(
    op: &Linear,
    (weights, scale): (Bytes<'_>, &[f32]),
    format: &PackedI8K4,
    level: Level,
    lanes: Range<usize>,
    panels: &mut [u8],
) {
    let n = op.weight.shape().last().copied().unwrap_or(0);
    let interleave = match op.direction {
        Direction::Forward => interleave_columns,
        Direction::Backward => interleave_rows,
    };
    let (wide, n, inside) = match weights {
        Bytes::Plain(weights) => (Cow::from(weights), n, lanes),
        Bytes::Packed(nibbles) => {
            let part = nibbles.part(op.direction, lanes);
            let wide = part.rounded(level, scale);
            (Cow::from(wide), part.width(), part.lanes)
        }
    };
    interleave(level, &wide, n, inside, format.r, panels);
}

/// Panels in a mapped file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapped {
    /// Of all of a product.
    panels: Stored,
    fact: PackedExoticFact,
    first: usize,
    /// Bytes of a panel.
    panel: usize,
    mn: usize,
}

impl Hash for Mapped {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.fact, self.first, self.panel, self.mn).hash(state);
    }
}

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapped {}", self.fact)
    }
}

impl MMMInputValue for Mapped {
    fn format(&self) -> &dyn MMMInputFormat {
        &*self.fact.format
    }

    fn scratch_panel_buffer_layout(&self) -> Option<Memory> {
        None
    }

    fn panel_bytes(&self, i: usize, _: Option<*mut u8>) -> TractResult<*const u8> {
        let start = (self.first + i) * self.panel;
        let panels = self.panels.bytes().get(start..);
        // The kernel may read beyond the panel.
        let beyond = panels.filter(|p| p.len() >= self.panel + BEYOND * self.fact.format.r());
        Ok(beyond.context("the mapped panels end early")?.as_ptr())
    }

    fn mn(&self) -> usize {
        self.mn
    }

    fn k(&self) -> usize {
        self.fact.k
    }

    fn exotic_fact(&self) -> &dyn ExoticFact {
        &self.fact
    }

    fn extract_at_mn_f16(&self, _: usize, _: &mut [f16]) -> TractResult<()> {
        bail!("weights are not read back")
    }

    fn extract_at_mn_f32(&self, _: usize, _: &mut [f32]) -> TractResult<()> {
        bail!("weights are not read back")
    }
}

/// Zeroed panels.
fn zeros(bytes: usize) -> Blob {
    // SAFETY: all bytes are written below.
    let mut blob = unsafe { Blob::new_for_size_and_align(bytes, ALIGNMENT) };
    blob.as_bytes_mut().fill(0);
    blob
}
