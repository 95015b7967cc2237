use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use super::inputs::{InputLimit, Sample, encode_batch};
use super::media::Reader;
use super::program::{Compiled, served, signature};
use super::task::{Over, Reserved};
use super::trunk::Kept;
use super::{Budget, RuntimeError, Task, expected_tensors, plan_of};
use crate::Error;
use crate::backbone::{Backbone, TOKENIZER_FILE};
use crate::data::{Augment, Dataset, MediaSpec, Picture, Source, TextEncoder};
use crate::delta::Delta;
use crate::engine::{Compute, Engine};
use crate::graph::sites::Modality;
use crate::methods::{Plan, TensorSpec};
use crate::parallel::side_by_side;
use crate::tensor::{DType, Tensor};

/// A loaded backbone with any number of resident tasks, one of them active.
///
/// All methods take `&self`: threads share a model by reference or `Arc`, predicting while others
/// swap. A prediction uses the one generation it started with.
pub struct Model {
    backbone: Arc<Backbone>,
    engine: Arc<dyn Engine>,
    encoder: Option<TextEncoder>,
    reader: Option<Reader>,
    programs: Mutex<HashMap<String, Arc<Compiled>>>,
    active: ArcSwapOption<Active>,
    /// The last generation given out; held while swapping.
    generation: Mutex<u64>,
    /// Bytes of resident deltas, and how many there are.
    resident: Arc<(AtomicUsize, AtomicUsize)>,
    budget: Budget,
}

struct Active {
    generation: u64,
    task: Arc<Task>,
}

/// The answer to one input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The most likely label.
    pub label: String,
    /// Probability of every label, in the order of the delta's labels; they add up to 1.
    pub scores: Vec<f32>,
    /// The task that answered.
    pub task: String,
    /// The generation that answered.
    pub generation: u64,
}

impl Prediction {
    fn new(task: &Task, generation: u64, logits: &Tensor) -> Prediction {
        let scores = softmax(&logits.to_f32());
        let labels = &task.metadata().labels;
        Prediction {
            label: labels.get(best(&scores)).cloned().unwrap_or_default(),
            scores,
            task: task.metadata().task.clone(),
            generation,
        }
    }
}

impl Model {
    /// Loads the backbone in `dir` for `engine`.
    ///
    /// # Errors
    /// [`Error::Backbone`] or [`Error::Data`] naming the file that was refused.
    pub fn open(dir: &Path, engine: Arc<dyn Engine>) -> Result<Model, Error> {
        Model::new(Backbone::load(dir)?, engine)
    }

    /// A model over a loaded backbone.
    ///
    /// # Errors
    /// [`Error::Data`] if the tokenizer was refused.
    pub fn new(backbone: Arc<Backbone>, engine: Arc<dyn Engine>) -> Result<Model, Error> {
        let manifest = backbone.manifest();
        let encoder = match manifest.has(TOKENIZER_FILE) {
            true => {
                let path = backbone.dir().join(TOKENIZER_FILE);
                Some(TextEncoder::from_file(path, manifest.max_length)?)
            }
            false => None,
        };
        let reader = match backbone.sites().modality {
            Modality::Text => None,
            _ => Some(Reader::new(&backbone, &*engine)?),
        };
        Ok(Model {
            backbone,
            engine,
            encoder,
            reader,
            programs: Mutex::default(),
            active: ArcSwapOption::empty(),
            generation: Mutex::new(0),
            resident: Arc::default(),
            budget: Budget::default(),
        })
    }

    /// The same model with limits on its deltas: a [`Budget`], or bytes of all resident ones.
    pub fn with_budget(self, budget: impl Into<Budget>) -> Model {
        Model { budget: budget.into(), ..self }
    }

    /// The limits on its deltas.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The backbone.
    pub fn backbone(&self) -> &Arc<Backbone> {
        &self.backbone
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The tokenizer of a text backbone.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] if the backbone has none.
    pub fn encoder(&self) -> Result<&TextEncoder, Error> {
        self.encoder.as_ref().ok_or_else(|| {
            RuntimeError::Input {
                backbone: self.backbone.manifest().name.clone(),
                takes: "tensors (it has no tokenizer)",
                given: "text",
            }
            .into()
        })
    }

