use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use serde_json::json;

use super::graphs::Graphs;
use super::options::{Ended, Event, Example, Observer, OptimizerKind, Options, Report, Validation};
use super::runner::{Runner, Values, run};
use super::{
    Best, Checkpoint, Optimizer, ParamSpec, Rule, Sampler, Schedule, Shape, Task, TrainError,
    clip_global_norm, plan,
};
use crate::Error;
use crate::backbone::Backbone;
use crate::delta::{Delta, Metadata, SelfTest};
use crate::engine::Engine;
use crate::graph::sites::Modality;
use crate::graph::{Dim, Graph};
use crate::methods::{Hyperparameters, Plan, Training};
use crate::runtime::{best, tolerance};
use crate::tensor::{DType, Tensor};

/// Seconds between checkpoints.
const CHECKPOINT_EVERY: f64 = 20.0;
/// Fixed sentences: a self-test must not carry the user's data.
const SELF_TEST: [&str; 3] =
    ["edge-tune self-test", "The quick brown fox jumps over the lazy dog.", "12:30? Yes, please!"];

/// Trains a delta.
///
/// The head starts as the class-mean classifier; the state with the best validation is kept, the
/// untrained one included. The predicted memory is told to `observer` before anything is computed.
///
/// # Errors
/// [`TrainError::Memory`] if it does not fit, [`TrainError::Interrupted`] when `observer` stopped
/// it (the checkpoint is written then), and whatever the engine fails with.
pub fn calibrate(
    task: &Task<'_>,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<(Delta, Report), Error> {
    let (backbone, engine) = (task.model.backbone(), task.model.engine());
    let plan = task.method.plan(backbone.manifest(), task.labels.len(), &task.settings)?;
    Run::new(task, backbone, &**engine, &plan, options)?.go(observer)
}

pub(super) struct Run<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) backbone: &'a Backbone,
    pub(super) engine: &'a dyn Engine,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a Options,
    hyper: Hyperparameters,
    pub(super) examples: Vec<Example>,
    pub(super) train: Vec<usize>,
    pub(super) validation: Vec<usize>,
    started: Instant,
}

