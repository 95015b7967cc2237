//! Labels and splits from the names of files.

use std::path::Path;

use super::LIST;
use crate::data::{DataError, Row};

/// Folders that are taken as splits, in any case.
const SPLITS: [&str; 5] = ["train", "val", "valid", "validation", "test"];
/// Names that tell a picture, sound or array from a note beside the folders.
const MEDIA: [&str; 13] =
    ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "wav", "mp3", "flac", "ogg", "npy"];

/// One row per file, in the order of their names.
pub(super) fn rows(path: &Path, mut names: Vec<String>) -> Result<Vec<Row>, DataError> {
    let refused = |reason: String| DataError::Layout { path: path.to_owned(), reason };
    names.sort_unstable();
    let top = wrapper(&names).len();
    let inner = |name: &str| name.get(top..).unwrap_or_default().to_owned();
    let of_split = |name: &str| {
        let mut parts = name.splitn(3, '/');
        let split = parts.next().unwrap_or_default().to_ascii_lowercase();
        let label = parts.next().unwrap_or_default().to_owned();
        (SPLITS.contains(&split.as_str()) && parts.next().is_some()).then_some((split, label))
    };
    let with_splits = names.iter().any(|n| of_split(&inner(n)).is_some());

    let mut rows = Vec::new();
    for name in &names {
        let below = inner(name);
        let found = match (with_splits, below.split_once('/')) {
            (true, _) => of_split(&below).map(|(split, label)| (Some(split), label)),
            (false, Some((label, _))) => Some((None, label.to_owned())),
            (false, None) => None,
        };
        match found {
            Some((split, label)) => {
                rows.push(Row { text: name.clone(), label, split, line: 0 });
            }
            None if with_splits && is_media(name) => {
                return Err(refused(format!(
                    "other folders are splits, but {name:?} is not in SPLIT/LABEL/ with a split of {SPLITS:?}"
                )));
            }
            None if is_media(name) => return Err(refused(not_labelled(name))),
            // Notes and licences beside the folders.
            None => {}
        }
    }
    if rows.is_empty() {
        return Err(refused("there is no labelled file".to_owned()));
    }
    Ok(rows)
}

fn not_labelled(name: &str) -> String {
    let hint = match name.ends_with(".npy") {
        true => " (tools/data/npz_to_zip.py converts an .npz file)",
        false => "",
    };
    format!("{name:?} is in no label's folder{hint}")
}

/// The folder that holds all files, with its `/`, if it is neither a label nor a split: archives
/// often hold one. A set of one label would be of no use.
pub(super) fn wrapper(names: &[String]) -> &str {
    let first = names.first().map_or("", String::as_str);
    let Some((top, _)) = first.split_once('/') else { return "" };
    let prefix = first.get(..=top.len()).unwrap_or_default();
    let below: Option<Vec<&str>> = names.iter().map(|n| n.strip_prefix(prefix)).collect();
    let Some(below) = below else { return "" };
    let nested = below.iter().any(|n| n.contains('/'))
        && below.iter().all(|n| n.contains('/') || !is_media(n));
    let is_split = SPLITS.contains(&top.to_ascii_lowercase().as_str());
    if !is_split && (nested || below.contains(&LIST)) { prefix } else { "" }
}

fn is_media(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase();
    MEDIA.contains(&extension.as_str())
}
