//! What a device remembers about its publisher: the root it trusts, the newest index it accepted,
//! and the latest time it knows to be past.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::index::{Index, MAX_INDEX_BYTES};
use super::keys::{MAX_SIGNATURE_BYTES, Signatures};
use super::root::{MAX_ROOT_BYTES, Root};
use super::site::{Site, Small};
use super::time::Time;
use super::url::Base;
use super::{FetchError, INDEX_FILE, SIGNATURE_SUFFIX, TRUST};
use crate::delta::digest;
use crate::delta::file::{self, Links, ReadError};
use crate::store::{Lock, lock_file};

const STATE_FILE: &str = "state.json";
const STATE_FORMAT: &str = "edge-tune.trust/1";
const MAX_STATE_BYTES: u64 = 256 * 1024;
/// Most new roots in one pull. A device that missed more takes the rest with the next one.
const MAX_STEPS: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: String,
    /// Digest of the root file that was given with `--trust`.
    first: String,
    /// The root in force, as it was signed.
    root: String,
    /// The newest index accepted, 0 for none, and its digest.
    index_version: u64,
    index_digest: String,
    /// Version of the root that it was verified with.
    index_root: u64,
    /// Latest time known to be past, from a signed index; empty for none.
    clock: String,
    /// Version of `index.json` by the server, and the address that said so.
    etag: Option<(String, String)>,
}

/// The trusted root and what was accepted under it.
pub(super) struct Trust {
    dir: PathBuf,
    state: State,
    root: Root,
}