impl<'a> Run<'a> {
    fn new(
        task: &'a Task<'a>,
        backbone: &'a Backbone,
        engine: &'a dyn Engine,
        plan: &'a Plan,
        options: &'a Options,
    ) -> Result<Run<'a>, Error> {
        options.check()?;
        super::views::check(task, options)?;
        let classes = task.labels.len();
        let examples: Vec<Example> = task.train.iter().chain(&task.validation).cloned().collect();
        if let Some(e) = examples.iter().find(|e| e.label >= classes) {
            return Err(TrainError::Label { label: e.label, classes }.into());
        }
        if task.train.is_empty() || options.batch == 0 {
            let (rows, batch_size) = (task.train.len(), options.batch);
            return Err(TrainError::NoBatches { rows, batch_size }.into());
        }
        let defaults = task.method.hyperparameters();
        let hyper = Hyperparameters {
            learning_rate: options.learning_rate.unwrap_or(defaults.learning_rate),
            weight_decay: options.weight_decay.unwrap_or(defaults.weight_decay),
            epochs: options.epochs.unwrap_or(defaults.epochs),
        };
        let train = (0..task.train.len()).collect();
        let validation = (task.train.len()..examples.len()).collect();
        let started = Instant::now();
        Ok(Run {
            task,
            backbone,
            engine,
            plan,
            options,
            hyper,
            examples,
            train,
            validation,
            started,
        })
    }

    fn go(self, observer: &mut dyn Observer) -> Result<(Delta, Report), Error> {
        let absent = self.absent();
        let graphs = |cache| Graphs::new(self.backbone, self.plan, &absent, cache);
        // A view is new in every step.
        let cached = graphs(self.options.cache && !self.augments())?;
        let plain = graphs(false)?;
        let per_epoch = self.train.len().div_ceil(self.options.batch) as u64;
        let steps = match self.plan.training {
            Training::Features => 0,
            _ => per_epoch * self.hyper.epochs as u64,
        };
        let budget = plan::budget(&cached, &plain, &self, steps)?;
        observer.event(Event::Planned(budget));
        let graphs = if budget.cached { cached } else { plain };
        let mut runner = Runner::new(self.backbone, self.engine, graphs, &budget);
        let mut report = Report {
            method: self.task.method.name().to_owned(),
            steps: 0,
            seconds: 0.0,
            train_loss: None,
            validation_accuracy: None,
            untrained_accuracy: None,
            kept_untrained: false,
            ended: Ended::Complete,
            budget,
            delta_bytes: 0,
            history: vec![],
        };
        let tensors = match self.plan.training {
            Training::Features => self.closed(&mut runner, &mut report)?,
            _ => self.descend(&mut runner, &mut report, observer)?,
        };
        drop(runner);
        let delta = self.delta(tensors)?;
        report.delta_bytes = delta.file_bytes() as usize;
        report.seconds = self.started.elapsed().as_secs_f64();
        if let Some(path) = &self.options.checkpoint {
            Checkpoint::remove(path)?;
        }
        Ok((delta, report))
    }

    pub(super) fn labels(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().map(|&r| self.examples[r].label).collect()
    }

    /// Classes that no row is of, where these do not compete.
    fn absent(&self) -> Vec<usize> {
        if !self.options.mask_classes.unwrap_or(self.plan.mask_classes) {
            return vec![];
        }
        let present: HashSet<usize> = self.labels(&self.train).into_iter().collect();
        (0..self.task.labels.len()).filter(|k| !present.contains(k)).collect()
    }

    /// A delta without gradients.
    fn closed(
        &self,
        runner: &mut Runner<'_>,
        report: &mut Report,
    ) -> Result<BTreeMap<String, Tensor>, Error> {
        let values = self.start(runner)?;
        if !self.validation.is_empty() {
            let v = self.validate(runner, &values, 0)?;
            report.validation_accuracy = Some(v.accuracy);
            report.untrained_accuracy = Some(v.accuracy);
        }
        self.fixed(runner)
    }

    /// What a checkpoint must agree on.
    fn identity(&self) -> serde_json::Value {
        json!({
            "method": self.task.method.name(),
            "settings": self.task.settings.to_json(),
            "backbone": self.backbone.digest(),
            "data": self.task.data_digest,
            "parent": self.task.parent.map(Delta::digest),
            "validation_rows": self.validation.len(),
            "seed": self.options.seed,
            "batch": self.options.batch,
            "epochs": self.hyper.epochs,
            "learning_rate": self.hyper.learning_rate,
            "weight_decay": self.hyper.weight_decay,
            "warmup": self.options.warmup,
            "optimizer": self.options.optimizer,
            "clip": self.options.clip,
            "augment": self.options.augment,
            "mask_classes": self.options.mask_classes,
        })
    }

    fn descend(
        &self,
        runner: &mut Runner<'_>,
        report: &mut Report,
        observer: &mut dyn Observer,
    ) -> Result<BTreeMap<String, Tensor>, Error> {
        let identity = self.identity();
        let resumed = match &self.options.checkpoint {
            Some(path) => Checkpoint::resume(path, &identity)?,
            None => None,
        };
        let total = self.examples.len();
        let mut go_on = true;
        runner.fill_cache(&self.examples, |done| {
            observer.event(Event::Caching { done, total });
            go_on = !observer.stop();
            go_on
        })?;
        if !go_on {
            // Nothing is trained yet: there is nothing to keep.
            return Err(TrainError::Interrupted { step: 0, checkpoint: None }.into());
        }
        let mut values = self.start(runner)?;
        runner.forget_features();

        let specs: Vec<ParamSpec> = runner
            .graphs
            .tensors
            .iter()
            .map(|t| ParamSpec { name: t.name.clone(), len: t.len(), decay: t.decay })
            .collect();
        let mut optimizer = Optimizer::new(self.rule(), &specs)?;
        let mut sampler = Sampler::new(&self.train, self.options.batch, self.options.seed)?;
        let mut steps = report.budget.steps;
        let (mut step, mut best) = (0u64, None::<(f64, u64, Values)>);
        if let Some(c) = resumed {
            step = c.step;
            values = self.unpack(runner, &c.params, &values);
            if let Some(b) = c.best {
                best = Some((b.score, b.step, self.unpack(runner, &b.params, &values)));
            }
            optimizer.restore(c.optimizer)?;
            sampler.seek(c.epoch, c.position)?;
            observer.event(Event::Resumed { step });
        } else if !self.validation.is_empty() {
            let v = self.validate(runner, &values, 0)?;
            observer.event(Event::Validated(v));
            report.untrained_accuracy = Some(v.accuracy);
            report.history.push(v);
            best = Some((v.accuracy, 0, values.clone()));
        }
        let mut epoch_loss = (0.0f64, 0usize);
        let mut timing = Timing::new(self, step);
        let mut saved = Instant::now();
        while step < steps {
            if let Some(fewer) = timing.steps_that_fit(self, step, steps) {
                steps = fewer;
                observer.event(Event::Shortened { steps });
                report.ended = Ended::MaxTime;
                if step >= steps {
                    break;
                }
            }
            let warmup = (steps as f64 * self.options.warmup).round() as u64;
            let peak = self.hyper.learning_rate as f32;
            let lr = Schedule { peak, warmup, shape: Shape::Cosine }.lr(step, steps);
            let epoch = sampler.epoch();
            let rows = sampler.next_batch();
            let (loss, mut grads) = match self.augments() {
                false => runner.step(&self.examples, &rows, &values)?,
                true => {
                    let views = self.views(&rows, step * self.options.batch as u64)?;
                    let all: Vec<usize> = (0..views.len()).collect();
                    runner.step(&views, &all, &values)?
                }
            };
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step, learning_rate: peak }.into());
            }
            clip_global_norm(&mut grads, self.options.clip);
            optimizer.step(lr, &mut values, &grads)?;
            step += 1;
            epoch_loss = (epoch_loss.0 + f64::from(loss), epoch_loss.1 + 1);
            observer.event(Event::Step { step, steps, loss });
            let epoch_ends = sampler.epoch() != epoch;
            if epoch_ends || step == steps {
                report.train_loss = Some(epoch_loss.0 / epoch_loss.1.max(1) as f64);
                epoch_loss = (0.0, 0);
                if !self.validation.is_empty() {
                    let v = timing.validation(|| self.validate(runner, &values, step))?;
                    observer.event(Event::Validated(v));
                    report.history.push(v);
                    // On equal accuracy the state that has seen more data is kept, but never in
                    // place of the untrained one unless it is better.
                    let better = best
                        .as_ref()
                        .is_none_or(|b| v.accuracy > b.0 || (v.accuracy == b.0 && b.1 > 0));
                    let strictly = best.as_ref().is_none_or(|b| v.accuracy > b.0);
                    if better {
                        best = Some((v.accuracy, step, values.clone()));
                    }
                    if strictly {
                        timing.improved = sampler.epoch();
                    }
                    if sampler.epoch() - timing.improved >= self.options.patience as u64 {
                        report.ended = Ended::EarlyStop;
                        break;
                    }
                }
            }
            let stop = observer.stop();
            if let Some(path) = &self.options.checkpoint
                && (stop || saved.elapsed().as_secs_f64() > CHECKPOINT_EVERY)
            {
                let checkpoint = Checkpoint {
                    plan: identity.clone(),
                    step,
                    epoch: sampler.epoch(),
                    position: sampler.position(),
                    params: pack(runner, &values)?,
                    optimizer: optimizer.state(),
                    best: match &best {
                        Some((score, step, v)) => {
                            Some(Best { score: *score, step: *step, params: pack(runner, v)? })
                        }
                        None => None,
                    },
                };
                checkpoint.write(path)?;
                saved = Instant::now();
            }
            if stop {
                return Err(self.interrupted(step));
            }
        }
        report.steps = step;
        if let Some((accuracy, at, kept)) = best {
            report.validation_accuracy = Some(accuracy);
            report.kept_untrained = at == 0;
            values = kept;
        }
        self.fold(runner, &values)
    }

    fn interrupted(&self, step: u64) -> Error {
        TrainError::Interrupted { step, checkpoint: self.options.checkpoint.clone() }.into()
    }

    fn rule(&self) -> Rule {
        match self.options.optimizer {
            OptimizerKind::AdamW => Rule::adamw(self.hyper.weight_decay),
            OptimizerKind::Sgd => {
                Rule::Sgd { momentum: 0.9, weight_decay: self.hyper.weight_decay }
            }
        }
    }

    fn validate(
        &self,
        runner: &mut Runner<'_>,
        values: &Values,
        step: u64,
    ) -> Result<Validation, Error> {
        let scores = runner.logits(&self.examples, &self.validation, values)?;
        let accuracy = accuracy(&scores, &self.labels(&self.validation));
        Ok(Validation { step, accuracy })
    }

    fn unpack(
        &self,
        runner: &Runner<'_>,
        tensors: &BTreeMap<String, Tensor>,
        otherwise: &Values,
    ) -> Values {
        let named = runner.graphs.tensors.iter().zip(otherwise);
        named
            .map(|(t, v)| {
                tensors.get(&t.name).map_or_else(|| v.clone(), |t| t.to_f32().into_owned())
            })
            .collect()
    }

    /// The served tensors of trained values.
    fn fold(
        &self,
        runner: &Runner<'_>,
        values: &Values,
    ) -> Result<BTreeMap<String, Tensor>, Error> {
        let mut tensors = pack(runner, values)?;
        tensors.extend(self.fixed(runner)?);
        if let Training::Through(r) = &self.plan.training {
            let mut graph = Graph::new();
            let mut inputs = HashMap::new();
            for t in r.tensors() {
                let shape: Vec<Dim> = t.shape.iter().map(|&d| Dim::fixed(d)).collect();
                inputs.insert(t.name.clone(), graph.add_input(&t.name, DType::F32, &shape)?);
            }
            let mut served: Vec<_> = r.expand(&mut graph, &inputs)?.into_iter().collect();
            served.sort_unstable();
            graph.outputs = served.iter().map(|s| s.1).collect();
            let program = self.engine.compile(&graph, &[])?;
            let feeds = tensors.clone().into_iter().collect();
            let out = run(self.backbone, &*program, &feeds, None)?;
            tensors.retain(|name, _| !inputs.contains_key(name));
            tensors.extend(served.into_iter().map(|s| s.0).zip(out));
        }
        Ok(tensors)
    }

    /// The delta in f16, with a self-test of its own answers.
    fn delta(&self, tensors: BTreeMap<String, Tensor>) -> Result<Delta, Error> {
        let mut metadata =
            Metadata::new(self.task.method.name(), self.backbone.digest(), &self.task.labels);
        metadata.config = self.task.settings.to_json();
        metadata.task.clone_from(&self.task.name);
        metadata.parent = self.task.parent.map(|p| p.digest().to_owned());
        let half = |(name, t): (String, Tensor)| match t.dtype() {
            DType::F32 => (name, t.to_f16()),
            _ => (name, t),
        };
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().map(half).collect();
        let delta = Delta::new(metadata.clone(), tensors.clone())?;
        let loaded = self.task.model.load(&delta)?;
        let text = self.backbone.sites().modality == Modality::Text;
        for (i, sentence) in SELF_TEST.into_iter().enumerate() {
            let input = if text { sentence.to_owned() } else { i.to_string() };
            let sample = self.task.model.self_test_sample(&loaded, &input)?;
            let logits = self.task.model.logits(&loaded, &[&sample])?.to_f32().into_owned();
            let tolerance = tolerance(&logits, self.task.model.engine().compute());
            metadata.self_test.push(SelfTest { input, logits, tolerance });
        }
        Ok(Delta::new(metadata, tensors)?)
    }
}

