//! What `inspect` shows of a delta.

use std::fmt;

use serde::Serialize;

use super::Delta;

/// The facts about a delta, without its values. Serializes to the JSON of `inspect --json`, and
/// displays as lines for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Digest of the file.
    pub digest: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Name of the method.
    pub method: String,
    /// Settings of the method.
    pub config: serde_json::Value,
    /// Name of the task, or empty.
    pub task: String,
    /// Digest of the backbone that the delta needs.
    pub backbone: String,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Number of self tests.
    pub self_tests: usize,
    /// Digest of the delta that this one was trained on from.
    pub parent: Option<String>,
    /// Time of training, or empty.
    pub created: String,
    /// Elements of all tensors.
    pub parameters: usize,
    /// The tensors, by name.
    pub tensors: Vec<TensorSummary>,
}

/// One tensor of a [`Summary`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its size in the file.
    pub bytes: usize,
}

impl Delta {
    /// The facts about the delta, without its values.
    pub fn summary(&self) -> Summary {
        let m = self.metadata();
        let tensors = self.tensors().iter().map(|(name, t)| TensorSummary {
            name: name.clone(),
            dtype: t.dtype().to_string(),
            shape: t.shape().to_vec(),
            bytes: t.bytes().len(),
        });
        Summary {
            digest: self.digest().to_string(),
            bytes: self.file_bytes(),
            method: m.method.clone(),
            config: m.config.clone(),
            task: m.task.clone(),
            backbone: m.backbone.clone(),
            labels: m.labels.clone(),
            self_tests: m.self_test.len(),
            parent: m.parent.clone(),
            created: m.created.clone(),
            parameters: self.tensors().values().map(|t| t.len()).sum(),
            tensors: tensors.collect(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_string() };
        writeln!(f, "method      {} {}", self.method, self.config)?;
        writeln!(f, "task        {}", or_dash(&self.task))?;
        writeln!(f, "labels      {}: {}", self.labels.len(), self.labels.join(", "))?;
        writeln!(f, "backbone    {}", self.backbone)?;
        writeln!(f, "digest      {}", self.digest)?;
        writeln!(f, "parent      {}", or_dash(self.parent.as_deref().unwrap_or("")))?;
        writeln!(f, "created     {}", or_dash(&self.created))?;
        writeln!(f, "self tests  {}", self.self_tests)?;
        writeln!(f, "size        {} bytes, {} parameters", self.bytes, self.parameters)?;
        let width = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &self.tensors {
            writeln!(f, "  {:width$}  {} {:?}  {} bytes", t.name, t.dtype, t.shape, t.bytes)?;
        }
        Ok(())
    }
}