impl Trust {
    /// What the store in `store` trusts; else the root file `given`, which is remembered once
    /// something signed with it was accepted.
    pub(super) fn load(store: &Path, given: Option<&Path>) -> Result<Trust, FetchError> {
        let dir = store.join(TRUST);
        let given = given.map(|path| Ok::<_, FetchError>((path, read(path, MAX_ROOT_BYTES)?)));
        let given = given.transpose()?;
        let path = dir.join(STATE_FILE);
        let damaged = |reason: String| FetchError::TrustDamaged { path: path.clone(), reason };
        match file::read(&path, Links::Refuse, MAX_STATE_BYTES) {
            Ok(bytes) => {
                let state: State =
                    serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
                if state.format != STATE_FORMAT {
                    return Err(damaged(format!("format {:?}", state.format)));
                }
                if !state.clock.is_empty() && Time::parse(&state.clock).is_none() {
                    return Err(damaged("`clock` is no time".into()));
                }
                let root = Root::parse(state.root.as_bytes(), "root")
                    .map_err(|e| damaged(e.to_string()))?;
                if let Some((file, bytes)) = given {
                    let given = digest(&bytes);
                    if given != state.first && given != digest(root.text.as_bytes()) {
                        let file = file.display().to_string();
                        return Err(FetchError::TrustDiffers { file, trust: dir });
                    }
                }
                Ok(Trust { dir, state, root })
            }
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                let Some((file, bytes)) = given else {
                    return Err(FetchError::NoTrust { store: store.into() });
                };
                let root = Root::parse(&bytes, &file.display().to_string())?;
                let state = State {
                    format: STATE_FORMAT.into(),
                    first: digest(&bytes),
                    root: root.text.clone(),
                    index_version: 0,
                    index_digest: String::new(),
                    index_root: 0,
                    clock: String::new(),
                    etag: None,
                };
                Ok(Trust { dir, state, root })
            }
            Err(ReadError::Io(source)) => Err(FetchError::Io { path, action: "read", source }),
            Err(ReadError::NotAFile) => Err(damaged("not a regular file".into())),
            Err(ReadError::TooLarge(n)) => Err(damaged(format!("{n} bytes"))),
        }
    }

    /// The time that counts: the device's clock, but never before what is known to be past. A
    /// device without a clock of its own that keeps running lives in the past of the publisher,
    /// never before its last accepted index.
    fn now(&self, clock: Time) -> Time {
        clock.max(Time::parse(&self.state.clock).unwrap_or_default())
    }

    /// Follows the publisher's roots to the newest one: `root/2.json`, `root/3.json` and so on.
    pub(super) fn update_root(&mut self, site: &Site<'_>, clock: Time) -> Result<(), FetchError> {
        for _ in 0..MAX_STEPS {
            let path = format!("root/{}.json", self.root.version + 1);
            let mut ended = false;
            let next = site.each(|base| {
                let bytes = match content(site, base, &path, MAX_ROOT_BYTES) {
                    Err(e @ FetchError::NotFound { .. }) => {
                        ended = true;
                        return Err(e);
                    }
                    other => other?,
                };
                let signatures = signatures(site, base, &path)?;
                self.root.next(&bytes, &signatures, &base.join(&path))
            });
            match next {
                Ok(next) => self.take(next)?,
                // A mirror that says it is the newest may be wrong, but no longer than until it
                // expires.
                Err(_) if ended => break,
                Err(e) => return Err(e),
            }
        }
        // Those in between may have expired: a device that slept for long must come through.
        self.root.check_expiry(self.now(clock))
    }

    fn take(&mut self, next: Root) -> Result<(), FetchError> {
        let revoked = self.root.revoked_in(&next);
        self.state.root = next.text.clone();
        self.root = next;
        if revoked {
            // Whoever held the key may have signed the highest version there is, or a time far
            // ahead. Neither binds any longer.
            self.state.index_version = 0;
            self.state.index_digest.clear();
            self.state.clock.clear();
        }
        self.state.etag = None;
        self.save()
    }

    /// The publisher's index: verified, not older than one before, and still valid.
    pub(super) fn index(&mut self, site: &Site<'_>, clock: Time) -> Result<Index, FetchError> {
        let cached = self.cached();
        let now = self.now(clock);
        let (index, bytes, etag) = site.each(|base| {
            let name = base.join(INDEX_FILE);
            let known = match (&self.state.etag, &cached) {
                (Some((url, tag)), Some(_)) if *url == name => Some(tag.as_str()),
                _ => None,
            };
            let (bytes, etag) = match site.small(base, INDEX_FILE, MAX_INDEX_BYTES, known)? {
                Small::Unchanged => (cached.clone().unwrap_or_default(), known.map(str::to_owned)),
                Small::Content { bytes, etag } => {
                    let signatures = signatures(site, base, INDEX_FILE)?;
                    self.root.verify(&bytes, &signatures, &name)?;
                    (bytes, etag)
                }
            };
            let index = Index::parse(&bytes, &name)?;
            self.check(&index, &bytes, now, &name)?;
            Ok((index, bytes, etag.map(|tag| (name, tag))))
        })?;
        self.state.index_version = index.version;
        self.state.index_digest = digest(&bytes);
        self.state.index_root = self.root.version;
        self.state.clock = self.floor().max(index.created()).text();
        self.state.etag = etag.filter(|(_, tag)| tag.len() <= 256);
        if cached.as_deref() != Some(&bytes) {
            self.write(INDEX_FILE, &bytes)?;
        }
        self.save()?;
        Ok(index)
    }

    fn check(&self, index: &Index, bytes: &[u8], now: Time, name: &str) -> Result<(), FetchError> {
        let (found, known) = (index.version, self.state.index_version);
        if found < known {
            return Err(FetchError::Rollback { name: name.into(), found, known });
        }
        if found == known && digest(bytes) != self.state.index_digest {
            return Err(FetchError::IndexChanged { name: name.into(), version: found });
        }
        index.check_expiry(now, name)
    }

    fn floor(&self) -> Time {
        Time::parse(&self.state.clock).unwrap_or_default()
    }

    /// The index accepted last, if it was verified with the root in force.
    fn cached(&self) -> Option<Vec<u8>> {
        if self.state.index_root != self.root.version {
            return None;
        }
        let bytes = file::read(&self.dir.join(INDEX_FILE), Links::Refuse, MAX_INDEX_BYTES).ok()?;
        (digest(&bytes) == self.state.index_digest).then_some(bytes)
    }

    fn save(&self) -> Result<(), FetchError> {
        let bytes = serde_json::to_vec_pretty(&self.state).map_err(|e| FetchError::Io {
            path: self.dir.join(STATE_FILE),
            action: "encode",
            source: e.into(),
        })?;
        self.write(STATE_FILE, &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.dir.join(name);
        // Something else in its place, such as a link, is replaced and not followed.
        crate::fs::write_atomic(&path, bytes).map_err(|source| FetchError::Io {
            path,
            action: "write",
            source,
        })
    }
}

fn content(site: &Site<'_>, base: &Base, path: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
    match site.small(base, path, limit, None)? {
        Small::Content { bytes, .. } => Ok(bytes),
        Small::Unchanged => Ok(Vec::new()),
    }
}

fn signatures(site: &Site<'_>, base: &Base, path: &str) -> Result<Signatures, FetchError> {
    let path = format!("{path}{SIGNATURE_SUFFIX}");
    Signatures::parse(&content(site, base, &path, MAX_SIGNATURE_BYTES)?, &base.join(&path))
}

/// A local file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FetchError> {
    file::read(path, Links::Follow, limit).map_err(|e| {
        let source = match e {
            ReadError::Io(e) => e,
            ReadError::NotAFile => io::Error::other("not a regular file"),
            ReadError::TooLarge(_) => io::ErrorKind::FileTooLarge.into(),
        };
        FetchError::Io { path: path.into(), action: "read", source }
    })
}

/// Takes the lock of a store's pulls until the result is dropped.
pub(super) fn lock(path: &Path) -> Result<fs::File, FetchError> {
    let io = |source| FetchError::Io { path: path.into(), action: "lock", source };
    let file = lock_file(path, Lock::Exclusive).map_err(io)?;
    file.ok_or_else(|| FetchError::Busy { path: path.into() })
}
