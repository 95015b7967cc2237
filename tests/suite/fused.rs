//! Tests: attention as one operator, beside the operators it stands for.

use edge_tune::autodiff::gradients;
use edge_tune::engine::Feed;
use edge_tune::graph::{Attrs, Graph, ValueId, fuse};
use edge_tune::tensor::{DType, Tensor};

use crate::support::engine_on;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    /// Of the values.
    value: usize,
    mask: Option<[usize; 4]>,
}

const SMALL: Sizes =
    Sizes { batch: 2, heads: 3, queries: 5, keys: 7, width: 4, value: 4, mask: Some([2, 1, 1, 7]) };

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn transposed(g: &mut Graph, v: ValueId, perm: [i64; 4]) -> ValueId {
    g.op("Transpose", &[v], Attrs::none().with("perm", &perm[..])).unwrap()
}

/// softmax(q k^T / 4 + mask) v with weights on its elements, as exporters write it; its inputs.
fn graph(sizes: Sizes) -> (Graph, Vec<Tensor>) {
    let Sizes { batch, heads, queries, keys, width, value, mask } = sizes;
    let mut g = Graph::new();
    let mut fed = vec![];
    let mut input = |g: &mut Graph, name: &str, shape: &[usize]| {
        let dims: Vec<_> = shape.iter().map(|&d| d.into()).collect();
        let n = shape.iter().product();
        fed.push(Tensor::new(shape, &noise(n, fed.len() as u64 + 1)).unwrap());
        g.add_input(name, DType::F32, &dims).unwrap()
    };
    let q = input(&mut g, "q", &[batch, queries, heads, width]);
    let k = input(&mut g, "k", &[batch, keys, heads, width]);
    let v = input(&mut g, "v", &[batch, keys, heads, value]);
    let weights = input(&mut g, "weights", &[batch, queries, heads, value]);
    let mask = mask.map(|shape| input(&mut g, "mask", &shape));
    let q = transposed(&mut g, q, [0, 2, 1, 3]);
    let k = transposed(&mut g, k, [0, 2, 3, 1]);
    let v = transposed(&mut g, v, [0, 2, 1, 3]);
    let half = g.float(0.5);
    let q = g.op("Mul", &[q, half], Attrs::none()).unwrap();
    let scores = g.op("MatMul", &[q, k], Attrs::none()).unwrap();
    let two = g.float(2.0);
    let mut scores = g.op("Div", &[scores, two], Attrs::none()).unwrap();
    if let Some(mask) = mask {
        scores = g.op("Add", &[scores, mask], Attrs::none()).unwrap();
    }
    let p = g.op("Softmax", &[scores], Attrs::none().with("axis", -1i64)).unwrap();
    let y = g.op("MatMul", &[p, v], Attrs::none()).unwrap();
    let y = transposed(&mut g, y, [0, 2, 1, 3]);
    let y = g.op("Mul", &[y, weights], Attrs::none()).unwrap();
    g.outputs = vec![y];
    (g, fed)
}

fn ops(g: &Graph, op: &str) -> usize {
    g.nodes.iter().filter(|n| n.op == op).count()
}

/// Output and gradients of q, k and v.
fn run(mut g: Graph, fed: &[Tensor], threads: usize) -> Vec<Vec<f32>> {
    let loss = g.op("ReduceSum", &[g.outputs[0]], Attrs::none().with("keepdims", 0i64)).unwrap();
    let wrt = g.inputs[..3].to_vec();
    let grads = gradients(&mut g, loss, &wrt).unwrap();
    g.outputs.extend(grads);
    g.prune();
    let engine = engine_on(threads);
    let feeds: Vec<_> = fed.iter().map(Feed::Tensor).collect();
    let out = engine.compile(&g, &[]).unwrap().run(&feeds).unwrap();
    out.iter().map(|t| t.to_f32().into_owned()).collect()
}

#[test]
fn one_operator_computes_what_many_do() {
    let cases = [
        SMALL,
        Sizes { mask: None, ..SMALL },
        Sizes { mask: Some([1, 1, 1, 1]), ..SMALL },
        Sizes { mask: Some([1, 3, 5, 7]), ..SMALL },
        Sizes { mask: Some([2, 3, 5, 1]), ..SMALL },
        Sizes { queries: 1, keys: 1, heads: 1, mask: None, ..SMALL },
        Sizes { queries: 40, keys: 33, width: 17, value: 17, mask: Some([2, 1, 40, 33]), ..SMALL },
        // More scores than are computed at a time.
        Sizes { queries: 300, keys: 500, heads: 2, mask: Some([1, 2, 300, 500]), ..SMALL },
    ];
    for sizes in cases {
        let (plain, fed) = graph(sizes);
        let mut fused = plain.clone();
        fuse::attention(&mut fused).unwrap();
        fused.prune();
        let left = ["Softmax", "MatMul", "Transpose"].map(|op| ops(&fused, op));
        assert_eq!((ops(&fused, "FusedAttention"), left), (1, [0; 3]), "{sizes:?}");
        let want = run(plain, &fed, 1);
        for threads in [1, 2] {
            let have = run(fused.clone(), &fed, threads);
            assert_eq!(have.len(), 4);
            for (i, (have, want)) in have.iter().zip(&want).enumerate() {
                let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert_eq!(have.len(), want.len());
                for (a, b) in have.iter().zip(want) {
                    assert!((a - b).abs() <= 1e-5 * scale, "{sizes:?} output {i}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_attention_stays() {
    // Values of another width, and weights that somebody reads.
    let (mut wide, _) = graph(Sizes { value: 6, ..SMALL });
    let (mut read, _) = graph(SMALL);
    let softmax = read.nodes.iter().find(|n| n.op == "Softmax").unwrap();
    let weights = softmax.output().unwrap();
    read.outputs.push(weights);
    for g in [&mut wide, &mut read] {
        let before = g.nodes.len();
        fuse::attention(g).unwrap();
        g.prune();
        assert_eq!((g.nodes.len(), ops(g, "FusedAttention")), (before, 0));
    }
}
