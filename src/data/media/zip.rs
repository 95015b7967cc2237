//! Labelled files in a zip. Entries are read one by one; nothing is ever extracted to disk.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::{LIST, MAX_FILE_BYTES, Source, check_count, check_name, is_hidden, layout};
use crate::data::csv::{self, list_error};
use crate::data::{DataError, Dataset};

/// An open zip file; its clones share it.
#[derive(Clone, Debug)]
pub struct Archive {
    path: PathBuf,
    zip: Arc<Mutex<ZipArchive<BufReader<File>>>>,
}

impl Archive {
    /// The zip file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of an entry, checked against its checksum.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, DataError> {
        let path = self.path.join(name);
        // A panic of another thread leaves no more behind than a position in the file.
        let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = zip.by_name(name).map_err(|e| refused(&path, e.to_string()))?;
        super::limited(&path, entry).map_err(|e| match e {
            DataError::Read { path, source } => refused(&path, source.to_string()),
            other => other,
        })
    }
}

/// Opens a zip of labelled files.
pub(super) fn open(path: &Path) -> Result<Dataset, DataError> {
    let file = File::open(path).map_err(|e| super::read_error(path, e))?;
    let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| match e {
        ZipError::Io(source) => DataError::Read { path: path.to_owned(), source },
        other => refused(path, format!("the zip file is damaged: {other}")),
    })?;
    let names = names(path, &zip)?;
    let list = format!("{}{LIST}", layout::wrapper(&names));
    let archive = Archive { path: path.to_owned(), zip: Arc::new(Mutex::new(zip)) };
    if names.binary_search(&list).is_err() {
        let rows = layout::rows(path, names)?;
        return Ok(Dataset::with_source(path, rows, Source::Zip(archive)));
    }

    let bytes = archive.read(&list)?;
    let list_path = path.join(&list);
    let mut found = csv::read(&list_path, bytes.as_slice(), MAX_FILE_BYTES)?;
    if !found.files {
        return Ok(Dataset::new(path, found.rows));
    }
    for row in &mut found.rows {
        let name = format!("{}{}", list.strip_suffix(LIST).unwrap_or_default(), row.text);
        if names.binary_search(&name).is_err() {
            return Err(list_error(&list_path, row));
        }
        row.text = name;
    }
    Ok(Dataset::with_source(path, found.rows, Source::Zip(archive)))
}

/// The names of all files, sorted. Refuses what is not read here before anything is.
fn names(path: &Path, zip: &ZipArchive<BufReader<File>>) -> Result<Vec<String>, DataError> {
    check_count(path, zip.len())?;
    if zip.has_duplicate_names() {
        return Err(refused(path, "two entries have the same name"));
    }
    let mut names = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        let entry = zip.by_index_data(index).map_err(|e| refused(path, e.to_string()))?;
        let name = entry.name().map_err(|e| refused(path, e.to_string()))?.into_owned();
        check_name(path, name.strip_suffix('/').unwrap_or(&name))?;
        if entry.is_dir() || name.split('/').any(is_hidden) {
            continue;
        }
        let problem = if entry.encrypted() {
            "the entry is encrypted"
        } else if entry.is_symlink() {
            "the entry is a link"
        } else if !matches!(
            entry.compression(),
            CompressionMethod::Stored | CompressionMethod::Deflated
        ) {
            "the entry is neither stored nor deflated: make the zip anew with plain compression"
        } else if entry.size() > MAX_FILE_BYTES {
            return Err(DataError::TooLarge { path: path.join(name), limit: MAX_FILE_BYTES });
        } else {
            names.push(name);
            continue;
        };
        return Err(refused(&path.join(name), problem));
    }
    names.sort_unstable();
    Ok(names)
}

fn refused(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Zip { path: path.to_owned(), reason: reason.into() }
}
