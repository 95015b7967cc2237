//! Median milliseconds of forward passes in rten: `rten-forward THREADS TOKENS PIXELS MODEL`.
//!
//! The inputs are those of beside.py: a text of TOKENS tokens, a picture of PIXELS x PIXELS, or halves
//! of the shape that the model gives.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::Tensor;

const TIME: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [threads, tokens, pixels, path] = args.as_slice() else {
        return Err("usage: rten-forward THREADS TOKENS PIXELS MODEL".into());
    };
    let pool = Arc::new(ThreadPool::with_num_threads(threads.parse()?));
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
    let inputs = inputs(&model, tokens.parse()?, pixels.parse()?)?;
    let mut times = vec![];
    let start = Instant::now();
    while start.elapsed() < TIME {
        let mut options = RunOptions::default();
        options.thread_pool = Some(pool.clone());
        let feeds: Vec<(NodeId, ValueOrView)> =
            inputs.iter().map(|(id, value)| (*id, value.into())).collect();
        let start = Instant::now();
        model.run(feeds, model.output_ids(), Some(options))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{{\"ms\": {}}}", times[times.len() / 2]);
    Ok(())
}

fn inputs(
    model: &Model,
    tokens: usize,
    pixels: usize,
) -> Result<Vec<(NodeId, Value)>, Box<dyn Error>> {
    let text = |token: fn(usize) -> i32| {
        Value::from(Tensor::from_data(&[1, tokens], (0..tokens).map(token).collect::<Vec<_>>()))
    };
    let halves = |shape: &[usize]| {
        Value::from(Tensor::from_data(shape, vec![0.5f32; shape.iter().product()]))
    };
    let mut inputs = vec![];
    for &id in model.input_ids() {
        let info = model.node_info(id).ok_or("an input has no description")?;
        let value = match info.name().unwrap_or_default() {
            "input_ids" => text(|i| 1000 + (i as i32 * 37) % 9000),
            "attention_mask" => text(|_| 1),
            "token_type_ids" => text(|_| 0),
            "pixel_values" => halves(&[1, 3, pixels, pixels]),
            _ => {
                let size = |d: &Dimension| match d {
                    Dimension::Fixed(n) => *n,
                    Dimension::Symbolic(_) => 1,
                };
                let shape = info.shape().ok_or("an input has no shape")?;
                halves(&shape.iter().map(size).collect::<Vec<_>>())
            }
        };
        inputs.push((id, value));
    }
    Ok(inputs)
}