    /// The sample in the bytes of a picture, sound or array file; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Data`] if it is no such file, [`RuntimeError::Input`] if the backbone takes text.
    pub fn sample_of_file(&self, bytes: &[u8], path: &Path) -> Result<Sample, Error> {
        let reader = self.reader.as_ref().ok_or_else(|| RuntimeError::Input {
            backbone: self.backbone.manifest().name.clone(),
            takes: "text",
            given: "files",
        })?;
        reader.read(bytes, path)
    }

    /// The sample of row `row` of `data`; texts are cut to `limit`.
    ///
    /// # Errors
    /// As [`Model::sample_of_file`], and if the row cannot be read or is of another kind.
    pub fn sample(&self, data: &Dataset, row: usize, limit: InputLimit) -> Result<Sample, Error> {
        let inline = matches!(data.source, Source::Inline);
        match (&self.reader, inline) {
            (None, true) => {
                let text = data.rows.get(row).map_or("", |r| r.text.as_str());
                Ok(limit.encode(self.encoder()?, text)?.into())
            }
            (Some(reader), false) => reader.read(&data.bytes(row)?, &data.file(row)),
            (reader, _) => Err(RuntimeError::Input {
                backbone: self.backbone.manifest().name.clone(),
                takes: if reader.is_some() { "pictures, sounds or arrays" } else { "text" },
                given: if inline { "text" } else { "files" },
            }
            .into()),
        }
    }

    /// A random view of the picture in row `row` of `data`, drawn from (seed, stream).
    ///
    /// # Errors
    /// As [`Model::sample_of_file`], and if the backbone does not read pictures.
    pub fn view(
        &self,
        data: &Dataset,
        row: usize,
        augment: &Augment,
        draw: (u64, u64),
    ) -> Result<Sample, Error> {
        let Some(MediaSpec::Image(spec)) = &self.backbone.manifest().preprocess else {
            return Err(RuntimeError::Input {
                backbone: self.backbone.manifest().name.clone(),
                takes: "no pictures",
                given: "pictures to augment",
            }
            .into());
        };
        let picture = Picture::decode(&data.bytes(row)?, &data.file(row))?;
        Ok(Sample::Dense(augment.tensor(&picture, spec, draw.0, draw.1)?))
    }

    /// Bytes of all resident deltas' tensors.
    pub fn resident_bytes(&self) -> usize {
        self.resident.0.load(Ordering::Relaxed)
    }

    /// Makes a delta resident: validates it, compiles or reuses its program, binds its tensors.
    /// Nothing changes for predictions until [`Model::swap`].
    ///
    /// # Errors
    /// [`Error::Delta`], [`RuntimeError::Method`], [`RuntimeError::Budget`] or
    /// [`RuntimeError::Resident`]; the model is as
    /// before.
    pub fn load(&self, delta: &Delta) -> Result<Arc<Task>, Error> {
        let metadata = delta.metadata();
        self.budget.check(metadata, delta.file_bytes(), delta.name())?;
        let plan = plan_of(&self.backbone, delta)?;
        delta.validate(self.backbone.digest(), &expected_tensors(&plan))?;
        let reserved = self.reserve(&plan, &metadata.task)?;
        let key = signature(&plan);
        let known = self.programs().get(&key).cloned();
        let compiled = match known {
            Some(c) => c,
            None => {
                let c = Arc::new(Compiled::new(&self.backbone, self.engine.clone(), &plan)?);
                self.programs().entry(key).or_insert(c).clone()
            }
        };
        compiled.program(1)?;
        let engine = &*self.engine;
        Ok(Arc::new(Task::new(engine, &self.backbone, compiled, &plan, delta, reserved)?))
    }

