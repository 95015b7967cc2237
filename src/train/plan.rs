//! Chooses micro-batch and caching so that a run stays within its memory.

use super::TrainError;
use super::graphs::Graphs;
use super::memory::{anonymous_bytes, input_bytes, peak_bytes};
use super::options::{Budget, Example, Options};
use crate::methods::Plan;

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

/// The largest micro-batch, with the cache if it fits, whose predicted peak is within
/// `options.max_ram`.
///
/// # Errors
/// [`TrainError::Memory`] with the least that is needed.
pub(super) fn budget(
    with_cache: &Graphs,
    without_cache: &Graphs,
    plan: &Plan,
    examples: &[Example],
    steps: u64,
    options: &Options,
) -> Result<Budget, TrainError> {
    let longest = examples.iter().map(|e| e.input.tokens()).max().unwrap_or(1);
    let parameters: usize = with_cache.tensors.iter().map(|t| t.len()).sum();
    // Values, gradients (of a micro-batch and summed), two moments, the best so far.
    let training = parameters.max(plan.parameters()) * 4 * 6;
    let process = anonymous_bytes().unwrap_or(ASSUMED_PROCESS) + SCRATCH;
    let candidate = |graphs: &Graphs, micro_batch: usize| {
        let cache_bytes: usize =
            examples.iter().map(|e| graphs.frontier_bytes(e.input.tokens())).sum();
        let alive = graphs.all().map(|g| peak_bytes(g, micro_batch, longest)).max().unwrap_or(0);
        // The engine gets a copy of its inputs.
        let copies = graphs.all().map(|g| input_bytes(g, micro_batch, longest)).max().unwrap_or(0);
        let run = alive + copies + alive / 100 * OVERHEAD;
        let programs: usize = graphs.all().map(|g| g.nodes.len() * BYTES_PER_NODE).sum();
        let budget = Budget {
            micro_batch,
            cached: graphs.prefix.is_some(),
            cache_bytes,
            predicted_peak_bytes: process + training + cache_bytes + run + programs,
            steps,
            parameters: plan.parameters(),
        };
        (budget, run)
    };
    let most = options.micro_batch.unwrap_or(options.batch);
    let mut sizes = vec![options.batch.min(most).max(1)];
    while let Some(&last) = sizes.last().filter(|&&n| n > 1) {
        sizes.push(last.div_ceil(2));
    }
    let mut least = usize::MAX;
    // A cache saves more time than a large micro-batch.
    for graphs in [with_cache, without_cache] {
        for &micro in &sizes {
            let (budget, run) = candidate(graphs, micro);
            least = least.min(budget.predicted_peak_bytes);
            let fits = match options.max_ram {
                Some(max) => budget.predicted_peak_bytes <= max,
                None => run <= COMFORTABLE || micro == 1,
            };
            if fits {
                return Ok(budget);
            }
        }
    }
    Err(TrainError::Memory { max: options.max_ram.unwrap_or(0), least })
}
