//! tract's f32 matmul kernels, and operands packed for them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tract_linalg::MmmDispatch;
use tract_linalg::mmm::{AsInputValue, EagerPackedInput, FusedSpec, MatMatMul, Query};
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_linalg::pack::PackedFormat;
use tract_onnx::tract_hir::internal::*;

use super::linear::input;

/// Choices of kernels that a thread keeps.
const KEPT_KERNELS: usize = 256;

thread_local! {
    static KERNELS: RefCell<HashMap<[usize; 3], Rc<Kernel>>> = RefCell::default();
}

/// One of tract's matmul kernels: C[m, n] = sum over k of A[m, k] B[k, n].
pub(super) struct Kernel {
    pub(super) mmm: Box<dyn MatMatMul>,
    pub(super) packing: usize,
    /// Panels of A.
    pub(super) left: PackedFormat,
    /// Panels of B.
    pub(super) right: PackedFormat,
}

impl Kernel {
    /// The choice for a product of this size. Choosing anew takes 25 us, as long as a small product.
    pub(super) fn kept(m: usize, k: usize, n: usize) -> TractResult<Rc<Kernel>> {
        KERNELS.with_borrow_mut(|kernels| {
            let size = [m, k, n];
            if let Some(kernel) = kernels.get(&size) {
                return Ok(kernel.clone());
            }
            if kernels.len() >= KEPT_KERNELS {
                kernels.clear();
            }
            let kernel = Rc::new(Kernel::pick(m, k, n)?);
            kernels.insert(size, kernel.clone());
            Ok(kernel)
        })
    }

    fn pick(m: usize, k: usize, n: usize) -> TractResult<Kernel> {
        let query = Query {
            allow_extractor: false,
            ..Query::plain(f32::datum_type(), Some(m), Some(k), Some(n))
        };
        let dispatch = MmmDispatch::native();
        // Every kernel in use takes plain f32 panels; the list is for one that would not.
        let chosen = dispatch.pick(&query).into_iter().chain(dispatch.suitable(&query));
        for (mmm, packing, _) in chosen {
            let (left, right) = &mmm.packings()[packing];
            let plain = |f: &dyn tract_linalg::mmm::MMMInputFormat| {
                f.downcast_ref::<PackedFormat>().filter(|p| p.dt == f32::datum_type()).cloned()
            };
            if let (Some(left), Some(right)) = (plain(&**left), plain(&**right)) {
                return Ok(Kernel { mmm, packing, left, right });
            }
        }
        bail!("no matmul kernel for f32 panels")
    }
}

/// A matrix inside a slice, `[mn, k]`: `mn` is what a product keeps, `k` what it sums over. One of
/// the strides is 1.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) data: &'a [f32],
    pub(super) shape: [usize; 2],
    pub(super) strides: [usize; 2],
}

impl Operand<'_> {
    /// The transpose.
    pub(super) fn turned(self) -> Self {
        let ([a, b], [s, t]) = (self.shape, self.strides);
        Operand { shape: [b, a], strides: [t, s], ..self }
    }

    /// In panels of `format`, in `buffer`.
    fn pack(self, format: &PackedFormat, buffer: &mut Arc<Blob>) -> TractResult<EagerPackedInput> {
        let ([mn, k], [mn_stride, k_stride]) = (self.shape, self.strides);
        let last = mn.saturating_sub(1) * mn_stride + k.saturating_sub(1) * k_stride;
        ensure!(mn > 0 && k > 0 && last < self.data.len(), "an operand ends early");
        let panel = format.single_panel_len(k) * size_of::<f32>();
        let bytes = mn.div_ceil(format.r) * panel;
        let align = format.alignment().max(align_of::<f32>());
        let fits = buffer.len() >= bytes && buffer.layout().align() >= align;
        if !fits || Arc::get_mut(buffer).is_none() {
            *buffer = Arc::new(Blob::from_bytes_alignment(&vec![0; bytes], align)?);
        }
        let panels = Arc::get_mut(buffer).context("the buffer of panels is in use")?;
        // Lanes without a row.
        panels.as_bytes_mut()[mn / format.r * panel..bytes].fill(0);
        let panels: &mut [f32] = bytemuck::try_cast_slice_mut(panels.as_bytes_mut())
            .map_err(|e| format_err!("the buffer of panels: {e}"))?;
        let whole = mn.next_multiple_of(format.r);
        let strides = [k_stride as isize, mn_stride as isize];
        // SAFETY: the panels have room for `whole` lanes, and only elements that exist are read.
        unsafe {
            let (to, from) = (panels.as_mut_ptr(), self.data.as_ptr());
            format.pack_t(to, from, mn, strides[0], strides[1], 0..k, 0..whole);
        }
        Ok(input(Box::new(format.clone()), buffer.clone(), panel, [mn, k]))
    }
}

/// Where operands are packed; kept from product to product.
#[derive(Default)]
pub(super) struct Packing {
    left: Arc<Blob>,
    right: Arc<Blob>,
}

impl Packing {
    /// B A^T, row-major `[B rows, A rows]`, on this thread.
    pub(super) fn product(&mut self, a: Operand<'_>, b: Operand<'_>) -> TractResult<Tensor> {
        let ([m, k], n) = (a.shape, b.shape[0]);
        ensure!(b.shape[1] == k, "operands of {k} and {} terms", b.shape[1]);
        let kernel = Kernel::kept(m, k, n)?;
        let a = a.pack(&kernel.left, &mut self.left)?;
        let b = b.pack(&kernel.right, &mut self.right)?;
        let shape = [n, m];
        // SAFETY: the kernel writes every element.
        let c = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        // SAFETY: the view is all of `c`, which nobody else has.
        unsafe {
            let view = TensorView::from_bytes(&c, 0, &shape, c.strides());
            let steps = [
                FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&a),
                    b: AsInputValue::Borrowed(&b),
                    packing: kernel.packing,
                },
                FusedSpec::Store(kernel.mmm.c_view(Some(1), Some(0)).wrap(&view)),
            ];
            multithread_tract_scope(Executor::SingleThread, || kernel.mmm.run(m, n, &steps))?;
        }
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_of_either_order_multiply() -> TractResult<()> {
        let mut packing = Packing::default();
        for [m, n, k] in [[1, 1, 1], [3, 5, 2], [16, 16, 16], [33, 70, 17], [128, 32, 9]] {
            let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
            for (a_strides, b_strides) in
                [([k, 1], [k, 1]), ([1, m], [k, 1]), ([k, 1], [1, n]), ([1, m], [1, n])]
            {
                let left = Operand { data: &a, shape: [m, k], strides: a_strides };
                let right = Operand { data: &b, shape: [n, k], strides: b_strides };
                let c = packing.product(left, right)?;
                let c = c.try_as_plain_ram()?.as_slice::<f32>()?;
                for (i, &have) in c.iter().enumerate() {
                    let (row, col) = (i / m, i % m);
                    let at = |v: &[f32], [s, t]: [usize; 2], i, j| v[i * s + j * t];
                    let terms =
                        (0..k).map(|j| at(&a, a_strides, col, j) * at(&b, b_strides, row, j));
                    assert_eq!(have, terms.sum::<f32>(), "{m} {n} {k}");
                }
            }
        }
        let short = Operand { data: &[1.0; 5], shape: [2, 3], strides: [3, 1] };
        assert!(packing.product(short, short).is_err());
        Ok(())
    }
}
