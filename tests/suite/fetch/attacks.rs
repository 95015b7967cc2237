//! The ten attacks that TUF lists, each performed against a pull. `docs/security.md` has the
//! answers.

use std::time::{Duration, Instant, UNIX_EPOCH};

use edge_tune::delta::digest;
use edge_tune::fetch::Outcome;
use serde_json::json;

use super::server::{Fault, Server};
use super::{World, delta, index, key, offer, root, seconds, sign};

/// Somebody on the way, or the server itself, sends another delta.
#[test]
fn fetch_attack_arbitrary_installation() {
    let (good, evil) = (delta("weather", 1.0, 400), delta("weather", 6.0, 400));
    let world = World::with("weather", &good);
    world.server.put("weather.safetensors", &evil[..]);
    world.refused("fetch.wrong-digest", "weather");
    // And an index that names it, signed by a stranger, by nobody, or with the old signature.
    let evil_index = index(2, &[offer("weather", &evil)]);
    world.publish(&evil_index, &[&key()]);
    world.refused("fetch.signatures", "weather");
    world.server.remove("index.json.minisig");
    world.refused("fetch.not-found", "weather");
    world.publish(&index(1, &[offer("weather", &good)]), &[&world.key]);
    world.server.put("index.json", serde_json::to_vec(&evil_index).unwrap());
    world.refused("fetch.signatures", "weather");
    assert_eq!(world.active("weather"), None);
}

/// The server sends bytes without end.
#[test]
fn fetch_attack_endless_data() {
    let file = delta("weather", 1.0, 400);
    let world = World::with("weather", &file);
    for path in ["root/2.json", "index.json", "index.json.minisig", "weather.safetensors"] {
        world.server.fault(path, Fault::Endless);
        let start = Instant::now();
        world.refused("fetch.too-large", "weather");
        assert!(start.elapsed() < Duration::from_secs(5), "{path}");
        world.server.repair();
    }
    world.server.fault("weather.safetensors", Fault::Longer);
    world.refused("fetch.too-large", "weather");
    assert_eq!(super::names(&world.path("store/incoming")), ["lock"]);
    // Slowly, too: a server that drips is left.
    world.server.fault("weather.safetensors", Fault::Slow);
    let mut options = world.options();
    (options.least_rate, options.grace) = (10_000, Duration::from_millis(50));
    let error = world.pull_with(options, &["weather"]).unwrap_err();
    assert_eq!(error.code(), "fetch.stalled", "{error}");
}

/// More than was asked for is to be installed along with it.
#[test]
fn fetch_attack_extraneous_dependencies() {
    let (good, more) = (delta("weather", 1.0, 400), delta("spy", 2.0, 400));
    let world = World::with("weather", &good);
    // There are no dependencies: not even the publisher can name one.
    let mut wants_more = offer("weather", &good);
    wants_more["dependencies"] = json!(["spy"]);
    world.publish(&index(2, &[wants_more]), &[&world.key]);
    world.refused("fetch.index", "weather");
    // What is published besides stays where it is, also in a pull that names no task.
    world.server.put("spy.safetensors", &more[..]);
    let both = index(3, &[offer("spy", &more), offer("weather", &good)]);
    world.publish(&both, &[&world.key]);
    world.pull(&["weather"]).unwrap();
    world.pull(&[]).unwrap();
    assert_eq!((world.active("weather"), world.active("spy")), (Some(digest(&good)), None));
    assert!(world.server.seen().iter().all(|s| s.path != "spy.safetensors"));
}

/// With a stolen key, a version so high that no later one is accepted. After the publisher has
/// replaced the key, devices come back by themselves.
#[test]
fn fetch_attack_fast_forward() {
    let (good, next) = (delta("weather", 1.0, 400), delta("weather", 2.0, 400));
    let world = World::with("weather", &good);
    let mut evil = index((1 << 53) - 1, &[offer("weather", &good)]);
    evil["created"] = json!("2099-01-01T00:00:00Z");
    evil["expires"] = json!("2099-01-02T00:00:00Z");
    world.publish(&evil, &[&world.key]);
    world.pull(&["weather"]).unwrap();
    world.server.put("weather.safetensors", &next[..]);
    let honest = index(2, &[offer("weather", &next)]);
    world.publish(&honest, &[&world.key]);
    // Its clock is in 2099 now, too: even the root seems to have expired.
    world.refused("fetch.root-expired", "weather");
    let fresh = key();
    world.publish_root(2, &root(2, 1, &[&fresh]), &[&world.key, &fresh]);
    world.refused("fetch.signatures", "weather");
    world.publish(&honest, &[&fresh]);
    world.pull(&["weather"]).unwrap();
    assert_eq!(world.active("weather"), Some(digest(&next)));
}

