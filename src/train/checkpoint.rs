//! The state of an interrupted run, in one safetensors file.
//!
//! Tensors: `param/NAME` and `best/NAME` (values now, and when validation was best),
//! `first/NAME` and `second/NAME` (running averages of the optimizer), all f32. Metadata: format
//! version, plan, counters, and a SHA-256 over all of it. There is no generator state: the order
//! of rows follows from the plan's seed and the counters.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Moments, OptimizerState, TrainError};
use crate::fs::{remove_durably, write_atomic};
use crate::tensor::Tensor;

const FORMAT: &str = "1";
const FORMAT_KEY: &str = "edge-tune.checkpoint";
const PLAN_KEY: &str = "plan";
const DIGEST_KEY: &str = "sha256";

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// The best validation so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Its score; larger is better.
    pub score: f64,
    /// The training step after which it was measured.
    pub step: u64,
    /// The trainable tensors at that step, f32.
    pub params: BTreeMap<String, Tensor>,
}

/// Everything that a run needs to go on as if it had not stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What identifies the run: method, configuration, data digest, seed, hyper-parameters.
    pub plan: Value,
    /// Training steps taken.
    pub step: u64,
    /// Epoch of the next batch, from 0.
    pub epoch: u64,
    /// Rows of that epoch already trained on.
    pub position: usize,
    /// The trainable tensors, f32.
    pub params: BTreeMap<String, Tensor>,
    /// The running averages.
    pub optimizer: OptimizerState,
    /// The best validation, once there was one.
    pub best: Option<Best>,
}

