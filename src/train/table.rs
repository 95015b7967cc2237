//! What the runs of a comparison say, method by method.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::compare::Trial;
use crate::methods;
use crate::plot::{Axis, Point, Scatter, Unit};

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// Sample standard deviation; `None` for one run.
    pub deviation: Option<f64>,
}

impl Spread {
    fn of(values: &[f64]) -> Spread {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Spread { mean, deviation }
    }
}

/// All runs of a method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The method.
    pub method: String,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
    /// The seeds, ascending.
    pub seeds: Vec<u64>,
    /// Share of the test rows classified correctly.
    pub accuracy: Spread,
    /// Mean F1 of the classes.
    pub macro_f1: Spread,
    /// Trained values.
    pub parameters: usize,
    /// Bytes of the largest delta file.
    pub delta_bytes: usize,
    /// Mean seconds of training.
    pub seconds: f64,
    /// Largest prediction of the peak of anonymous memory.
    pub predicted_peak_bytes: usize,
    /// Most anonymous memory of a run, where the system tells.
    pub peak_bytes: Option<usize>,
}

/// One summary per method, in the order of [`methods::all`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table(pub Vec<Summary>);

impl Table {
    /// The table of finished runs.
    pub fn of(trials: &[Trial]) -> Table {
        let mut of_method: BTreeMap<&str, Vec<&Trial>> = BTreeMap::new();
        for trial in trials {
            of_method.entry(&trial.method).or_default().push(trial);
        }
        let mut table: Vec<Summary> = of_method.into_values().filter_map(summary).collect();
        let place = |m: &str| methods::all().iter().position(|a| a.name() == m);
        table.sort_by_key(|s| place(&s.method).unwrap_or(usize::MAX));
        Table(table)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{:<15} {:>5} {:>14} {:>14} {:>11} {:>9} {:>8} {:>10} {:>9}\n",
            "method",
            "seeds",
            "accuracy %",
            "macro F1 %",
            "parameters",
            "delta KB",
            "seconds",
            "planned MB",
            "peak MB"
        );
        let percent = |s: Spread| match s.deviation {
            Some(d) => format!("{:.1} ± {:.1}", 100.0 * s.mean, 100.0 * d),
            None => format!("{:.1}", 100.0 * s.mean),
        };
        let mega = |b: usize| format!("{:.1}", b as f64 / 1e6);
        for s in &self.0 {
            let _ = writeln!(
                out,
                "{:<15} {:>5} {:>14} {:>14} {:>11} {:>9.1} {:>8.1} {:>10} {:>9}",
                s.method,
                s.seeds.len(),
                percent(s.accuracy),
                percent(s.macro_f1),
                s.parameters,
                s.delta_bytes as f64 / 1e3,
                s.seconds,
                mega(s.predicted_peak_bytes),
                s.peak_bytes.map_or("-".into(), mega),
            );
        }
        out
    }

    /// Comma-separated, with a header; what is not known is empty.
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "method,seeds,accuracy,accuracy_deviation,macro_f1,macro_f1_deviation,parameters,\
             delta_bytes,seconds,predicted_peak_bytes,peak_bytes\n",
        );
        let known = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        for s in &self.0 {
            // Names of methods need no quotes.
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{}",
                s.method,
                s.seeds.len(),
                s.accuracy.mean,
                known(s.accuracy.deviation),
                s.macro_f1.mean,
                known(s.macro_f1.deviation),
                s.parameters,
                s.delta_bytes,
                s.seconds,
                s.predicted_peak_bytes,
                s.peak_bytes.map_or(String::new(), |b| b.to_string()),
            );
        }
        out
    }

    /// Accuracy against the size of the delta, as SVG.
    pub fn svg(&self, title: &str) -> String {
        let point = |s: &Summary| Point {
            name: s.method.clone(),
            x: s.delta_bytes as f64,
            y: s.accuracy.mean,
            error: s.accuracy.deviation,
        };
        Scatter {
            title: title.to_owned(),
            x: Axis { title: "size of the delta file".into(), unit: Unit::Bytes },
            y: Axis { title: "accuracy".into(), unit: Unit::Percent },
            points: self.0.iter().map(point).collect(),
        }
        .svg()
    }
}

