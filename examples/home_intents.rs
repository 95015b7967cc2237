//! Load a backbone, calibrate two deltas, swap between them while another thread predicts.
//!
//!     cargo run --release --example home_intents

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use edge_tune::Error;
use edge_tune::data::Dataset;
use edge_tune::delta::Delta;
use edge_tune::engine::tract::TractEngine;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::Model;
use edge_tune::train::{Options, Task, calibrate};

fn main() -> Result<(), Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let engine = Arc::new(TractEngine::with_threads(2));
    let model = Model::open(&root.join("models/minilm-l6"), engine)?;
    let data = Dataset::open(root.join("examples/home-intents.csv"))?;

    // Eight sentences of every intent, two of them held out for validation.
    let few = data.shots(&data.split("train")?, 8, 0)?;
    let prototypes = train(&model, &data, &few, "prototypes")?;
    let linear = train(&model, &data, &few, "linear")?;

    let prototypes = model.load(&prototypes)?;
    let linear = model.load(&linear)?;
    model.swap(&prototypes);

    // Predictions go on while the active delta changes under them.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(Ordering::Relaxed) {
                answers.push(model.predict("it is freezing in the bedroom")?);
            }
            Ok::<_, Error>(answers)
        });
        let start = Instant::now();
        for _ in 0..1000 {
            model.swap(&linear);
            model.swap(&prototypes);
        }
        println!("2000 swaps in {:?}", start.elapsed());
        std::thread::sleep(std::time::Duration::from_millis(50));
        done.store(true, Ordering::Relaxed);
        let answers = reader.join().unwrap_or_else(|e| std::panic::resume_unwind(e))?;
        if let Some(last) = answers.last() {
            println!(
                "{} predictions meanwhile; the last: {} by generation {}",
                answers.len(),
                last.label,
                last.generation
            );
        }
        Ok::<_, Error>(())
    })?;

    for text in ["make it brighter in here", "skip this song", "wake me at six"] {
        println!("{text}: {}", model.predict(text)?.label);
    }
    Ok(())
}

fn train(model: &Model, data: &Dataset, few: &[usize], method: &str) -> Result<Delta, Error> {
    let (train, validation) = data.holdout(few, 0.25, 0)?;
    let method = methods::find(method)?;
    let settings = Settings::resolve(method, [])?;
    let task = Task::new(model, method, settings, data, &train, &validation)?.named("home-intents");
    let (delta, report) = calibrate(&task, &Options::default(), &mut ())?;
    println!(
        "{}: {} steps, {:.1} s, {} bytes, validation {:.0} %",
        report.method,
        report.steps,
        report.seconds,
        report.delta_bytes,
        100.0 * report.validation_accuracy.unwrap_or(0.0)
    );
    Ok(delta)
}
