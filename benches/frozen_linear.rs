//! How long products with mapped weights take, against tract's own f32 product with a constant
//! weight, and computed in int8. Run with `cargo bench --bench frozen_linear`.
//!
//! Both are timed in turns in one process, so the ratios hold on a busy machine too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_tune::engine::tract::TractEngine;
use edge_tune::engine::{Compute, Engine, Feed, Program};
use edge_tune::graph::{Attrs, Graph};
use edge_tune::tensor::{DType, Tensor};

/// Reproducible values in -1..1.
fn noise(n: usize) -> Vec<f32> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn compile(
    engine: &TractEngine,
    rows: usize,
    from: usize,
    build: impl Fn(&mut Graph, edge_tune::graph::ValueId) -> edge_tune::graph::ValueId,
) -> Arc<dyn Program> {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, &[rows.into(), from.into()]).expect("a new name");
    let y = build(&mut g, x);
    g.outputs = vec![y];
    engine.compile(&g, &[]).expect("compiles")
}

/// The median time of each program, run in turns.
fn times(engine: &TractEngine, programs: &[Arc<dyn Program>], x: &Tensor) -> Vec<Duration> {
    let x = engine.bind(x).expect("f32");
    let mut all = vec![Vec::new(); programs.len()];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        for (p, times) in programs.iter().zip(&mut all) {
            let t = Instant::now();
            p.run(&[Feed::Bound(&x)]).expect("runs");
            times.push(t.elapsed());
        }
    }
    all.iter_mut()
        .map(|t| {
            t.sort();
            t[t.len() / 2]
        })
        .collect()
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    let mut engines = vec![(1, TractEngine::new())];
    if threads > 1 {
        engines.push((threads, TractEngine::with_threads(threads)));
    }
    // `cargo bench --bench frozen_linear -- 128` measures 128 rows alone.
    let mut rows: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    if rows.is_empty() {
        rows = vec![1, 4, 16, 128, 1024];
    }
    for (threads, engine) in &engines {
        for (k, n) in [(384, 1536), (384, 384), (768, 3072)] {
            for &rows in &rows {
                for backward in [false, true] {
                    measure(engine, *threads, rows, k, n, backward);
                }
            }
        }
    }
}

fn measure(engine: &TractEngine, threads: usize, rows: usize, k: usize, n: usize, backward: bool) {
    let (from, to) = if backward { (n, k) } else { (k, n) };
    let w = noise(k * n);
    let q: Vec<i8> = w.iter().map(|v| (v * 127.0) as i8).collect();
    let scale = vec![1f32 / 127.0; n];
    let attrs = || Attrs::none().with("backward", i64::from(backward));
    let plain = compile(engine, rows, from, |g, x| {
        let mut b = w.clone();
        if backward {
            for i in 0..k {
                for j in 0..n {
                    b[j * k + i] = w[i * n + j];
                }
            }
        }
        let b = g.add_constant("w", Tensor::new(&[from, to], &b).expect("its size"));
        g.op("MatMul", &[x, b], Attrs::none()).expect("fits")
    });
    let int8 = (Tensor::new(&[k, n], &q).expect("its size"), Tensor::vector(&scale));
    let bytes: Vec<u8> = q.chunks(2).map(|two| two[0] as u8 >> 4 | two[1] as u8 & 0xf0).collect();
    let blocks = Tensor::new(&[k / 32, n], &vec![0.125f32; k / 32 * n]).expect("its size");
    let int4 = (Tensor::from_bytes(DType::I4, &[k, n], &bytes).expect("its size"), blocks.to_f16());
    let stored = |(w, scale): &(Tensor, Tensor), compute| {
        compile(&engine.clone().with_compute(compute), rows, from, |g, x| {
            let w = g.add_constant("w", w.clone());
            let s = g.add_constant("scale", scale.clone());
            g.op("FrozenLinear", &[x, w, s], attrs()).expect("fits")
        })
    };
    let f32 = compile(engine, rows, from, |g, x| {
        let w = g.add_constant("w", Tensor::new(&[k, n], &w).expect("its size"));
        g.op("FrozenLinear", &[x, w], attrs()).expect("fits")
    });
    let x = Tensor::new(&[rows, from], &noise(rows * from)).expect("its size");
    let programs = [
        plain,
        stored(&int8, Compute::F32),
        f32,
        stored(&int8, Compute::Int8),
        stored(&int4, Compute::F32),
        stored(&int4, Compute::Int8),
    ];
    let t = times(engine, &programs, &x);
    let ratio = |i: usize| t[i].as_secs_f64() / t[0].as_secs_f64();
    println!(
        "threads {threads} K {k:4} N {n:4} rows {rows:4} {}  f32 MatMul {:8.1} us  mapped int8 {:.2}x  mapped f32 {:.2}x  computed in int8 {:.2}x  mapped int4 {:.2}x  computed in int8 {:.2}x",
        if backward { "backward" } else { "forward " },
        t[0].as_secs_f64() * 1e6,
        ratio(1),
        ratio(2),
        ratio(3),
        ratio(4),
        ratio(5),
    );
}
