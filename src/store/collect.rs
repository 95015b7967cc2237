//! Removal of what nobody needs any more.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::{
    BLOB_SUFFIX, BLOBS, INCOMING, RUN_SUFFIX, Store, StoreError, TASKS, blob_path, record, run_path,
};
use crate::delta::is_digest;

impl Store {
    /// Removes what an interrupted change left behind and deltas that no task has. Opening a
    /// store does this too. Whoever reads a delta meanwhile has it whole: deltas are read into
    /// memory, and on Unix an open file outlives its name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a record is damaged: then nobody knows which deltas it had, and
    /// all stay.
    pub fn collect(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.clean()
    }

    /// Removes files that were being written and blobs that no task has. Needs the lock.
    pub(super) fn clean(&self) -> Result<(), StoreError> {
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
        self.clean_runs()
    }

    /// Removes the files that runs held, of tasks that have nothing on trial.
    fn clean_runs(&self) -> Result<(), StoreError> {
        for name in self.names(TASKS)? {
            let task = name.strip_suffix(RUN_SUFFIX).filter(|t| record::is_task_name(t));
            if let Some(task) = task {
                self.clean_run(task)?;
            }
        }
        Ok(())
    }

    /// Removes the file that runs of the task held, if nothing is on trial. Needs the lock, under
    /// which alone a run takes hold of it.
    pub(super) fn clean_run(&self, task: &str) -> Result<(), StoreError> {
        if self.active(task)?.is_some_and(|e| e.on_trial()) {
            return Ok(());
        }
        let path = run_path(task)?;
        match self.storage.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.io(&path, "remove", e)),
            _ => Ok(()),
        }
    }

    pub(super) fn remove_blob_if_unused(&self, digest: &str) -> Result<(), StoreError> {
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
}
