//! The few file operations that the store is built on.
//!
//! Everything the store does to its medium goes through [`Storage`], so that a test can make any
//! single step fail or cut the power after it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::delta::file::{self, Links, ReadError};

/// File operations below one directory. Paths are relative to it: a file name, or a directory
/// name and a file name.
///
/// What the store needs from an implementation: after `write_new` returns, the bytes of the file
/// survive a power cut; after `sync_dir` returns, so do the names in the directory; a `rename` is
/// seen whole or not at all.
pub trait Storage: Send + Sync {
    /// Creates a private directory where there is none. An empty path is the root.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Reads a regular file of at most `limit` bytes. Never follows a symbolic link.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Creates a private file that must not exist and waits until its bytes are on the medium.
    /// May leave a part of it behind on failure.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file a new name. A file that has the name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Waits until the names in a directory are on the medium. An empty path is the root.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file. A link is removed, not what it points to.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the entries of a directory, in any order. Names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Takes a lock across threads and processes until the result is dropped, on a file that is
    /// created where there is none. `None` if another one holds it. What a process holds is freed
    /// when the process ends, however it ends.
    fn try_lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Send>>>;
    /// What changes whenever the file is replaced; `None` if there is none. It is asked for many
    /// times a second.
    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>>;
}

/// Who else may hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others who share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Identifies the state of a file. Only equality has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub [u64; 4]);

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Files below `root`, which need not exist yet.
    pub fn new(root: &Path) -> Disk {
        Disk { root: root.to_path_buf() }
    }
}

/// Name of the writers' lock file in the root.
pub(super) const LOCK: &str = "lock";

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = self.root.join(path);
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        // The root is the user's choice; what lies inside must really lie inside.
        if path != self.root && !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "a link to a directory"));
        }
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        file::read(&self.root.join(path), Links::Refuse, limit).map_err(|e| match e {
            ReadError::Io(e) => e,
            ReadError::NotAFile => io::Error::new(io::ErrorKind::InvalidData, "not a regular file"),
            ReadError::TooLarge(bytes) => {
                let reason = format!("{bytes} bytes, at most {limit} are allowed");
                io::Error::new(io::ErrorKind::FileTooLarge, reason)
            }
        })
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        file::write_new(&self.root.join(path), bytes, 0o600)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        crate::fs::sync_folder(&self.root.join(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn try_lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Send>>> {
        let file = lock_file(&self.root.join(path), lock)?;
        Ok(file.map(|file| Box::new(file) as Box<dyn Send>))
    }

    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        let metadata = match fs::symlink_metadata(self.root.join(path)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        // A file system may keep times to the second only; a replacement then still has another
        // inode, as the old one is in use until the rename.
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::from(since.subsec_nanos());
        Ok(Some(Stamp([inode, metadata.len(), since.as_secs(), nanos])))
    }
}

/// Takes a lock on the file at `path`, which is created where there is none, until the result is
/// dropped; `None` if another one holds it. Never follows a symbolic link.
pub(crate) fn lock_file(path: &Path, lock: Lock) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    // Opened anew each time: the lock belongs to the open file, so threads exclude each other
    // just as processes do.
    let file = options.open(path)?;
    let taken = match lock {
        Lock::Shared => file.try_lock_shared(),
        Lock::Exclusive => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}
