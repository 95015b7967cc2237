//! The same few-shot problem for several methods and seeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::memory::anonymous_bytes;
use super::{Observer, Options, Task, calibrate, evaluate, examples};
use crate::Error;
use crate::data::{DataError, Dataset};
use crate::methods::{Method, MethodError, Settings};
use crate::runtime::Model;

/// Between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What all runs of a comparison share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Digest of the backbone.
    pub backbone: String,
    /// Digest of the rows that shots are drawn from.
    pub data: String,
    /// Digest of the rows that deltas are measured on.
    pub test: String,
    /// Rows of every class that a run is given.
    pub shots: usize,
    /// Share of them that is held out to choose the best state by.
    pub validation: f64,
    /// Passes over the rows; `None` for each method's own.
    pub epochs: Option<usize>,
    /// Most seconds of a run.
    pub max_seconds: Option<f64>,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The method.
    pub method: String,
    /// Seed of the draw, of initial values and of the order of rows.
    pub seed: u64,
    /// The method's settings.
    pub settings: BTreeMap<String, String>,
    /// What it shares with other runs.
    #[serde(flatten)]
    pub terms: Terms,
    /// Share of the test rows classified correctly.
    pub accuracy: f64,
    /// Mean F1 of the classes of the test rows.
    pub macro_f1: f64,
    /// Trained values.
    pub parameters: usize,
    /// Bytes of the delta file.
    pub delta_bytes: usize,
    /// Steps taken.
    pub steps: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// What the planner expected to be the peak of anonymous memory.
    pub predicted_peak_bytes: usize,
    /// Most anonymous memory of the process during training, where the system tells. It includes
    /// what the process held before, as the prediction does.
    pub peak_bytes: Option<usize>,
}

impl Terms {
    /// For people, with numbers as they come back from text.
    pub(super) fn shown(&self) -> Value {
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let value = json!(Terms {
            backbone: short(&self.backbone),
            data: short(&self.data),
            test: short(&self.test),
            ..self.clone()
        });
        serde_json::from_str(&value.to_string()).unwrap_or(value)
    }
}

/// Rows to learn from and to measure on.
pub struct Comparison<'a> {
    model: &'a Model,
    data: (&'a Dataset, &'a [usize]),
    test: (&'a Dataset, &'a [usize]),
    terms: Terms,
}

impl<'a> Comparison<'a> {
    /// A comparison on `model`: runs draw `shots` of every class of `data` and are measured on
    /// `test`. A run that takes longer than `max_seconds` is cut short.
    ///
    /// # Errors
    /// [`Error::Data`] if a class has too few rows, there are fewer than two, `validation` is no
    /// share, or a test row is of another class.
    pub fn new(
        model: &'a Model,
        data: (&'a Dataset, &'a [usize]),
        test: (&'a Dataset, &'a [usize]),
        shots: usize,
        validation: f64,
    ) -> Result<Comparison<'a>, Error> {
        let drawn = data.0.shots(data.1, shots, 0)?;
        data.0.require_classes(&drawn, 2)?;
        data.0.holdout(&drawn, validation, 0)?;
        let strange = test
            .1
            .iter()
            .filter_map(|&r| test.0.rows.get(r))
            .find(|r| data.0.class(&r.label).is_none());
        if let Some(row) = strange {
            return Err(DataError::UnknownLabel {
                path: test.0.path.clone(),
                line: row.line,
                label: row.label.clone(),
                known: data.0.labels.clone(),
            }
            .into());
        }
        let terms = Terms {
            backbone: model.backbone().digest().to_owned(),
            data: data.0.digest(data.1),
            test: test.0.digest(test.1),
            shots,
            validation,
            epochs: None,
            max_seconds: None,
        };
        Ok(Comparison { model, data, test, terms })
    }

    /// Other passes over the rows than each method's own, and a limit for a run.
    pub fn limited(mut self, epochs: Option<usize>, max_time: Option<Duration>) -> Comparison<'a> {
        self.terms.epochs = epochs;
        self.terms.max_seconds = max_time.map(|t| t.as_secs_f64());
        self
    }

    /// What all runs share.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether `method` can run on the backbone.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, method: &dyn Method, settings: &Settings) -> Result<(), MethodError> {
        let manifest = self.model.backbone().manifest();
        method.plan(manifest, self.data.0.labels.len(), settings).map(|_| ())
    }

    /// Draws, trains and measures.
    ///
    /// # Errors
    /// Those of [`calibrate`] and [`evaluate`]; [`TrainError::Interrupted`] if `observer` stopped
    /// it.
    ///
    /// [`TrainError::Interrupted`]: super::TrainError::Interrupted
    pub fn run(
        &self,
        method: &dyn Method,
        settings: &Settings,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Trial, Error> {
        // What earlier runs left behind would count as memory of this one.
        give_back();
        let (data, rows) = self.data;
        let few = data.shots(rows, self.terms.shots, seed)?;
        let (train, held) = data.holdout(&few, self.terms.validation, seed)?;
        let task = Task::new(self.model, method, settings.clone(), data, &train, &held)?;
        let task = task.named("compare");
        let options = Options {
            epochs: self.terms.epochs,
            seed,
            max_time: self.terms.max_seconds.map(Duration::from_secs_f64),
            ..Options::default()
        };
        let (result, peak_bytes) = watched(|| calibrate(&task, &options, observer));
        let (delta, report) = result?;
        let loaded = self.model.load(&delta)?;
        let (test, rows) = self.test;
        let examples = examples(self.model, test, rows, &task.labels, loaded.limit())?;
        let measured = evaluate(self.model, &loaded, &examples, |_| !observer.stop())?;
        let settings = settings.to_json();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let settings = settings.as_object().into_iter().flatten();
        Ok(Trial {
            method: report.method,
            seed,
            settings: settings.map(|(k, v)| (k.clone(), text(v))).collect(),
            terms: self.terms.clone(),
            accuracy: measured.accuracy,
            macro_f1: measured.macro_f1,
            parameters: report.budget.parameters,
            delta_bytes: report.delta_bytes,
            steps: report.steps,
            seconds: report.seconds,
            predicted_peak_bytes: report.budget.predicted_peak_bytes,
            peak_bytes,
        })
    }
}

/// Returns freed memory to the system, where the allocator can be asked to.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes no pointers and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Runs `work` while another thread looks at the memory of the process: (result, most of it).
fn watched<T>(work: impl FnOnce() -> T) -> (T, Option<usize>) {
    /// Ends the watch even if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    if anonymous_bytes().is_none() {
        return (work(), None);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            loop {
                let last = done.load(Ordering::Relaxed);
                peak = peak.max(anonymous_bytes().unwrap_or(0));
                if last {
                    return peak;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let result = {
            let _done = Done(&done);
            work()
        };
        (result, watch.join().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_the_work_is_seen() {
        let before = anonymous_bytes().unwrap();
        let (sum, peak) = watched(|| {
            let large = vec![1u8; 64 << 20];
            std::thread::sleep(Duration::from_millis(40));
            large.iter().map(|b| *b as usize).sum::<usize>()
        });
        assert_eq!(sum, 64 << 20);
        assert!(peak.unwrap() > before + (48 << 20), "{before} {peak:?}");
    }
}
