//! Whom a device trusts: a list of keys, and how many of them must sign.

use serde::{Deserialize, Serialize};

use super::keys::{Key, MAX_KEYS, Signatures};
use super::time::Time;
use super::{FetchError, MAX_VERSION};

/// Largest root file in bytes.
pub const MAX_ROOT_BYTES: u64 = 64 * 1024;
/// What the field `format` of a root must be. An index has another: neither passes for the other.
pub const ROOT_FORMAT: &str = "edge-tune.root/1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    expires: String,
    threshold: u64,
    keys: Vec<String>,
}

/// A root file that follows the rules. Whether it is trusted is another question.
#[derive(Clone, Debug)]
pub struct Root {
    /// Counts the roots of a publisher, from 1.
    pub version: u64,
    /// How many of the keys must sign.
    pub threshold: usize,
    /// The keys, no two the same.
    pub keys: Vec<Key>,
    pub(super) expires: Time,
    pub(super) text: String,
}

impl Root {
    /// Reads a root file. `name` stands for it in errors.
    ///
    /// # Errors
    /// [`FetchError::Root`] or [`FetchError::Key`] if it breaks a rule of the format.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Root, FetchError> {
        let bad = |reason: String| FetchError::Root { name: name.into(), reason };
        if bytes.len() as u64 > MAX_ROOT_BYTES {
            return Err(bad(format!("more than {MAX_ROOT_BYTES} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".into()))?;
        let file: File = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if file.format != ROOT_FORMAT {
            return Err(bad(format!("format {:?}, {ROOT_FORMAT:?} is known", file.format)));
        }
        if !(1..=MAX_VERSION).contains(&file.version) {
            return Err(bad(format!("version {}, 1 is the first", file.version)));
        }
        let expires = Time::parse(&file.expires)
            .ok_or_else(|| bad("`expires` is no time such as 2030-01-31T00:00:00Z".into()))?;
        if file.keys.is_empty() || file.keys.len() > MAX_KEYS {
            return Err(bad(format!("{} keys, 1 to {MAX_KEYS} are allowed", file.keys.len())));
        }
        let keys: Vec<Key> =
            file.keys.iter().map(|k| Key::parse(k, name)).collect::<Result<_, _>>()?;
        // One key that counts as two would make the threshold worthless.
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|k| k.same(key)) {
                return Err(bad(format!("key {} appears twice", key.id())));
            }
        }
        let threshold = usize::try_from(file.threshold).unwrap_or(usize::MAX);
        if threshold == 0 || threshold > keys.len() {
            return Err(bad(format!("threshold {threshold} of {} keys", keys.len())));
        }
        Ok(Root { version: file.version, threshold, keys, expires, text: text.into() })
    }

    /// Checks that enough of the keys signed exactly `bytes`.
    ///
    /// # Errors
    /// [`FetchError::Signatures`] if not.
    pub fn verify(
        &self,
        bytes: &[u8],
        signatures: &Signatures,
        name: &str,
    ) -> Result<(), FetchError> {
        let valid = signatures.count(&self.keys, bytes);
        if valid >= self.threshold {
            return Ok(());
        }
        let (keys, threshold) = (self.keys.len(), self.threshold);
        Err(FetchError::Signatures { name: name.into(), valid, keys, threshold })
    }

    /// The root in `bytes`, if it is the next one after this and signed by enough of the keys of
    /// both: of the old ones, so that nobody else can take over, and of the new ones, so that a
    /// list of keys that nobody holds cannot lock the publisher out.
    pub(super) fn next(
        &self,
        bytes: &[u8],
        signatures: &Signatures,
        name: &str,
    ) -> Result<Root, FetchError> {
        // What nobody trusted signed is not worth parsing.
        self.verify(bytes, signatures, name)?;
        let next = Root::parse(bytes, name)?;
        if next.version != self.version + 1 {
            let (found, want) = (next.version, self.version + 1);
            let reason = format!("version {found}, {want} belongs here");
            return Err(FetchError::Root { name: name.into(), reason });
        }
        next.verify(bytes, signatures, name)?;
        Ok(next)
    }

    /// True if `next` no longer trusts a key that this root does.
    pub(super) fn revoked_in(&self, next: &Root) -> bool {
        self.keys.iter().any(|key| !next.keys.iter().any(|k| k.same(key)))
    }

    pub(super) fn check_expiry(&self, now: Time) -> Result<(), FetchError> {
        if now < self.expires {
            return Ok(());
        }
        Err(FetchError::RootExpired {
            name: "root".into(),
            version: self.version,
            expires: self.expires.text(),
            now: now.text(),
        })
    }
}
