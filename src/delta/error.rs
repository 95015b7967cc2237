use std::io;

use super::{MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS};

/// A delta file was refused, or could not be read or written.
///
/// Nothing of a refused file is used: a delta is taken whole or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The operating system refused to read or write the file.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// Path of the file.
        file: String,
        /// What was tried, such as `read`.
        action: &'static str,
        /// The reason of the operating system.
        source: io::Error,
    },
    /// The path is a directory, a device, a pipe or a socket.
    #[error("{file}: not a regular file; give the path of a .safetensors file")]
    NotAFile {
        /// The path.
        file: String,
    },
    /// The file is larger than any delta may be. Checked before memory is taken.
    #[error(
        "{file}: {bytes} bytes, a delta has at most {MAX_FILE_BYTES}; is this a whole model \
         instead of a delta?"
    )]
    TooLarge {
        /// Name of the file.
        file: String,
        /// Its size.
        bytes: u64,
    },
    /// The delta is over a limit of this device. Its tensors were not read.
    #[error(
        "{file}: {have} {what}, at most {most} are allowed here; calibrate a smaller delta, or raise the limit"
    )]
    Budget {
        /// Name of the file.
        file: String,
        /// What is limited.
        what: &'static str,
        /// What the delta has.
        have: u64,
        /// The limit.
        most: u64,
    },
    /// The file ends before its header or its last tensor does.
    #[error("{file}: cut off: {have} bytes, the header promises {want}; copy or download it again")]
    Truncated {
        /// Name of the file.
        file: String,
        /// Bytes present.
        have: u64,
        /// Bytes that the file needs.
        want: u64,
    },
    /// The header is longer than a delta's header may be.
    #[error(
        "{file}: a header of {bytes} bytes, at most {MAX_HEADER_BYTES} are allowed; this is not a \
         delta, or it holds too many labels and self tests"
    )]
    HeaderLength {
        /// Name of the file.
        file: String,
        /// Header bytes.
        bytes: u64,
    },
    /// The header is not the JSON object that safetensors asks for.
    #[error("{file}: bad safetensors header: {reason}")]
    Header {
        /// Name of the file.
        file: String,
        /// What is wrong, with the tensor where there is one.
        reason: String,
    },
    /// There are more tensors than a delta may have.
    #[error("{file}: {count} tensors, a delta has at most {MAX_TENSORS}")]
    TooManyTensors {
        /// Name of the file.
        file: String,
        /// Number of tensors.
        count: usize,
    },
    /// A tensor name is empty, too long or holds other characters than names do.
    #[error(
        "{file}: tensor name {tensor:?}: names are 1 to 128 letters, digits, dots, dashes and \
         underscores"
    )]
    TensorName {
        /// Name of the file.
        file: String,
        /// The name.
        tensor: String,
    },
    /// A tensor has too many dimensions.
    #[error("{file}: tensor `{tensor}` has {rank} dimensions, at most {MAX_RANK} are allowed")]
    Rank {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its number of dimensions.
        rank: usize,
    },
    /// A tensor is of a type that no delta uses.
    #[error("{file}: tensor `{tensor}` is {dtype}; a delta holds F16, F32 or I64: convert it")]
    Type {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its type, in the words of safetensors.
        dtype: String,
    },
    /// A tensor has no elements, or its shape and its byte range disagree.
    #[error("{file}: tensor `{tensor}`: shape {shape:?} of {dtype} does not fill {bytes} bytes")]
    Size {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its type, in the words of safetensors.
        dtype: String,
        /// Its declared shape.
        shape: Vec<u64>,
        /// Bytes between its offsets.
        bytes: u64,
    },
    /// Byte ranges of tensors overlap, leave a hole or run backwards.
    #[error("{file}: tensor `{tensor}` at bytes {begin}..{end}: {reason}; write the file again")]
    Offsets {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// First byte, counted from the end of the header.
        begin: u64,
        /// Byte after the last.
        end: u64,
        /// What is wrong with the range.
        reason: &'static str,
    },
    /// Bytes follow the last tensor. They could hide another file.
    #[error("{file}: {bytes} bytes after the last tensor belong to nothing; write the file again")]
    Trailing {
        /// Name of the file.
        file: String,
        /// Number of bytes too many.
        bytes: u64,
    },
    /// A tensor holds NaN or an infinity.
    #[error(
        "{file}: tensor `{tensor}`: element {index} is {value}; calibrate again with a lower \
         learning rate"
    )]
    NotFinite {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Position of the element, row-major.
        index: usize,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
    /// A tensor holds a number that f16, in which deltas are served, does not.
    #[error(
        "{file}: tensor `{tensor}`: element {index} is {value}, beyond the range of f16; calibrate \
         again with a lower learning rate"
    )]
    Range {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Position of the element, row-major.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A safetensors file of another kind.
    #[error("{file}: a safetensors file, but not an edge-tune delta: no `edge-tune.format` key")]
    Foreign {
        /// Name of the file.
        file: String,
    },
    /// Written by a version of edge-tune that uses another format.
    #[error("{file}: delta format {found:?}, this version of edge-tune reads \"1\": update it")]
    Version {
        /// Name of the file.
        file: String,
        /// The version in the file.
        found: String,
    },
    /// A metadata key that every delta has is not there.
    #[error("{file}: metadata key `{key}` is missing; write the file again with `calibrate`")]
    MissingKey {
        /// Name of the file.
        file: String,
        /// The key.
        key: &'static str,
    },
    /// The value of a metadata key is not usable.
    #[error("{file}: metadata key `{key}`: {reason}")]
    Metadata {
        /// Name of the file.
        file: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The delta was trained on another backbone.
    #[error(
        "{file}: trained on backbone {have}, this one is {want}; use that backbone, or calibrate \
         again on this one"
    )]
    WrongBackbone {
        /// Name of the file.
        file: String,
        /// Digest in the delta.
        have: String,
        /// Digest of the backbone at hand.
        want: String,
    },
    /// The method has no tensor of this name.
    #[error("{file}: tensor `{tensor}` does not belong to method `{method}` with this `config`")]
    UnknownTensor {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Method of the delta.
        method: String,
    },
    /// A tensor that the method needs is not in the file.
    #[error("{file}: method `{method}` needs tensor `{tensor}`, it is not in the file")]
    MissingTensor {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Method of the delta.
        method: String,
    },
    /// A tensor has another shape than the method gives it on this backbone.
    #[error("{file}: tensor `{tensor}` is {have:?}, this backbone and `config` need {want:?}")]
    WrongShape {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Shape in the file.
        have: Vec<usize>,
        /// Shape that is needed.
        want: Vec<usize>,
    },
    /// A tensor holds integers where real numbers are needed, or the reverse.
    #[error("{file}: tensor `{tensor}` holds {have}, {want} is needed")]
    WrongType {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Type in the file.
        have: crate::tensor::DType,
        /// Type or types that are needed.
        want: &'static str,
    },
    /// A tensor with one row per label has more or fewer rows.
    #[error("{file}: tensor `{tensor}` has {rows} rows for {labels} labels")]
    LabelCount {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its rows.
        rows: usize,
        /// Labels in the metadata.
        labels: usize,
    },
}

