//! Downloads over networks and from servers that fail.

use std::fs;
use std::time::{Duration, Instant};

use edge_tune::Error;
use edge_tune::delta::digest;
use edge_tune::fetch::{FetchError, Http, Outcome, Pull, patch};
use edge_tune::store::Store;
use serde_json::json;

use super::server::{Fault, Server};
use super::{World, delta, index, installed, names, offer};

const FILE: &str = "weather.safetensors";

/// A download that is cut off again and again, over restarts, fetches nothing twice.
#[test]
fn fetch_resumes_an_interrupted_download() {
    let file = delta("weather", 1.0, 200_000);
    let world = World::with("weather", &file);
    world.server.fault(FILE, Fault::Cut(150_000));
    let mut options = world.options();
    options.retry.attempts = 1;
    // One restart is made by hand: a part is there from a process that was ended.
    fs::create_dir_all(world.path("store/incoming")).unwrap();
    let part = world.path("store/incoming").join(format!("{}.part", digest(&file)));
    fs::write(&part, &file[..50_000]).unwrap();
    let outcome = world.pull_with(options, &["weather"]).unwrap();
    let (downloaded, _) = installed(&outcome);
    let sent: usize = world.server.seen().iter().filter(|s| s.path == FILE).map(|s| s.sent).sum();
    let again = 50_000 + sent - file.len();
    println!("{} bytes, {again} fetched again", file.len());
    assert!(again * 20 < file.len(), "{again} of {} bytes came again", file.len());
    assert_eq!(downloaded as usize, file.len() - 50_000);
    assert_eq!(world.active("weather"), Some(digest(&file)));
    assert_eq!(names(&world.path("store/incoming")), ["lock"]);
}

#[test]
fn fetch_asks_for_the_rest_of_the_same_version_only() {
    let file = delta("weather", 1.0, 20_000);
    let world = World::with("weather", &file);
    world.server.fault(FILE, Fault::Cut(10_000));
    world.pull(&["weather"]).unwrap();
    let seen = world.server.seen();
    let mut asked = seen.iter().filter(|s| s.path == FILE);
    assert!(asked.next().is_some_and(|s| s.range.is_none()));
    assert!(asked.all(|s| s.if_range && s.status == 206));
}

/// A wrong byte anywhere, in what was there or in what comes, and the file is not taken.
#[test]
fn fetch_refuses_a_wrong_byte() {
    let file = delta("weather", 1.0, 2000);
    let world = World::with("weather", &file);
    for at in [0, 7, 8, 300, file.len() / 2, file.len() - 1] {
        let mut wrong = file.clone();
        wrong[at] ^= 1;
        world.server.put(FILE, wrong);
        world.refused("fetch.wrong-digest", "weather");
        assert_eq!(names(&world.path("store/incoming")), ["lock"], "a part stays");
    }
    // A part with a wrong byte costs a second download, no more.
    world.server.put(FILE, &file[..]);
    let part = world.path("store/incoming").join(format!("{}.part", digest(&file)));
    fs::write(&part, vec![1; 2000]).unwrap();
    world.pull(&["weather"]).unwrap();
    assert_eq!(world.active("weather"), Some(digest(&file)));
}

