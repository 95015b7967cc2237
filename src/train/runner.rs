//! Runs micro-batches through the engine and keeps what does not change.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::graphs::{Graphs, LABELS, LOSS_WEIGHT};
use super::options::{Budget, Example};
use crate::Error;
use crate::backbone::Backbone;
use crate::engine::{Engine, EngineError, Feed, Program};
use crate::graph::{Dim, Graph};
use crate::parallel::side_by_side;
use crate::runtime::{Inputs, Slot, encode_batch};
use crate::tensor::{Tensor, TensorError};

/// Values of the trained tensors, in the order of [`Graphs::tensors`].
pub(super) type Values = Vec<Vec<f32>>;

pub(super) struct Runner<'a> {
    backbone: &'a Backbone,
    /// With the threads of one worker.
    engine: Arc<dyn Engine>,
    pub graphs: Graphs,
    workers: usize,
    micro: usize,
    /// Tensors of the delta that are not trained.
    pub fixed: HashMap<String, Tensor>,
    programs: HashMap<Kind, Arc<dyn Program>>,
    /// Frontier values of every example, cut to its length.
    cache: Vec<Option<Vec<Tensor>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Prefix,
    Step,
    Forward,
    Feature,
    Query,
}

impl<'a> Runner<'a> {
    pub fn new(
        backbone: &'a Backbone,
        engine: &dyn Engine,
        graphs: Graphs,
        budget: &Budget,
    ) -> Runner<'a> {
        let (workers, micro) = (budget.workers, budget.micro_batch);
        let engine = engine.narrowed((engine.threads() / workers).max(1));
        let (fixed, programs) = (HashMap::new(), HashMap::new());
        Runner { backbone, engine, graphs, workers, micro, fixed, programs, cache: vec![] }
    }

    fn program(&mut self, kind: Kind) -> Result<Arc<dyn Program>, Error> {
        if let Some(p) = self.programs.get(&kind) {
            return Ok(p.clone());
        }
        let graph: &Graph = match kind {
            Kind::Prefix => self.graphs.prefix.as_ref().unwrap_or(&self.graphs.feature),
            Kind::Step => &self.graphs.step,
            Kind::Forward => &self.graphs.forward,
            Kind::Feature => &self.graphs.feature,
            Kind::Query => self.graphs.query.as_ref().unwrap_or(&self.graphs.feature),
        };
        let program = self.engine.compile(graph, &[(Dim::BATCH, self.micro)])?;
        self.programs.insert(kind, program.clone());
        Ok(program)
    }

    /// Drops programs that are not needed any more.
    pub fn forget_features(&mut self) {
        self.programs.remove(&Kind::Feature);
        self.programs.remove(&Kind::Query);
    }

    /// Computes the frozen part of all `examples`; `progress` gets the number done.
    pub fn fill_cache(
        &mut self,
        examples: &[Example],
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<(), Error> {
        if self.graphs.prefix.is_none() {
            return Ok(());
        }
        let program = self.program(Kind::Prefix)?;
        let order: Vec<usize> = (0..examples.len()).collect();
        let parts = parts(examples, &order, self.micro);
        let mut cache = vec![None; examples.len()];
        let mut done = 0;
        for parts in parts.chunks(self.workers) {
            let kept = side_by_side(self.workers, parts, |rows| -> Result<_, Error> {
                let inputs = self.inputs(examples, rows)?;
                let out = run(self.backbone, &*program, &HashMap::new(), Some(&inputs))?;
                let row = |(r, &row): (usize, &usize)| {
                    let length = examples[row].input.tokens();
                    let kept = out.iter().zip(&self.graphs.frontier);
                    kept.map(|(t, (_, dims))| cut_row(t, r, dims, length)).collect()
                };
                let kept = rows.iter().enumerate().map(row);
                Ok(kept.collect::<Result<Vec<Vec<Tensor>>, _>>()?)
            })?;
            for (rows, kept) in parts.iter().zip(kept) {
                done += rows.len();
                rows.iter().zip(kept).for_each(|(&row, kept)| cache[row] = Some(kept));
            }
            if !progress(done) {
                break;
            }
        }
        self.cache = cache;
        self.programs.remove(&Kind::Prefix);
        Ok(())
    }

    fn inputs(&self, examples: &[Example], rows: &[usize]) -> Result<Inputs, Error> {
        let samples: Vec<_> = rows.iter().map(|&i| &examples[i].input).collect();
        encode_batch(self.backbone, &samples, self.micro)
    }

    /// The feeds of a run over `rows`, apart from data and tensors.
    fn frontier_feeds(
        &self,
        examples: &[Example],
        rows: &[usize],
    ) -> Result<HashMap<String, Tensor>, Error> {
        let longest = rows.iter().map(|&i| examples[i].input.tokens()).max().unwrap_or(1);
        let mut feeds = HashMap::new();
        for (f, (name, dims)) in self.graphs.frontier.iter().enumerate() {
            let shape: Vec<usize> = dims.iter().map(|d| d.at(self.micro, longest)).collect();
            let kept = rows.iter().map(|&r| self.cache[r].as_ref().map(|c| &c[f]));
            feeds.insert(name.clone(), stack(kept, &shape)?);
        }
        Ok(feeds)
    }

    /// One step over `rows`: loss and summed gradients, as of the mean over `rows`.
    pub fn step(
        &mut self,
        examples: &[Example],
        rows: &[usize],
        values: &Values,
    ) -> Result<(f32, Values), Error> {
        let program = self.program(Kind::Step)?;
        let tensors = self.tensors(values)?;
        let weight = Tensor::scalar(1.0 / rows.len() as f32);
        let parts = parts(examples, rows, self.micro);
        let all = side_by_side(self.workers, &parts, |rows| {
            let mut feeds = self.frontier_feeds(examples, rows)?;
            let mut labels: Vec<i64> = rows.iter().map(|&i| examples[i].label as i64).collect();
            labels.resize(self.micro, -1);
            feeds.insert(LABELS.into(), Tensor::vector(&labels));
            feeds.insert(LOSS_WEIGHT.into(), weight.clone());
            feeds.extend(tensors.clone());
            let inputs = self.inputs(examples, rows)?;
            run(self.backbone, &*program, &feeds, Some(&inputs))
        })?;
        let mut grads: Values = values.iter().map(|v| vec![0.0; v.len()]).collect();
        let mut loss = 0.0;
        for out in all {
            loss +=
                out.first().map_or(f32::NAN, |t| t.to_f32().first().copied().unwrap_or(f32::NAN));
            for (sum, grad) in grads.iter_mut().zip(out.iter().skip(1)) {
                sum.iter_mut().zip(grad.to_f32().iter()).for_each(|(s, g)| *s += g);
            }
        }
        Ok((loss, grads))
    }

    /// Scores of `rows`, row by row in their order.
    pub fn logits(
        &mut self,
        examples: &[Example],
        rows: &[usize],
        values: &Values,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let tensors = self.tensors(values)?;
        self.forward(Kind::Forward, examples, rows, tensors)
    }

    /// Pooled features of `rows`, row by row in their order.
    pub fn features(
        &mut self,
        examples: &[Example],
        rows: &[usize],
        values: &Values,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let tensors = self.tensors(values)?;
        self.forward(Kind::Feature, examples, rows, tensors)
    }

    /// What prompts are chosen by, row by row in their order.
    pub fn queries(
        &mut self,
        examples: &[Example],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.forward(Kind::Query, examples, rows, HashMap::new())
    }

    fn forward(
        &mut self,
        kind: Kind,
        examples: &[Example],
        rows: &[usize],
        tensors: HashMap<String, Tensor>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let program = self.program(kind)?;
        let parts = parts(examples, rows, self.micro);
        let all = side_by_side(self.workers, &parts, |rows| -> Result<_, Error> {
            let mut feeds = tensors.clone();
            if kind == Kind::Forward {
                feeds.extend(self.frontier_feeds(examples, rows)?);
            }
            let inputs = self.inputs(examples, rows)?;
            let result = run(self.backbone, &*program, &feeds, Some(&inputs))?;
            Ok(result.first().map(|t| t.to_f32().into_owned()).unwrap_or_default())
        })?;
        let mut found = HashMap::new();
        for (rows, all) in parts.iter().zip(&all) {
            let width = (all.len() / self.micro).max(1);
            found.extend(rows.iter().copied().zip(all.chunks(width)));
        }
        let of = |row| found.get(row).map(|scores| scores.to_vec()).unwrap_or_default();
        Ok(rows.iter().map(of).collect())
    }

    fn tensors(&self, values: &Values) -> Result<HashMap<String, Tensor>, TensorError> {
        let named = self.graphs.tensors.iter().zip(values);
        let trained = named.map(|(t, v)| Ok((t.name.clone(), Tensor::new(&t.shape, v)?)));
        let fixed = self.fixed.iter().map(|(name, t)| Ok((name.clone(), t.clone())));
        trained.chain(fixed).collect()
    }
}

