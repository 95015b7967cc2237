//! Labelled rows: texts, or the names of files.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::DataError;
use super::media::Source;

/// One labelled text or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The text as it stands in the file; for pictures and sounds the file's name in
    /// [`Dataset::source`], with `/` between folders.
    pub text: String,
    /// Its class.
    pub label: String,
    /// `train`, `test`, ... where the file has such a column.
    pub split: Option<String>,
    /// Line of the CSV file where the row starts, from 1; 0 for a row that no list names.
    pub line: u64,
}

/// All rows of a file or folder. Methods that take `rows` expect numbers below `self.rows.len()` and
/// ignore others.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The rows; a row's number is its position here, from 0.
    pub rows: Vec<Row>,
    /// The classes of the whole file, sorted; a class's number is its position here.
    pub labels: Vec<String>,
    /// Where the rows came from, for messages.
    pub path: PathBuf,
    /// Whether the rows are texts or name files, and where these lie: see [`Dataset::bytes`].
    pub source: Source,
}

impl Dataset {
    /// A data set of texts that are already in memory; `path` is used in messages only.
    pub fn new(path: impl Into<PathBuf>, rows: Vec<Row>) -> Dataset {
        Dataset::with_source(path, rows, Source::Inline)
    }

    /// A data set whose rows name files of `source`.
    pub(super) fn with_source(path: impl Into<PathBuf>, rows: Vec<Row>, source: Source) -> Dataset {
        let mut labels: Vec<String> = rows.iter().map(|r| r.label.clone()).collect();
        labels.sort_unstable();
        labels.dedup();
        Dataset { rows, labels, path: path.into(), source }
    }

    /// The rows of a split, in file order.
    ///
    /// A file without a `split` column is not divided: every split is all of its rows, so it is
    /// trained on as a whole, or evaluated as a whole.
    ///
    /// # Errors
    /// [`DataError::NoSuchSplit`] if the file has splits but none of this name.
    pub fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        if self.rows.iter().all(|r| r.split.is_none()) {
            return Ok((0..self.rows.len()).collect());
        }
        let of_split = |(i, r): (usize, &Row)| (r.split.as_deref() == Some(name)).then_some(i);
        let rows: Vec<usize> = self.rows.iter().enumerate().filter_map(of_split).collect();
        if rows.is_empty() {
            let mut found: Vec<String> = self.rows.iter().filter_map(|r| r.split.clone()).collect();
            found.sort_unstable();
            found.dedup();
            let (path, split) = (self.path.clone(), name.to_owned());
            return Err(DataError::NoSuchSplit { path, split, found });
        }
        Ok(rows)
    }

    /// The number of a class, its position in [`labels`](Dataset::labels).
    pub fn class(&self, label: &str) -> Option<usize> {
        self.labels.binary_search_by(|l| l.as_str().cmp(label)).ok()
    }

    /// The class numbers of `rows`, in their order.
    pub fn classes(&self, rows: &[usize]) -> Vec<usize> {
        self.selected(rows).filter_map(|r| self.class(&r.label)).collect()
    }

    /// Refuses a selection with fewer than `want` classes.
    ///
    /// # Errors
    /// [`DataError::TooFewClasses`] with the labels that were found.
    pub fn require_classes(&self, rows: &[usize], want: usize) -> Result<(), DataError> {
        let mut found: Vec<String> = self.selected(rows).map(|r| r.label.clone()).collect();
        found.sort_unstable();
        found.dedup();
        if found.len() < want {
            let (path, have) = (self.path.clone(), found.len());
            return Err(DataError::TooFewClasses { path, have, want, found });
        }
        Ok(())
    }

    /// SHA-256 over the texts (or file names) and labels of `rows` in their order, in
    /// hexadecimal: what a training run was given. Files are not read for it.
    pub fn digest(&self, rows: &[usize]) -> String {
        let mut hash = Sha256::new();
        for row in self.selected(rows) {
            for field in [&row.text, &row.label] {
                hash.update((field.len() as u64).to_le_bytes());
                hash.update(field);
            }
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn selected(&self, rows: &[usize]) -> impl Iterator<Item = &Row> {
        rows.iter().filter_map(|&i| self.rows.get(i))
    }
}
