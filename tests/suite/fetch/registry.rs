//! Tests: a registry of containers. `tools/test-servers.sh` starts one and says where.

use std::fs;
use std::time::Duration;

use edge_tune::fetch::oci::Oci;
use edge_tune::fetch::{Options, Outcome, Pull};
use edge_tune::store::Store;

use super::{World, delta};

const TIMEOUT: Duration = Duration::from_secs(5);
const FILE: &str = "weather.safetensors";

#[test]
fn fetch_from_a_registry() {
    let Ok(registry) = std::env::var("EDGE_TUNE_TEST_REGISTRY") else {
        println!("skipped: no registry; run tools/test-servers.sh");
        return;
    };
    let file = delta("weather", 1.0, 200_000);
    let world = World::with("weather", &file);
    let site = world.path("site");
    fs::create_dir(&site).unwrap();
    for name in ["index.json", "index.json.minisig", FILE] {
        fs::write(site.join(name), world.server.get(name)).unwrap();
    }
    let address = format!("oci://{registry}/team/deltas:v1");
    let pushed = Oci::new(TIMEOUT, false, None).unwrap().push(&site, &address).unwrap();
    assert!(pushed.starts_with("sha256:"), "{pushed}");
    // What the registry has is not sent again, and the same files are the same artifact.
    assert_eq!(Oci::new(TIMEOUT, false, None).unwrap().push(&site, &address).unwrap(), pushed);

    let store = Store::open(&world.path("store")).unwrap();
    let pull = |options: Options| -> Result<Vec<Outcome>, edge_tune::Error> {
        let oci = Oci::new(TIMEOUT, false, None)?;
        let pull = Pull::open(&store, &world.path("store"), &oci, options)?;
        let index = pull.index()?;
        let offers = pull.choose(&index, &super::backbone(), &["weather".into()])?;
        let check = |_: &edge_tune::delta::Delta| Ok::<_, String>(());
        offers.into_iter().map(|o| pull.update(o, check, &mut |_, _| ())).collect()
    };
    let options = Options { sources: vec![address.clone()], ..world.options() };
    // The first half is there, and is not fetched again.
    fs::create_dir_all(world.path("store/incoming")).unwrap();
    let part = format!("store/incoming/{}.part", edge_tune::delta::digest(&file));
    fs::write(world.path(&part), &file[..file.len() / 2]).unwrap();
    let outcome = pull(options.clone()).unwrap();
    assert_eq!(super::installed(&outcome).0 as usize, file.len() - file.len() / 2);
    assert!(matches!(pull(options.clone()).unwrap()[..], [Outcome::Current(_)]));

    let nowhere = Options { sources: vec![format!("oci://{registry}/team/none:v1")], ..options };
    assert_eq!(pull(nowhere).unwrap_err().code(), "fetch.not-found");
    // A file that is not what the index says is not uploaded.
    fs::write(site.join(FILE), &file[..file.len() - 1]).unwrap();
    let error = Oci::new(TIMEOUT, false, None).unwrap().push(&site, &address).unwrap_err();
    assert_eq!(error.code(), "fetch.publish");
}

#[test]
fn addresses_of_registries_are_checked() {
    let oci = Oci::new(TIMEOUT, false, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for address in [
        "oci://",
        "oci://h",
        "oci://h/a",
        "oci://h:1/a",
        "ftp://h/a:b",
        "oci://127.0.0.1:1/UPPER:v1",
    ] {
        assert_eq!(oci.push(dir.path(), address).unwrap_err().code(), "fetch.url", "{address}");
    }
}
