//! A delta: one task's tensors and what they mean, in a single safetensors file.
//!
//! A [`Delta`] in memory has passed every check that needs no backbone: [`Delta::read`] and
//! [`Delta::new`] refuse everything else. [`Delta::validate`] then asks whether it fits a backbone
//! and its method. The format is described byte by byte in `docs/formats.md`.
//!
//! ```
//! use edge_tune::delta::{Delta, Metadata, TensorSpec};
//! use edge_tune::tensor::Tensor;
//!
//! let backbone = "0".repeat(64);
//! let weight = Tensor::new(&[2, 3], &[0.5f32; 6])?.to_f16();
//! let delta = Delta::new(
//!     Metadata::new("linear", &backbone, &["no", "yes"]),
//!     [("head.weight".to_string(), weight)],
//! )?;
//! let again = Delta::parse(&delta.to_bytes()?, "copy")?;
//! again.validate(&backbone, &[TensorSpec::new("head.weight", &[2, 3]).per_label()])?;
//! assert_eq!(again.digest(), delta.digest());
//! # Ok::<(), edge_tune::Error>(())
//! ```

pub(crate) mod clock;
mod container;
mod diff;
mod error;
pub(crate) mod file;
mod metadata;
mod summary;
mod validate;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

pub use self::diff::{Diff, TensorDiff};
pub use self::error::DeltaError;
pub use self::metadata::{Metadata, SelfTest};
pub use self::summary::{Summary, TensorSummary};
pub use self::validate::{TensorSpec, Values};
use crate::tensor::Tensor;
use file::{Links, ReadError};

/// Version of the file format that this library reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Largest delta file in bytes.
pub const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Longest safetensors header in bytes.
pub const MAX_HEADER_BYTES: usize = 1024 * 1024;
/// Most tensors in one delta.
pub const MAX_TENSORS: usize = 4096;
/// Most dimensions of one tensor.
pub const MAX_RANK: usize = 8;

/// One task's tensors and what they mean. Immutable, and always well formed: a tensor keeps the
/// type it has in the file, so a resident delta costs what its file does.
#[derive(Clone, Debug)]
pub struct Delta {
    name: String,
    digest: String,
    file_bytes: u64,
    metadata: Metadata,
    tensors: BTreeMap<String, Tensor>,
}

impl Delta {
    /// A delta of new tensors: F16, F32 or I64.
    ///
    /// # Errors
    /// If a file with this content would be refused, for example because a value is not finite.
    pub fn new(
        metadata: Metadata,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Delta, DeltaError> {
        let name = format!("new delta `{}`", metadata.method);
        let bytes = encode(&metadata, &tensors.into_iter().collect(), &name)?;
        // One set of checks for what is written and what is read.
        Delta::parse(&bytes, &name)
    }

    /// Reads a delta file. Symbolic links to it are followed.
    ///
    /// # Errors
    /// If it cannot be read, is not a regular file, or is not a well-formed delta.
    pub fn read(path: &Path) -> Result<Delta, DeltaError> {
        Delta::parse(&read_bytes(path, Links::Follow)?, &path.display().to_string())
    }

    /// What a delta file says about itself and its size in bytes; nothing but the header is read.
    ///
    /// # Errors
    /// If that much cannot be read or is not well formed. The tensors were not looked at.
    pub fn read_header(path: &Path) -> Result<(Metadata, u64), DeltaError> {
        let name = path.display().to_string();
        let (mut file, length) = file::open_regular(path, Links::Follow, MAX_FILE_BYTES)
            .map_err(|e| refused(e, path))?;
        let io = |source| refused(ReadError::Io(source), path);
        let mut bytes = Vec::new();
        Read::take(&mut file, 8).read_to_end(&mut bytes).map_err(io)?;
        let header = container::header_bytes(&bytes, length, &name)?;
        Read::take(&mut file, header).read_to_end(&mut bytes).map_err(io)?;
        Ok((container::metadata(&bytes, &name)?, length))
    }

    /// As [`Delta::read_header`], from the bytes of the file.
    pub(crate) fn parse_header(bytes: &[u8], name: &str) -> Result<Metadata, DeltaError> {
        container::metadata(bytes, name)
    }

    /// Reads a delta from the bytes of its file. `name` stands for the file in errors.
    ///
    /// # Errors
    /// If the bytes are not a well-formed delta.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Delta, DeltaError> {
        let (strings, tensors) = container::decode(bytes, name)?;
        Ok(Delta {
            name: name.to_string(),
            digest: digest(bytes),
            file_bytes: bytes.len() as u64,
            metadata: Metadata::from_strings(strings, name)?,
            tensors,
        })
    }

    /// The bytes of a file with this content. The same content always gives the same bytes.
    ///
    /// A file that another program wrote may order its header differently: copy such a file
    /// instead, to keep its digest.
    ///
    /// # Errors
    /// If the canonical header is over the limit where the one that was read was not.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DeltaError> {
        encode(&self.metadata, &self.tensors, &self.name)
    }

    /// Writes the delta to `path`, whole or not at all. A file that is there is replaced.
    ///
    /// # Errors
    /// [`DeltaError::Io`], and then `path` is as it was; only where the directory cannot be
    /// synced after the rename, it may hold the new file.
    pub fn write(&self, path: &Path) -> Result<(), DeltaError> {
        crate::fs::write_atomic(path, &self.to_bytes()?).map_err(|source| DeltaError::Io {
            file: path.display().to_string(),
            action: "write",
            source,
        })
    }

    /// What the delta says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// SHA-256 of the file in 64 lowercase hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Where the delta came from, for messages: the path of its file or the name given.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// SHA-256 of `bytes` in 64 lowercase hexadecimal digits: the digest of a delta file.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// True for 64 lowercase hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads metadata strings as those of a file; for fuzzing.
pub(crate) fn check_metadata(strings: impl Iterator<Item = (String, String)>) {
    if let Ok(metadata) = Metadata::from_strings(strings.collect(), "fuzz")
        && let Ok(written) = metadata.to_strings()
    {
        let again = Metadata::from_strings(written, "fuzz");
        assert_eq!(again.ok(), Some(metadata), "what is written can be read");
    }
}

/// The bytes of a file that may be a delta.
pub(crate) fn read_bytes(path: &Path, links: Links) -> Result<Vec<u8>, DeltaError> {
    file::read(path, links, MAX_FILE_BYTES).map_err(|e| refused(e, path))
}

fn refused(error: ReadError, path: &Path) -> DeltaError {
    let file = path.display().to_string();
    match error {
        ReadError::NotAFile => DeltaError::NotAFile { file },
        ReadError::TooLarge(bytes) => DeltaError::TooLarge { file, bytes },
        ReadError::Io(source) => DeltaError::Io { file, action: "read", source },
    }
}

fn encode(
    metadata: &Metadata,
    tensors: &BTreeMap<String, Tensor>,
    name: &str,
) -> Result<Vec<u8>, DeltaError> {
    let strings = metadata
        .to_strings()
        .map_err(|e| DeltaError::Header { file: name.into(), reason: e.to_string() })?;
    container::encode(&strings, tensors, name)
}
