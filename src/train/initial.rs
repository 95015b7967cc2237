//! How trained tensors start.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::options::Example;
use super::runner::Values;
use crate::Error;
use crate::attach::frozen_parameters;
use crate::backbone::{Backbone, site};
use crate::data::shuffle::rng;
use crate::engine::Engine;
use crate::graph::Dim;
use crate::methods::{Init, TensorSpec};
use crate::runtime::encode_batch;

/// Streams of random numbers; the sampler uses the numbers of epochs.
const VALUES_STREAM: u64 = 1 << 40;
const ROWS_STREAM: u64 = 1 << 41;
const QUERIES_STREAM: u64 = 1 << 43;
const KEYS_STREAM: u64 = 1 << 44;
/// Two keys nearer than this part of their length count as equal, and are drawn apart by about
/// `APART` of it.
const EQUAL: f32 = 1e-3;
const APART: f32 = 0.05;
/// How many examples real activations are taken from.
const EXAMPLES: usize = 32;

/// Initial values of `tensors`, except what follows from features or queries, which stays zero until
/// they are known.
/// Prompts and prefixes start as real activations at their site, of random tokens of random
/// `rows` (random values make gradients noisy on an int8 backbone).
pub(super) fn values(
    backbone: &Backbone,
    engine: &dyn Engine,
    tensors: &[TensorSpec],
    examples: &[Example],
    rows: &[usize],
    seed: u64,
) -> Result<Values, Error> {
    let mut wanted: Vec<String> = tensors.iter().filter_map(|t| source(backbone, t.init)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let real = Activations::collect(backbone, engine, &wanted, examples, rows, seed)?;
    let mut out = Values::new();
    for (i, t) in tensors.iter().enumerate() {
        let mut rng = rng(seed, VALUES_STREAM + i as u64);
        out.push(match t.init {
            Init::FanIn(fan) => {
                let bound = 1.0 / (fan.max(1) as f32).sqrt();
                (0..t.len()).map(|_| (2.0 * uniform(&mut rng) - 1.0) * bound).collect()
            }
            Init::Normal => (0..t.len()).map(|_| normal(&mut rng)).collect(),
            Init::Ones => vec![1.0; t.len()],
            Init::LinearWeight(..)
            | Init::LinearBias(..)
            | Init::NormWeight(_)
            | Init::NormBias(_)
            | Init::ConvWeight(_)
            | Init::ConvBias(_) => frozen(backbone, t.init)?,
            Init::TokenRows | Init::LayerRows(_) | Init::Keys(_) | Init::Values(_) => {
                let name = source(backbone, t.init).unwrap_or_default();
                real.values(&name, t.len())
            }
            // Those of the features come when these are known.
            _ => vec![0.0; t.len()],
        });
    }
    Ok(out)
}

/// A weight of the backbone itself, in f32.
fn frozen(backbone: &Backbone, init: Init) -> Result<Vec<f32>, Error> {
    let sites = backbone.sites();
    let output = match init {
        Init::LinearWeight(layer, role) | Init::LinearBias(layer, role) => {
            sites.linear(layer, role).map(|l| &l.output)
        }
        Init::NormWeight(i) | Init::NormBias(i) => sites.norms.get(i).map(|n| &n.output),
        Init::ConvWeight(i) | Init::ConvBias(i) => {
            sites.cnn.as_ref().and_then(|c| c.convs.get(i)).map(|c| &c.output)
        }
        _ => None,
    };
    let name = output.map_or("", String::as_str);
    let (weight, bias) = frozen_parameters(backbone.graph(), name)?;
    let second = matches!(init, Init::LinearBias(..) | Init::NormBias(_) | Init::ConvBias(_));
    Ok(if second { bias } else { weight }.to_f32().into_owned())
}

/// The site whose activations a tensor starts from.
fn source(backbone: &Backbone, init: Init) -> Option<String> {
    let sites = backbone.sites();
    match init {
        Init::TokenRows => Some(sites.tokens.value.clone()),
        Init::LayerRows(layer) => sites.layers.get(layer).map(|l| l.input.clone()),
        Init::Keys(layer) => sites.layers.get(layer).map(|l| l.keys.clone()),
        Init::Values(layer) => sites.layers.get(layer).map(|l| l.values.clone()),
        _ => None,
    }
}

/// Activations of real tokens at some sites: the same tokens at every site.
struct Activations(HashMap<String, Vec<Vec<f32>>>);

impl Activations {
    fn collect(
        backbone: &Backbone,
        engine: &dyn Engine,
        names: &[String],
        examples: &[Example],
        rows: &[usize],
        seed: u64,
    ) -> Result<Activations, Error> {
        let mut found: HashMap<String, Vec<Vec<f32>>> = HashMap::new();
        if names.is_empty() {
            return Ok(Activations(found));
        }
        let mut graph = backbone.graph().clone();
        graph.outputs = names.iter().map(|n| site(&graph, n)).collect::<Result<_, _>>()?;
        graph.prune();
        let program = engine.compile(&graph, &[(Dim::BATCH, 1)])?;
        let mut rng = rng(seed, ROWS_STREAM);
        for _ in 0..EXAMPLES {
            let example = &examples[rows[below(&mut rng, rows.len())]];
            let inputs = encode_batch(backbone, &[&example.input], 1)?;
            let out = super::runner::run(backbone, &*program, &HashMap::new(), Some(&inputs))?;
            let tokens = out.first().map_or(0, |t| t.shape().get(1).copied().unwrap_or(0));
            for _ in 0..4 {
                let token = below(&mut rng, tokens);
                for (name, t) in names.iter().zip(&out) {
                    let width: usize = t.shape().iter().skip(2).product();
                    let row = t.to_f32()[token * width..(token + 1) * width].to_vec();
                    found.entry(name.clone()).or_default().push(row);
                }
            }
        }
        Ok(Activations(found))
    }

    /// `count` values of row after row, from the start again if they run out.
    fn values(&self, name: &str, count: usize) -> Vec<f32> {
        let rows = self.0.get(name).map_or(&[][..], Vec::as_slice);
        rows.iter().flatten().copied().cycle().take(count).collect()
    }
}

/// The linear classifier that chooses the nearest class mean: weight `[K, d]` and bias `[K]`.
///
/// `|x - mu|^2` is linear in x up to a term that all classes share. It is divided by the mean
/// squared distance of a feature from its class mean, so that scores are of moderate size.
pub(super) fn class_mean_head(
    features: &[Vec<f32>],
    labels: &[usize],
    classes: usize,
) -> (Vec<f32>, Vec<f32>) {
    /// Scores are this many times the squared distance in units of its mean.
    const SHARPNESS: f32 = 4.0;
    /// Largest weight and bias, with room for training below the largest f16.
    const LARGEST: f32 = 1e4;
    let d = features.first().map_or(0, Vec::len);
    let (means, _) = class_means(features, labels, classes);
    let distance =
        |x: &[f32], m: &[f32]| -> f32 { x.iter().zip(m).map(|(a, b)| (a - b) * (a - b)).sum() };
    let total: f32 =
        features.iter().zip(labels).map(|(x, &k)| distance(x, &means[k * d..(k + 1) * d])).sum();
    let spread = total / features.len().max(1) as f32;
    let scale = if spread > 0.0 { SHARPNESS / spread } else { 1.0 };
    // Features that hardly differ would ask for weights that f16 does not hold.
    let length = |m: &[f32]| m.iter().map(|v| v * v).sum::<f32>();
    let longest = means.chunks(d.max(1)).map(length).fold(1.0, f32::max);
    let scale = scale.min(LARGEST / longest);
    let bias = means.chunks(d.max(1)).map(|m| -0.5 * scale * m.iter().map(|v| v * v).sum::<f32>());
    (means.iter().map(|v| v * scale).collect(), bias.collect())
}

/// Mean feature `[K, d]` and number of examples of every class.
pub(super) fn class_means(
    features: &[Vec<f32>],
    labels: &[usize],
    classes: usize,
) -> (Vec<f32>, Vec<i64>) {
    let d = features.first().map_or(0, Vec::len);
    let (mut sums, mut counts) = (vec![0f64; classes * d], vec![0i64; classes]);
    for (x, &k) in features.iter().zip(labels) {
        counts[k] += 1;
        sums[k * d..(k + 1) * d].iter_mut().zip(x).for_each(|(s, v)| *s += f64::from(*v));
    }
    let mean = |(i, s): (usize, f64)| (s / counts[i / d.max(1)].max(1) as f64) as f32;
    (sums.into_iter().enumerate().map(mean).collect(), counts)
}

/// `count` of `rows`, drawn without repetition as far as they go.
pub(super) fn some(rows: &[usize], count: usize, seed: u64) -> Vec<usize> {
    let mut rows = rows.to_vec();
    crate::data::shuffle::shuffle(&mut rows, &mut rng(seed, QUERIES_STREAM));
    rows.truncate(count);
    rows
}

/// `count` keys that are `queries`, from the first again if there are fewer. No two are equal, since
/// between equal keys rounding would choose.
pub(super) fn keys(queries: &[Vec<f32>], count: usize, seed: u64) -> Vec<f32> {
    let mut rng = rng(seed, KEYS_STREAM);
    let mut keys: Vec<Vec<f32>> = Vec::with_capacity(count);
    for query in queries.iter().cycle().take(count) {
        let mut key = query.clone();
        let length = key.iter().map(|v| v * v).sum::<f32>().sqrt();
        let apart = |other: &Vec<f32>| {
            let squares = other.iter().zip(&key).map(|(a, b)| (a - b) * (a - b));
            squares.sum::<f32>().sqrt() > EQUAL * length
        };
        if !keys.iter().all(apart) {
            let step = APART * length / (key.len() as f32).sqrt();
            key.iter_mut().for_each(|v| *v += step * normal(&mut rng));
        }
        keys.push(key);
    }
    keys.concat()
}

fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// Box-Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v) = (1.0 - uniform(rng), uniform(rng));
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    rng.next_u32() as usize % n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_mean_head_chooses_the_nearest_mean() {
        let features: Vec<Vec<f32>> =
            [[0.0, 0.1], [0.2, -0.1], [3.0, 1.0], [2.8, 1.2], [-2.0, 4.0], [-2.2, 4.2]]
                .map(|f| f.to_vec())
                .to_vec();
        let labels = [0, 0, 1, 1, 2, 2];
        let (w, b) = class_mean_head(&features, &labels, 3);
        for (x, label) in features.iter().zip(labels) {
            let score = |k: usize| x[0] * w[2 * k] + x[1] * w[2 * k + 1] + b[k];
            let best = (0..3).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
            assert_eq!(best, label);
        }
        assert_eq!(class_means(&features, &labels, 4).1, [2, 2, 2, 0]);
    }

    #[test]
    fn a_head_over_equal_features_fits_f16() {
        let features = vec![vec![3.0, 4.0], vec![3.0, 4.000_01], vec![3.0, 4.0], vec![3.0, 4.0]];
        let (w, b) = class_mean_head(&features, &[0, 0, 1, 1], 2);
        assert!(w.iter().chain(&b).all(|v| v.abs() <= 1e4 && v.is_finite()), "{w:?} {b:?}");
    }

    #[test]
    fn keys_of_equal_queries_differ() {
        let queries = [vec![3.0, 4.0, 0.0], vec![0.0, 0.0, 1.0], vec![3.0, 4.000_01, 0.0]];
        let found = keys(&queries, 8, 1);
        assert_eq!(&found[..6], &[3.0, 4.0, 0.0, 0.0, 0.0, 1.0]);
        let found: Vec<&[f32]> = found.chunks(3).collect();
        let distance = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
        };
        for (i, a) in found.iter().enumerate() {
            assert!(distance(a, &queries[i % 3]) < 1.0);
            assert!(found[..i].iter().all(|b| distance(a, b) > 1e-3), "{found:?}");
        }
        assert!(keys(&[], 3, 1).is_empty());
    }

    #[test]
    fn normal_values_have_unit_spread() {
        let mut rng = rng(3, 5);
        let x: Vec<f32> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.05, "{mean} {var}");
    }
}
