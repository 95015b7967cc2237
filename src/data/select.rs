//! Selections of rows: few-shot draws, a stratified hold-out, and lists written down in JSON.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::shuffle::{rng, shuffle};
use super::{DataError, Dataset};

/// Largest file of row numbers that is read, in bytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

impl Dataset {
    /// Draws `n` of `rows` for every class of the file, class by class, ascending within one.
    ///
    /// The draw depends on nothing but the rows and `seed`; a class's draw does not depend on
    /// the other classes' rows.
    ///
    /// # Errors
    /// [`DataError::TooFewRows`] naming the first class with fewer than `n` rows.
    pub fn shots(&self, rows: &[usize], n: usize, seed: u64) -> Result<Vec<usize>, DataError> {
        let mut drawn = Vec::new();
        for (class, mut of_class) in self.by_class(rows).into_iter().enumerate() {
            if of_class.len() < n {
                return Err(DataError::TooFewRows {
                    path: self.path.clone(),
                    label: self.labels.get(class).cloned().unwrap_or_default(),
                    have: of_class.len(),
                    want: n,
                });
            }
            shuffle(&mut of_class, &mut rng(seed, class as u64));
            of_class.truncate(n);
            of_class.sort_unstable();
            drawn.append(&mut of_class);
        }
        Ok(drawn)
    }

    /// Divides `rows` into what is trained on and what is held out for validation.
    ///
    /// Of each class the nearest number to `fraction` of its rows is held out, but one at least
    /// stays for training; so a class with one row is never held out. Both parts are ascending.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `0 <= fraction < 1`.
    pub fn holdout(
        &self,
        rows: &[usize],
        fraction: f64,
        seed: u64,
    ) -> Result<(Vec<usize>, Vec<usize>), DataError> {
        if !(0.0..1.0).contains(&fraction) {
            return Err(DataError::Fraction { fraction });
        }
        let (mut train, mut held) = (Vec::new(), Vec::new());
        for (class, mut of_class) in self.by_class(rows).into_iter().enumerate() {
            shuffle(&mut of_class, &mut rng(seed, class as u64));
            let wanted = (of_class.len() as f64 * fraction).round() as usize;
            let kept = of_class.len() - wanted.min(of_class.len().saturating_sub(1));
            held.extend_from_slice(of_class.get(kept..).unwrap_or_default());
            of_class.truncate(kept);
            train.append(&mut of_class);
        }
        train.sort_unstable();
        held.sort_unstable();
        Ok((train, held))
    }

    /// Reads a list of row numbers (0-based) from a JSON file: `{"KEY": [3, 14, ...]}`, alone or
    /// under `fewshot_train_rows`.
    ///
    /// # Errors
    /// The file cannot be read or is not such a map, has no list `key`, or lists a row twice or
    /// one that this data set does not have.
    pub fn rows_from_json(
        &self,
        path: impl AsRef<Path>,
        key: &str,
    ) -> Result<Vec<usize>, DataError> {
        let path = path.as_ref();
        let bad = |reason: String| DataError::RowList { path: path.to_owned(), reason };
        let root: Value =
            serde_json::from_slice(&read_limited(path)?).map_err(|e| bad(e.to_string()))?;
        let lists = root.get("fewshot_train_rows").unwrap_or(&root);
        let lists = lists.as_object().ok_or_else(|| bad("not a JSON object".to_owned()))?;
        let list = lists.get(key).ok_or_else(|| DataError::NoSuchRowList {
            path: path.to_owned(),
            key: key.to_owned(),
            found: lists.iter().filter(|(_, v)| v.is_array()).map(|(k, _)| k.clone()).collect(),
        })?;
        let numbers = list.as_array().ok_or_else(|| bad(format!("{key:?} is not a list")))?;
        let row = |v: &Value| {
            let number = v.as_u64().and_then(|n| usize::try_from(n).ok());
            number.ok_or_else(|| bad(format!("{key:?} holds {v}, which is no row number")))
        };
        let rows = numbers.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        self.check_rows(&rows)?;
        Ok(rows)
    }

    /// Refuses row numbers that do not exist or occur twice.
    fn check_rows(&self, rows: &[usize]) -> Result<(), DataError> {
        let mut seen = HashSet::new();
        for &row in rows {
            let problem = if row >= self.rows.len() {
                "does not exist"
            } else if !seen.insert(row) {
                "is listed twice"
            } else {
                continue;
            };
            let (path, rows) = (self.path.clone(), self.rows.len());
            return Err(DataError::BadRow { path, row, rows, problem });
        }
        Ok(())
    }

    /// `rows` ascending, one list per class of the file.
    fn by_class(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let mut sorted = rows.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut classes = vec![Vec::new(); self.labels.len()];
        for row in sorted {
            let class = self.rows.get(row).and_then(|r| self.class(&r.label));
            if let Some(of_class) = class.and_then(|c| classes.get_mut(c)) {
                of_class.push(row);
            }
        }
        classes
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_LIST_BYTES {
        return Err(DataError::TooLarge { path: path.to_owned(), limit: MAX_LIST_BYTES });
    }
    Ok(bytes)
}
