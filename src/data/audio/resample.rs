//! Change of the sample rate by a windowed sinc (J. O. Smith, "Digital Audio Resampling").

use std::f64::consts::PI;
use std::ops::Range;

/// Zero crossings of the sinc on each side, at the lower of the two rates.
const CROSSINGS: usize = 32;
/// Table entries between two zero crossings; between entries it is interpolated.
const STEPS: usize = 512;
/// The band that is kept, as a fraction of half the lower rate: the rest is for the slope.
const BAND: f64 = 0.95;
/// Shape of the Kaiser window: side lobes below -80 dB.
const BETA: f64 = 8.6;

/// The samples `range` of `input` at the rate `to`; it has the rate `from`.
pub(super) fn resample(input: &[f32], from: u64, to: u64, range: Range<u64>) -> Vec<f32> {
    let filter = table();
    // When the rate falls, the filter widens so that nothing is folded back.
    let ratio = (to as f64 / from as f64).min(1.0);
    let reach = (CROSSINGS as f64 / ratio).ceil() as i64;
    let sample = |n: u64| {
        // Exact, however long the sound is.
        let at = (n * from / to) as i64;
        let part = (n * from % to) as f64 / to as f64;
        let first = (at - reach).max(0);
        let last = (at + reach + 1).min(input.len() as i64 - 1);
        let near = input.get(first as usize..(last + 1).max(0) as usize).unwrap_or_default();
        let mut sum = 0.0;
        for (i, &x) in (first..).zip(near) {
            let place = ((i - at) as f64 - part).abs() * ratio * STEPS as f64;
            let (index, between) = (place as usize, place.fract());
            if let Some([a, b]) = filter.get(index..index + 2) {
                sum += f64::from(x) * (a + (b - a) * between);
            }
        }
        (sum * ratio) as f32
    };
    range.map(sample).collect()
}

/// The right half of the filter, from its middle.
fn table() -> Vec<f64> {
    let weight = |i: usize| {
        let t = i as f64 / STEPS as f64;
        let x = PI * BAND * t;
        let sinc = if i == 0 { 1.0 } else { x.sin() / x };
        let edge = t / CROSSINGS as f64;
        BAND * sinc * bessel(BETA * (1.0 - edge * edge).max(0.0).sqrt()) / bessel(BETA)
    };
    (0..=CROSSINGS * STEPS).map(weight).collect()
}

/// The modified Bessel function I0.
fn bessel(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..40 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, rate: u64, samples: usize) -> Vec<f32> {
        let angle = |n: usize| 2.0 * PI * hertz * n as f64 / rate as f64;
        (0..samples).map(|n| angle(n).sin() as f32).collect()
    }

    fn power(samples: impl Iterator<Item = f64>) -> f64 {
        samples.map(|x| x * x).sum()
    }

    #[test]
    fn a_tone_stays_a_tone() {
        for (from, to) in [(96_000, 16_000), (44_100, 16_000), (8_000, 16_000), (22_050, 48_000)] {
            for hertz in [50.0, 440.0, 3_000.0] {
                let input = tone(hertz, from, from as usize / 2);
                let out = resample(&input, from, to, 0..to / 2);
                let want = tone(hertz, to, out.len());
                // Beyond the ends there is silence, which a tone is not.
                let inner = 200..out.len() - 200;
                let pairs = || inner.clone().map(|i| (f64::from(want[i]), f64::from(out[i])));
                let noise = power(pairs().map(|(w, o)| w - o));
                let ratio = 10.0 * (power(pairs().map(|(w, _)| w)) / noise).log10();
                assert!(ratio > 70.0, "{hertz} Hz, {from} -> {to}: {ratio:.1} dB");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_removed() {
        let input = tone(10_000.0, 44_100, 44_100);
        let out = resample(&input, 44_100, 16_000, 0..16_000);
        let inner = out[200..15_800].iter();
        let left = 10.0 * (power(inner.map(|&x| f64::from(x))) / 7_800.0).log10();
        assert!(left < -70.0, "{left:.1} dB");
    }

    #[test]
    fn a_constant_keeps_its_value_and_a_range_is_a_part_of_the_whole() {
        let out = resample(&[0.5; 4000], 48_000, 16_000, 0..1334);
        assert!(out[100..1200].iter().all(|x| (x - 0.5).abs() < 1e-4));
        assert_eq!(resample(&[0.5; 4000], 48_000, 16_000, 10..20), out[10..20]);
    }
}
