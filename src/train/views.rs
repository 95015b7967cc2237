//! Random views of training pictures, drawn anew in every step.

use super::calibrate::Run;
use super::options::{Example, Options};
use super::{Task, TrainError};
use crate::Error;
use crate::data::MediaSpec;

/// Refuses augmentation of anything but pictures.
pub(super) fn check(task: &Task<'_>, options: &Options) -> Result<(), Error> {
    options.augment.validate()?;
    let manifest = task.model.backbone().manifest();
    if options.augments() && !matches!(manifest.preprocess, Some(MediaSpec::Image(_))) {
        return Err(TrainError::NoPictures { backbone: manifest.name.clone() }.into());
    }
    Ok(())
}

impl Run<'_> {
    pub(super) fn augments(&self) -> bool {
        self.options.augments()
    }

    /// Views of the training examples `rows`; view number i depends on `first + i` and the seed
    /// alone, so that a run goes on the same after an interruption.
    pub(super) fn views(&self, rows: &[usize], first: u64) -> Result<Vec<Example>, Error> {
        let (task, options) = (self.task, self.options);
        let view = |(i, &row): (usize, &usize)| {
            let draw = (options.seed, first + i as u64);
            let input = task.model.view(task.data, task.rows[row], &options.augment, draw)?;
            Ok(Example { input, label: self.examples[row].label })
        };
        rows.iter().enumerate().map(view).collect()
    }
}
