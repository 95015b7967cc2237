//! Careful file access: bounded reads of regular files, and new files that are on the medium.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Whether the last part of a path may be a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Paths that a user gave.
    Follow,
    /// Paths inside the store.
    Refuse,
}

/// Why [`read`] has no bytes.
#[derive(Debug)]
pub(crate) enum ReadError {
    NotAFile,
    TooLarge(u64),
    Io(io::Error),
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, links: Links, limit: u64) -> Result<Vec<u8>, ReadError> {
    let (file, length) = open_regular(path, links, limit)?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length as usize)
        .map_err(|_| ReadError::Io(io::ErrorKind::OutOfMemory.into()))?;
    // The file may grow while it is read: the limit holds for what is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Opens a regular file of at most `limit` bytes and says how many it has.
pub(crate) fn open_regular(
    path: &Path,
    links: Links,
    limit: u64,
) -> Result<(File, u64), ReadError> {
    let file = open(path, links)?;
    let metadata = file.metadata().map_err(ReadError::Io)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    if metadata.len() > limit {
        return Err(ReadError::TooLarge(metadata.len()));
    }
    Ok((file, metadata.len()))
}

fn open(path: &Path, links: Links) -> Result<File, ReadError> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without O_NONBLOCK, opening a pipe would wait for a writer forever.
        let no_follow = if links == Links::Refuse { libc::O_NOFOLLOW } else { 0 };
        options.custom_flags(libc::O_NONBLOCK | no_follow);
    }
    options.open(path).map_err(|e| match fs::symlink_metadata(path) {
        Ok(m) if m.is_symlink() && links == Links::Refuse => ReadError::NotAFile,
        Ok(m) if m.is_dir() => ReadError::NotAFile,
        _ => ReadError::Io(e),
    })
}

/// Creates a file that must not exist, writes `bytes` and waits until they are on the medium.
/// `mode` is the permission bits on Unix. What was begun is left behind on failure.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
