//! What changed between two deltas.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::Delta;
use crate::tensor::Tensor;

/// The differences of two deltas. Serializes to the JSON of `diff --json`, and displays as lines
/// for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Digests of the two files.
    pub digests: [String; 2],
    /// Names of the two methods.
    pub methods: [String; 2],
    /// True if both are for one backbone.
    pub same_backbone: bool,
    /// Labels of the second that the first lacks.
    pub added_labels: Vec<String>,
    /// Labels of the first that the second lacks.
    pub removed_labels: Vec<String>,
    /// Labels of both whose place in the output differs.
    pub moved_labels: Vec<String>,
    /// The tensors of either, by name.
    pub tensors: Vec<TensorDiff>,
}

/// One tensor of a [`Diff`]. Norms are Euclidean, over all elements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDiff {
    /// Name of the tensor.
    pub name: String,
    /// Its norm in each; `None` where it is missing.
    pub norms: [Option<f64>; 2],
    /// Norm of the second less the first; `None` where their shapes differ or one is missing.
    pub distance: Option<f64>,
}

impl TensorDiff {
    /// The distance over the norm in the first; `None` without a distance, infinite if only the
    /// first is zero.
    pub fn relative(&self) -> Option<f64> {
        let (distance, norm) = (self.distance?, self.norms[0]?);
        Some(if distance == 0.0 { 0.0 } else { distance / norm })
    }
}

impl Delta {
    /// What changed from this delta to `other`.
    pub fn diff(&self, other: &Delta) -> Diff {
        let (a, b) = (self.metadata(), other.metadata());
        let lacks = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|l| !those.contains(l)).cloned().collect()
        };
        let place = |labels: &[String], label: &String| labels.iter().position(|l| l == label);
        let moved =
            |l: &&String| place(&b.labels, l).is_some_and(|to| place(&a.labels, l) != Some(to));
        let names: BTreeSet<&String> =
            self.tensors().keys().chain(other.tensors().keys()).collect();
        let tensors = names.into_iter().map(|name| {
            let both = [self.tensor(name), other.tensor(name)];
            let distance = match both {
                [Some(x), Some(y)] if x.shape() == y.shape() => Some(distance(x, y)),
                _ => None,
            };
            TensorDiff { name: name.clone(), norms: both.map(|t| t.map(norm)), distance }
        });
        Diff {
            digests: [self.digest().into(), other.digest().into()],
            methods: [a.method.clone(), b.method.clone()],
            same_backbone: a.backbone == b.backbone,
            added_labels: lacks(&b.labels, &a.labels),
            removed_labels: lacks(&a.labels, &b.labels),
            moved_labels: a.labels.iter().filter(moved).cloned().collect(),
            tensors: tensors.collect(),
        }
    }
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.to_f32().iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.iter().zip(&*b).map(|(&x, &y)| f64::from(y - x).powi(2)).sum::<f64>().sqrt()
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |d: &String| d.get(..12).unwrap_or(d).to_string();
        writeln!(f, "digest   {} -> {}", short(&self.digests[0]), short(&self.digests[1]))?;
        match &self.methods {
            [a, b] if a == b => writeln!(f, "method   {a}")?,
            [a, b] => writeln!(f, "method   {a} -> {b}")?,
        }
        if !self.same_backbone {
            writeln!(f, "backbone differs")?;
        }
        for (what, labels) in [
            ("added", &self.added_labels),
            ("removed", &self.removed_labels),
            ("moved", &self.moved_labels),
        ] {
            if !labels.is_empty() {
                writeln!(f, "labels {what}: {}", labels.join(", "))?;
            }
        }
        let width = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:width$} {:>10} {:>10} {:>10} {:>9}",
            "tensor", "norm", "new norm", "change", "relative"
        )?;
        let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
        for t in &self.tensors {
            let relative = match t.relative() {
                Some(r) if r.is_finite() => format!("{:.1} %", 100.0 * r),
                _ => "-".into(),
            };
            let (a, b, d) = (number(t.norms[0]), number(t.norms[1]), number(t.distance));
            writeln!(f, "{:width$} {a:>10} {b:>10} {d:>10} {relative:>9}", t.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Metadata;

    fn delta(labels: &[&str], tensors: &[(&str, &[f32])]) -> Delta {
        let metadata = Metadata::new("linear", &"0".repeat(64), labels);
        let tensors =
            tensors.iter().map(|(name, v)| (name.to_string(), Tensor::new(&[v.len()], v).unwrap()));
        Delta::new(metadata, tensors).unwrap()
    }

    #[test]
    fn norms_and_labels() {
        let a =
            delta(&["no", "yes", "old"], &[("b", &[3.0, 4.0]), ("gone", &[1.0]), ("z", &[0.0])]);
        let b =
            delta(&["yes", "no", "new"], &[("b", &[3.0, 1.0]), ("more", &[2.0]), ("z", &[1.0])]);
        let d = a.diff(&b);
        assert_eq!(d.added_labels, ["new"]);
        assert_eq!(d.removed_labels, ["old"]);
        assert_eq!(d.moved_labels, ["no", "yes"]);
        let row = |name: &str| d.tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(row("b").norms, [Some(5.0), Some(10f64.sqrt())]);
        assert_eq!((row("b").distance, row("b").relative()), (Some(3.0), Some(0.6)));
        assert_eq!((row("gone").norms, row("gone").distance), ([Some(1.0), None], None));
        assert_eq!(row("more").norms, [None, Some(2.0)]);
        assert_eq!(row("z").relative(), Some(f64::INFINITY));
        let text = d.to_string();
        for part in ["labels added: new", "labels moved: no, yes", "60.0 %"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let same = a.diff(&a);
        assert!(same.tensors.iter().all(|t| t.relative() == Some(0.0)));
        assert!(same.added_labels.is_empty() && same.moved_labels.is_empty());
    }

    #[test]
    fn other_shapes_have_no_distance() {
        let a = delta(&["no", "yes"], &[("b", &[1.0])]);
        let b = delta(&["no", "yes"], &[("b", &[1.0, 1.0])]);
        assert_eq!(a.diff(&b).tensors[0].distance, None);
    }
}
