use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BackboneError;
use crate::data::MediaSpec;
use crate::engine::Compute;
use crate::graph::canonical::MaskReport;
use crate::graph::sites::Sites;

/// Version of the backbone directory's format.
pub const FORMAT: u32 = 1;
/// The manifest.
pub const MANIFEST_FILE: &str = "backbone.json";
/// The ONNX model.
pub const MODEL_FILE: &str = "model.onnx";
/// Its external data.
pub const WEIGHTS_FILE: &str = "weights.bin";
/// The tokenizer of a text backbone, in the format of Hugging Face tokenizers.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The graph that turns sound into the features that an audio backbone reads.
pub const FRONTEND_FILE: &str = "frontend.onnx";
/// A manifest larger than this is refused.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest input in tokens that any backbone takes.
pub(super) const MAX_TOKENS: usize = 1 << 20;

/// `backbone.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// A name for people.
    pub name: String,
    /// `bert`, `roberta`, `vit`, `clip-vision`, `kwt` or `cnn`.
    pub family: String,
    /// How linear and embedding weights are stored.
    pub weights: Weights,
    /// How products with the weights are to be computed, unless the user says otherwise: what
    /// `prepare` was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    /// How the feature is taken from the last hidden state.
    pub pooling: Pooling,
    /// Longest input in tokens, special tokens included; for pictures and sounds the number of rows.
    pub max_length: usize,
    /// Token id that fills up short rows.
    pub pad_id: i64,
    /// The file with the graph that makes an audio backbone's input from sound, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// How a picture or sound becomes the input; of its front end, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<MediaSpec>,
    /// SPDX expression of the weights' licence, if it was given.
    pub licence: Option<String>,
    /// Where the weights come from, if it was given.
    pub source: Option<String>,
    /// What `prepare` measured.
    pub report: Report,
    /// The files, in the order in which they enter the digest.
    pub files: Vec<FileEntry>,
    /// SHA-256 over the lines `name size sha256` of all files, and a last line
    /// `reading - sha256` over family, pooling, length, padding and sites.
    pub digest: String,
    /// Where things can attach.
    pub sites: Sites,
}

/// How linear and embedding weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Symmetric int8 with one f32 scale per output channel (linear) or per row (embedding).
    #[default]
    Int8,
    /// Linear layers in symmetric int4, with one f16 scale per column and block of 32 rows; all else
    /// as in int8.
    Int4,
    /// As exported.
    F32,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Weights::Int8 => "int8",
            Weights::Int4 => "int4",
            Weights::F32 => "f32",
        })
    }
}

/// How the feature `[B, d]` is taken from the last hidden state `[B, S, d]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first real row: `[CLS]`, or the class row of a picture model.
    Cls,
    /// The mean of the real rows, padding left out; of all places of a feature map.
    Mean,
    /// The model's own pooled output: CLIP's projected class row, the pooled feature map of a
    /// convolutional network.
    Output,
}

/// What `prepare` measured against the float export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Cosine between the last hidden states.
    pub cosine: f64,
    /// Largest absolute difference of the last hidden states.
    pub max_difference: f32,
    /// Attentions found.
    pub attentions: usize,
    /// What the masks do.
    pub mask: MaskReport,
    /// Matrices and tables stored as int8.
    pub quantized: usize,
}

