//! What is published: one signed list of deltas, with everything a device needs to refuse others.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::time::Time;
use super::{FetchError, MAX_VERSION};
use crate::delta::{MAX_FILE_BYTES, is_digest};

/// Largest index in bytes.
pub const MAX_INDEX_BYTES: u64 = 1024 * 1024;
/// Most deltas in one index.
pub const MAX_DELTAS: usize = 4096;
/// Most patches to one delta.
pub const MAX_PATCHES: usize = 16;
/// What the field `format` of an index must be.
pub const INDEX_FORMAT: &str = "edge-tune.index/1";

const MAX_PATH_BYTES: usize = 256;

/// An index that follows the rules. Whether it is trusted is another question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub(super) format: String,
    /// Rises with every change.
    pub version: u64,
    /// Time of writing, RFC 3339 in UTC.
    pub created: String,
    /// When devices no longer accept it.
    pub expires: String,
    /// The deltas, at most one for a task and a backbone.
    pub deltas: Vec<Offer>,
}

/// One published delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Task that it is installed for.
    pub task: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Size of the file.
    pub bytes: u64,
    /// Digest of the backbone that it is for. That covers weights and tokenizer too.
    pub backbone: String,
    /// Method of the delta.
    pub method: String,
    /// Where the file lies, relative to the index.
    pub path: String,
    /// Ways to it from earlier deltas.
    pub patches: Vec<PatchOffer>,
}

/// A published patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchOffer {
    /// Digest of the delta that it applies to.
    pub from: String,
    /// Where the patch lies, relative to the index.
    pub path: String,
    /// Size of the patch.
    pub bytes: u64,
    /// SHA-256 of the patch.
    pub digest: String,
}

impl Index {
    /// Reads an index. `name` stands for it in errors.
    ///
    /// # Errors
    /// [`FetchError::Index`] if it breaks a rule of the format.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Index, FetchError> {
        let bad = |reason: String| FetchError::Index { name: name.into(), reason };
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(bad(format!("more than {MAX_INDEX_BYTES} bytes")));
        }
        let index: Index = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        index.check().map_err(bad)?;
        Ok(index)
    }

    /// What follows the rules for the fields, as the text of a file.
    ///
    /// # Errors
    /// [`FetchError::Index`] if it does not.
    pub fn to_bytes(&self, name: &str) -> Result<Vec<u8>, FetchError> {
        let bad = |reason: String| FetchError::Index { name: name.into(), reason };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| bad(e.to_string()))?;
        bytes.push(b'\n');
        // One set of rules for what is written and what is read.
        Index::parse(&bytes, name)?;
        Ok(bytes)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != INDEX_FORMAT {
            return Err(format!("format {:?}, {INDEX_FORMAT:?} is known", self.format));
        }
        if !(1..=MAX_VERSION).contains(&self.version) {
            return Err(format!("version {}, 1 is the first", self.version));
        }
        let time = |key: &str, text: &str| {
            Time::parse(text).ok_or(format!("`{key}` is no time such as 2030-01-31T00:00:00Z"))
        };
        if time("created", &self.created)? >= time("expires", &self.expires)? {
            return Err("it expires before it was created".into());
        }
        if self.deltas.len() > MAX_DELTAS {
            return Err(format!("{} deltas, at most {MAX_DELTAS} are allowed", self.deltas.len()));
        }
        let mut seen = BTreeSet::new();
        for offer in &self.deltas {
            offer.check()?;
            if !seen.insert((&offer.task, &offer.backbone)) {
                return Err(format!("task `{}` appears twice for one backbone", offer.task));
            }
        }
        Ok(())
    }

    pub(super) fn created(&self) -> Time {
        Time::parse(&self.created).unwrap_or_default()
    }

    pub(super) fn check_expiry(&self, now: Time, name: &str) -> Result<(), FetchError> {
        if Time::parse(&self.expires).is_some_and(|expires| now < expires) {
            return Ok(());
        }
        Err(FetchError::Expired {
            name: name.into(),
            version: self.version,
            expires: self.expires.clone(),
            now: now.text(),
        })
    }

    /// The deltas for a backbone.
    pub fn offers<'a>(&'a self, backbone: &str) -> impl Iterator<Item = &'a Offer> {
        let backbone = backbone.to_owned();
        self.deltas.iter().filter(move |o| o.backbone == backbone)
    }

    /// The delta of `task` for a backbone.
    ///
    /// # Errors
    /// [`FetchError::UnknownTask`] if there is none, [`FetchError::OtherBackbone`] if it is for
    /// other backbones.
    pub fn offer(&self, task: &str, backbone: &str) -> Result<&Offer, FetchError> {
        if let Some(offer) = self.offers(backbone).find(|o| o.task == task) {
            return Ok(offer);
        }
        let others: Vec<&str> =
            self.deltas.iter().filter(|o| o.task == task).map(|o| &o.backbone[..12]).collect();
        match others.is_empty() {
            true => Err(FetchError::UnknownTask {
                task: task.chars().take(80).collect(),
                published: self.names(backbone),
            }),
            false => Err(FetchError::OtherBackbone {
                task: task.into(),
                backbones: others.join(", "),
                have: backbone.into(),
            }),
        }
    }

    /// The names of the tasks for a backbone, for messages.
    pub(super) fn names(&self, backbone: &str) -> String {
        let names: Vec<&str> = self.offers(backbone).map(|o| o.task.as_str()).collect();
        match names.len() {
            0 => "none".into(),
            1..=20 => names.join(", "),
            n => format!("{} and {} more", names[..20].join(", "), n - 20),
        }
    }
}

