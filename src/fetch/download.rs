//! One large file of known size and digest, in parts if need be.
//!
//! What came lies in `incoming/DIGEST.part` of the store until all of it is there, so that the
//! next attempt, also after a restart, asks only for the rest. The name is the digest of the whole,
//! so that any mirror can go on with what another one began; whether it did is checked at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::FetchError;
use super::site::{Site, body_error, status_error};
use super::transport::Request;
use super::url::Base;
use crate::delta::digest;
use crate::delta::file::{self, Links, ReadError};

const PART: &str = ".part";
const TAG: &str = ".tag";
/// Held during a pull.
pub(super) const LOCK: &str = "lock";
const CHUNK: usize = 16 * 1024;
/// An attempt that brought less than this counts as a failed one.
const PROGRESS: u64 = 4096;

/// What to download.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a str,
    pub(super) digest: &'a str,
    pub(super) bytes: u64,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Most bytes a second.
    pub(super) limit: Option<u64>,
    /// Fewest bytes a second, on average, once [`Pace::grace`] is over.
    pub(super) least: u64,
    pub(super) grace: Duration,
}

/// Directory of the parts.
pub(super) struct Parts(PathBuf);

impl Parts {
    pub(super) fn new(dir: PathBuf) -> Parts {
        Parts(dir)
    }

    /// Bytes that are there already.
    pub(super) fn have(&self, wanted: &Wanted<'_>) -> u64 {
        let length = fs::symlink_metadata(self.part(wanted)).map_or(0, |m| m.len());
        if length <= wanted.bytes { length } else { 0 }
    }

    /// Removes what is left of one file.
    pub(super) fn forget(&self, wanted: &Wanted<'_>) {
        let _ = fs::remove_file(self.part(wanted));
        let _ = fs::remove_file(self.tag(wanted));
    }

