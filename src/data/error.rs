//! Why input data was refused.

use std::io;
use std::path::{Path, PathBuf};

use crate::tensor::TensorError;

/// Input data was refused: which file, which line or row, and what would be accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be opened or read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is larger than this library reads.
    #[error("{path} is larger than {limit} bytes: split it", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// There is no header line, or no row below it.
    #[error("{path} has no data rows: a header `text,label` and one row per example are needed", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The header lacks a column.
    #[error("{path} has no column {column:?}; its header names {found:?}", path = .path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that is needed.
        column: &'static str,
        /// The columns of the header.
        found: Vec<String>,
    },
    /// The header names a column twice.
    #[error("the header of {path} names the column {column:?} twice", path = .path.display())]
    DuplicateColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A row has more or fewer fields than the header.
    #[error("{path} line {line}: {have} fields, the header has {want}; put a text with commas in double quotes", path = .path.display())]
    Ragged {
        /// The file.
        path: PathBuf,
        /// Line where the row starts, from 1.
        line: u64,
        /// Fields of the row.
        have: usize,
        /// Fields of the header.
        want: usize,
    },
    /// A quoted field never ends.
    #[error("{path} line {line}: the double quote that opens here is never closed; write a quote inside a quoted field as two", path = .path.display())]
    OpenQuote {
        /// The file.
        path: PathBuf,
        /// Line of the opening quote, from 1.
        line: u64,
    },
    /// A row is not UTF-8.
    #[error("{path} line {line}: not valid UTF-8; save the file as UTF-8", path = .path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Line where the row starts, from 1.
        line: u64,
    },
    /// A field that is needed holds nothing but white space.
    #[error("{path} line {line}: empty {column}; fill it in or remove the row", path = .path.display())]
    EmptyField {
        /// The file.
        path: PathBuf,
        /// Line where the row starts, from 1.
        line: u64,
        /// `text`, `path`, `label` or `split`.
        column: &'static str,
    },
    /// No row belongs to the split.
    #[error("{path} has no rows of split {split:?}; its splits are {found:?}", path = .path.display())]
    NoSuchSplit {
        /// The file.
        path: PathBuf,
        /// The split that was asked for.
        split: String,
        /// The splits of the file.
        found: Vec<String>,
    },
    /// A row is of a class that the delta does not know.
    #[error("{}: label {label:?} is not one of the delta's: {known:?}", place(.path, *.line))]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// Line where the row starts, from 1; 0 if no list names the row.
        line: u64,
        /// Its label.
        label: String,
        /// The labels of the delta.
        known: Vec<String>,
    },
    /// The selection is too small to learn a classification.
    #[error("{path}: the selected rows have {have} class(es) {found:?}, at least {want} are needed", path = .path.display())]
    TooFewClasses {
        /// The file.
        path: PathBuf,
        /// Classes among the selected rows.
        have: usize,
        /// Classes needed.
        want: usize,
        /// The labels that were found.
        found: Vec<String>,
    },
    /// A class has fewer rows than shots were asked for.
    #[error("{path}: class {label:?} has {have} of the {want} rows asked for; use fewer shots or add rows", path = .path.display())]
    TooFewRows {
        /// The file.
        path: PathBuf,
        /// The class.
        label: String,
        /// Rows it has.
        have: usize,
        /// Rows asked for.
        want: usize,
    },
    /// A fraction outside `0 <= f < 1`.
    #[error("the held-out fraction must be at least 0 and below 1, it is {fraction}")]
    Fraction {
        /// The value.
        fraction: f64,
    },
    /// The file with row numbers is not the JSON that is expected.
    #[error("{path}: {reason}; a map of names to lists of row numbers is expected", path = .path.display())]
    RowList {
        /// The JSON file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with row numbers has no list of this name.
    #[error("{path} has no row list {key:?}; it has {found:?}", path = .path.display())]
    NoSuchRowList {
        /// The JSON file.
        path: PathBuf,
        /// The list that was asked for.
        key: String,
        /// The lists of the file.
        found: Vec<String>,
    },
    /// A row number is beyond the data, or listed twice.
    #[error("row {row} {problem} ({path} has rows 0..{rows})", path = .path.display())]
    BadRow {
        /// The data file.
        path: PathBuf,
        /// The row number, 0-based.
        row: usize,
        /// Data rows of the file.
        rows: usize,
        /// `does not exist` or `is listed twice`.
        problem: &'static str,
    },
    /// A tokenizer file was refused.
    #[error("{path} is not a usable tokenizer.json: {reason}", path = .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The length limit leaves no room for the text.
    #[error("a length of {max_length} tokens leaves no room beside {special} special tokens")]
    MaxLength {
        /// Tokens allowed per text.
        max_length: usize,
        /// Special tokens that every text gets.
        special: usize,
    },
    /// A text could not be tokenized.
    #[error("cannot tokenize the text that starts {start:?}: {reason}")]
    Encode {
        /// The first characters of the text.
        start: String,
        /// The tokenizer's reason.
        reason: String,
    },
    /// A tokenized text is longer than the batch it should be padded to.
    #[error("text {index} of the batch has {have} tokens, the batch has room for {pad_to}")]
    TooLong {
        /// Position in the batch, 0-based.
        index: usize,
        /// Its tokens.
        have: usize,
        /// Length of the batch.
        pad_to: usize,
    },
    /// A folder or zip does not say which file is of which class.
    #[error("{path}: {reason}; LABEL/FILE, SPLIT/LABEL/FILE or a labels.csv with path,label[,split] is expected", path = .path.display())]
    Layout {
        /// The folder or zip.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file name of a zip or list leads out of it, or is not portable.
    #[error("{path}: the file name {name:?} is refused: it must be relative, with `/` between folders and without `..`", path = .path.display())]
    FileName {
        /// The zip or list.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A list names a file that does not exist.
    #[error("{path} line {line}: there is no file {name:?}", path = .path.display())]
    MissingFile {
        /// The list.
        path: PathBuf,
        /// Line where the row starts, from 1.
        line: u64,
        /// The name as it is listed.
        name: String,
    },
    /// A zip file is damaged or uses what is not read here.
    #[error("{path}: {reason}", path = .path.display())]
    Zip {
        /// The zip file, or `zip/entry`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library was built without what reads this.
    #[error("cannot read {path}: built without the feature {feature:?}", path = .path.display())]
    NotBuilt {
        /// The file.
        path: PathBuf,
        /// The Cargo feature to turn on.
        feature: &'static str,
    },
    /// The file is no picture, or of a kind that is not read.
    #[error("{path} is {found}; PNG, JPEG or WebP is needed (in RGB or grey)", path = .path.display())]
    PictureFormat {
        /// The file.
        path: PathBuf,
        /// What it is, by its content.
        found: String,
    },
    /// A picture is too large. Nothing of it was decoded.
    #[error("{path} is {width} x {height} pixels; at most {} megapixels and {} pixels a side are read: scale it down", super::image::MAX_PIXELS / 1_000_000, super::image::MAX_SIDE, path = .path.display())]
    PictureSize {
        /// The file.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A picture is damaged.
    #[error("{path}: the picture is damaged: {reason}", path = .path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A description of an input (`preprocessor_config.json`, or a specification) cannot be used.
    #[error("{path}: {reason}", path = .path.display())]
    Spec {
        /// The file, or the name of the specification.
        path: PathBuf,
        /// What is wrong and what would be accepted.
        reason: String,
    },
    /// The file is no sound, or of a kind that is not read.
    #[error("{path} is {found}; a WAV file with 8 to 32 bit integer or 32 or 64 bit float samples is needed", path = .path.display())]
    SoundFormat {
        /// The file.
        path: PathBuf,
        /// What it is, by its content.
        found: String,
    },
    /// A sound file is damaged.
    #[error("{path}: the sound is damaged: {reason}", path = .path.display())]
    Sound {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A sound without samples.
    #[error("{path} holds no sound: it has 0 samples", path = .path.display())]
    SoundEmpty {
        /// The file.
        path: PathBuf,
    },
    /// A sound is too long.
    #[error("{path} has {samples} samples; at most {limit} are read: cut it into pieces", path = .path.display())]
    SoundLength {
        /// The file.
        path: PathBuf,
        /// Samples of one channel.
        samples: u64,
        /// Most samples that are read.
        limit: u64,
    },
    /// A `.npy` file was refused.
    #[error("{path}: {reason}", path = .path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be accepted.
        reason: String,
    },
    /// A batch could not be made a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl DataError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            DataError::Read { .. } => "data.read",
            DataError::TooLarge { .. } => "data.too-large",
            DataError::Empty { .. } => "data.empty",
            DataError::MissingColumn { .. } => "data.missing-column",
            DataError::DuplicateColumn { .. } => "data.duplicate-column",
            DataError::Ragged { .. } => "data.ragged",
            DataError::OpenQuote { .. } => "data.open-quote",
            DataError::Utf8 { .. } => "data.utf8",
            DataError::EmptyField { .. } => "data.empty-field",
            DataError::NoSuchSplit { .. } => "data.no-such-split",
            DataError::UnknownLabel { .. } => "data.unknown-label",
            DataError::TooFewClasses { .. } => "data.too-few-classes",
            DataError::TooFewRows { .. } => "data.too-few-rows",
            DataError::Fraction { .. } => "data.fraction",
            DataError::RowList { .. } => "data.row-list",
            DataError::NoSuchRowList { .. } => "data.no-such-row-list",
            DataError::BadRow { .. } => "data.bad-row",
            DataError::Tokenizer { .. } => "data.tokenizer",
            DataError::MaxLength { .. } => "data.max-length",
            DataError::Encode { .. } => "data.encode",
            DataError::TooLong { .. } => "data.too-long",
            DataError::Layout { .. } => "data.layout",
            DataError::FileName { .. } => "data.file-name",
            DataError::MissingFile { .. } => "data.missing-file",
            DataError::Zip { .. } => "data.zip",
            DataError::NotBuilt { .. } => "data.not-built",
            DataError::PictureFormat { .. } => "data.picture-format",
            DataError::PictureSize { .. } => "data.picture-size",
            DataError::Picture { .. } => "data.picture",
            DataError::Spec { .. } => "data.spec",
            DataError::SoundFormat { .. } => "data.sound-format",
            DataError::Sound { .. } => "data.sound",
            DataError::SoundEmpty { .. } => "data.sound-empty",
            DataError::SoundLength { .. } => "data.sound-length",
            DataError::Array { .. } => "data.array",
            DataError::Tensor(_) => "data.tensor",
        }
    }
}

/// `FILE line N`, or the file alone for a row that is on no line.
fn place(path: &Path, line: u64) -> String {
    if line == 0 { path.display().to_string() } else { format!("{} line {line}", path.display()) }
}
