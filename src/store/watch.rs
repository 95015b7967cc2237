//! Seeing that another thread or process changed a task.

use std::fmt;

use super::{Entry, Stamp, Store, StoreError, task_path};

/// Tells when the active delta of a task changes. Made by [`Store::watch`].
pub struct Watch<'a> {
    store: &'a Store,
    task: String,
    stamp: Option<Stamp>,
    seen: Option<(u64, String)>,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("task", &self.task).field("seen", &self.seen).finish()
    }
}

impl Store {
    /// Watches the active delta of `task`, which need not be installed yet. `seen` is the entry
    /// that the caller has; `None` if it has none.
    ///
    /// # Errors
    /// [`StoreError::TaskName`] for a name that no task can have.
    pub fn watch(&self, task: &str, seen: Option<&Entry>) -> Result<Watch<'_>, StoreError> {
        task_path(task)?;
        let seen = seen.map(key);
        Ok(Watch { store: self, task: task.into(), stamp: None, seen })
    }
}

impl Watch<'_> {
    /// The new active entry, once for each change that is seen: `Some(None)` when nothing is
    /// active any more. Costs a look at one file's metadata while nothing changes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the record of the task is damaged, once for each damage.
    pub fn poll(&mut self) -> Result<Option<Option<Entry>>, StoreError> {
        let path = task_path(&self.task)?;
        let stamp = self.store.storage.stamp(&path);
        let stamp = stamp.map_err(|e| self.store.io(&path, "look at", e))?;
        if stamp == self.stamp {
            return Ok(None);
        }
        // The stamp is older than what is read next, so that no change is missed.
        self.stamp = stamp;
        let active = self.store.active(&self.task)?;
        let now = active.as_ref().map(key);
        if now == self.seen {
            return Ok(None);
        }
        self.seen = now;
        Ok(Some(active))
    }
}

/// A task that was removed and installed again starts to count anew: the digest tells them apart.
fn key(entry: &Entry) -> (u64, String) {
    (entry.generation, entry.digest.clone())
}
