//! How much a store may hold.

use std::collections::HashMap;

use super::{Store, StoreError};
use crate::delta::Delta;

/// What a store may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Most tasks.
    pub max_tasks: Option<usize>,
    /// Most bytes of all deltas, those that a rollback can reach included.
    pub max_bytes: Option<u64>,
}

impl Store {
    /// The same store, which refuses to grow over `budget`.
    pub fn with_budget(self, budget: Budget) -> Store {
        Store { budget, ..self }
    }

    /// Refuses what would not fit, before anything is written.
    pub(super) fn check_budget(
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
}
