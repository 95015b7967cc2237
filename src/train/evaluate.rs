//! How well a delta does on labelled rows.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::TrainError;
use super::options::Example;
use crate::Error;
use crate::data::{DataError, Dataset};
use crate::runtime::{InputLimit, Model, Task, best};

/// Rows that go through the engine at once.
const BATCH: usize = 8;

/// Right and wrong answers on labelled rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Share of rows classified correctly.
    pub accuracy: f64,
    /// Mean F1 of the classes that occur.
    pub macro_f1: f64,
    /// Rows.
    pub n: usize,
    /// Scores of every class that the delta knows.
    pub per_class: BTreeMap<String, ClassScore>,
    /// Names of the rows and columns of `confusion`.
    pub labels: Vec<String>,
    /// Number of rows of each true class (row) by predicted class (column).
    pub confusion: Vec<Vec<usize>>,
    /// Seconds.
    pub seconds: f64,
}

/// Scores of one class; 0 where they are not defined.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// Rows of the class.
    pub n: usize,
    /// Share of them that was found.
    pub accuracy: f64,
    /// Share of the rows given this class that are of it.
    pub precision: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// Reads `rows` of `data` as examples of the classes `labels`.
///
/// # Errors
/// [`DataError::UnknownLabel`] for a row of another class, and whatever the tokenizer fails with.
pub fn examples(
    model: &Model,
    data: &Dataset,
    rows: &[usize],
    labels: &[String],
    limit: InputLimit,
) -> Result<Vec<Example>, Error> {
    rows.iter()
        .filter_map(|&r| Some((r, data.rows.get(r)?)))
        .map(|(number, row)| {
            let label = labels.iter().position(|l| *l == row.label).ok_or_else(|| {
                DataError::UnknownLabel {
                    path: data.path.clone(),
                    line: row.line,
                    label: row.label.clone(),
                    known: labels.to_vec(),
                }
            })?;
            Ok(Example { input: model.sample(data, number, limit)?, label })
        })
        .collect()
}

/// Classifies `examples` with `task`; `progress` gets the number done and stops by `false`.
///
/// # Errors
/// [`TrainError::NoBatches`] without examples, [`TrainError::Interrupted`] if it was stopped, and
/// whatever the engine fails with.
pub fn evaluate(
    model: &Model,
    task: &Task,
    examples: &[Example],
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Evaluation, Error> {
    let started = Instant::now();
    let labels = task.metadata().labels.clone();
    if examples.is_empty() {
        return Err(TrainError::NoBatches { rows: 0, batch_size: BATCH }.into());
    }
    let mut confusion = vec![vec![0usize; labels.len()]; labels.len()];
    // Rows of like length need little padding.
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|e| e.input.tokens());
    let mut done = 0;
    for batch in order.chunks(BATCH) {
        let inputs: Vec<_> = batch.iter().map(|e| &e.input).collect();
        let logits = model.logits(task, &inputs)?;
        let logits = logits.to_f32();
        for (row, example) in logits.chunks(labels.len()).zip(batch) {
            if let Some(cell) = confusion.get_mut(example.label).and_then(|c| c.get_mut(best(row)))
            {
                *cell += 1;
            }
        }
        done += batch.len();
        if !progress(done) {
            return Err(TrainError::Interrupted { step: done as u64, checkpoint: None }.into());
        }
    }
    Ok(Evaluation::of(labels, confusion, started.elapsed().as_secs_f64()))
}

impl Evaluation {
    fn of(labels: Vec<String>, confusion: Vec<Vec<usize>>, seconds: f64) -> Evaluation {
        let share = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        let n: usize = confusion.iter().flatten().sum();
        let right: usize = (0..labels.len()).map(|k| confusion[k][k]).sum();
        let score = |k: usize| {
            let (of_class, given) =
                (confusion[k].iter().sum(), confusion.iter().map(|row| row[k]).sum());
            let (accuracy, precision) =
                (share(confusion[k][k], of_class), share(confusion[k][k], given));
            let both = accuracy + precision;
            let f1 = if both > 0.0 { 2.0 * accuracy * precision / both } else { 0.0 };
            ClassScore { n: of_class, accuracy, precision, f1 }
        };
        let scores: Vec<ClassScore> = (0..labels.len()).map(score).collect();
        let present: Vec<f64> = scores.iter().filter(|s| s.n > 0).map(|s| s.f1).collect();
        Evaluation {
            accuracy: share(right, n),
            macro_f1: present.iter().sum::<f64>() / present.len().max(1) as f64,
            n,
            per_class: labels.iter().cloned().zip(scores).collect(),
            labels,
            confusion,
            seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
        let e = Evaluation::of(labels, vec![vec![3, 1, 0], vec![2, 4, 0], vec![0, 0, 0]], 0.0);
        assert_eq!((e.n, e.accuracy), (10, 0.7));
        let a = e.per_class["a"];
        assert_eq!((a.n, a.accuracy, a.precision), (4, 0.75, 0.6));
        assert!((a.f1 - 2.0 * 0.75 * 0.6 / 1.35).abs() < 1e-12);
        // A class without rows does not count in the mean.
        let b = e.per_class["b"];
        assert!((e.macro_f1 - (a.f1 + b.f1) / 2.0).abs() < 1e-12);
        assert_eq!(e.per_class["c"], ClassScore { n: 0, accuracy: 0.0, precision: 0.0, f1: 0.0 });
    }
}