    /// Takes the bytes of the plan's tensors from the budget, before anything is loaded.
    fn reserve(&self, plan: &Plan, task: &str) -> Result<Reserved, RuntimeError> {
        let values: usize = served(plan).iter().map(TensorSpec::len).sum();
        let needs = values * DType::F16.size();
        let task = || task.to_owned();
        Reserved::take(&self.resident, needs, &self.budget).map_err(|over| match over {
            Over::Bytes(free) => {
                let budget = self.budget.max_resident_bytes;
                RuntimeError::Budget { task: task(), needs, free, budget }
            }
            Over::Tasks => RuntimeError::Resident { task: task(), most: self.budget.max_resident },
        })
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Compiled>>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a resident task the active one and returns its generation.
    pub fn swap(&self, task: &Arc<Task>) -> u64 {
        let mut last = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        self.active.store(Some(Arc::new(Active { generation: *last, task: task.clone() })));
        *last
    }

    /// As [`Model::swap`], if `expected` is the active generation (0: none is).
    ///
    /// # Errors
    /// [`RuntimeError::Generation`] with the one that is active.
    pub fn compare_and_swap(&self, expected: u64, task: &Arc<Task>) -> Result<u64, Error> {
        let mut last = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let active = self.active.load().as_ref().map_or(0, |a| a.generation);
        if active != expected {
            return Err(RuntimeError::Generation { expected, active }.into());
        }
        *last += 1;
        self.active.store(Some(Arc::new(Active { generation: *last, task: task.clone() })));
        Ok(*last)
    }

    /// Reads a delta file, makes it resident, passes its self-test and makes it active.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Model::self_test`]; the old task stays active then.
    pub fn apply(&self, path: &Path) -> Result<u64, Error> {
        let task = self.load(&self.budget.read(path)?)?;
        self.self_test(&task)?;
        Ok(self.swap(&task))
    }

    /// The active generation and its task.
    pub fn active(&self) -> Option<(u64, Arc<Task>)> {
        self.active.load().as_ref().map(|a| (a.generation, a.task.clone()))
    }

    /// Classifies a text with the active task.
    ///
    /// # Errors
    /// [`RuntimeError::NoActive`], or whatever the engine fails with.
    pub fn predict(&self, text: &str) -> Result<Prediction, Error> {
        let active = self.active.load_full().ok_or(RuntimeError::NoActive)?;
        self.predict_with(&active.task, active.generation, text)
    }

    /// Classifies a text with a resident task, whatever is active; `generation` is only returned.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn predict_with(
        &self,
        task: &Task,
        generation: u64,
        text: &str,
    ) -> Result<Prediction, Error> {
        let sample = task.limit().encode(self.encoder()?, text)?.into();
        self.classify(task, generation, &sample)
    }

