//! From values to places on the paper, and the numbers along an axis.

/// How numbers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    #[default]
    Number,
    /// Shares of one as percent.
    Percent,
    /// Bytes, with powers of 1000.
    Bytes,
}

impl Unit {
    /// `value`, where values differ by `step`.
    pub(super) fn text(self, value: f64, step: f64) -> String {
        let (value, step, unit) = match self {
            Unit::Number => (value, step, ""),
            Unit::Percent => (100.0 * value, 100.0 * step, " %"),
            Unit::Bytes => match value.abs() {
                v if v >= 1e9 => (value / 1e9, step / 1e9, " GB"),
                v if v >= 1e6 => (value / 1e6, step / 1e6, " MB"),
                v if v >= 1e3 => (value / 1e3, step / 1e3, " KB"),
                _ => (value, step, " B"),
            },
        };
        if unit.is_empty() && (value.abs() >= 1e7 || step < 1e-6) {
            return format!("{value:e}");
        }
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        // No minus before a zero.
        let value = if value.abs() < step * 1e-9 { 0.0 } else { value };
        format!("{value:.decimals$}{unit}")
    }
}

/// Values from `low` to `high` on places from `start` to `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    log: bool,
}

impl Scale {
    /// A scale that has room for all finite `values`; 0 to 1 if there are none.
    pub fn linear(values: impl Iterator<Item = f64>, (start, end): (f64, f64)) -> Scale {
        let (mut low, mut high) = range(values).unwrap_or((0.0, 1.0));
        let room = match high - low {
            // So large that the difference overflows: nothing to make more room for.
            d if !d.is_finite() => 0.0,
            d if d > low.abs().max(high.abs()) * 1e-9 => 0.06 * d,
            _ if low == 0.0 => 0.5,
            _ => 0.1 * low.abs(),
        };
        (low, high) = (low - room, high + room);
        Scale { low, high, start, end, log: false }
    }

    /// The same by powers of ten; values must be above 0.
    pub fn log(values: impl Iterator<Item = f64>, (start, end): (f64, f64)) -> Scale {
        let (low, high) = range(values.filter(|v| *v > 0.0)).unwrap_or((1.0, 10.0));
        let (low, high) = (low.log10(), high.log10());
        let room = (0.08 * (high - low)).max(0.15);
        Scale { low: low - room, high: high + room, start, end, log: true }
    }

    /// Does not reach beyond `low` and `high`, which are values of a linear scale.
    pub fn within(self, low: f64, high: f64) -> Scale {
        Scale { low: self.low.max(low), high: self.high.min(high), ..self }
    }

    /// The place of `value`, or `None` if it has none.
    pub fn at(&self, value: f64) -> Option<f64> {
        let v = if self.log { value.log10() } else { value };
        // Halves, so that the largest numbers do not overflow.
        let share = (v / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        let place = self.start + share * (self.end - self.start);
        place.is_finite().then_some(place)
    }

    /// Numbers to write, with their places and texts.
    pub fn ticks(&self, unit: Unit) -> Vec<(f64, String)> {
        let placed = |v: f64, step: f64| Some((self.at(v)?, unit.text(v, step)));
        if self.log {
            let (low, high) = (self.low.floor() as i32, self.high.ceil() as i32);
            let factors: &[f64] = match self.high - self.low {
                d if d < 2.2 => &[1.0, 2.0, 5.0],
                d if d < 3.5 => &[1.0, 3.0],
                _ => &[1.0],
            };
            let apart = ((self.high - self.low) / 10.0).ceil().max(1.0) as usize;
            let inside = |v: &f64| (self.low..=self.high).contains(&v.log10());
            return (low..=high)
                .step_by(apart)
                .flat_map(|e| factors.iter().map(move |f| f * 10f64.powi(e)))
                .filter(inside)
                .filter_map(|v| placed(v, v))
                .collect();
        }
        let step = nice_step((self.high - self.low) / 7.0);
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        if !(first.is_finite() && last.is_finite() && last - first < 50.0) {
            return vec![];
        }
        let count = (last - first) as usize;
        (0..=count).filter_map(|i| placed((first + i as f64) * step, step)).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|s| *s >= least).unwrap_or(power)
}

/// The least and the largest finite value.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((low, high)) => Some((f64::min(low, v), f64::max(high, v))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(s: Scale, unit: Unit) -> Vec<String> {
        s.ticks(unit).into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn round_numbers_along_the_axes() {
        let s = Scale::linear([0.42, 0.97].into_iter(), (0.0, 100.0)).within(0.0, 1.0);
        assert_eq!(
            texts(s, Unit::Percent),
            ["40 %", "50 %", "60 %", "70 %", "80 %", "90 %", "100 %"]
        );
        let s = Scale::log([6_000.0, 260_000.0].into_iter(), (0.0, 100.0));
        assert_eq!(texts(s, Unit::Bytes), ["5 KB", "10 KB", "20 KB", "50 KB", "100 KB", "200 KB"]);
        let s = Scale::linear([-0.01, 0.02].into_iter(), (0.0, 100.0));
        assert_eq!(
            texts(s, Unit::Number),
            ["-0.010", "-0.005", "0.000", "0.005", "0.010", "0.015", "0.020"]
        );
    }

    #[test]
    fn odd_ranges_have_few_numbers_and_do_not_panic() {
        let bad =
            [f64::NAN, f64::INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -1.0, 1e300];
        for a in bad {
            for b in bad {
                for s in [
                    Scale::linear([a, b].into_iter(), (0.0, 100.0)),
                    Scale::log([a, b].into_iter(), (0.0, 100.0)),
                ] {
                    assert!(s.ticks(Unit::Number).len() < 60, "{s:?}");
                    assert!(s.ticks(Unit::Bytes).iter().all(|t| t.0.is_finite()));
                }
            }
        }
    }
}