#[test]
fn fetch_copes_with_bad_servers() {
    let file = delta("weather", 1.0, 20_000);
    for fault in [Fault::NoRange, Fault::WrongRange, Fault::Status(503, 2), Fault::Status(416, 1)] {
        let world = World::with("weather", &file);
        world.server.fault(FILE, fault.clone());
        fs::create_dir_all(world.path("store/incoming")).unwrap();
        let part = world.path("store/incoming").join(format!("{}.part", digest(&file)));
        fs::write(&part, &file[..9000]).unwrap();
        world.pull(&["weather"]).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(world.active("weather"), Some(digest(&file)), "{fault:?}");
    }
    for (fault, code) in [
        (Fault::Status(500, 99), "fetch.status"),
        (Fault::Status(403, 99), "fetch.status"),
        (Fault::Status(404, 99), "fetch.not-found"),
        (Fault::Silent, "fetch.stalled"),
        (Fault::Redirect("http://example.org/x".into()), "fetch.plain-http"),
        (Fault::Redirect(format!("/{FILE}")), "fetch.url"),
    ] {
        let world = World::with("weather", &file);
        world.server.fault(FILE, fault.clone());
        world.refused(code, "weather");
    }
    // Cut off at the same place, and no server at all.
    let world = World::with("weather", &file);
    world.server.fault(FILE, Fault::Cut(100));
    let error = world.pull(&["weather"]).unwrap_err();
    let codes = ["fetch.unreachable", "fetch.truncated"];
    assert!(codes.contains(&error.code()), "{error}");
    let mut options = world.options();
    options.sources = vec!["http://127.0.0.1:1".into()];
    let error = world.pull_with(options, &["weather"]).unwrap_err();
    assert_eq!(error.code(), "fetch.unreachable");
    // A body that ends early without a length cannot be told from a whole one, but by its size.
    let world = World::with("weather", &file);
    world.server.put(FILE, &file[..30_000]);
    world.refused("fetch.truncated", "weather");
    world.server.fault(FILE, Fault::Redirect(format!("{}/elsewhere", world.server.url)));
    world.server.put("elsewhere", &file[..]);
    world.pull(&["weather"]).unwrap();
}

#[test]
fn fetch_keeps_to_its_rate_and_its_share() {
    let file = delta("weather", 1.0, 20_000);
    let world = World::with("weather", &file);
    let mut options = world.options();
    options.metered = Some(1000);
    let error = world.pull_with(options.clone(), &["weather"]).unwrap_err();
    assert_eq!(error.code(), "fetch.metered", "{error}");
    assert!(world.server.seen().iter().all(|s| s.path != FILE));
    options.metered = Some(file.len() as u64);
    options.limit_rate = Some(80_000);
    let start = Instant::now();
    world.pull_with(options, &["weather"]).unwrap();
    assert!(start.elapsed() > Duration::from_millis(450), "{:?}", start.elapsed());
}

#[test]
fn fetch_by_a_patch_and_in_full_where_it_fails() {
    let one = delta("weather", 1.0, 20_000);
    let mut two = one.clone();
    let end = two.len();
    two[end - 2000..].rotate_left(4);
    let made = patch::make(&one, &two, "p").unwrap();
    assert!(made.len() * 4 < two.len(), "{} of {}", made.len(), two.len());
    for broken in [false, true] {
        let world = World::with("weather", &one);
        world.pull(&["weather"]).unwrap();
        let mut patch = made.clone();
        if broken {
            let at = patch.len() - 20;
            patch[at] ^= 8;
        }
        let mut offer = offer("weather", &two);
        // The publisher signed a broken patch: the target digest tells.
        offer["patches"] = json!([{ "from": digest(&one), "path": "p.patch",
            "bytes": patch.len(), "digest": digest(&patch) }]);
        world.server.put("p.patch", &patch[..]);
        world.server.put(FILE, &two[..]);
        world.publish(&index(2, &[offer]), &[&world.key]);
        let outcome = world.pull(&["weather"]).unwrap();
        let Outcome::Installed { patched, downloaded, patch_failed, .. } = &outcome[0] else {
            panic!("{outcome:?}")
        };
        assert_eq!((*patched, patch_failed.is_some()), (!broken, broken));
        let full = if broken { two.len() } else { 0 };
        assert_eq!(*downloaded as usize, patch.len() + full);
        assert_eq!(world.active("weather"), Some(digest(&two)));
        assert_eq!(names(&world.path("store/incoming")), ["lock"]);
    }
}

#[test]
fn fetch_one_pull_at_a_time() {
    let file = delta("weather", 1.0, 400);
    let world = World::with("weather", &file);
    let store = Store::open(&world.path("store")).unwrap();
    let http = Http::new(Duration::from_secs(1), false);
    let pull = Pull::open(&store, &world.path("store"), &http, world.options()).unwrap();
    let other = Pull::open(&store, &world.path("store"), &http, world.options());
    assert!(matches!(other, Err(FetchError::Busy { .. })));
    drop(pull);
    world.pull(&["weather"]).unwrap();
}

