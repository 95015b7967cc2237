//! Random views of a picture for training, the same for the same seed on every platform.

use serde::{Deserialize, Serialize};

use super::{ImageSpec, Picture, Placed};
use crate::data::DataError;
use crate::data::shuffle::{below, rng, unit};
use crate::tensor::Tensor;

/// Keeps these draws apart from the shuffles of the same seed.
const AUGMENT: u64 = 0x6175_676d_656e_7400;
/// Shapes of random crops: the longer side is at most this many times the shorter one.
const MAX_RATIO: f64 = 4.0 / 3.0;
/// Tries at a crop that fits before the middle is taken.
const TRIES: usize = 10;
/// Most pixels of padding a side.
const MAX_PADDING: usize = 1024;

/// Random changes of training pictures. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirror every other picture from left to right.
    pub flip: bool,
    /// Use a random part.
    pub crop: Crop,
}

/// Which part of a picture is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The same as for prediction.
    #[default]
    None,
    /// A random part with at least this fraction of the area (above 0, up to 1) and a shape
    /// between 3:4 and 4:3, stretched to the size. As torchvision's `RandomResizedCrop`, but
    /// that the ratio of the sides is drawn uniformly, not its logarithm.
    Resized(f64),
    /// The picture as for prediction, moved by up to this many pixels each way; what comes into
    /// view is black. As torchvision's `RandomCrop` with `padding`.
    Padded(usize),
}

impl Augment {
    /// A random view of `picture`, f32 `[channels, height, width]` of `spec`.
    ///
    /// It depends on the picture, `seed` and `stream` alone: give every step and row its own
    /// stream.
    ///
    /// # Errors
    /// [`DataError::Spec`] if the specification or the crop makes no sense.
    pub fn tensor(
        &self,
        picture: &Picture,
        spec: &ImageSpec,
        seed: u64,
        stream: u64,
    ) -> Result<Tensor, DataError> {
        spec.validate()?;
        self.validate()?;
        let mut rng = rng(seed ^ AUGMENT, stream);
        let mirror = below(&mut rng, 2) == 1 && self.flip;
        let mut at = spec.fit(picture);
        match self.crop {
            Crop::None => {}
            Crop::Padded(pixels) => {
                for offset in &mut at.offset {
                    *offset += below(&mut rng, 2 * pixels as u64 + 1) as i64 - pixels as i64;
                }
            }
            Crop::Resized(min_area) => {
                let [h, w] = [picture.height(), picture.width()];
                let mut size = middle(h, w);
                for _ in 0..TRIES {
                    let part = min_area + unit(&mut rng) * (1.0 - min_area);
                    let mut ratio = 1.0 + unit(&mut rng) * (MAX_RATIO - 1.0);
                    if below(&mut rng, 2) == 1 {
                        ratio = 1.0 / ratio;
                    }
                    let area = part * h as f64 * w as f64;
                    let tall = (area / ratio).sqrt().round() as usize;
                    let wide = (area * ratio).sqrt().round() as usize;
                    if (1..=h).contains(&tall) && (1..=w).contains(&wide) {
                        size = [tall, wide];
                        break;
                    }
                }
                let top = below(&mut rng, (h - size[0]) as u64 + 1) as usize;
                let left = below(&mut rng, (w - size[1]) as u64 + 1) as usize;
                let region = [top, left, size[0], size[1]];
                at = Placed { region, scaled: spec.size, offset: [0, 0] };
            }
        }
        spec.render(picture, &at, mirror)
    }

    /// Refuses numbers that make no sense.
    ///
    /// # Errors
    /// [`DataError::Spec`].
    pub fn validate(&self) -> Result<(), DataError> {
        let reason = match self.crop {
            Crop::Resized(area) if !(area > 0.0 && area <= 1.0) => {
                format!("a random crop of at least {area} of the area: it must be above 0, up to 1")
            }
            Crop::Padded(pixels) if pixels > MAX_PADDING => {
                format!("a padding of {pixels} pixels: at most {MAX_PADDING} are used")
            }
            _ => return Ok(()),
        };
        Err(DataError::Spec { path: "augmentation".into(), reason })
    }
}

/// The largest part of an allowed shape.
fn middle(h: usize, w: usize) -> [usize; 2] {
    let limit = |side: usize| ((side as f64 * MAX_RATIO) as usize).max(1);
    [h.min(limit(w)), w.min(limit(h))]
}
