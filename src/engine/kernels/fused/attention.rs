//! Scaled dot-product attention (Vaswani et al., 2017) and its gradient.
//!
//! A head at a time, and a block of its queries at a time: scores never leave the second-level
//! cache, and the gradient computes them anew instead of reading what the forward pass kept (Dao et
//! al., *FlashAttention*, 2022). Heads are read where the products before left them, `[B, L, heads,
//! D]`, so nothing is transposed.

use std::ops::Range;

use tract_linalg::multithread::par_chunks_mut;
use tract_onnx::tract_hir::internal::*;

use super::{View, sum};
use crate::engine::kernels::level::{LANES, Level, at_level};
use crate::engine::kernels::linear::Columns;
use crate::engine::kernels::matrix::{Matrix, Target, product};
use crate::engine::kernels::special::exp;
use crate::graph::Attrs;

/// Scores that are computed at a time: 256 KiB.
const BLOCK: usize = 64 * 1024;

/// y = softmax(q k^T scale + mask) v.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct Attention {
    scale: f32,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

/// q, k and v of one call, and the mask with the step along each dimension of the scores.
struct Call<'a> {
    op: &'a Attention,
    sizes: Sizes,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: Option<(&'a [f32], [usize; 4])>,
    level: Level,
}

impl Attention {
    pub(super) fn of(attrs: &Attrs) -> Attention {
        Attention { scale: attrs.float("scale").unwrap_or(1.0) }
    }

    pub(super) fn run(
        &self,
        qkv: [&View<'_>; 3],
        mask: Option<&View<'_>>,
        y: &mut [f32],
    ) -> TractResult<()> {
        let call = self.call(qkv, mask)?;
        let keys = 0..call.sizes.keys;
        let y = call.sizes.rows(y, call.sizes.queries);
        call.each_head(|work, head| {
            for queries in call.blocks() {
                let p = call.probabilities(&mut work.p, head, queries.clone());
                product(p, head.of(call.v, keys.clone()), false, &mut head.to(&y, queries));
            }
        })
    }

    pub(super) fn grad(
        &self,
        qkv: [&View<'_>; 3],
        dy: &View<'_>,
        mask: Option<&View<'_>>,
        [dq, dk, dv]: [&mut [f32]; 3],
    ) -> TractResult<()> {
        ensure!(dy.shape == qkv[0].shape, "dy has shape {:?}", dy.shape);
        let call = self.call(qkv, mask)?;
        let (sizes, keys) = (call.sizes, 0..call.sizes.keys);
        let [dq, dk, dv] = [(dq, sizes.queries), (dk, sizes.keys), (dv, sizes.keys)]
            .map(|(d, length)| sizes.rows(d, length));
        call.each_head(|work, head| {
            let (k, v) = (head.of(call.k, keys.clone()), head.of(call.v, keys.clone()));
            let (mut dk, mut dv) = (head.to(&dk, keys.clone()), head.to(&dv, keys.clone()));
            for queries in call.blocks() {
                let (q, dy) = (head.of(call.q, queries.clone()), head.of(dy.data, queries.clone()));
                let further = queries.start > 0;
                let p = call.probabilities(&mut work.p, head, queries.clone());
                product(p.turned(), dy, further, &mut dv);
                let size = p.data.len();
                work.ds.resize(size.max(work.ds.len()), 0.0);
                let ds = &mut work.ds[..size];
                product(dy, v.turned(), false, &mut Target::rows(ds, sizes.keys));
                through_softmax(call.level, p.data, sizes.keys, self.scale, ds);
                let ds = Matrix::rows(ds, sizes.keys);
                product(ds.turned(), q, further, &mut dk);
                product(ds, k, false, &mut head.to(&dq, queries));
            }
        })
    }

    fn call<'a>(
        &'a self,
        [q, k, v]: [&View<'a>; 3],
        mask: Option<&View<'a>>,
    ) -> TractResult<Call<'a>> {
        let (&[batch, queries, heads, width], &[_, keys, _, _]) = (q.shape, k.shape) else {
            bail!("queries {:?} and keys {:?} are not [B, L, heads, D]", q.shape, k.shape)
        };
        let sizes = Sizes { batch, heads, queries, keys, width };
        ensure!(
            k.shape == [batch, keys, heads, width] && v.shape == k.shape,
            "queries {:?}, keys {:?} and values {:?}",
            q.shape,
            k.shape,
            v.shape
        );
        ensure!(batch * heads * queries * keys * width > 0, "an input is empty");
        let mask = match mask {
            Some(mask) => Some((mask.data, sizes.steps(mask.shape)?)),
            None => None,
        };
        let level = Level::detect();
        Ok(Call { op: self, sizes, q: q.data, k: k.data, v: v.data, mask, level })
    }
}

impl Sizes {
    /// The step of a mask along each dimension of the scores `[B, heads, queries, keys]`.
    fn steps(&self, mask: &[usize]) -> TractResult<[usize; 4]> {
        let scores = [self.batch, self.heads, self.queries, self.keys];
        ensure!(mask.len() <= scores.len(), "the mask has shape {mask:?}");
        let mut steps = [0; 4];
        let mut step = 1;
        let dims = scores.iter().zip(&mut steps).rev();
        for ((&size, to), &have) in dims.zip(mask.iter().rev()) {
            ensure!(
                have == size || have == 1,
                "the mask has shape {mask:?}, the scores {scores:?}"
            );
            *to = if have == 1 { 0 } else { step };
            step *= have;
        }
        Ok(steps)
    }

