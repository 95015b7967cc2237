//! Why input data was refused.

use std::io;
use std::path::PathBuf;

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
        /// `text`, `label` or `split`.
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
    #[error("{path} line {line}: label {label:?} is not one of the delta's: {known:?}", path = .path.display())]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// Line where the row starts, from 1.
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
            DataError::Tensor(_) => "data.tensor",
        }
    }
}
