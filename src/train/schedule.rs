//! Learning-rate schedules.

use std::f64::consts::PI;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It stays at its peak.
    Constant,
    /// It falls on a line to 0.
    Linear,
    /// It falls on half a cosine to 0 (Loshchilov & Hutter, 2017, arXiv:1608.03983, no restarts).
    Cosine,
}

/// A linear warm-up from 0, then one of the [`Shape`]s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Learning rate at the end of the warm-up.
    pub peak: f32,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// What comes after.
    pub shape: Shape,
}

impl Schedule {
    /// The learning rate of `step` (from 0) in a run of `total` steps; 0 from the end on, unless
    /// constant. With a warm-up, step 0 has rate 0.
    pub fn lr(&self, step: u64, total: u64) -> f32 {
        let share = if step < self.warmup {
            step as f64 / self.warmup as f64
        } else {
            let progress = if step >= total {
                1.0
            } else {
                (step - self.warmup) as f64 / (total - self.warmup) as f64
            };
            match self.shape {
                Shape::Constant => 1.0,
                Shape::Linear => 1.0 - progress,
                Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            }
        };
        (f64::from(self.peak) * share) as f32
    }
}
