//! What all engines compute themselves: products with frozen weights and rows of frozen tables, read
//! from the mapped file. No engine gets the weights as tensors of its own.

mod biases;
mod bytes;
mod float;
mod fused;
mod int8;
mod level;
mod linear;
mod matrix;
mod nibbles;
mod panels;
mod prepacked;
mod share;
mod special;
mod stored;
mod table;

pub(super) use biases::{Bias, Biases};
pub(super) use fused::{Fused, View};
pub(super) use linear::Linear;
pub use prepacked::Prepacked;
pub(super) use table::Table;
