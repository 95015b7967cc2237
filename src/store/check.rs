//! Looks for everything that is wrong with a store, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::storage::LOCK;
use super::{
    BLOB_SUFFIX, BLOBS, Budget, Disk, INCOMING, LOCK_WAIT, Lock, RUN_SUFFIX, Storage, Store,
    TASK_SUFFIX, TASKS,
};
use crate::delta::is_digest;

/// What pulls keep beside the deltas: whom they trust, and what is half downloaded.
const TRUST: &str = "trust";
const DOWNLOADS: &str = "incoming";

/// Less room than this is worth a warning: a delta and its copy.
const LITTLE_SPACE: u64 = 64 << 20;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing has to be done.
    Note,
    /// Works, but should be looked after.
    Warning,
    /// Something does not work.
    Broken,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable code; `edge-tune explain` knows it.
    pub code: &'static str,
    /// What is wrong with which file.
    pub message: String,
}

/// What a check finds that is no error of an operation.
#[derive(Clone, Copy)]
enum Kind {
    Absent,
    Permissions,
    Owner,
    Locked,
    Stray,
    Unused,
    Interrupted,
    Space,
    Remote,
    OtherBackbone,
}

impl Kind {
    fn code(self) -> &'static str {
        match self {
            Kind::Absent => "check.absent",
            Kind::Permissions => "check.permissions",
            Kind::Owner => "check.owner",
            Kind::Locked => "check.locked",
            Kind::Stray => "check.stray",
            Kind::Unused => "check.unused",
            Kind::Interrupted => "check.interrupted",
            Kind::Space => "check.space",
            Kind::Remote => "check.remote",
            Kind::OtherBackbone => "check.other-backbone",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Kind::Permissions | Kind::Owner | Kind::Space => Severity::Warning,
            Kind::Remote | Kind::OtherBackbone => Severity::Warning,
            _ => Severity::Note,
        }
    }
}

/// Checks the store in `dir`: permissions, records, the bytes of every delta, what is left over,
/// room, lock and file system. `backbones` are the digests of those that are present; with none,
/// nothing is said about what deltas fit. The worst comes first.
pub fn check(dir: &Path, backbones: &[&str]) -> Vec<Finding> {
    let mut check = Check { root: dir, findings: Vec::new() };
    if !dir.is_dir() {
        check.add(Kind::Absent, format!("{}: there is no store yet", dir.display()));
        return check.findings;
    }
    let storage = Box::new(Disk::new(dir));
    check.lock(&storage);
    // Not opened: that would clean up what is to be seen.
    let store =
        Store { root: dir.to_path_buf(), storage, lock_wait: LOCK_WAIT, budget: Budget::default() };
    check.access(dir, true);
    let used = check.deltas(&store, backbones);
    check.files(used.as_ref());
    check.medium();
    check.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    check.findings
}