    /// As [`Model::predict_with`], for an input that is ready for the backbone.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn classify(
        &self,
        task: &Task,
        generation: u64,
        sample: &Sample,
    ) -> Result<Prediction, Error> {
        Ok(Prediction::new(task, generation, &self.logits(task, &[sample])?))
    }

    /// Classifies a text with many resident tasks, each with the generation that is returned; in their
    /// order.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn predict_with_all(
        &self,
        tasks: &[(&Task, u64)],
        text: &str,
    ) -> Result<Vec<Prediction>, Error> {
        // Prompt rows take positions from the text: it is cut for each number of them.
        let mut alike: BTreeMap<InputLimit, Vec<usize>> = BTreeMap::new();
        for (i, (task, _)) in tasks.iter().enumerate() {
            alike.entry(task.limit()).or_default().push(i);
        }
        let mut answers = Vec::with_capacity(tasks.len());
        for (limit, positions) in alike {
            let sample = limit.encode(self.encoder()?, text)?.into();
            let some: Vec<_> = positions.iter().map(|&i| tasks[i]).collect();
            answers.extend(positions.into_iter().zip(self.classify_with_all(&some, &sample)?));
        }
        answers.sort_by_key(|(i, _)| *i);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Classifies an input with many resident tasks, each with the generation that is returned, as
    /// [`Model::logits_of_all`] does.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn classify_with_all(
        &self,
        tasks: &[(&Task, u64)],
        sample: &Sample,
    ) -> Result<Vec<Prediction>, Error> {
        let alone: Vec<&Task> = tasks.iter().map(|(task, _)| *task).collect();
        let logits = self.logits_of_all(&alone, &[sample])?;
        let answers = tasks.iter().zip(&logits);
        Ok(answers.map(|((task, generation), l)| Prediction::new(task, *generation, l)).collect())
    }

    /// Scores before the softmax, f32 `[B, K]`.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn logits(&self, task: &Task, samples: &[&Sample]) -> Result<Tensor, Error> {
        let inputs = encode_batch(&self.backbone, samples, samples.len())?;
        Ok(task.run(&inputs)?.0)
    }

    /// The same for many resident tasks, in their order: the part of the backbone that lies before
    /// their deltas is computed once for all that have it in common. A head costs next to nothing,
    /// and adapters in the last layers cost those layers; prompts at the embeddings share nothing.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    pub fn logits_of_all<'a>(
        &self,
        tasks: &[&'a Task],
        samples: &[&Sample],
    ) -> Result<Vec<Tensor>, Error> {
        let inputs = encode_batch(&self.backbone, samples, samples.len())?;
        if let [task] = tasks {
            return Ok(vec![task.run(&inputs)?.0]);
        }
        let split = |task: &&'a Task| Ok((*task, task.split(&self.backbone)?));
        let tasks = tasks.iter().map(split).collect::<Result<Vec<(&Task, _)>, Error>>()?;
        let mut trunks: HashMap<&str, Kept> = HashMap::new();
        for (task, split) in &tasks {
            if let Some(split) = split
                && !trunks.contains_key(&*split.key)
            {
                trunks.insert(&split.key, task.run_trunk(split, &*self.engine, &inputs)?);
            }
        }
        side_by_side(self.engine.threads(), &tasks, |(task, split)| {
            let trunk = split.and_then(|split| Some((split, trunks.get(&*split.key)?)));
            Ok(match trunk {
                Some((split, kept)) => task.run_rest(split, &inputs, kept)?.0,
                None => task.run(&inputs)?.0,
            })
        })
    }

    /// The input of a self-test: a text, or for other backbones the number of a fixed pattern, so
    /// that a delta never carries the user's data.
    ///
    /// # Errors
    /// [`Error::Data`] if the tokenizer fails, [`RuntimeError::Input`] if it is no such number.
    pub fn self_test_sample(&self, task: &Task, input: &str) -> Result<Sample, Error> {
        let Some(reader) = &self.reader else {
            return Ok(task.limit().encode(self.encoder()?, input)?.into());
        };
        let seed = input.parse().map_err(|_| RuntimeError::Input {
            backbone: self.backbone.manifest().name.clone(),
            takes: "the number of a pattern as a self-test",
            given: "text",
        })?;
        reader.pattern(seed)
    }

    /// Runs the delta's self-test on this device.
    ///
    /// # Errors
    /// [`RuntimeError::SelfTest`] if an answer differs by more than its tolerance.
    pub fn self_test(&self, task: &Task) -> Result<(), Error> {
        for (input, test) in task.metadata().self_test.iter().enumerate() {
            let sample = self.self_test_sample(task, &test.input)?;
            let logits = self.logits(task, &[&sample])?;
            let pairs = logits.to_f32().into_owned();
            let difference = pairs
                .iter()
                .zip(&test.logits)
                .map(|(a, b)| (a - b).abs())
                .fold(0f32, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) });
            // Int8 here, where the delta was made in f32.
            let tolerance = match self.engine.compute() {
                Compute::F32 => test.tolerance,
                Compute::Int8 => test.tolerance.max(tolerance(&test.logits, Compute::Int8)),
            };
            if difference > tolerance || pairs.len() != test.logits.len() {
                let task = task.metadata().task.clone();
                return Err(RuntimeError::SelfTest { task, input, difference, tolerance }.into());
            }
        }
        Ok(())
    }
}

/// How far the scores of a self-test may be from these on another device. Other processors sum in
/// another order; another backbone differs far more.
pub fn tolerance(logits: &[f32], compute: Compute) -> f32 {
    let peak = logits.iter().fold(0f32, |m, v| m.max(v.abs()));
    // Twice the tolerance of f32 was measured between int8 and f32.
    let factor = match compute {
        Compute::F32 => 1.0,
        Compute::Int8 => 8.0,
    };
    factor * (0.02 + 0.01 * peak)
}

/// Position of the largest score.
pub fn best(scores: &[f32]) -> usize {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |b| b.0)
}

/// Probabilities from scores.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|v| (v - top).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.into_iter().map(|v| v / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::softmax;

    #[test]
    fn probabilities() {
        let p = softmax(&[1000.0, 1000.0, -1000.0]);
        assert!((p[0] - 0.5).abs() < 1e-6 && p[2] == 0.0);
    }
}
