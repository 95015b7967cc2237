//! A medium in memory that remembers what a power cut may take away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use edge_tune::store::{Lock, Stamp, Storage};

/// Files by path, whole.
pub type Image = BTreeMap<PathBuf, Vec<u8>>;

/// What happened to the medium, in order.
#[derive(Clone, Debug)]
enum Event {
    /// A name was given to a new, empty file.
    Create(PathBuf, u64),
    /// Bytes were written.
    Write(u64, Vec<u8>),
    /// The bytes of a file reached the medium.
    Sync(u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    /// The names of a directory reached the medium.
    SyncDir(PathBuf),
}

/// Which operation fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its number, counted from 0.
    pub at: usize,
    /// All later ones fail too, as on a medium that is full or gone.
    pub lasting: bool,
    pub kind: ErrorKind,
}

#[derive(Default)]
struct State {
    start: Image,
    live: HashMap<PathBuf, u64>,
    bytes: HashMap<u64, Vec<u8>>,
    events: Vec<Event>,
    next: u64,
    locks: HashMap<PathBuf, (usize, bool)>,
    operations: usize,
    fault: Option<Fault>,
}

/// The medium. Clones are views of the same one.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

impl Memory {
    /// A medium that holds `image`, all of it durable.
    pub fn new(image: &Image) -> Memory {
        let mut state = State { start: image.clone(), ..State::default() };
        for (path, bytes) in image {
            state.next += 1;
            state.live.insert(path.clone(), state.next);
            state.bytes.insert(state.next, bytes.clone());
        }
        Memory { state: Arc::new(Mutex::new(state)) }
    }

    /// The same files, as a program sees them that goes on.
    pub fn live(&self) -> Image {
        let state = self.state.lock().unwrap();
        state.live.iter().map(|(p, i)| (p.clone(), state.bytes[i].clone())).collect()
    }

    pub fn fail(&self, fault: Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        state.operations = 0;
        state.fault = fault;
    }

    /// Operations since the last [`Memory::fail`].
    pub fn operations(&self) -> usize {
        self.state.lock().unwrap().operations
    }

    /// Everything that the medium may hold if the power was cut after any event: names that were
    /// not synced are there or not, in any combination, and the bytes that were being written
    /// are there in part, in full, or as zeros.
    pub fn crashes(&self) -> Vec<Image> {
        let state = self.state.lock().unwrap();
        let mut images = Vec::new();
        for cut in 0..=state.events.len() {
            images.extend(state.at(cut));
        }
        images
    }

    /// What the medium held, as programs saw it, after each event.
    pub fn history(&self) -> Vec<Image> {
        let state = self.state.lock().unwrap();
        let none = BTreeSet::new();
        (0..=state.events.len())
            .map(|n| state.replay(&state.events[..n], |_| false, &none, 0))
            .collect()
    }

    fn begin(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let now = state.operations;
        state.operations += 1;
        match state.fault {
            Some(f) if now == f.at || (f.lasting && now > f.at) => {
                Err(io::Error::new(f.kind, "injected"))
            }
            _ => Ok(()),
        }
    }
}

impl State {
    /// The images that a cut before event number `cut` can leave.
    fn at(&self, cut: usize) -> Vec<Image> {
        let past = &self.events[..cut];
        let folder = |p: &Path| p.parent().unwrap_or(Path::new("")).to_path_buf();
        // Events on names that no later sync of their directory made durable.
        let mut open: Vec<usize> = Vec::new();
        for (i, event) in past.iter().enumerate() {
            match event {
                Event::Create(path, _) | Event::Remove(path) | Event::Rename(_, path) => {
                    let dir = folder(path);
                    let synced = |e: &Event| matches!(e, Event::SyncDir(d) if *d == dir);
                    if !past[i..].iter().any(synced) {
                        open.push(i);
                    }
                }
                _ => {}
            }
        }
        assert!(open.len() <= 10, "too many names are not synced to try all combinations");
        let unsynced: BTreeSet<u64> = past
            .iter()
            .filter_map(|e| if let Event::Write(inode, _) = e { Some(*inode) } else { None })
            .filter(|i| !past.iter().any(|e| matches!(e, Event::Sync(j) if j == i)))
            .collect();
        let parts = if unsynced.is_empty() { 1 } else { 5 };
        let mut images = Vec::new();
        for chosen in 0..1usize << open.len() {
            for part in 0..parts {
                let lost = |i: usize| {
                    open.iter().position(|&o| o == i).is_some_and(|b| chosen >> b & 1 == 0)
                };
                images.push(self.replay(past, lost, &unsynced, part));
            }
        }
        images
    }

