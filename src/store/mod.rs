//! The device's directory of installed deltas, with one active pointer per task.
//!
//! ```text
//! STORE/lock                          held by whoever changes the store
//! STORE/blobs/DIGEST.safetensors      delta files, named by what they hold, never changed
//! STORE/tasks/TASK.json               the history of a task, and which generation is active
//! STORE/tasks/TASK.run                held by runs of a delta on trial while they come up
//! ```
//!
//! An installation copies the file in, reads the copy back, lets the caller try it, and only then
//! replaces the task's record by a rename. Power may fail at any point: a task has its old delta
//! or its new one, whole. Readers take no lock.
//!
//! A delta is [staged](Admission::Staged) until it is activated, [on trial](Admission::Trial)
//! until it is [confirmed](Store::confirm), and confirmed for good. A trial ends by itself at the
//! next [start](Store::start) when a run crashed while it came up, or when its runs are used up:
//! then the delta before it is active again.
//!
//! ```
//! # use edge_tune::delta::{Delta, Metadata};
//! # use edge_tune::tensor::Tensor;
//! use edge_tune::store::Store;
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! # let weight = Tensor::new(&[2, 1], &[0f32, 1.0])?;
//! # let delta = Delta::new(
//! #     Metadata::new("linear", &"0".repeat(64), &["no", "yes"]),
//! #     [("head.weight".to_string(), weight)],
//! # )?;
//! let store = Store::open(dir)?;
//! let installed = store.install(&delta.to_bytes()?, Some("weather"), |delta| {
//!     // Refuse what does not fit: validate it, run its self test.
//!     if delta.metadata().labels.len() == 2 { Ok(()) } else { Err("two labels are needed") }
//! })?;
//! assert_eq!(store.active("weather")?, Some(installed.clone()));
//! assert_eq!(store.load(&installed)?.digest(), delta.digest());
//! # Ok::<(), edge_tune::Error>(())
//! ```

mod budget;
mod check;
mod collect;
mod error;
mod install;
mod personal;
mod record;
mod storage;
mod trial;
mod watch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use self::budget::Budget;
pub use self::check::{Finding, Severity, check};
pub use self::error::StoreError;
pub use self::install::{Admission, Source};
pub use self::personal::Ancestor;
#[cfg(feature = "pull")]
pub(crate) use self::record::is_task_name;
pub use self::record::{Entry, State, Task};
#[cfg(feature = "pull")]
pub(crate) use self::storage::lock_file;
pub use self::storage::{Disk, Lock, Stamp, Storage};
pub use self::trial::Run;
pub use self::watch::Watch;
use crate::delta::{Delta, MAX_FILE_BYTES, digest, is_digest};

/// Entries kept per task: the active delta and those that a rollback can reach.
pub const MAX_HISTORY: usize = 8;
/// Largest record of a task in bytes.
pub const MAX_RECORD_BYTES: u64 = 1024 * 1024;
/// How long a change waits for another one, unless [`Store::lock_wait`] says otherwise.
pub const LOCK_WAIT: Duration = Duration::from_secs(30);

const BLOBS: &str = "blobs";
const TASKS: &str = "tasks";
const BLOB_SUFFIX: &str = ".safetensors";
const TASK_SUFFIX: &str = ".json";
const RUN_SUFFIX: &str = ".run";
/// A file that is being written. One name is enough: writers hold the lock.
const INCOMING: &str = ".incoming";