struct Check<'a> {
    root: &'a Path,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn add(&mut self, kind: Kind, message: String) {
        self.findings.push(Finding { severity: kind.severity(), code: kind.code(), message });
    }

    fn error(&mut self, severity: Severity, error: &super::StoreError) {
        let message = error.to_string();
        self.findings.push(Finding { severity, code: error.code(), message });
    }

    fn lock(&mut self, storage: &Disk) {
        // Taking the lock would create its file.
        if self.root.join(LOCK).exists()
            && matches!(storage.try_lock(Path::new(LOCK), Lock::Exclusive), Ok(None))
        {
            let message = format!("{}: a process changes the store", self.root.display());
            self.add(Kind::Locked, message);
        }
    }

    /// Every record and every delta. Returns the blobs that are in use, if all records say so.
    fn deltas(&mut self, store: &Store, backbones: &[&str]) -> Option<BTreeSet<String>> {
        let mut used = Some(BTreeSet::new());
        let names = match store.task_names() {
            Ok(names) => names,
            Err(e) => {
                self.error(Severity::Broken, &e);
                return None;
            }
        };
        // A delta of many tasks is read once; the worst that it means is what counts.
        let mut seen: BTreeMap<String, Severity> = BTreeMap::new();
        for name in names {
            let task = match store.record(&name) {
                Ok(task) => task,
                Err(e) => {
                    self.error(Severity::Broken, &e);
                    used = None;
                    continue;
                }
            };
            let Some(task) = task else { continue };
            let active = task.active_entry().cloned();
            for entry in &task.entries {
                used = used.map(|mut u| {
                    u.insert(format!("{}{BLOB_SUFFIX}", entry.digest));
                    u
                });
                // Without an older delta, only a rollback fails.
                let in_use = active.as_ref().is_some_and(|a| a.digest == entry.digest);
                let severity = if in_use { Severity::Broken } else { Severity::Warning };
                if seen.get(&entry.digest).is_some_and(|s| *s >= severity) {
                    continue;
                }
                seen.insert(entry.digest.clone(), severity);
                match store.load(entry) {
                    Err(e) => self.error(severity, &e),
                    Ok(delta) => {
                        let of = delta.metadata().backbone.as_str();
                        if in_use && !backbones.is_empty() && !backbones.contains(&of) {
                            let message = format!(
                                "task `{name}`: its delta is for backbone {of}, which is not here"
                            );
                            self.add(Kind::OtherBackbone, message);
                        }
                    }
                }
            }
        }
        used
    }

    /// What lies in the folders, and who may read it.
    fn files(&mut self, used: Option<&BTreeSet<String>>) {
        for (name, file) in self.entries("") {
            match name.as_str() {
                BLOBS | TASKS | TRUST | DOWNLOADS => self.access(&file, true),
                LOCK => self.access(&file, false),
                _ => self.add(Kind::Stray, format!("{}: not of the store", file.display())),
            }
        }
        for dir in [BLOBS, TASKS] {
            for (name, file) in self.entries(dir) {
                self.access(&file, false);
                let blob = name.strip_suffix(BLOB_SUFFIX).is_some_and(is_digest);
                let of_task = [TASK_SUFFIX, RUN_SUFFIX].iter().find_map(|s| name.strip_suffix(s));
                let task = of_task.is_some_and(super::record::is_task_name);
                let shown = file.display();
                if name.starts_with(INCOMING) {
                    self.add(Kind::Interrupted, format!("{shown}: a change was cut off"));
                } else if !(dir == BLOBS && blob || dir == TASKS && task) {
                    self.add(Kind::Stray, format!("{shown}: not of the store"));
                } else if dir == BLOBS && used.is_some_and(|u| !u.contains(&name)) {
                    self.add(Kind::Unused, format!("{shown}: no task has this delta"));
                }
            }
        }
    }

    fn entries(&self, dir: &str) -> Vec<(String, std::path::PathBuf)> {
        let Ok(list) = fs::read_dir(self.root.join(dir)) else { return Vec::new() };
        let mut list: Vec<_> = list
            .flatten()
            .map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))
            .collect();
        list.sort();
        list
    }

    /// Nobody else may read or change what is in the store.
    #[cfg(unix)]
    fn access(&mut self, path: &Path, dir: bool) {
        use std::os::unix::fs::MetadataExt;
        let follow = path == self.root;
        let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let Ok(meta) = meta else { return };
        let (mode, want) = (meta.mode() & 0o7777, if dir { 0o700 } else { 0o600 });
        if mode & 0o077 != 0 {
            let message = format!("{}: mode {mode:o}, {want:o} is private", path.display());
            self.add(Kind::Permissions, message);
        }
        // SAFETY: asks for a number; cannot fail.
        let me = unsafe { libc::geteuid() };
        if meta.uid() != me {
            let message = format!("{}: belongs to user {}, not {me}", path.display(), meta.uid());
            self.add(Kind::Owner, message);
        }
    }

    #[cfg(not(unix))]
    fn access(&mut self, _: &Path, _: bool) {}

    fn medium(&mut self) {
        if let Some(free) = free_space(self.root)
            && free < LITTLE_SPACE
        {
            let (root, free) = (self.root.display(), free >> 20);
            self.add(Kind::Space, format!("{root}: {free} MB are free"));
        }
        if let Some(kind) = remote_kind(self.root) {
            let message =
                format!("{}: on {kind}, where locks and syncs may not hold", self.root.display());
            self.add(Kind::Remote, message);
        }
    }
}

/// Bytes that this user may still write.
#[cfg(unix)]
#[allow(clippy::unnecessary_cast)] // The types differ between systems.
fn free_space(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut out = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a NUL and `out` has room for what is written.
    let ok = unsafe { libc::statvfs(path.as_ptr(), out.as_mut_ptr()) } == 0;
    // SAFETY: it was filled, for the call succeeded.
    let out = ok.then(|| unsafe { out.assume_init() })?;
    (out.f_bavail as u64).checked_mul(out.f_frsize as u64)
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

/// The name of the file system if it is one over a network.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn remote_kind(path: &Path) -> Option<&'static str> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut out = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends in a NUL and `out` has room for what is written.
    let ok = unsafe { libc::statfs(path.as_ptr(), out.as_mut_ptr()) } == 0;
    // SAFETY: it was filled, for the call succeeded.
    let out = ok.then(|| unsafe { out.assume_init() })?;
    match out.f_type as u32 {
        0x6969 => Some("NFS"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        _ => None,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn remote_kind(_: &Path) -> Option<&'static str> {
    None
}