impl Offer {
    /// The patch from an installed delta.
    pub fn patch_from(&self, digest: &str) -> Option<&PatchOffer> {
        self.patches.iter().find(|p| p.from == digest)
    }

    fn check(&self) -> Result<(), String> {
        let task = &self.task;
        if !crate::store::is_task_name(task) {
            return Err(format!("{task:?} is no task name"));
        }
        if !is_digest(&self.digest) || !is_digest(&self.backbone) {
            return Err(format!("task `{task}`: no digest of 64 lowercase hexadecimal digits"));
        }
        if !(1..=MAX_FILE_BYTES).contains(&self.bytes) {
            return Err(format!("task `{task}`: {} bytes", self.bytes));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=64).contains(&self.method.len()) || !self.method.bytes().all(plain) {
            return Err(format!("task `{task}`: {:?} is no method", self.method));
        }
        if self.patches.len() > MAX_PATCHES {
            return Err(format!("task `{task}`: more than {MAX_PATCHES} patches"));
        }
        for patch in &self.patches {
            if !is_digest(&patch.from) || !is_digest(&patch.digest) {
                return Err(format!("task `{task}`: a patch without digests"));
            }
            // A longer way round is none.
            if !(1..=self.bytes).contains(&patch.bytes) {
                return Err(format!("task `{task}`: a patch of {} bytes", patch.bytes));
            }
        }
        let paths = self.patches.iter().map(|p| &p.path).chain([&self.path]);
        match paths.into_iter().find(|p| !is_path(p)) {
            Some(path) => Err(format!("task `{task}`: {path:?} is no path below the index")),
            None => Ok(()),
        }
    }
}

/// True for a path that stays below where it starts, on every file system and in every URL.
pub(super) fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let name = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    path.len() <= MAX_PATH_BYTES && path.split('/').all(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_index() {
        assert!(["a", "a/b.safetensors", "deltas/a-1_2.x"].iter().all(|p| is_path(p)));
        for path in
            ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a\\b", "a:b", "a?b", "a%2e", "\u{e4}"]
        {
            assert!(!is_path(path), "{path}");
        }
        assert!(!is_path(&"a".repeat(257)));
    }
}
