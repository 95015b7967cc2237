//! WAV files: PCM and float, plain or "extensible".
//!
//! Written here because hound (3.5) stops at chunks of odd length, at float files with a 40-byte
//! format and at lengths left open, all of which recorders write.

use std::path::Path;

use super::{MAX_SAMPLES, RATES, Sound};
use crate::data::DataError;

/// Lengths from here on are taken as left open if the file is shorter.
const OPEN_LENGTH: u64 = 0x7fff_0000;

/// How samples are stored.
struct Format {
    float: bool,
    channels: usize,
    rate: u32,
    /// Bytes of one sample of one channel.
    width: usize,
}

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Sound, DataError> {
    let other =
        |found: &str| DataError::SoundFormat { path: path.to_owned(), found: found.to_owned() };
    let damaged = |reason: String| DataError::Sound { path: path.to_owned(), reason };
    let early = || damaged("the file ends early".to_owned());
    if !bytes.starts_with(b"RIFF") || !matches!(bytes.get(8..12), None | Some(b"WAVE")) {
        return Err(other(kind(bytes)));
    }

    let mut rest = bytes.get(12..).ok_or_else(early)?;
    let mut format = None;
    let data = loop {
        let (head, body) = rest.split_at_checked(8).ok_or_else(early)?;
        let length = u64::from(number(head, 4, 4));
        let whole = body.get(..length as usize);
        match head.get(..4) {
            Some(b"fmt ") => {
                let chunk = whole.ok_or_else(early)?;
                format = Some(Format::read(chunk, path)?);
            }
            Some(b"data") => match whole {
                Some(data) => break data,
                None if length >= OPEN_LENGTH => break body,
                None => {
                    let have = body.len();
                    return Err(damaged(format!(
                        "{length} bytes of sound are announced, {have} are there"
                    )));
                }
            },
            _ => {}
        }
        // Chunks are padded to an even length.
        rest = body.get((length + length % 2) as usize..).ok_or_else(early)?;
    };
    let format = format.ok_or_else(|| damaged("the sound comes before its format".to_owned()))?;

    let frame = format.width * format.channels;
    let frames = data.len() / frame;
    if frames == 0 {
        return Err(DataError::SoundEmpty { path: path.to_owned() });
    }
    if frames as u64 > MAX_SAMPLES {
        let (samples, limit) = (frames as u64, MAX_SAMPLES);
        return Err(DataError::SoundLength { path: path.to_owned(), samples, limit });
    }
    let mono = |frame: &[u8]| {
        let sum: f64 = frame.chunks_exact(format.width).map(|s| format.sample(s)).sum();
        (sum / format.channels as f64) as f32
    };
    let samples: Vec<f32> = data.chunks_exact(frame).map(mono).collect();
    if let Some(at) = samples.iter().position(|s| !s.is_finite()) {
        return Err(damaged(format!("sample {at} is not a finite number")));
    }
    Ok(Sound { sample_rate: format.rate, samples })
}

impl Format {
    /// Reads the `fmt ` chunk.
    fn read(chunk: &[u8], path: &Path) -> Result<Format, DataError> {
        let damaged = |reason: String| DataError::Sound { path: path.to_owned(), reason };
        let other = |found: String| DataError::SoundFormat { path: path.to_owned(), found };
        if chunk.len() < 16 {
            return Err(damaged(format!("its format has {} bytes, not 16", chunk.len())));
        }
        let plain = number(chunk, 0, 2);
        // Extensible: the true tag starts an identifier.
        let tag = if plain == 0xfffe { number(chunk, 24, 2) } else { plain };
        let channels = number(chunk, 2, 2) as usize;
        let rate = number(chunk, 4, 4);
        let block = number(chunk, 12, 2) as usize;
        let bits = number(chunk, 14, 2) as usize;
        if !matches!(tag, 1 | 3) {
            let coding = match tag {
                2 | 0x11 => "ADPCM".to_owned(),
                6 => "A-law".to_owned(),
                7 => "mu-law".to_owned(),
                0x55 => "MP3".to_owned(),
                n => format!("coding {n}"),
            };
            return Err(other(format!("a WAV file with {coding} samples")));
        }
        if channels == 0 {
            return Err(damaged("it has 0 channels".to_owned()));
        }
        if !RATES.contains(&rate) {
            return Err(damaged(format!(
                "a sample rate of {rate} Hz; {} to {} are read",
                RATES.start(),
                RATES.end()
            )));
        }
        let width = bits.div_ceil(8);
        let known = match tag {
            3 => matches!(bits, 32 | 64),
            _ => matches!(width, 1..=4),
        };
        if !known {
            let of = if tag == 3 { "float" } else { "integer" };
            return Err(other(format!("a WAV file with {bits}-bit {of} samples")));
        }
        if block != width * channels {
            return Err(damaged(format!(
                "{channels} channels of {bits} bits do not fill {block} bytes"
            )));
        }
        Ok(Format { float: tag == 3, channels, rate, width })
    }

    /// One sample of `width` bytes, in -1..1. Bits that are not used are the low ones.
    fn sample(&self, bytes: &[u8]) -> f64 {
        match (self.float, bytes) {
            (true, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (true, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            (false, &[a]) => (f64::from(a) - 128.0) / 128.0,
            (false, &[a, b]) => f64::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (false, &[a, b, c]) => f64::from(i32::from_le_bytes([0, a, b, c])) / 2_147_483_648.0,
            (false, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])) / 2_147_483_648.0,
            _ => 0.0,
        }
    }
}

/// The little-endian number of `length` bytes at `at`; 0 beyond the end.
fn number(bytes: &[u8], at: usize, length: usize) -> u32 {
    let part = bytes.get(at..at + length).unwrap_or_default();
    part.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

/// What a file that is no WAV is.
fn kind(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        "empty"
    } else if starts(b"OggS") {
        "an Ogg file"
    } else if starts(b"fLaC") {
        "a FLAC file"
    } else if starts(b"ID3") || matches!(bytes, [0xff, b, ..] if b & 0xe0 == 0xe0) {
        "an MP3 file"
    } else if starts(b"RIFX") || starts(b"RF64") {
        "a big-endian or 64-bit WAV file"
    } else if starts(b"FORM") {
        "an AIFF file"
    } else {
        "no sound"
    }
}
