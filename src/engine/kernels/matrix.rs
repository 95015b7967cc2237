//! Small products of f32 matrices, on one thread.

use std::marker::PhantomData;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) shape: [usize; 2],
    /// From row to row, and from column to column.
    pub(super) strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// All of `data`, row-major.
    pub(super) fn rows(data: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix { data, shape: [data.len() / width, width], strides: [width, 1] }
    }

    /// The transpose.
    pub(super) fn turned(self) -> Matrix<'a> {
        let ([rows, columns], [down, along]) = (self.shape, self.strides);
        Matrix { shape: [columns, rows], strides: [along, down], ..self }
    }
}

/// A matrix that is written, which may be some columns of a wider one.
pub(super) struct Target<'a> {
    start: *mut f32,
    shape: [usize; 2],
    stride: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// All of `data`, row-major.
    pub(super) fn rows(data: &'a mut [f32], width: usize) -> Target<'a> {
        let shape = [data.len() / width, width];
        Target { start: data.as_mut_ptr(), shape, stride: width, of: PhantomData }
    }

    /// Rows that start `stride` apart.
    ///
    /// # Safety
    /// All elements must exist, and nobody else may use them while this lives.
    pub(super) unsafe fn new(start: *mut f32, shape: [usize; 2], stride: usize) -> Target<'a> {
        Target { start, shape, stride, of: PhantomData }
    }
}

/// c = a b, or c += a b.
///
/// # Panics
/// If a matrix reaches beyond its slice, or the shapes do not fit.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>, add: bool, c: &mut Target<'_>) {
    let ([m, k], [_, n]) = (a.shape, b.shape);
    assert!(b.shape[0] == k && c.shape == [m, n] && n <= c.stride, "the shapes do not fit");
    for Matrix { data, shape: [rows, columns], strides: [down, along] } in [a, b] {
        let last = rows.saturating_sub(1) * down + columns.saturating_sub(1) * along;
        assert!(rows * columns == 0 || last < data.len(), "a matrix ends early");
    }
    let steps = |[down, along]: [usize; 2]| [down as isize, along as isize];
    let ([a_down, a_along], [b_down, b_along]) = (steps(a.strides), steps(b.strides));
    let beta = if add { 1.0 } else { 0.0 };
    // SAFETY: all elements lie within their slices; those of c are there, and distinct.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data.as_ptr(),
            a_down,
            a_along,
            b.data.as_ptr(),
            b_down,
            b_along,
            beta,
            c.start,
            c.stride as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_either_order_multiply() {
        for [m, k, n] in [[1, 1, 1], [3, 5, 2], [16, 16, 16], [33, 70, 17], [128, 9, 32]] {
            let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
            for (a_strides, b_strides) in
                [([k, 1], [n, 1]), ([1, m], [n, 1]), ([k, 1], [1, k]), ([1, m], [1, k])]
            {
                let left = Matrix { data: &a, shape: [m, k], strides: a_strides };
                let right = Matrix { data: &b, shape: [k, n], strides: b_strides };
                let mut c = vec![0.5; m * (n + 3)];
                // SAFETY: `c` has these rows, and nothing else uses it.
                let mut to = unsafe { Target::new(c.as_mut_ptr(), [m, n], n + 3) };
                product(left, right, false, &mut to);
                product(left, right, true, &mut to);
                for (i, &have) in c.iter().enumerate() {
                    let (row, col) = (i / (n + 3), i % (n + 3));
                    let at = |v: &[f32], [s, t]: [usize; 2], i, j| v[i * s + j * t];
                    let terms =
                        (0..k).map(|j| at(&a, a_strides, row, j) * at(&b, b_strides, j, col));
                    let want = if col < n { 2.0 * terms.sum::<f32>() } else { 0.5 };
                    assert_eq!(have, want, "{m} {n} {k}");
                }
            }
        }
        assert_eq!(Matrix::rows(&[1.0; 6], 3).turned().strides, [1, 3]);
    }

    #[test]
    #[should_panic(expected = "a matrix ends early")]
    fn a_short_matrix_is_refused() {
        let short = Matrix { data: &[1.0; 5], shape: [2, 3], strides: [3, 1] };
        product(short, short.turned(), false, &mut Target::rows(&mut [0.0; 4], 2));
    }
}