fn summary(mut trials: Vec<&Trial>) -> Option<Summary> {
    // Sums depend on the order; this one is the same however the runs came about.
    trials.sort_by_key(|t| t.seed);
    let first = trials.first()?;
    let all = |f: fn(&Trial) -> f64| trials.iter().map(|t| f(t)).collect::<Vec<f64>>();
    let most = |f: fn(&Trial) -> usize| trials.iter().map(|t| f(t)).max().unwrap_or(0);
    Some(Summary {
        method: first.method.clone(),
        settings: first.settings.clone(),
        seeds: trials.iter().map(|t| t.seed).collect(),
        accuracy: Spread::of(&all(|t| t.accuracy)),
        macro_f1: Spread::of(&all(|t| t.macro_f1)),
        parameters: first.parameters,
        delta_bytes: most(|t| t.delta_bytes),
        seconds: Spread::of(&all(|t| t.seconds)).mean,
        predicted_peak_bytes: most(|t| t.predicted_peak_bytes),
        peak_bytes: trials.iter().filter_map(|t| t.peak_bytes).max(),
    })
}

/// A run for tests.
#[cfg(test)]
pub(super) fn trial(method: &str, seed: u64, accuracy: f64) -> Trial {
    let terms = super::compare::Terms {
        backbone: "b".repeat(64),
        data: "d".repeat(64),
        test: "e".repeat(64),
        shots: 4,
        validation: 0.25,
        epochs: None,
        max_seconds: Some(1.5),
    };
    Trial {
        method: method.to_owned(),
        seed,
        settings: BTreeMap::new(),
        terms,
        accuracy,
        macro_f1: accuracy / 2.0,
        parameters: 100,
        delta_bytes: 1000 + seed as usize,
        steps: 7,
        seconds: 1.0 + seed as f64,
        predicted_peak_bytes: 5_000_000,
        peak_bytes: (seed > 0).then_some(4_000_000 + seed as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations_by_hand() {
        let runs = [
            trial("lora", 2, 0.9),
            trial("linear", 0, 0.5),
            trial("lora", 0, 0.6),
            trial("lora", 1, 0.75),
        ];
        let table = Table::of(&runs);
        let [linear, lora] = table.0.as_slice() else { panic!("{table:?}") };
        assert_eq!((linear.method.as_str(), linear.accuracy.deviation), ("linear", None));
        assert_eq!(linear.peak_bytes, None);
        assert_eq!((lora.seeds.as_slice(), lora.delta_bytes), ([0, 1, 2].as_slice(), 1002));
        assert!((lora.accuracy.mean - 0.75).abs() < 1e-12);
        assert!((lora.accuracy.deviation.unwrap() - 0.15).abs() < 1e-12);
        assert_eq!((lora.seconds, lora.peak_bytes), (2.0, Some(4_000_002)));
        let mut other = runs.to_vec();
        other.rotate_left(2);
        assert_eq!(Table::of(&other), table);
    }

    #[test]
    fn every_form_has_every_method() {
        let table =
            Table::of(&[trial("lora", 0, 0.6), trial("lora", 1, 0.8), trial("ia3", 0, 1.0)]);
        let (text, csv, svg) = (table.text(), table.csv(), table.svg("a"));
        for method in ["lora", "ia3"] {
            assert!(text.contains(method) && csv.contains(method) && svg.contains(method));
        }
        assert!(text.contains("70.0 ± 14.1"), "{text}");
        let columns: Vec<usize> = csv.lines().map(|l| l.split(',').count()).collect();
        assert_eq!(columns, [11, 11, 11]);
        let none = Table::of(&[]);
        assert_eq!((none.text().lines().count(), none.csv().lines().count()), (1, 1));
        assert!(none.svg("").starts_with("<svg"));
    }
}
