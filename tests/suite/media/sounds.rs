use std::f64::consts::PI;
use std::io::Cursor;
use std::path::Path;

use edge_tune::data::{AudioSpec, DataError, Place, Sound};
use hound::{SampleFormat, WavSpec, WavWriter};

fn decode(bytes: &[u8]) -> Result<Sound, DataError> {
    Sound::decode(bytes, Path::new("set/yes.wav"))
}

fn refused(bytes: &[u8], code: &str, message: &str) {
    let error = decode(bytes).unwrap_err();
    let shown = error.to_string();
    assert_eq!(error.code(), code, "{shown}");
    assert!(shown.contains(message) && shown.contains("set/yes.wav"), "{shown}");
}

/// A chunk, padded to an even length.
fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = [name.as_slice(), &(body.len() as u32).to_le_bytes(), body].concat();
    out.resize(out.len().next_multiple_of(2), 0);
    out
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[b"WAVE".to_vec(), chunks.concat()].concat())
}

/// A `fmt ` chunk of 16 bytes.
fn format(tag: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
    let block = channels * bits.div_ceil(8);
    let mut body = Vec::new();
    body.extend(tag.to_le_bytes());
    body.extend(channels.to_le_bytes());
    body.extend(rate.to_le_bytes());
    body.extend((rate * u32::from(block)).to_le_bytes());
    body.extend(block.to_le_bytes());
    body.extend(bits.to_le_bytes());
    chunk(b"fmt ", &body)
}

/// A 16-bit mono file.
fn short(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    riff(&[format(1, 1, 16_000, 16), chunk(b"data", &data)])
}

fn tone(n: usize, rate: u32, hertz: f64) -> f64 {
    (2.0 * PI * hertz * n as f64 / f64::from(rate)).sin() * 0.8
}

/// A tone in every channel, louder from one to the next, as hound writes it.
fn written(spec: WavSpec, frames: usize) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut out, spec).unwrap();
    for n in 0..frames {
        for channel in 1..=spec.channels {
            let loud = f64::from(channel) / f64::from(spec.channels);
            let value = tone(n, spec.sample_rate, 440.0) * loud;
            match spec.sample_format {
                SampleFormat::Float => writer.write_sample(value as f32).unwrap(),
                SampleFormat::Int => {
                    let one = (1i64 << (spec.bits_per_sample - 1)) as f64;
                    writer.write_sample((value * one).round() as i32).unwrap();
                }
            }
        }
    }
    writer.finalize().unwrap();
    out.into_inner()
}

