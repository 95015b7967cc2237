//! Pictures as input: decoding, and the resizing and normalisation that a backbone was trained
//! with.

mod augment;
#[cfg(feature = "image")]
mod decode;
mod hf;
mod resize;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::augment::{Augment, Crop};
use self::resize::View;
use super::DataError;
use crate::tensor::Tensor;

/// Most pixels of a picture that is decoded.
pub const MAX_PIXELS: u64 = 50_000_000;
/// Longest side of a picture that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Longest side of what a backbone gets, and of what is cropped from, in pixels.
const MAX_SPEC_SIDE: usize = 4096;

/// A decoded picture: 8-bit RGB, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// `[height, width, 3]`.
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of `pixels` in RGB, `[height, width, 3]`; `None` unless there are as many and
    /// at least one.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Picture> {
        let bytes = width.checked_mul(height)?.checked_mul(3)?;
        (bytes > 0 && bytes == pixels.len()).then_some(Picture { width, height, pixels })
    }

    /// Decodes a PNG, JPEG or WebP file; `path` is for messages. What it is is told by the
    /// content, not by the name.
    ///
    /// Grey and palette pictures become RGB, 16-bit samples are rounded to 8 bits, an alpha
    /// channel is dropped (as PIL's `convert("RGB")` does) and the EXIF orientation is applied.
    /// Colour profiles are ignored. Of an animation the first frame is taken.
    ///
    /// # Errors
    /// [`DataError::PictureFormat`] for other files and for CMYK; [`DataError::PictureSize`]
    /// over 50 megapixels or 16,384 pixels a side, before anything is decoded;
    /// [`DataError::Picture`] for a file that is damaged or cut short; [`DataError::NotBuilt`]
    /// without the feature `image`.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Picture, DataError> {
        #[cfg(feature = "image")]
        return decode::decode(bytes, path);
        #[cfg(not(feature = "image"))]
        {
            let _ = bytes;
            Err(DataError::NotBuilt { path: path.to_owned(), feature: "image" })
        }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels in RGB, `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels in grey, `[height, width]`, rounded as PIL's `convert("L")` does.
    fn grey(&self) -> Vec<u8> {
        let grey = |p: &[u8; 3]| {
            let [r, g, b] = p.map(u32::from);
            ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
        };
        self.pixels.as_chunks().0.iter().map(grey).collect()
    }
}

/// How a backbone wants its pictures. Part of its manifest.
///
/// A picture is resized in 8 bits, exactly as PIL does; its values are scaled to 0..1 and then
/// become `(value - mean) / std`, channel by channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// How a picture of another shape is fitted.
    #[serde(default)]
    pub resize: Resize,
    /// How pixels are blended.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// 3 for RGB, 1 for grey.
    #[serde(default = "three")]
    pub channels: usize,
    /// Subtracted, one per channel, for values in 0..1.
    pub mean: Vec<f32>,
    /// Divided by, one per channel, for values in 0..1.
    pub std: Vec<f32>,
}

/// How a picture is fitted to [`ImageSpec::size`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// To that size, whatever its shape.
    #[default]
    Stretch,
    /// The shorter side to this many pixels, the other in proportion; then the centre is taken.
    ShortestSide(usize),
}

/// How pixels are blended. All but `Nearest` average over all pixels when scaling down, as PIL
/// does (`antialias=True` in torchvision).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle filter.
    #[default]
    Bilinear,
    /// The Catmull-Rom spline (`a = -0.5`).
    Bicubic,
}

fn three() -> usize {
    3
}

impl ImageSpec {
    /// A square of `side` pixels in RGB, stretched, with values `(x - mean) / std`.
    pub fn square(side: usize, mean: [f32; 3], std: [f32; 3]) -> ImageSpec {
        ImageSpec {
            size: [side, side],
            resize: Resize::Stretch,
            interpolation: Interpolation::Bilinear,
            channels: 3,
            mean: mean.to_vec(),
            std: std.to_vec(),
        }
    }

    /// Reads a Hugging Face `preprocessor_config.json`, or a specification as serde writes it.
    ///
    /// Of the former these fields count: `do_resize`, `size`, `crop_pct`, `do_center_crop`,
    /// `crop_size`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`
    /// and `resample`. `path` is for messages.
    ///
    /// # Errors
    /// [`DataError::Spec`] saying which field cannot be followed.
    pub fn from_json(json: &[u8], path: &Path) -> Result<ImageSpec, DataError> {
        let refused = |reason: String| DataError::Spec { path: path.to_owned(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(json).map_err(|e| refused(format!("not JSON: {e}")))?;
        let ours = value.get("size").is_some_and(serde_json::Value::is_array);
        let spec = match ours {
            true => serde_json::from_value(value).map_err(|e| refused(e.to_string()))?,
            false => hf::spec(&value).map_err(refused)?,
        };
        spec.validate().map_err(|e| match e {
            DataError::Spec { reason, .. } => refused(reason),
            other => other,
        })?;
        Ok(spec)
    }

    /// Refuses sizes and numbers that make no sense.
    ///
    /// # Errors
    /// [`DataError::Spec`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let sides = 1..=MAX_SPEC_SIDE;
        let [h, w] = self.size;
        let reason = if !(sides.contains(&h) && sides.contains(&w)) {
            format!("size {:?}: each side must be 1 to {MAX_SPEC_SIDE} pixels", self.size)
        } else if let Resize::ShortestSide(side) = self.resize
            && !(h.max(w)..=MAX_SPEC_SIDE).contains(&side)
        {
            format!(
                "a shortest side of {side} pixels: it must be {} to {MAX_SPEC_SIDE}, so that the crop fits in",
                h.max(w)
            )
        } else if !matches!(self.channels, 1 | 3) {
            format!("{} channels: only 3 (RGB) and 1 (grey) are made", self.channels)
        } else if self.mean.len() != self.channels || self.std.len() != self.channels {
            let (mean, std) = (self.mean.len(), self.std.len());
            format!("{mean} means and {std} deviations for {} channels", self.channels)
        } else if !self.mean.iter().all(|m| m.is_finite())
            || !self.std.iter().all(|s| s.is_finite() && *s > 0.0)
        {
            "mean must be finite and std positive".to_owned()
        } else {
            return Ok(());
        };
        Err(DataError::Spec { path: "image specification".into(), reason })
    }

    /// The picture as the backbone wants it, f32 `[channels, height, width]`.
    ///
    /// # Errors
    /// As [`ImageSpec::validate`].
    pub fn tensor(&self, picture: &Picture) -> Result<Tensor, DataError> {
        self.validate()?;
        self.render(picture, &self.fit(picture), false)
    }

    /// How the whole picture is scaled and where it is cut.
    fn fit(&self, picture: &Picture) -> Placed {
        let [h, w] = self.size;
        let scaled = match self.resize {
            Resize::Stretch => [h, w],
            Resize::ShortestSide(side) => {
                let short = picture.width.min(picture.height).max(1);
                let scale = |n: usize| (n as u64 * side as u64 / short as u64) as usize;
                [scale(picture.height), scale(picture.width)]
            }
        };
        let middle = |have: usize, want: usize| (have as i64 - want as i64).div_euclid(2);
        Placed {
            region: [0, 0, picture.height, picture.width],
            scaled,
            offset: [middle(scaled[0], h), middle(scaled[1], w)],
        }
    }

    /// Cuts, scales, cuts again, normalises. What lies outside the picture is black.
    fn render(&self, picture: &Picture, at: &Placed, mirror: bool) -> Result<Tensor, DataError> {
        let [h, w] = self.size;
        let grey;
        let (pixels, channels) = match self.channels {
            1 => {
                grey = picture.grey();
                (grey.as_slice(), 1)
            }
            _ => (picture.pixels.as_slice(), 3),
        };
        let view = View { pixels, channels, row: picture.width, region: at.region };
        // The part of the scaled picture that is seen.
        let seen = |axis: usize, want: usize| {
            let (have, from) = (at.scaled[axis] as i64, at.offset[axis]);
            (from.clamp(0, have) as usize)..((from + want as i64).clamp(0, have) as usize)
        };
        let (rows, columns) = (seen(0, h), seen(1, w));
        let scaled = view.scale(at.scaled, rows.clone(), columns.clone(), self.interpolation);

        let mut out = Vec::with_capacity(self.channels * h * w);
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            let values: Vec<f32> =
                (0..=255u8).map(|v| (f32::from(v) / 255.0 - mean) / std).collect();
            let value = |v: u8| values.get(usize::from(v)).copied().unwrap_or_default();
            for y in 0..h {
                let y = y as i64 + at.offset[0] - rows.start as i64;
                for x in 0..w {
                    let x = if mirror { w - 1 - x } else { x };
                    let x = x as i64 + at.offset[1] - columns.start as i64;
                    let inside = (0..rows.len() as i64).contains(&y)
                        && (0..columns.len() as i64).contains(&x);
                    let index = (y * columns.len() as i64 + x) * channels as i64 + channel as i64;
                    let pixel = if inside { scaled.get(index as usize) } else { None };
                    out.push(value(pixel.copied().unwrap_or(0)));
                }
            }
        }
        Ok(Tensor::new(&[self.channels, h, w], &out)?)
    }
}

/// Which part of a picture is used, and how.
struct Placed {
    /// Top, left, height and width of the part of the picture.
    region: [usize; 4],
    /// Height and width that it is scaled to.
    scaled: [usize; 2],
    /// Top and left of the output in the scaled part; may be outside.
    offset: [i64; 2],
}