    /// Removes what is left of all files but those `keep` says yes to, by digest. The lock stays:
    /// without its name, another pull would lock another file.
    pub(super) fn clean(&self, keep: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let stem = name.strip_suffix(PART).or_else(|| name.strip_suffix(TAG));
            if name != LOCK && !stem.is_some_and(&keep) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Downloads what is not there yet and returns all of it, with the digest that was wanted,
    /// and how many bytes came over the network. The part stays until [`Parts::forget`].
    pub(super) fn fetch(
        &self,
        site: &Site<'_>,
        wanted: &Wanted<'_>,
        pace: Pace,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<u8>, u64), FetchError> {
        let mut came = 0;
        let bytes = site.each(|base| {
            // A link that breaks again and again gets there all the same.
            loop {
                let before = self.have(wanted);
                let result = self.attempt(site, base, wanted, pace, &mut came, progress);
                let grew = self.have(wanted).saturating_sub(before);
                match result {
                    Err(e) if e.transient() && grew >= PROGRESS => site.retry.wait(1),
                    result => return result,
                }
            }
        })?;
        Ok((bytes, came))
    }

    fn attempt(
        &self,
        site: &Site<'_>,
        base: &Base,
        wanted: &Wanted<'_>,
        pace: Pace,
        came: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<u8>, FetchError> {
        let url = base.join(wanted.path);
        let resumed = self.have(wanted);
        if resumed < wanted.bytes {
            self.receive(site, &url, wanted, resumed, pace, came, progress)?;
        }
        match self.finished(&url, wanted) {
            // A part from another version, another mirror or a power cut: once more, from the
            // start.
            Err(FetchError::WrongDigest { .. }) if resumed > 0 => {
                self.receive(site, &url, wanted, 0, pace, came, progress)?;
                self.finished(&url, wanted)
            }
            result => result,
        }
    }

    /// Appends what is missing from byte `from` on to the part.
    #[allow(clippy::too_many_arguments)]
    fn receive(
        &self,
        site: &Site<'_>,
        url: &str,
        wanted: &Wanted<'_>,
        from: u64,
        pace: Pace,
        came: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), FetchError> {
        let tag = self.known_tag(wanted, url);
        let request = Request {
            url,
            from,
            if_range: tag.as_deref().filter(|_| from > 0),
            ..Request::default()
        };
        let mut response = site.transport.get(&request)?;
        let at = match (response.status, response.from) {
            (200, _) => 0,
            (206, Some(start)) if start == from && from > 0 => from,
            // The server means another file, or cannot count: from the start next time.
            (206 | 416, _) => {
                self.forget(wanted);
                let reason = "it sends another part than was asked for".into();
                return Err(FetchError::Unreachable { url: url.into(), reason });
            }
            (status, _) => return Err(status_error(url, status)),
        };
        let too_large = || {
            // What such a server sent so far is worth nothing.
            self.forget(wanted);
            FetchError::TooLarge { url: url.into(), limit: wanted.bytes }
        };
        if response.length.is_some_and(|l| l > wanted.bytes - at) {
            return Err(too_large());
        }
        let mut file = self.open(wanted, at)?;
        self.remember_tag(wanted, url, response.etag.as_deref())?;
        let mut have = at;
        let start = Instant::now();
        let mut buffer = vec![0; CHUNK];
        loop {
            // Room for one byte more than was signed, to see an endless server.
            let room = (wanted.bytes - have + 1).min(CHUNK as u64) as usize;
            let n = match response.body.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(body_error(url, &e, have)),
            };
            *came += n as u64;
            if have + n as u64 > wanted.bytes {
                return Err(too_large());
            }
            file.write_all(&buffer[..n]).map_err(|e| self.io(wanted, "write", e))?;
            have += n as u64;
            progress(have);
            pace.keep(have - at, start.elapsed())
                .map_err(|()| FetchError::Stalled { url: url.into(), bytes: have })?;
        }
        match have == wanted.bytes {
            true => Ok(()),
            false => Err(FetchError::Truncated { url: url.into(), have, want: wanted.bytes }),
        }
    }

    /// The whole file, if it is what was signed. A part that is not is removed.
    fn finished(&self, url: &str, wanted: &Wanted<'_>) -> Result<Vec<u8>, FetchError> {
        let bytes = file::read(&self.part(wanted), Links::Refuse, wanted.bytes).map_err(|e| {
            let e = match e {
                ReadError::Io(e) => e,
                ReadError::NotAFile => io::Error::other("not a regular file"),
                ReadError::TooLarge(_) => io::ErrorKind::FileTooLarge.into(),
            };
            self.io(wanted, "read", e)
        })?;
        let have = digest(&bytes);
        if have == wanted.digest {
            return Ok(bytes);
        }
        self.forget(wanted);
        Err(FetchError::WrongDigest { url: url.into(), want: wanted.digest.into(), have })
    }

    /// The part, cut to `at` bytes, ready for more.
    fn open(&self, wanted: &Wanted<'_>, at: u64) -> Result<File, FetchError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        }
        let file = options.open(self.part(wanted)).map_err(|e| self.io(wanted, "write", e))?;
        file.set_len(at).map_err(|e| self.io(wanted, "cut", e))?;
        Ok(file)
    }

    /// The version that the part was begun with, if this address gave it.
    fn known_tag(&self, wanted: &Wanted<'_>, url: &str) -> Option<String> {
        let bytes = file::read(&self.tag(wanted), Links::Refuse, 4096).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (of, tag) = text.split_once('\n')?;
        (of == url).then(|| tag.to_owned())
    }

    /// Only a strong tag promises the same bytes.
    fn remember_tag(
        &self,
        wanted: &Wanted<'_>,
        url: &str,
        tag: Option<&str>,
    ) -> Result<(), FetchError> {
        let path = self.tag(wanted);
        let kept = match tag.filter(|t| t.starts_with('"') && t.len() <= 256) {
            Some(tag) => crate::fs::write_atomic(&path, format!("{url}\n{tag}").as_bytes()),
            None => match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        };
        kept.map_err(|source| FetchError::Io { path, action: "write", source })
    }

    fn part(&self, wanted: &Wanted<'_>) -> PathBuf {
        self.0.join(format!("{}{PART}", wanted.digest))
    }

    fn tag(&self, wanted: &Wanted<'_>) -> PathBuf {
        self.0.join(format!("{}{TAG}", wanted.digest))
    }

    fn io(&self, wanted: &Wanted<'_>, action: &'static str, source: io::Error) -> FetchError {
        FetchError::Io { path: self.part(wanted), action, source }
    }
}

impl Pace {
    /// Waits where `bytes` came too fast; an error where they came too slowly.
    fn keep(&self, bytes: u64, took: Duration) -> Result<(), ()> {
        if let Some(limit) = self.limit {
            let due = Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
            thread::sleep(due.saturating_sub(took));
            // Our own brake is no fault of the server.
            if limit <= self.least {
                return Ok(());
            }
        }
        let expected = took.saturating_sub(self.grace).as_secs_f64() * self.least as f64;
        if (bytes as f64) < expected { Err(()) } else { Ok(()) }
    }
}

/// A directory inside the store, private and really inside.
pub(super) fn private_dir(path: &Path) -> Result<(), FetchError> {
    let io = |action| move |source| FetchError::Io { path: path.into(), action, source };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(io("create"))?;
    match fs::symlink_metadata(path).map_err(io("read"))?.is_dir() {
        true => Ok(()),
        false => {
            Err(io("use")(io::Error::new(io::ErrorKind::NotADirectory, "a link to a directory")))
        }
    }
}