#[test]
fn fetch_addresses_and_mirrors() {
    let file = delta("weather", 1.0, 400);
    let world = World::with("weather", &file);
    let with = |sources: &[&str]| {
        let mut options = world.options();
        options.sources = sources.iter().map(|s| s.to_string()).collect();
        world.pull_with(options, &["weather"]).map_err(|e| e.code())
    };
    assert_eq!(with(&["http://example.org"]), Err("fetch.plain-http"));
    assert_eq!(with(&["ftp://example.org"]), Err("fetch.url"));
    assert_eq!(with(&[]), Err("fetch.url"));
    let empty = Server::start();
    assert_eq!(with(&[&empty.url]), Err("fetch.not-found"));
    assert!(with(&[&empty.url, "http://127.0.0.1:1", &world.server.url]).is_ok());
}

#[test]
fn fetch_without_signatures_only_when_told() {
    let file = delta("weather", 1.0, 400);
    let mut world = World::with("weather", &file);
    world.server.remove("index.json.minisig");
    let mut options = world.options();
    options.trust = None;
    let error = world.pull_with(options.clone(), &["weather"]).unwrap_err();
    assert_eq!(error.code(), "fetch.no-trust");
    options.unsigned = true;
    world.pull_with(options.clone(), &["weather"]).unwrap();
    assert_eq!(world.active("weather"), Some(digest(&file)));
    assert!(!world.path("store/trust").exists());
    world.now += 30 * 86_400;
    options.now = world.options().now;
    let error = world.pull_with(options, &["weather"]).unwrap_err();
    assert_eq!(error.code(), "fetch.expired");
}

/// What the device refuses is not kept, and does not replace what is active.
#[test]
fn fetch_of_a_delta_that_does_not_pass() {
    let file = delta("weather", 1.0, 400);
    let world = World::with("weather", &file);
    let store = world.store();
    let http = Http::new(Duration::from_secs(1), false);
    let pull = Pull::open(&store, &world.path("store"), &http, world.options()).unwrap();
    let index = pull.index().unwrap();
    let offer = index.offer("weather", &super::backbone()).unwrap();
    let result = pull.update(offer, |_| Err("self-test 0 failed"), &mut |_, _| ());
    assert_eq!(result.unwrap_err().code(), "store.refused");
    let none = pull.choose(&index, &super::backbone(), &[]).unwrap_err();
    assert!(matches!(none, Error::Fetch(FetchError::NoTask { .. })), "{none}");
    assert_eq!(none.code(), "fetch.no-task");
    drop(pull);
    assert_eq!(world.active("weather"), None);
    assert_eq!(names(&world.path("store/incoming")), ["lock"]);
}

/// Against a web server that others wrote: `tools/test-servers.sh` starts nginx and says where.
#[test]
fn fetch_from_nginx() {
    let (Ok(url), Ok(root)) =
        (std::env::var("EDGE_TUNE_TEST_URL"), std::env::var("EDGE_TUNE_TEST_ROOT"))
    else {
        println!("skipped: no server; run tools/test-servers.sh");
        return;
    };
    let file = delta("weather", 1.0, 200_000);
    let world = World::with("weather", &file);
    for name in ["index.json", "index.json.minisig", FILE] {
        fs::write(format!("{root}/{name}"), world.server.get(name)).unwrap();
    }
    let mut options = world.options();
    options.sources = vec![url];
    // The first half is there.
    fs::create_dir_all(world.path("store/incoming")).unwrap();
    let part = world.path("store/incoming").join(format!("{}.part", digest(&file)));
    fs::write(&part, &file[..file.len() / 2]).unwrap();
    let outcome = world.pull_with(options.clone(), &["weather"]).unwrap();
    assert_eq!(installed(&outcome).0 as usize, file.len() - file.len() / 2);
    assert!(matches!(world.pull_with(options, &[]).unwrap()[..], [Outcome::Current(_)]));
}
