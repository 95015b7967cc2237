//! How long a swap takes with few and with many resident deltas, and how long a delta takes from the
//! store to the active one. Run with `cargo bench --bench swap`.

mod common;

use std::time::{Duration, Instant};

use edge_tune::Error;
use edge_tune::store::Store;

/// Swaps that are timed together: one is shorter than the clock can tell well.
const GROUP: usize = 100;

/// A delta of 1 MB: read and checked against its digest, validated, made resident and active.
fn activation() {
    let model = common::model(1);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("d.safetensors");
    let delta = common::delta(&model, "lora", &[("rank", "54")], 1);
    delta.write(&file).expect("writes");
    let store = Store::open(&dir.path().join("store")).expect("opens");
    let entry = store.install::<Error>(&file, None, |_| Ok(())).expect("installs");
    let mut times: Vec<Duration> = Vec::new();
    let mut last = None;
    for _ in 0..50 {
        let t = Instant::now();
        let delta = store.load(&entry).expect("is whole");
        let task = model.load(&delta).expect("it fits");
        model.swap(&task);
        times.push(t.elapsed());
        last = Some(task);
    }
    let bytes = last.map_or(0, |task| task.bytes());
    let ms = common::median(&mut times).as_secs_f64() * 1e3;
    println!("{bytes:9} bytes from the store to active {ms:.2} ms, its program compiled before");
}

fn main() {
    activation();
    let model = common::model(1);
    let mut tasks = Vec::new();
    let mut first = None;
    for resident in [1usize, 10, 100, 1000, 10_000] {
        while tasks.len() < resident {
            let delta = common::delta(&model, "lora", &[("rank", "8")], tasks.len() as u64);
            tasks.push(model.load(&delta).expect("it fits"));
        }
        let mut single: Vec<Duration> = Vec::new();
        let mut grouped: Vec<Duration> = Vec::new();
        for round in 0..2000 {
            let task = &tasks[(round * 7) % resident];
            let t = Instant::now();
            model.swap(task);
            single.push(t.elapsed());
            let t = Instant::now();
            for i in 0..GROUP {
                model.swap(&tasks[(round + i * 13) % resident]);
            }
            grouped.push(t.elapsed() / GROUP as u32);
        }
        // A swap and the first prediction after it, which must not pay for the swap.
        let mut after: Vec<Duration> = Vec::new();
        for round in 0..20 {
            model.swap(&tasks[(round * 7) % resident]);
            let t = Instant::now();
            model.predict("could you dim the lights").expect("predicts");
            after.push(t.elapsed());
        }
        let (one, many) = (common::median(&mut single), common::median(&mut grouped));
        let base = *first.get_or_insert(many);
        println!(
            "{resident:5} resident, {:9} bytes  swap {:6.3} us alone, {:6.3} us in a row ({:.2}x of one resident)  prediction after it {:6.2} ms",
            model.resident_bytes(),
            one.as_secs_f64() * 1e6,
            many.as_secs_f64() * 1e6,
            many.as_secs_f64() / base.as_secs_f64(),
            common::median(&mut after).as_secs_f64() * 1e3,
        );
    }
}