impl Checkpoint {
    /// Writes the checkpoint, replacing an older one at once or not at all.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if a tensor is not f32, [`TrainError::CheckpointIo`] if the
    /// file cannot be written; an older checkpoint is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let bytes = self.to_bytes().map_err(|reason| bad(path, reason))?;
        write_atomic(path, &bytes).map_err(io_error("write", path))
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::CheckpointIo`] if the file cannot be read, [`TrainError::BadCheckpoint`] if
    /// it is damaged or of another version.
    pub fn read(path: &Path) -> Result<Checkpoint, TrainError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io_error("read", path))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(bad(path, format!("larger than {MAX_BYTES} bytes")));
        }
        Checkpoint::from_bytes(&bytes).map_err(|reason| bad(path, reason))
    }

    /// Reads the checkpoint of the run that `plan` describes, or `None` if there is no file.
    ///
    /// # Errors
    /// Those of [`read`](Checkpoint::read), and [`TrainError::OtherRun`] with every difference
    /// if the plan is not the same.
    pub fn resume(path: &Path, plan: &Value) -> Result<Option<Checkpoint>, TrainError> {
        let checkpoint = match Checkpoint::read(path) {
            Err(TrainError::CheckpointIo { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            other => other?,
        };
        // Numbers are compared as they come back from text, on both sides.
        let plan = serde_json::from_str(&plan.to_string()).unwrap_or(Value::Null);
        let mut differences = Vec::new();
        compare("", &checkpoint.plan, &plan, &mut differences);
        if !differences.is_empty() {
            return Err(TrainError::OtherRun { path: path.to_owned(), differences });
        }
        Ok(Some(checkpoint))
    }

    /// Removes the file of a run that is finished; it may be missing.
    ///
    /// # Errors
    /// [`TrainError::CheckpointIo`] if it is there and cannot be removed.
    pub fn remove(path: &Path) -> Result<(), TrainError> {
        remove_durably(path).map_err(io_error("remove", path))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut meta = HashMap::from([
            (FORMAT_KEY.to_owned(), FORMAT.to_owned()),
            (PLAN_KEY.to_owned(), self.plan.to_string()),
            ("step".to_owned(), self.step.to_string()),
            ("epoch".to_owned(), self.epoch.to_string()),
            ("position".to_owned(), self.position.to_string()),
            ("optimizer_step".to_owned(), self.optimizer.step.to_string()),
        ]);
        let mut views = BTreeMap::new();
        for (name, tensor) in &self.params {
            views.insert(format!("param/{name}"), view(name, tensor)?);
        }
        if let Some(best) = &self.best {
            // As text, Rust's f64 comes back bit for bit.
            meta.insert("best_score".to_owned(), best.score.to_string());
            meta.insert("best_step".to_owned(), best.step.to_string());
            for (name, tensor) in &best.params {
                views.insert(format!("best/{name}"), view(name, tensor)?);
            }
        }
        for (name, moments) in &self.optimizer.moments {
            views.insert(format!("first/{name}"), floats(&[moments.first.len()], &moments.first)?);
            let second = floats(&[moments.second.len()], &moments.second)?;
            views.insert(format!("second/{name}"), second);
        }
        meta.insert(DIGEST_KEY.to_owned(), digest(&meta, &views));
        safetensors::serialize(views, Some(meta)).map_err(|e| e.to_string())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, String> {
        let text = |e: safetensors::SafeTensorError| e.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(text)?;
        let meta = header.metadata().clone().unwrap_or_default();
        match meta.get(FORMAT_KEY) {
            Some(version) if version == FORMAT => {}
            Some(version) => return Err(format!("it has format {version}, not {FORMAT}")),
            None => return Err(format!("its metadata has no {FORMAT_KEY:?}")),
        }
        let views: BTreeMap<String, TensorView<'_>> =
            SafeTensors::deserialize(bytes).map_err(text)?.tensors().into_iter().collect();
        if meta.get(DIGEST_KEY) != Some(&digest(&meta, &views)) {
            return Err("its SHA-256 does not match, it is damaged".to_owned());
        }
        let mut params = BTreeMap::new();
        let mut best_params = BTreeMap::new();
        let mut moments: BTreeMap<String, Moments> = BTreeMap::new();
        for (full_name, view) in &views {
            let tensor = read_tensor(full_name, view)?;
            let (kind, name) = full_name.split_once('/').unwrap_or(("", full_name));
            let name = name.to_owned();
            match kind {
                "param" => drop(params.insert(name, tensor)),
                "best" => drop(best_params.insert(name, tensor)),
                "first" => moments.entry(name).or_default().first = tensor.to_f32().into_owned(),
                "second" => moments.entry(name).or_default().second = tensor.to_f32().into_owned(),
                _ => return Err(format!("unknown tensor {full_name:?}")),
            }
        }
        let best = match meta.contains_key("best_score") {
            true => Some(Best {
                score: field(&meta, "best_score")?,
                step: field(&meta, "best_step")?,
                params: best_params,
            }),
            false => None,
        };
        let plan = meta.get(PLAN_KEY).ok_or("its metadata has no plan")?;
        Ok(Checkpoint {
            plan: serde_json::from_str(plan).map_err(|e| format!("plan: {e}"))?,
            step: field(&meta, "step")?,
            epoch: field(&meta, "epoch")?,
            position: field(&meta, "position")?,
            params,
            optimizer: OptimizerState { step: field(&meta, "optimizer_step")?, moments },
            best,
        })
    }
}

fn bad(path: &Path, reason: String) -> TrainError {
    TrainError::BadCheckpoint { path: path.to_owned(), reason }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    move |source| TrainError::CheckpointIo { action, path: path.to_owned(), source }
}

fn field<T: FromStr<Err: Display>>(meta: &HashMap<String, String>, key: &str) -> Result<T, String> {
    let text = meta.get(key).ok_or_else(|| format!("its metadata has no {key:?}"))?;
    text.parse().map_err(|e| format!("{key} {text:?}: {e}"))
}

fn view<'a>(name: &str, tensor: &'a Tensor) -> Result<TensorView<'a>, String> {
    let values = tensor.as_slice().map_err(|e| format!("tensor {name:?}: {e}"))?;
    floats(tensor.shape(), values)
}

fn floats<'a>(shape: &[usize], values: &'a [f32]) -> Result<TensorView<'a>, String> {
    let bytes = bytemuck::cast_slice(values);
    TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).map_err(|e| e.to_string())
}

fn read_tensor(name: &str, view: &TensorView<'_>) -> Result<Tensor, String> {
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(format!("tensor {name:?} is {:?}, not F32", view.dtype()));
    }
    Tensor::from_bytes(crate::tensor::DType::F32, view.shape(), view.data())
        .map_err(|e| format!("tensor {name:?}: {e}"))
}

/// SHA-256 over metadata and tensors, in hexadecimal.
fn digest(meta: &HashMap<String, String>, tensors: &BTreeMap<String, TensorView<'_>>) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let sorted: BTreeMap<_, _> = meta.iter().filter(|(k, _)| *k != DIGEST_KEY).collect();
    for (key, value) in sorted {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    for (name, view) in tensors {
        add(name.as_bytes());
        add(format!("{:?}", view.shape()).as_bytes());
        add(view.data());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Adds one line per setting that differs.
pub(super) fn compare(name: &str, old: &Value, new: &Value, differences: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (old, new) else {
        if old != new {
            let name = if name.is_empty() { "plan" } else { name };
            differences.push(format!("{name}: {old} there, {new} now"));
        }
        return;
    };
    let only_new = b.keys().filter(|k| !a.contains_key(*k));
    for key in a.keys().chain(only_new) {
        let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        let get = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        compare(&inner, &get(a), &get(b), differences);
    }
}
