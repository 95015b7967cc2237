//! Pictures that other subcommands write beside their answer.

use std::path::{Path, PathBuf};

use anyhow::Context;
use edge_tune::plot::{Axis, Lines, Matrix, Panel, Series, Unit};
use edge_tune::train::{Evaluation, Event};

/// The file of `--plot`: refused before any work if it cannot be written as what it says.
pub fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let svg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"));
    if !svg {
        return Err("plots are SVG: name a file that ends in .svg".to_owned());
    }
    if path.is_dir() || text.ends_with(std::path::is_separator) {
        return Err("it is a directory; name a file in it".to_owned());
    }
    match path.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
        Some(dir) => Err(format!("there is no directory {}", dir.display())),
        None => Ok(path),
    }
}

/// Writes a picture.
pub fn write(path: &Path, svg: &str) -> anyhow::Result<()> {
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

/// The confusion matrix of a measurement.
pub fn confusion(task: &str, e: &Evaluation) -> String {
    let title = format!("{task}: accuracy {:.1} %, {} rows", 100.0 * e.accuracy, e.n);
    Matrix { title, labels: e.labels.clone(), counts: e.confusion.clone() }.svg()
}

/// What a run tells about its steps.
#[derive(Default)]
pub struct Curves {
    loss: Vec<(f64, f64)>,
    accuracy: Vec<(f64, f64)>,
}

impl Curves {
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, loss, .. } => self.loss.push((*step as f64, f64::from(*loss))),
            Event::Validated(v) => self.accuracy.push((v.step as f64, v.accuracy)),
            _ => {}
        }
    }

    /// Loss above, accuracy on held-out rows below if there were any.
    pub fn svg(self, title: String) -> String {
        let panel = |title: &str, unit, name: &str, points| Panel {
            y: Axis { title: title.into(), unit },
            series: vec![Series { name: name.into(), points }],
        };
        let mut panels = vec![panel("loss", Unit::Number, "rows of a step", self.loss)];
        if !self.accuracy.is_empty() {
            panels.push(panel("accuracy", Unit::Percent, "held-out rows", self.accuracy));
        }
        Lines { title, x_title: "step".into(), panels }.svg()
    }
}
