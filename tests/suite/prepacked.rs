//! Tests: weights that are kept in the order in which the processor multiplies them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_tune::engine::{Compute, Engine, Feed, Prepacked};
use edge_tune::graph::{Attrs, Dim, Graph};
use edge_tune::tensor::{DType, Tensor};

use crate::support::{engine_over, engine_with};

const SIZES: [(usize, usize); 6] = [(1, 2), (7, 4), (64, 64), (130, 204), (390, 66), (96, 1536)];

fn values(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| ((i + seed) * 2_654_435 % 2001) as f32 / 1000.0 - 1.0).collect()
}

/// Forward products with an int8 and an int4 weight of each size, on inputs of their own, and the same
/// weights in the graph of their backward products.
fn graphs() -> [Graph; 2] {
    let weights: Vec<(Tensor, Tensor)> = SIZES
        .iter()
        .flat_map(|&(k, n)| {
            let bytes: Vec<i8> = values(k * n, 1).iter().map(|v| (v * 127.0) as i8).collect();
            let wide = Tensor::new(&[k, n], &bytes).unwrap();
            let nibbles: Vec<u8> = bytes.iter().take(k * n / 2).map(|b| *b as u8).collect();
            let narrow = Tensor::from_bytes(DType::I4, &[k, n], &nibbles).unwrap();
            let steps = Tensor::new(&[k.div_ceil(32), n], &values(k.div_ceil(32) * n, 2));
            [(wide, Tensor::vector(&values(n, 3))), (narrow, steps.unwrap().to_f16())]
        })
        .collect();
    [false, true].map(|backward| {
        let mut g = Graph::new();
        for (i, (weight, scale)) in weights.iter().enumerate() {
            let from = weight.shape()[usize::from(backward)];
            let x = g.add_input(&format!("x{i}"), DType::F32, &[Dim::BATCH, from.into()]).unwrap();
            let w = g.add_constant(&format!("w{i}"), weight.clone());
            let s = g.add_constant(&format!("s{i}"), scale.clone());
            let attrs = Attrs::none().with("backward", i64::from(backward));
            let y = g.op("FrozenLinear", &[x, w, s], attrs).unwrap();
            g.outputs.push(y);
        }
        g
    })
}

fn run(engine: &dyn Engine, graph: &Graph, rows: usize) -> Vec<Vec<f32>> {
    let inputs: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|&v| graph.shape(v)[1].constant().unwrap())
        .map(|from| Tensor::new(&[rows, from], &values(rows * from, 4)).unwrap())
        .collect();
    let feeds: Vec<Feed> = inputs.iter().map(Feed::Tensor).collect();
    let out = engine.compile(graph, &[]).unwrap().run(&feeds).unwrap();
    out.iter().map(|t| t.to_f32().into_owned()).collect()
}

/// `None` where nothing is kept, with a printed line.
fn open(folder: &Path, graph: &Graph, digest: &str) -> Option<Prepacked> {
    let prepacked = Prepacked::open(folder, graph, digest).unwrap();
    if prepacked.is_none() {
        println!("skipped: this processor multiplies no bytes");
    }
    prepacked
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn products_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let [forward, backward] = graphs();
    let Some(prepacked) = open(dir.path(), &forward, "0123") else { return };
    assert_eq!(files(dir.path()).len(), 1, "no gradient is asked for yet");
    for threads in [1, 2] {
        let usual = engine_with(threads, Compute::Int8);
        let over = engine_over(threads, Compute::Int8, Some(prepacked.clone()));
        for graph in [&forward, &backward] {
            for rows in [1, 9, 130] {
                assert_eq!(run(&*over, graph, rows), run(&*usual, graph, rows), "{rows}");
            }
        }
        // In f32 the weights are read as they are stored.
        let (usual, over) = (
            engine_with(threads, Compute::F32),
            engine_over(threads, Compute::F32, Some(prepacked.clone())),
        );
        assert_eq!(run(&*over, &forward, 9), run(&*usual, &forward, 9));
    }
    assert_eq!(files(dir.path()).len(), 2);
    // Other weights of the same sizes lie elsewhere: they are packed in each run, as ever.
    let [others, _] = graphs();
    let over = engine_over(1, Compute::Int8, Some(prepacked));
    assert_eq!(run(&*over, &others, 9), run(&*engine_with(1, Compute::Int8), &others, 9));
}

#[test]
fn a_file_is_used_again_unless_it_is_for_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let [graph, _] = graphs();
    if open(dir.path(), &graph, "0123").is_none() {
        return;
    }
    let [file] = &files(dir.path())[..] else { panic!("one file") };
    let first = fs::read(file).unwrap();
    let made = || fs::metadata(file).unwrap().modified().unwrap();
    let then = made();
    open(dir.path(), &graph, "0123");
    assert_eq!(made(), then);
    // Cut off, of a backbone whose digest begins alike, or something else altogether.
    let mut other = first.clone();
    let at = first.windows(4).position(|w| w == b"0123").unwrap();
    other[at] = b'9';
    for wrong in [&first[..first.len() - 1], &other, b"panels", b""] {
        fs::write(file, wrong).unwrap();
        let prepacked = open(dir.path(), &graph, "0123");
        assert_eq!(fs::read(file).unwrap(), first);
        let over = engine_over(1, Compute::Int8, prepacked);
        assert_eq!(run(&*over, &graph, 3), run(&*engine_with(1, Compute::Int8), &graph, 3));
    }
    open(dir.path(), &graph, "another");
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [graph, _] = graphs();
    if open(&dir.path().join("new/folder"), &graph, "0123").is_none() {
        return;
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Prepacked::open(&file, &graph, "0123").unwrap_err();
    assert_eq!(error.code(), "engine.prepacked");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

/// Programs of one engine run side by side.
#[test]
fn threads_share_the_panels() {
    let dir = tempfile::tempdir().unwrap();
    let [graph, _] = graphs();
    let Some(prepacked) = open(dir.path(), &graph, "0123") else { return };
    let engine: Arc<dyn Engine> = engine_over(1, Compute::Int8, Some(prepacked));
    let want = run(&*engine, &graph, 5);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(run(&*engine, &graph, 5), want));
        }
    });
}
