//! What a delta says about itself, stored as strings under `__metadata__`.

use std::collections::HashSet;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::container::Strings;
use super::{DeltaError, FORMAT_VERSION, clock, is_digest};

const FORMAT_KEY: &str = "edge-tune.format";

/// What a delta says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// Version of the file format: [`FORMAT_VERSION`](super::FORMAT_VERSION).
    pub format: u32,
    /// Name of the tuning method, such as `lora`.
    pub method: String,
    /// Settings of the method, a JSON object.
    pub config: Value,
    /// Digest of the backbone that the delta was trained on: 64 lowercase hexadecimal digits.
    pub backbone: String,
    /// Names of the classes, in the order of the logits. Never empty, no name twice.
    pub labels: Vec<String>,
    /// Name of the task, the default when the delta is installed. May be empty.
    pub task: String,
    /// Inputs with the outputs that the trainer saw, to check an installed delta with.
    pub self_test: Vec<SelfTest>,
    /// Digest of the delta that this one was trained on from.
    pub parent: Option<String>,
    /// Time of training, RFC 3339 in UTC; empty when the device has no clock.
    pub created: String,
}

/// One input of a [`Metadata::self_test`] and the output it must give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// A text, or JSON for inputs that are not text.
    pub input: String,
    /// One logit per label.
    pub logits: Vec<f32>,
    /// Largest absolute difference per logit that still passes.
    pub tolerance: f32,
}

impl Metadata {
    /// Metadata with an empty config, no task name, no self test and no parent, created now.
    pub fn new(method: &str, backbone: &str, labels: &[impl AsRef<str>]) -> Metadata {
        Metadata {
            format: FORMAT_VERSION,
            method: method.into(),
            config: Value::Object(serde_json::Map::new()),
            backbone: backbone.into(),
            labels: labels.iter().map(|l| l.as_ref().to_string()).collect(),
            task: String::new(),
            self_test: Vec::new(),
            parent: None,
            created: clock::rfc3339(SystemTime::now()),
        }
    }

    /// The strings of the file. Nothing is checked: see [`Metadata::from_strings`].
    pub(super) fn to_strings(&self) -> Result<Strings, serde_json::Error> {
        let mut out = Strings::new();
        out.insert(FORMAT_KEY.into(), self.format.to_string());
        out.insert("method".into(), self.method.clone());
        out.insert("config".into(), serde_json::to_string(&self.config)?);
        out.insert("backbone".into(), self.backbone.clone());
        out.insert("labels".into(), serde_json::to_string(&self.labels)?);
        out.insert("task".into(), self.task.clone());
        out.insert("self_test".into(), serde_json::to_string(&self.self_test)?);
        if let Some(parent) = &self.parent {
            out.insert("parent".into(), parent.clone());
        }
        out.insert("created".into(), self.created.clone());
        Ok(out)
    }

    /// Reads and checks the strings of a file. Keys that are not known are left alone.
    pub(super) fn from_strings(mut strings: Strings, file: &str) -> Result<Metadata, DeltaError> {
        let format =
            strings.remove(FORMAT_KEY).ok_or_else(|| DeltaError::Foreign { file: file.into() })?;
        if format != FORMAT_VERSION.to_string() {
            let found = format.chars().take(16).collect();
            return Err(DeltaError::Version { file: file.into(), found });
        }
        let mut take = |key: &'static str| strings.remove(key);
        let missing = |key| DeltaError::MissingKey { file: file.into(), key };
        let metadata = Metadata {
            format: FORMAT_VERSION,
            method: take("method").ok_or_else(|| missing("method"))?,
            config: match take("config") {
                Some(text) => json("config", &text, file)?,
                None => Value::Object(serde_json::Map::new()),
            },
            backbone: take("backbone").ok_or_else(|| missing("backbone"))?,
            labels: json("labels", &take("labels").ok_or_else(|| missing("labels"))?, file)?,
            task: take("task").unwrap_or_default(),
            self_test: match take("self_test") {
                Some(text) => json("self_test", &text, file)?,
                None => Vec::new(),
            },
            parent: take("parent"),
            created: take("created").unwrap_or_default(),
        };
        metadata.check(file)?;
        Ok(metadata)
    }

    fn check(&self, file: &str) -> Result<(), DeltaError> {
        let bad = |key, reason| Err(DeltaError::Metadata { file: file.into(), key, reason });
        if self.method.is_empty() {
            return bad("method", "is empty; write the name of a method".into());
        }
        // These strings reach terminals and logs: escape sequences have no place in them.
        for (key, text) in
            [("method", &self.method), ("task", &self.task), ("created", &self.created)]
        {
            if text.chars().any(char::is_control) {
                return bad(key, "holds control characters".into());
            }
        }
        if !self.config.is_object() {
            return bad("config", "is not a JSON object".into());
        }
        if holds_control(&self.config) {
            return bad("config", "holds control characters".into());
        }
        let digest = "is not a digest of 64 lowercase hexadecimal digits";
        if !is_digest(&self.backbone) {
            return bad("backbone", digest.into());
        }
        if self.parent.as_deref().is_some_and(|p| !is_digest(p)) {
            return bad("parent", digest.into());
        }
        if self.labels.is_empty() {
            return bad("labels", "is empty; a delta needs at least one label".into());
        }
        let mut seen = HashSet::new();
        for (i, label) in self.labels.iter().enumerate() {
            if label.is_empty() || label.chars().any(char::is_control) {
                return bad("labels", format!("label {i} is empty or holds control characters"));
            }
            if !seen.insert(label) {
                return bad("labels", format!("label {label:?} appears twice"));
            }
        }
        for (i, test) in self.self_test.iter().enumerate() {
            if test.logits.len() != self.labels.len() {
                let (have, want) = (test.logits.len(), self.labels.len());
                return bad("self_test", format!("test {i} has {have} logits for {want} labels"));
            }
            let numbers = test.logits.iter().chain([&test.tolerance]);
            if numbers.clone().any(|v| !v.is_finite()) || test.tolerance < 0.0 {
                let reason = format!("test {i} holds a number that is not finite or is negative");
                return bad("self_test", reason);
            }
        }
        Ok(())
    }
}

fn json<T: DeserializeOwned>(key: &'static str, text: &str, file: &str) -> Result<T, DeltaError> {
    serde_json::from_str(text).map_err(|e| {
        let reason = format!("not the JSON that belongs here: {e}");
        DeltaError::Metadata { file: file.into(), key, reason }
    })
}

/// True if a key or a text in `value` holds control characters.
fn holds_control(value: &Value) -> bool {
    let control = |text: &str| text.chars().any(char::is_control);
    match value {
        Value::String(text) => control(text),
        Value::Array(items) => items.iter().any(holds_control),
        Value::Object(map) => map.iter().any(|(k, v)| control(k) || holds_control(v)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