#[test]
fn all_widths_and_channels_become_mono_floats() {
    let int = SampleFormat::Int;
    for (bits_per_sample, sample_format) in
        [(8, int), (16, int), (24, int), (32, int), (32, SampleFormat::Float)]
    {
        for channels in [1, 2, 6] {
            let spec = WavSpec { channels, sample_rate: 44_100, bits_per_sample, sample_format };
            let sound = decode(&written(spec, 500)).unwrap();
            assert_eq!((sound.sample_rate(), sound.samples().len()), (44_100, 500));
            // The mean of 1/n, 2/n, ..., 1.
            let loud = (f64::from(channels) + 1.0) / (2.0 * f64::from(channels));
            let step = 1.5 / f64::from(bits_per_sample - 1).exp2();
            for (n, &x) in sound.samples().iter().enumerate() {
                let want = tone(n, 44_100, 440.0) * loud;
                let off = (f64::from(x) - want).abs();
                assert!(off < step + 1e-6, "{bits_per_sample} bits, {channels} channels: {off}");
            }
        }
    }
    let wide: Vec<u8> = [0.25f64, -1.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let sound = decode(&riff(&[format(3, 1, 8_000, 64), chunk(b"data", &wide)])).unwrap();
    assert_eq!(sound.samples(), [0.25, -1.5]);
    let ends = decode(&short(&[i16::MIN, 0, i16::MAX])).unwrap();
    assert_eq!(ends.samples(), [-1.0, 0.0, 32_767.0 / 32_768.0]);
}

#[test]
fn a_tone_of_96_khz_arrives_at_16_khz() {
    let spec = WavSpec {
        channels: 2,
        sample_rate: 96_000,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let sound = decode(&written(spec, 96_000)).unwrap();
    let want = AudioSpec { sample_rate: 16_000, samples: 16_000, place: Place::Start };
    let tensor = want.tensor(&sound).unwrap();
    assert_eq!(tensor.shape(), [16_000]);
    let values = tensor.as_slice::<f32>().unwrap();
    let (mut signal, mut noise) = (0.0, 0.0);
    for (n, &value) in values.iter().enumerate().take(15_900).skip(100) {
        let want = tone(n, 16_000, 440.0) * 0.75;
        signal += want * want;
        noise += (f64::from(value) - want).powi(2);
    }
    let ratio = 10.0 * (signal / noise).log10();
    assert!(ratio > 70.0, "{ratio:.1} dB");
}

#[test]
fn sounds_are_cut_and_filled_up() {
    let sound = Sound::new(16_000, vec![1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let spec = |samples, place| AudioSpec { sample_rate: 16_000, samples, place };
    for (samples, place, want) in [
        (5, Place::Start, vec![1.0, 2.0, 3.0, 4.0, 5.0]),
        (3, Place::Start, vec![1.0, 2.0, 3.0]),
        (7, Place::Start, vec![1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0]),
        (3, Place::Centre, vec![2.0, 3.0, 4.0]),
        (8, Place::Centre, vec![0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0]),
    ] {
        let tensor = spec(samples, place).tensor(&sound).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap(), want, "{samples} {place:?}");
    }
    // One sample at another rate, and a length that is no multiple.
    for (rate, samples) in [(8_000, 1), (44_100, 441), (1_000, 3), (768_000, 5)] {
        let sound = Sound::new(rate, vec![0.5; samples]).unwrap();
        for place in [Place::Start, Place::Centre] {
            let tensor = spec(1_000, place).tensor(&sound).unwrap();
            assert!(tensor.as_slice::<f32>().unwrap().iter().all(|x| x.is_finite()));
        }
    }
    for bad in [spec(0, Place::Start), AudioSpec { sample_rate: 0, ..spec(5, Place::Start) }] {
        assert_eq!(bad.tensor(&sound).unwrap_err().code(), "data.spec");
    }
    assert!(Sound::new(0, vec![0.0]).is_none() && Sound::new(16_000, vec![]).is_none());
}

#[test]
fn what_recorders_write_is_read() {
    let data = chunk(b"data", &[0, 64, 0, 192]);
    // Notes of an odd length before the sound, others after it.
    let sound = riff(&[
        chunk(b"LIST", b"odd"),
        format(1, 1, 8_000, 16),
        chunk(b"fact", &[2, 0, 0, 0, 9, 9]),
        data.clone(),
        chunk(b"id3 ", b"title"),
    ]);
    assert_eq!(decode(&sound).unwrap().samples(), [0.5, -0.5]);
    // Extensible, with float samples.
    let mut wide = format(0xfffe, 1, 8_000, 32);
    wide.extend([22, 0, 32, 0, 4, 0, 0, 0]);
    wide.extend(b"\x03\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
    wide[4] = 40;
    let floats = chunk(b"data", &0.25f32.to_le_bytes());
    assert_eq!(decode(&riff(&[wide, floats])).unwrap().samples(), [0.25]);
    // Recorded into a pipe: the length was never filled in.
    for open in [u32::MAX, 0x8000_0000, 0x7fff_ff00] {
        let mut piped = riff(&[format(1, 1, 8_000, 16), data.clone()]);
        let at = piped.len() - 8;
        piped[at..at + 4].copy_from_slice(&open.to_le_bytes());
        assert_eq!(decode(&piped).unwrap().samples(), [0.5, -0.5], "{open:x}");
    }
}

#[test]
fn other_and_damaged_files_are_refused() {
    for (bytes, message) in [
        (b"".as_slice(), "is empty"),
        (b"no sound at all", "is no sound; a WAV file"),
        (b"OggS\0\x02", "an Ogg file"),
        (b"fLaC\0", "a FLAC file"),
        (b"ID3\x04", "an MP3 file"),
        (b"\xff\xfb\x90\x44", "an MP3 file"),
        (b"FORM\0\0\0\x04AIFF", "an AIFF file"),
        (b"RF64\xff\xff\xff\xffWAVE", "64-bit WAV"),
        (b"RIFF\x04\0\0\0AVI LIST", "no sound"),
    ] {
        refused(bytes, "data.sound-format", message);
    }
    let data = || chunk(b"data", &[0; 8]);
    for (tag, bits, message) in [
        (6, 8, "A-law"),
        (7, 8, "mu-law"),
        (2, 4, "ADPCM"),
        (0x55, 16, "MP3"),
        (0x160, 16, "coding 352"),
        (1, 40, "40-bit integer"),
        (1, 0, "0-bit integer"),
        (3, 16, "16-bit float"),
    ] {
        refused(&riff(&[format(tag, 1, 8_000, bits), data()]), "data.sound-format", message);
    }
    let mut fields = format(1, 2, 8_000, 16);
    fields[20] = 3;
    for (chunks, message) in [
        (vec![format(1, 0, 8_000, 16), data()], "0 channels"),
        (vec![format(1, 1, 0, 16), data()], "a sample rate of 0 Hz"),
        (vec![format(1, 1, 2_000_000, 16), data()], "a sample rate of 2000000 Hz"),
        (vec![fields, data()], "do not fill 3 bytes"),
        (vec![data()], "before its format"),
        (vec![chunk(b"fmt ", &[1, 0]), data()], "2 bytes, not 16"),
        (vec![format(1, 1, 8_000, 16)], "ends early"),
        (vec![], "ends early"),
        (vec![format(3, 1, 8_000, 32), chunk(b"data", &f32::NAN.to_le_bytes())], "sample 0 is not"),
    ] {
        refused(&riff(&chunks), "data.sound", message);
    }
    let whole = short(&[1; 100]);
    refused(&whole[..whole.len() - 50], "data.sound", "200 bytes of sound are announced, 150 are");
    for cut in [5, 11, 12, 20, 40] {
        refused(&whole[..cut], "data.sound", "the file ends early");
    }
    refused(&short(&[]), "data.sound-empty", "0 samples");
    let long = vec![0u8; 30_000_001];
    let long = riff(&[format(1, 1, 8_000, 8), chunk(b"data", &long)]);
    refused(&long, "data.sound-length", "30000001 samples; at most 30000000");
}