    fn replay(
        &self,
        past: &[Event],
        lost: impl Fn(usize) -> bool,
        unsynced: &BTreeSet<u64>,
        part: usize,
    ) -> Image {
        let mut names: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut bytes: HashMap<u64, Vec<u8>> = HashMap::new();
        for (inode, (path, content)) in (1..).zip(&self.start) {
            names.insert(path.clone(), inode);
            bytes.insert(inode, content.clone());
        }
        // A rename moves the file that had the name then, also if its creation was lost.
        let mut seen = names.clone();
        for (i, event) in past.iter().enumerate() {
            match event {
                Event::Create(path, inode) => {
                    seen.insert(path.clone(), *inode);
                    bytes.insert(*inode, Vec::new());
                    if !lost(i) {
                        names.insert(path.clone(), *inode);
                    }
                }
                Event::Write(inode, content) => {
                    let n = content.len();
                    let content = match (unsynced.contains(inode), part) {
                        (false, _) | (true, 0) => content.clone(),
                        (true, 1) => Vec::new(),
                        (true, 2) => content[..n / 2].to_vec(),
                        (true, 3) => content[..n.saturating_sub(1)].to_vec(),
                        (true, _) => vec![0; n],
                    };
                    bytes.insert(*inode, content);
                }
                Event::Rename(from, to) => {
                    let inode = seen.remove(from).unwrap();
                    seen.insert(to.clone(), inode);
                    if !lost(i) {
                        names.remove(from);
                        names.insert(to.clone(), inode);
                    }
                }
                Event::Remove(path) => {
                    seen.remove(path);
                    if !lost(i) {
                        names.remove(path);
                    }
                }
                Event::Sync(_) | Event::SyncDir(_) => {}
            }
        }
        names.into_iter().map(|(path, inode)| (path, bytes[&inode].clone())).collect()
    }
}

/// A lock that is held.
struct Held {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        let entry = state.locks.get_mut(&self.path).unwrap();
        entry.0 -= 1;
    }
}

impl Storage for Memory {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        // The directories are there from the start.
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.begin()?;
        let state = self.state.lock().unwrap();
        let inode = state.live.get(path).ok_or(ErrorKind::NotFound)?;
        let bytes = state.bytes[inode].clone();
        match bytes.len() as u64 > limit {
            true => Err(ErrorKind::FileTooLarge.into()),
            false => Ok(bytes),
        }
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let failed = self.begin();
        let mut state = self.state.lock().unwrap();
        if state.live.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.next += 1;
        let inode = state.next;
        state.live.insert(path.into(), inode);
        state.events.push(Event::Create(path.into(), inode));
        // A write that fails leaves half of the bytes.
        let written = if failed.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        state.bytes.insert(inode, written.into());
        state.events.push(Event::Write(inode, written.into()));
        failed?;
        state.events.push(Event::Sync(inode));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin()?;
        let mut state = self.state.lock().unwrap();
        let inode = state.live.remove(from).ok_or(ErrorKind::NotFound)?;
        state.live.insert(to.into(), inode);
        state.events.push(Event::Rename(from.into(), to.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.begin()?;
        self.state.lock().unwrap().events.push(Event::SyncDir(path.into()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin()?;
        let mut state = self.state.lock().unwrap();
        state.live.remove(path).ok_or(ErrorKind::NotFound)?;
        state.events.push(Event::Remove(path.into()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.begin()?;
        let state = self.state.lock().unwrap();
        let inside = state.live.keys().filter(|p| p.parent() == Some(path));
        Ok(inside.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn try_lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Send>>> {
        self.begin()?;
        let mut state = self.state.lock().unwrap();
        let held = state.locks.entry(path.into()).or_default();
        let exclusive = lock == Lock::Exclusive;
        if held.0 > 0 && (exclusive || held.1) {
            return Ok(None);
        }
        *held = (held.0 + 1, exclusive);
        Ok(Some(Box::new(Held { state: self.state.clone(), path: path.into() })))
    }

    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        self.begin()?;
        let state = self.state.lock().unwrap();
        Ok(state.live.get(path).map(|&inode| Stamp([inode, 0, 0, 0])))
    }
}
