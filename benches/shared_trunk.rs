//! What many tasks on one input cost beside one of them, where the backbone runs once for all. Run with
//! `cargo bench --bench shared_trunk`.
//!
//! All are timed in turns in one process, so the ratios hold on a busy machine too.

mod common;

use std::time::{Duration, Instant};

use edge_tune::engine::Compute;
use edge_tune::engine::tract::TractEngine;
use edge_tune::runtime::Task;

fn main() {
    let text = common::text(128);
    for threads in [1, 2] {
        for compute in [Compute::F32, Compute::Int8] {
            let engine = TractEngine::with_threads(threads).with_compute(compute);
            let model = common::model_on(std::sync::Arc::new(engine));
            let last = [("rank", "8"), ("layers", "last-1")];
            for (name, method, settings) in
                [("linear", "linear", &[][..]), ("lora on the last layer", "lora", &last)]
            {
                let load = |seed| model.load(&common::delta(&model, method, settings, seed));
                let tasks: Vec<_> = (0..100).map(|seed| load(seed).expect("it fits")).collect();
                let tasks: Vec<&Task> = tasks.iter().map(|t| &**t).collect();
                let counts = [1, 10, 100];
                let mut times = vec![Vec::<Duration>::new(); counts.len()];
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(4) || times[0].len() < 9 {
                    for (&count, times) in counts.iter().zip(&mut times) {
                        let t = Instant::now();
                        model.logits_of_all(&tasks[..count], &[&text]).expect("predicts");
                        times.push(t.elapsed());
                    }
                }
                let ms: Vec<f64> =
                    times.iter_mut().map(|t| common::median(t).as_secs_f64() * 1e3).collect();
                println!(
                    "threads {threads} {compute:?} {name}: 1 task {:.2} ms, 10 {:.2}x, 100 {:.2}x",
                    ms[0],
                    ms[1] / ms[0],
                    ms[2] / ms[0],
                );
            }
        }
    }
}
