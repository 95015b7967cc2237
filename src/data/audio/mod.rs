//! Sounds as input: WAV files as mono f32 of one rate and length.

mod resample;
mod wav;

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DataError;
use crate::tensor::Tensor;

/// Most samples of one channel that are read: ten minutes at 48 kHz.
pub const MAX_SAMPLES: u64 = 30_000_000;
/// Sample rates that are read and made, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// A decoded sound in mono.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    sample_rate: u32,
    samples: Vec<f32>,
}

impl Sound {
    /// A sound of `samples` in -1..1; `None` unless there is one at least and the rate is from
    /// 1 to 768 kHz.
    pub fn new(sample_rate: u32, samples: Vec<f32>) -> Option<Sound> {
        (RATES.contains(&sample_rate) && !samples.is_empty())
            .then_some(Sound { sample_rate, samples })
    }

    /// Decodes a WAV file; `path` is for messages.
    ///
    /// Integers of 8 to 32 bits are scaled to -1..1, floats of 32 or 64 bits are kept; channels
    /// are averaged. A length that the writer left open (a recording into a pipe) means all that
    /// follows.
    ///
    /// # Errors
    /// [`DataError::SoundFormat`] for other files and other codings, [`DataError::Sound`] for a
    /// file that is damaged or cut short, [`DataError::SoundEmpty`] for one without samples,
    /// [`DataError::SoundLength`] over 30 million samples of a channel.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Sound, DataError> {
        wav::decode(bytes, path)
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// The samples, in -1..1 unless the file itself goes beyond.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }
}

/// How a backbone wants its sounds. Part of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioSpec {
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples of the input: longer sounds are cut, shorter ones are followed by silence.
    pub samples: usize,
    /// Where a sound of another length lies.
    #[serde(default)]
    pub place: Place,
}

/// Where a sound lies in an input of another length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Both start together.
    #[default]
    Start,
    /// Their middles coincide: silence on both sides, or the middle of the sound.
    Centre,
}

impl AudioSpec {
    /// Refuses numbers that make no sense.
    ///
    /// # Errors
    /// [`DataError::Spec`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let reason = if !RATES.contains(&self.sample_rate) {
            format!("a sample rate of {} Hz: 1,000 to 768,000 can be made", self.sample_rate)
        } else if !(1..=MAX_SAMPLES).contains(&(self.samples as u64)) {
            format!("{} samples: 1 to {MAX_SAMPLES} can be made", self.samples)
        } else {
            return Ok(());
        };
        Err(DataError::Spec { path: "audio specification".into(), reason })
    }

    /// The sound as the backbone wants it, f32 `[samples]`.
    ///
    /// # Errors
    /// As [`AudioSpec::validate`].
    pub fn tensor(&self, sound: &Sound) -> Result<Tensor, DataError> {
        self.validate()?;
        let (from, to) = (u64::from(sound.sample_rate), u64::from(self.sample_rate));
        let total = (sound.samples.len() as u64 * to).div_ceil(from) as i64;
        let first = match self.place {
            Place::Start => 0,
            Place::Centre => (total - self.samples as i64).div_euclid(2),
        };
        let last = (first + self.samples as i64).min(total);
        // Only what is seen is computed.
        let seen = first.max(0) as u64..last.max(0) as u64;
        let mut out = vec![0.0f32; first.min(0).unsigned_abs() as usize];
        match from == to {
            true => {
                let all = sound.samples.get(seen.start as usize..seen.end as usize);
                out.extend_from_slice(all.unwrap_or_default());
            }
            false => out.extend(resample::resample(&sound.samples, from, to, seen)),
        }
        out.resize(self.samples, 0.0);
        Ok(Tensor::new(&[self.samples], &out)?)
    }
}