/// A directory of installed deltas. Several stores, also in other processes, can be open on one
/// directory.
pub struct Store {
    root: PathBuf,
    storage: Box<dyn Storage>,
    lock_wait: Duration,
    budget: Budget,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir` and creates it where there is none. Removes what an interrupted
    /// change left behind.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be created or read.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::with_storage(dir, Box::new(Disk::new(dir)))
    }

    /// Opens a store on another medium. `root` is its name in messages.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn with_storage(root: &Path, storage: Box<dyn Storage>) -> Result<Store, StoreError> {
        let store = Store {
            root: root.to_path_buf(),
            storage,
            lock_wait: LOCK_WAIT,
            budget: Budget::default(),
        };
        for dir in ["", BLOBS, TASKS] {
            let dir = Path::new(dir);
            store.storage.create_dir(dir).map_err(|e| store.io(dir, "create", e))?;
        }
        // A store that cannot be cleaned, as on a read-only medium, can still be read; and while
        // another process holds the lock, what looks left behind may be its work.
        if let Ok(Some(_lock)) = store.storage.try_lock(Path::new(storage::LOCK), Lock::Exclusive) {
            let _ = store.storage.sync_dir(Path::new(""));
            let _ = store.clean();
        }
        Ok(store)
    }

    /// The same store, whose changes wait this long for a change of another thread or process.
    pub fn lock_wait(self, lock_wait: Duration) -> Store {
        Store { lock_wait, ..self }
    }

    /// The active entry of `task`; `None` if nothing is installed for it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the record of the task is damaged.
    pub fn active(&self, task: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.record(task)?.and_then(|r| r.active_entry().cloned()))
    }

    /// Reads the delta of an entry and checks that its bytes are those that were installed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they are not, or are gone.
    pub fn load(&self, entry: &Entry) -> Result<Delta, StoreError> {
        let path = blob_path(&entry.digest);
        if !is_digest(&entry.digest) {
            return Err(self.damaged(&path, "its name is no digest"));
        }
        self.stored(&path, &entry.digest, &self.root.join(&path).display().to_string())
    }

    /// The active entry of `task` and its delta; `None` if nothing is active.
    ///
    /// # Errors
    /// As for [`Store::active`] and [`Store::load`]. A delta that goes because another process
    /// installs newer ones is no error: the newer one is read.
    pub fn load_active(&self, task: &str) -> Result<Option<(Entry, Delta)>, StoreError> {
        let mut entry = self.active(task)?;
        loop {
            let Some(current) = entry else { return Ok(None) };
            let error = match self.load(&current) {
                Ok(delta) => return Ok(Some((current, delta))),
                Err(e) => e,
            };
            entry = self.active(task)?;
            if entry.as_ref().is_some_and(|e| e.generation == current.generation) {
                return Err(error);
            }
        }
    }

    /// The record of `task`; `None` if nothing is installed for it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is damaged.
    pub fn task(&self, task: &str) -> Result<Option<Task>, StoreError> {
        self.record(task)
    }

    /// All tasks and their entries, by name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for the first damaged record; [`Store::active`] still serves the
    /// other tasks.
    pub fn list(&self) -> Result<Vec<Task>, StoreError> {
        let mut tasks = Vec::new();
        for name in self.task_names()? {
            // A task may be removed while the list is made.
            tasks.extend(self.record(&name)?);
        }
        Ok(tasks)
    }

    /// Makes the delta active that was so before the active one, after checking that it is whole.
    /// Returns its entry. A trial that this ends has failed.
    ///
    /// # Errors
    /// [`StoreError::NoPrevious`] if there is none. The active delta stays so on any error.
    pub fn rollback(&self, task: &str) -> Result<Entry, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.known(task)?;
        let previous = record.previous().cloned().ok_or_else(|| StoreError::NoPrevious {
            task: task.into(),
            generation: record.active,
        })?;
        self.load(&previous)?;
        record.revert();
        self.write_record(&record)?;
        Ok(previous)
    }

    /// Removes a task, its history, and the deltas that no other task has. Works on a damaged
    /// record too.
    ///
    /// # Errors
    /// [`StoreError::UnknownTask`] if nothing is installed for it.
    pub fn remove(&self, task: &str) -> Result<(), StoreError> {
        task_path(task)?;
        let _lock = self.lock()?;
        self.remove_record(task)?;
        // The task is gone. Blobs that cannot be removed now, the next open removes.
        let _ = self.clean();
        Ok(())
    }

    /// Reads a delta of the store and compares its digest.
    fn stored(&self, path: &Path, want: &str, name: &str) -> Result<Delta, StoreError> {
        let bytes = self.storage.read(path, MAX_FILE_BYTES).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.damaged(path, "the file is gone"),
            io::ErrorKind::InvalidData => self.damaged(path, "not a regular file"),
            io::ErrorKind::FileTooLarge => self.damaged(path, "the file has grown"),
            _ => self.io(path, "read", e),
        })?;
        if digest(&bytes) != want {
            return Err(self.damaged(path, "its bytes are not those that were installed"));
        }
        Ok(Delta::parse(&bytes, name)?)
    }

    fn record(&self, task: &str) -> Result<Option<Task>, StoreError> {
        let path = task_path(task)?;
        let corrupt = |reason: io::Error| StoreError::Corrupt {
            path: self.root.join(&path),
            task: task.into(),
            reason: reason.to_string(),
        };
        match self.storage.read(&path, MAX_RECORD_BYTES) {
            Ok(bytes) => Task::parse(&bytes, task, &self.root.join(&path)).map(Some),
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound => Ok(None),
                io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge => Err(corrupt(e)),
                _ => Err(self.io(&path, "read", e)),
            },
        }
    }

    /// The record of `task`, which must be there.
    ///
    /// # Errors
    /// [`StoreError::UnknownTask`] if nothing is installed for it; as [`Store::task`] otherwise.
    pub fn known(&self, task: &str) -> Result<Task, StoreError> {
        self.record(task)?.ok_or_else(|| self.unknown(task))
    }

    fn remove_record(&self, task: &str) -> Result<(), StoreError> {
        let path = task_path(task)?;
        match self.storage.remove(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.unknown(task)),
            result => result.map_err(|e| self.io(&path, "remove", e))?,
        }
        self.sync(TASKS)
    }

    /// Replaces the record of a task. This is the moment at which a change takes effect.
    fn write_record(&self, record: &Task) -> Result<(), StoreError> {
        let path = task_path(&record.task)?;
        let temp = Path::new(TASKS).join(INCOMING);
        let bytes = record.to_bytes().map_err(|e| self.io(&path, "encode", e.into()))?;
        self.write_incoming(&temp, &bytes)?;
        if let Err(e) = self.storage.rename(&temp, &path) {
            let _ = self.storage.remove(&temp);
            return Err(self.io(&path, "replace", e));
        }
        self.sync(TASKS)
    }

    /// Writes a file that is not in use yet.
    fn write_incoming(&self, temp: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        // One may be left from a change that was cut off.
        match self.storage.remove(temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(self.io(temp, "remove", e));
            }
            _ => {}
        }
        self.storage.write_new(temp, bytes).map_err(|e| {
            let _ = self.storage.remove(temp);
            self.io(temp, "write", e)
        })
    }

    fn task_names(&self) -> Result<Vec<String>, StoreError> {
        let names = self.names(TASKS)?;
        let tasks = names.iter().filter_map(|n| n.strip_suffix(TASK_SUFFIX));
        let mut tasks: Vec<String> =
            tasks.filter(|t| record::is_task_name(t)).map(str::to_string).collect();
        tasks.sort();
        Ok(tasks)
    }

    fn names(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        let dir = Path::new(dir);
        self.storage.list(dir).map_err(|e| self.io(dir, "list", e))
    }

    fn sync(&self, dir: &str) -> Result<(), StoreError> {
        let dir = Path::new(dir);
        self.storage.sync_dir(dir).map_err(|e| self.io(dir, "sync", e))
    }

    fn lock(&self) -> Result<Box<dyn Send>, StoreError> {
        let path = Path::new(storage::LOCK);
        let start = Instant::now();
        loop {
            if let Some(lock) = self
                .storage
                .try_lock(path, Lock::Exclusive)
                .map_err(|e| self.io(path, "lock", e))?
            {
                return Ok(lock);
            }
            if start.elapsed() >= self.lock_wait {
                let (path, waited) = (self.root.join(path), self.lock_wait);
                return Err(StoreError::Busy { path, waited });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn io(&self, path: &Path, action: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { path: self.root.join(path), action, source }
    }

    fn damaged(&self, path: &Path, reason: &str) -> StoreError {
        StoreError::Damaged { path: self.root.join(path), reason: reason.into() }
    }

    fn unknown(&self, task: &str) -> StoreError {
        StoreError::UnknownTask { store: self.root.clone(), task: task.into() }
    }
}

fn blob_path(digest: &str) -> PathBuf {
    Path::new(BLOBS).join(format!("{digest}{BLOB_SUFFIX}"))
}

fn task_path(task: &str) -> Result<PathBuf, StoreError> {
    task_file(task, TASK_SUFFIX)
}

/// The file that runs of a delta on trial hold while they come up.
fn run_path(task: &str) -> Result<PathBuf, StoreError> {
    task_file(task, RUN_SUFFIX)
}

fn task_file(task: &str, suffix: &str) -> Result<PathBuf, StoreError> {
    if !record::is_task_name(task) {
        return Err(StoreError::TaskName { task: task.chars().take(80).collect() });
    }
    Ok(Path::new(TASKS).join(format!("{task}{suffix}")))
}

/// Reads a record; for fuzzing.
pub(crate) fn check_record(bytes: &[u8], task: &str) {
    if let Ok(record) = Task::parse(bytes, task, Path::new("fuzz.json"))
        && let Ok(written) = record.to_bytes()
    {
        let again = Task::parse(&written, task, Path::new("fuzz.json"));
        assert_eq!(again.ok(), Some(record), "what is written can be read");
    }
}
