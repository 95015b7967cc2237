//! Pictures of results as SVG text: points, curves and confusion matrices.
//!
//! Each function returns a whole file: no style sheet, font or script from elsewhere. Values that
//! are not finite are left out, and labels may hold any text.
//!
//! ```
//! use edge_tune::plot::{Axis, Point, Scatter, Unit};
//!
//! let points = vec![Point { name: "lora".into(), x: 21e3, y: 0.84, error: Some(0.02) }];
//! let svg = Scatter {
//!     title: "intents".into(),
//!     x: Axis { title: "delta".into(), unit: Unit::Bytes },
//!     y: Axis { title: "accuracy".into(), unit: Unit::Percent },
//!     points,
//! }
//! .svg();
//! assert!(svg.starts_with("<svg"));
//! ```

mod labels;
mod lines;
mod matrix;
mod scale;
mod scatter;
mod svg;
#[cfg(test)]
mod testing;

pub use lines::{Lines, Panel, Series};
pub use matrix::Matrix;
pub use scale::Unit;
pub use scatter::{Point, Scatter};

/// What is drawn along one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What it shows.
    pub title: String,
    /// How its numbers are written.
    pub unit: Unit,
}
