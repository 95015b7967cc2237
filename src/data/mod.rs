//! Input data: labelled texts, pictures, sounds and features, row selections, and text as token
//! ids.
//!
//! A [`Dataset`] holds every row of a file or folder; everything else works on row numbers
//! (0-based, the header not counted), so that a selection can be written down and repeated:
//!
//! ```no_run
//! use edge_tune::data::Dataset;
//!
//! let data = Dataset::open("home-intents.csv")?;
//! let train = data.split("train")?;
//! data.require_classes(&train, 2)?;
//! let few = data.shots(&train, 16, 0)?; // 16 rows of each class, the same for every run
//! let (fit, validation) = data.holdout(&few, 0.2, 0)?;
//! # Ok::<(), edge_tune::data::DataError>(())
//! ```
//!
//! The rows of a folder or zip name files. A [`MediaSpec`] makes one of them the input of a
//! backbone:
//!
//! ```no_run
//! use edge_tune::data::{Dataset, ImageSpec, MediaSpec};
//!
//! let data = Dataset::open("pets.zip")?; // cat/1.jpg, cat/2.jpg, dog/1.png, ...
//! let spec = MediaSpec::Image(ImageSpec::square(64, [0.5; 3], [0.5; 3]));
//! let input = spec.tensor(&data.bytes(0)?, &data.file(0))?; // f32 [3, 64, 64]
//! # Ok::<(), edge_tune::data::DataError>(())
//! ```

mod array;
mod audio;
mod csv;
mod error;
mod image;
mod media;
mod select;
pub(crate) mod shuffle;
mod spec;
mod text;
mod tokenizer;

pub use array::{ArraySpec, read_npy};
pub use audio::{AudioSpec, Place, Sound};
pub use error::DataError;
pub use image::{Augment, Crop, ImageSpec, Interpolation, Picture, Resize};
#[cfg(feature = "image")]
pub use media::Archive;
pub use media::{Source, read_file};
pub use spec::MediaSpec;
pub use text::{Dataset, Row};
pub use tokenizer::{Encoded, TextBatch, TextEncoder, batch};

/// Reads a CSV file; for fuzzing.
pub(crate) fn check_csv(bytes: &[u8], limit: u64) {
    let _ = csv::read(std::path::Path::new("fuzz.csv"), bytes, limit);
}
