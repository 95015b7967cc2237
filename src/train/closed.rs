//! Tensors that follow from the features of the rows without gradients.

use super::initial::{class_mean_head, class_means};
use crate::methods::{Init, TensorSpec};
use crate::tensor::Tensor;

/// Values of the weight and the sharpness of a cache that are tried: from almost nothing up to
/// these, as the paper does.
const LARGEST: (f32, f32) = (3.0, 7.0);
const TRIES: usize = 20;

/// Features of labelled rows.
pub(super) struct Rows {
    features: Vec<Vec<f32>>,
    /// The same at unit length.
    units: Vec<Vec<f32>>,
    labels: Vec<usize>,
    classes: usize,
}

impl Rows {
    pub fn new(features: Vec<Vec<f32>>, labels: Vec<usize>, classes: usize) -> Rows {
        let units = features.iter().map(|x| unit(x)).collect();
        Rows { features, units, labels, classes }
    }

    /// What `init` says about the rows; `None` if it is about something else.
    pub fn values(&self, init: Init) -> Option<Vec<f32>> {
        let counts = |counts: Vec<i64>| counts.into_iter().map(|n| n as f32).collect();
        Some(match init {
            Init::HeadWeight => class_mean_head(&self.features, &self.labels, self.classes).0,
            Init::HeadBias => class_mean_head(&self.features, &self.labels, self.classes).1,
            Init::ClassMeans => class_means(&self.units, &self.labels, self.classes).0,
            Init::ClassCounts => counts(class_means(&self.units, &self.labels, self.classes).1),
            Init::UnitClassMeans => {
                let means = class_means(&self.units, &self.labels, self.classes).0;
                let d = self.units.first().map_or(1, Vec::len).max(1);
                means.chunks(d).flat_map(unit).collect()
            }
            Init::RowFeatures => self.units.concat(),
            Init::RowLabels => self.labels.iter().map(|&k| k as f32).collect(),
            Init::CacheWeight(v) | Init::CacheSharpness(v) => vec![v],
            _ => return None,
        })
    }
}

/// True if a tensor follows from features.
pub(super) fn is_closed(init: Init) -> bool {
    let empty = Rows { features: vec![], units: vec![], labels: vec![], classes: 0 };
    empty.values(init).is_some()
}

/// The tensor of an earlier delta with what new rows add: their classes behind its own, their keys
/// behind its own. A tensor that does not grow stays as it was.
pub(super) fn grown(spec: &TensorSpec, parent: &Tensor, computed: &[f32]) -> Vec<f32> {
    let known = parent.to_f32();
    let new = match spec.per_class() {
        true => computed.get(known.len()..).unwrap_or_default(),
        false if spec.grows() => computed,
        false => &[],
    };
    [&known, new].concat()
}

/// Means `[K, d]` and counts `[K]` of an earlier delta taken into those of new rows, each mean weighted
/// by the rows it was made of.
pub(super) fn add_means(parent: (&Tensor, &Tensor), means: &mut [f32], counts: &mut [f32]) {
    let (old, old_counts) = (parent.0.to_f32(), parent.1.as_slice::<i64>().unwrap_or_default());
    let d = (means.len() / counts.len().max(1)).max(1);
    let rows = means.chunks_mut(d).zip(counts).zip(old.chunks(d).zip(old_counts));
    for ((mean, count), (old, &old_count)) in rows {
        // A file may hold any number.
        let old_count = old_count.clamp(0, 1 << 24) as f32;
        let total = (*count + old_count).max(1.0);
        let (new, old_share) = (*count / total, old_count / total);
        mean.iter_mut().zip(old).for_each(|(m, o)| *m = *m * new + o * old_share);
        *count += old_count;
    }
}

/// The cache of Tip-Adapter as vectors.
pub(super) struct Cache<'a> {
    pub keys: &'a [f32],
    pub labels: &'a [f32],
    pub classes: &'a [f32],
    pub scale: f32,
}