    /// The rows of an output of `length` positions.
    fn rows<'a>(&self, y: &'a mut [f32], length: usize) -> Columns<'a> {
        Columns::new(y, self.batch * length, self.heads * self.width)
    }
}

/// A head of one example.
#[derive(Clone, Copy)]
struct Head {
    sizes: Sizes,
    example: usize,
    head: usize,
}

impl Head {
    /// Its rows of `data`, `[B, L, heads, D]`.
    fn of<'a>(&self, data: &'a [f32], rows: Range<usize>) -> Matrix<'a> {
        let Sizes { batch, heads, width, .. } = self.sizes;
        let stride = heads * width;
        let length = data.len() / (batch * stride);
        let first = (self.example * length + rows.start) * stride + self.head * width;
        Matrix { data: &data[first..], shape: [rows.len(), width], strides: [stride, 1] }
    }

    /// The same of an output.
    fn to<'a>(&self, data: &'a Columns<'_>, rows: Range<usize>) -> Target<'a> {
        let Sizes { batch, width, .. } = self.sizes;
        let first = self.example * (data.rows / batch);
        let rows = first + rows.start..first + rows.end;
        // SAFETY: each head is given to one thread, and uses one target of an output at a time.
        unsafe { data.target(rows, self.head * width..(self.head + 1) * width) }
    }
}

/// Scores of one block of queries, kept by a thread from head to head.
#[derive(Default)]
struct Work {
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Call<'_> {
    /// Calls `f` with every head.
    fn each_head(&self, f: impl Fn(&mut Work, Head) + Sync + Send) -> TractResult<()> {
        let Sizes { batch, heads, queries, keys, width } = self.sizes;
        let mut all: Vec<Head> = (0..batch * heads)
            .map(|i| Head { sizes: self.sizes, example: i / heads, head: i % heads })
            .collect();
        let work = all.len() * queries * keys * width.max(8) / 8;
        par_chunks_mut(&mut all, 1, work, |_, heads| {
            let mut work = Work::default();
            heads.iter().for_each(|head| f(&mut work, *head));
            Ok(())
        })
    }

    /// Blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let Sizes { queries, keys, .. } = self.sizes;
        let block = (BLOCK / keys).max(16);
        (0..queries).step_by(block).map(move |first| first..(first + block).min(queries))
    }

    /// Of the `queries` of a head: `[queries, keys]`.
    fn probabilities<'a>(
        &self,
        buffer: &'a mut Vec<f32>,
        head: Head,
        queries: Range<usize>,
    ) -> Matrix<'a> {
        let keys = self.sizes.keys;
        let size = queries.len() * keys;
        buffer.resize(size.max(buffer.len()), 0.0);
        let scores = &mut buffer[..size];
        let (q, k) = (head.of(self.q, queries.clone()), head.of(self.k, 0..keys));
        product(q, k.turned(), false, &mut Target::rows(scores, keys));
        for (query, row) in queries.zip(scores.chunks_exact_mut(keys)) {
            let mask = self.mask.map_or(&[][..], |(mask, [b, h, q, k])| {
                let first = head.example * b + head.head * h + query * q;
                &mask[first..][..if k == 0 { 1 } else { keys }]
            });
            softmax(self.level, row, self.op.scale, mask);
        }
        Matrix::rows(scores, keys)
    }
}

at_level! {
    /// softmax(row scale + mask), where the mask is as long as the row, a single value or nothing.
    fn softmax(row: &mut [f32], scale: f32, mask: &[f32]) -> () {
        match mask {
            [] => row.iter_mut().for_each(|v| *v *= scale),
            [all] => row.iter_mut().for_each(|v| *v = *v * scale + all),
            _ => row.iter_mut().zip(mask).for_each(|(v, m)| *v = *v * scale + m),
        }
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut most = [f32::NEG_INFINITY; LANES];
        let mut pieces = row.chunks_exact(LANES);
        for piece in &mut pieces {
            most.iter_mut().zip(piece).for_each(|(m, v)| *m = larger(*m, *v));
        }
        let rest = pieces.remainder().iter().copied();
        let most = most.into_iter().chain(rest).fold(f32::NEG_INFINITY, larger);
        let mut sums = [0f32; LANES];
        let mut pieces = row.chunks_exact_mut(LANES);
        for piece in &mut pieces {
            for (v, sum) in piece.iter_mut().zip(&mut sums) {
                *v = exp(*v - most);
                *sum += *v;
            }
        }
        for (v, sum) in pieces.into_remainder().iter_mut().zip(&mut sums) {
            *v = exp(*v - most);
            *sum += *v;
        }
        let inverse = 1.0 / sums.iter().sum::<f32>();
        row.iter_mut().for_each(|v| *v *= inverse);
    }
}

at_level! {
    /// dp becomes ds = p (dp - sum(dp p)) scale, in rows of `keys`.
    fn through_softmax(p: &[f32], keys: usize, scale: f32, dp: &mut [f32]) -> () {
        for (p, dp) in p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys)) {
            let sum = sum(keys, |i| p[i] * dp[i]);
            dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - sum) * scale);
        }
    }
}
