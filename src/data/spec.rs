//! What a backbone takes other than text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ArraySpec, AudioSpec, DataError, ImageSpec, Picture, Sound, read_npy};
use crate::tensor::Tensor;

/// How a file becomes the input of a backbone. Part of its manifest, as
/// `{"kind": "image", ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MediaSpec {
    /// A picture, f32 `[C, H, W]`.
    Image(ImageSpec),
    /// A sound, f32 `[samples]`.
    Audio(AudioSpec),
    /// Features in a `.npy` file, f32 of any shape.
    Array(ArraySpec),
}

impl MediaSpec {
    /// Refuses numbers that make no sense.
    ///
    /// # Errors
    /// [`DataError::Spec`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        match self {
            MediaSpec::Image(spec) => spec.validate(),
            MediaSpec::Audio(spec) => spec.validate(),
            MediaSpec::Array(_) => Ok(()),
        }
    }

    /// The shape of one input, without the batch.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            MediaSpec::Image(spec) => vec![spec.channels, spec.size[0], spec.size[1]],
            MediaSpec::Audio(spec) => vec![spec.samples],
            MediaSpec::Array(spec) => spec.shape.clone(),
        }
    }

    /// One input, f32 of [`shape`](MediaSpec::shape), from the bytes of a file; `path` is for
    /// messages.
    ///
    /// # Errors
    /// As [`Picture::decode`], [`Sound::decode`] and [`read_npy`], and as the specification's
    /// own `tensor`.
    pub fn tensor(&self, bytes: &[u8], path: &Path) -> Result<Tensor, DataError> {
        match self {
            MediaSpec::Image(spec) => spec.tensor(&Picture::decode(bytes, path)?),
            MediaSpec::Audio(spec) => spec.tensor(&Sound::decode(bytes, path)?),
            MediaSpec::Array(spec) => spec.tensor(&read_npy(bytes, path)?, path),
        }
    }
}