fn pack(
    runner: &Runner<'_>,
    values: &Values,
) -> Result<BTreeMap<String, Tensor>, crate::tensor::TensorError> {
    let named = runner.graphs.tensors.iter().zip(values);
    named.map(|(t, v)| Ok((t.name.clone(), Tensor::new(&t.shape, v)?))).collect()
}

/// Share of rows whose largest score is at their label.
fn accuracy(scores: &[Vec<f32>], labels: &[usize]) -> f64 {
    let right = scores.iter().zip(labels).filter(|(s, l)| best(s) == **l);
    right.count() as f64 / labels.len().max(1) as f64
}

/// How long things take, to stay within the time.
struct Timing {
    first_step: u64,
    since: Instant,
    validation: f64,
    /// Epoch in which validation last got better.
    improved: u64,
}

impl Timing {
    /// Share of the time that stays free for what comes after the last step.
    const RESERVE: f64 = 0.05;

    fn new(run: &Run<'_>, step: u64) -> Timing {
        let per_epoch = run.train.len().div_ceil(run.options.batch) as u64;
        Timing {
            first_step: step,
            since: Instant::now(),
            validation: 0.0,
            improved: step / per_epoch.max(1),
        }
    }

    fn validation<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = f();
        self.validation = start.elapsed().as_secs_f64();
        out
    }

    /// Fewer steps than `steps`, if the rest would take too long at the pace so far.
    fn steps_that_fit(&self, run: &Run<'_>, step: u64, steps: u64) -> Option<u64> {
        let max = run.options.max_time?.as_secs_f64();
        let taken = step - self.first_step;
        let left = max * (1.0 - Timing::RESERVE) - run.started.elapsed().as_secs_f64();
        if taken == 0 {
            // Nothing is known yet; one step is always tried unless the time is up already.
            return (left <= 0.0).then_some(step);
        }
        let pace = self.since.elapsed().as_secs_f64() / taken as f64;
        let fit = step + ((left - self.validation).max(0.0) / pace) as u64;
        (fit < steps).then_some(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::accuracy;

    #[test]
    fn share_of_right_rows() {
        let scores = [vec![0.1, 0.9], vec![2.0, 1.0], vec![0.0, f32::NEG_INFINITY]];
        assert!((accuracy(&scores, &[1, 1, 0]) - 2.0 / 3.0).abs() < 1e-12);
    }
}
