use super::TrainError;
use super::evaluate::examples;
use super::options::Example;
use crate::Error;
use crate::data::Dataset;
use crate::delta::Delta;
use crate::methods::{Method, Settings, Training};
use crate::runtime::{InputLimit, Model, expected_tensors, plan_of};

/// What is learned from, and where.
pub struct Task<'a> {
    /// The backbone with its engine and tokenizer.
    pub model: &'a Model,
    /// The method.
    pub method: &'a dyn Method,
    /// Its settings.
    pub settings: Settings,
    /// Name of the task, for the store.
    pub name: String,
    /// Class names.
    pub labels: Vec<String>,
    /// Where the rows are from.
    pub data: &'a Dataset,
    /// Numbers of the rows that are trained on.
    pub rows: Vec<usize>,
    /// What is trained on.
    pub train: Vec<Example>,
    /// What is held out.
    pub validation: Vec<Example>,
    /// Identifies the data in a checkpoint.
    pub data_digest: String,
    /// The delta that training goes on from; see [`Task::from_parent`].
    pub parent: Option<&'a Delta>,
}

impl<'a> Task<'a> {
    /// A task over rows of `data`: `train` to learn from and `validation` to choose by (it may be
    /// empty). Its classes are those of `train`, sorted.
    ///
    /// # Errors
    /// [`Error::Data`] for fewer than two classes, a validation row of another class, or a text
    /// that cannot be tokenized; [`Error::Method`] if the settings do not fit the backbone.
    pub fn new(
        model: &'a Model,
        method: &'a dyn Method,
        settings: Settings,
        data: &'a Dataset,
        train: &[usize],
        validation: &[usize],
    ) -> Result<Task<'a>, Error> {
        data.require_classes(train, 2)?;
        Task::with_labels(model, method, settings, data, (train, validation), vec![], None)
    }

    /// A task that goes on from `parent` with more rows: class means take them in, caches add
    /// them, and other methods train on from its tensors. New classes come behind the old ones.
    /// Method and settings are those of `parent`.
    ///
    /// # Errors
    /// As [`Task::new`], [`Error::Delta`] if `parent` does not fit the backbone, and
    /// [`TrainError::Parent`] if its method cannot go on.
    pub fn from_parent(
        model: &'a Model,
        parent: &'a Delta,
        data: &'a Dataset,
        train: &[usize],
        validation: &[usize],
    ) -> Result<Task<'a>, Error> {
        let metadata = parent.metadata();
        let plan = plan_of(model.backbone(), parent)?;
        let method = crate::methods::find(&metadata.method)?;
        let settings = Settings::from_json(method, &metadata.config)?;
        parent.validate(model.backbone().digest(), &expected_tensors(&plan))?;
        let known = metadata.labels.clone();
        let refuse = |reason: String| TrainError::Parent { delta: parent.name().into(), reason };
        if matches!(plan.training, Training::Through(_)) {
            Err(refuse("it was trained through a network that is not in the file".into()))?;
        }
        let rows = (train, validation);
        let task = Task::with_labels(model, method, settings, data, rows, known, Some(parent))?;
        Ok(Task { name: metadata.task.clone(), ..task })
    }

    fn with_labels(
        model: &'a Model,
        method: &'a dyn Method,
        settings: Settings,
        data: &'a Dataset,
        (train, validation): (&[usize], &[usize]),
        mut labels: Vec<String>,
        parent: Option<&'a Delta>,
    ) -> Result<Task<'a>, Error> {
        let mut new: Vec<String> = train
            .iter()
            .filter_map(|&r| data.rows.get(r))
            .map(|r| r.label.clone())
            .filter(|l| !labels.contains(l))
            .collect();
        new.sort_unstable();
        new.dedup();
        labels.extend(new);
        let settings = method.settle(settings, train.len(), parent.is_some())?;
        let plan = method.plan(model.backbone().manifest(), labels.len(), &settings)?;
        let limit = InputLimit::new(model.backbone(), &plan);
        let read = |rows: &[usize]| examples(model, data, rows, &labels, limit);
        Ok(Task {
            model,
            method,
            settings,
            name: String::new(),
            data,
            rows: train.to_vec(),
            train: read(train)?,
            validation: read(validation)?,
            labels,
            data_digest: data.digest(train),
            parent,
        })
    }

    /// The same task under another name.
    pub fn named(self, name: impl Into<String>) -> Task<'a> {
        Task { name: name.into(), ..self }
    }
}
