//! How long a prediction takes on each engine, computed in f32 and in int8: a linear delta on the
//! bundled backbone, or on the one in `EDGE_TUNE_BACKBONE`. Run with `cargo bench --bench forward`,
//! for both engines with `--features ort` and `ORT_DYLIB_PATH` set.
//!
//! Prints a JSON line per case. All cases of as many threads are timed in turns in one process.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_tune::engine::tract::TractEngine;
use edge_tune::engine::{Compute, Engine, Prepacked};
use edge_tune::runtime::{Model, Sample};
use edge_tune::tensor::Tensor;

/// How products are computed, and what it is called.
const KINDS: [(&str, Compute); 3] =
    [("f32", Compute::F32), ("int8", Compute::Int8), (PREPACKED, Compute::Int8)];
const PREPACKED: &str = "int8, prepacked";

fn engines(
    threads: usize,
    compute: Compute,
    prepacked: Option<&Prepacked>,
) -> Vec<Arc<dyn Engine>> {
    let mut tract = TractEngine::with_threads(threads).with_compute(compute);
    if let Some(prepacked) = prepacked {
        tract = tract.with_prepacked(prepacked.clone());
    }
    #[cfg_attr(not(feature = "ort"), expect(unused_mut))]
    let mut all: Vec<Arc<dyn Engine>> = vec![Arc::new(tract)];
    #[cfg(feature = "ort")]
    match edge_tune::engine::ort::OrtEngine::load(None, threads) {
        Ok(ort) => {
            let mut ort = ort.with_compute(compute);
            if let Some(prepacked) = prepacked {
                ort = ort.with_prepacked(prepacked.clone());
            }
            all.push(Arc::new(ort));
        }
        Err(e) => eprintln!("without the engine ort: {e}"),
    }
    all
}

/// A text of `tokens` tokens, or an input of the size that the backbone takes.
fn sample(model: &Model, tokens: usize) -> Sample {
    let graph = model.backbone().graph();
    let input = graph.find(&model.backbone().sites().input).expect("an input");
    let fixed: Option<Vec<usize>> = graph.shape(input)[1..].iter().map(|d| d.constant()).collect();
    match fixed {
        Some(shape) if !shape.is_empty() => {
            let values: Vec<f32> =
                (0..shape.iter().product()).map(|i: usize| (i * 37 % 255) as f32 / 255.0).collect();
            Sample::Dense(Tensor::new(&shape, &values).expect("its size"))
        }
        _ => common::text(tokens),
    }
}

fn main() {
    // `cargo bench --bench forward -- 128` measures texts of 128 tokens alone.
    let mut lengths: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    if lengths.is_empty() {
        lengths = vec![8, 32, 128];
    }
    let folder = tempfile::tempdir().expect("a folder");
    let backbone = common::chosen(Arc::new(TractEngine::new())).backbone().clone();
    let prepacked = Prepacked::open(folder.path(), backbone.graph(), backbone.digest());
    let prepacked = prepacked.expect("it can be written");
    for threads in [1, 2] {
        let cases: Vec<_> = KINDS
            .into_iter()
            .flat_map(|(kind, compute)| {
                let prepacked = prepacked.as_ref().filter(|_| kind == PREPACKED);
                engines(threads, compute, prepacked).into_iter().map(move |e| (kind, e))
            })
            .map(|(kind, engine)| {
                // Weights are known by where they lie: all share the backbone.
                let model = Model::new(backbone.clone(), engine).expect("a model");
                let delta = common::delta(&model, "linear", &[], 1);
                let task = model.load(&delta).expect("it fits");
                (kind, model, task)
            })
            .collect();
        for &tokens in &lengths {
            let sample = sample(&cases[0].1, tokens);
            let mut times: Vec<Vec<Duration>> = vec![Vec::new(); cases.len()];
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(4) || times[0].len() < 25 {
                for ((_, model, task), times) in cases.iter().zip(&mut times) {
                    let t = Instant::now();
                    model.logits(task, &[&sample]).expect("predicts");
                    times.push(t.elapsed());
                }
            }
            for ((kind, model, _), times) in cases.iter().zip(&mut times) {
                let ms = common::median(times).as_secs_f64() * 1e3;
                println!(
                    r#"{{"engine": "{}", "compute": "{kind}", "threads": {threads}, "tokens": {tokens}, "ms": {ms:.3}}}"#,
                    model.engine().name(),
                );
            }
        }
    }
}
