//! Exponential and error function, in a form that compiles to vector instructions.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// Adding this leaves the nearest integer in the lowest bits, in the rounding mode of the processor.
pub(super) const SHIFT: f32 = 12_582_912.0;

/// Below this e^x is 0 here; above the other infinity.
const LEAST: f32 = -87.336_54;
const MOST: f32 = 88.722_84;

/// e^x within 2 units in the last place, 0 where the result would be denormal.
///
/// Range reduction and polynomial are those of Cephes (Moshier, 1992).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let bounded = if x < LEAST { LEAST } else { x };
    let bounded = if bounded > MOST { MOST } else { bounded };
    let shifted = bounded * LOG2_E + SHIFT;
    let power = shifted - SHIFT;
    let r = bounded - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // 2^power is made in two steps: its largest does not fit one.
    let half = |n: u32| f32::from_bits((n << 23).wrapping_add(127 << 23));
    let n = shifted.to_bits() as i32;
    let n = (n << 9) >> 9;
    let y = y * half((n >> 1) as u32) * half((n - (n >> 1)) as u32);
    let y = if x < LEAST { 0.0 } else { y };
    if x > MOST { f32::INFINITY } else { y }
}

/// The normal distribution, and its density times the square root of 2 pi, within 4e-7.
///
/// The rational approximation is 7.1.26 of Abramowitz and Stegun, *Handbook of Mathematical
/// Functions* (1964).
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// Hyperbolic tangent within 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact_to_the_last_bits() {
        for i in -8_730..8_872 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}): {error:e}");
        }
        assert_eq!([exp(-100.0), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert_eq!([exp(89.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.72).is_finite());
    }

    #[test]
    fn distribution_and_density_are_those_of_the_series() {
        for i in -600..600 {
            let x = i as f32 * 0.01;
            // Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/15 + ..)
            let wide = f64::from(x);
            let density = (-0.5 * wide * wide).exp();
            let (mut term, mut sum) = (wide, wide);
            for n in 1..200 {
                term *= wide * wide / f64::from(2 * n + 1);
                sum += term;
            }
            let want = 0.5 + density * sum / std::f64::consts::TAU.sqrt();
            let (cdf, bell) = normal(x);
            assert!((f64::from(cdf) - want).abs() < 4e-7, "{x}: {cdf} {want}");
            assert!((f64::from(bell) - density).abs() < 2e-7, "{x}");
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh {x}: {}", tanh(x));
        }
        assert!(normal(f32::NAN).0.is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!([tanh(100.0), tanh(-100.0)], [1.0, -1.0]);
    }
}