/// `rows` in parts of at most `micro`, each of like length, so that they need little padding. The
/// longest come first: what is done last then takes little time.
pub(super) fn parts(examples: &[Example], rows: &[usize], micro: usize) -> Vec<Vec<usize>> {
    let mut order = rows.to_vec();
    order.sort_by_key(|&i| Reverse(examples[i].input.tokens()));
    order.chunks(micro).map(<[usize]>::to_vec).collect()
}

/// Runs `program` with data inputs from `inputs` and all others by name.
pub(super) fn run(
    backbone: &Backbone,
    program: &dyn Program,
    feeds: &HashMap<String, Tensor>,
    inputs: Option<&Inputs>,
) -> Result<Vec<Tensor>, Error> {
    let find = |name: &String| {
        let data = inputs.and_then(|i| match Slot::of(name, backbone) {
            Slot::Data => Some(&i.data),
            Slot::Mask => i.mask.as_ref(),
            Slot::Types => i.types.as_ref(),
            Slot::Delta | Slot::Tensor(_) => None,
        });
        let missing = || EngineError::Input { name: name.clone(), reason: "it is missing".into() };
        data.or_else(|| feeds.get(name)).map(Feed::Tensor).ok_or_else(missing)
    };
    let feeds = program.inputs().iter().map(find).collect::<Result<Vec<_>, _>>()?;
    Ok(program.run(&feeds)?)
}

