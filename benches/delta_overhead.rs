//! How much longer a prediction takes with a delta inside the backbone than with a linear head on
//! top of it. Run with `cargo bench --bench delta_overhead`.
//!
//! All are timed in turns in one process, so the ratios hold on a busy machine too.

mod common;

use std::time::{Duration, Instant};

fn main() {
    for threads in [1, 2] {
        let model = common::model(threads);
        let deltas = [
            ("linear", common::delta(&model, "linear", &[], 1)),
            ("lora r8", common::delta(&model, "lora", &[("rank", "8")], 2)),
            ("prefix P=20", common::delta(&model, "prefix-tuning", &[("rows", "20")], 3)),
        ];
        let tasks: Vec<_> =
            deltas.iter().map(|(name, d)| (*name, model.load(d).expect("it fits"))).collect();
        for tokens in [8, 32, 128] {
            let text = common::text(tokens);
            let mut times: Vec<Vec<Duration>> = vec![Vec::new(); tasks.len()];
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(4) || times[0].len() < 25 {
                for ((_, task), times) in tasks.iter().zip(&mut times) {
                    let t = Instant::now();
                    model.logits(task, &[&text]).expect("predicts");
                    times.push(t.elapsed());
                }
            }
            // The ratio of neighbours in time, so that a busy moment counts for both.
            let base = times[0].clone();
            print!("threads {threads} tokens {tokens:4}");
            for ((name, _), times) in tasks.iter().zip(&mut times) {
                let mut ratios: Vec<f64> = times
                    .iter()
                    .zip(&base)
                    .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
                    .collect();
                ratios.sort_unstable_by(f64::total_cmp);
                let ms = common::median(times).as_secs_f64() * 1e3;
                print!("  {name} {ms:7.2} ms {:.3}x", ratios[ratios.len() / 2]);
            }
            println!();
        }
    }
}
