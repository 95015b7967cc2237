//! From a publisher's address to an installed delta.

use std::error::Error as StdError;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::download::{LOCK, Pace, Parts, Wanted, private_dir};
use super::index::{Index, MAX_INDEX_BYTES, Offer};
use super::site::{Retry, Site, Small};
use super::time::Time;
use super::transport::Transport;
use super::trust::{self, Trust};
use super::url::Base;
use super::{FetchError, INDEX_FILE, TRUST, patch};
use crate::Error;
use crate::delta::{Delta, digest};
use crate::store::{Admission, Entry, State, Store};

const INCOMING: &str = "incoming";

/// How to pull.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the publisher, the best first.
    pub sources: Vec<String>,
    /// Root file for a store that trusts nobody yet.
    pub trust: Option<PathBuf>,
    /// Accept an index without signatures. Then a mirror can install what it likes.
    pub unsigned: bool,
    /// Follow `http://` to other machines. Signatures hold there too, but others can read, and
    /// hold back until the index expires.
    pub allow_http: bool,
    /// Most bytes a second.
    pub limit_rate: Option<u64>,
    /// On a metered network: most bytes to download for one task.
    pub metered: Option<u64>,
    /// What becomes of a delta that passes its checks.
    pub admission: Admission,
    /// Install a delta too whose trial failed on this device.
    pub failed_too: bool,
    /// How often to try.
    pub retry: Retry,
    /// A server that sends fewer bytes a second than this, on average, is given up.
    pub least_rate: u64,
    /// How long it may be slower.
    pub grace: Duration,
    /// The time; that of the system if there is none.
    pub now: Option<SystemTime>,
}

impl Options {
    /// Pulls from `sources` with signatures, over HTTPS, at any speed.
    pub fn new(sources: impl IntoIterator<Item = impl Into<String>>) -> Options {
        Options {
            sources: sources.into_iter().map(Into::into).collect(),
            trust: None,
            unsigned: false,
            allow_http: false,
            limit_rate: None,
            metered: None,
            admission: Admission::Confirmed,
            failed_too: false,
            retry: Retry::default(),
            least_rate: 256,
            grace: Duration::from_secs(30),
            now: None,
        }
    }
}

/// What became of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The published delta is active already.
    Current(Entry),
    /// The published delta is staged already.
    Staged(Entry),
    /// The trial of the published delta failed on this device before. It is not installed again.
    Failed(Entry),
    /// It was installed.
    Installed {
        /// Its entry in the store.
        entry: Entry,
        /// True if a patch was enough.
        patched: bool,
        /// Bytes of deltas and patches that came over the network.
        downloaded: u64,
        /// Why a patch that is published was not used.
        patch_failed: Option<String>,
    },
}

/// A pull into one store. While it lives, others into that store are refused.
pub struct Pull<'a> {
    store: &'a Store,
    dir: PathBuf,
    site: Site<'a>,
    parts: Parts,
    options: Options,
    _lock: File,
}

