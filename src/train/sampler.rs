//! The order in which rows are trained on.

use super::TrainError;
use crate::data::shuffle::{rng, shuffle};

/// Batches of rows, shuffled anew every epoch.
///
/// The order of an epoch depends on nothing but the rows, the seed and the epoch's number, on
/// any platform; so `(epoch, position)` is all that a checkpoint needs.
#[derive(Clone, Debug)]
pub struct Sampler {
    rows: Vec<usize>,
    batch_size: usize,
    seed: u64,
    epoch: u64,
    position: usize,
    order: Vec<usize>,
}

impl Sampler {
    /// Starts at the first batch of epoch 0.
    ///
    /// # Errors
    /// [`TrainError::NoBatches`] if there are no rows or `batch_size` is 0.
    pub fn new(rows: &[usize], batch_size: usize, seed: u64) -> Result<Sampler, TrainError> {
        if rows.is_empty() || batch_size == 0 {
            return Err(TrainError::NoBatches { rows: rows.len(), batch_size });
        }
        let mut sampler = Sampler {
            rows: rows.to_vec(),
            batch_size,
            seed,
            epoch: 0,
            position: 0,
            order: Vec::new(),
        };
        sampler.shuffle();
        Ok(sampler)
    }

    /// Goes on after `position` rows of `epoch`, as [`epoch`](Sampler::epoch) and
    /// [`position`](Sampler::position) were.
    ///
    /// # Errors
    /// [`TrainError::Position`] if no batch of an epoch starts there.
    pub fn seek(&mut self, epoch: u64, position: usize) -> Result<(), TrainError> {
        if position >= self.rows.len() || !position.is_multiple_of(self.batch_size) {
            let (rows, batch_size) = (self.rows.len(), self.batch_size);
            return Err(TrainError::Position { rows, batch_size, position });
        }
        (self.epoch, self.position) = (epoch, position);
        self.shuffle();
        Ok(())
    }

    /// The rows of the next batch. The last one of an epoch may be smaller; then the next epoch
    /// begins.
    pub fn next_batch(&mut self) -> Vec<usize> {
        let end = self.rows.len().min(self.position.saturating_add(self.batch_size));
        let batch = self.order.get(self.position..end).unwrap_or_default().to_vec();
        self.position = end;
        if end == self.rows.len() {
            (self.epoch, self.position) = (self.epoch + 1, 0);
            self.shuffle();
        }
        batch
    }

    /// The epoch of the next batch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Rows of the epoch before the next batch.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        self.rows.len().div_ceil(self.batch_size)
    }

    fn shuffle(&mut self) {
        self.order.clone_from(&self.rows);
        shuffle(&mut self.order, &mut rng(self.seed, self.epoch));
    }
}
