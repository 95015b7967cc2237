//! Tests: published deltas, fetched from a server on loopback.

mod attacks;
mod downloads;
mod formats;
#[cfg(feature = "oci")]
mod registry;
mod server;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_tune::Error;
use edge_tune::delta::{Delta, Metadata, digest};
use edge_tune::fetch::{Http, Options, Outcome, Pull, Retry};
use edge_tune::store::Store;
use edge_tune::tensor::Tensor;
use minisign::KeyPair;
use serde_json::{Value, json};
use server::Server;

const NOON: u64 = 1_800_000_000; // 2027-01-15T08:00:00Z
const CREATED: &str = "2027-01-01T00:00:00Z";
const EXPIRES: &str = "2027-02-01T00:00:00Z";

fn backbone() -> String {
    "ab".repeat(32)
}

/// A delta file for `task` of some 2 bytes for each of `values`.
fn delta(task: &str, seed: f32, values: usize) -> Vec<u8> {
    let mut metadata = Metadata::new("linear", &backbone(), &["no", "yes"]);
    metadata.task = task.into();
    metadata.created.clear();
    let mut x = seed.to_bits() | 1;
    let values: Vec<f32> = (0..values)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32
        })
        .collect();
    let weight = Tensor::new(&[2, values.len() / 2], &values).unwrap().to_f16();
    Delta::new(metadata, [("head.weight".to_string(), weight)]).unwrap().to_bytes().unwrap()
}

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

/// The file `minisign -S` would write.
fn sign(keys: &[&KeyPair], bytes: &[u8]) -> Vec<u8> {
    let sign = |k: &&KeyPair| {
        minisign::sign(Some(&k.pk), &k.sk, Cursor::new(bytes), None, None).unwrap().to_string()
    };
    keys.iter().map(|k| sign(k).trim_end().to_owned() + "\n").collect::<String>().into_bytes()
}

fn root(version: u64, threshold: usize, keys: &[&KeyPair]) -> Vec<u8> {
    let keys: Vec<String> = keys.iter().map(|k| k.pk.to_base64()).collect();
    json!({ "format": "edge-tune.root/1", "version": version, "expires": "2030-01-01T00:00:00Z",
        "threshold": threshold, "keys": keys })
    .to_string()
    .into_bytes()
}

fn offer(task: &str, file: &[u8]) -> Value {
    json!({ "task": task, "digest": digest(file), "bytes": file.len(), "backbone": backbone(),
        "method": "linear", "path": format!("{task}.safetensors"), "patches": [] })
}

fn index(version: u64, deltas: &[Value]) -> Value {
    json!({ "format": "edge-tune.index/1", "version": version, "created": CREATED,
        "expires": EXPIRES, "deltas": deltas })
}

/// A publisher with one key, its server, and a device.
struct World {
    dir: tempfile::TempDir,
    server: Server,
    key: KeyPair,
    now: u64,
}

impl World {
    fn new() -> World {
        let world = World {
            dir: tempfile::tempdir().unwrap(),
            server: Server::start(),
            key: key(),
            now: NOON,
        };
        std::fs::write(world.path("root.json"), root(1, 1, &[&world.key])).unwrap();
        world
    }

    /// One that published `file` as version 1 of the index.
    fn with(task: &str, file: &[u8]) -> World {
        let world = World::new();
        world.server.put(&format!("{task}.safetensors"), file);
        world.publish(&index(1, &[offer(task, file)]), &[&world.key]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn publish(&self, index: &Value, keys: &[&KeyPair]) {
        let bytes = serde_json::to_vec(index).unwrap();
        self.server.put("index.json.minisig", sign(keys, &bytes));
        self.server.put("index.json", bytes);
    }

    fn publish_root(&self, version: u64, bytes: &[u8], keys: &[&KeyPair]) {
        self.server.put(&format!("root/{version}.json"), bytes);
        self.server.put(&format!("root/{version}.json.minisig"), sign(keys, bytes));
    }

    fn options(&self) -> Options {
        let mut options = Options::new([self.server.url.clone()]);
        options.trust = Some(self.path("root.json"));
        options.now = Some(UNIX_EPOCH + Duration::from_secs(self.now));
        let ms = Duration::from_millis;
        options.retry = Retry { attempts: 3, pause: ms(1), longest: ms(5) };
        options
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    fn pull(&self, tasks: &[&str]) -> Result<Vec<Outcome>, Error> {
        self.pull_with(self.options(), tasks)
    }

    fn pull_with(&self, options: Options, tasks: &[&str]) -> Result<Vec<Outcome>, Error> {
        let store = self.store();
        let http = Http::new(Duration::from_millis(500), options.allow_http);
        let pull = Pull::open(&store, &self.path("store"), &http, options)?;
        let index = pull.index()?;
        let tasks: Vec<String> = tasks.iter().map(|t| t.to_string()).collect();
        let mut out = Vec::new();
        for offer in pull.choose(&index, &backbone(), &tasks)? {
            out.push(pull.update(offer, |_| Ok::<_, String>(()), &mut |_, _| ())?);
        }
        Ok(out)
    }

    /// The pull fails with this code, and the active delta of the task stays.
    fn refused(&self, code: &str, task: &str) {
        let before = self.active(task);
        let error = self.pull(&[task]).expect_err(code);
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(self.active(task), before);
    }

    /// Digest of the active delta.
    fn active(&self, task: &str) -> Option<String> {
        self.store().active(task).unwrap().map(|e| e.digest)
    }
}

/// Bytes that came, and whether by a patch.
fn installed(outcome: &[Outcome]) -> (u64, bool) {
    match outcome {
        [Outcome::Installed { downloaded, patched, .. }] => (*downloaded, *patched),
        other => panic!("{other:?}"),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn fetch_installs_what_was_signed_and_then_only_what_changed() {
    let one = delta("weather", 1.0, 3000);
    let mut world = World::with("weather", &one);
    assert_eq!(installed(&world.pull(&["weather"]).unwrap()), (one.len() as u64, false));
    assert_eq!(world.active("weather"), Some(digest(&one)));
    assert_eq!(names(&world.path("store/incoming")), ["lock"]);
    // Nothing new: one question for a newer root, one for the index, answered by three digits.
    world.server.seen();
    assert!(matches!(world.pull(&[]).unwrap()[..], [Outcome::Current(_)]));
    let seen: Vec<_> = world.server.seen().into_iter().map(|s| (s.path, s.status)).collect();
    assert_eq!(seen, [("root/2.json".to_string(), 404), ("index.json".to_string(), 304)]);
    // A new version, on another day, without --trust.
    let two = delta("weather", 2.0, 3000);
    world.now += 86_400;
    world.server.put("weather.safetensors", &two[..]);
    world.publish(&index(2, &[offer("weather", &two)]), &[&world.key]);
    let mut options = world.options();
    options.trust = None;
    world.pull_with(options, &[]).unwrap();
    assert_eq!(world.active("weather"), Some(digest(&two)));
}
