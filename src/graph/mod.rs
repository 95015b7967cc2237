//! The intermediate representation: an ONNX graph whose every value has a shape.
//!
//! A backbone is read into a [`Graph`], attachments and gradients are added to it, and an engine
//! compiles it. Operators keep their ONNX names and meaning (opset 18 and later). Those of ours stand
//! for frozen weights that stay in the mapped file, and for several operators at once:
//!
//! | op (domain [`DOMAIN`]) | inputs | output |
//! |---|---|---|
//! | `FrozenLinear` | x `[.., K]`, weight `[K, N]` (f32, i8 or i4), scale (f32 `[N]` for i8, f16 `[K / 32, N]` for i4) | x W; with `backward=1`: x `[.., N]` to x W^T `[.., K]` |
//! | `FrozenGather` | table `[V, D]` (i8 or f32), scale `[V]` (i8 only, else absent), ids | rows `[ids.., D]` |
//! | `FusedAttention` | q `[B, L, heads, D]`, k and v `[B, S, heads, D]`, mask that broadcasts to `[B, heads, L, S]` (or absent) | softmax(q k^T `scale` + mask) v `[B, L, heads, D]` |
//! | `FusedAttentionGrad` | q, k, v, dy `[B, L, heads, D]`, mask | dq, dk, dv |
//! | `FusedGeluGrad` | x, dy | dx, with the attribute of `Gelu` |
//! | `FusedLayerNormGrad` | x `[.., N]`, scale `[N]`, dy | dx, with the attributes of `LayerNormalization` |
//!
//! Dimensions are known at [`PROBES`] probe points at once ([`Dim`]): a dimension that is the same
//! at all of them is constant, others vary with the batch or the sequence.

mod attrs;
pub mod canonical;
mod dequantize;
mod error;
pub mod frozen;
pub mod fuse;
mod infer;
mod ir;
pub mod onnx;
pub mod sites;

pub(crate) use dequantize::{constant as dequantized_constant, dequantized_blocks};

pub use attrs::{Attr, Attrs};
pub use error::GraphError;
pub use infer::{Concrete, infer};
pub use ir::{Graph, Index, Node, Value, ValueId};

/// Domain of our own operators.
pub const DOMAIN: &str = "edge-tune";

/// How many concrete sizes every dimension is known at.
pub const PROBES: usize = 3;

/// A dimension at each probe point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(pub [usize; PROBES]);

impl Dim {
    /// The batch dimension of every input. At least 2, so that it is never mistaken for a
    /// broadcast dimension.
    pub const BATCH: Dim = Dim([2, 3, 2]);
    /// The sequence (token) dimension of text inputs.
    pub const SEQUENCE: Dim = Dim([7, 7, 11]);

    /// A constant dimension.
    pub const fn fixed(n: usize) -> Dim {
        Dim([n; PROBES])
    }

    /// The size, if it is the same at every probe point.
    pub fn constant(self) -> Option<usize> {
        self.0.iter().all(|&d| d == self.0[0]).then_some(self.0[0])
    }

    /// The size for a batch of `batch` and sequences of `sequence`: what fits the probe points as
    /// a product of a multiple of the batch and a line in the sequence.
    pub fn at(self, batch: usize, sequence: usize) -> usize {
        let (b, s) = (Dim::BATCH.0, Dim::SEQUENCE.0);
        let [d0, d1, d2] = self.0;
        let per_batch = if d0 == d1 { 1 } else { b[0] };
        let line = |d: usize| d as f64 / per_batch as f64;
        let slope = (line(d2) - line(d0)) / (s[2] as f64 - s[0] as f64);
        let size = line(d0) + slope * (sequence as f64 - s[0] as f64);
        let size = if d0 == d1 { size } else { size * batch as f64 };
        size.round().max(0.0) as usize
    }

    /// True if the dimension is 1 at every probe point: it broadcasts.
    pub fn is_one(self) -> bool {
        self.constant() == Some(1)
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::fixed(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_batch_and_sequence() {
        let (b, s) = (Dim::BATCH.0, Dim::SEQUENCE.0);
        let dim = |f: &dyn Fn(usize, usize) -> usize| Dim(std::array::from_fn(|p| f(b[p], s[p])));
        let forms: [&dyn Fn(usize, usize) -> usize; 6] = [
            &|_, _| 5,
            &|b, _| b,
            &|_, s| s + 20,
            &|b, s| b * s,
            &|b, s| 4 * b * (s + 3),
            &|b, _| 12 * b,
        ];
        for f in forms {
            assert_eq!(dim(f).at(8, 128), f(8, 128));
        }
    }
}
