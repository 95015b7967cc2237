//! How a delta comes into the store.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{BLOBS, Entry, INCOMING, MAX_HISTORY, State, Store, StoreError, Task, blob_path};
use crate::delta::file::Links;
use crate::delta::{Delta, clock, digest, read_bytes};

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

/// What becomes of a delta that is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is stored, and waits for [`Store::activate`].
    Staged,
    /// It becomes the active one on trial: without a [`Store::confirm`] within this many runs, or
    /// if one of them crashes while it comes up, the delta before it is active again.
    Trial(u32),
    /// It becomes the active one for good.
    Confirmed,
}

impl Admission {
    fn state(self) -> State {
        match self {
            Admission::Staged => State::Staged,
            Admission::Trial(left) => State::Trial { left, starting: 0 },
            Admission::Confirmed => State::Confirmed,
        }
    }
}

impl Store {
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
        self.admit(source, task, Admission::Confirmed, check)
    }

    /// Like [`Store::install`], for a delta that may be staged or on trial first.
    ///
    /// # Errors
    /// As for [`Store::install`].
    pub fn admit<'a, E>(
        &self,
        source: impl Into<Source<'a>>,
        task: Option<&str>,
        admission: Admission,
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
        let result = self.take_in(&temp, &want, &name, task, admission, check);
        if result.is_err() {
            // The first error says more than one of the clean-up would; what this leaves behind,
            // the next open removes.
            let _ = self.storage.remove(&temp);
            let _ = self.remove_blob_if_unused(&want);
        }
        result
    }

    /// Makes the staged delta of `task` the active one, confirmed or on trial, after checking it
    /// as [`Store::install`] does. Returns its entry.
    ///
    /// # Errors
    /// [`StoreError::State`] if none is staged; [`StoreError::Refused`] if `check` fails. The
    /// active delta stays so on any error.
    pub fn activate<E>(
        &self,
        task: &str,
        admission: Admission,
        check: impl FnOnce(&Delta) -> Result<(), E>,
    ) -> Result<Entry, StoreError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let _lock = self.lock()?;
        let mut record = self.known(task)?;
        let staged = record.staged().cloned().ok_or_else(|| StoreError::State {
            task: task.into(),
            wanted: "staged",
            hint: "stage one with `apply --stage`",
        })?;
        let delta = self.load(&staged)?;
        check(&delta).map_err(|e| refused(task, &staged.digest, e))?;
        let state = admission.state();
        record.activate(staged.generation, state);
        self.write_record(&record)?;
        let _ = self.clean();
        Ok(Entry { state, ..staged })
    }

    /// Checks the stored copy of a delta and makes it the active one.
    fn take_in<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        temp: &Path,
        want: &str,
        name: &str,
        task: Option<&str>,
        admission: Admission,
        check: impl FnOnce(&Delta) -> Result<(), E>,
    ) -> Result<Entry, StoreError> {
        let delta = self.stored(temp, want, name)?;
        let task = task.unwrap_or(&delta.metadata().task);
        let mut record = self.record(task)?.unwrap_or_else(|| Task::new(task));
        check(&delta).map_err(|e| refused(task, name, e))?;
        // Also when the blob is there: this replaces one that was damaged.
        let blob = blob_path(want);
        self.storage.rename(temp, &blob).map_err(|e| self.io(&blob, "rename to", e))?;
        self.sync(BLOBS)?;
        let state = admission.state();
        if let Some(active) = record.active_entry().filter(|e| e.digest == want) {
            // What is in use is neither staged nor tried anew. It can be confirmed.
            if state != State::Confirmed || active.state == state {
                return Ok(active.clone());
            }
            let entry = Entry { state, ..active.clone() };
            record.activate(entry.generation, state);
            self.write_record(&record)?;
            return Ok(entry);
        }
        let entry = Entry {
            generation: 0,
            digest: want.into(),
            installed: clock::rfc3339(SystemTime::now()),
            method: delta.metadata().method.clone(),
            bytes: delta.file_bytes(),
            parent: delta.metadata().parent.clone(),
            state,
        };
        let entry = record.push(entry, MAX_HISTORY);
        self.write_record(&record)?;
        // The installation is done. What cannot be removed now, the next open removes.
        let _ = self.clean();
        Ok(entry)
    }
}

fn refused(task: &str, delta: &str, e: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Refused { task: task.into(), delta: delta.into(), source: e.into() }
}