impl<'a> Pull<'a> {
    /// Prepares to pull into `store`, which lies in `dir`.
    ///
    /// # Errors
    /// [`FetchError::Busy`] if another pull runs, [`FetchError::Url`] or
    /// [`FetchError::PlainHttp`] for an address that cannot be used.
    pub fn open(
        store: &'a Store,
        dir: &Path,
        transport: &'a dyn Transport,
        options: Options,
    ) -> Result<Pull<'a>, FetchError> {
        let bases = options.sources.iter().map(|s| Base::parse(s, options.allow_http));
        let bases = bases.collect::<Result<_, _>>()?;
        let incoming = dir.join(INCOMING);
        private_dir(&incoming)?;
        let lock = trust::lock(&incoming.join(LOCK))?;
        let site = Site { bases, transport, retry: options.retry };
        let parts = Parts::new(incoming);
        Ok(Pull { store, dir: dir.into(), site, parts, options, _lock: lock })
    }

    /// Fetches and verifies the root and the index. What was accepted is remembered, so that
    /// nothing older is accepted later.
    ///
    /// # Errors
    /// If it cannot be fetched, or is not signed, out of date, or against the format.
    pub fn index(&self) -> Result<Index, FetchError> {
        let clock = Time::of(self.options.now.unwrap_or_else(SystemTime::now));
        let index = match self.options.unsigned {
            true => self.unsigned_index(clock)?,
            false => {
                let mut trust = Trust::load(&self.dir, self.options.trust.as_deref())?;
                private_dir(&self.dir.join(TRUST))?;
                trust.update_root(&self.site, clock)?;
                trust.index(&self.site, clock)?
            }
        };
        // Parts of what is no longer published will never be finished.
        let published = |part: &str| {
            index
                .deltas
                .iter()
                .any(|o| o.digest == part || o.patches.iter().any(|p| p.digest == part))
        };
        self.parts.clean(published);
        Ok(index)
    }

    /// The deltas to install on `backbone`: of `tasks`; without names, of the tasks that are
    /// installed already. Nothing else ever is: what a publisher adds comes only when asked for.
    ///
    /// # Errors
    /// If a task is not published for this backbone, or none is asked for and none installed.
    pub fn choose<'i>(
        &self,
        index: &'i Index,
        backbone: &str,
        tasks: &[String],
    ) -> Result<Vec<&'i Offer>, Error> {
        if !tasks.is_empty() {
            let offers = tasks.iter().map(|t| index.offer(t, backbone));
            return Ok(offers.collect::<Result<_, _>>()?);
        }
        let mut offers = Vec::new();
        for offer in index.offers(backbone) {
            if self.store.active(&offer.task)?.is_some() {
                offers.push(offer);
            }
        }
        if offers.is_empty() {
            return Err(FetchError::NoTask { published: index.names(backbone) }.into());
        }
        Ok(offers)
    }

    /// Brings the task of one published delta up to date: by a patch where there is one from the
    /// active delta, else in full. `check` is that of [`Store::install`].
    ///
    /// # Errors
    /// If nothing usable can be downloaded, or the delta does not pass. The active one stays.
    pub fn update<E>(
        &self,
        offer: &Offer,
        check: impl FnOnce(&Delta) -> Result<(), E>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Outcome, Error>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let record = self.store.task(&offer.task)?;
        let known = record.iter().flat_map(|t| &t.entries).rfind(|e| e.digest == offer.digest);
        let staging = self.options.admission == Admission::Staged;
        match known.map(|e| (e.state, e)) {
            Some((State::Failed, entry)) if !self.options.failed_too => {
                return Ok(Outcome::Failed(entry.clone()));
            }
            Some((State::Staged, entry)) if staging => return Ok(Outcome::Staged(entry.clone())),
            _ => {}
        }
        let active = record.as_ref().and_then(|t| t.active_entry()).cloned();
        let old = match &active {
            // A damaged one is fetched and installed again.
            Some(entry) => self.store.load(entry).ok(),
            None => None,
        };
        if let (Some(entry), Some(_)) = (&active, &old)
            && entry.digest == offer.digest
        {
            return Ok(Outcome::Current(entry.clone()));
        }
        let mut downloaded = 0;
        let mut patch_failed = None;
        let mut bytes = match self.patched(offer, old.as_ref(), &mut downloaded, progress) {
            Some(Ok(bytes)) => Some(bytes),
            Some(Err(e @ FetchError::Metered { .. })) => return Err(e.into()),
            Some(Err(e)) => {
                patch_failed = Some(e.to_string());
                None
            }
            None => None,
        };
        let patched = bytes.is_some();
        let full = Wanted { path: &offer.path, digest: &offer.digest, bytes: offer.bytes };
        if bytes.is_none() {
            bytes = Some(self.download(offer, &full, &mut downloaded, progress)?);
        }
        let bytes = bytes.unwrap_or_default();
        let result = self.install(offer, &bytes, check);
        // Also where it was refused: it would be refused again.
        self.parts.forget(&full);
        Ok(Outcome::Installed { entry: result?, patched, downloaded, patch_failed })
    }

    /// The delta by way of a patch. `None` if there is none, or the rest of the whole is shorter.
    fn patched(
        &self,
        offer: &Offer,
        old: Option<&Delta>,
        downloaded: &mut u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Option<Result<Vec<u8>, FetchError>> {
        let old = old?;
        let found = offer.patch_from(old.digest())?;
        let full = Wanted { path: &offer.path, digest: &offer.digest, bytes: offer.bytes };
        let wanted = Wanted { path: &found.path, digest: &found.digest, bytes: found.bytes };
        if offer.bytes - self.parts.have(&full) <= found.bytes {
            return None;
        }
        // Another program may have written it with its header in another order.
        let bytes = old.to_bytes().ok().filter(|b| digest(b) == old.digest())?;
        let result = self.download(offer, &wanted, downloaded, progress).and_then(|patch| {
            let new = patch::apply(&bytes, &patch, &found.path)?;
            match digest(&new) == offer.digest {
                true => Ok(new),
                false => Err(FetchError::WrongDigest {
                    url: found.path.clone(),
                    want: offer.digest.clone(),
                    have: digest(&new),
                }),
            }
        });
        self.parts.forget(&wanted);
        Some(result)
    }

    fn download(
        &self,
        offer: &Offer,
        wanted: &Wanted<'_>,
        downloaded: &mut u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, FetchError> {
        let left = wanted.bytes - self.parts.have(wanted);
        if let Some(limit) = self.options.metered.filter(|&limit| *downloaded + left > limit) {
            let bytes = *downloaded + left;
            return Err(FetchError::Metered { task: offer.task.clone(), bytes, limit });
        }
        let pace = Pace {
            limit: self.options.limit_rate,
            least: self.options.least_rate,
            grace: self.options.grace,
        };
        let mut tell = |have| progress(have, wanted.bytes);
        let (bytes, came) = self.parts.fetch(&self.site, wanted, pace, &mut tell)?;
        *downloaded += came;
        Ok(bytes)
    }

    fn install<E>(
        &self,
        offer: &Offer,
        bytes: &Vec<u8>,
        check: impl FnOnce(&Delta) -> Result<(), E>,
    ) -> Result<Entry, Error>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        // The digest is right: whatever is wrong from here on, the publisher signed it.
        let delta = Delta::parse(bytes, &offer.path)?;
        let metadata = delta.metadata();
        for (field, have, want) in [
            ("backbone", &metadata.backbone, &offer.backbone),
            ("method", &metadata.method, &offer.method),
        ] {
            if have != want {
                let (have, want) = (have.clone(), want.clone());
                let url = offer.path.clone();
                return Err(FetchError::Mismatch { url, field, have, want }.into());
            }
        }
        Ok(self.store.admit(bytes, Some(&offer.task), self.options.admission, check)?)
    }

    /// Nothing vouches for it, and nothing is remembered.
    fn unsigned_index(&self, clock: Time) -> Result<Index, FetchError> {
        self.site.each(|base| {
            let name = base.join(INDEX_FILE);
            let Small::Content { bytes, .. } =
                self.site.small(base, INDEX_FILE, MAX_INDEX_BYTES, None)?
            else {
                return Err(FetchError::NotFound { url: name });
            };
            let index = Index::parse(&bytes, &name)?;
            index.check_expiry(clock, &name)?;
            Ok(index)
        })
    }
}