/// A file of the backbone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Bare file name.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads `backbone.json` in `dir`.
    ///
    /// # Errors
    /// [`BackboneError::Io`] or [`BackboneError::Manifest`].
    pub fn read(dir: &Path) -> Result<Manifest, BackboneError> {
        let path = dir.join(MANIFEST_FILE);
        let io = |source| BackboneError::Io { path: path.clone(), source };
        let bad = |reason: String| BackboneError::Manifest { path: path.clone(), reason };
        let meta = std::fs::metadata(&path).map_err(io)?;
        if !meta.is_file() {
            return Err(BackboneError::NotPlain(path));
        }
        if meta.len() > MAX_MANIFEST_BYTES {
            return Err(bad(format!("larger than {MAX_MANIFEST_BYTES} bytes")));
        }
        let text = std::fs::read(&path).map_err(io)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("format {}, this version reads {FORMAT}", manifest.format)));
        }
        let bare =
            |n: &str| !n.is_empty() && !n.starts_with('.') && !n.contains(['/', '\\', ':', '\0']);
        if let Some(f) = manifest.files.iter().find(|f| !bare(&f.name)) {
            return Err(bad(format!("`{}` is not a bare file name", f.name)));
        }
        for name in [MODEL_FILE, WEIGHTS_FILE] {
            if !manifest.has(name) {
                return Err(bad(format!("it does not list {name}")));
            }
        }
        let s = &manifest.sites;
        let heads = match s.heads {
            0 => s.layers.is_empty() && s.cnn.is_some(),
            h => s.width.is_multiple_of(h),
        };
        if !heads || s.width == 0 || s.pooled_width == Some(0) {
            return Err(bad(format!("{} heads cannot share a width of {}", s.heads, s.width)));
        }
        if !(1..=MAX_TOKENS).contains(&manifest.max_length) {
            return Err(bad(format!("max_length cannot be {}", manifest.max_length)));
        }
        if !(0..i64::from(i32::MAX)).contains(&manifest.pad_id) {
            return Err(bad(format!("pad_id cannot be {}", manifest.pad_id)));
        }
        // They reach terminals and logs.
        let shown = [Some(&manifest.name), Some(&manifest.family)];
        let shown = shown.into_iter().chain([manifest.licence.as_ref(), manifest.source.as_ref()]);
        if shown.flatten().any(|t| t.chars().any(char::is_control)) {
            return Err(bad("name, family, licence or source holds control characters".into()));
        }
        if let Some(reason) = s.lacks(manifest.pooling) {
            return Err(bad(reason));
        }
        if let Some(f) = manifest.frontend.iter().find(|f| !manifest.has(f)) {
            return Err(bad(format!("it does not list {f}")));
        }
        if let Some(spec) = &manifest.preprocess {
            spec.validate().map_err(|e| bad(e.to_string()))?;
        }
        if manifest.digest != manifest.digest_now() {
            return Err(bad("the digest does not belong to it".into()));
        }
        Ok(manifest)
    }

    /// Compares the files' lengths in `dir`.
    ///
    /// # Errors
    /// [`BackboneError::Length`] or [`BackboneError::Io`].
    pub fn check_lengths(&self, dir: &Path) -> Result<(), BackboneError> {
        for f in &self.files {
            let path = dir.join(&f.name);
            let io = |source| BackboneError::Io { path: path.clone(), source };
            let meta = std::fs::metadata(&path).map_err(io)?;
            if !meta.is_file() {
                return Err(BackboneError::NotPlain(path));
            }
            let have = meta.len();
            if have != f.bytes {
                return Err(BackboneError::Length { path, have, want: f.bytes });
            }
        }
        Ok(())
    }

    /// Compares the files' digests in `dir`.
    ///
    /// # Errors
    /// [`BackboneError::Digest`] or [`BackboneError::Io`].
    pub fn verify(&self, dir: &Path) -> Result<(), BackboneError> {
        for f in &self.files {
            let path = dir.join(&f.name);
            if FileEntry::of(dir, &f.name)?.sha256 != f.sha256 {
                return Err(BackboneError::Digest { path });
            }
        }
        Ok(())
    }

    /// The digest that belongs to the files, family, pooling, length, padding and sites: all that
    /// a delta depends on.
    pub(super) fn digest_now(&self) -> String {
        let files: String =
            self.files.iter().map(|f| format!("{} {} {}\n", f.name, f.bytes, f.sha256)).collect();
        let reading = (&self.family, self.pooling, self.max_length, self.pad_id, &self.sites);
        // These types always serialize.
        let reading = serde_json::to_vec(&reading).unwrap_or_default();
        let reading = hex(&Sha256::digest(reading));
        let mut more = String::new();
        if let Some(file) = &self.frontend {
            more.push_str(&format!("frontend - {file}\n"));
        }
        if let Some(spec) = &self.preprocess {
            let spec = serde_json::to_vec(spec).unwrap_or_default();
            more.push_str(&format!("preprocess - {}\n", hex(&Sha256::digest(spec))));
        }
        hex(&Sha256::digest(format!("{files}reading - {reading}\n{more}")))
    }

    /// Width of the feature under `pooling`.
    pub fn feature_width(&self, pooling: Pooling) -> usize {
        match pooling {
            Pooling::Output => self.sites.pooled_width.unwrap_or(self.sites.width),
            Pooling::Cls | Pooling::Mean => self.sites.width,
        }
    }

    /// True if the backbone has that file.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|f| f.name == name)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

impl Sites {
    /// What is missing for `pooling`, if anything is.
    pub(crate) fn lacks(&self, pooling: Pooling) -> Option<String> {
        let reason = match pooling {
            Pooling::Output if self.pooled.is_none() => "the model has no pooled output",
            Pooling::Cls if self.cnn.is_some() => "a convolutional network has no class row",
            _ => return None,
        };
        Some(reason.to_owned())
    }
}

impl FileEntry {
    /// Length and digest of a file.
    ///
    /// # Errors
    /// [`BackboneError::Io`].
    pub fn of(dir: &Path, name: &str) -> Result<FileEntry, BackboneError> {
        let path = dir.join(name);
        let io = |source| BackboneError::Io { path: path.clone(), source };
        let mut file = File::open(&path).map_err(io)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0;
        loop {
            let n = file.read(&mut buffer).map_err(io)?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
            hash.update(&buffer[..n]);
        }
        Ok(FileEntry { name: name.to_owned(), bytes, sha256: hex(&hash.finalize()) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