/// The server goes on to serve what was once right.
#[test]
fn fetch_attack_indefinite_freeze() {
    let good = delta("weather", 1.0, 400);
    let mut world = World::with("weather", &good);
    world.pull(&["weather"]).unwrap();
    world.now += 20 * 86_400;
    world.refused("fetch.expired", "weather");
    // Also where it says that nothing has changed.
    world.server.fault("index.json", Fault::Unchanged);
    world.refused("fetch.expired", "weather");
    world.server.repair();
    // A device without a clock counts from what it saw signed: here an index of February.
    let mut later = index(2, &[offer("weather", &good)]);
    later["created"] = json!("2027-02-10T00:00:00Z");
    later["expires"] = json!("2027-03-10T00:00:00Z");
    world.publish(&later, &[&world.key]);
    world.now = 0;
    world.pull(&["weather"]).unwrap();
    world.publish(&index(3, &[offer("weather", &good)]), &[&world.key]);
    world.refused("fetch.expired", "weather");
    // And an old root does not live longer than it says either.
    world.now = seconds(UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    world.refused("fetch.root-expired", "weather");
}

/// One mirror is in the hands of somebody else.
#[test]
fn fetch_attack_malicious_mirror() {
    let (good, evil) = (delta("weather", 1.0, 400), delta("weather", 6.0, 400));
    let world = World::with("weather", &good);
    let mirror = Server::start();
    world.server.copy_to(&mirror);
    let pull = || {
        let mut options = world.options();
        options.sources.insert(0, mirror.url.clone());
        world.pull_with(options, &["weather"])
    };
    // A wrong delta; then a wrong index, with a signature of its own; then endless files.
    mirror.put("weather.safetensors", &evil[..]);
    pull().unwrap();
    assert_eq!(world.active("weather"), Some(digest(&good)));
    let bytes = serde_json::to_vec(&index(9, &[offer("weather", &evil)])).unwrap();
    mirror.put("index.json.minisig", sign(&[&key()], &bytes));
    mirror.put("index.json", bytes);
    assert!(matches!(pull().unwrap()[..], [Outcome::Current(_)]));
    mirror.fault("index.json", Fault::Endless);
    mirror.fault("root/2.json", Fault::Endless);
    assert!(matches!(pull().unwrap()[..], [Outcome::Current(_)]));
    // It cannot hide a new root that another mirror has.
    let fresh = key();
    mirror.repair();
    world.publish_root(2, &root(2, 1, &[&fresh]), &[&world.key, &fresh]);
    let (key, next) = (&fresh, index(10, &[offer("weather", &good)]));
    world.publish(&next, &[key]);
    assert!(matches!(pull().unwrap()[..], [Outcome::Current(_)]));
    assert!(world.path("store/trust/state.json").exists());
}

/// Files that are each signed, but never belonged together.
#[test]
fn fetch_attack_mix_and_match() {
    let (one, two) = (delta("weather", 1.0, 400), delta("weather", 2.0, 400));
    let world = World::with("weather", &one);
    let old = (world.server.get("index.json"), world.server.get("index.json.minisig"));
    // The delta of version 2 beside the index of version 1, and the other way round.
    world.server.put("weather.safetensors", &two[..]);
    world.refused("fetch.wrong-digest", "weather");
    world.publish(&index(2, &[offer("weather", &two)]), &[&world.key]);
    world.server.put("weather.safetensors", &one[..]);
    world.refused("fetch.wrong-digest", "weather");
    // The index of one version with the signature of another.
    world.server.put("index.json", old.0);
    world.refused("fetch.signatures", "weather");
    world.server.put("index.json.minisig", old.1);
    world.refused("fetch.rollback", "weather");
    // A root in place of an index: both are signed by the same key.
    let other = root(3, 1, &[&world.key]);
    world.server.put("index.json.minisig", sign(&[&world.key], &other));
    world.server.put("index.json", other);
    world.refused("fetch.index", "weather");
}

/// Something older, with a hole in it perhaps, that was signed once.
#[test]
fn fetch_attack_rollback() {
    let (one, two) = (delta("weather", 1.0, 400), delta("weather", 2.0, 400));
    let world = World::with("weather", &one);
    let old = (world.server.get("index.json"), world.server.get("index.json.minisig"));
    world.server.put("weather.safetensors", &two[..]);
    world.publish(&index(2, &[offer("weather", &two)]), &[&world.key]);
    world.pull(&["weather"]).unwrap();
    world.server.put("index.json", old.0);
    world.server.put("index.json.minisig", old.1);
    world.server.put("weather.safetensors", &one[..]);
    world.refused("fetch.rollback", "weather");
    // Other content under the same version.
    world.publish(&index(2, &[offer("weather", &one)]), &[&world.key]);
    world.refused("fetch.index-changed", "weather");
    assert_eq!(world.active("weather"), Some(digest(&two)));
    // An older root is not even asked for; one in the place of the next is not taken.
    let again = root(1, 1, &[&world.key]);
    world.publish_root(2, &again, &[&world.key]);
    world.refused("fetch.root", "weather");
}

/// A key is stolen. One of two that must sign is not enough; and once it is revoked, neither is it
/// with others.
#[test]
fn fetch_attack_key_compromise() {
    let (good, evil) = (delta("weather", 1.0, 400), delta("weather", 6.0, 400));
    let world = World::new();
    let (a, b, c) = (key(), key(), key());
    std::fs::write(world.path("root.json"), root(1, 2, &[&a, &b])).unwrap();
    world.server.put("weather.safetensors", &good[..]);
    world.publish(&index(1, &[offer("weather", &good)]), &[&a, &b]);
    world.pull(&["weather"]).unwrap();
    let evil_index = index(2, &[offer("weather", &evil)]);
    world.server.put("weather.safetensors", &evil[..]);
    for keys in [&[&b][..], &[&b, &b], &[&b, &c]] {
        world.publish(&evil_index, keys);
        world.refused("fetch.signatures", "weather");
    }
    // It cannot bring in a root of its own, nor can strangers.
    let own = root(2, 1, &[&b]);
    for keys in [&[&b][..], &[&b, &c]] {
        world.publish_root(2, &own, keys);
        world.refused("fetch.signatures", "weather");
    }
    // A root whose new keys do not sign it is refused too: nobody may hold them.
    let fresh = root(2, 2, &[&a, &c]);
    world.publish_root(2, &fresh, &[&a, &b]);
    world.refused("fetch.signatures", "weather");
    world.publish_root(2, &fresh, &[&a, &b, &c]);
    for keys in [&[&b][..], &[&a, &b], &[&b, &c]] {
        world.publish(&evil_index, keys);
        world.refused("fetch.signatures", "weather");
    }
    world.server.put("weather.safetensors", &good[..]);
    world.publish(&index(1, &[offer("weather", &good)]), &[&a, &c]);
    world.pull(&["weather"]).unwrap();
    assert_eq!(world.active("weather"), Some(digest(&good)));
}

/// A delta that is signed, but for another backbone, another task or with another method.
#[test]
fn fetch_attack_wrong_software() {
    let good = delta("weather", 1.0, 400);
    let world = World::with("weather", &good);
    let mut foreign = offer("weather", &good);
    foreign["backbone"] = json!("cd".repeat(32));
    world.publish(&index(2, &[foreign]), &[&world.key]);
    world.refused("fetch.other-backbone", "weather");
    world.refused("fetch.unknown-task", "music");
    // The index says this backbone, the file another one.
    let mut metadata = edge_tune::delta::Metadata::new("linear", &"cd".repeat(32), &["no", "yes"]);
    metadata.task = "weather".into();
    let weight = edge_tune::tensor::Tensor::new(&[2, 1], &[0.0f32, 1.0]).unwrap();
    let other = edge_tune::delta::Delta::new(metadata, [("head.weight".to_string(), weight)]);
    let other = other.unwrap().to_bytes().unwrap();
    world.server.put("weather.safetensors", &other[..]);
    world.publish(&index(3, &[offer("weather", &other)]), &[&world.key]);
    world.refused("fetch.mismatch", "weather");
    let mut lora = offer("weather", &good);
    lora["method"] = json!("lora");
    world.server.put("weather.safetensors", &good[..]);
    world.publish(&index(4, &[lora]), &[&world.key]);
    world.refused("fetch.mismatch", "weather");
    assert_eq!(world.active("weather"), None);
}
