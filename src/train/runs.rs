//! The finished runs of a comparison in a file: one JSON line each, never rewritten.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::TrainError;
use super::checkpoint::compare;
use super::compare::{Terms, Trial};
use crate::fs::sync_folder;
use crate::methods::{Method, Settings};

/// Finished runs. A run counts once its line is on the disk, so a comparison that was cut off
/// goes on with the run that it was in.
pub struct Runs {
    path: PathBuf,
    file: File,
    trials: Vec<Trial>,
    /// Bytes of the whole lines.
    length: u64,
}

impl Runs {
    /// Opens or creates the file. A last line that was not written to its end is dropped.
    ///
    /// # Errors
    /// [`TrainError::RunsIo`], also if another process has it open; [`TrainError::BadRuns`] for a
    /// line that is no run.
    pub fn open(path: &Path) -> Result<Runs, TrainError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open", path))?;
        // Two writers would mix their lines.
        file.try_lock().map_err(|e| failed("lock", path)(e.into()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read", path))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut trials = vec![];
        for (n, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            trials.push(serde_json::from_slice(line).map_err(|e| TrainError::BadRuns {
                path: path.to_owned(),
                line: n + 1,
                reason: e.to_string(),
            })?);
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new("."))).map_err(failed("write", path))?;
        Ok(Runs { path: path.to_owned(), file, trials, length: whole as u64 })
    }

    /// The finished runs, in the order in which they were made.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// Refuses a comparison that these runs are not part of. Other methods and seeds are welcome;
    /// what a method ran with before, it has to run with again.
    ///
    /// # Errors
    /// [`TrainError::OtherComparison`] naming every difference.
    pub fn check(
        &self,
        terms: &Terms,
        methods: &[(&dyn Method, Settings)],
    ) -> Result<(), TrainError> {
        let mut differences = vec![];
        let now = terms.shown();
        for old in &self.trials {
            compare("", &old.terms.shown(), &now, &mut differences);
            if let Some((method, settings)) = methods.iter().find(|m| m.0.name() == old.method) {
                let there = json!(old.settings);
                compare(method.name(), &there, &settings.to_json(), &mut differences);
            }
        }
        // Every run of the other comparison differs in the same way.
        let mut seen = HashSet::new();
        differences.retain(|d| seen.insert(d.clone()));
        match differences.is_empty() {
            true => Ok(()),
            false => Err(TrainError::OtherComparison { path: self.path.clone(), differences }),
        }
    }

    /// True if the run is finished.
    pub fn has(&self, method: &str, seed: u64) -> bool {
        self.trials.iter().any(|t| t.method == method && t.seed == seed)
    }

    /// Adds a run; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`TrainError::RunsIo`].
    pub fn add(&mut self, trial: &Trial) -> Result<(), TrainError> {
        let failed = failed("write", &self.path);
        let mut line = serde_json::to_string(trial).map_err(|e| failed(e.into()))?;
        // What the line says, to the last bit: a later call reads the same.
        let trial = serde_json::from_str(&line).map_err(|e| failed(e.into()))?;
        line.push('\n');
        let end = self.length;
        let written = (|| {
            // What is left of a torn line goes.
            self.file.set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
            self.file.write_all(line.as_bytes())?;
            self.file.sync_all()
        })();
        written.map_err(&failed)?;
        self.length += line.len() as u64;
        self.trials.push(trial);
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::RunsIo { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::table::trial;

    fn open(path: &Path) -> Vec<(String, u64)> {
        let runs = Runs::open(path).unwrap();
        runs.trials().iter().map(|t| (t.method.clone(), t.seed)).collect()
    }

    #[test]
    fn a_torn_line_is_dropped_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.jsonl");
        let mut runs = Runs::open(&path).unwrap();
        runs.add(&trial("linear", 0, 0.1 + 0.2)).unwrap();
        runs.add(&trial("lora", 1, 1.0 / 3.0)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(Runs::open(&path).is_err(), "it is open already");
        let kept = runs.trials().to_vec();
        drop(runs);
        assert_eq!(Runs::open(&path).unwrap().trials(), kept);
        for cut in [1, 2, 40, 300] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(open(&path), [("linear".into(), 0)], "{cut}");
            Runs::open(&path).unwrap().add(&kept[1]).unwrap();
            assert_eq!(open(&path), [("linear".into(), 0), ("lora".into(), 1)]);
            assert_eq!(std::fs::read(&path).unwrap().iter().filter(|b| **b == b'\n').count(), 2);
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.jsonl");
        std::fs::write(&path, "\n{\"method\":1}\n").unwrap();
        let error = Runs::open(&path).err().unwrap();
        assert_eq!(error.code(), "train.bad-runs");
        assert!(error.to_string().contains("line 2"), "{error}");
        std::fs::write(&path, [0xff, b'\n']).unwrap();
        assert!(Runs::open(&path).is_err());
    }

    #[test]
    fn other_options_are_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = Runs::open(&dir.path().join("runs.jsonl")).unwrap();
        let mut old = trial("linear", 0, 0.5);
        old.terms.validation = 1.0 / 3.0;
        old.settings = [("pooling".to_owned(), "auto".to_owned())].into();
        runs.add(&old).unwrap();
        runs.add(&Trial { seed: 1, ..old.clone() }).unwrap();
        let linear = crate::methods::find("linear").unwrap();
        let settings = |set: &[(&str, &str)]| {
            vec![(linear, Settings::resolve(linear, set.iter().copied()).unwrap())]
        };
        runs.check(&old.terms, &settings(&[])).unwrap();
        let other = Terms { shots: 3, ..old.terms.clone() };
        let error = runs.check(&other, &settings(&[("pooling", "cls")])).unwrap_err();
        assert_eq!(error.code(), "train.other-comparison");
        let text = error.to_string();
        assert_eq!(text.matches("there,").count(), 2, "{text}");
        assert!(text.contains("shots: 4 there, 3 now"), "{text}");
        assert!(text.contains("linear.pooling: \"auto\" there, \"cls\" now"), "{text}");
        // A method that has not run yet may have any settings.
        runs.check(&old.terms, &[]).unwrap();
    }
}
