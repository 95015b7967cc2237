//! Input data: labelled text from CSV files, row selections, and text as token ids.
//!
//! A [`Dataset`] holds every row of a file; everything else works on row numbers (0-based, the
//! header not counted), so that a selection can be written down and repeated:
//!
//! ```no_run
//! use edge_tune::data::Dataset;
//!
//! let data = Dataset::read_csv("home-intents.csv")?;
//! let train = data.split("train")?;
//! data.require_classes(&train, 2)?;
//! let few = data.shots(&train, 16, 0)?; // 16 rows of each class, the same for every run
//! let (fit, validation) = data.holdout(&few, 0.2, 0)?;
//! # Ok::<(), edge_tune::data::DataError>(())
//! ```

mod csv;
mod error;
mod select;
pub(crate) mod shuffle;
mod text;
mod tokenizer;

pub use error::DataError;
pub use text::{Dataset, Row};
pub use tokenizer::{Encoded, TextBatch, TextEncoder, batch};
