//! Labelled pictures and sounds: a folder, a zip file or a CSV file that lists them.

mod layout;
#[cfg(feature = "image")]
mod zip;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

#[cfg(feature = "image")]
pub use self::zip::Archive;
use super::{DataError, Dataset};

/// The list of a media set, in its top folder.
const LIST: &str = "labels.csv";
/// Largest picture or sound file that is read, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most files of a folder or zip.
const MAX_FILES: usize = 1_000_000;
/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 8;

/// Where the bytes of a [`Dataset`]'s rows are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// In the rows: they are texts.
    Inline,
    /// In files of this folder.
    Folder(PathBuf),
    /// In entries of a zip file.
    #[cfg(feature = "image")]
    Zip(Archive),
}

impl Dataset {
    /// Reads labelled texts, pictures or sounds from `path`, which is one of
    ///
    /// - a CSV file with `text,label[,split]`, or with `path,label[,split]` beside the files;
    /// - a folder or zip with a `labels.csv` of `path,label[,split]`;
    /// - a folder or zip of `LABEL/FILE`, or of `SPLIT/LABEL/FILE` with the splits `train`,
    ///   `val`, `valid`, `validation` and `test`.
    ///
    /// Rows follow the list, or else the names in byte order. In a label's folder every file
    /// counts, at any depth, but for hidden ones. Nothing is decoded yet: see
    /// [`Dataset::bytes`].
    ///
    /// # Errors
    /// As [`Dataset::read_csv`]; [`DataError::Layout`] if a folder or zip is not laid out so,
    /// [`DataError::FileName`] for names that lead out of it, and [`DataError::Zip`] for a zip
    /// that is damaged, encrypted or not stored or deflated.
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset, DataError> {
        let path = path.as_ref();
        let kind = fs::metadata(path).map_err(|e| read_error(path, e))?;
        if kind.is_dir() {
            return open_folder(path);
        }
        // A pipe must not be read twice.
        if kind.is_file() && is_zip(path)? {
            #[cfg(feature = "image")]
            return zip::open(path);
            #[cfg(not(feature = "image"))]
            return Err(DataError::NotBuilt { path: path.to_owned(), feature: "image" });
        }
        Dataset::read_csv(path)
    }

    /// The file that row number `row` names, for messages; the data file itself for a text.
    pub fn file(&self, row: usize) -> PathBuf {
        let name = self.rows.get(row).map_or("", |r| &r.text);
        match &self.source {
            Source::Inline => self.path.clone(),
            Source::Folder(folder) => folder.join(name),
            #[cfg(feature = "image")]
            Source::Zip(archive) => archive.path().join(name),
        }
    }

    /// The bytes of row number `row`: the file that it names, or its text as UTF-8.
    ///
    /// # Errors
    /// [`DataError::BadRow`] if there is no such row; the file cannot be read, is damaged (in a
    /// zip), or is over 64 MB.
    pub fn bytes(&self, row: usize) -> Result<Vec<u8>, DataError> {
        let Some(entry) = self.rows.get(row) else {
            let (path, rows) = (self.path.clone(), self.rows.len());
            return Err(DataError::BadRow { path, row, rows, problem: "does not exist" });
        };
        match &self.source {
            Source::Inline => Ok(entry.text.clone().into_bytes()),
            Source::Folder(_) => read_file(&self.file(row)),
            #[cfg(feature = "image")]
            Source::Zip(archive) => archive.read(&entry.text),
        }
    }
}

/// Reads a picture, sound or array file as a whole.
///
/// # Errors
/// [`DataError::Read`], or [`DataError::TooLarge`] over 64 MB.
pub fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(|e| read_error(path, e))?;
    limited(path, file)
}

/// Reads all of `source`, of at most [`MAX_FILE_BYTES`].
fn limited(path: &Path, source: impl Read) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let mut source = source.take(MAX_FILE_BYTES + 1);
    source.read_to_end(&mut bytes).map_err(|e| read_error(path, e))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(DataError::TooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES });
    }
    Ok(bytes)
}

fn read_error(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read { path: path.to_owned(), source }
}

/// Whether the file starts as a zip does, also one without entries.
fn is_zip(path: &Path) -> Result<bool, DataError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| read_error(path, e))?;
    file.take(4).read_to_end(&mut start).map_err(|e| read_error(path, e))?;
    Ok(matches!(start.as_slice(), b"PK\x03\x04" | b"PK\x05\x06"))
}

fn open_folder(path: &Path) -> Result<Dataset, DataError> {
    let list = path.join(LIST);
    if list.is_file() {
        return Dataset::read_csv(list);
    }
    let mut names = Vec::new();
    walk(path, path, "", MAX_DEPTH, &mut names)?;
    let rows = layout::rows(path, names)?;
    Ok(Dataset::with_source(path, rows, Source::Folder(path.to_owned())))
}

/// Adds the names below `folder` to `names`, each after `prefix`.
fn walk(
    root: &Path,
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), DataError> {
    let read = |e| read_error(folder, e);
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        if is_hidden(&name.to_string_lossy()) {
            continue;
        }
        let Some(name) = name.to_str() else {
            let name = format!("{prefix}{}", name.to_string_lossy());
            return Err(DataError::FileName { path: root.to_owned(), name });
        };
        let path = entry.path();
        let name = format!("{prefix}{name}");
        // Follows links, as a set is often one of links into another.
        if !fs::metadata(&path).map_err(|e| read_error(&path, e))?.is_dir() {
            names.push(name);
        } else if depth == 0 {
            let reason = format!("{name} is nested too deep");
            return Err(DataError::Layout { path: root.to_owned(), reason });
        } else {
            walk(root, &path, &format!("{name}/"), depth - 1, names)?;
        }
        check_count(root, names.len())?;
    }
    Ok(())
}

fn check_count(path: &Path, files: usize) -> Result<(), DataError> {
    if files > MAX_FILES {
        let reason = format!("more than {MAX_FILES} files");
        return Err(DataError::Layout { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Names that file managers leave behind.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || matches!(name, "__MACOSX" | "Thumbs.db" | "desktop.ini")
}

/// Refuses a name that could lead out of the folder or zip, on any platform.
pub(super) fn check_name(path: &Path, name: &str) -> Result<(), DataError> {
    let drive = name.as_bytes().get(1) == Some(&b':');
    let bad = |c: char| c == '\\' || c.is_control();
    let part = |p: &str| matches!(p, "" | "." | "..");
    if drive || name.contains(bad) || name.split('/').any(part) {
        return Err(DataError::FileName { path: path.to_owned(), name: name.to_owned() });
    }
    Ok(())
}