impl Cache<'_> {
    /// Weight and sharpness that classify most of the `held` rows rightly; of equals the smallest.
    pub fn search(&self, held: &Rows) -> (f32, f32) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let d = held.units.first().map_or(1, Vec::len).max(1);
        let against = |x: &Vec<f32>, rows: &[f32]| -> Vec<f32> {
            rows.chunks(d).map(|r| dot(x, r)).collect()
        };
        let scores: Vec<Vec<f32>> = held.units.iter().map(|x| against(x, self.classes)).collect();
        let cosines: Vec<Vec<f32>> = held.units.iter().map(|x| against(x, self.keys)).collect();
        let step = |i: usize, most: f32| most * i as f32 / TRIES as f32;
        let mut best = (0, (step(1, LARGEST.0), step(1, LARGEST.1)));
        for beta in (1..=TRIES).map(|i| step(i, LARGEST.1)) {
            let votes: Vec<Vec<f32>> = cosines.iter().map(|c| self.votes(c, beta)).collect();
            for alpha in (1..=TRIES).map(|i| step(i, LARGEST.0)) {
                let rows = scores.iter().zip(&votes).zip(&held.labels);
                let right = rows.filter(|((s, v), label)| {
                    let all: Vec<f32> =
                        s.iter().zip(*v).map(|(s, v)| self.scale * s + alpha * v).collect();
                    crate::runtime::best(&all) == **label
                });
                let right = right.count();
                if right > best.0 {
                    best = (right, (alpha, beta));
                }
            }
        }
        best.1
    }

    fn votes(&self, cosines: &[f32], beta: f32) -> Vec<f32> {
        let d = self.keys.len() / self.labels.len().max(1);
        let mut votes = vec![0.0; self.classes.len() / d.max(1)];
        for (c, &label) in cosines.iter().zip(self.labels) {
            if let Some(v) = votes.get_mut(label as usize) {
                *v += (beta * (c - 1.0)).exp();
            }
        }
        votes
    }
}

fn unit(x: &[f32]) -> Vec<f32> {
    let length = x.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
    x.iter().map(|v| v / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let features = vec![vec![3.0, 4.0], vec![0.0, 2.0], vec![-1.0, 0.0]];
        Rows::new(features, vec![0, 0, 1], 2)
    }

    #[test]
    fn features_become_keys_and_class_vectors() {
        let rows = rows();
        assert_eq!(rows.values(Init::RowFeatures).unwrap(), [0.6, 0.8, 0.0, 1.0, -1.0, 0.0]);
        assert_eq!(rows.values(Init::RowLabels).unwrap(), [0.0, 0.0, 1.0]);
        assert_eq!(rows.values(Init::ClassCounts).unwrap(), [2.0, 1.0]);
        let means = rows.values(Init::UnitClassMeans).unwrap();
        assert!((means[0].hypot(means[1]) - 1.0).abs() < 1e-6 && means[2..] == [-1.0, 0.0]);
        assert!(rows.values(Init::Zeros).is_none() && !is_closed(Init::Normal));
        assert!(is_closed(Init::HeadBias) && is_closed(Init::CacheWeight(1.0)));
    }

    #[test]
    fn new_classes_and_keys_come_behind_the_old_ones() {
        let spec = |init| TensorSpec {
            name: "t".into(),
            shape: vec![3, 1],
            init,
            decay: false,
            purpose: crate::methods::Purpose::Trained,
        };
        let old = Tensor::new(&[2, 1], &[1f32, 2.0]).unwrap();
        assert_eq!(grown(&spec(Init::HeadWeight), &old, &[7.0, 8.0, 9.0]), [1.0, 2.0, 9.0]);
        assert_eq!(grown(&spec(Init::RowFeatures), &old, &[9.0]), [1.0, 2.0, 9.0]);
        assert_eq!(grown(&spec(Init::TokenRows), &old, &[9.0]), [1.0, 2.0]);
    }

    #[test]
    fn the_search_finds_a_cache_that_helps() {
        // The class vectors are wrong; the keys are right and need to outweigh them.
        let held = Rows::new(vec![vec![1.0, 0.0], vec![0.0, 1.0]], vec![0, 1], 2);
        let cache = Cache {
            keys: &[1.0, 0.0, 0.0, 1.0],
            labels: &[0.0, 1.0],
            classes: &[0.0, 1.0, 1.0, 0.0],
            scale: 0.5,
        };
        let (alpha, beta) = cache.search(&held);
        // The votes differ by alpha (1 - exp(-beta)), which must be over the scale.
        assert!(alpha * (1.0 - (-beta).exp()) > 0.5, "{alpha} {beta}");
    }
}
