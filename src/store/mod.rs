//! The device's directory of installed deltas, with one active pointer per task.
//!
//! ```text
//! STORE/lock                          held by whoever changes the store
//! STORE/blobs/DIGEST.safetensors      delta files, named by what they hold, never changed
//! STORE/tasks/TASK.json               the history of a task, and which generation is active
//! ```
//!
//! An installation copies the file in, reads the copy back, lets the caller try it, and only then
//! replaces the task's record by a rename. Power may fail at any point: a task has its old delta
//! or its new one, whole. Readers take no lock.
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

mod check;
mod error;
mod record;
mod storage;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub use self::check::{Finding, Severity, check};
pub use self::error::StoreError;
pub use self::record::{Entry, Task};
pub use self::storage::{Disk, Storage};
use crate::delta::file::Links;
use crate::delta::{Delta, MAX_FILE_BYTES, clock, digest, is_digest, read_bytes};

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

/// What a store may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Most tasks.
    pub max_tasks: Option<usize>,
    /// Most bytes of all deltas, those that a rollback can reach included.
    pub max_bytes: Option<u64>,
}

/// Where [`Store::install`] takes a delta from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A file. It is copied, so it may go afterwards.
    File(&'a Path),
    /// The bytes of a file.
    Bytes(&'a [u8]),
}

impl<'a> From<&'a Path> for Source<'a> {
    fn from(path: &'a Path) -> Source<'a> {
        Source::File(path)
    }
}

impl<'a> From<&'a PathBuf> for Source<'a> {
    fn from(path: &'a PathBuf) -> Source<'a> {
        Source::File(path)
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Source<'a> {
        Source::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Source<'a> {
    fn from(bytes: &'a Vec<u8>) -> Source<'a> {
        Source::Bytes(bytes)
    }
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
        if let Ok(Some(_lock)) = store.storage.try_lock() {
            let _ = store.storage.sync_dir(Path::new(""));
            let _ = store.clean();
        }
        Ok(store)
    }

    /// The same store, whose changes wait this long for a change of another thread or process.
    pub fn lock_wait(self, lock_wait: Duration) -> Store {
        Store { lock_wait, ..self }
    }

    /// The same store, which refuses to grow over `budget`.
    pub fn with_budget(self, budget: Budget) -> Store {
        Store { budget, ..self }
    }

    /// Installs a delta for `task`, or for the task that it names itself, and makes it the active
    /// one. Returns its entry; the entry that is active already, if it has the same content.
    ///
    /// `check` gets the delta as it is stored. This is where to validate it against a backbone and
    /// to run its self test. It must not change the store: the lock is held around it.
    ///
    /// # Errors
    /// If the file is no delta, `check` fails, or the store cannot be written. The delta that was
    /// active stays so, and no file stays behind. There is one exception: where the very last
    /// step fails, making the new record durable, the new delta is active but a power cut may
    /// undo that.
    pub fn install<'a, E>(
        &self,
        source: impl Into<Source<'a>>,
        task: Option<&str>,
        check: impl FnOnce(&Delta) -> Result<(), E>,
    ) -> Result<Entry, StoreError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (bytes, name) = match source.into() {
            Source::File(path) => (read_bytes(path, Links::Follow)?, path.display().to_string()),
            Source::Bytes(bytes) => (bytes.to_vec(), "delta".to_string()),
        };
        let want = digest(&bytes);
        let _lock = self.lock()?;
        self.check_budget(&bytes, &want, task, &name)?;
        let temp = Path::new(BLOBS).join(INCOMING);
        self.write_incoming(&temp, &bytes)?;
        drop(bytes);
        // From here on the stored copy counts: it is what will be loaded.
        let result = self.admit(&temp, &want, &name, task, check);
        if result.is_err() {
            // The first error says more than one of the clean-up would; what this leaves behind,
            // the next open removes.
            let _ = self.storage.remove(&temp);
            let _ = self.remove_blob_if_unused(&want);
        }
        result
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
    /// Returns its entry.
    ///
    /// # Errors
    /// [`StoreError::NoPrevious`] if there is none. The active delta stays so on any error.
    pub fn rollback(&self, task: &str) -> Result<Entry, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.record(task)?.ok_or_else(|| self.unknown(task))?;
        let previous = record.previous().cloned().ok_or_else(|| StoreError::NoPrevious {
            task: task.into(),
            generation: record.active,
        })?;
        self.load(&previous)?;
        record.active = previous.generation;
        self.write_record(&record)?;
        Ok(previous)
    }

    /// Removes a task, its history, and the deltas that no other task has. Works on a damaged
    /// record too.
    ///
    /// # Errors
    /// [`StoreError::UnknownTask`] if nothing is installed for it.
    pub fn remove(&self, task: &str) -> Result<(), StoreError> {
        let path = task_path(task)?;
        let _lock = self.lock()?;
        match self.storage.remove(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.unknown(task)),
            result => result.map_err(|e| self.io(&path, "remove", e))?,
        }
        self.sync(TASKS)?;
        // The task is gone. Blobs that cannot be removed now, the next open removes.
        let _ = self.clean();
        Ok(())
    }

    /// Checks the stored copy of a delta and makes it the active one.
    fn admit<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        temp: &Path,
        want: &str,
        name: &str,
        task: Option<&str>,
        check: impl FnOnce(&Delta) -> Result<(), E>,
    ) -> Result<Entry, StoreError> {
        let delta = self.stored(temp, want, name)?;
        let task = task.unwrap_or(&delta.metadata().task);
        let mut record = self.record(task)?.unwrap_or_else(|| Task::new(task));
        check(&delta).map_err(|e| StoreError::Refused {
            task: task.into(),
            delta: name.into(),
            source: e.into(),
        })?;
        // Also when the blob is there: this replaces one that was damaged.
        let blob = blob_path(want);
        self.storage.rename(temp, &blob).map_err(|e| self.io(&blob, "rename to", e))?;
        self.sync(BLOBS)?;
        if let Some(active) = record.active_entry().filter(|e| e.digest == want) {
            return Ok(active.clone());
        }
        let entry = Entry {
            generation: 0,
            digest: want.into(),
            installed: clock::rfc3339(SystemTime::now()),
            method: delta.metadata().method.clone(),
            bytes: delta.file_bytes(),
        };
        let entry = record.push(entry, MAX_HISTORY);
        self.write_record(&record)?;
        // The installation is done. What cannot be removed now, the next open removes.
        let _ = self.clean();
        Ok(entry)
    }

    /// Refuses what would not fit, before anything is written.
    fn check_budget(
        &self,
        bytes: &[u8],
        digest: &str,
        task: Option<&str>,
        name: &str,
    ) -> Result<(), StoreError> {
        let over = |what, have, most| {
            let store = self.root.clone();
            if have > most { Err(StoreError::Budget { store, what, have, most }) } else { Ok(()) }
        };
        if let Some(most) = self.budget.max_tasks {
            let names = self.task_names()?;
            let task = match task {
                Some(task) => task.to_owned(),
                None => Delta::parse_header(bytes, name)?.task,
            };
            let new = usize::from(!names.contains(&task));
            over("tasks", (names.len() + new) as u64, most as u64)?;
        }
        if let Some(most) = self.budget.max_bytes {
            let entries = self.list()?.into_iter().flat_map(|t| t.entries);
            let mut sizes: HashMap<String, u64> = entries.map(|e| (e.digest, e.bytes)).collect();
            sizes.insert(digest.into(), bytes.len() as u64);
            over("bytes", sizes.values().fold(0, |sum, n| sum.saturating_add(*n)), most)?;
        }
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

    /// Removes files that were being written and blobs that no task has. Needs the lock.
    fn clean(&self) -> Result<(), StoreError> {
        for dir in [BLOBS, TASKS] {
            let temp = Path::new(dir).join(INCOMING);
            match self.storage.remove(&temp) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io(&temp, "remove", e));
                }
                _ => {}
            }
        }
        // Where a record is damaged nobody knows which blobs it had: then this stops, and all
        // blobs stay.
        let used = self.used_blobs()?;
        let names = self.names(BLOBS)?;
        let ours = |name: &String| name.strip_suffix(BLOB_SUFFIX).is_some_and(is_digest);
        for name in names.into_iter().filter(|n| ours(n) && !used.contains(n)) {
            let path = Path::new(BLOBS).join(name);
            self.storage.remove(&path).map_err(|e| self.io(&path, "remove", e))?;
        }
        Ok(())
    }

    fn remove_blob_if_unused(&self, digest: &str) -> Result<(), StoreError> {
        if self.used_blobs()?.contains(&format!("{digest}{BLOB_SUFFIX}")) {
            return Ok(());
        }
        let path = blob_path(digest);
        self.storage.remove(&path).map_err(|e| self.io(&path, "remove", e))
    }

    /// File names of the blobs that the records name.
    fn used_blobs(&self) -> Result<HashSet<String>, StoreError> {
        let entries = self.list()?.into_iter().flat_map(|t| t.entries);
        Ok(entries.map(|e| format!("{}{BLOB_SUFFIX}", e.digest)).collect())
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
            if let Some(lock) = self.storage.try_lock().map_err(|e| self.io(path, "lock", e))? {
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
    if !record::is_task_name(task) {
        return Err(StoreError::TaskName { task: task.chars().take(80).collect() });
    }
    Ok(Path::new(TASKS).join(format!("{task}{TASK_SUFFIX}")))
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
