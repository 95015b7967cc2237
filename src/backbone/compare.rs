//! Comparing a prepared graph with its export.

use std::path::Path;

use super::{BackboneError, Pooling, site};
use crate::engine::{Engine, Feed};
use crate::graph::canonical::{canonicalise, padding_masks};
use crate::graph::sites::Sites;
use crate::graph::{Dim, Graph, GraphError, ValueId, frozen};
use crate::tensor::{DType, Tensor};

/// How close two runs are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closeness {
    pub cosine: f64,
    /// Largest absolute difference.
    pub difference: f32,
}

/// Runs the export and the prepared graph on the same input and compares the last hidden states
/// over real tokens, and the pooled outputs where they are the feature.
pub(super) fn compare(
    path: &Path,
    export: &Graph,
    prepared: &Graph,
    (sites, pooling): (&Sites, Pooling),
    repaired: bool,
    engine: &dyn Engine,
) -> Result<Closeness, BackboneError> {
    let in_graph = |source| BackboneError::Graph { path: path.to_owned(), source };
    let in_engine = |source| BackboneError::Engine { path: path.to_owned(), source };
    let (batch, length) = (2, 12);
    let pins = [(Dim::BATCH, batch), (Dim::SEQUENCE, length)];
    let pooled = sites.pooled.as_ref().filter(|_| pooling == Pooling::Output);
    let names: Vec<&String> = [Some(&sites.hidden), pooled].into_iter().flatten().collect();
    let mut reference = export.clone();
    if repaired || names.iter().any(|n| export.find(n).is_none()) {
        // The export itself is wrong, or lacks the value that a rewrite made: compare with its
        // float form, under the right mask.
        canonicalise(&mut reference).map_err(in_graph)?;
        padding_masks(&mut reference).map_err(in_graph)?;
    }
    let mut lifted = prepared.clone();
    frozen::lift(&mut lifted).map_err(in_graph)?;
    let mut results = Vec::new();
    for graph in [&mut reference, &mut lifted] {
        graph.outputs =
            names.iter().map(|n| site(graph, n)).collect::<Result<_, _>>().map_err(in_graph)?;
        graph.prune();
        let program = engine.compile(graph, &pins).map_err(in_engine)?;
        let feeds: Vec<Tensor> = graph
            .inputs
            .iter()
            .map(|&v| sample(graph, v, sites, batch, length))
            .collect::<Result<_, _>>()
            .map_err(in_graph)?;
        let feeds: Vec<Feed> = feeds.iter().map(Feed::Tensor).collect();
        results.push(program.run(&feeds).map_err(in_engine)?);
    }
    let real = |i: usize| {
        // Rows of padding may hold anything.
        sites.mask.is_none() || !is_padding(i / sites.width.max(1), length)
    };
    let mut worst = Closeness { cosine: 1.0, difference: 0.0 };
    for (place, (a, b)) in results[0].iter().zip(&results[1]).enumerate() {
        let (a, b) = (a.to_f32(), b.to_f32());
        let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
        for (_, (&x, &y)) in
            a.iter().zip(b.iter()).enumerate().filter(|(i, _)| place > 0 || real(*i))
        {
            ab += f64::from(x) * f64::from(y);
            aa += f64::from(x) * f64::from(x);
            bb += f64::from(y) * f64::from(y);
            worst.difference = worst.difference.max((x - y).abs());
        }
        let cosine = ab / (aa * bb).sqrt();
        // What is not a number must not pass for close.
        worst.cosine = if cosine.is_nan() { cosine } else { worst.cosine.min(cosine) };
        if cosine.is_nan() {
            break;
        }
    }
    Ok(worst)
}

/// Knuth's multiplicative hash, 24 bits: spread out, and the same everywhere.
fn noise(i: u32) -> u32 {
    i.wrapping_mul(2_654_435_761) >> 8
}

/// Value number `i` of a fixed input in -1..1 that looks like noise.
pub(crate) fn signal(i: u32) -> f32 {
    noise(i) as f32 / 8_388_608.0 - 1.0
}

/// The last four tokens of every second row are padding.
fn is_padding(token: usize, length: usize) -> bool {
    (token / length) % 2 == 1 && token % length >= length - 4
}

/// A fixed input for graph input `v`.
fn sample(
    graph: &Graph,
    v: ValueId,
    sites: &Sites,
    batch: usize,
    length: usize,
) -> Result<Tensor, GraphError> {
    let value = graph.value(v);
    let shape: Vec<usize> = value
        .shape
        .iter()
        .map(|d| match d {
            d if *d == Dim::BATCH => batch,
            d => d.constant().unwrap_or(length),
        })
        .collect();
    let n = shape.iter().product::<usize>();
    let index = graph.index();
    let rows = index.consumers(v).iter().find_map(|&(c, i)| {
        let node = &graph.nodes[c];
        let table = match node.op.as_str() {
            "Gather" if i == 1 => node.input(0).ok()?,
            "FrozenGather" => node.input(0).ok()?,
            _ => return None,
        };
        // An int8 table is read through its DequantizeLinear, which has the table's shape.
        graph.shape(table).first()?.constant()
    });
    let whole = |i: usize| -> i64 {
        if sites.mask.as_deref() == Some(value.name.as_str()) {
            i64::from(!is_padding(i, length))
        } else if sites.types.as_deref() == Some(value.name.as_str()) {
            0
        } else {
            // Small ids are special tokens in most vocabularies.
            let rows = rows.unwrap_or(2);
            (rows / 10 + noise(i as u32) as usize % (rows - rows / 10).max(1)) as i64
        }
    };
    Ok(match value.dtype {
        DType::F32 => {
            let x: Vec<f32> = (0..n).map(|i| signal(i as u32)).collect();
            Tensor::new(&shape, &x)?
        }
        DType::I32 => Tensor::new(&shape, &(0..n).map(|i| whole(i) as i32).collect::<Vec<_>>())?,
        DType::Bool => Tensor::bools(&shape, &(0..n).map(|i| whole(i) != 0).collect::<Vec<_>>())?,
        _ => Tensor::new(&shape, &(0..n).map(whole).collect::<Vec<_>>())?,
    })
}
