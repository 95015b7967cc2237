//! Where a run starts: from random values, from what an earlier delta holds, and from the features of
//! the rows.

use std::collections::BTreeMap;

use super::calibrate::Run;
use super::closed::{Cache, Rows, add_means, grown, is_closed};
use super::initial;
use super::runner::{Runner, Values};
use crate::Error;
use crate::attach::{Attachment, Classifier};
use crate::methods::{Init, Purpose, TensorSpec};
use crate::tensor::{Tensor, TensorError};

/// Features of augmented rows are means over this many views, as in Tip-Adapter.
const VIEWS: u64 = 10;
/// Keeps the views of features apart from those of the steps.
const FEATURE_VIEWS: u64 = 1 << 42;

impl Run<'_> {
    /// The values to start from; the runner gets what is not trained.
    pub(super) fn start(&self, runner: &mut Runner<'_>) -> Result<Values, Error> {
        let specs = runner.graphs.tensors.clone();
        let mut values = initial::values(
            self.backbone,
            self.engine,
            &specs,
            &self.examples,
            &self.train,
            self.options.seed,
        )?;
        for (spec, value) in specs.iter().zip(&mut values) {
            match self.of_parent(spec) {
                Some(t) if t.shape() == spec.shape => *value = t.to_f32().into_owned(),
                _ if spec.init == Init::Queries => {
                    *value = self.queries(runner, spec.shape[0])?;
                }
                _ => {}
            }
        }
        let mut known = match self.needs_features() {
            true => self.closed_values(runner, &values)?,
            false => BTreeMap::new(),
        };
        for (spec, value) in specs.iter().zip(&mut values) {
            if let Some(v) = known.remove(&spec.name) {
                *value = v;
            }
        }
        runner.fixed = known
            .into_iter()
            .map(|(name, v)| {
                let spec = self.plan.tensors.iter().find(|t| t.name == name);
                Ok((name, Tensor::new(spec.map_or(&[][..], |s| &s.shape), &v)?))
            })
            .collect::<Result<_, TensorError>>()?;
        Ok(values)
    }

    fn of_parent(&self, spec: &TensorSpec) -> Option<&Tensor> {
        self.task.parent?.tensor(&spec.name)
    }

    /// A parent of the same classes says all that features could.
    fn needs_features(&self) -> bool {
        let known = |t: &TensorSpec| self.of_parent(t).is_some_and(|p| p.shape() == t.shape);
        let closed = || self.plan.tensors.iter().filter(|t| is_closed(t.init));
        self.plan.trained().is_empty() || !closed().all(known)
    }

    /// Queries of random rows, for keys that some inputs are near to.
    fn queries(&self, runner: &mut Runner<'_>, count: usize) -> Result<Vec<f32>, Error> {
        let rows = initial::some(&self.train, count, self.options.seed);
        let found = runner.queries(&self.examples, &rows)?;
        Ok(initial::keys(&found, count, self.options.seed))
    }

    /// All tensors that follow from features, what an earlier delta holds included.
    fn closed_values(
        &self,
        runner: &mut Runner<'_>,
        values: &Values,
    ) -> Result<BTreeMap<String, Vec<f32>>, Error> {
        let rows = self.rows(self.features(runner, values)?, &self.train);
        let rescale = self.rescale(&rows);
        let mut found = BTreeMap::new();
        for spec in &self.plan.tensors {
            let Some(mut computed) = rows.values(spec.init) else { continue };
            let value = match self.of_parent(spec) {
                Some(parent) => {
                    if matches!(spec.init, Init::HeadWeight | Init::HeadBias) {
                        computed.iter_mut().for_each(|v| *v *= rescale);
                    }
                    grown(spec, parent, &computed)
                }
                None => computed,
            };
            found.insert(spec.name.clone(), value);
        }
        if let Some(counts) = self.plan.tensors.iter().find(|t| t.init == Init::ClassCounts) {
            self.add_parent_means(counts, &rows, &mut found);
        }
        let head = self.plan.attachments.iter().find_map(|a| match a {
            Attachment::Head { classifier: Classifier::Cache { scale }, .. } => Some(*scale),
            _ => None,
        });
        if let (Some(scale), false) = (head, self.validation.is_empty()) {
            let held = runner.features(&self.examples, &self.validation, values)?;
            let held = self.rows(held, &self.validation);
            let part = |name: &str| found.get(name).map_or(&[][..], Vec::as_slice);
            let (keys, labels) = (part("cache.keys"), part("cache.labels"));
            let cache = Cache { keys, labels, classes: part("cache.classes"), scale };
            let (alpha, beta) = cache.search(&held);
            found.insert("cache.alpha".into(), vec![alpha]);
            found.insert("cache.beta".into(), vec![beta]);
        }
        Ok(found)
    }

    /// What brings the class-mean head of new classes to the scale of an earlier delta's head: the
    /// ratio of the mean lengths of their weights.
    fn rescale(&self, rows: &Rows) -> f32 {
        let weight = self.plan.tensors.iter().find(|t| t.init == Init::HeadWeight);
        let parts = weight.and_then(|w| Some((self.of_parent(w)?, rows.values(w.init)?)));
        let Some((old, new)) = parts else { return 1.0 };
        let d = old.shape().get(1).copied().unwrap_or(1).max(1);
        let mean = |rows: &[f32]| {
            let length = |w: &[f32]| w.iter().map(|v| v * v).sum::<f32>().sqrt();
            let lengths: Vec<f32> = rows.chunks(d).map(length).filter(|l| *l > 0.0).collect();
            lengths.iter().sum::<f32>() / lengths.len() as f32
        };
        let ratio = mean(&old.to_f32()) / mean(new.get(old.len()..).unwrap_or_default());
        if ratio.is_finite() { ratio } else { 1.0 }
    }

    /// Means and counts are not set side by side but weighed.
    fn add_parent_means(
        &self,
        counts: &TensorSpec,
        rows: &Rows,
        found: &mut BTreeMap<String, Vec<f32>>,
    ) {
        let means = self.plan.tensors.iter().find(|t| t.init == Init::ClassMeans);
        let Some(means) = means else { return };
        let (Some(mut mean), Some(mut count)) = (rows.values(means.init), rows.values(counts.init))
        else {
            return;
        };
        if let (Some(m), Some(c)) = (self.of_parent(means), self.of_parent(counts)) {
            add_means((m, c), &mut mean, &mut count);
        }
        found.insert(means.name.clone(), mean);
        found.insert(counts.name.clone(), count);
    }

    fn rows(&self, features: Vec<Vec<f32>>, rows: &[usize]) -> Rows {
        Rows::new(features, self.labels(rows), self.task.labels.len())
    }

    /// Features of the rows that are trained on.
    fn features(&self, runner: &mut Runner<'_>, values: &Values) -> Result<Vec<Vec<f32>>, Error> {
        if !self.augments() {
            return runner.features(&self.examples, &self.train, values);
        }
        let mut sums: Vec<Vec<f32>> = vec![];
        for view in 0..VIEWS {
            let first = FEATURE_VIEWS + view * self.train.len() as u64;
            let examples = self.views(&self.train, first)?;
            let all: Vec<usize> = (0..examples.len()).collect();
            let features = runner.features(&examples, &all, values)?;
            match sums.is_empty() {
                true => sums = features,
                false => {
                    let pairs = sums.iter_mut().flatten().zip(features.iter().flatten());
                    pairs.for_each(|(s, v)| *s += v);
                }
            }
        }
        sums.iter_mut().flatten().for_each(|s| *s /= VIEWS as f32);
        Ok(sums)
    }

    /// The served tensors that are not trained, in the form in which the file has them.
    pub(super) fn fixed(&self, runner: &Runner<'_>) -> Result<BTreeMap<String, Tensor>, Error> {
        let mut out = BTreeMap::new();
        for spec in &self.plan.tensors {
            let Some(t) = runner.fixed.get(&spec.name) else { continue };
            let t = match spec.purpose {
                Purpose::Trained | Purpose::Fixed => t.clone(),
                Purpose::Numbers | Purpose::Counts => {
                    let whole: Vec<i64> = t.to_f32().iter().map(|v| *v as i64).collect();
                    Tensor::new(&spec.shape, &whole)?
                }
            };
            out.insert(spec.name.clone(), t);
        }
        Ok(out)
    }
}