/// Row `row` of a batch, every dimension cut to what an example of `length` tokens has.
fn cut_row(batch: &Tensor, row: usize, dims: &[Dim], length: usize) -> Result<Tensor, TensorError> {
    let shape: Vec<usize> = dims[1..].iter().map(|d| d.at(1, length)).collect();
    let from = &batch.shape()[1..];
    let stride: usize = from.iter().product();
    let all = batch.as_slice::<f32>()?;
    let mut out = vec![0f32; shape.iter().product()];
    copy_corner(all.get(row * stride..).unwrap_or_default(), from, &mut out, &shape);
    Tensor::new(&shape, &out)
}

/// A batch of `shape` from rows that may be shorter; what they lack is zero.
fn stack<'t>(
    rows: impl Iterator<Item = Option<&'t Tensor>>,
    shape: &[usize],
) -> Result<Tensor, TensorError> {
    let stride: usize = shape[1..].iter().product();
    let mut out = vec![0f32; shape.iter().product()];
    for (row, out) in rows.zip(out.chunks_mut(stride.max(1))) {
        if let Some(row) = row {
            copy_corner(row.as_slice()?, row.shape(), out, &shape[1..]);
        }
    }
    Tensor::new(shape, &out)
}

/// Copies the corner at the origin that both arrays have.
fn copy_corner(from: &[f32], from_shape: &[usize], to: &mut [f32], to_shape: &[usize]) {
    match (from_shape.split_first(), to_shape.split_first()) {
        (Some((&f, from_rest)), Some((&t, to_rest))) if !from_rest.is_empty() => {
            let (fs, ts) = (from_rest.iter().product::<usize>(), to_rest.iter().product::<usize>());
            if from_rest == to_rest {
                let n = f.min(t) * ts;
                to[..n].copy_from_slice(&from[..n]);
                return;
            }
            for i in 0..f.min(t) {
                copy_corner(&from[i * fs..], from_rest, &mut to[i * ts..], to_rest);
            }
        }
        (Some((&f, _)), Some((&t, _))) => {
            let n = f.min(t);
            to[..n].copy_from_slice(&from[..n]);
        }
        _ => {
            if let (Some(f), Some(t)) = (from.first(), to.first_mut()) {
                *t = *f;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_and_stacked_again() {
        let dims = [Dim::BATCH, Dim::SEQUENCE, Dim::fixed(2)];
        let all: Vec<f32> = (0..2 * 4 * 2).map(|i| i as f32).collect();
        let batch = Tensor::new(&[2, 4, 2], &all).unwrap();
        let a = cut_row(&batch, 0, &dims, 4).unwrap();
        let b = cut_row(&batch, 1, &dims, 3).unwrap();
        assert_eq!((a.shape(), b.shape()), (&[4, 2][..], &[3, 2][..]));
        let again = stack([Some(&a), Some(&b), None].into_iter(), &[3, 4, 2]).unwrap();
        let again = again.as_slice::<f32>().unwrap();
        assert_eq!(again[..14], all[..14]);
        assert!(again[14..].iter().all(|&v| v == 0.0));
    }
}
