//! The publisher's side: an index of the deltas and patches in a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::index::{INDEX_FORMAT, Index, MAX_INDEX_BYTES, Offer, PatchOffer, is_path};
use super::patch::{Header, MAX_PATCHED_BYTES};
use super::time::Time;
use super::{FetchError, INDEX_FILE, trust};
use crate::delta::{Delta, digest};

/// Directories below each other.
const MAX_DEPTH: usize = 8;

/// An index of everything in a directory.
#[derive(Clone, Debug)]
pub struct Published {
    /// The index.
    pub index: Index,
    /// Patches that are for no delta in the directory, or longer than it.
    pub unused: Vec<PathBuf>,
}

/// Lists the `.safetensors` files and the `.patch` files in `site` and below, for devices to
/// accept during `valid` from `now` on. The version is one above that of the `index.json` that is
/// there, 1 where there is none.
///
/// # Errors
/// [`FetchError::Publish`] if two files are for one task and backbone, a delta names no task, or a
/// file name cannot be part of an address; also if a file is no delta or no patch.
pub fn index(site: &Path, now: SystemTime, valid: Duration) -> Result<Published, FetchError> {
    let name = site.display().to_string();
    let old = site.join(INDEX_FILE);
    let version = match old.exists() {
        true => {
            let bytes = trust::read(&old, MAX_INDEX_BYTES)?;
            Index::parse(&bytes, &old.display().to_string())?.version + 1
        }
        false => 1,
    };
    let mut files = Vec::new();
    walk(site, "", 0, &mut files)?;
    files.sort();
    let mut deltas: Vec<Offer> = Vec::new();
    for path in files.iter().filter(|p| p.ends_with(".safetensors")) {
        let offer = offer(site, path)?;
        let same = |o: &&Offer| o.task == offer.task && o.backbone == offer.backbone;
        if let Some(other) = deltas.iter().find(same) {
            return Err(refused(
                &site.join(path),
                format!(
                    "{} is for task `{}` and the same backbone; move one of them away",
                    site.join(&other.path).display(),
                    offer.task
                ),
            ));
        }
        deltas.push(offer);
    }
    let mut unused = Vec::new();
    for path in files.iter().filter(|p| p.ends_with(".patch")) {
        let file = site.join(path);
        let bytes = trust::read(&file, MAX_PATCHED_BYTES)?;
        let header = Header::parse(&bytes, &file.display().to_string())?;
        let size = bytes.len() as u64;
        // The same delta may serve several tasks.
        let mut used = false;
        for offer in deltas.iter_mut().filter(|o| o.digest == header.to && size < o.bytes) {
            used = true;
            offer.patches.push(PatchOffer {
                from: header.from.clone(),
                path: path.clone(),
                bytes: size,
                digest: digest(&bytes),
            });
        }
        if !used {
            unused.push(file);
        }
    }
    let created = Time::of(now);
    let expires = Time(created.0.saturating_add(valid.as_secs()));
    let index = Index {
        format: INDEX_FORMAT.into(),
        version,
        created: created.text(),
        expires: expires.text(),
        deltas,
    };
    index.to_bytes(&name)?;
    Ok(Published { index, unused })
}

/// The paths and contents of all that belongs to the site: its index, which must be what the files
/// are, their signatures, the roots, and the deltas and patches that the index names.
///
/// # Errors
/// [`FetchError::Publish`] if a file is not what the index says; [`FetchError::Io`] if one is
/// missing.
#[cfg(feature = "oci")]
pub(super) fn files(site: &Path) -> Result<Vec<(String, Vec<u8>)>, FetchError> {
    use super::keys::MAX_SIGNATURE_BYTES;
    use super::root::MAX_ROOT_BYTES;
    use super::{INDEX_FILE, SIGNATURE_SUFFIX};

    let text = trust::read(&site.join(INDEX_FILE), MAX_INDEX_BYTES)?;
    let index = Index::parse(&text, &site.join(INDEX_FILE).display().to_string())?;
    let mut named: Vec<(&str, u64, &str)> = Vec::new();
    for offer in &index.deltas {
        named.push((&offer.path, offer.bytes, &offer.digest));
        named.extend(offer.patches.iter().map(|p| (&*p.path, p.bytes, &*p.digest)));
    }
    named.sort();
    named.dedup();
    let mut files = vec![(INDEX_FILE.to_string(), text)];
    for (path, bytes, want) in named {
        let content = trust::read(&site.join(path), bytes)?;
        if digest(&content) != want {
            let reason = "not what the index says; make the index again and sign it".into();
            return Err(refused(&site.join(path), reason));
        }
        files.push((path.to_string(), content));
    }
    let mut optional = |path: String, limit: u64| -> Result<bool, FetchError> {
        let there = site.join(&path).is_file();
        if there {
            let content = trust::read(&site.join(&path), limit)?;
            files.push((path, content));
        }
        Ok(there)
    };
    optional(format!("{INDEX_FILE}{SIGNATURE_SUFFIX}"), MAX_SIGNATURE_BYTES)?;
    for version in 1.. {
        let path = format!("root/{version}.json");
        let there = optional(path.clone(), MAX_ROOT_BYTES)?;
        // The first root reaches devices in another way and need not be published.
        if !there && version > 1 {
            break;
        }
        optional(format!("{path}{SIGNATURE_SUFFIX}"), MAX_SIGNATURE_BYTES)?;
    }
    Ok(files)
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`FetchError::Io`] if it cannot be read or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FetchError> {
    trust::read(path, limit)
}

/// Replaces the file at `path`, whole or not at all.
///
/// # Errors
/// [`FetchError::Io`], and then `path` is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    let failed = |source| FetchError::Io { path: path.into(), action: "write", source };
    crate::fs::write_atomic(path, bytes).map_err(failed)
}

fn offer(site: &Path, path: &str) -> Result<Offer, FetchError> {
    let file = site.join(path);
    let delta = Delta::read(&file)?;
    let metadata = delta.metadata();
    if !crate::store::is_task_name(&metadata.task) {
        let reason = format!("{:?} is no task name; train it with --task NAME", metadata.task);
        return Err(refused(&file, reason));
    }
    Ok(Offer {
        task: metadata.task.clone(),
        digest: delta.digest().into(),
        bytes: delta.file_bytes(),
        backbone: metadata.backbone.clone(),
        method: metadata.method.clone(),
        path: path.into(),
        patches: Vec::new(),
    })
}

/// The paths of the files below `dir`, with slashes. Links and hidden files are left out.
fn walk(site: &Path, dir: &str, depth: usize, out: &mut Vec<String>) -> Result<(), FetchError> {
    let folder = site.join(dir);
    let io = |source| FetchError::Io { path: folder.clone(), action: "list", source };
    if depth > MAX_DEPTH {
        return Err(refused(&folder, format!("more than {MAX_DEPTH} directories deep")));
    }
    for entry in fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(io)?;
        let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
        let ours = name.ends_with(".safetensors") || name.ends_with(".patch");
        if name.starts_with('.') || !(kind.is_dir() || kind.is_file() && ours) {
            continue;
        }
        if kind.is_dir() {
            walk(site, &path, depth + 1, out)?;
        } else if is_path(&path) {
            out.push(path);
        } else {
            let reason = "use letters, digits, dots, dashes and underscores in names; rename it";
            return Err(refused(&entry.path(), reason.into()));
        }
    }
    Ok(())
}

fn refused(path: &Path, reason: String) -> FetchError {
    FetchError::Publish { name: path.display().to_string(), reason }
}