impl DeltaError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            DeltaError::Io { .. } => "delta.io",
            DeltaError::NotAFile { .. } => "delta.not-a-file",
            DeltaError::TooLarge { .. } => "delta.too-large",
            DeltaError::Budget { .. } => "delta.budget",
            DeltaError::Truncated { .. } => "delta.truncated",
            DeltaError::HeaderLength { .. } => "delta.header-length",
            DeltaError::Header { .. } => "delta.header",
            DeltaError::TooManyTensors { .. } => "delta.too-many-tensors",
            DeltaError::TensorName { .. } => "delta.tensor-name",
            DeltaError::Rank { .. } => "delta.rank",
            DeltaError::Type { .. } => "delta.type",
            DeltaError::Size { .. } => "delta.size",
            DeltaError::Offsets { .. } => "delta.offsets",
            DeltaError::Trailing { .. } => "delta.trailing",
            DeltaError::NotFinite { .. } => "delta.not-finite",
            DeltaError::Range { .. } => "delta.range",
            DeltaError::Foreign { .. } => "delta.foreign",
            DeltaError::Version { .. } => "delta.version",
            DeltaError::MissingKey { .. } => "delta.missing-key",
            DeltaError::Metadata { .. } => "delta.metadata",
            DeltaError::WrongBackbone { .. } => "delta.wrong-digest",
            DeltaError::UnknownTensor { .. } => "delta.unknown-tensor",
            DeltaError::MissingTensor { .. } => "delta.missing-tensor",
            DeltaError::WrongShape { .. } => "delta.wrong-shape",
            DeltaError::WrongType { .. } => "delta.wrong-type",
            DeltaError::LabelCount { .. } => "delta.label-count",
        }
    }
}
