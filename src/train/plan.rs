//! Chooses workers, micro-batch and caching so that a run is fast and stays within its memory.

use std::collections::HashMap;

use super::calibrate::Run;
use super::graphs::Graphs;
use super::memory::{anonymous_bytes, input_bytes, peak_bytes};
use super::options::{Budget, Example};
use super::runner::parts;
use super::{Sampler, TrainError};
use crate::graph::{Dim, Graph, Node};

/// Without a limit, intermediate values may take this much: more rows at once are no faster.
const COMFORTABLE: usize = 128 << 20;
/// What the process takes where the system does not tell.
const ASSUMED_PROCESS: usize = 48 << 20;
/// What compiled programs take for each of their nodes: 4 to 7 KiB were measured with tract.
const BYTES_PER_NODE: usize = 8 << 10;
/// Packing buffers of the engine's matrix products and stacks, for all threads.
const SCRATCH: usize = 10 << 20;
/// What running takes beyond the values that are alive, in percent of them: packed operands and
/// the allocator's fragments. Up to 12 were measured with texts of mixed lengths, 20 with pictures,
/// 26 with the engine `ort`.
const OVERHEAD: usize = 30;

/// What the weights of a product cost, in rows of x: 20 to 25 were measured on MiniLM in f32 and int8.
const ROWS_OF_WEIGHTS: usize = 24;
/// Batches that stand for all others.
const SAMPLED: usize = 64;

/// The fastest way to split batches, with the cache if it fits, whose predicted peak is within
/// `options.max_ram`.
///
/// # Errors
/// [`TrainError::Memory`] with the least that is needed, or those of [`Sampler::new`].
pub(super) fn budget(
    with_cache: &Graphs,
    without_cache: &Graphs,
    run: &Run<'_>,
    steps: u64,
) -> Result<Budget, TrainError> {
    let (examples, options) = (&run.examples, run.options);
    let longest = examples.iter().map(|e| e.input.tokens()).max().unwrap_or(1);
    let parameters: usize = with_cache.tensors.iter().map(|t| t.len()).sum();
    // Values, gradients (of a micro-batch and summed), two moments, the best so far.
    let training = parameters.max(run.plan.parameters()) * 4 * 6;
    let process = anonymous_bytes().unwrap_or(ASSUMED_PROCESS) + SCRATCH;
    let candidate = |graphs: &Graphs, (workers, micro_batch): (usize, usize)| {
        let cache_bytes: usize =
            examples.iter().map(|e| graphs.frontier_bytes(e.input.tokens())).sum();
        let alive = graphs.all().map(|g| peak_bytes(g, micro_batch, longest)).max().unwrap_or(0);
        // The engine gets a copy of its inputs.
        let copies = graphs.all().map(|g| input_bytes(g, micro_batch, longest)).max().unwrap_or(0);
        let running = workers * (alive + copies + alive / 100 * OVERHEAD);
        let programs: usize = graphs.all().map(|g| g.nodes.len() * BYTES_PER_NODE).sum();
        let budget = Budget {
            workers,
            micro_batch,
            cached: graphs.prefix.is_some(),
            cache_bytes,
            predicted_peak_bytes: process + training + cache_bytes + running + programs,
            steps,
            parameters: run.plan.parameters(),
        };
        (budget, running)
    };
    let most = options.batch.min(options.micro_batch.unwrap_or(options.batch)).max(1);
    let threads = run.engine.threads();
    let splits = splits(most, threads);
    let mut sampler = Sampler::new(&run.train, options.batch, options.seed)?;
    let batches: Vec<_> =
        (0..sampler.batches().min(SAMPLED)).map(|_| sampler.next_batch()).collect();
    let mut least = usize::MAX;
    // A cache saves more time than the fastest split.
    for graphs in [with_cache, without_cache] {
        let mut fitting = vec![];
        for &split in &splits {
            let (budget, running) = candidate(graphs, split);
            least = least.min(budget.predicted_peak_bytes);
            let fits = match options.max_ram {
                Some(max) => budget.predicted_peak_bytes <= max,
                None => running <= COMFORTABLE || split == (1, 1),
            };
            if fits {
                fitting.push(budget);
            }
        }
        let times = Times::new(&graphs.step, examples, &batches, threads);
        if let Some(best) = fitting.into_iter().min_by_key(|b| times.of(b.workers, b.micro_batch)) {
            return Ok(best);
        }
    }
    Err(TrainError::Memory { max: options.max_ram.unwrap_or(0), least })
}

/// Numbers of workers, each with the rows of a micro-batch, that take at most `most` rows at once
/// together.
fn splits(most: usize, threads: usize) -> Vec<(usize, usize)> {
    let halves = |n: usize| std::iter::successors(Some(n), |&n| (n > 1).then(|| n.div_ceil(2)));
    let workers = halves(threads).filter(|&w| w <= most);
    workers.flat_map(|w| halves(most / w).map(move |micro| (w, micro))).collect()
}

/// How long the batches of an epoch take, in a unit of its own, by their products with weights.
struct Times<'a> {
    step: &'a Graph,
    examples: &'a [Example],
    batches: &'a [Vec<usize>],
    threads: usize,
}

impl<'a> Times<'a> {
    fn new(
        step: &'a Graph,
        examples: &'a [Example],
        batches: &'a [Vec<usize>],
        threads: usize,
    ) -> Times<'a> {
        Times { step, examples, batches, threads }
    }

    fn of(&self, workers: usize, micro: usize) -> usize {
        let mut products: HashMap<usize, usize> = HashMap::new();
        let mut time = 0;
        for batch in self.batches {
            let mut busy = vec![0; workers];
            for rows in parts(self.examples, batch, micro) {
                let longest = rows.first().map_or(1, |&r| self.examples[r].input.tokens());
                let cost = products.entry(longest);
                let cost = *cost.or_insert_with(|| products_of(self.step, micro, longest));
                if let Some(free) = busy.iter_mut().min() {
                    *free += cost;
                }
            }
            time += busy.into_iter().max().unwrap_or(0);
        }
        // About half of a step is spread over the threads of a run.
        let each = (self.threads / workers).max(1);
        time / 2 + time / (2 * each)
    }
}

/// Multiplications with weights in a run over `batch` rows of `length` tokens, and what the weights
/// themselves cost.
fn products_of(graph: &Graph, batch: usize, length: usize) -> usize {
    let product = |node: &Node| {
        let weight = node.inputs.get(1).copied().flatten()?;
        let output = node.outputs.first().copied().flatten()?;
        let size = |dims: &[Dim]| dims.iter().map(|d| d.at(batch, length)).product::<usize>();
        let channels = match node.op.as_str() {
            "FrozenLinear" => graph.shape(output).last()?,
            "Conv" => graph.shape(output).get(1)?,
            _ => return None,
        };
        let rows = size(graph.shape(output)) / channels.at(batch, length).max(1);
        Some(size(graph.shape(weight)) * (rows + ROWS_OF_WEIGHTS))
    };
    graph.nodes.iter().filter_map(product).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_take_no_more_rows_than_allowed() {
        assert_eq!(splits(1, 4), [(1, 1)]);
        assert_eq!(splits(6, 2), [(2, 3), (2, 2), (2, 1), (1, 6), (1, 3), (1, 2), (1, 1)]);
        assert!(splits(16, 8).iter().all(|(w, micro)| w * micro <= 16));
    }
}
